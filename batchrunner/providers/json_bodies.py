"""The bodies of requests and replies: JSON in and out of wire bytes, and the bytes as far as they are kept.

Fast where the bytes are sound, patient where they are not, silent never. Refuses what is not JSON at all by giving
`NotJson`; NaN, bad UTF-8 and lone surrogates get through: a paid answer is worth more than a strict reading of it.
"""

import codecs
import json
import re
import sys
from collections.abc import Callable
from typing import Final, TypeGuard

import msgspec

from batchrunner.core.http import Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, PresetName, Provider, Turn
from batchrunner.core.outcome import Revision
from batchrunner.core.values import dataclass, replace

_PATIENT_BYTES = 16 * 1024 * 1024
"""The slow way takes several times as much memory as the bytes."""
_FAST_FAULTS = (msgspec.DecodeError, UnicodeError, RecursionError)
_SLOW_FAULTS = (ValueError, RecursionError)
_LENIENT = json.JSONDecoder(strict=False)
_QUOTE, _BACKSLASH = b'"'[0], b"\\"[0]
_DATA = b"data:"
WIDEST_BYTES = 4
"""Of a character."""
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})")
_CHARSETS = frozenset(
    {"iso8859-1", "cp1252", "iso8859-15", "gbk", "gb2312", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"}
)
"""Supersets of ASCII that are in use."""
_BETWEEN = re.compile(r"[\s,]*(?:data:\s*)*", re.IGNORECASE)
"""What may stand between two values in one event."""
_CLOSERS = {b"{"[0]: b"}"[0], b"["[0]: b"]"[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class NotJson:
    """Bytes that are no JSON, or nest deeper than is sane."""

    problem: str


def decode(data: bytes) -> "Json | NotJson":
    """One JSON value. A BOM, NaN, bad UTF-8, lone surrogates and raw control characters get through; never raises."""
    try:
        value: Json = msgspec.json.decode(data)
    except _FAST_FAULTS:
        return decode_tolerantly(data)
    return value


def decode_tolerantly(data: bytes) -> "Json | NotJson":
    """The slow way of `decode`, for bytes that the fast one refused."""
    if len(data) > _PATIENT_BYTES:
        return NotJson(problem="not valid, and too long to be read leniently")
    try:
        value: Json = json.loads(data.decode(json.detect_encoding(data), "replace"), strict=False)
    except json.JSONDecodeError as fault:
        return NotJson(problem=str(fault))
    except RecursionError:
        return NotJson(problem="nested too deeply")
    except _SLOW_FAULTS:  # all that is left to be wrong with text
        return NotJson(problem=f"a number has more than {sys.get_int_max_str_digits():,} digits")
    return value


def first_value(data: bytes) -> bytes | None:
    """The JSON object or list that the bytes begin with, when something else follows it; else None."""
    if len(data) > _PATIENT_BYTES:
        return None
    text = data.decode("utf-8-sig", "replace").lstrip()
    if text[:1] not in {"{", "["}:
        return None
    try:
        _, end = _LENIENT.raw_decode(text)
    except _SLOW_FAULTS:
        return None
    return text[:end].encode("utf-8", "replace")


def values_in(data: bytes) -> list[bytes]:
    """What is in an event that is not JSON value by itself: `data:` said twice, several values, JSON in a text, a list.

    Empty when there is nothing to take apart; else each piece is shorter than `data`.
    """
    bare = data.strip()
    while bare[: len(_DATA)].lower() == _DATA:
        bare = bare[len(_DATA) :].strip()
    value = decode(bare)
    if isinstance(value, str) and value.strip()[:1] in {"{", "["}:
        return [value.strip().encode("utf-8", "replace")]
    if isinstance(value, list) and len(value) > 1 and all(is_object(entry) for entry in value):
        return [encode(entry) for entry in value]
    if not isinstance(value, NotJson) or bare[:1] not in {b"{", b"["}:
        return [bare] if bare and len(bare) < len(data.strip()) else []
    text = bare.decode("utf-8", "replace")
    pieces: list[bytes] = []
    place = 0
    while text[place : place + 1] in {"{", "["}:
        try:
            _, end = _LENIENT.raw_decode(text, place)
        except _SLOW_FAULTS:
            break
        pieces.append(text[place:end].encode("utf-8", "replace"))
        between = _BETWEEN.match(text, end)
        place = between.end() if between else end
    rest = text[place:]
    if not pieces:
        return [bare] if len(bare) < len(data.strip()) else []
    return [*pieces, rest.encode("utf-8", "replace")] if rest else pieces


def cut_value(data: bytes) -> bytes | None:
    """The JSON object of which the last bytes were lost, with what it left open closed again; None if that fails.

    A server that counts characters where HTTP counts bytes ends its body too soon.
    """
    if len(data) > _PATIENT_BYTES or data.lstrip()[:1] != b"{":
        return None
    closers = bytearray()
    in_text = escaped = False
    for byte in data:
        if in_text:
            escaped, in_text = byte == _BACKSLASH and not escaped, escaped or byte != _QUOTE
        elif byte == _QUOTE:
            in_text = True
        elif byte in _CLOSERS:
            closers.append(_CLOSERS[byte])
        elif closers and byte == closers[-1]:
            closers.pop()
    if in_text or not closers:
        return None
    closers.reverse()
    whole = data.rstrip()
    unsure = whole[-1:].isalnum()  # the rest of a number may be lost; a name without its value is dropped, too
    for end in (0 if unsure else len(data), data.rfind(b",")):
        repaired = data[:end].rstrip(b" \t\r\n,:") + closers if end > 0 else b""
        if repaired and not isinstance(decode(repaired), NotJson):
            return bytes(repaired)
    return None


def encode(value: object) -> bytes:
    """UTF-8 JSON of plain values. Lone surrogates, which UTF-8 cannot hold, go out as escapes."""
    try:
        return msgspec.json.encode(value)
    except (UnicodeError, OverflowError):
        return json.dumps(value).encode()


def is_object(value: object) -> TypeGuard[dict[str, Json]]:
    """True for a JSON object."""
    return isinstance(value, dict)


def at(value: Json, *path: str) -> Json:
    """The value at a path of keys, or None."""
    for key in path:
        if not is_object(value):
            return None
        value = value.get(key)
    return value


def whole_number(value: object) -> int | None:
    """A count of at least zero, from a number that is whole; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if 0 <= value < 2**63 else None


class Recoder:
    """Makes UTF-8 of a body in another coding, piece by piece: RFC 8259 forbids it, and servers send it.

    A charset that the head names is believed from the first bytes on that are no UTF-8: frameworks name Latin-1 and
    send UTF-8.
    """

    __slots__ = ("_charset", "_decoder")

    def __init__(self, coding: str, *, named: str | None = None) -> None:
        self._decoder = codecs.getincrementaldecoder(coding)("strict" if named else "replace")
        self._charset = named

    def feed(self, data: bytes) -> bytes:
        """These bytes, and what the ones before left of a character."""
        before = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(data)
        except UnicodeError:
            self._decoder = codecs.getincrementaldecoder(self._charset or "utf-8")("replace")
            text = self._decoder.decode(before + data)
        return text.encode("utf-8", "replace")


def recoder(start: bytes, content_type: str) -> Recoder | None:
    """What makes UTF-8 of a body that begins so; None for one that is in UTF-8, as nearly all are."""
    if len(start) >= WIDEST_BYTES and not (coding := json.detect_encoding(start)).startswith("utf-8"):
        return Recoder(coding)
    if "charset" not in content_type or "utf-8" in content_type:
        return None
    found = _CHARSET.search(content_type)
    try:
        name = codecs.lookup(found[1]).name if found else "utf-8"
    except LookupError:
        return None
    return Recoder("utf-8", named=name) if name not in {"utf-8", "ascii"} and name in _CHARSETS else None


# What is kept of a reply.


def is_success(head: ResponseHead) -> bool:
    """True for 2xx."""
    return 200 <= head.status < 300  # noqa: PLR2004 - the class of successes, as HTTP numbers it


class Body:
    """The bytes of a reply as far as they are kept."""

    __slots__ = ("_cap", "kept", "over")

    def __init__(self, *, cap_bytes: int) -> None:
        self._cap = cap_bytes
        self.kept = bytearray()
        """What was kept, to be looked at and not to be changed."""
        self.over = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing came yet."""
        return not (self.kept or self.over)

    def add(self, data: bytes) -> None:
        """Keep what the cap leaves room for."""
        left_bytes = self._cap - len(self.kept)
        self.over = self.over or len(data) > left_bytes
        self.kept += data[:left_bytes]

    def bytes(self) -> bytes:
        """What was kept."""
        return bytes(self.kept)


# Bodies of requests that differ in their last turn only: what stands around it is encoded once.
#
# The bytes are those that encoding the whole body would give. Whatever has more in it than plain turns (pictures, a
# schema, a correction, ready messages) is encoded as a whole.

_MARK: Final = "\0the last turn\0"
_MARKED: Final = encode(_MARK)
_AS_WRITTEN: Final = Revision()


class _Frame:
    """What stands around the last turn, and what it was made for."""

    __slots__ = ("after", "before", "headers", "lead", "model", "params", "stream")

    def __init__(self, item: Item, before: bytes, after: bytes, headers: dict[str, str]) -> None:
        self.params, self.model, self.stream, self.lead = item.params, item.model, item.stream, item.turns[:-1]
        self.before, self.after, self.headers = before, after, headers


class KeptBody:
    """Makes the POSTs of one dialect. `body` makes a body, `headers` the headers for it."""

    def __init__(
        self,
        url: str,
        *,
        body: Callable[[Item, Revision], dict[str, Json]],
        headers: Callable[[dict[str, Json]], dict[str, str]],
    ) -> None:
        self._url = url
        self._body = body
        self._headers = headers
        self._frame: _Frame | None = None
        self._seen: dict[str, Json] | None = None
        """The parameters of the last item: what comes twice may come more often."""

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<KeptBody {self._url}, {'with' if self._frame else 'without'} a frame>"

    def request(self, item: Item, revision: Revision) -> Request:
        """The POST of an item."""
        if item.schema is None and not (item.pictures or item.files or revision.adapted or revision.correction):
            last = item.turns[-1] if item.turns else None
            if last is not None and last.role == "user" and last.raw is None:
                frame = self._framed(item)
                if frame is not None and (said := _encoded(last.content)) is not None:
                    body = b"%b%b%b" % (frame.before, said, frame.after)
                    return Request(method="POST", url=self._url, headers=frame.headers, body=body)
        whole = self._body(item, revision)
        return Request(method="POST", url=self._url, headers=self._headers(whole), body=encode(whole))

    def _framed(self, item: Item) -> _Frame | None:
        """The frame that fits; by the parameters' identity, for equal ones (1, 1.0, true) may be written otherwise."""
        frame = self._frame
        if (
            frame is not None
            and frame.params is item.params
            and frame.stream is item.stream
            and frame.model == item.model
            and frame.lead == item.turns[:-1]
        ):
            return frame
        is_new, self._seen = self._seen is not item.params, item.params
        if is_new or any(turn.raw is not None for turn in item.turns):
            return None
        marked = replace(item, turns=(*item.turns[:-1], Turn(role="user", content=_MARK)))
        body = self._body(marked, _AS_WRITTEN)
        before, _, after = encode(body).partition(_MARKED)
        if not after or _MARKED in after:
            return None
        self._frame = _Frame(item, before, after, self._headers(body))
        return self._frame


def _encoded(text: str) -> bytes | None:
    """None for a text that UTF-8 cannot hold: then the whole body is written with escapes."""
    try:
        text.encode()
    except UnicodeError:
        return None
    return encode(text)


# Where requests go: the base URL as it was given, and what a dialect appends to it.

_V1: Final = "/v1"
_VERSIONED: Final[frozenset[PresetName]] = frozenset({"modelscope", "modelscope-anthropic", "simulator"})
"""Presets whose base URL may stand with or without `/v1`: the path always has it."""


def openai_url(provider: Provider, path: str) -> str:
    """The URL of a path of the OpenAI kind, such as `chat/completions`."""
    base = provider.base_url.rstrip("/")
    if provider.preset in _VERSIONED:
        base = base.removesuffix(_V1) + _V1
    return f"{base}/{path}"


def anthropic_url(provider: Provider, path: str) -> str:
    """The URL of a path of the Anthropic kind, such as `messages`: after `/v1`, which is not doubled."""
    return f"{provider.base_url.rstrip('/').removesuffix(_V1)}{_V1}/{path}"
