"""What the world is asked and what it answers: a call, and a script that a transport or server plays. Values only."""

import hashlib
import json
from typing import Literal, NamedTuple, TypeAlias

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field

# Seeded chance: a throw depends on the seed, on what is sent, on how often it was sent, and on what is thrown for.
#
# So a run is reproduced by its seed whatever the order in which concurrent calls arrive.


def digest_of(*parts: str | bytes, bits: int = 64) -> int:
    """A number from the parts, the same on every machine."""
    mixed = hashlib.blake2b(digest_size=bits // 8)
    for part in parts:
        piece = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        mixed.update(len(piece).to_bytes(8, "big"))
        mixed.update(piece)
    return int.from_bytes(mixed.digest(), "big")


@dataclass(slots=True, kw_only=True)
class RandomSource:
    """The chance of one call."""

    seed: int
    content: int
    """Digest of what is sent."""
    nth: int
    """1 for the first time that this content came."""

    def roll(self, purpose: str) -> float:
        """A number in [0, 1)."""
        # 53 bits, because a 64-bit fraction may round up to 1.0
        return (digest_of(f"{self.seed}/{self.content}/{self.nth}/{purpose}") >> 11) / 2.0**53

    def spread(self, seconds: float, share: float, purpose: str) -> float:
        """`seconds`, more or less by at most `share` of it."""
        return seconds * (1.0 + share * (2.0 * self.roll(purpose) - 1.0)) if share and seconds else seconds


Role = Literal["api", "files"]


@dataclass(slots=True, kw_only=True)
class Call:
    """A request as it came in at one of the two ports."""

    method: str
    path: str
    """With its query, as sent."""
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    role: Role = "api"

    @property
    def token(self) -> str:
        """The credential that it brings; "" without one."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else self.headers.get("x-api-key", "").strip()


class Visit(NamedTuple):
    """A call on its way through the world."""

    call: Call
    path: str
    """Without its query."""
    query: str
    now: float
    """Wall clock, seconds since 1970."""
    number: int
    request_id: str


@dataclass(slots=True, kw_only=True)
class Delay:
    """Nothing happens for a while."""

    seconds: float


@dataclass(slots=True, kw_only=True)
class Send:
    """A piece of the body."""

    piece: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The connection is closed in good order although the body is not at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """The connection is aborted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Nothing happens any more, until the client leaves."""


EarlyStep: TypeAlias = Delay | Reset | Hang
Step: TypeAlias = Delay | Send | Cut | Reset | Hang


@dataclass(slots=True, kw_only=True)
class Script:
    """A reply to one call, which completes it: `early` is played before the head, `steps` after it.

    A `content-length` among the headers is what is announced, true or not; without one the server frames the body: with
    its length when it is a single `Send`, else in chunks.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    early: tuple[EarlyStep, ...] = ()
    steps: tuple[Step, ...] = ()
    lane: tuple[str, str] | None = None
    """(token hash, model) that this call occupies until `World.leave` is called."""
    let_in: bool = False
    """It went through its lane's limits and takes a place there as long."""

    @property
    def body(self) -> bytes:
        """All pieces together."""
        return b"".join(step.piece for step in self.steps if isinstance(step, Send))

    @property
    def whole(self) -> bool:
        """True when the body comes to its end: nothing breaks or hangs."""
        return not any(isinstance(step, Cut | Reset | Hang) for step in (*self.early, *self.steps))


JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream"

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": "))


def encode_json(value: Json) -> bytes:
    """UTF-8 JSON with the spacing that real servers use; lone surrogates are written as escapes."""
    text = _encoder.encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def json_script(value: Json, *, status: int = 200, headers: dict[str, str] | None = None) -> Script:
    """A whole JSON reply."""
    return Script(
        status=status,
        headers={"content-type": JSON_TYPE, **(headers or {})},
        steps=(Send(piece=encode_json(value)),),
    )


def as_object(value: Json) -> dict[str, Json]:
    """The value when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    """The value when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Json) -> str:
    """The value when it is a string, else an empty one."""
    return value if isinstance(value, str) else ""
