"""Undoing content codings step by step, so that a small reply can never become a big one in memory.

Each step gives at most 64 KiB; the caller counts and stops. Refuses codings that were not asked for (br, zstd), but
believes the bytes before it believes the head. Source: RFC 9110 section 8.4. Threat 4.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

STEP_BYTES: Final = 64 * 1024
GZIP_MAGIC: Final = b"\x1f\x8b"
ACCEPTED: Final = "gzip, deflate"

_DEFLATE_METHOD = 8
_ZLIB_HEADER_BYTES = 2
_GZIP_HEADER_BYTES = 10
_HEADER_SUM, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16
"""Flags of a gzip header."""
_HEADER_MOST_BYTES = STEP_BYTES
_DAMAGED = "its content coding is damaged"


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
    """One zlib, gzip or raw deflate stream; gzip may go on with further members.

    The data is undone as raw deflate and its checksum is looked at afterwards: zlib itself would throw away what it
    has when the checksum behind it is wrong, and with it an answer that may be whole.
    """

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._has_checksum = True
        self._stream: zlib._Decompress | None = None
        self._start = b""
        """Of a header or of a checksum, which has not come in full."""
        self._sum = 0
        self._size = 0
        self._is_whole = False
        """True behind a checksum, as long as no further member has begun."""

    def feed(self, coded: bytes) -> Iterator[bytes]:
        """As the protocol says; a wrong checksum is told behind the bytes that it is about."""
        while coded:
            stream = self._stream
            if stream is None:
                coded = self._take_header(coded)
                continue
            if not _has_ended(stream):
                yield from self._take_data(stream, coded)
                coded = stream.unused_data
                self._is_whole = _has_ended(stream) and not self._has_checksum
            if _has_ended(stream):
                if not self._has_checksum:
                    return  # padding after the end is harmless
                coded = self._take_checksum(coded)

    def is_complete(self) -> bool:
        return self._is_whole

    def _take_data(self, stream: "zlib._Decompress", coded: bytes) -> Iterator[bytes]:
        while not stream.eof:
            try:
                plain = stream.decompress(coded, STEP_BYTES)
            except zlib.error as error:
                raise CodingError(_DAMAGED) from error
            coded = stream.unconsumed_tail
            if not plain:
                return
            self._size += len(plain)
            self._sum = zlib.crc32(plain, self._sum) if self._is_gzip else zlib.adler32(plain, self._sum)
            yield plain

    def _take_header(self, coded: bytes) -> bytes:
        """What stands behind the header; a further member begins only where one is."""
        if self._is_whole and not _begins_member(self._start + coded):
            self._start = b""
            return b""
        self._start += coded
        length = _gzip_header(self._start) if self._is_gzip else self._zlib_header()
        if length is None:
            if len(self._start) > _HEADER_MOST_BYTES:
                raise CodingError(_DAMAGED)
            return b""
        rest, self._start = self._start[length:], b""
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._sum, self._size, self._is_whole = 0 if self._is_gzip else 1, 0, False
        return rest

    def _zlib_header(self) -> int | None:
        """`deflate` means zlib by the standard and raw deflate by habit: the first two bytes tell."""
        if len(self._start) < _ZLIB_HEADER_BYTES:
            return None
        first, second = self._start[:2]
        self._has_checksum = first & 0x0F == _DEFLATE_METHOD and (first << 8 | second) % 31 == 0
        return _ZLIB_HEADER_BYTES if self._has_checksum else 0

    def _take_checksum(self, coded: bytes) -> bytes:
        """What stands behind the checksum, once it is there in full."""
        wanted = (
            struct.pack("<II", self._sum, self._size & 0xFFFFFFFF) if self._is_gzip else struct.pack(">I", self._sum)
        )
        self._start += coded
        if len(self._start) < len(wanted):
            return b""
        found, rest = self._start[: len(wanted)], self._start[len(wanted) :]
        self._start = b""
        if found != wanted:
            raise CodingError(_DAMAGED)
        self._is_whole = True
        if not self._is_gzip:
            return b""
        self._stream = None
        return rest


def _has_ended(stream: "zlib._Decompress") -> bool:
    return stream.eof


def _gzip_header(start: bytes) -> int | None:
    """The length of a gzip header; None while it is not there in full. Raises CodingError for what is none."""
    if len(start) < _GZIP_HEADER_BYTES:
        return None
    if not start.startswith(GZIP_MAGIC) or start[2] != _DEFLATE_METHOD:
        raise CodingError(_DAMAGED)
    flags, length = start[3], _GZIP_HEADER_BYTES
    if flags & _EXTRA:
        if len(start) < length + 2:
            return None
        length += 2 + int.from_bytes(start[length : length + 2], "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            length = start.find(b"\0", length) + 1
            if not length:
                return None
    length += 2 if flags & _HEADER_SUM else 0
    return length if len(start) >= length else None


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
            self._inner = _Inflate(is_gzip=True)
        elif self._coding in _GZIPS and start[0] == _ZLIB_START and (start[0] << 8 | start[1]) % 31 == 0:
            self._inner = _Inflate(is_gzip=False)  # zlib, called gzip
        elif self._coding in _OTHERS and not _begins_plainly(start):
            raise CodingError(f"it has a content coding that was not asked for ({self._coding})")
        elif self._coding == "deflate" and start[:2] not in _WORDS_NO_DEFLATE_BEGINS_WITH:
            self._inner = _Inflate(is_gzip=False)
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
