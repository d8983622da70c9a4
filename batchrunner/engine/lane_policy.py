"""What a problem does to a lane: pause, park, close, or nothing. The table says what, this file does it.

A refusal is no failure: quota, keys, bills and outages stop lanes, never items. Every park is in the ledger, with its
reason and its end, so that a later process has it.
"""

import re
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Final

from batchrunner.core.classify import is_about_the_request
from batchrunner.core.error_policy import POLICY, Then, policy_named
from batchrunner.core.job import Job
from batchrunner.core.lifecycle import Closed
from batchrunner.core.outcome import Hints, Problem, ProblemKind
from batchrunner.core.pacing import PROBE_CAP_S, backoff_s, day_of, next_quota_probe
from batchrunner.core.ports import Clock
from batchrunner.core.presets import PRESETS
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field
from batchrunner.engine.lanes import Lane
from batchrunner.engine.recorder import Recorder
from batchrunner.engine.run_status import shown_time
from batchrunner.engine.work_queue import WorkQueue

_THROTTLE_IS_QUOTA_AFTER_S: Final = 15 * 60.0
_NARROW: Final = 4
_SPARE_REFUSALS: Final = 4
_THROTTLE_FIRST_S: Final = 5.0
_LIMIT_FIRST_S: Final = 0.5
"""Where something got through a moment ago: a burst is used up, and its rate opens again at once."""
_THROTTLE_CAP_S: Final = 300.0
_OUTAGE_FIRST_S: Final = 15.0
_SUSPENDED_PROBES: Final = 2
_SETUP_PROBES: Final = 3
"""Requests that must come to the same before the job, and not a passing fault, is thought to be wrong."""
_MOST_REPORTED: Final = 20
_HELD_IN_ROW: Final = 3
"""Replies in a row that are not understood: each may be a picture that was paid for."""


class LaneSet:
    """All lanes of a run."""

    def __init__(self, lanes: tuple[Lane, ...]) -> None:
        self._lanes = {(lane.account, lane.model): lane for lane in lanes}

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def widest(self) -> int:
        """Sends that all lanes together let be in flight at once, now."""
        return sum(map(attrgetter("limit"), self._lanes.values()))

    def find(self, account: str, model: str) -> Lane | None:
        """That lane, if the run has it."""
        return self._lanes.get((account, model))

    def of_account(self, account: str) -> tuple[Lane, ...]:
        """Every lane that sends with this key."""
        return tuple(lane for lane in self if lane.account == account)

    def of_model(self, model: str) -> tuple[Lane, ...]:
        """Every lane that sends to this model."""
        return tuple(lane for lane in self if lane.model == model)

    def drain(self) -> None:
        """Turn everybody away."""
        for lane in self:
            lane.drain()


@dataclass(slots=True, kw_only=True)
class LanePolicy:
    """Decides what each problem of a send does to its lane."""

    job: Job
    lanes: LaneSet
    recorder: Recorder
    clock: Clock
    shanghai: bool
    """Daily quotas turn at Shanghai's midnight."""
    say: Callable[[str], None]
    """For what a person should know at once."""
    answered: bool = False
    """A good answer came in this run: the job's address, key and way to the server are right."""
    _setup_refusals: int = 0
    _quota_days: dict[tuple[Lane, int], tuple[int, int]] = field(default_factory=dict)
    """(lane, day) -> (what an earlier day allowed, sends of that day that its quota refused)."""
    _reported: set[str] = field(default_factory=set)

    def then(self, problem: Problem, queue: WorkQueue) -> Then:
        """What follows from a problem, by the table and by what has been answered so far."""
        policy = POLICY[problem.kind]
        model_answered = queue.finished if problem.of_task else queue.answers
        answered = bool(model_answered) if policy.then is Then.FAIL_MODEL else self.answered
        return policy.once_answered if answered and policy.once_answered is not None else policy.then

    async def on_problem(self, lane: Lane, queue: WorkQueue, problem: Problem) -> bool:
        """Act on the lane; True when it does not send now, so that the item goes back to its queue."""
        lane.last_problem = problem.message
        then = self.then(problem, queue)
        if POLICY[problem.kind].says_wait or (then is Then.RETRY and self._waits_for(problem)):
            self._report_wait(problem)
        match then:
            case Then.STOP_RUN:
                await self._check_setup(lane, problem)
                return True
            case Then.STOP_ACCOUNT | Then.PARK_ACCOUNT | Then.PARK_LANE:
                await self._stop(lane, queue, problem, then)
                return True
            case Then.WAIT if not POLICY[problem.kind].outage:
                return await self._on_throttle(lane, problem)
            case Then.RETRY | Then.FAIL if self._is_expected(lane, problem):
                return False
            case Then.WAIT | Then.RETRY | Then.HOLD | Then.FAIL | Then.FAIL_MODEL:
                return await self._on_repeated_trouble(lane, queue, problem)
            case Then.ADAPT:
                if problem.adaptation is not None:
                    queue.adapted |= {problem.adaptation}
                return False

    def _is_expected(self, lane: Lane, problem: Problem) -> bool:
        """The job asks another model then: however many items in a row end so, the lane goes on."""
        fallback = self.job.fallback
        named = fallback is not None and POLICY[problem.kind].fallback in fallback.on
        return named and lane.model != self.job.models[-1]

    def on_rate_headers(self, lane: Lane, queue: WorkQueue, hints: Hints | None) -> tuple[Lane, ...]:
        """A reply that says nothing is left stops the lane before the limit, if there is anything more to send.

        It gives the lanes that were parked. `record_park` writes them down once the paid answer itself is kept.
        """
        if hints is None or lane.stands_still:
            return ()
        if hints.model_remaining is not None:
            lane.model_remaining = hints.model_remaining
        if queue.nothing_to_send:
            return ()
        if hints.account_remaining == 0:
            spent = _spent(ProblemKind.QUOTA_ACCOUNT)
            return tuple(each for each in self.lanes.of_account(lane.account) if self._park_for_quota(each, spent))
        if hints.model_remaining == 0:
            return (lane,) if self._park_for_quota(lane, _spent(ProblemKind.QUOTA_MODEL)) else ()
        if hints.requests_remaining == 0 and hints.requests_reset_s:
            # the reset is when the bucket is full again, an upper bound: a probe before it costs one call
            pause_s = min(hints.requests_reset_s, self.job.retry.max_wait_s)
            _park_until(lane, _spent(ProblemKind.THROTTLE), until=self.clock.wall() + pause_s)
            return (lane,)
        return ()

    async def record_park(self, lane: Lane) -> None:
        """Record why a lane waits, if it still does."""
        if lane.park is not None:
            await self.recorder.parked(lane.account, lane.model, lane.park)

    async def _stop(self, lane: Lane, queue: WorkQueue, problem: Problem, then: Then) -> None:
        if then is Then.STOP_ACCOUNT:
            await self._stop_account(lane, problem)
        elif then is Then.PARK_ACCOUNT:
            for sibling in self.lanes.of_account(lane.account):
                await self._park_quota(sibling, problem)
        else:
            if problem.kind is ProblemKind.MODEL_SUSPENDED and lane.probes >= _SUSPENDED_PROBES:
                queue.rejected = problem
            await self._park_quota(lane, problem)

    async def polls_refused(self, account: str, problem: Problem) -> None:
        """The polls of an account are refused because of its key: no order is placed with it any more."""
        for lane in self.lanes.of_account(account):
            if lane.closed is None:
                await self._stop_account(lane, problem)

    async def _stop_account(self, lane: Lane, problem: Problem) -> None:
        closed = Closed(kind=problem.kind.value, reason=_reason(problem), refused_account=True)
        for sibling in self.lanes.of_account(lane.account):
            if sibling.closed is None:
                await self._park(sibling, problem, until=None)
                sibling.close(closed)

    async def _park_quota(self, lane: Lane, problem: Problem) -> None:
        if self._park_for_quota(lane, problem):
            await self.record_park(lane)

    def _park_for_quota(self, lane: Lane, problem: Problem) -> bool:
        """Whether it was parked by this."""
        if problem.kind is ProblemKind.QUOTA_MODEL:
            self._note_quota(lane, problem, wall=self.clock.wall())
        if lane.closed is not None or lane.stands_still:
            return False  # one refusal parks it; the others that were in flight say nothing new
        if POLICY[problem.kind].quota and self.job.on_quota == "stop":
            _park_until(lane, problem, until=None)
            lane.close(Closed(kind=problem.kind.value, reason=_reason(problem), refused_account=False))
            return True
        wall = self.clock.wall()
        if problem.wait_s is not None:
            # a daily quota is said by some to end within seconds: the asked wait is a lower bound
            growing_s = next_quota_probe(wall=0.0, probes=lane.probes - 1, shanghai=False) if lane.probes else 0.0
            until = wall + max(problem.wait_s, growing_s)
        elif problem.kind is ProblemKind.MODEL_SUSPENDED:
            until = wall + POLICY[problem.kind].first_wait_s
        else:
            until = next_quota_probe(wall=wall, probes=lane.probes, shanghai=self.shanghai)
        _park_until(lane, problem, until=until)
        return True

    def _note_quota(self, lane: Lane, problem: Problem, *, wall: float) -> None:
        """How many sends the provider allowed today, those that it refused aside; probes of later days say less."""
        day = day_of(wall=wall, offset_s=PRESETS[self.job.provider.preset].day_offset_s)
        sent = self.recorder.state.sent_today(lane.account, lane.model, day=day)
        before, refused = self._quota_days.get((lane, day), (lane.quota_per_day or 0, 0))
        refused += problem.status is not None  # else the headers of a reply said that nothing is left
        self._quota_days[lane, day] = before, refused
        lane.quota_per_day = max(before, sent - refused) or None
        lane.model_remaining = 0

    async def _on_throttle(self, lane: Lane, problem: Problem) -> bool:
        """A hint longer than any wait parks; so do refusals in a row, because then no request gets through."""
        in_row = lane.refused()
        enough = 1 if problem.of_task else _enough(lane, hinted=problem.wait_s is not None)
        if lane.stands_still:
            return True
        wait_s = problem.wait_s
        if wait_s is not None and wait_s > self.job.retry.max_wait_s:
            await self._park(lane, problem, until=self.clock.wall() + wait_s)
            return True
        if in_row < enough and (not lane.probing or _probes_an_outage(lane)):
            return False
        since = lane.refused_since if problem.kind is ProblemKind.THROTTLE else None
        if since is not None and self.clock.monotonic() - since > _THROTTLE_IS_QUOTA_AFTER_S:
            await self._park_quota(lane, _as_quota(problem))
            return True
        cap_s = _THROTTLE_CAP_S if problem.kind is ProblemKind.THROTTLE else PROBE_CAP_S
        first_s = _LIMIT_FIRST_S if lane.accepted_lately else _THROTTLE_FIRST_S
        pause_s = backoff_s(first_s=first_s, cap_s=cap_s, tries=2 * lane.probes, random_source=1.0)
        await self._park(
            lane, problem, until=self.clock.wall() + max(wait_s or 0.0, pause_s if wait_s is None else 0.0)
        )
        return True

    async def _check_setup(self, lane: Lane, problem: Problem) -> None:
        """No request has succeeded yet, and something else than the API answered: a few probes, then the run ends."""
        if lane.stands_still or lane.closed is not None:
            return  # it was sent before the last probe was answered
        self._setup_refusals += 1
        wall = self.clock.wall()
        over = self._setup_refusals >= _SETUP_PROBES
        first_s, tries = POLICY[problem.kind].first_wait_s, self._setup_refusals - 1
        pause_s = max(
            problem.wait_s or 0.0, backoff_s(first_s=first_s, cap_s=PROBE_CAP_S, tries=tries, random_source=1.0)
        )
        look_at = f"; check `{problem.look_at}`" if problem.look_at else ""
        closed = Closed(
            kind=problem.kind.value, reason=f"{_reason(problem)}{look_at}", refused_account=False, mistake=True
        )
        for each in self.lanes:  # they all send to the same address
            if each.closed is None:
                await self._park(each, problem, until=None if over else wall + pause_s)
                if over:
                    each.close(closed)

    def _waits_for(self, problem: Problem) -> bool:
        """Whether an item that met this waits and is sent again; what is sent again at once is no wait to explain."""
        return self.job.retry.attempts > 1 and POLICY[problem.kind].first_wait_s > 0

    def _report_wait(self, problem: Problem) -> None:
        """The cause of a wait, once for each cause."""
        comparable = _comparable(problem)
        if comparable not in self._reported and len(self._reported) < _MOST_REPORTED:
            self._reported.add(comparable)
            self.say(f"{problem.message}; retrying")

    async def _on_repeated_trouble(self, lane: Lane, queue: WorkQueue, problem: Problem) -> bool:
        """The same trouble on many items in a row is not the items': an outage parks, a systematic refusal closes."""
        if lane.stands_still:
            return _stands_for(lane, problem)
        breaker = lane.task_breaker if problem.of_task else lane.breaker
        tripped = breaker.trips(problem.kind.value, _comparable(problem))
        if POLICY[problem.kind].then is Then.HOLD:
            tripped = tripped or breaker.count >= _HELD_IN_ROW
        outage = POLICY[problem.kind].outage
        if problem.kind is ProblemKind.NOT_REACHED:
            tripped = True  # one page is enough: no item is to blame for it
        elif tripped and not queue.answers and lane.probes >= _SETUP_PROBES and _means_the_job(problem):
            outage = False  # the same message for every request, and none succeeded
        if not tripped and not (outage and _probes_an_outage(lane)):
            return False
        if outage:
            first_s = _OUTAGE_FIRST_S
            if problem.kind is ProblemKind.NOT_REACHED:
                first_s = POLICY[problem.kind].first_wait_s
            pause_s = backoff_s(first_s=first_s, cap_s=PROBE_CAP_S, tries=lane.probes, random_source=1.0)
            pause_s = max(pause_s, problem.wait_s or 0.0)
            await self._park(lane, problem, until=self.clock.wall() + pause_s)
        else:
            row = (
                f"{breaker.count} items in a row" if breaker.count != 1 else "the first item that failed (`breaker: 1`)"
            )
            same = "every request failed in the same way" if POLICY[problem.kind].outage else row
            reason = f"{same}: {_reason(problem)}"
            await self._park(lane, problem, until=None)
            lane.close(Closed(kind=problem.kind.value, reason=reason, refused_account=False))
        return True

    async def _park(self, lane: Lane, problem: Problem, *, until: float | None) -> None:
        _park_until(lane, problem, until=until)
        await self.record_park(lane)


async def restore_parks(job: Job, state: LedgerState, lanes: LaneSet, recorder: Recorder, *, now: float) -> None:
    """A quota is still spent after a restart; what the user may have corrected since is tried again."""
    for (account, model), park in tuple(state.parks.items()):
        lane = lanes.find(account, model)
        policy, until = policy_named(park.kind), park.until or 0.0
        if lane is None or policy is None or not policy.restored or until <= now:
            await recorder.resumed(account, model)
            continue
        lane.restore_park(park)
        if job.on_quota == "stop" and policy.quota:
            again = shown_time(until, offset_s=PRESETS[job.provider.preset].day_offset_s)
            reason = f"{park.reason}; reported to an earlier run, nothing is sent before {again}"
            lane.close(Closed(kind=park.kind, reason=reason, refused_account=False))


def _park_until(lane: Lane, problem: Problem, *, until: float | None) -> None:
    lane.park_until(kind=problem.kind.value, reason=_reason(problem), until=until, by_task=problem.of_task)


def _means_the_job(problem: Problem) -> bool:
    """Whether a fault that every request meets is the job's: what it asks for, and not the server's own trouble."""
    return POLICY[problem.kind].outage and is_about_the_request(problem.status, problem.message)


def _probes_an_outage(lane: Lane) -> bool:
    """Whether the send in flight probes the end of an outage: a failure means no, a refusal that the server is back.

    A fault at a probe after a refusal is one item's trouble, as it is in any other send.
    """
    return lane.probing and lane.park is not None and _is_outage(lane.park.kind)


def _is_outage(stopped: str) -> bool:
    """Whether a lane was stopped, by a kind or by something else, because of an outage."""
    policy = policy_named(stopped)
    return policy is not None and policy.outage


def _enough(lane: Lane, *, hinted: bool) -> int:
    """Consecutive 429s that park the lane: in flight + 4; with Retry-After and at most 4 slots, one per slot."""
    return lane.limit if hinted and lane.limit <= _NARROW else lane.in_flight + _SPARE_REFUSALS


def _stands_for(lane: Lane, problem: Problem) -> bool:
    """Whether a lane waits because of a problem like this, and not for a reason of its own."""
    stopped = lane.closed.kind if lane.closed is not None else lane.park.kind if lane.park is not None else ""
    return stopped == problem.kind.value or (POLICY[problem.kind].outage and _is_outage(stopped))


def _reason(problem: Problem) -> str:
    words = POLICY[problem.kind].reason or problem.kind.value.replace("_", " ")
    return f"{words}: {problem.message}"[:500] if problem.message else words


def _comparable(problem: Problem) -> str:
    """The message without what differs from item to item."""
    if POLICY[problem.kind].then is Then.HOLD:
        return ""  # it repeats the server's reply
    return re.sub(r"[0-9a-f]*\d[0-9a-f-]*", "#", problem.message.lower())[:120]


def _spent(kind: ProblemKind) -> Problem:
    return Problem(kind=kind, message="the last reply's headers report 0 remaining")


def _as_quota(problem: Problem) -> Problem:
    return Problem(
        kind=ProblemKind.QUOTA_MODEL,
        message=f"only rate-limit errors for 15 minutes; treating as quota: {problem.message}",
        status=problem.status,
        wait_s=problem.wait_s,
    )
