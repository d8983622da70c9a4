"""The one way to wait in this room for something that others bring about: a condition that is looked at again.

An event that one waiter clears may be the news of another, or come between a look and the wait for it. Here nothing is
cleared: who waits looks first, sleeps only while the condition does not hold, and looks again after every wake-up.
"""

import asyncio
from collections.abc import Callable


class Condition:
    """Wakes everybody who waits; each one looks at what it waits for. All on the loop's thread, so there is no lock."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], None] = {}
        """In the order in which they came, which is the order in which they are woken."""

    def __repr__(self) -> str:
        return f"<Condition: {len(self._waiters)} waiting>"

    def notify(self) -> None:
        """Something has changed that somebody may wait for. Costs nothing while nobody does."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return as soon as `holds()` is true when it is asked; at once if it is true now."""
        while not holds():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)
