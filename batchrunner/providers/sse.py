"""Server-sent events: bytes in pieces of any size, events out, in the order in which they were completed.

The same bytes give the same events however they are cut. Lines are split as bytes and data stays bytes, so a character
cut in two is whole again before anyone decodes it. A line or an event beyond its cap ends the parsing with an
`Overflow` to be looked at; nothing is raised. `id` and `retry` mean reconnecting, which a paid POST never does: they
are read over. See docs/providers/openai.md#stream.

Speed: whole `data: …` blocks in a piece, the common case, are cut out by one `split`; only what is left over at the
borders of pieces goes line by line.
"""

import re
from typing import Final, Literal

import msgspec

from batchrunner.core.text import BOM
from batchrunner.core.values import dataclass
from batchrunner.providers.json_bodies import NotJson, decode

CAP_BYTES: Final = 8 * 1024 * 1024
DONE: Final = b"[DONE]"

_STRAYS: Final = frozenset({b"{", b"<", b"[", b'"', b"}", b"]"})
_OTHER_FIELDS: Final = frozenset({b"", b"id", b"retry"})
"""Fields of the standard that say nothing here; a line that begins with a colon is a comment."""
_TROUBLE: Final = frozenset({b"error", b"exception", b"fatal", b"traceback", b"message", b"detail", b"reason"})
_BLANK: Final = b"\xef\xbb\xbf \t\r\n"
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_WORD_BYTES: Final = 16


def is_done(data: bytes) -> bool:
    """Whether an event's data is the closing word, in quotes or in another case too."""
    return data.startswith(DONE) or (len(data) < _WORD_BYTES and data.strip(b" \t\"'").upper() == DONE)


def _is_stray(line: bytes, field: bytes) -> bool:
    """Whether a line is no part of an event at all, but of a page or an error in plain text."""
    if field in _OTHER_FIELDS or not line.strip(_BLANK):
        return False
    return line[:1] in _STRAYS or b" " in field or len(field) == len(line) or field.lower() in _TROUBLE


def without_comments(body: bytes) -> bytes:
    """What follows the comments with which a stream began, if it is JSON and no event; else nothing."""
    rest = body.lstrip(_BLANK)
    while rest[:1] == b":":
        rest = _LINE_END.split(rest, maxsplit=1)[-1].lstrip(_BLANK) if _LINE_END.search(rest) else b""
    return rest if rest[:1] in {b"{", b"["} and len(rest) < len(body) else b""


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One event. `name` is empty when the stream gave none; `data` is its lines joined with LF."""

    name: str
    data: bytes


STRAY: Final = SseEvent("stray", b"")
"""Stands where a line came that is neither a field of an event nor a comment, as of a page or a plain error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overflow:
    """The stream holds a line or an event that is too long to keep."""

    what: Literal["line", "event"]
    cap_bytes: int


class SseParser:
    """Feed it pieces, then `end` it. After an overflow it gives no more events.

    `opened`: what it gets is not the very start of the stream.
    """

    __slots__ = (
        "_after_cr",
        "_cap",
        "_data",
        "_has_data",
        "_head",
        "_is_broken",
        "_line",
        "_name",
        "_opened",
        "overflow",
    )

    def __init__(self, *, cap_bytes: int = CAP_BYTES, opened: bool = False) -> None:
        self.overflow: Overflow | None = None
        self._cap = cap_bytes
        self._head = b""
        """Bytes at the very start that may yet turn out to be a BOM."""
        self._opened = opened
        self._line = bytearray()
        """The line that has no end yet."""
        self._after_cr = False
        self._name = ""
        self._data = bytearray()
        """The data lines of the event so far, each followed by an LF."""
        self._has_data = False
        self._is_broken = False
        """The event's data was no whole event where one had to end: it never will be one."""

    def __repr__(self) -> str:
        """Where it stands."""
        return f"<SseParser {len(self._data)} B of data, {len(self._line)} B of a line, overflow={self.overflow}>"

    def feed(self, piece: bytes) -> list[SseEvent]:
        """The events that this piece completes."""
        if not self._opened:
            piece = self._open(piece)
        events: list[SseEvent] = []
        if b"\r" in piece:
            self._read(piece, events)
            return events
        if not self.is_between_events():
            cut = piece.find(b"\n\n") + 2
            if cut == 1:
                self._read(piece, events)
                return events
            self._read(piece[:cut], events)
            piece = piece[cut:]
        *blocks, rest = piece.split(b"\n\n")
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block and len(block) <= self._cap and not self.overflow:
                events.append(SseEvent("", block[6:]))
            else:
                self._read(block + b"\n\n", events)
        if rest:
            self._read(rest, events)
        return events

    def end(self) -> list[SseEvent]:
        """The last event, where no blank line follows it, if its data is complete: JSON, or `[DONE]`."""
        events: list[SseEvent] = []
        if not self._opened:
            self._opened = True
            self._read(self._head, events)
        if self._line:
            self._read(b"\n", events)
        data = bytes(self._data[:-1])
        if self._has_data and (is_done(data) or not isinstance(decode(data), NotJson)):
            self._dispatch(events)
        return events

    def _open(self, piece: bytes) -> bytes:
        """Without the one BOM that may stand at the very start, however it is cut."""
        piece = self._head + piece
        if len(piece) < len(BOM) and BOM.startswith(piece):
            self._head = piece
            return b""
        self._opened = True
        self._head = b""
        return piece.removeprefix(BOM)

    def is_between_events(self) -> bool:
        """Whether the next byte begins an event."""
        return self._opened and not (self._line or self._has_data or self._name or self._after_cr)

    def _read(self, piece: bytes, events: list[SseEvent]) -> None:
        """Line by line, whatever ends a line; the rest is kept for the next piece."""
        if not piece:
            return
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        for line in piece.splitlines(keepends=True):
            if self.overflow:
                return
            bare = line.rstrip(b"\r\n")
            if len(self._line) + len(bare) > self._cap:
                self._give_up("line")
            elif len(bare) == len(line):
                self._line += line
            else:
                if self._line:
                    bare = bytes(self._line) + bare
                    self._line.clear()
                self._take(bare, events)

    def _take(self, line: bytes, events: list[SseEvent]) -> None:
        if not line:
            if self._has_data or self._name:
                self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            if self._has_data and (value[:1] == b"{" or is_done(value)) and self._is_whole():
                self._dispatch(events)
            if len(self._data) + len(value) > self._cap:
                self._give_up("event")
                return
            self._data += value + b"\n"
            self._has_data = True
        elif field == b"event":
            if self._has_data and self._name and self._is_whole():
                self._dispatch(events)
            self._name = value.decode("utf-8", "replace")
        elif _is_stray(line, field):
            events.append(STRAY)

    def _is_whole(self) -> bool:
        """Whether the data so far is an event of its own: some servers end their events with one newline only.

        Called where another event may begin. What is not complete after a closing brace never will be, and is not read
        again at every line of it.
        """
        if is_done(bytes(self._data[:_WORD_BYTES]).removesuffix(b"\n")):
            return True
        if self._is_broken or self._data[:1] != b"{" or self._data[-_WORD_BYTES:].rstrip()[-1:] != b"}":
            return False
        self._is_broken = isinstance(decode(bytes(self._data)), NotJson)
        return not self._is_broken

    def _dispatch(self, events: list[SseEvent]) -> None:
        events.append(SseEvent(self._name, bytes(self._data[:-1])))
        self._name = ""
        self._data.clear()
        self._has_data = self._is_broken = False

    def _give_up(self, what: Literal["line", "event"]) -> None:
        self.overflow = Overflow(what=what, cap_bytes=self._cap)
        self._line.clear()
        self._data.clear()
        self._has_data = False
        self._name = ""
