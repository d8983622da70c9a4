"""The person's edge: a job file in; a `Job` out, or every mistake in it with its line. Sends and asks nothing.

Names are loaded when they are first asked for, so that importing this costs nothing until a job is read.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrunner.spec.load import load_checks, load_job
    from batchrunner.spec.schema import job_schema, starter_job

__all__ = ["job_schema", "load_checks", "load_job", "starter_job"]

_HOMES = {
    "job_schema": "batchrunner.spec.schema",
    "load_checks": "batchrunner.spec.load",
    "load_job": "batchrunner.spec.load",
    "starter_job": "batchrunner.spec.schema",
}


def __getattr__(name: str) -> object:
    """Import the module that has `name`, once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found
