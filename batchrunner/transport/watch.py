"""The deadlines of one exchange, on one timer that is armed once and looks, when it rings, whether time really passed.

A reply that comes quickly costs one timer; a long stream costs one more every idle time, however many pieces it has.
Source: PROTOCOL 2.6, RELIABILITY section 3 (half-open and slow-drip servers).
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from batchrunner.core.wire import SETTLED_S, Gate

SILENT_S: Final = 60.0
"""A server that has sent nothing for so long is spoken of, whatever the job lets it have."""

Late = Literal["connect", "first_byte", "idle", "drip", "total", "settled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
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
    """What came behind the last one."""


class Watch:
    """Ends the block it guards when a deadline passes: afterwards `late` says which. Other cancellations pass through.

    `sent` is False until a connection stands: as long as it is, no byte of the request has left.
    """

    __slots__ = (
        "_armed_at",
        "_bytes",
        "_cancelling",
        "_due",
        "_handle",
        "_lines",
        "_look_at",
        "_loop",
        "_on_silence",
        "_pace",
        "_phase",
        "_settled",
        "_silent_at",
        "_task",
        "_total_at",
        "_window_at",
        "late",
        "replies",
        "sent",
    )  # fmt: skip

    def __init__(
        self,
        pace: Pace,
        *,
        on_silence: Callable[[float], None] | None = None,
        settled: Callable[[float], bool] | None = None,
    ) -> None:
        """`on_silence` is told, once, the seconds that a request still has when nothing has come for `SILENT_S`.

        `settled` is asked every few seconds of a body in which nothing moves: whether, after so many seconds without
        a byte, what came is a whole reply. Then nothing more is waited for.
        """
        task = asyncio.current_task()
        assert task is not None, "an exchange runs in a task"
        self._pace = pace
        self._task = task
        self._loop = task.get_loop()
        self._cancelling = task.cancelling()
        now = self._loop.time()
        self._phase: Late = "connect"
        self._total_at = now + pace.total_s
        self._due = now + pace.connect_s
        self._on_silence = on_silence
        self._silent_at = self._total_at
        self._settled = settled
        self._look_at = self._total_at
        self._window_at = self._total_at
        self._bytes = 0
        self._lines = False
        self.late: Late | None = None
        self.replies: Replied | None = None
        """Who reads the connection, once there is one."""
        self.sent = False
        self._armed_at = min(self._due, self._total_at)
        self._handle: asyncio.TimerHandle | None = self._loop.call_at(self._armed_at, self._ring)

    def __repr__(self) -> str:
        return f"<Watch {self._phase} sent={self.sent} late={self.late}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.rest()
        if self.late is None:
            return False
        # The same account as asyncio.timeout keeps: somebody else's cancellation in the same moment wins.
        return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    def request_leaves(self) -> None:
        """A connection stands: from now on bytes may have left."""
        self.sent = True
        self._phase = "first_byte"
        self._listen()
        self._expect(self._pace.first_byte_s)

    def head_came(self) -> None:
        """The reply's head is here; from now on pieces have to follow."""
        self._phase = "idle"
        self._listen()
        now = self._loop.time()
        self._window_at = now + self._pace.window_s
        if self._settled is not None:
            self._look_at = max(now + SETTLED_S, min(self._armed_at, now + 2 * SETTLED_S))  # most are over by then
        self._expect(self._pace.idle_s)

    def piece_came(self, size_bytes: int, *, line: bool = False) -> None:
        """A piece of the body; `line` when it holds the end of a line, which is what keep-alives are."""
        self._due = self._loop.time() + self._pace.idle_s
        self._bytes += size_bytes
        self._lines = self._lines or line

    def excuse(self) -> None:
        """It is this side that does not read: of the deadlines only the total goes on counting."""
        now = self._loop.time()
        self._due = now + self._pace.idle_s
        self._window_at = now + self._pace.window_s

    def rest(self) -> None:
        """No deadline any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _expect(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        if self._handle is not None and self._next_at() < self._armed_at:
            self._handle.cancel()
            self._arm()

    def _next_at(self) -> float:
        return min(self._due, self._window_at, self._total_at, self._silent_at, self._look_at)

    def _listen(self) -> None:
        """From now on silence counts."""
        if self._on_silence is not None:
            self._silent_at = self._loop.time() + SILENT_S

    def _notice(self, now: float) -> None:
        """Nothing came for a while: told when it is so, looked for later when something came meanwhile."""
        limit_s = self._pace.idle_s if self._phase == "idle" else self._pace.first_byte_s
        came = self._due - limit_s
        if self._on_silence is not None and now - came >= SILENT_S and self._due > now:
            on_silence, self._on_silence = self._on_silence, None
            self._silent_at = self._total_at
            on_silence(limit_s)
        else:
            self._silent_at = max(came, now - SILENT_S + 1.0) + SILENT_S

    def _arm(self) -> None:
        self._armed_at = self._next_at()
        self._handle = self._loop.call_at(self._armed_at, self._ring)

    def _ring(self) -> None:
        self._handle = None
        # The loop may ring a clock's resolution early.
        now = max(self._loop.time(), self._armed_at)
        if now >= self._silent_at and self._silent_at < self._total_at:
            self._notice(now)
        self.late = "settled" if self._is_settled(now) else self._verdict(now)
        if self.late is not None:
            self._task.cancel()
        else:
            self._arm()

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


UNDER_WAY: ContextVar[Watch] = ContextVar("batchrunner.transport.under_way")
"""The watch of the exchange that this task is in: the connector tells it when the request leaves."""
