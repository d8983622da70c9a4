"""Whether a connection may carry another request: it may until the server was seen to close one after its reply.

Some servers promise to keep a connection and close it a moment after the reply all the same; llama.cpp does so after
every stream. A POST that crosses with the closing looks like one that was executed. So the first connection
that is to be used again is watched for a moment, and where one was closed, now or later, each request gets a connection
of its own for a while. Refuses to judge by a connection that broke or that we closed ourselves.
"""

import asyncio
import re
from typing import Final, Protocol

from aiohttp.connector import Connection

from batchrunner.core.http import ResponseHead
from batchrunner.transport.coding import GZIP_MAGIC

_SETTLE_S: Final = 0.1
"""A server that closes after its reply does so within this time."""
_CAUTIOUS_FOR: Final = 1000
"""So many requests get a connection of their own before the server is judged anew."""


class ReusableConnection(Protocol):
    """A connection as far as its reuse goes."""

    uses: int
    """Requests that it carried so far."""
    rests_since: float | None
    """When its last exchange ended, on the loop's clock; None while one is under way."""

    @property
    def should_close(self) -> bool:
        """No other request may leave on it."""

    def is_connected(self) -> bool:
        """It stands, on both sides."""

    def force_close(self) -> None:
        """It is not to be used again."""


class KeepAlive:
    """What is known of one session's connections."""

    __slots__ = ("_cautious", "_looks", "_trusted")

    def __init__(self) -> None:
        self._trusted = False
        self._cautious = 0
        self._looks = False
        """A connection is looked at, to be trusted."""

    def __repr__(self) -> str:
        """What it came to."""
        return f"<KeepAlive trusted={self._trusted}, wary for {self._cautious} requests>"

    def allows_at_once(self, line: ReusableConnection) -> bool:
        """Whether a request may leave on it, as far as that is known without waiting; then it counts as used."""
        if (line.uses and not self._trusted) or self._cautious or line.should_close:
            return False
        line.uses += 1
        line.rests_since = None
        return True

    async def allows(self, connection: Connection, line: ReusableConnection) -> bool:
        """Whether a request may leave on it; one that may not is closed. Waits as long as nothing is known.

        The exchange that was let in calls `is_over` at its end.
        """
        try:
            allowed = not line.should_close and (not line.uses or (await self._lasts(line) and not line.should_close))
        except BaseException:
            connection.close()
            raise
        if not allowed:
            connection.close()
            return False
        line.uses += 1
        line.rests_since = None
        if self._cautious:
            self._cautious -= 1
            line.force_close()
        return True

    def is_over(self, line: ReusableConnection) -> None:
        """The exchange came to its end."""
        loop = asyncio.get_running_loop()
        line.rests_since = loop.time()
        if not self._trusted and not self._looks and line.is_connected() and not line.should_close:
            self._looks = True
            loop.call_later(_SETTLE_S, self._look, line)

    def was_closed(self, line: ReusableConnection) -> None:
        """The server closed it, with no part of a reply on its way and without having said that it would."""
        since = line.rests_since
        if since is None or asyncio.get_running_loop().time() - since <= _SETTLE_S:
            self._trusted, self._cautious = False, _CAUTIOUS_FOR

    async def _lasts(self, line: ReusableConnection) -> bool:
        if not self._trusted and not self._cautious:
            await asyncio.sleep(_SETTLE_S)
            self._trusted = line.is_connected()
            if not self._trusted:
                self._cautious = _CAUTIOUS_FOR
        return not self._cautious

    def _look(self, line: ReusableConnection) -> None:
        """A while after a reply: does its connection still stand? If the server closed it, that is known by now."""
        self._looks = False
        self._trusted = self._trusted or (not self._cautious and line.is_connected())


# Heads of replies: ordinary ones read without a parser, those that are nearly HTTP repaired before parsing.
#
# One bad line costs aiohttp's parser the reply, and what follows such a head was paid for. Only lines that say
# nothing
# are left out, and only lengths that contradict one another: the body then says by itself where it ends. Bytes that are
# no head at all are left as they are.
#
# A reply that came in one piece, with its length and nothing unusual in its head, needs no parser at all (`Heads`).
# What is not quite so is not recognised, and goes to the parser.

LINE_BYTES: Final = 64 * 1024
"""Of a line that the parser takes; longer ones are left out."""
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_START: Final = b"HTTP/"
_CHUNK: Final = re.compile(rb"\r?\n?[0-9A-Fa-f]{1,16}[ \t]*(?:[;\r\n]|$)")
"""How chunks begin: with the length of the first, perhaps cut off."""


def may_begin(start: bytes | bytearray) -> bool:
    """Whether these first bytes may be those of a head."""
    return start[: len(_START)] == _START[: len(start)]


def end_of(start: bytes | bytearray, since: int) -> int:
    """Where a head ends, as a count of bytes; 0 while it has no end. `since`: how much was looked at before."""
    since = max(0, since - 3)
    ends = [at + len(end) for end in (b"\r\n\r\n", b"\n\n") if (at := start.find(end, since)) >= 0]
    return min(ends, default=0)


def repaired(head: bytes, rest: bytes = b"") -> bytes:
    """The head without lines that are none, with one length or none, and with CR LF after each line.

    `rest` is what came with it of the body: where that shows no chunk, the head does not say that there are any.
    """
    if _is_well_formed(head, rest):
        return head
    first, *lines = (line.removesuffix(b"\r") for line in head.rstrip(b"\r\n").split(b"\n"))
    kept, lengths, chunked, left_out = [first], [], False, False
    for line in lines:
        if line[:1] in {b" ", b"\t"}:  # it continues the line before it
            if not left_out:
                kept.append(line)
            continue
        given, colon, value = line.partition(b":")
        name = given.rstrip(b" \t")
        word = name.lower()
        left_out = not colon or _NAME.fullmatch(name) is None or len(line) > LINE_BYTES
        if left_out:
            continue
        if word == b"content-length":
            lengths += [length.strip().lstrip(b"+") for length in value.split(b",")]
            left_out = True
            continue
        if word == b"transfer-encoding" and b"chunked" in value.lower():
            if rest and _CHUNK.match(rest) is None:
                lengths, left_out = [*lengths, b"none"], True
                continue
            chunked = True
        kept.append(line if name == given else name + colon + value)
    if lengths and not chunked:  # chunks say by themselves how long they are
        sound = len(set(lengths)) == 1 and lengths[0].isdigit()
        kept.append(b"Content-Length: " + lengths[0] if sound else b"Connection: close")
    return b"\r\n".join((*kept, b"", b""))


_WELL_FORMED: Final = re.compile(rb"HTTP/[^\r\n]*+\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\r\n]*+\r\n)*+\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*\d+[ \t]*\r\n")


def _is_well_formed(head: bytes, rest: bytes) -> bool:
    """Whether nothing in it has to be repaired, as nearly always: one look, and not one at every line."""
    if len(head) > LINE_BYTES or _WELL_FORMED.fullmatch(head) is None:
        return False
    low = head.lower()
    lengths = low.count(b"content-length")
    if b"transfer-encoding" in low:
        return lengths == 0 and (not rest or _CHUNK.match(rest) is not None)
    return lengths == 0 or (lengths == 1 and _LENGTH.search(low) is not None)


# -- ordinary heads

_ORDINARY_HEAD_BYTES: Final = 16 * 1024
_ORDINARY_BODY_BYTES: Final = 64 * 1024
_HEADS_KEPT: Final = 64
_ORDINARY: Final = re.compile(
    rb"HTTP/1\.1 200(?: [\t\x20-\x7e]*+)?\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e]*+\r\n)*+\r\n"
)
_BODY_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n")


class KnownHead:
    """An ordinary head as it came: status 200, a length, no coding, and a connection that is kept."""

    __slots__ = ("_lower", "_raw", "fields", "head_bytes", "reply_bytes", "values")

    def __init__(self, raw: bytes, lower: bytes, *, body_bytes: int) -> None:
        """`lower` is the same in lower case."""
        self._raw = raw
        self._lower = lower
        self.head_bytes = len(raw)
        self.reply_bytes = len(raw) + body_bytes
        self.values: dict[str, str] = {}
        """Of the headers that were asked for, by lower-case name; empty for those that were not sent."""
        self.fields: dict[str, str] | None = None
        """All of them, once somebody asked for all."""

    def __repr__(self) -> str:
        return f"<KnownHead of {self.head_bytes} B>"

    def value(self, name: str) -> str:
        """Of a header, by its lower-case name; of repeated ones the last."""
        sign = b"\r\n%b:" % name.encode()
        at = self._lower.rfind(sign)
        value = ""
        if at >= 0:
            start = at + len(sign)
            value = self._raw[start : self._raw.index(b"\r\n", start)].strip(b" \t").decode()
        self.values[name] = value
        return value

    def all_values(self) -> dict[str, str]:
        """By lower-case names; of repeated ones the last stands."""
        if self.fields is None:
            lines = (line.partition(":") for line in self._raw.decode().split("\r\n")[1:-2])
            self.fields = {name.lower(): value.strip(" \t") for name, _, value in lines}
        return self.fields

    def may_name(self, word: str) -> bool:
        """False: no header's name holds this word, in lower case."""
        return word.encode() in self._lower


class OrdinaryHead(ResponseHead):
    """The `ResponseHead` of a reply with a `KnownHead`."""

    __slots__ = ("_known",)

    def __init__(self, known: KnownHead, received_at: float) -> None:
        self.status = 200
        self.received_at = received_at
        self._known = known

    @property
    def headers(self) -> dict[str, str]:  # type: ignore[override]  # read like the field that it stands for
        """As of `ResponseHead`."""
        return self._known.all_values()

    def header(self, name: str) -> str:
        """As of `ResponseHead`."""
        value = self._known.values.get(name)
        return self._known.value(name) if value is None else value

    def has_names_with(self, word: str) -> bool:
        """As of `ResponseHead`."""
        return self._known.may_name(word) and word in "\n".join(self._known.all_values())


class Heads:
    """Recognises whole replies with an ordinary head. Heads that were seen are kept: servers send the same ones."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def __repr__(self) -> str:
        return f"<Heads, {len(self._known)} of them known>"

    def of(self, piece: bytes) -> KnownHead | None:
        """The head of a reply that is in this piece from its first byte to its last; None for anything else."""
        end = piece.find(b"\r\n\r\n") + 4
        raw = piece[:end]
        known = self._known.get(raw)
        if known is None:
            known = _ordinary(raw)
            if known is None:
                return None
            if len(self._known) >= _HEADS_KEPT:
                self._known.clear()
            self._known[raw] = known
        if known.reply_bytes != len(piece) or piece[end] == GZIP_MAGIC[0]:
            return None
        return known


def _ordinary(raw: bytes) -> KnownHead | None:
    """None where the parser, or one who reads its result, would have to look at more than the length."""
    if len(raw) > _ORDINARY_HEAD_BYTES or _ORDINARY.fullmatch(raw) is None:
        return None
    lower = raw.lower()
    length = _BODY_LENGTH.search(lower)
    if (
        length is None
        or lower.count(b"content-length") != 1
        or b"-encoding:" in lower
        or b"\r\nupgrade:" in lower
        or lower.count(b"connection:") != lower.count(b"\r\nconnection: keep-alive\r\n")
    ):
        return None
    body_bytes = int(length[1])
    return KnownHead(raw, lower, body_bytes=body_bytes) if 0 < body_bytes <= _ORDINARY_BODY_BYTES else None
