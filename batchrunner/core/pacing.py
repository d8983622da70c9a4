"""How fast, how long, until when: arithmetic on times that are given. Reads no clock, draws no random numbers.

The constants and their reasons: docs/limits.md#constants.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from batchrunner.core.values import dataclass, field

if TYPE_CHECKING:
    from batchrunner.core.part import Shard

DAY_S: Final = 86_400.0
_SHANGHAI_OFFSET_S: Final = 8 * 3600.0
_PROBE_AFTER_MIDNIGHT_S: Final = 300.0
PROBE_FIRST_S: Final = 60.0
PROBE_CAP_S: Final = 3600.0
_NOTHING: Final = 1e-9
GIVE_UP_PARKED_S: Final = 48 * 3600.0
"""A quota is waited for this long, then the run ends, resumable."""


def backoff_s(*, first_s: float, cap_s: float, tries: int, random_source: float) -> float:
    """Exponential from `first_s`, doubled with each of `tries` (0 is the first wait), capped, with jitter.

    `random_source` is uniform in [0, 1): the wait is 50 to 100 % of the nominal one, so that a herd spreads out.
    """
    nominal = min(first_s * 2.0 ** min(tries, 30), cap_s)
    return nominal * (0.5 + 0.5 * random_source)


def next_quota_probe(*, wall: float, probes: int, shanghai: bool) -> float:
    """Wall clock time of the next probe of a spent daily quota, after `probes` that were refused.

    The first one is at 00:05 Asia/Shanghai where that is when counters are known to turn (it is a probe, no truth);
    later ones, and first ones elsewhere, come at growing intervals up to an hour.
    """
    if shanghai and probes == 0:
        local = wall + _SHANGHAI_OFFSET_S
        turn = (local // DAY_S) * DAY_S + _PROBE_AFTER_MIDNIGHT_S
        if turn <= local:
            turn += DAY_S
        return turn - _SHANGHAI_OFFSET_S
    return wall + min(PROBE_FIRST_S * 2.0 ** min(probes, 30), PROBE_CAP_S)


@dataclass(slots=True, kw_only=True)
class Bucket:
    """A token bucket: `rate_per_s` refills up to `burst`. Times are monotonic seconds."""

    rate_per_s: float
    burst: float
    level: float = -1.0
    """What may be taken now; a negative one at first means full."""
    at: float | None = None

    def __post_init__(self) -> None:
        if self.level < 0.0:
            self.level = self.burst

    def __repr__(self) -> str:
        return f"<Bucket: {self.level:.2f} of {self.burst:g}, +{self.rate_per_s:g}/s>"

    def wait_s(self, now: float, amount: float = 1.0) -> float:
        """Seconds until `amount` may be taken; 0 when it may now. An amount above the burst needs a full bucket."""
        self._refill(now)
        missing = min(amount, self.burst) - self.level
        return missing / self.rate_per_s if missing > _NOTHING else 0.0

    def take(self, now: float, amount: float = 1.0) -> None:
        """Take it, below zero if need be: what was really used counts. A negative amount is a credit."""
        self._refill(now)
        self.level = min(self.burst, self.level - amount)

    def _refill(self, now: float) -> None:
        if self.at is not None:
            self.level = min(self.burst, self.level + max(0.0, now - self.at) * self.rate_per_s)
        self.at = now


_SHARD_BURST_S: Final = 0.1
"""Seconds' worth of a limit that a shard saves up at most: the bursts of all shards meet at one server."""


def minute_bucket(per_minute: float, shard: "Shard | None" = None) -> Bucket:
    """A bucket for a limit per minute: spread out, with a burst of a twentieth of a minute's worth and at least one.

    A full minute's burst at the start would make the first minute hold twice the limit. With a shard, whose share of
    the job's limit is given, it holds a tenth of a second's worth and begins with less than one, by the shard's number:
    shards that start together send in turns, not all at once.
    """
    bucket = Bucket(rate_per_s=per_minute / 60.0, burst=max(1.0, per_minute / 20.0))
    if shard is not None:
        bucket.burst = max(1.0, bucket.rate_per_s * _SHARD_BURST_S)
        bucket.level = 1.0 - (shard.number + 1) / shard.of
    return bucket


def changed_bucket(before: Bucket | None, per_minute: float | None, shard: "Shard | None" = None) -> Bucket | None:
    """A bucket for another limit, with no more in it than there was: setting a limit again allows no new burst."""
    if per_minute is None:
        return None
    bucket = minute_bucket(per_minute, shard)
    bucket.level = min(bucket.burst, before.level) if before is not None else 0.0
    bucket.at = before.at if before is not None else None
    return bucket


_RETRIES_PER_SEND: Final = 0.1
_RETRIES_PER_S: Final = 0.2
_RETRIES_AT_FIRST: Final = 10.0
_RETRIES_SAVED: Final = 500.0
"""What good hours may save up: a run whose faults are rare never waits for its budget."""


class RetryBudget:
    """Retries of failed items: a tenth of the sends, never slower than one in five seconds. Times are monotonic."""

    __slots__ = ("_bucket", "outcomes")

    def __init__(self) -> None:
        self._bucket = Bucket(rate_per_s=_RETRIES_PER_S, burst=_RETRIES_SAVED, level=_RETRIES_AT_FIRST)
        self.outcomes = 0
        """Sends that came to something since the last time that the budget was asked; counted by the lane."""

    def starts(self, now: float) -> None:
        """From the first outcome on time saves up, too."""
        if self._bucket.at is None:
            self._bucket.at = now

    def wait_s(self, now: float) -> float:
        """Seconds until one more failed item may be tried."""
        self._save_up(now)
        return self._bucket.wait_s(now)

    def take(self, now: float, amount: float = 1.0) -> None:
        """One is tried again now; a negative amount gives one back."""
        self._save_up(now)
        self._bucket.take(now, amount)

    def _save_up(self, now: float) -> None:
        """What the sends since the last time have saved up: the same sum as if each had done it by itself."""
        self._bucket.take(now, -_RETRIES_PER_SEND * self.outcomes)
        self.outcomes = 0


@dataclass(slots=True, kw_only=True)
class Breaker:
    """Counts the same trouble on different items in a row; a success or another trouble starts again."""

    threshold: int
    trouble: tuple[str, str] | None = None
    count: int = 0

    def success(self) -> None:
        """An item got its answer."""
        self.trouble = None
        self.count = 0

    def trips(self, kind: str, message: str) -> bool:
        """Note one more; True when it is enough."""
        if (kind, message) != self.trouble:
            self.trouble = (kind, message)
            self.count = 0
        self.count += 1
        return self.count >= self.threshold


def estimate_tokens(chars: int) -> int:
    """A quarter of the characters, at least one: a rule of thumb for pacing, corrected by real usage."""
    return max(1, chars // 4)


def next_midnight(*, wall: float, offset_s: float) -> float:
    """Wall clock time of the next midnight in a zone `offset_s` seconds east of UTC."""
    return ((wall + offset_s) // DAY_S + 1) * DAY_S - offset_s


def day_of(*, wall: float, offset_s: float) -> int:
    """Days since 1970 in a zone `offset_s` seconds east of UTC."""
    return int((wall + offset_s) // DAY_S)


# When to poll a remote task: arithmetic on ages that are given. Reads no clock, draws no random numbers.
#
# Nobody says when a task will end, so it is asked when the answer is likely: `RunTimes` learns how long the tasks of a
# model run, and its plan weighs each poll against the waiting that it saves. `PollPace` is how often one account may be
# asked (invariant 15). What a poll says: docs/providers/modelscope.md#poll.

LATE_SECOND: Final = 0.45
"""Polls that a second of not noticing is worth."""
LATE_AT_ALL: Final = 3.6
"""Polls that noticing within NOTICED_AT_ONCE_S, rather than later, is worth."""
NOTICED_AT_ONCE_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0
SHORTEST_WAIT_S: Final = 0.5
ENOUGH_ENDS: Final = 8
"""Ends that must have been seen before what was learned is believed."""

_EXPLORED: Final = 0.01
_JITTER_S: Final = 0.1
_YOUNG_S: Final = 120.0
_YOUNG_CAP_S: Final = 10.0
_MEMORY: Final = 400.0
_PRIOR_TASKS: Final = 2.0
_LONGEST_AGE_S: Final = 600.0
_CERTAIN: Final = 0.999
_NEIGHBOURS: Final = ((-2, 1.0 / 9.0), (-1, 2.0 / 9.0), (0, 3.0 / 9.0), (1, 2.0 / 9.0), (2, 1.0 / 9.0))
"""What a bin's neighbours have seen says something of it, too: else the plan chases chance."""


def _edges() -> tuple[float, ...]:
    """Ages that bound the bins: half seconds up to half a minute, then ever longer steps, 4 s at two minutes."""
    edges = [0.0]
    while edges[-1] < _LONGEST_AGE_S:
        edges.append(edges[-1] + max(0.5, 0.04 * edges[-1] - 0.7))
    return tuple(edges)


EDGES_S: Final = _edges()
_BINS: Final = len(EDGES_S) - 1
_PRIOR: Final = tuple(1.2 * (high - low) / (high + 5.0) for low, high in pairwise(EDGES_S))
"""Chance to end in a bin before anything is known: half of all tasks within 4 s, a tenth longer than half a minute."""


def first_cadence_s(*, age_s: float, polls: int) -> float:
    """Seconds to the next poll while nothing is known: 3 s, growing by half up to 10 s, 30 s after two minutes."""
    cap_s = _YOUNG_CAP_S if age_s < _YOUNG_S else LONGEST_WAIT_S
    return min(3.0 * 1.5 ** min(polls, 10), cap_s)


@dataclass(slots=True, kw_only=True)
class RunTimes:
    """How long a model's tasks run, as a chance to end in each bin of age: ends seen there by tasks that came there.

    A task that is still open counts for every bin it came through, so that the quick ones are not taken for all. Each
    bin remembers about 400 tasks: memory is bounded, and a server that changes its pace is followed.
    """

    ends: int = 0
    _came: list[float] = field(default_factory=lambda: [0.0] * _BINS)
    _ended: list[float] = field(default_factory=lambda: [0.0] * _BINS)
    _plan: tuple[float, ...] = ()
    _plan_until: int = ENOUGH_ENDS

    def __repr__(self) -> str:
        return f"<RunTimes: {self.ends} ends seen, next poll at {self._plan[0] if self._plan else 3.0:g} s>"

    def still_open(self, *, since_s: float, age_s: float) -> None:
        """A task was open at the age of `since_s`, and is open at `age_s`."""
        for place, share in _overlaps(since_s, age_s):
            self._count(place, came=share, ended=0.0)

    def ended(self, *, since_s: float, age_s: float) -> None:
        """A task was open at the age of `since_s`, and had ended at `age_s`: where between, is shared as believed."""
        left, believed = 1.0, []
        for place, share in _overlaps(since_s, age_s):
            here = left * self._chance(place) * share
            believed.append((place, share, here))
            left -= here
        whole, left = sum(here for _, _, here in believed), 1.0
        if whole < _NOTHING:
            return
        self.ends += 1
        for place, share, here in believed:
            # Who ended in a bin came to the whole of it, also to what lies beyond the poll that showed it
            beyond = max(0.0, EDGES_S[place + 1] - age_s) / (EDGES_S[place + 1] - EDGES_S[place])
            self._count(place, came=left * share + here / whole * beyond, ended=here / whole)
            left = max(0.0, left - here / whole)

    def wait_s(self, age_s: float) -> float | None:
        """Seconds until a poll is worth its while for a task of this age; None while too little is known."""
        if self.ends < ENOUGH_ENDS:
            return None
        if not self._plan or self.ends >= self._plan_until:
            self._plan = plan([self._chance(place) for place in range(_BINS)])
            self._plan_until = self.ends + max(4, min(50, self.ends // 8))
        place = bisect_right(EDGES_S, age_s) - 1
        if place >= _BINS:
            return LONGEST_WAIT_S
        return min(max(self._plan[place] - age_s, SHORTEST_WAIT_S), LONGEST_WAIT_S)

    def _chance(self, place: int) -> float:
        came = ended = 0.0
        for step, weight in _NEIGHBOURS:
            near = min(max(place + step, 0), _BINS - 1)
            came += weight * self._came[near]
            ended += weight * self._ended[near]
        return min((ended + _PRIOR_TASKS * _PRIOR[place]) / (came + _PRIOR_TASKS), _CERTAIN)

    def _count(self, place: int, *, came: float, ended: float) -> None:
        faded = min(1.0, _MEMORY / (self._came[place] + came)) if came else 1.0
        self._came[place] = (self._came[place] + came) * faded
        self._ended[place] = (self._ended[place] + ended) * faded


def _overlaps(since_s: float, age_s: float) -> Iterator[tuple[int, float]]:
    """(bin, share of it) that lie between two ages."""
    place = min(bisect_right(EDGES_S, since_s) - 1, _BINS - 1)
    while place < _BINS and EDGES_S[place] < age_s:
        low, high = EDGES_S[place], EDGES_S[place + 1]
        share = (min(high, age_s) - max(low, since_s)) / (high - low)
        if share > 0.0:
            yield place, share
        place += 1


def plan(chances: Sequence[float]) -> tuple[float, ...]:
    """For a task that is open at the lower edge of each bin: the age at which to ask next.

    `chances` are those to end in a bin for tasks that came to it. Solved from the oldest bin down: the next poll is the
    one with the least sum of polls still to make and of what lateness costs, counted in polls.
    """
    reached, open_s = _shares(chances)
    cost = [0.0] * (_BINS + 1)
    ask_at = [LONGEST_WAIT_S] * _BINS
    at_once = [_reached_at(reached, edge - NOTICED_AT_ONCE_S) for edge in EDGES_S]
    for place in range(_BINS - 1, -1, -1):
        here, best = reached[place], float("inf")
        for ask in range(place + 1, _BINS + 1):
            if EDGES_S[ask] - EDGES_S[place] > LONGEST_WAIT_S and ask > place + 1:
                break
            late_s = (EDGES_S[ask] - EDGES_S[place]) * here - (open_s[place] - open_s[ask])
            late = max(0.0, here - at_once[ask])
            price = here + LATE_SECOND * late_s + LATE_AT_ALL * late + cost[ask]
            if price < best:
                best, ask_at[place] = price, EDGES_S[ask]
        cost[place] = best
    return tuple(ask_at)


def _shares(chances: Sequence[float]) -> tuple[list[float], list[float]]:
    """The share of tasks that reach each edge, and the area under it from there on, in seconds."""
    reached = [1.0]
    for chance in chances:
        reached.append(reached[-1] * (1.0 - chance))
    area = [0.0] * (_BINS + 1)
    for place in range(_BINS - 1, -1, -1):
        width = EDGES_S[place + 1] - EDGES_S[place]
        area[place] = area[place + 1] + width * (reached[place] + reached[place + 1]) / 2.0
    return reached, area


def _reached_at(reached: Sequence[float], age_s: float) -> float:
    """The share of tasks that are open at an age, between two edges by a straight line."""
    if age_s <= 0.0:
        return 1.0
    place = bisect_right(EDGES_S, age_s) - 1
    share = (age_s - EDGES_S[place]) / (EDGES_S[place + 1] - EDGES_S[place])
    return reached[place] + share * (reached[place + 1] - reached[place])


def next_poll_s(times: RunTimes, *, age_s: float, polls: int, hint_s: float | None, random_source: float) -> float:
    """Seconds to the next poll of a task that is `age_s` old and was asked `polls` times.

    `random_source` is uniform in [0, 1): it spreads polls out, and sends one in 100 ahead of its time to learn what no
    poll of the plan would show. The server's own hint is a lower bound.
    """
    learned_s = times.wait_s(age_s)
    if learned_s is None:
        wait_s = first_cadence_s(age_s=age_s, polls=polls) * (0.8 + 0.4 * random_source)
    elif random_source < _EXPLORED:
        wait_s = learned_s * random_source / _EXPLORED
    else:
        wait_s = learned_s + _JITTER_S * (2.0 * (random_source - _EXPLORED) / (1.0 - _EXPLORED) - 1.0)
    return max(wait_s, SHORTEST_WAIT_S, hint_s or 0.0)


_STRAINED: Final = 0.35
_STRAIN_STEP: Final = 0.1
_LEAST_SHARE: Final = 1.0 / 32.0
_RECOVERY_SHARE: Final = 0.01
_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 60.0


@dataclass(slots=True, kw_only=True)
class PollPace:
    """How often an account may be asked: `per_second` polls, halved while the server refuses many of them.

    One refused poll says little; about five in a row, or a third of the recent ones, halve the pace and pause it. What
    comes in while that is young belongs to the same event and halves nothing. Each answered poll gives 1 % back.
    """

    per_second: float
    strain: float = 0.0
    """Share of the recent polls that were in vain."""
    closed_until: float = 0.0
    _ignored_until: float = 0.0
    _bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = Bucket(rate_per_s=self.per_second, burst=max(1.0, self.per_second / 2.0))

    def __repr__(self) -> str:
        return f"<PollPace: {self.rate_per_s:g} of {self.per_second:g} polls/s, strain {self.strain:.2f}>"

    @property
    def rate_per_s(self) -> float:
        """Polls a second now."""
        return self._bucket.rate_per_s

    def wait_s(self, now: float) -> float:
        """Seconds until one more poll may leave; 0 when it may now."""
        return max(self.closed_until - now, self._bucket.wait_s(now))

    def take(self, now: float) -> None:
        """A poll leaves."""
        self._bucket.take(now)

    def answered(self, now: float) -> None:
        """A poll came back with word of its task."""
        self.strain -= self.strain * _STRAIN_STEP
        self._turn(now, min(self.per_second, self.rate_per_s + self.per_second * _RECOVERY_SHARE))

    def refused(self, now: float, *, wait_s: float | None) -> None:
        """A poll was in vain, with the server's hint if it gave one."""
        self.strain += (1.0 - self.strain) * _STRAIN_STEP
        if self.strain < _STRAINED or now < self._ignored_until:
            return
        self._turn(now, max(self.per_second * _LEAST_SHARE, self.rate_per_s / 2.0))
        self.closed_until = now + min(max(wait_s or 0.0, _PAUSE_S), _LONGEST_PAUSE_S)
        self._ignored_until = self.closed_until + _PAUSE_S

    def _turn(self, now: float, rate_per_s: float) -> None:
        self._bucket.wait_s(now)  # what has flown in so far came at the old rate
        self._bucket.rate_per_s = rate_per_s
