"""What crosses the network, as values: requests, heads of replies, how a reply ended, and who reads its bytes."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol, TypeVar

from batchrunner.core.values import dataclass, field

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedBody:
    """A body that is held nowhere: it is read while it is sent, and again by whoever sends it again."""

    size_bytes: int
    pieces: Callable[[], Iterator[bytes]]
    """All of it from the beginning, each time. Blocks; raises StoreBrokenError when it cannot be read any more."""

    def between(self, before: bytes, after: bytes) -> "StreamedBody":
        """The same between these bytes."""

        def pieces() -> Iterator[bytes]:
            yield before
            yield from self.pieces()
            yield after

        return StreamedBody(size_bytes=len(before) + self.size_bytes + len(after), pieces=pieces)


@dataclass(slots=True, kw_only=True)
class Request:
    """An HTTP request without credentials: the transport adds the account's, for the configured host only.

    Nobody changes one; it is not frozen for its cost. Requests may share their headers.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    streamed: StreamedBody | None = None
    """The body, where it is too large for memory; `body` is None then."""
    bulk: bool = False
    """What it sends, or its reply, is a file: that may be large, take long, and is not held in memory."""


@dataclasses.dataclass(slots=True, kw_only=True)  # of the library: a Struct has no fields that a subclass can replace
class ResponseHead:
    """Status and headers of a reply. Header names are lower-case; of repeated ones the last stands. Nobody changes it.

    It is not frozen: that would cost three times as much, for every reply.
    """

    status: int
    headers: dict[str, str]
    received_at: float
    """Wall clock, seconds since 1970: what `Retry-After: <date>` is measured against."""

    def header(self, name: str) -> str:
        """The value of a header; empty where it was not sent."""
        return self.headers.get(name, "")

    def has_names_with(self, word: str) -> bool:
        """Whether a header's name holds this word, in lower case."""
        return word in " ".join(self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The reply's body was read to its end, as HTTP frames it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The exchange did not come to an orderly end."""

    cause: Literal["connect", "timeout", "reset", "too_large"]
    message: str
    sent: bool
    """True when bytes may have left: the server may have executed the request. False is proof that it did not."""
    look_at: str | None = None
    """The key of the job that is probably wrong, where waiting does not help: a certificate, a host name, a proxy."""


Ending = Completed | Interrupted


class Gate(Protocol):
    """Says when a request may leave: once its intent has been handed to the operating system.

    A gate is handed over with the request, after the intent was put in line; a callback costs no future and no task.
    """

    def __call__(self, call: Callable[..., None], /, *args: object) -> None:
        """Call `call(refused, *args)` exactly once, within this call where the intent is written already, else later.

        `refused` is None when the request may leave. Otherwise it must never leave, and `refused` is the exception that
        the exchange raises. It may be called after the exchange was cancelled: then nothing may leave either.
        """


SETTLED_S: Final = 5.0
"""A body in which nothing moved for so long may be whole already, whatever its head says of its length."""
SETTLED_STREAM_S: Final = 15.0
"""The same of a stream: its usage may come some time after the end of the answer."""


class Decoder(Protocol[T_co]):
    """Reads one reply: `begin` once (never, if no head came), `feed` for each piece in order, `end` once.

    Bytes in, one value out; never raises, whatever the bytes are. Content codings are already undone. One that also has
    `settled(silent_s)` says whether a body without new bytes is complete: then the rest is not waited for, and
    `end` gets a timeout. One that also has `whole(head, body)` may be asked by that alone where a reply is all there:
    it comes to what `begin`, `feed` and `end` with `Completed` come to.
    """

    def begin(self, head: ResponseHead) -> None:
        """The head of the reply."""

    def feed(self, data: bytes) -> bool:
        """A piece of the body of any size; True when nothing more is needed (the transport may then stop reading)."""

    def end(self, ending: Ending) -> T_co:
        """What it all came to."""
