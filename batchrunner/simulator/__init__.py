"""A simulated provider: a pure, seeded world (`world`), reached in the process or over HTTP.

The world answers a call with a script of bytes, waits and breaks, which `in_process` and `http_server` play. What real
servers accept and say: docs/providers/README.md. `run_server` is looked up at first use, so that a run in process never
loads the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrunner.simulator.http_server import run_server

__all__ = ["run_server"]

if not TYPE_CHECKING:  # a checker shall see the import above only

    def __getattr__(name: str) -> object:
        """`run_server`, imported when it is first asked for."""
        if name not in __all__:
            raise AttributeError(f"module 'batchrunner.simulator' has no attribute {name!r}")
        return getattr(import_module("batchrunner.simulator.http_server"), name)
