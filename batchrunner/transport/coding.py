"""Undoing content codings step by step, so that a small reply can never become a big one in memory.

Each step gives at most 64 KiB; the caller counts and stops. Refuses codings that were not asked for (br, zstd), but
believes the bytes before it believes the head. Source: RELIABILITY threat 4, RFC 9110 section 8.4.
"""

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

STEP_BYTES: Final = 64 * 1024
GZIP_MAGIC: Final = b"\x1f\x8b"
ACCEPTED: Final = "gzip, deflate"

_GZIP_BITS = 16 + zlib.MAX_WBITS
_DEFLATE_METHOD = 8


class CodingError(Exception):
    """The reply's content coding is unknown or damaged; the text says which and never quotes the reply."""


class Unpacker(Protocol):
    """Takes a reply's coded bytes and gives the plain ones."""

    def feed(self, coded: bytes) -> Iterator[bytes]:
        """Plain pieces of at most 64 KiB, made as they are taken.

        Raises:
            CodingError: the bytes are not what the coding says.
        """

    def is_complete(self) -> bool:
        """True when the coded stream has come to its own end (and not only the connection)."""


class _Inflate:
    """One zlib, gzip or raw deflate stream; gzip may go on with further members."""

    def __init__(self, *, bits: int | None) -> None:
        self._bits = bits
        self._stream = zlib.decompressobj(bits) if bits is not None else None
        self._start = b""
        self._ended = False

    def feed(self, coded: bytes) -> Iterator[bytes]:
        stream = self._stream or self._guess(coded)
        if stream is None:
            return
        if self._start:
            coded, self._start = self._start, b""
        while coded or not stream.eof:
            if stream.eof:
                if self._bits != _GZIP_BITS or not _begins_member(coded):
                    return  # padding after the end is harmless
                stream = self._stream = zlib.decompressobj(_GZIP_BITS)
            try:
                plain = stream.decompress(coded, STEP_BYTES)
            except zlib.error as error:
                raise CodingError("its content coding is damaged") from error
            coded = stream.unused_data if stream.eof else stream.unconsumed_tail
            if plain:
                yield plain
            elif not coded:
                return

    def is_complete(self) -> bool:
        return self._stream is not None and self._stream.eof

    def _guess(self, coded: bytes) -> "zlib._Decompress | None":
        """`deflate` means zlib by the standard and raw deflate by habit: the first two bytes tell."""
        self._start += coded
        if len(self._start) < 2:  # noqa: PLR2004 - a zlib header
            return None
        first, second = self._start[:2]
        zlib_header = first & 0x0F == _DEFLATE_METHOD and (first << 8 | second) % 31 == 0
        self._stream = zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)
        return self._stream


class _Sniffing:
    """Undoes a coding only if the bytes are in it: servers and gateways name codings that their bytes are not in.

    Plain bytes are told by how they begin: as JSON, an event, text, or a picture. A gzip stream has a magic of its own.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._start = b""
        self._inner: Unpacker | None = None
        self._plain = False

    def feed(self, coded: bytes) -> Iterator[bytes]:
        if self._plain:
            yield from _steps(coded)
            return
        if self._inner is None:
            self._start += coded
            if len(self._start) < _MAGIC_BYTES:
                return
            coded, self._start = self._start, b""
            self._decide(coded)
            yield from self.feed(coded)
            return
        yield from self._inner.feed(coded)

    def is_complete(self) -> bool:
        if self._inner is None:
            return self._plain
        return self._inner.is_complete()

    def _decide(self, start: bytes) -> None:
        if start.startswith(GZIP_MAGIC):
            self._inner = _Inflate(bits=_GZIP_BITS)
        elif self._coding in _GZIPS and start[0] == _ZLIB_START and (start[0] << 8 | start[1]) % 31 == 0:
            self._inner = _Inflate(bits=None)  # zlib, called gzip
        elif self._coding in _OTHERS and not _begins_plainly(start):
            raise CodingError(f"it has a content coding that was not asked for ({self._coding})")
        elif self._coding == "deflate" and start[:2] not in _WORDS_NO_DEFLATE_BEGINS_WITH:
            self._inner = _Inflate(bits=None)
        else:
            self._plain = True


class _Chain:
    """Codings upon one another, the outermost first: gateways name their own behind the server's, used or not."""

    def __init__(self, codings: "list[_Sniffing]") -> None:
        self._codings = codings

    def feed(self, coded: bytes) -> Iterator[bytes]:
        yield from self._undo(coded, 0)

    def is_complete(self) -> bool:
        return all(coding.is_complete() for coding in self._codings)

    def _undo(self, coded: bytes, place: int) -> Iterator[bytes]:
        if place == len(self._codings):
            yield coded
            return
        for piece in self._codings[place].feed(coded):
            yield from self._undo(piece, place + 1)


_MOST_CODINGS = 3
_MAGIC_BYTES = 2
_ZLIB_START = 0x78
_GZIPS = frozenset({"gzip", "x-gzip"})
_OTHERS = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
"""Codings that were not asked for, and that are undone by no one here."""
_WORDS_NO_DEFLATE_BEGINS_WITH = frozenset(
    {b'{"', b"{\n", b"{\r", b"{ ", b"[{", b"da", b"ev", b"\x89P", b"\xff\xd8", b"GI", b"RI"}
)
"""Or hardly ever: it has no magic, and two bytes must do."""
_STARTS = (
    *(b"{", b"[", b"data", b"da", b"event", b"ev", b"id", b":", b"<", b"\xef\xbb", b'"', b"Ba", b"In", b"up"),
    *(b"\x89P", b"\xff\xd8", b"GI", b"RI", b"BM", b"\0\0", b"II", b"MM", b"\xff\x0a"),
)
"""Of JSON, events, pages and the words of proxies, and of pictures."""


def _begins_plainly(start: bytes) -> bool:
    bare = start.lstrip()
    return not bare or bare.startswith(_STARTS)


def _steps(plain: bytes) -> Iterator[bytes]:
    for at in range(0, len(plain), STEP_BYTES):
        yield plain[at : at + STEP_BYTES]


def unpacker(content_encoding: str | None) -> Unpacker | None:
    """What undoes this `Content-Encoding`; None when the bytes are plain.

    A word that is no coding (`utf-8`, `none`) says nothing; one that the bytes are not in is not believed.

    Raises:
        CodingError: more codings upon one another than make sense.
    """
    if content_encoding is None:
        return None
    names = [name.strip().lower() for name in content_encoding.split(",")]
    codings = [name for name in names if name in _GZIPS or name in _OTHERS or name == "deflate"]
    if len(codings) > 1:
        if len(codings) > _MOST_CODINGS:
            raise CodingError("it has more content codings upon one another than any answer needs")
        return _Chain([_Sniffing(coding) for coding in reversed(codings)])
    if not codings:
        return None
    return _Sniffing(codings[0])


def _begins_member(coded: bytes) -> bool:
    return coded[:1] == b"\x1f"
