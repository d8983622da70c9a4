"""How a run is ended: first gently, then at once.

The first request drains: no new intent is written, sleepers wake and step out, what is in flight is received and
recorded within a grace. The second one cancels. Either way the ledger is closed and everything can be resumed.
A pause (the window closed, the deadline came, the disk refused a file) drains, too, and waits for what is in flight as
long as that takes: it is paid for, and most of it can be recorded where something else could not.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final
from weakref import WeakKeyDictionary

from batchrunner.core.errors import BatchrunnerError, RowSetAsideError, StoreBrokenError

GRACE_S: Final = 60.0
"""How long answers that are already paid for are waited for."""
_HANGUP: Final[int | None] = getattr(signal, "SIGHUP", None)
"""The terminal went away; not every system has it."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class SteppedOutError(Exception):
    """An item leaves its lane unchanged: the run drains, or the lane closed or parked while it waited."""


class Shutdown:
    """Shared by everyone who waits; `requests` counts how often the end was asked for."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.drains = False
        """The same as a plain value, for whoever asks before each send."""
        self.requests = 0
        self.signal_number: int | None = None
        self.paused: str | None = None
        """Why the run ends early by the job's own wish."""
        self.broken: StoreBrokenError | None = None
        """What the disk refused first: nothing more may be sent."""
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
            self._drain()
            self._grace = asyncio.get_running_loop().call_later(GRACE_S, self._cancel)
        else:
            self._cancel()

    def pause(self, reason: str) -> None:
        """The job's own wish to end for now. What is in flight has its own deadlines and gets no other."""
        if not self.draining.is_set():
            self.paused = reason
            self._drain()

    def disk_refused(self, error: StoreBrokenError) -> None:
        """A file could not be written. The run ends with this error once what is in flight has been received."""
        if self.broken is None or isinstance(error, RowSetAsideError):  # which says more of the same
            self.broken = error
        self.pause("a file could not be written")

    def waiting_for(self, requests: int) -> str:
        """What a person reads while the answers that are under way are awaited."""
        awaited = f"sending stopped; waiting for {requests:,} {'request' if requests == 1 else 'requests'} in flight"
        if self.paused is not None:
            return f"{self.paused}: {awaited}"
        return f"{awaited} for up to {GRACE_S:g} s; Ctrl-C or SIGTERM again to stop at once"

    def over(self) -> None:
        """The run has ended by itself: nothing is left to cancel."""
        self._root = None
        if self._grace is not None:
            self._grace.cancel()

    def _drain(self) -> None:
        self.drains = True
        self.draining.set()

    def _cancel(self) -> None:
        if self._root is not None:
            self._root.cancel()

    async def sleep(self, seconds: float, *, ends: list[float] | None = None) -> None:
        """Sleep on the running loop's clock; meanwhile the end of it is one of `ends`.

        Raises:
            SteppedOutError: the run drains.
        """
        if not self.draining.is_set() and seconds > 0:
            listed = ends if ends is not None else []
            listed.append(end := asyncio.get_running_loop().time() + seconds)
            try:
                async with asyncio.timeout_at(end):
                    await self.draining.wait()
            except TimeoutError:
                return
            finally:
                listed.remove(end)
        if self.draining.is_set():
            raise SteppedOutError


_LISTENERS: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Shutdown]] = WeakKeyDictionary()
"""A loop has one handler a signal, and several runs may share a loop: one signal reaches them all."""
_BEFORE: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
"""The process's own handlers, by signal: a loop that gives its own up would leave the system's in their place."""


@contextmanager
def listening(shutdown: Shutdown) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP ask this run to end, on the running loop; afterwards they do what they did before.

    SIGHUP that was ignored (nohup) stays ignored.
    """
    loop = asyncio.get_running_loop()
    listeners = _LISTENERS.setdefault(loop, [])
    listeners.append(shutdown)

    def on_signal(number: int) -> None:
        for each in tuple(listeners):
            # A closing terminal sends SIGHUP twice, from the shell and from the system: no second request to end.
            if number != _HANGUP or not each.requests:
                each.request(number)

    if len(listeners) == 1:
        for number in _signals_to_handle():
            _BEFORE[number] = signal.getsignal(number)
            loop.add_signal_handler(number, on_signal, int(number))
    try:
        yield
    finally:
        listeners.remove(shutdown)
        if not listeners:
            for number in _signals_to_handle():
                loop.remove_signal_handler(number)
                signal.signal(number, _BEFORE.pop(number, None) or signal.SIG_DFL)
            if _HANGUP is not None and shutdown.signal_number == _HANGUP:
                signal.signal(_HANGUP, signal.SIG_IGN)  # the second of a closing terminal must not cut off the end


def _signals_to_handle() -> tuple[int, ...]:
    ignored = _HANGUP is None or signal.getsignal(_HANGUP) is signal.SIG_IGN
    return _SIGNALS if _HANGUP is None or ignored else (*_SIGNALS, _HANGUP)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to report of an exception group: this program's own error if there is one."""
    flat = [first_of(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((error for error in flat if isinstance(error, BatchrunnerError)), flat[0])
