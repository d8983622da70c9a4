"""Who asks for what how often: accounts by the hash of their token, and one lane for each (account, model).

Days are those of Asia/Shanghai, where ModelScope's daily figures are assumed to begin anew. No token is kept.
"""

import hashlib
import math
from collections import deque
from collections.abc import Sequence

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.values import dataclass, field
from batchrunner.simulator.refusals import REFUSALS, Refusal

_SHANGHAI_OFFSET_S = 8 * 3600
_DAY_S = 86_400


def day_of(now: float) -> int:
    """The number of the day in Shanghai, for a wall clock time."""
    return int((now + _SHANGHAI_OFFSET_S) // _DAY_S)


def token_hash(token: str) -> str:
    """Twelve hex digits that stand for a token wherever something is kept or shown."""
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Calls a day; None is no limit and no header."""

    account_per_day: int | None = 10_000_000
    model_per_day: int | None = 10_000_000
    points: float = 250.0
    """What the balance endpoint starts from; nothing is refused when they are used up."""


@dataclass(slots=True, kw_only=True)
class Account:
    """What one token did."""

    hash: str
    day: int = 0
    today: int = 0
    executed: int = 0
    second: int = 0
    in_second: int = 0

    def count_request(self, now: float) -> int:
        """Requests of this account in the present second, this one included."""
        if int(now) != self.second:
            self.second, self.in_second = int(now), 0
        self.in_second += 1
        return self.in_second

    def used(self, now: float) -> int:
        """Calls of this day."""
        if day_of(now) != self.day:
            self.day, self.today = day_of(now), 0
        return self.today


@dataclass(slots=True, kw_only=True)
class SimulatedLane:
    """What one token did with one model."""

    account: Account
    model: str
    day: int = 0
    today: int = 0
    calls: int = 0
    in_flight: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=4096))
    """Times of the last calls, kept only where a scenario looks at rates."""
    memory: dict[str, float] = field(default_factory=dict)
    """What scenarios remember of this lane."""

    @property
    def key(self) -> tuple[str, str]:
        """(token hash, model)."""
        return (self.account.hash, self.model)

    def used(self, now: float) -> int:
        """Calls of this day."""
        if day_of(now) != self.day:
            self.day, self.today = day_of(now), 0
        return self.today

    def count_executed(self, now: float) -> None:
        """One more call was executed."""
        self.used(now)
        self.account.used(now)
        self.today += 1
        self.account.today += 1
        self.account.executed += 1


class Accounts:
    """All accounts and lanes that were seen."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._lanes: dict[tuple[str, str], SimulatedLane] = {}

    def __repr__(self) -> str:
        return f"Accounts({len(self._accounts)} accounts, {len(self._lanes)} lanes)"

    def account(self, token: str) -> Account:
        """The account of a token; "" is whoever sends none."""
        hashed = token_hash(token)
        if hashed not in self._accounts:
            self._accounts[hashed] = Account(hash=hashed)
        return self._accounts[hashed]

    def lane(self, account: Account, model: str) -> SimulatedLane:
        """The account's lane for a model."""
        key = (account.hash, model)
        if key not in self._lanes:
            self._lanes[key] = SimulatedLane(account=account, model=model)
        return self._lanes[key]

    @property
    def too_early(self) -> int:
        """Calls that came before a stated wait was over, on all lanes."""
        return int(sum(lane.memory.get("too early", 0) for lane in self._lanes.values()))

    def leave(self, key: tuple[str, str]) -> None:
        """A call of this lane is over."""
        lane = self._lanes.get(key)
        if lane is not None and lane.in_flight:
            lane.in_flight -= 1


def rate_headers(
    lane: SimulatedLane, *, now: float, account_limit: int | None, model_limit: int | None
) -> dict[str, str]:
    """The `modelscope-ratelimit-*` headers, see docs/providers/modelscope.md; none for a limit that does not exist."""
    headers: dict[str, str] = {}
    if account_limit is not None:
        left = max(0, account_limit - lane.account.used(now))
        headers["modelscope-ratelimit-requests-limit"] = str(account_limit)
        headers["modelscope-ratelimit-requests-remaining"] = str(left)
    if model_limit is not None:
        left = max(0, model_limit - lane.used(now))
        headers["modelscope-ratelimit-model-requests-limit"] = str(model_limit)
        headers["modelscope-ratelimit-model-requests-remaining"] = str(left)
    return headers


# Undocumented limits of a server: calls a minute with a burst, and concurrent calls. Above them it answers 429.
#
# Each (account, model) has its own. Pure: the world says what time it is and when a call is over. Refuses figures that
# would let nothing through.

_NEARLY = 1e-3
"""A share of a call that the arithmetic of large times may lose."""
_BUSY_S = 1
"""What a server that is full says to wait: it cannot know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
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
            raise JobMistakesError((Mistake(key="limits", problem=problem, expected="numbers above 0"),))


NO_LIMITS = RateLimits()


@dataclass(slots=True, kw_only=True)
class LaneLimiter:
    """The limits of one lane, and what has gone through them."""

    limits: RateLimits
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


class LaneLimiters:
    """One for each lane."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._of_lane: dict[tuple[str, str], LaneLimiter] = {}

    def __repr__(self) -> str:
        return f"LaneLimiters({self._limits}, {len(self._of_lane)} lanes)"

    def of(self, lane: tuple[str, str]) -> LaneLimiter:
        """The limiter of (token hash, model)."""
        if lane not in self._of_lane:
            self._of_lane[lane] = LaneLimiter(limits=self._limits)
        return self._of_lane[lane]
