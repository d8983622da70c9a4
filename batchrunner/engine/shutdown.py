"""How a run is told to end: first politely, then at once.

The first request drains: no new intent is written, sleepers wake and step out, what is in flight is received and
recorded within a grace. The second one cancels. Either way the ledger is closed and everything can be resumed.
A pause (the window closed, the deadline came) drains, too, and waits for what is in flight as long as that takes.
"""

import asyncio
from typing import Final

from batchrunner.core.errors import BatchrunnerError

GRACE_S: Final = 60.0
"""How long answers that are already paid for are waited for."""


class SteppedOutError(Exception):
    """An item leaves its lane unchanged: the run drains, or the lane closed or parked while it waited."""


class Shutdown:
    """Shared by everyone who waits; `requests` counts how often the end was asked for."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.requests = 0
        self.signal_number: int | None = None
        self.paused: str | None = None
        """Why the run ends early by the job's own wish."""
        self._root: asyncio.Task[object] | None = None
        self._grace: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Shutdown: {'draining' if self.draining.is_set() else 'not asked'}, {self.requests} requests>"

    def watch_over(self, root: "asyncio.Task[object]") -> None:
        """The task that a second request, or the end of the grace, cancels."""
        self._root = root

    def request(self, signal_number: int | None = None) -> None:
        """Ask for the end; called from a signal's callback on the loop."""
        self.requests += 1
        if self.requests == 1:
            self.signal_number = signal_number
            self.draining.set()
            self._grace = asyncio.get_running_loop().call_later(GRACE_S, self._cancel)
        else:
            self._cancel()

    def pause(self, reason: str) -> None:
        """The job's own wish to end for now. What is in flight has its own deadlines and gets no other."""
        if not self.draining.is_set():
            self.paused = reason
            self.draining.set()

    def waiting_for(self, requests: int) -> str:
        """What a person reads while the answers that are under way are awaited."""
        awaited = f"no more is sent; {requests} {'request is' if requests == 1 else 'requests are'} awaited"
        if self.paused is not None:
            return f"{self.paused}: {awaited}"
        return f"{awaited} for up to {GRACE_S:g} s; Ctrl-C or SIGTERM again stops at once"

    def over(self) -> None:
        """The run has ended by itself: nothing is left to cancel."""
        self._root = None
        if self._grace is not None:
            self._grace.cancel()

    def _cancel(self) -> None:
        if self._root is not None:
            self._root.cancel()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop's clock.

        Raises:
            SteppedOutError: the run drains.
        """
        if not self.draining.is_set() and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self.draining.wait()
            except TimeoutError:
                return
        if self.draining.is_set():
            raise SteppedOutError


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to tell of a group: this program's own error when there is one."""
    flat = [first_of(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((error for error in flat if isinstance(error, BatchrunnerError)), flat[0])
