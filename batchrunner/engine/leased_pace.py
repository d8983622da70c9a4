"""A lane's pace where other processes use the same account: what may be sent is leased from a coordinator.

`LeasedPace` takes the place of the lane's own buckets: it has the moments that were granted, of which each is worth one
request and expires. `Leasing` asks for more while a lane has something to send, says what became of the others, and
hands on what the coordinator says of concurrency, parks and the budget. Without an answer the lanes use up what they
have, and wait.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from batchrunner.core.budget import Amounts
from batchrunner.core.coordination_messages import Granted, LaneParked, Lease, Spent
from batchrunner.core.error_policy import POLICY, Lesson
from batchrunner.core.errors import BatchrunnerError
from batchrunner.core.job import Limits
from batchrunner.core.lifecycle import Park
from batchrunner.core.outcome import Problem, SendOutcome
from batchrunner.core.values import dataclass

if TYPE_CHECKING:
    from batchrunner.engine.lanes import Lane
    from batchrunner.engine.runner import Runner

Ask = Callable[[Lease], Awaitable[Granted]]
_SOON_S: Final = 0.5
"""Requests are asked for so far ahead."""
_SHORTEST_S: Final = 0.02
_IDLE_S: Final = 0.5
"""A lane with nothing to send, or with all that it needs, still says how many are in flight."""
_TRIES_S: Final = 0.25
"""Between two tries to reach a coordinator that does not answer."""
_TOKENS_A_REQUEST: Final = 256
"""Until prompts were seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What a run works with that has a shard from a coordinator."""

    ask: Ask
    worker: str
    """The name that the coordinator knows."""
    may_send: Callable[[], bool]
    """Whether the shard is still this process's; asked between each intent and its request."""
    begins: Callable[["Runner"], None]
    """Called with the run before it begins."""
    limits: Limits
    """Of the whole job."""


@dataclass(slots=True)
class _Moment:
    at: float
    expires: float
    is_told: bool = False
    """It was told as used before its request turned out not to leave."""


class LeasedPace:
    """The requests that a lane was granted. Implements `core.ports.LanePace`; times are monotonic."""

    def __init__(self, limits: Limits) -> None:
        """`limits` are those of the whole job."""
        per_day = limits.requests_per_day
        self.counts_tokens = limits.tokens_per_minute is not None
        self.wakes = asyncio.Event()
        """More is needed."""
        self.is_hungry = False
        self.parked: LaneParked | None = None
        """To be told."""
        self.heard = 0
        """The number of the last reply, to be told."""
        self.used = self.unused = self.accepted = self.refused = self.failed = 0
        self.tokens = 0.0
        """Tokens that were counted since the last lease, less what came with the requests that left."""
        self._tokens_each = 0.0
        self._tokens_seen, self._requests_seen = 0.0, 0
        self._per_day, self._day_left = per_day, per_day
        self._moments: deque[_Moment] = deque()
        self._few = 0
        self._taken: deque[float] = deque(maxlen=1000)

    def __repr__(self) -> str:
        return f"<LeasedPace: {len(self._moments)} granted, {self.used} used>"

    @property
    def day_limit(self) -> tuple[int, int] | None:
        """As of a lane."""
        return None if self._per_day is None else (self._per_day, self._day_left or 0)

    @property
    def tokens_each(self) -> float:
        """Tokens of a request, as far as is known."""
        return self._tokens_seen / self._requests_seen if self._requests_seen else _TOKENS_A_REQUEST

    def wait_s(self, now: float, amount: float = 1.0) -> float | None:
        """0: one may leave now. None: not before more is granted, which is asked for."""
        moments = self._moments
        while moments and moments[0].expires < now:
            self.unused += not moments.popleft().is_told
        if moments:
            return max(0.0, moments[0].at - now)
        self.is_hungry = amount > 0
        self.wakes.set()
        return None

    def take(self, now: float, amount: float = 1.0) -> None:
        """A request leaves; a negative amount: one has not left after all."""
        if amount < 0:
            is_told = not self.used
            self.used -= not is_told
            self._moments.appendleft(_Moment(now, now + _SOON_S, is_told=is_told))
            return
        if self._moments:
            self.used += not self._moments.popleft().is_told
            self.tokens -= self._tokens_each
        self._taken.append(now)
        if len(self._moments) <= self._few:
            self.wakes.set()

    def count_tokens(self, tokens: int) -> None:
        """A request is counted as so many tokens, or differs by so many from what it was counted as."""
        self.tokens += tokens
        self._tokens_seen += tokens

    def record(self, outcome: SendOutcome) -> None:
        """What came of a send."""
        self._requests_seen += 1
        lesson = POLICY[outcome.kind].lesson if isinstance(outcome, Problem) else Lesson.ACCEPTED
        self.accepted += lesson in {Lesson.ACCEPTED, Lesson.NONE}
        self.refused += lesson is Lesson.REFUSED
        self.failed += lesson is Lesson.FAILED

    def parks(self, park: Park) -> None:
        """The lane waits: so will the others."""
        self.parked = LaneParked(reason=park.reason, kind=park.kind, until=park.until)
        self.wakes.set()

    def wanted(self, now: float, *, free: int, waits: bool, left: int | None = None) -> int:
        """Requests that could leave soon; `left`: no more than so many come, and a grant too many is lost to others."""
        while self._taken and self._taken[0] < now - _SOON_S:
            self._taken.popleft()
        hungry, self.is_hungry = self.is_hungry or waits, False
        likely = len(self._taken) + (max(free, 1) if hungry else 0)
        return max(0, (likely if left is None else min(likely, left)) - len(self._moments))

    def gives_back(self) -> None:
        """No request leaves any more: what is left of the grants is told as unused."""
        self.unused += sum(not moment.is_told for moment in self._moments)
        self._moments.clear()

    def granted(self, granted: Granted, now: float) -> None:
        """The reply to a lease, read now."""
        moments, first = self._moments, now + granted.first_s
        is_before = granted.requests and moments and moments[-1].at > first
        for place in range(granted.requests):
            at = first + place * granted.every_s
            moments.append(_Moment(at, at + granted.valid_s))
        if is_before:  # another worker has given them back
            self._moments = deque(sorted(moments, key=lambda moment: moment.at))
        if granted.requests:
            self._tokens_each = granted.tokens / granted.requests
            self._few = granted.requests // 2
        self._day_left = granted.day_left
        self.heard = granted.number


class Leasing:
    """The leases of a run's lanes. `keep` for as long as the run goes."""

    def __init__(self, runner: "Runner", seat: Seat) -> None:
        self._runner, self._ask, self._worker = runner, seat.ask, seat.worker
        self._is_away = False

    def __repr__(self) -> str:
        return f"<Leasing for {self._worker}>"

    async def keep(self) -> None:
        """Keep all lanes in leases, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for lane in self._runner.lanes:
                assert isinstance(lane.leased, LeasedPace), "the lanes of this run are leased"
                group.create_task(self._keep(lane, lane.leased))

    async def end(self) -> None:
        """Tell what became of the last grants, so that the others have what is left of them."""
        for lane in self._runner.lanes:
            assert isinstance(lane.leased, LeasedPace), "the lanes of this run are leased"
            lane.leased.gives_back()
            with suppress(BatchrunnerError):
                await self._ask(self._request(lane, lane.leased, self._runner.ports.clock.monotonic(), ends=True))

    async def _keep(self, lane: "Lane", pace: LeasedPace) -> None:
        clock = self._runner.ports.clock
        while True:
            pace.wakes.clear()
            told = self._request(lane, pace, clock.monotonic())
            try:
                granted = await self._ask(told)
            except BatchrunnerError as error:
                self._restore(pace, told)
                if not self._is_away:
                    self._runner.say(str(error))
                self._is_away = True
                await asyncio.sleep(_TRIES_S)
                continue
            self._is_away = False
            pace.granted(granted, clock.monotonic())
            lane.limiter.limit = granted.concurrency
            if told.spent is not None and granted.budget_left is not None:
                self._runner.budget_guard.leased(told.spent, granted.budget_left)
            if granted.stop == "budget":
                self._runner.budget_guard.used_up()
            lane.wake_waiters()
            await asyncio.sleep(_SHORTEST_S if granted.requests else max(_SHORTEST_S, granted.again_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_S):
                    await pace.wakes.wait()

    def _request(self, lane: "Lane", pace: LeasedPace, now: float, *, ends: bool = False) -> Lease:
        pace.wait_s(now, 0.0)  # what has expired is told
        want = 0
        if lane.closed is None and not lane.paused and not ends:
            queue = self._runner.queues[lane.model]
            left = queue.waiting if queue.exhausted and not lane.retries_queued else None
            want = pace.wanted(now, free=lane.limit - lane.in_flight, waits=lane.waits, left=left)
        guard = self._runner.budget_guard
        told = Lease(
            worker=self._worker,
            lane=f"{lane.account} {lane.model}",
            want=want,
            tokens=round(want * pace.tokens_each) if lane.counts_tokens else 0,
            used=pace.used,
            unused=pace.unused,
            accepted=pace.accepted,
            refused=pace.refused,
            failed=pace.failed,
            tokens_corrected=round(pace.tokens) if lane.counts_tokens else 0,
            in_flight=lane.in_flight,
            parked=pace.parked,
            spent=_amounts(guard.spent) if guard.counts else None,
            set_aside=_amounts(guard.set_aside) if guard.counts else None,
            need=_amounts(guard.need) if guard.counts and guard.need is not None else None,
            heard=pace.heard,
        )
        pace.used = pace.unused = pace.accepted = pace.refused = pace.failed = 0
        pace.tokens, pace.parked = 0.0, None
        return told

    @staticmethod
    def _restore(pace: LeasedPace, told: Lease) -> None:
        """Nobody has heard it: it is told again."""
        pace.used += told.used
        pace.unused += told.unused
        pace.accepted += told.accepted
        pace.refused += told.refused
        pace.failed += told.failed
        pace.tokens += told.tokens_corrected
        pace.parked = pace.parked or told.parked
        pace.is_hungry = pace.is_hungry or told.want > 0


@asynccontextmanager
async def leased(runner: "Runner", seat: Seat | None) -> AsyncIterator[None]:
    """Leases for as long as a run goes, where a coordinator has the limits."""
    if seat is None:
        yield
        return
    seat.begins(runner)
    leases = Leasing(runner, seat)
    leasing = asyncio.create_task(leases.keep())
    leasing.add_done_callback(lambda task: _watch_leases(runner, task))
    try:
        yield
    finally:
        leasing.cancel()
        await asyncio.gather(leasing, return_exceptions=True)
        await leases.end()


def _watch_leases(runner: "Runner", task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        runner.shutdown.pause(f"internal error while asking the coordinator: {error!r}")


def _amounts(amounts: Amounts) -> Spent:
    return Spent(calls=amounts.calls, tokens=amounts.tokens, points=amounts.points, money=amounts.money)
