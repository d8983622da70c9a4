"""Lanes: who may send when. One per (account, model), with its slots, pace, park and breaker.

A slot is taken before an item is, and never kept while the source is read. Items that come back from a wait go before
fresh ones, and everybody is let in one by one, so that no herd leaves when a lane opens again.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final

from batchrunner.core.error_policy import POLICY, Lesson
from batchrunner.core.job import LaneSettings
from batchrunner.core.lifecycle import Closed, Park
from batchrunner.core.outcome import Problem, ProblemKind, SendOutcome
from batchrunner.core.pacing import (
    GIVE_UP_PARKED_S,
    Breaker,
    Bucket,
    RetryBudget,
    changed_bucket,
    day_of,
    minute_bucket,
    next_midnight,
)
from batchrunner.core.ports import Clock, LanePace, LeasedLane
from batchrunner.core.rate_limiter import AdaptiveLimiter, Ticket

_LEAST_ALIVE: Final = 64
_LATELY_S: Final = 2.0


class Lane:
    """One queue with its limits. Every method runs on the loop's thread and returns at once, except `acquire`."""

    last_problem: str = ""
    """The message of the last problem that one of its sends met."""
    paused = _holds = False
    """`paused` by a person; `_holds` then, and while the run drains."""
    _slots_s: float = 0.0
    """See `in_flight_s`: when the sends in flight began, added up, less how long the others took."""
    lets_go_when_spent = False
    """Items that return are turned away once `requests_per_day` is reached: another model may have them."""
    model_remaining: int | None = None
    """Requests left today for the model, by the headers of the last reply that has them."""
    quota_per_day: int | None = None
    """Sends of a day on which the provider's quota for the model was used up."""

    def __init__(
        self,
        account: str,
        model: str,
        *,
        settings: LaneSettings,
        clock: Clock,
        sent_today: int,
        leased: LeasedLane | None = None,
    ) -> None:
        """`leased`: a coordinator decides on pace, concurrency and daily quota; `settings` have none of these then."""
        self.account, self.model, self.leased = account, model, leased
        ceiling = settings.ceiling if settings.adaptive else settings.concurrency
        self.limiter = AdaptiveLimiter(
            limit=settings.concurrency, ceiling=ceiling, adaptive=settings.adaptive and leased is None
        )
        self.in_flight = self.open_tasks = 0
        self.alive = 0
        """Items in this lane's hands: sending, waiting, recording, or followed as a task."""
        self.park: Park | None = None
        self.closed: Closed | None = None
        self.probing = False
        """One send at a time, until one succeeds."""
        self.parked_since: float | None = None
        self.probes = self.refused_in_row = 0
        self._accepted_at = -math.inf
        self.refused_since: float | None = None
        self.breaker = Breaker(threshold=settings.breaker)
        self.task_breaker = Breaker(threshold=settings.breaker)
        """Of tasks that fail: that further ones are accepted is no sign that they do better."""
        self.parked_by_task = False
        """The park came of tasks' ends: only a task that succeeds ends it."""
        self._probe_followed = self._task_succeeded = self._draining = False
        self._settings, self._each, limits = settings, settings.limits.inputs_per_request or 1, settings.limits
        self._clock = clock
        self._own_pace = minute_bucket(minute, settings.shard) if (minute := limits.requests_per_minute) else None
        self._pace: LanePace | None = leased if leased is not None else self._own_pace
        self._retries = RetryBudget()
        self._tokens = minute_bucket(tokens, settings.shard) if (tokens := limits.tokens_per_minute) else None
        self.counts_tokens = self._tokens is not None or (leased is not None and leased.counts_tokens)
        """`limits.tokens_per_minute` is set."""
        self._day = day_of(wall=clock.wall(), offset_s=settings.day_offset_s)
        self._sent_today = sent_today
        self._returning: deque[asyncio.Future[Ticket | None]] = deque()
        self._fresh: deque[asyncio.Future[Ticket | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.retries_at: list[float] = []
        """When items that back off are tried again, on the loop's clock."""
        self.stops = 0
        """How often it was parked or closed."""
        self.on_stopped: Callable[[], None] = lambda: None
        """Called when it turns everybody away for good."""

    def __repr__(self) -> str:
        state = "closed" if self.closed else "parked" if self.park else "probing" if self.probing else "open"
        return f"<Lane {self.account or '-'} {self.model}: {state}, {self.in_flight}/{self.limit} in flight>"

    @property
    def limit(self) -> int:
        """Sends in flight at once, as far as is known to be right."""
        return self.limiter.limit

    @property
    def waits(self) -> bool:
        """Somebody waits for a slot."""
        return bool(self._fresh or self._returning)

    def in_flight_s(self, now: float) -> float:
        """Seconds of all its sends in flight until now, added up: two of these give the mean in between."""
        return self.in_flight * now - self._slots_s

    @property
    def retries_queued(self) -> bool:
        """Items that have backed off wait for a slot."""
        return bool(self._returning)

    # -- slots

    async def acquire(self, *, fresh: bool) -> Ticket | None:
        """Wait for a slot; None when the lane closed, or the run drains; for a returning item also when it parked.

        With `lets_go_when_spent` a returning item gets None where the day's requests are used up, too.
        """
        now = self._clock.monotonic()
        if not self._fresh and not self._returning and self._hold_s(now, fresh=fresh) == 0.0:
            return self._grant(now)
        if self.closed or self._draining:
            return None
        turn: asyncio.Future[Ticket | None] = asyncio.get_running_loop().create_future()
        (self._fresh if fresh else self._returning).append(turn)
        self.wake_waiters()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and (ticket := turn.result()) is not None:
                self.give_up(ticket)
            raise

    def give_up(self, ticket: Ticket) -> None:
        """Give a slot back that nothing was sent with: it does not count as a request of its minute and its day."""
        self.limiter.withdrawn(ticket)
        if self._settings.limits.requests_per_day is not None:
            self._count_day()
            self._sent_today -= ticket.day == self._day
        if self._pace is not None:
            self._pace.take(self._clock.monotonic(), -1.0)
        self.release()

    def still_usable(self, ticket: Ticket) -> bool:
        """Whether a slot may still be used: not once the lane has been parked or closed since it was given.

        To be asked after everything that is waited for between a slot and its send.
        """
        return ticket.stops == self.stops

    def record_outcome(self, ticket: Ticket, outcome: SendOutcome, *, now: float) -> None:
        """What came of a send teaches the limiter; each send saves up for a tenth of a retry, see `RetryBudget`."""
        retries = self._retries
        retries.outcomes += 1
        if self.leased is not None:
            self.leased.record(outcome)
        if retries.outcomes == 1:
            retries.starts(now)
        if not isinstance(outcome, Problem):
            self._accepted_at = now
            self.limiter.accepted(now, ticket)
            return
        match POLICY[outcome.kind].lesson:
            case _ if self.leased is not None:
                self.limiter.withdrawn(ticket)  # it teaches the limiter of all workers, at the coordinator
            case Lesson.REFUSED:
                self.limiter.refused(now, ticket)
            case Lesson.FAILED:
                self.limiter.withdrawn(ticket)
                self.limiter.failed(now)
            case Lesson.NONE:
                self.limiter.withdrawn(ticket)
            case Lesson.ACCEPTED:
                self._accepted_at = now
                self.limiter.accepted(now, ticket)

    def release(self) -> None:
        """Give a slot back."""
        self.in_flight -= 1
        self._slots_s -= self._clock.monotonic()
        assert self.in_flight >= 0, "a slot was given back twice"
        if self._returning or self._fresh:
            self.wake_waiters()

    def renew(self, now: float) -> Ticket | None:
        """Give a slot back and take it again, now, for a fresh item.

        None, and the slot is free, where an item that returns comes first or nothing may be sent now. Waiters for a
        new slot come later: a slot that continues costs nothing, a new one a task.
        """
        self.in_flight -= 1
        self._slots_s -= now
        assert self.in_flight >= 0, "a slot was given back twice"
        ticket = None
        if not self._returning and self._hold_s(now, fresh=True) == 0.0:
            ticket = self._grant(now)
        if self._returning or (self._fresh and self.in_flight < self.limiter.limit):
            self.wake_waiters()
        return ticket

    def enter(self) -> None:
        """An item is in this lane's hands."""
        self.alive += 1

    def leave(self) -> None:
        """An item is not in this lane's hands any more."""
        self.alive -= 1
        if self._returning or (self._fresh and self.in_flight < self.limiter.limit):
            self.wake_waiters()

    def task_opened(self) -> None:
        """A remote task is being followed; the one of a probe holds up the next probe."""
        self.open_tasks += 1
        self._probe_followed = self.probing and self.parked_by_task

    def task_ended(self) -> None:
        """A remote task is not followed any more."""
        self.open_tasks -= 1
        self._probe_followed = False
        self.wake_waiters()

    def wake_waiters(self) -> None:
        """Let in as many waiters as may send now; arrange to be called again when time alone lets in the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.monotonic()
        if self.lets_go_when_spent and self._returning and self.day_is_spent:
            self._turn_away(self._returning)
        for queue, fresh in ((self._returning, False), (self._fresh, True)):
            while queue:
                turn = queue[0]
                hold = 0.0 if turn.done() else self._hold_s(now, fresh=fresh)
                if hold == 0.0:
                    turn = queue.popleft()
                    if not turn.done():
                        turn.set_result(self._grant(now))
                    continue
                if hold is not None:
                    self._timer = asyncio.get_running_loop().call_later(hold, self.wake_waiters)
                    return
                break

    def _grant(self, now: float) -> Ticket:
        self.in_flight += 1
        self._slots_s += now
        if self._settings.limits.requests_per_day is not None:
            self._count_day()
            self._sent_today += 1
        if self._pace is not None:
            self._pace.take(now)
        return self.limiter.sent(now, in_flight=self.in_flight, stops=self.stops, day=self._day)

    def _hold_s(self, now: float, *, fresh: bool) -> float | None:
        """0: may send now. A number: after that many seconds. None: only a change of the lane can let it."""
        if self.closed or self._holds:
            return None
        if self.park is not None:
            if self.park.until is None:
                return None
            left_s = self.park.until - self._clock.wall()
            if left_s > 0:
                return max(0.001, left_s)
            self.probing = True
        limiter, settings = self.limiter, self._settings
        limit, tasks, each = limiter.limit, settings.in_flight_tasks, self._each
        if self.in_flight >= (1 if self.probing else limit) or (self.probing and self._probe_followed):
            return None
        if fresh and self.alive >= _LEAST_ALIVE and self.alive >= max(_LEAST_ALIVE, 4 * limit) * each + (tasks or 0):
            return None
        if tasks is not None and self._tasks_are_full(tasks):
            return None
        if settings.limits.requests_per_day is not None and self.day_is_spent:
            return self.day_ends_at - self._clock.wall()
        wait_s = limiter.next_at - now if limiter.next_at > now else 0.0
        if self._pace is None:
            return wait_s
        paced_s = self._pace.wait_s(now)
        return None if paced_s is None else max(wait_s, paced_s)

    def _tasks_are_full(self, most: int) -> bool:
        """Every send under way may become a task."""
        if not self._task_succeeded:
            most = min(most, self._settings.breaker)  # more of them could fail alike before the breaker trips
        return self.open_tasks + self.in_flight >= most

    def _count_day(self) -> None:
        day = day_of(wall=self._clock.wall(), offset_s=self._settings.day_offset_s)
        if day != self._day:
            self._day, self._sent_today = day, 0

    # -- tokens a minute

    def tokens_wait_s(self, tokens: int) -> float:
        """Seconds to wait before sending a prompt of about that many tokens."""
        return self._tokens.wait_s(self._clock.monotonic(), tokens) if self._tokens is not None else 0.0

    def take_tokens(self, tokens: int) -> None:
        """They go out now; a later call with the difference corrects the estimate."""
        if self._tokens is not None:
            self._tokens.take(self._clock.monotonic(), tokens)
        elif self.leased is not None:
            self.leased.count_tokens(tokens)

    # -- retries of failures

    def retry_wait_s(self) -> float:
        """Seconds until one more failed item may be tried."""
        return self._retries.wait_s(self._clock.monotonic())

    def take_retry(self) -> None:
        """One is tried again now."""
        self._retries.take(self._clock.monotonic())

    def retry_ended(self, *, worked: bool) -> None:
        """A retried item that succeeded gives back what its last retry took of the budget."""
        if worked:
            self._retries.take(self._clock.monotonic(), -1.0)

    # -- parking and closing

    def record_success(self) -> bool:
        """An item succeeded; True when that ends a park. A closed lane stays closed."""
        self._task_succeeded = True
        if self.task_breaker.count:
            self.task_breaker.success()
        return self._opened() if self.probing or self.refused_in_row or self.breaker.count else False

    def _opened(self) -> bool:
        if self.closed is not None:
            return False
        self.refused_in_row = 0
        self.refused_since = None
        if self.breaker.count:
            self.breaker.success()
        if not self.probing:
            return False  # what left before the lane was parked says nothing about the park
        self.probing = False
        self.park = None
        self.parked_by_task = False
        self.probes = 0
        self.parked_since = None
        self.limiter.start_again(self._clock.monotonic())
        self.wake_waiters()
        return True

    def task_taken(self) -> bool:
        """A task was accepted; True when that ends a park. One that failing tasks began waits for this one's end."""
        if self.closed is None and self.parked_by_task:
            self.breaker.success()
            return False
        return self._opened()

    def refused(self) -> int:
        """A throttle or an overload; how many in a row now."""
        self.refused_in_row += 1
        if self.refused_since is None:
            self.refused_since = self._clock.monotonic()
        return self.refused_in_row

    def park_until(self, *, kind: str, reason: str, until: float | None, by_task: bool = False) -> bool:
        """Stop until that wall clock time, then probe with one send.

        False when it was parked too long, or is asked to wait longer than any run waits: it closes.
        """
        wall = self._clock.wall()
        if self.parked_since is None:
            self.parked_since = wall
        self.park = Park(kind=kind, reason=reason, until=until, since=wall)
        self.parked_by_task = by_task
        if self.leased is not None:
            self.leased.parks(self.park)
        if kind != ProblemKind.THROTTLE and not self.accepted_lately:
            self.limiter.restore_rate(self._clock.monotonic())
        self.probing = False
        self.probes += 1
        self.stops += 1
        self._turn_away(self._returning)
        self.wake_waiters()
        if max(wall, until or wall) - self.parked_since > GIVE_UP_PARKED_S:
            self.close(Closed(kind=kind, reason=reason, refused_account=False))
            return False
        return True

    def restore_park(self, park: Park) -> None:
        """Take over a park that an earlier process wrote down."""
        self.park = park
        self.parked_since = park.since
        self.probes = 1
        if park.until is not None and park.until - self._clock.wall() > GIVE_UP_PARKED_S:
            self.close(Closed(kind=park.kind, reason=park.reason, refused_account=False))

    def close(self, closed: Closed) -> None:
        """Send nothing more in this run."""
        if self.closed is None:
            self.closed = closed
            self.stops += 1
        self._turn_away(self._returning)
        self._turn_away(self._fresh)
        self.on_stopped()

    def drain(self) -> None:
        """The run ends: turn everybody away."""
        self._draining = self._holds = True
        self._turn_away(self._returning)
        self._turn_away(self._fresh)
        self.on_stopped()

    def pause(self) -> None:
        """Grant no slot until `resume`: what has a slot and has not been sent steps out, what was sent goes on."""
        self.stops += not self.paused
        self.paused = self._holds = True

    def resume(self) -> None:
        """Go on after `pause`. Refusals of before say nothing about how long the server has been refusing."""
        self.paused, self._holds = False, self._draining
        self.refused_in_row, self.refused_since = 0, None
        self.wake_waiters()

    def change(self, settings: LaneSettings, *, sent_today: int) -> None:
        """Other limits, from the next send on; what is in flight beyond them is awaited."""
        before, self._settings = self._settings.limits, settings
        limits, limiter = settings.limits, self.limiter
        if self.leased is None and not (settings.adaptive and limiter.adaptive):  # what `auto` has found stays
            limiter.adaptive, limiter.limit = settings.adaptive, settings.concurrency
            limiter.ceiling = settings.ceiling if settings.adaptive else settings.concurrency
        if limits.requests_per_minute != before.requests_per_minute:
            self._own_pace = changed_bucket(self._own_pace, limits.requests_per_minute, settings.shard)
            self._pace = self.leased if self.leased is not None else self._own_pace
        if limits.tokens_per_minute != before.tokens_per_minute:
            self._tokens = changed_bucket(self._tokens, limits.tokens_per_minute, settings.shard)
            self.counts_tokens = self._tokens is not None or (self.leased is not None and self.leased.counts_tokens)
        if before.requests_per_day is None:  # it was not counted
            self._count_day()
            self._sent_today = sent_today
        self.wake_waiters()

    def has_stopped(self) -> bool:
        """Nobody gets a slot any more."""
        return self.closed is not None or self._draining

    @property
    def accepted_lately(self) -> bool:
        """Something was accepted a moment ago: refusals mean too many or too fast, not that no request gets through."""
        return self._clock.monotonic() - self._accepted_at < _LATELY_S

    @property
    def stands_still(self) -> bool:
        """Parked, and not yet probing: news from sends that left before change nothing."""
        return self.park is not None and not self.probing

    @property
    def day_limit(self) -> tuple[int, int] | None:
        """(`limits.requests_per_day`, what is left of it today); None without one."""
        daily = self._settings.limits.requests_per_day
        if self.leased is not None:
            return self.leased.day_limit
        if daily is None:
            return None
        self._count_day()
        return daily, max(0, daily - self._sent_today)

    @property
    def day_is_spent(self) -> bool:
        """`limits.requests_per_day` is used up."""
        return (limit := self.day_limit) is not None and limit[1] == 0

    @property
    def day_ends_at(self) -> float:
        """Wall clock time when a new day of `requests_per_day` begins."""
        return next_midnight(wall=self._clock.wall(), offset_s=self._settings.day_offset_s)

    @property
    def pace(self) -> Bucket | None:
        """The bucket of `requests_per_minute`, where the lane has one of its own."""
        return self._own_pace

    @staticmethod
    def _turn_away(queue: "deque[asyncio.Future[Ticket | None]]") -> None:
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
