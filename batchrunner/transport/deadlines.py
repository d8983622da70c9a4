"""The deadlines of exchanges, on one timer for all that are under way. It looks, when it rings, who is really late.

A reply that comes quickly costs no timer at all; a long stream costs a look every idle time, however many pieces it
has. Half-open connections and servers that drip end here.
"""

import asyncio
import math
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from batchrunner.core.http import SETTLED_S, Gate
from batchrunner.core.values import dataclass

SILENT_S: Final = 60.0
"""A server that has sent nothing for this long is reported, whatever the job's deadlines are."""
_LOOK_S: Final = 1e-5
"""Between two looks at all exchanges, for each of them: a look takes a fraction of that."""

Late = Literal["connect", "first_byte", "idle", "drip", "total", "settled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutPolicy:
    """The deadlines of a kind of exchange, in seconds of the loop's clock."""

    connect_s: float
    first_byte_s: float
    """From the request's leaving to the whole head of the reply."""
    idle_s: float
    """Between two pieces; any byte resets it."""
    total_s: float
    window_s: float
    """Each such time after the head has to bring `least_bytes` or, where lines count, the end of a line."""
    least_bytes: float


async def passed(gate: Gate) -> None:
    """Return when the request may leave; raise what the gate refuses with."""
    is_open: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def decide(refused: BaseException | None) -> None:
        if is_open.done():  # the exchange was cancelled meanwhile
            return
        if refused is None:
            is_open.set_result(None)
        else:
            is_open.set_exception(refused)

    gate(decide)
    await is_open


class Replied(Protocol):
    """Reads the replies of a connection."""

    behind: bytes
    """What came after the last one."""
    came: bool
    """A reply is here as a whole, and is about to be read."""


class DeadlineTimer:
    """One timer for many watches, armed at the earliest of their deadlines. It belongs to the loop it was made on."""

    __slots__ = ("_handle", "loop", "rings_at", "watches")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.watches: set[Deadlines] = set()
        """Those under way."""
        self.rings_at = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<DeadlineTimer of {len(self.watches)} exchanges, {'unarmed' if self._handle is None else 'armed'}>"

    def ring_by(self, at: float) -> None:
        """Ring at that time of the loop's clock, unless it is to ring earlier already."""
        if at < self.rings_at:
            if self._handle is not None:
                self._handle.cancel()
            self.rings_at = at
            self._handle = self.loop.call_at(at, self.ring)

    def ring(self) -> None:
        """Look at every watch, and arm again."""
        # The loop may ring a clock's resolution early.
        now = max(self.loop.time(), self.rings_at) if self._handle is not None else self.loop.time()
        self.close()
        try:
            for deadlines in tuple(self.watches):
                if deadlines.next_at() <= now:
                    deadlines.look(now)
        finally:  # a fault of whoever is asked by one watch is not the others'
            if self.watches:
                # However many deadlines pass one after another, the looks at all stay a small part of the time.
                soonest = now + len(self.watches) * _LOOK_S
                self.ring_by(max(soonest, min(deadlines.next_at() for deadlines in self.watches)))

    def close(self) -> None:
        """No ringing any more, until somebody asks for it."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        self.rings_at = math.inf


class Deadlines:
    """Ends the block it guards when a deadline passes: afterwards `late` says which. Other cancellations pass through.

    `sent` is False until the request may leave on a connection: as long as it is, no byte of the request has left.
    """

    __slots__ = (
        "_bytes",
        "_cancelling",
        "_due",
        "_lines",
        "_look_at",
        "_loop",
        "_on_silence",
        "_pace",
        "_phase",
        "_settled",
        "_shared",
        "_silent_at",
        "_task",
        "_timer",
        "_total_at",
        "_window_at",
        "began",
        "late",
        "refused",
        "replies",
        "sent",
    )  # fmt: skip

    def __init__(
        self,
        pace: TimeoutPolicy,
        *,
        timer: DeadlineTimer | None = None,
        on_silence: Callable[[float], None] | None = None,
        settled: Callable[[float], bool] | None = None,
        connects: bool = True,
    ) -> None:
        """`on_silence` is called once, with the seconds that a request has left, when nothing has come for `SILENT_S`.

        `settled` is asked every few seconds of a body in which nothing moves: whether, after so many seconds without
        a byte, what came is a whole reply. Then nothing more is waited for. Without a `timer` to share, the watch has
        one of its own. `connects` is False where a connection may be at hand: see `connects`.
        """
        task = asyncio.current_task()
        assert task is not None, "an exchange runs in a task"
        self._shared = timer is not None
        self._timer = timer = timer or DeadlineTimer()
        self._pace = pace
        self._task = task
        self._loop = timer.loop
        self._cancelling = task.cancelling()
        self.began = now = self._loop.time()
        """On the loop's clock."""
        self._phase: Late = "connect"
        self._due = at = self._total_at = self._silent_at = self._window_at = self._look_at = now + pace.total_s
        if connects and pace.connect_s < pace.total_s:
            self._due = at = now + pace.connect_s
        self._on_silence = on_silence
        self._settled = settled
        self._bytes = 0
        self._lines = False
        self.late: Late | None = None
        self.replies: Replied | None = None
        """Who reads the connection, once there is one."""
        self.refused: BaseException | None = None
        """What the gate refused the request with."""
        self.sent = False
        timer.watches.add(self)
        if at < timer.rings_at:
            timer.ring_by(at)

    def __repr__(self) -> str:
        return f"<Deadlines {self._phase} sent={self.sent} late={self.late}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.disarm()
        if self.late is None:
            return False
        # The same account as asyncio.timeout keeps: somebody else's cancellation in the same moment wins.
        return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    def connects(self) -> None:
        """There was no connection at hand: one has to stand in time."""
        self._due = min(self._loop.time() + self._pace.connect_s, self._total_at)
        self._timer.ring_by(self._due)

    def held_back(self) -> None:
        """A connection stands, and the request waits for its gate: only the total counts meanwhile."""
        self._due = self._total_at

    def request_leaves(self) -> None:
        """A connection stands: from now on bytes may have left."""
        now = self._loop.time()
        self.sent = True
        self._phase = "first_byte"
        at = self._due = now + self._pace.first_byte_s
        if self._on_silence is not None:
            self._silent_at = now + SILENT_S
            at = min(at, self._silent_at)
        if at < self._timer.rings_at:
            self._timer.ring_by(at)

    def part_left(self) -> None:
        """A part of a large request left: the reply is waited for from here on, not from its beginning."""
        if self._phase == "first_byte":
            self._due = self._loop.time() + self._pace.first_byte_s

    def head_came(self, settled: Callable[[float], bool] | None = None) -> None:
        """The reply's head is here; from now on pieces have to follow. `settled`: as for the watch itself."""
        self._settled = self._settled or settled
        now = self._loop.time()
        pace = self._pace
        self._phase = "idle"
        self._due = now + pace.idle_s
        self._window_at = now + pace.window_s
        if self._settled is not None:
            self._look_at = now + SETTLED_S
        if self._on_silence is not None:
            self._silent_at = now + SILENT_S
        self._timer.ring_by(self.next_at())

    def piece_came(self, size_bytes: int, *, line: bool = False) -> None:
        """A piece of the body; `line` when it holds the end of a line, which is what keep-alives are."""
        self._due = self._loop.time() + self._pace.idle_s
        self._bytes += size_bytes
        self._lines = self._lines or line

    def pause(self) -> None:
        """Reading is paused on this side: only the total deadline keeps running."""
        now = self._loop.time()
        self._due = now + self._pace.idle_s
        self._window_at = now + self._pace.window_s

    def disarm(self) -> None:
        """No deadline any more."""
        self._timer.watches.discard(self)
        if not self._shared:
            self._timer.close()

    def next_at(self) -> float:
        """When there may be something to say, at the earliest."""
        return min(self._due, self._window_at, self._total_at, self._silent_at, self._look_at)

    def look(self, now: float) -> None:
        """Tell of a silence, and end the guarded block if it is late."""
        if self.replies is not None and self.replies.came:
            return  # a paid answer that came in time waits for its turn
        if now >= self._silent_at and self._silent_at < self._total_at:
            self._notice(now)
        self.late = "settled" if self._is_settled(now) else self._verdict(now)
        if self.late is not None:
            self._timer.watches.discard(self)
            self._task.cancel()

    def _notice(self, now: float) -> None:
        """Nothing came for a while: report it, or look again later if something came meanwhile."""
        limit_s = self._pace.idle_s if self._phase == "idle" else self._pace.first_byte_s
        came = self._due - limit_s
        if self._on_silence is not None and now - came >= SILENT_S and self._due > now:
            on_silence, self._on_silence = self._on_silence, None
            self._silent_at = self._total_at
            on_silence(limit_s)
        else:
            self._silent_at = max(came, now - SILENT_S + 1.0) + SILENT_S

    def _is_settled(self, now: float) -> bool:
        if self._settled is None or now < self._look_at:
            return False
        self._look_at = now + SETTLED_S
        silent_s = now - (self._due - self._pace.idle_s)
        return silent_s >= SETTLED_S and self._settled(silent_s)

    def _verdict(self, now: float) -> Late | None:
        if now >= self._total_at:
            return "total"
        if now >= self._due:
            return self._phase
        if now >= self._window_at:
            if not self._lines and self._bytes < self._pace.least_bytes:
                return "drip"
            self._window_at = now + self._pace.window_s
            self._bytes, self._lines = 0, False
        return None


UNDER_WAY: ContextVar[Deadlines] = ContextVar("batchrunner.transport.under_way")
"""The watch of the exchange that this task is in: the connector calls it when the request leaves."""
