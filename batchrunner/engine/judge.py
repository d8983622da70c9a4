"""What a problem does to a lane: pause, park, close, or nothing. The table says what, this file does it.

A refusal is no failure: quota, keys, bills and outages stop lanes, never items. Every park is in the ledger, with its
reason and its end, so that a later process knows it.
"""

import re
from dataclasses import dataclass
from typing import Final

from batchrunner.core.job import Job
from batchrunner.core.outcome import Hints, Problem, ProblemKind
from batchrunner.core.pacing import PROBE_CAP_S, backoff_s, next_quota_probe
from batchrunner.core.ports import Clock
from batchrunner.core.rules import RULES, Then
from batchrunner.engine.lane_settings import Closed
from batchrunner.engine.lanes import Lane, LaneSet
from batchrunner.engine.record import Book
from batchrunner.engine.work_queue import WorkQueue

_THROTTLE_IS_QUOTA_AFTER_S: Final = 15 * 60.0
_NARROW: Final = 4
_SPARE_REFUSALS: Final = 4
_THROTTLE_FIRST_S: Final = 5.0
_THROTTLE_CAP_S: Final = 300.0
_OUTAGE_FIRST_S: Final = 15.0
_SUSPENDED_PROBES: Final = 2
_OUTAGES: Final = frozenset(
    {ProblemKind.CONNECT, ProblemKind.SERVER_ERROR, ProblemKind.TIMEOUT, ProblemKind.RESET, ProblemKind.EMPTY_RESPONSE}
)
_QUOTAS: Final = frozenset({ProblemKind.QUOTA_MODEL, ProblemKind.QUOTA_ACCOUNT})
REASONS: Final[dict[ProblemKind, str]] = {
    ProblemKind.QUOTA_MODEL: "daily quota of the model",
    ProblemKind.QUOTA_ACCOUNT: "quota of the account",
    ProblemKind.MODEL_SUSPENDED: "the model is suspended",
    ProblemKind.AUTH: "the key was refused",
    ProblemKind.BILLING: "the account is unpaid",
    ProblemKind.THROTTLE: "throttled",
    ProblemKind.OVERLOADED: "the server is overloaded",
    ProblemKind.CONNECT: "the server cannot be reached",
}


@dataclass(slots=True, kw_only=True)
class Judge:
    """Hears every problem of a send."""

    job: Job
    lanes: LaneSet
    book: Book
    clock: Clock
    shanghai: bool
    """Daily quotas turn at Shanghai's midnight."""

    async def hear(self, lane: Lane, queue: WorkQueue, problem: Problem) -> bool:
        """Act on the lane; True when it does not send now, so that the item goes back to its queue."""
        match RULES[problem.kind].then:
            case Then.STOP_ACCOUNT:
                await self._stop_account(lane, problem)
                return True
            case Then.PARK_ACCOUNT:
                for sibling in self.lanes.of_account(lane.account):
                    await self._park_quota(sibling, problem)
                return True
            case Then.PARK_LANE:
                if problem.kind is ProblemKind.MODEL_SUSPENDED and lane.probes >= _SUSPENDED_PROBES:
                    queue.rejected = problem
                await self._park_quota(lane, problem)
                return True
            case Then.WAIT if problem.kind is not ProblemKind.CONNECT:
                return await self._hear_throttle(lane, problem)
            case Then.WAIT | Then.RETRY | Then.FAIL | Then.FAIL_MODEL:
                return await self._hear_trouble(lane, problem)
            case Then.ADAPT:
                if problem.adaptation is not None:
                    queue.adapted |= {problem.adaptation}
                return False

    async def foresee(self, lane: Lane, queue: WorkQueue, hints: Hints | None) -> None:
        """A reply that says nothing is left stops the lane before the wall, if there is anything more to send."""
        if hints is None or lane.stands_still or queue.nothing_to_send:
            return
        if hints.account_remaining == 0:
            for sibling in self.lanes.of_account(lane.account):
                await self._park_quota(sibling, _spent(ProblemKind.QUOTA_ACCOUNT))
        elif hints.model_remaining == 0:
            await self._park_quota(lane, _spent(ProblemKind.QUOTA_MODEL))
        elif hints.requests_remaining == 0 and hints.requests_reset_s:
            # the reset is when the bucket is full again, an upper bound: a probe before it costs one call
            pause_s = min(hints.requests_reset_s, self.job.retry.max_wait_s)
            await self._park(lane, _spent(ProblemKind.THROTTLE), until=self.clock.wall() + pause_s)

    async def _stop_account(self, lane: Lane, problem: Problem) -> None:
        closed = Closed(kind=problem.kind.value, reason=_reason(problem), refused_account=True)
        for sibling in self.lanes.of_account(lane.account):
            if sibling.closed is None:
                await self._park(sibling, problem, until=None)
                sibling.close(closed)

    async def _park_quota(self, lane: Lane, problem: Problem) -> None:
        if lane.closed is not None or lane.stands_still:
            return  # one refusal parks it; the others that were in flight say nothing new
        if problem.kind in _QUOTAS and self.job.on_quota == "stop":
            await self._park(lane, problem, until=None)
            lane.close(Closed(kind=problem.kind.value, reason=_reason(problem), refused_account=False))
            return
        wall = self.clock.wall()
        if problem.wait_s is not None:
            until = wall + problem.wait_s
        elif problem.kind is ProblemKind.MODEL_SUSPENDED:
            until = wall + RULES[problem.kind].first_wait_s
        else:
            until = next_quota_probe(wall=wall, probes=lane.probes, shanghai=self.shanghai)
        await self._park(lane, problem, until=until)

    async def _hear_throttle(self, lane: Lane, problem: Problem) -> bool:
        """A hint longer than any wait parks; so do refusals in a row, for then the server says no to everybody."""
        in_row = lane.refused()
        if lane.stands_still:
            return True
        wait_s = problem.wait_s
        if wait_s is not None and wait_s > self.job.retry.max_wait_s:
            await self._park(lane, problem, until=self.clock.wall() + wait_s)
            return True
        if not lane.probing and in_row < _enough(lane, hinted=wait_s is not None):
            return False
        since = lane.refused_since if problem.kind is ProblemKind.THROTTLE else None
        if since is not None and self.clock.monotonic() - since > _THROTTLE_IS_QUOTA_AFTER_S:
            await self._park_quota(lane, _as_quota(problem))
            return True
        cap_s = _THROTTLE_CAP_S if problem.kind is ProblemKind.THROTTLE else PROBE_CAP_S
        pause_s = backoff_s(first_s=_THROTTLE_FIRST_S, cap_s=cap_s, tries=2 * lane.probes, dice=1.0)
        await self._park(
            lane, problem, until=self.clock.wall() + max(wait_s or 0.0, pause_s if wait_s is None else 0.0)
        )
        return True

    async def _hear_trouble(self, lane: Lane, problem: Problem) -> bool:
        """The same trouble on many items in a row is not the items': an outage parks, a systematic refusal closes."""
        if lane.stands_still:
            return _stands_for(lane, problem)
        tripped = lane.breaker.trips(problem.kind.value, _likeness(problem))
        outage = problem.kind in _OUTAGES
        if not tripped and not (lane.probing and outage):
            return False
        if outage:
            pause_s = backoff_s(first_s=_OUTAGE_FIRST_S, cap_s=PROBE_CAP_S, tries=lane.probes, dice=1.0)
            await self._park(lane, problem, until=self.clock.wall() + pause_s)
        else:
            reason = f"{lane.breaker.count} items in a row: {_reason(problem)}"
            await self._park(lane, problem, until=None)
            lane.close(Closed(kind=problem.kind.value, reason=reason, refused_account=False))
        return True

    async def _park(self, lane: Lane, problem: Problem, *, until: float | None) -> None:
        lane.park_until(kind=problem.kind.value, reason=_reason(problem), until=until)
        assert lane.park is not None, "it was parked just now"
        await self.book.parked(lane.account, lane.model, lane.park)


def _enough(lane: Lane, *, hinted: bool) -> int:
    """Refusals in a row that mean: nobody gets through. A hint on a narrow lane speaks for all of it at once."""
    return lane.limit if hinted and lane.limit <= _NARROW else lane.in_flight + _SPARE_REFUSALS


def _stands_for(lane: Lane, problem: Problem) -> bool:
    """Whether a lane stands still because of trouble like this, and not for a reason of its own."""
    stopped = lane.closed.kind if lane.closed is not None else lane.park.kind if lane.park is not None else ""
    return stopped == problem.kind.value or (problem.kind in _OUTAGES and stopped in _OUTAGES)


def _reason(problem: Problem) -> str:
    words = REASONS.get(problem.kind, problem.kind.value.replace("_", " "))
    return f"{words}: {problem.message}"[:500] if problem.message else words


def _likeness(problem: Problem) -> str:
    """The message without what differs from item to item."""
    return re.sub(r"[0-9a-f]*\d[0-9a-f-]*", "#", problem.message.lower())[:120]


def _spent(kind: ProblemKind) -> Problem:
    return Problem(kind=kind, message="the last reply's headers say that nothing is left")


def _as_quota(problem: Problem) -> Problem:
    return Problem(
        kind=ProblemKind.QUOTA_MODEL,
        message=f"nothing but refusals for a quarter of an hour: {problem.message}",
        status=problem.status,
        wait_s=problem.wait_s,
    )
