"""Fixtures of several folders, each from a module beside the tests that use it; tiers; examples that CI can repeat."""

import os
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = (
    "tests.manual_edits.cases",
    "tests.support.command_line",
    "tests.support.engine",
    "tests.field.runs",
    "tests.spec.job_files",
    "tests.support.torture",
)

# No example fails because the machine is busy. In CI the same ones each time; everywhere else new ones are looked for.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

SLOW: Final = (
    "cli/",
    "core/test_classify.py::test_anything_has_a_kind",
    "core/test_item_table.py",
    "core/test_json_schema.py::test_it_agrees_with_another_implementation_about_what_fits",
    "core/test_polling.py",
    "core/test_state.py::test_a_live_process_takes_only_steps_of_the_lifecycle_quick_or_not",
    "core/test_state.py::test_many_sends_and_good_answers_at_once_do_what_they_do_one_by_one",
    "crash/",
    "engine/test_beside_others.py",
    "engine/test_calls.py",
    "engine/test_eta.py",
    "engine/test_internal_faults.py::test_the_item_fails_as_internal_is_sent_once_at_most_and_the_others_go_on",
    "engine/test_run_schedule.py",
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
    "engine/test_server_limits.py",
    "evaluation/test_statistics.py",
    "evaluation/test_gsm8k.py",
    "exporters/test_conversations.py",
    "exporters/test_csv.py::test_any_texts_come_back",
    "exporters/test_hostile_runs.py",
    "exporters/test_picture_folders.py",
    "exporters/test_runs.py::test_memory_does_not_grow_with_the_answers",
    "exporters/test_tables_read_back.py",
    "field/",
    "fuzz/",
    "manual_edits/",
    "page/",
    "prompts/test_kept.py",
    "prompts/test_mistakes.py::test_memory_does_not_grow_with_the_source",
    "prompts/test_parquet.py",
    "prompts/test_quick_ways.py",
    "providers/test_any_bytes.py",
    "providers/test_every_cut.py",
    "providers/test_kept_body.py",
    "providers/test_tasks.py",
    "report/test_audit.py",
    "report/test_notify.py",
    "report/test_status_after_end.py",
    "sdk_compat/",
    "report/test_check_process.py",
    "simulator/test_http_server.py",
    "simulator/test_limits.py",
    "simulator/test_world.py::test_whatever_the_body_there_is_a_reply",
    "spec/test_price_tables.py::test_a_plan_of_a_thousand_items_is_within_a_hundredth_of_what_is_then_counted",
    "spec/test_any_text.py",
    "spec/test_examples.py",
    "spec/test_yaml.py::test_a_large_file_states_the_same_with_and_without_libyaml",
    "stores/test_ledger.py::test_512_committers",
    "stores/test_ledger.py::test_a_long_message_is_cut_to_fit_a_record",
    "stores/test_ledger_batches.py",
    "stores/test_ledger_damage.py",
    "stores/test_power_loss.py",
    "stores/test_results.py::test_a_results_file_cut_anywhere",
    "test_architecture.py::test_a_command_loads_only_what_it_needs",
    "test_architecture.py::test_names_of_modules_and_classes_occur_once",
    "test_benchmarks.py",
    "test_documents.py",
    "test_messages.py::test_the_golden_file_has_every_message",
    "test_wheel.py",
    "transport/test_chunks.py",
    "transport/test_coding.py::test_a_bomb_is_made_piece_by_piece",
    "transport/test_faults.py",
    "transport/test_ordinary.py",
    "transport/test_replies.py::test_a_bomb_needs_little_memory",
)
"""Folders, files and tests that `make unit` leaves out: a second of work or more, or new processes."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make unit` does not import the folders and files that it would only leave out."""
    here = Path(__file__).parent
    if "not slow" in config.option.markexpr and collection_path.is_relative_to(here):
        name = collection_path.relative_to(here).as_posix()
        if name in SLOW or f"{name}/" in SLOW:
            return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the slow tier; `real` and `servers` are marked by their own files."""
    here = Path(__file__).parent
    slow = tuple((here / name).as_posix() + "/" * name.endswith("/") for name in SLOW)
    for item in items:
        _, _, test = item.nodeid.partition("::")
        if f"{item.path.as_posix()}::{test}".startswith(slow):
            item.add_marker(pytest.mark.slow)
