"""The chunks of a body that are framed as nearly all are, cut out without a parser's calls for each of them.

A server that streams flushes a chunk for every few words, and a parser makes three calls and a look at its reader of
each. Here a piece of the network gives what all its whole chunks hold in one. Whatever is not such a chunk (one that
is cut, the last one, trailers, extensions, a length written otherwise) is left to the HTTP parser: between two chunks
it takes up where the last one ended, for it never saw those that were cut out before. So there is one set of rules,
the parser's.
"""

import re
from typing import Final

_LINE_END: Final = b"\r\n"
_LENGTH: Final = re.compile(rb"[0-9A-Fa-f]{1,6}")
"""Of a chunk of less than 16 MB; `int` alone would take signs, blanks and underscores."""
_LENGTH_MOST: Final = 6
_KNOWN_MOST: Final = 4096

_known: Final[dict[bytes, int]] = {}
"""Lengths as they are written, and what they come to: a stream has few different ones."""


def _length(written: bytes) -> int:
    """What a chunk's length comes to; 0, which ends a body, also for what is none. It is known from then on."""
    if len(_known) >= _KNOWN_MOST:
        _known.clear()
    length = _known[written] = int(written, 16) if _LENGTH.fullmatch(written) else 0
    return length


class Chunks:
    """Where one body stands between its chunks."""

    __slots__ = ("_missing", "lost")

    def __init__(self) -> None:
        self._missing = 0
        """Bytes that the parser has to see of the chunk that it is in, its line end among them."""
        self.lost = False
        """The parser may be anywhere: it has to see all that comes."""

    def __repr__(self) -> str:
        """Where it stands."""
        return f"<Chunks {'lost' if self.lost else f'missing {self._missing} B'}>"

    def cut(self, piece: bytes) -> tuple[int, bytes, int]:
        """How many bytes the parser has to see first, what the whole chunks after them hold, and where those end.

        The parser has to see the rest too; it stands in the chunk that this begins.
        """
        first = at = self._finish(piece) if self._missing else 0
        size_bytes = len(piece)
        found: list[bytes] = []
        while not self.lost and at < size_bytes:
            start = piece.find(_LINE_END, at, at + _LENGTH_MOST + 2) + 2
            written = piece[at : start - 2] if start > 1 else b""
            length = _known.get(written)
            if length is None:
                length = _length(written)
            stop = start + length
            if not length or piece[stop : stop + 2] != _LINE_END:
                self._begin(piece, stop + 2 - size_bytes if length else 0)
                break
            found.append(piece[start:stop])
            at = stop + 2
        return first, found[0] if len(found) == 1 else b"".join(found), at

    def _begin(self, piece: bytes, missing: int) -> None:
        """The piece ends within a chunk, or continues with something that is no chunk."""
        self._missing = missing
        self.lost = missing <= 0 or (missing == 1 and not piece.endswith(b"\r"))

    def _finish(self, piece: bytes) -> int:
        """How much of the piece belongs to the chunk before it."""
        taken = min(self._missing, len(piece))
        missing = self._missing - taken
        if missing:
            self._begin(piece, missing)
        else:
            end = piece[max(0, taken - 2) : taken]
            self._missing, self.lost = 0, end != _LINE_END[-len(end) :]
        return taken
