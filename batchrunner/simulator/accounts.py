"""Who asks for what how often: accounts by the hash of their token, and one lane for each (account, model).

Days are those of Asia/Shanghai, where ModelScope's daily figures are assumed to begin anew. No token is kept.
"""

import hashlib
from collections import deque
from dataclasses import dataclass, field

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
class Lane:
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
        self._lanes: dict[tuple[str, str], Lane] = {}

    def __repr__(self) -> str:
        return f"Accounts({len(self._accounts)} accounts, {len(self._lanes)} lanes)"

    def account(self, token: str) -> Account:
        """The account of a token; "" is whoever sends none."""
        hashed = token_hash(token)
        if hashed not in self._accounts:
            self._accounts[hashed] = Account(hash=hashed)
        return self._accounts[hashed]

    def lane(self, account: Account, model: str) -> Lane:
        """The account's lane for a model."""
        key = (account.hash, model)
        if key not in self._lanes:
            self._lanes[key] = Lane(account=account, model=model)
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


def rate_headers(lane: Lane, *, now: float, account_limit: int | None, model_limit: int | None) -> dict[str, str]:
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
