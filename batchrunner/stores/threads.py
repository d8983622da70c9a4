"""Blocking steps in threads of their own.

Not in the loop's shared ones: six hung look-ups there delayed a commit by two seconds. Refuses to leave a step behind:
a cancelled caller still waits for the step that has begun.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_NICEST: Final = 19
_NICER_BY: Final = 5
"""Than the process: a third of the share of a core that a thread has which is not lowered."""


class Threads:
    """A few threads for one purpose; they start with the first step."""

    def __init__(self, name: str, *, count: int, yielding: bool = False) -> None:
        """`yielding`: the loop's thread comes first where both want the same core, for steps that compute."""
        self._pool = ThreadPoolExecutor(
            max_workers=count, thread_name_prefix=name, initializer=_yield_to_others if yielding else None
        )

    async def run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the step returns or raises."""
        flying = asyncio.get_running_loop().run_in_executor(self._pool, lambda: step(*args, **kwargs))
        try:
            return await asyncio.shield(flying)
        except asyncio.CancelledError:
            while not flying.done():
                with suppress(asyncio.CancelledError):  # a second Ctrl-C does not stop a thread either
                    await asyncio.wait({flying})
            flying.exception()  # retrieved, so that asyncio does not log it again: the caller is gone
            raise

    def close(self) -> None:
        """No further steps; returns at once."""
        self._pool.shutdown(wait=False)


def _yield_to_others() -> None:
    """Give this thread a lower priority. Only Linux knows one of a thread; elsewhere it would be the process's."""
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, min(_NICEST, os.getpriority(os.PRIO_PROCESS, thread) + _NICER_BY))


class CoalescedCall:
    """A step that serves everyone who asked before it began: one fsync of a folder for many new files in it."""

    def __init__(self, step: Callable[[], None], threads: Threads) -> None:
        self._step = step
        self._threads = threads
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def done(self) -> None:
        """Return when a step that began after this call has ended; raises what it raised."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._round(self._running))
            self._next.add_done_callback(_consume_exception)  # those who asked may all have been cancelled
        await asyncio.shield(self._next)

    async def _round(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        await self._threads.run(self._step)


def _consume_exception(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()
