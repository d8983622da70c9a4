"""How many requests at once, and how many a second, found from the server's replies. Arithmetic; no clock of its own.

A 429 can mean too many concurrent requests, or too many in a period. If as many were in flight and accepted a moment
ago, it is the rate; otherwise the concurrency, whose limit is then one below. The rate found is what was accepted since
the last refusal, over the time that it took: a lower bound of what the server allows, whatever its burst. Refusals that
do not become rarer after several rate cuts are treated as random and ignored for a while. Failures (5xx, resets,
timeouts) halve the concurrency when 40 % of the last 40 sends failed; fewer change nothing.

A refusal arrives at once, an answer late: a send counts as accepted from the moment it leaves until it is refused.
"""

from collections import deque
from contextlib import suppress

from batchrunner.core import rate_limiter_tuning as tuning
from batchrunner.core.values import dataclass, field


@dataclass(slots=True, eq=False)
class Ticket:
    """A send in flight. `in_flight` includes itself, and is corrected when others turn out to have been refused."""

    at: float
    in_flight: int
    stops: int = 0
    """How often its lane had stopped when it was given: it is void once the lane has stopped again."""
    day: int = 0
    """The day on which it was counted."""


@dataclass(slots=True)
class _Cycle:
    """What was sent, and refused, since the last refusal that counted."""

    began: float
    sent: int = 0
    refused: int = 0

    @property
    def accepted(self) -> int:
        return self.sent - self.refused


@dataclass(slots=True, kw_only=True)
class AdaptiveLimiter:
    """One lane's concurrency limit (`limit`) and rate. Times are monotonic seconds; `in_flight` includes the call.

    Call `wait_s` before a send, `sent` when it leaves, and `accepted`, `refused` or `failed` when it ends.
    """

    limit: int
    ceiling: int
    adaptive: bool
    """False: the concurrency stays at `limit`; the rate is still found."""
    rate_per_s: float | None = None
    """The highest rate that the server is known to accept; None while no refusal has shown one."""
    _slow_start: bool = True
    _latency_s: float | None = None
    next_at: float = 0.0
    """When the next send may leave."""
    _last_sent_at: float = 0.0
    _first_at: float | None = None
    _cycle: _Cycle | None = None
    _event_at: float = -1e9
    _hold_s: float = 0.0
    _sends: "deque[Ticket]" = field(default_factory=lambda: deque(maxlen=tuning.REMEMBERED))
    _most: tuple[int, int] = (0, 0)
    _period_began: float = 0.0
    _floor: float | None = None
    """The average of the last cycle, which was accepted, while a higher rate is tried."""
    _stepped: bool = False
    _trust_left: int = 0
    """For so many more cycles the average is taken as the rate: bursts had made the rate look higher than it is."""
    _trust: int = tuning.TRUSTED_CYCLES
    """How many cycles the next time; doubled each time that a burst was taken for the rate."""
    _shares: list[float] = field(default_factory=list)
    _rate_before: float | None = None
    _rate_worked: float | None = None
    """The rate at the last accepted call."""
    _rate_first: float = 0.0
    _searching: bool = False
    """The first estimate was made during slow start: the rate is searched for above it, in big steps."""
    _window_evidence: int = 0
    _immune_until: float = -1e9
    _since_probe: int = 0
    _probes_kept: int = 0
    _base_limit: int = 0
    _base_latency_s: float = 0.0
    _patience: int = 1
    _ends: "deque[bool]" = field(default_factory=lambda: deque(maxlen=tuning.FAILED_OF))

    def __repr__(self) -> str:
        return f"<AdaptiveLimiter: limit {self.limit}, {self.rate_per_s or 0:.3g}/s{', slow start' * self._slow_start}>"

    # -- before a send

    def wait_s(self, now: float) -> float:
        """Seconds until the next send may leave; 0 when it may now."""
        return self.next_at - now if self.next_at > now else 0.0

    def sent(self, now: float, *, in_flight: int, stops: int = 0, day: int = 0) -> Ticket:
        """A send leaves now, as one of `in_flight`; its ticket is passed back with its outcome."""
        sends = self._sends
        leaves = len(sends) == tuning.REMEMBERED and sends[0].in_flight > self._most[0]
        if leaves or now - self._period_began > tuning.PERIOD_S:
            self._age(now)
        ticket = Ticket(now, in_flight, stops, day)
        sends.append(ticket)
        cycle = self._cycle
        if cycle is None:
            cycle = self._cycle = _Cycle(began=now)
        cycle.sent += 1
        self._last_sent_at = now
        if self._first_at is None:
            self._first_at = now
        pace = self._pace(now) if self.rate_per_s is not None or self.adaptive else None
        if pace is not None:
            # What a timer's grain costs may be made good, no more: no burst can be saved up.
            self.next_at = max(self.next_at, now - tuning.TIMER_GRAIN_S) + 1.0 / pace
        return ticket

    def _pace(self, now: float) -> float | None:
        smooth = None
        if self.adaptive and self._latency_s is not None:
            gain = tuning.SMOOTH_START if self._slow_start else tuning.SMOOTH
            smooth = max(gain * self.limit / max(self._latency_s, 0.001), 1.0)
            if self._first_at is not None and now - self._first_at < tuning.OPENING_S:
                smooth = min(smooth, tuning.OPENING_PER_S)
        grown = self._grown(now) if self.rate_per_s is not None else None
        if grown is None or smooth is None:
            return smooth if grown is None else grown
        return min(grown, smooth)

    def _grown(self, now: float) -> float | None:
        if self.rate_per_s is None:
            return None
        over_s = now - self._event_at - self._hold_s
        return tuning.grown(self.rate_per_s, over_s=over_s, searching=self._searching)

    # -- after a send

    def accepted(self, now: float, ticket: Ticket) -> None:
        """The server did the work, or accepted it."""
        latency = now - ticket.at
        self._latency_s = latency if self._latency_s is None else 0.9 * self._latency_s + 0.1 * latency
        self._ends.append(False)
        self._rate_worked = self.rate_per_s
        if self.adaptive:
            self._grow(ticket.in_flight)

    def refused(self, now: float, ticket: Ticket) -> None:
        """The server rejected it: too many at once, or too many in a period."""
        most = self._forget(ticket)
        in_flight = ticket.in_flight
        if self._cycle is None:
            self._cycle = _Cycle(began=ticket.at, sent=1)
        if ticket.at >= self._cycle.began or not self._searching:
            self._cycle.refused += 1
        if ticket.at <= self._event_at or self._is_immune(now):
            return  # sent before the last decrease: one event, one decrease
        if (
            self.adaptive
            and in_flight > max(most, 1)
            and self._cycle.accepted >= (1 if self._window_evidence else tuning.EVIDENT)
        ):
            self._window_evidence += 1
            if self._window_evidence > 1:
                self._reduce_concurrency(now, in_flight)
                return
        elif in_flight <= most:
            self._window_evidence = 0
        self._reduce_rate(now, ticket.at)

    def failed(self, now: float) -> None:
        """A 5xx, a reset or a timeout. When 40 % of the last 40 sends failed, the concurrency limit halves, once."""
        self._ends.append(True)
        if not self.adaptive or len(self._ends) < tuning.FAILED_OF:
            return
        if sum(self._ends) >= tuning.FAILED_SHARE * tuning.FAILED_OF:
            self.limit = max(1, self.limit // 2)
            self._slow_start = False
            self._ends.clear()
            self._event_at = now

    def withdrawn(self, ticket: Ticket) -> None:
        """It never left, or its outcome says nothing about limits."""
        with suppress(ValueError):
            self._sends.remove(ticket)
        if self._cycle is not None and ticket.at >= self._cycle.began:
            self._cycle.sent = max(0, self._cycle.sent - 1)

    def restore_rate(self, now: float) -> None:
        """Restore the rate from before the current outage, during which every call was refused."""
        self.rate_per_s, self._cycle, self.next_at = self._rate_worked, None, now

    def start_again(self, now: float) -> None:
        """After a park: begin at half of the concurrency that worked, so that not all items are sent at once."""
        if self.adaptive:
            self.limit = max(1, self.limit // 2)
        self._cycle = None
        self._event_at = now

    def _forget(self, refused: Ticket) -> int:
        """Remove a refused send from those that count as accepted; gives the most in flight accepted before it."""
        later = False
        before: list[int] = []
        for ticket in self._sends:
            if ticket is refused:
                later = True
            elif later:
                ticket.in_flight -= 1
            else:
                before.append(ticket.in_flight)
        if later:
            self._sends.remove(refused)
        most = max(*self._most, *before, 0)
        if most == refused.in_flight <= tuning.FEW and before.count(most) <= tuning.CHANCE * len(before):
            # The server's count differs a little from ours by what is in transit: one more accepted once or twice does
            # not mean that the rate is the limit.
            return most - 1
        return most

    def _age(self, now: float) -> None:
        """Keep the most in flight, of this half minute and the last, when the sends that show it are dropped."""
        if now - self._period_began > tuning.PERIOD_S:
            self._most = (0, self._most[0])
            self._period_began = now
        if len(self._sends) == tuning.REMEMBERED:
            self._most = (max(self._most[0], self._sends[0].in_flight), self._most[1])

    # -- lowering the limit or the rate

    def _reduce_concurrency(self, now: float, in_flight: int) -> None:
        self.limit = max(1, in_flight - 1)
        if self._rate_before is not None:  # it was not the pace: what that has grown to has been accepted
            self._rate_before = max(self._rate_before, self._grown(now) or 0.0)
        self.rate_per_s = self._rate_before
        self._slow_start = False
        self._since_probe = 0
        self._probes_kept = 0
        self._event_at = now
        self._cycle = None

    def _reduce_rate(self, now: float, refused_at: float) -> None:
        cycle = self._cycle
        assert cycle is not None, "a refusal belongs to a cycle"
        early = self.rate_per_s is not None and now - self._event_at <= self._hold_s
        share = cycle.refused / max(1, cycle.sent)
        if early and self._floor is None and not _is_long_enough(cycle, now):
            if (
                share <= (tuning.WORSE if not self._searching else tuning.WORSE_AT_FIRST)
                or cycle.sent <= tuning.ENOUGH
                or self.rate_per_s is None
            ):
                return
            # most are refused: no need to see a whole second of it
            seen = tuning.BELOW * (cycle.accepted + 1) / max(now - cycle.began, 1e-6)
            most = tuning.CUT_MOST if self._searching and not self._window_evidence else tuning.CUT
            self.rate_per_s *= min(max(seen / self.rate_per_s, most), tuning.CUT)
            self._event_at = now
            return
        if early:
            self._shares.append(share)
            deep = (self.rate_per_s or 0.0) < tuning.CUT_DEEP * self._rate_first
            if deep and len(self._shares) > tuning.CUTS and share > tuning.LESS * self._shares[0]:
                self._is_random(now)
                return
        else:
            self._shares = [share]
            self._rate_before = self.rate_per_s if not self._searching else None
        self.rate_per_s, self._hold_s = self._found(now, cycle, early=early)
        if not early:
            self._rate_first = self.rate_per_s
        self._event_at = now
        # A pace that only just went too far is refused by a bucket that has all but one call's worth.
        alone = not early and self._last_sent_at <= refused_at
        rest_s = (tuning.SOON if alone else 1.0) / self.rate_per_s
        self.next_at = min(max(self.next_at, now + rest_s), now + 2.0 * rest_s)
        self._cycle = _Cycle(began=now)

    def _is_random(self, now: float) -> None:
        """Several cuts have not made refusals rarer: they do not depend on the rate."""
        self.rate_per_s = self._rate_before
        self._immune_until = now + tuning.IMMUNE_S
        self._shares = []
        self._cycle = None

    def _is_immune(self, now: float) -> bool:
        """Whether refusals are ignored as random; when most sends are refused, they are a limit after all."""
        cycle = self._cycle
        if cycle is not None and cycle.refused > tuning.EVIDENT and cycle.refused > tuning.WORSE * cycle.sent:
            self._immune_until = min(self._immune_until, now)
        return now < self._immune_until

    def _found(self, now: float, cycle: _Cycle, *, early: bool) -> tuple[float, float]:
        """(the rate thought to be just below the limit, seconds to keep to it)."""
        span = max(now - cycle.began, 1e-6)
        known = self.rate_per_s
        if known is None:
            first = tuning.BELOW * max(cycle.accepted / max(span, tuning.FIRST_SPAN_S), self._recent_rate())
            self._searching = True
            return max(first, tuning.SLOWEST), tuning.SEARCH_HOLD_S
        rate = self._found_early(cycle, span, known) if early else self._found_late(now, cycle, span, known)
        rate = max(rate, tuning.SLOWEST)
        if self._searching:
            self._searching = early or cycle.accepted < tuning.ENOUGH
            if self._searching and not early:
                rate = max(min(tuning.CUT * known, tuning.BELOW * (cycle.accepted + 1) / span), tuning.SLOWEST)
            elif not early:
                rate = max(tuning.BELOW * min(self._recent_rate(), self._pace(now) or known), tuning.SLOWEST)
            return rate, tuning.SHORT_HOLD_S
        return rate, tuning.hold_s(rate)

    def _found_early(self, cycle: _Cycle, span: float, known: float) -> float:
        if self._floor is None:
            # The bucket is empty: what it lets through now is its rate.
            return min(known * 0.95, cycle.accepted / span * tuning.BELOW)
        if self._floor < tuning.FAR * known and not self._stepped:
            # The pace has grown much in that cycle: its average means little, the last part means more.
            self._stepped = True
            return tuning.STEP * known
        rate, self._floor = tuning.BELOW * self._floor, None
        self._trust_left = self._trust
        self._trust = min(2 * self._trust, tuning.TRUSTED_MOST)
        return rate

    def _found_late(self, now: float, cycle: _Cycle, span: float, known: float) -> float:
        average = cycle.accepted / span
        pace = self._pace(now) or known
        if self._trust_left > 0:
            self._trust_left -= 1
            # One call more or less between two refusals is chance: with few of them it must not pull the rate down.
            return tuning.BELOW * min(pace, (cycle.accepted + 0.5) / span)
        if self._floor is not None and not self._stepped:
            self._trust = tuning.TRUSTED_CYCLES  # the measured rate was right
        self._floor, self._stepped = average if cycle.accepted >= tuning.ENOUGH else None, False
        overshot = min(tuning.OVERSHOT * tuning.share_per_s(known) / known, tuning.OVERSHOT_MOST)
        # What was accepted from one refusal to the next is less than the server allows, however it counts.
        return max((0.99 - overshot) * min(pace, tuning.LEAP * known), tuning.BELOW * average)

    def _recent_rate(self) -> float:
        times = [send.at for send in list(self._sends)[-tuning.RECENT_CALLS :]]
        if len(times) < tuning.ENOUGH:
            return 1.0
        return (len(times) - 1) / max(times[-1] - times[0], tuning.FIRST_SPAN_S)

    # -- growing

    def _grow(self, in_flight: int) -> None:
        used = in_flight if not self._slow_start else 2 * in_flight
        if used < self.limit - self.limit // 8 or self.limit >= self.ceiling:
            return  # the limit is not what holds the run back
        if self._slow_start:
            if self._queues(tuning.DOUBLED):
                self.limit, self._slow_start = self._base_limit, False
                return
            self.limit = min(self.limit + 1, self.ceiling)
            return
        self._since_probe += 1
        if self._since_probe >= self._patience * (self.limit if self._probes_kept else max(60, 3 * self.limit)):
            self._probe()

    def _probe(self) -> None:
        """Raise the limit a little, then by more and more, as long as answers do not take longer."""
        self._since_probe = 0
        if self._queues(tuning.WIDER):
            self.limit, self._probes_kept = self._base_limit, 0
            self._patience = min(2 * self._patience, tuning.PATIENCE_MOST)
            return
        self.limit = min(self.ceiling, self.limit + max(1, int(self.limit * tuning.PROBE_SHARE * 3**self._probes_kept)))
        self._probes_kept = min(self._probes_kept + 1, 3)

    def _queues(self, wider: float) -> bool:
        """Whether answers take longer than when the limit was `wider` times lower: then more only wait in a queue."""
        latency = self._latency_s or 0.0
        if not self._base_limit:
            self._base_limit, self._base_latency_s = self.limit, latency
        grown = self.limit / self._base_limit
        if grown < wider or self.limit <= tuning.SMALL:
            return False
        most = self._base_latency_s * (1.0 + tuning.LONGER * (grown - 1.0))
        if latency > max(most, self._base_latency_s + tuning.OWN_WORK_S):
            return True
        self._base_limit = self.limit
        if latency <= most:  # else the base stays: what this program's own work takes must not add up
            self._base_latency_s = latency
        return False


def _is_long_enough(cycle: _Cycle, now: float) -> bool:
    """Whether a cycle is long enough to measure a rate."""
    return cycle.accepted >= tuning.ENOUGH and now - cycle.began >= tuning.SHORT_HOLD_S / 2
