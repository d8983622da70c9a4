"""The loop of a rehearsal: virtual time with as few steps a turn as asyncio's contracts allow.

A rehearsal waits for nothing but timers, and a turn of the stock loop costs more than what is done in it: it asks the
system for events, compares timers in Python, and looks for each call whether it is being debugged. This one keeps its
timers as tuples in a heap and goes from one to the next; those of the same instant fire in the order in which they were
set. While anything could come from outside (a socket, a thread), and where nothing is left to wait for, a turn is
asyncio's own. Leans on three names of asyncio's base loop (`_run_once`, `_ready`, `_stopping`), as all loops in virtual
time do; a test compares its order with the stock loop's.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Final, TypeVarTuple

from batchrunner.simulator.virtual_time import OneThreadLoop

if TYPE_CHECKING:
    from selectors import SelectorKey

Ts = TypeVarTuple("Ts")

_ASKED_EVERY: Final = 1000
"""Turns between two looks at the system's events, where only a signal's wake-up can be among them."""
_FEW_CANCELLED: Final = 100


class _Handle(asyncio.TimerHandle):
    """A call in line, or a timer; one class, because a timer that is due is a call in line."""

    __slots__ = ("args", "call", "context", "waits")

    def __init__(
        self, when: float, call: Callable[..., object], args: tuple[object, ...], context: Context | None
    ) -> None:
        # Not the base's, which asks the loop twice whether it is debugged
        self._when = when
        self._cancelled = False
        self.call: Callable[..., object] | None = call
        self.args = args
        self.context = context if context is not None else copy_context()
        self.waits: LightLoop | None = None
        """The loop in whose heap it is."""

    def __repr__(self) -> str:
        return f"<_Handle at {self._when:.3f} s {self.call!r}>"

    def when(self) -> float:
        """As the base class."""
        return self._when

    def cancel(self) -> None:
        """As the base class."""
        if not self._cancelled:
            self._cancelled = True
            self.call, self.args = None, ()
            if self.waits is not None:
                self.waits.cancelled_timers += 1


class LightLoop(OneThreadLoop):
    """For rehearsals: the same seed gives the same trace."""

    _ready: deque[asyncio.Handle]
    _stopping: bool
    cancelled_timers = 0
    """Of those in the heap."""

    if TYPE_CHECKING:  # of asyncio's base loop

        def _process_events(self, events: list[tuple[SelectorKey, int]]) -> None: ...

    def __init__(self, rng: random.Random) -> None:
        self._timers: list[tuple[float, int, _Handle]] = []
        self._set = 0
        self._turns = 0
        super().__init__(rng)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As the base class."""
        handle = _Handle(0.0, callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As the base class."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As the base class."""
        handle = _Handle(when, callback, args, context)
        handle.waits = self
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, handle))
        return handle

    def _run_once(self) -> None:
        """Turns, until it is to stop: what is in line and what is due, or a jump to what is due next."""
        while True:
            self._turn()
            if self._stopping:
                return

    def _turn(self) -> None:
        ready, timers, jumper = self._ready, self._timers, self._jumper
        if self.cancelled_timers:
            self._forget_cancelled()
        self._turns += 1
        is_held = self._under_way or jumper.sockets > jumper.own_sockets
        if is_held or self._turns >= _ASKED_EVERY or not (ready or timers or self._stopping):
            self._ask(timers[0][0] if timers else None)
        elif not ready and not self._stopping and timers[0][0] > self._now:
            self._now = timers[0][0]
        now = self._now
        while timers and timers[0][0] <= now:
            handle = heapq.heappop(timers)[2]
            handle.waits = None
            ready.append(handle)
        for _ in range(len(ready)):
            following = ready.popleft()
            if type(following) is not _Handle:
                following._run()  # noqa: SLF001 - a socket's, made by the base class; it says so to loops alone
                continue
            call = following.call
            if call is None:
                continue
            try:
                following.context.run(call, *following.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as the base class: reported to the loop's exception handler
                self.call_exception_handler(
                    {"message": f"Exception in {call!r}", "exception": error, "handle": following}
                )

    def _ask(self, due: float | None) -> None:
        """As a turn of the base class asks the system for events, and waits for them by the rule of virtual time."""
        self._turns = 0
        timeout = 0.0 if self._ready or self._stopping else None if due is None else max(0.0, due - self._now)
        self._process_events(self._jumper.select(timeout))

    def _forget_cancelled(self) -> None:
        """Those that would be next, and all of them where they are the most."""
        timers = self._timers
        if self.cancelled_timers > _FEW_CANCELLED and self.cancelled_timers > len(timers) // 2:
            timers[:] = [entry for entry in timers if entry[2].call is not None]
            heapq.heapify(timers)
            self.cancelled_timers = 0
        while timers and timers[0][2].call is None:
            heapq.heappop(timers)[2].waits = None
            self.cancelled_timers -= 1
