"""Rates as whoever stands outside may measure them: every window at once, one step an event."""

from dataclasses import dataclass

_NOTHING = 1e-6


@dataclass(slots=True)
class Level:
    """A bucket, full at first. It never falls below zero just when no window holds more than rate x window + burst."""

    rate_per_s: float
    burst: float
    level: float = -1.0
    at: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take it; False when it was more than there was. A negative amount is given back."""
        self.level = min(self.burst, self.level + (now - self.at) * self.rate_per_s)
        self.at = now
        fits = self.level >= min(amount, self.burst) - _NOTHING
        self.level = min(self.burst, self.level - amount)
        return fits


@dataclass(slots=True)
class RetryAllowance:
    """Retries of failures in one lane and one life: ten at first, a tenth of the sends, one in five seconds.

    An item that comes through gives back what its last retry took.
    """

    began: float
    sends: int = 0
    retries: int = 0
    """Those that were not given back."""

    def record_success(self) -> None:
        """An item whose last send was such a retry is done."""
        self.retries -= 1

    def sent(self, *, again: bool, now: float) -> bool:
        """A send leaves; False when it is one retry too many."""
        self.sends += 1
        self.retries += again
        allowed = 10.0 + 0.1 * self.sends + 0.2 * (now - self.began)
        return not again or self.retries <= allowed + _NOTHING
