"""Fixtures of several folders, each from a module beside the tests that use it; tiers; examples that CI can repeat."""

import os
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

pytest_plugins = (
    "tests.manual_edits.cases",
    "tests.support.command_line",
    "tests.support.engine",
    "tests.field.runs",
    "tests.spec.job_files",
    "tests.support.torture",
)

# In CI the same examples each time, on a machine that may be slow; everywhere else new ones are looked for.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

SLOW: Final = (
    "cli/",
    "core/test_item_table.py",
    "core/test_polling.py",
    "crash/",
    "engine/test_beside_others.py",
    "engine/test_calls.py",
    "engine/test_internal_faults.py::test_the_item_fails_as_internal_is_sent_once_at_most_and_the_others_go_on",
    "engine/test_night.py",
    "engine/test_on_the_way.py",
    "engine/test_polling.py",
    "engine/test_reformat.py",
    "engine/test_refusals.py",
    "engine/test_rehearse.py",
    "engine/test_retry_budget.py",
    "engine/test_schema.py::test_all_questions_fit_their_schema_though_every_fifth_first_answer_breaks_it",
    "engine/test_soak.py",
    "engine/test_tasks.py",
    "engine/test_vocabulary.py",
    "engine/test_waiting.py",
    "engine/test_walls.py",
    "exporters/test_runs.py::test_memory_does_not_grow_with_the_answers",
    "field/",
    "fuzz/",
    "manual_edits/",
    "prompts/test_kept.py",
    "prompts/test_quick_ways.py",
    "providers/test_every_cut.py",
    "report/test_audit.py",
    "report/test_notify.py",
    "sdk_compat/",
    "simulator/test_http_door.py",
    "simulator/test_limits.py",
    "spec/test_any_text.py",
    "spec/test_examples.py",
    "stores/test_power_loss.py",
    "test_architecture.py::test_a_command_loads_only_what_it_needs",
    "test_benchmarks.py",
    "test_documents.py",
    "test_wheel.py",
    "transport/test_chunks.py",
    "transport/test_faults.py",
    "transport/test_ordinary.py",
)
"""Folders, files and tests that `make unit` leaves out: a second of work or more, or new processes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the slow tier; `real` and `servers` are marked by their own files."""
    here = Path(__file__).parent
    slow = tuple((here / name).as_posix() + "/" * name.endswith("/") for name in SLOW)
    for item in items:
        _, _, test = item.nodeid.partition("::")
        if f"{item.path.as_posix()}::{test}".startswith(slow):
            item.add_marker(pytest.mark.slow)
