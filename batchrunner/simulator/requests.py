"""A paid POST as the world sees it: who sends what, how often before, and which scenarios it asked for."""

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from batchrunner.core.job import Json
from batchrunner.core.values import asdict, dataclass, field, replace
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.quotas import SimulatedLane
from batchrunner.simulator.refusals import Refusal, refuse
from batchrunner.simulator.script import (
    JSON_TYPE,
    Cut,
    Delay,
    Hang,
    RandomSource,
    Reset,
    Script,
    Send,
    Step,
    as_list,
    as_object,
    digest_of,
)

# What came in: counters for the tests' questions, and the last requests in a ring. No token and no prompt is kept.

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
    batches: int
    """Batches that were ordered."""
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


_ANSWERS_DIFFER = 0.5

Chosen = dict[str, float | None]
"""Scenarios by name, each with the figure after its colon."""


@dataclass(slots=True, kw_only=True)
class Order:
    """One request for something that is paid for."""

    now: float
    """Wall clock, seconds since 1970."""
    headers: dict[str, str]
    body: dict[str, Json]
    model: str
    """As sent, scenario included."""
    chosen: Chosen
    lane: SimulatedLane
    random_source: RandomSource
    request_id: str
    latency: Latency
    files_base: str
    """Where pictures are fetched from: scheme, host and port."""
    breaks_schema: bool = False
    """If it asks for structured output, its answer is to miss the schema."""
    answer_tokens: int | None = None
    """About how many tokens answers are counted as; None counts what they say."""
    unread: bool = False
    """Nobody reads the answer's words: their counts and times are enough."""

    @property
    def base_model(self) -> str:
        """The model without its scenario."""
        return self.model.partition("#")[0]

    @property
    def nth(self) -> int:
        """1 for the first send of this content by this account."""
        return self.random_source.nth

    def figure(self, scenario: str, otherwise: float) -> float:
        """The figure that came with a scenario."""
        said = self.chosen.get(scenario)
        return otherwise if said is None else said

    def answer_tokens_of(self, counted: int) -> int:
        """What an answer is counted as; `counted` is what it says."""
        if self.answer_tokens is None:
            return counted
        said = max(1, round(self.random_source.spread(self.answer_tokens, _ANSWERS_DIFFER, "tokens")))
        limit = self.body.get("max_tokens") or self.body.get("max_completion_tokens")
        return min(said, limit) if isinstance(limit, int) else said

    def refuse(self, refusal: Refusal) -> Script:
        """The error reply."""
        return refuse(refusal, model=self.base_model, request_id=self.request_id)


# Which order a request is: the same one again, or one that continues another.
#
# Independent of models and answers. What changes how an answer travels (`stream`) does not make another order.

_STREAM_KEYS = frozenset({"stream", "stream_options"})

_sorted = json.JSONEncoder(sort_keys=True).encode


def content_of(account: str, body: Mapping[str, Json]) -> int:
    """The digest of account and body: equal for equal orders."""
    matter = {name: value for name, value in body.items() if name not in _STREAM_KEYS}
    return digest_of(account, _sorted(matter))


def content_before(account: str, body: Mapping[str, Json]) -> int | None:
    """The digest of the order that this one continues: without the last answer and the reply to it.

    None when the conversation has only begun.
    """
    name = "messages" if "messages" in body else "input"
    turns = as_list(body.get(name))[:-1]
    if turns and as_object(turns[-1]).get("role") == "assistant":
        turns.pop()
    return content_of(account, {**body, name: turns}) if turns else None


# How the bytes of a reply are spread over time and over pieces, and how a reply breaks off in its middle.


def whole(body: bytes, order: Order, *, pieces: int | None = None) -> Script:
    """A reply in one piece; it takes as long as its stream of so many `pieces` would. None: about as long."""
    wait_s = order.latency.chunk_s * (pieces or min(10, 2 + len(body) // 96))
    working = (Delay(seconds=wait_s),) if wait_s else ()
    return Script(headers={"content-type": JSON_TYPE}, steps=(*working, Send(piece=body)))


def paced(pieces: Sequence[bytes], order: Order, *, exact: bool) -> tuple[Step, ...]:
    """The pieces as steps. Unless they are `exact`, a reply without waits is cut anew at arbitrary bytes, in three.

    A network does not respect the edges of events, and three writes cost less than twenty.
    """
    wait_s = order.latency.chunk_s
    if wait_s:
        sends = [(Delay(seconds=wait_s), Send(piece=piece)) for piece in pieces]
        return tuple(step for pair in sends for step in pair)
    if exact:
        return tuple(Send(piece=piece) for piece in pieces)
    stream = b"".join(pieces)
    first, second = sorted(int(order.random_source.roll(f"edge {at}") * len(stream)) for at in (1, 2))
    cuts = (stream[:first], stream[first:second], stream[second:])
    return tuple(Send(piece=piece) for piece in cuts if piece)


def delay(script: Script, order: Order) -> None:
    """Put the time to the first byte before it."""
    wait_s = order.random_source.spread(order.latency.first_byte_s, order.latency.spread, "first byte")
    if wait_s:
        script.early = (Delay(seconds=wait_s), *script.early)


def slow_to_refuse(script: Script, order: Order) -> Script:
    """A refusal, after the time that it takes."""
    wait_s = order.random_source.spread(order.latency.refusal_s, order.latency.spread, "refusal")
    return replace(script, early=(Delay(seconds=wait_s), *script.early)) if wait_s else script


def broken_off(script: Script, last: Cut | Reset | Hang) -> Script:
    """The first half of a reply's bytes, and then `last`. A reply in one piece announces its whole length."""
    total = len(script.body)
    left = total // 2
    steps: list[Step] = []
    for step in script.steps:
        if isinstance(step, Send):
            piece = step.piece[:left]
            left -= len(piece)
            steps.append(Send(piece=piece))
            if not left:
                break
        else:
            steps.append(step)
    single = sum(isinstance(step, Send) for step in script.steps) == 1
    headers = {**script.headers, "content-length": str(total)} if single else script.headers
    return replace(script, headers=headers, steps=(*steps, last))
