"""Limits of a server that nobody was told: calls a minute with a burst, and calls at once. Above them it answers 429.

Each (account, model) has its own. Pure: the world says what time it is and when a call is over. Refuses figures that
would let nothing through.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.simulator.refusals import REFUSALS, Refusal

_NEARLY = 1e-3
"""A share of a call that the arithmetic of large times may lose."""
_BUSY_S = 1
"""What a server that is full says to wait: it cannot know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """None is no such limit."""

    per_minute: float | None = None
    burst: float | None = None
    """Calls that may come at once after a pause; None is a tenth of a minute's worth, at least one."""
    concurrent: int | None = None
    """Calls under way at once; a task counts until its submit is answered."""
    schedule: Sequence[tuple[float, float]] = ()
    """(seconds since the lane's first call, factor): from then on both limits are multiplied by it; in order."""
    hint: bool = False
    """True: refusals say in `Retry-After` when the next call would be let in."""

    def __post_init__(self) -> None:
        figures = {"rpm": self.per_minute, "burst": self.burst, "concurrent": self.concurrent}
        wrong = [name for name, figure in figures.items() if figure is not None and figure <= 0]
        starts = [start for start, _ in self.schedule]
        if wrong or starts != sorted(starts) or any(factor <= 0 for _, factor in self.schedule):
            problem = f"{', '.join(wrong)} must be above 0" if wrong else "the schedule is not in order, or has no rate"
            raise JobMistakesError((Mistake(key="limits", problem=problem, expected="figures above 0"),))


NO_LIMITS = Limits()


@dataclass(slots=True, kw_only=True)
class Turnstile:
    """The limits of one lane, and what has gone through them."""

    limits: Limits
    busy: int = 0
    _began: float | None = None
    _at: float = 0.0
    _level: float = field(init=False, default=0.0)

    def enter(self, now: float) -> Refusal | None:
        """Let a call in, which counts until `leave`; or say why not."""
        limits = self.limits
        factor = self._refill(now)
        if limits.concurrent is not None and self.busy >= max(1, round(limits.concurrent * factor)):
            return self._refusal(_BUSY_S)
        if limits.per_minute is not None:
            if self._level < 1.0 - _NEARLY:
                wait_s = (1.0 - self._level) * 60.0 / (limits.per_minute * factor)
                return self._refusal(max(1, math.ceil(wait_s)))
            self._level -= 1.0
        self.busy += 1
        return None

    def leave(self) -> None:
        """A call that was let in is over."""
        self.busy -= 1

    def _refusal(self, wait_s: int) -> Refusal:
        refusal = REFUSALS["T1"]
        return refusal.with_header("retry-after", str(wait_s)) if self.limits.hint else refusal

    def _refill(self, now: float) -> float:
        """Let time pass; the factor that holds now."""
        limits = self.limits
        burst = self._burst()
        if self._began is None:
            self._began, self._at, self._level = now, now, burst
        factor = 1.0
        edges = [(self._began + start, change) for start, change in limits.schedule]
        for start, change in edges:
            if start > now:
                break
            self._pass(start, factor, burst)
            factor = change
        self._pass(now, factor, burst)
        return factor

    def _pass(self, until: float, factor: float, burst: float) -> None:
        if until > self._at and self.limits.per_minute is not None:
            self._level = min(burst, self._level + (until - self._at) * self.limits.per_minute * factor / 60.0)
        self._at = max(self._at, until)

    def _burst(self) -> float:
        limits = self.limits
        if limits.burst is not None:
            return max(1.0, limits.burst)
        return max(1.0, (limits.per_minute or 0.0) / 10.0)


class Turnstiles:
    """One for each lane."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_lane: dict[tuple[str, str], Turnstile] = {}

    def __repr__(self) -> str:
        return f"Turnstiles({self._limits}, {len(self._of_lane)} lanes)"

    def of(self, lane: tuple[str, str]) -> Turnstile:
        """The turnstile of (token hash, model)."""
        if lane not in self._of_lane:
            self._of_lane[lane] = Turnstile(limits=self._limits)
        return self._of_lane[lane]
