"""Coroutines run on a fresh loop in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from batchrunner.simulator.virtual_time import VirtualTimeLoop

T = TypeVar("T")


def run_virtual(main: Coroutine[object, object, T] | Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine, or what a function makes, on a fresh virtual-time loop, and close it."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main() if callable(main) else main)
