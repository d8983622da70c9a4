"""How fast, how long, until when: arithmetic on times that are given. Nothing here reads a clock or rolls dice.

The constants and their reasons: docs/limits.md#constants.
"""

from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400.0
_SHANGHAI_OFFSET_S: Final = 8 * 3600.0
_PROBE_AFTER_MIDNIGHT_S: Final = 300.0
PROBE_FIRST_S: Final = 60.0
PROBE_CAP_S: Final = 3600.0
_NOTHING: Final = 1e-9
GIVE_UP_PARKED_S: Final = 48 * 3600.0
"""A quota is waited for this long, then the run ends, resumable."""


def backoff_s(*, first_s: float, cap_s: float, tries: int, dice: float) -> float:
    """Exponential from `first_s`, doubled with each of `tries` (0 is the first wait), capped, with jitter.

    `dice` is uniform in [0, 1): the wait is 50 to 100 % of the nominal one, so that a herd spreads out.
    """
    nominal = min(first_s * 2.0 ** min(tries, 30), cap_s)
    return nominal * (0.5 + 0.5 * dice)


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


def minute_bucket(per_minute: float) -> Bucket:
    """A bucket for a limit per minute: spread out, with a burst of a twentieth of a minute's worth and at least one.

    A full minute's burst at the start would make the first minute hold twice the limit.
    """
    return Bucket(rate_per_s=per_minute / 60.0, burst=max(1.0, per_minute / 20.0))


@dataclass(slots=True, kw_only=True)
class Breaker:
    """Counts the same trouble on different items in a row; a success or another trouble starts again."""

    threshold: int
    trouble: tuple[str, str] | None = None
    count: int = 0

    def success(self) -> None:
        """An item came through."""
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
