"""Fixtures of the rooms' tests, each from a module beside the tests that use it; examples that CI can repeat."""

import os

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
