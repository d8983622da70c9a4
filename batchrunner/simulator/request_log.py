"""What came in: counters for the tests' questions, and the last requests in a ring. No token and no prompt is kept."""

from collections import Counter, deque
from dataclasses import asdict, dataclass, field

from batchrunner.core.job import Json

_CREDENTIALS = ("authorization", "x-api-key", "cookie", "proxy-authorization")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One request."""

    number: int
    """1 for the first one."""
    at: float
    method: str
    path: str
    kind: str
    status: int
    """0: no head was sent."""
    verdict: str
    account: str = ""
    """Hash of the token."""
    model: str = ""
    content: str = ""
    """Digest of account and body without stream options: equal for equal orders."""
    nth: int = 0
    paid: bool = False
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What `GET /_simulator/stats` shows. Counts since the start or the last reset."""

    requests: dict[str, int]
    """By kind."""
    verdicts: dict[str, int]
    """What became of them."""
    sends: int
    """POSTs to what is paid for, refused ones included."""
    refused: int
    """Sends that were answered with a status of 400 or more."""
    paid: int
    paid_twice: int
    """Paid executions beyond the first of the same order; failed tasks are refunded and do not count."""
    tasks: int
    polls: int
    most_polls_of_a_task: int
    downloads: int
    in_flight: int
    max_in_flight: int
    max_per_second: int
    """Requests of one account in one second of the world's clock."""
    too_early: int
    """Sends that came before a stated Retry-After was over."""
    storage_credentials: dict[str, int]
    """Downloads that carried a credential, by header; must stay empty."""


@dataclass(slots=True, kw_only=True)
class RequestLog:
    """Counts and remembers."""

    size: int
    number: int = 0
    sends: int = 0
    refused: int = 0
    paid: int = 0
    paid_twice: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    max_per_second: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    storage_credentials: Counter[str] = field(default_factory=Counter)
    ring: deque[LogEntry] = field(init=False)
    _paid: dict[int, int] = field(default_factory=dict)
    _sent: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ring = deque(maxlen=self.size)

    def sent(self, content: int) -> int:
        """How often this order came, this time included."""
        self._sent[content] = nth = self._sent.get(content, 0) + 1
        return nth

    def count_paid(self, content: int) -> None:
        """This order was executed for money."""
        self.paid += 1
        self._paid[content] = times = self._paid.get(content, 0) + 1
        self.paid_twice += times > 1

    def answered(self, content: int | None) -> bool:
        """Whether this order was executed before."""
        return content in self._paid

    def enter(self) -> None:
        """A send begins."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def leave(self) -> None:
        """A send is over."""
        self.in_flight = max(0, self.in_flight - 1)

    def note_credentials(self, headers: dict[str, str]) -> None:
        """Remember which credentials a request to the storage port carried, not what they were."""
        self.storage_credentials.update(name for name in _CREDENTIALS if name in headers)

    def add(self, entry: LogEntry) -> None:
        """One request is answered."""
        self.requests[entry.kind] += 1
        self.verdicts[entry.verdict] += 1
        self.ring.append(entry)

    def count(self, kind: str, verdict: str) -> None:
        """As `add`, where no request is remembered."""
        self.requests[kind] += 1
        self.verdicts[verdict] += 1

    def since(self, number: int) -> list[Json]:
        """The remembered requests after this number, oldest first."""
        return [asdict(entry) for entry in self.ring if entry.number > number]
