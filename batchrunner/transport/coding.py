"""Undoing content codings step by step, so that a small reply can never become a big one in memory.

Each step gives at most 64 KiB; the caller counts and stops. Refuses codings that were not asked for (br, zstd), but
believes the bytes before it believes the head: see docs/adr/0180-content-codings.md for why aiohttp does not do this.
Source: RFC 9110 section 8.4. Threat 4.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Final

STEP_BYTES: Final = 64 * 1024
GZIP_MAGIC: Final = b"\x1f\x8b"
ACCEPTED: Final = "gzip, deflate"

_GZIP, _ZLIB, _RAW, _PLAIN = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS, 0
"""zlib's `wbits` for each coding; the last one is for uncompressed bytes."""
_MOST_CODINGS = 3
_MAGIC_BYTES = 2
_DEFLATE_METHOD = 8
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


class CodingError(Exception):
    """The reply's content coding is unknown or damaged; the text says which and never quotes the reply."""


class Unpacker:
    """Takes a reply's coded bytes and gives the plain ones: codings upon one another, the outermost first.

    Gateways name their own coding after the server's, used or not.
    """

    def __init__(self, codings: "list[_Coding]") -> None:
        self._codings = codings

    def feed(self, coded: bytes) -> Iterable[bytes]:
        """Plain pieces, made as they are taken: of at most 64 KiB, or as they came where they are in no coding.

        Raises:
            CodingError: the bytes are not what the coding says.
        """
        pieces: Iterable[bytes] = (coded,)
        for coding in self._codings:
            pieces = chain.from_iterable(map(coding.feed, pieces))
        return pieces

    def is_complete(self) -> bool:
        """True when the coded stream has come to its own end (and not only the connection)."""
        return all(coding.is_complete() for coding in self._codings)


class _Coding:
    """One coding, undone only if the bytes are in it: servers and gateways name codings that their bytes are not in."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start = b""
        self._wbits: int | None = None
        """The coding of the bytes, once the first of them show it."""
        self._stream: zlib._Decompress | None = None

    def feed(self, coded: bytes) -> Iterator[bytes]:
        """As of `Unpacker`; a wrong checksum is reported after the bytes that it is about."""
        if self._wbits is None:
            self._start += coded
            if len(self._start) < _MAGIC_BYTES:
                return
            coded, self._start = self._start, b""
            self._wbits = _wbits_of(self._name, coded)
        if self._wbits == _PLAIN:
            yield coded
            return
        stream = self._stream
        while coded:
            if stream is None or stream.eof:
                if stream is not None and (self._wbits != _GZIP or coded[0] != GZIP_MAGIC[0]):
                    return  # padding after the end is harmless; a gzip stream may be followed by another one
                stream = self._stream = zlib.decompressobj(self._wbits)
            yield from _inflated(stream, coded)
            coded = stream.unused_data

    def is_complete(self) -> bool:
        return self._wbits == _PLAIN or (self._stream is not None and self._stream.eof)


def _inflated(stream: "zlib._Decompress", coded: bytes) -> Iterator[bytes]:
    while not stream.eof:
        before = stream.copy()
        try:
            plain = stream.decompress(coded, STEP_BYTES)
        except zlib.error as error:
            # When the checksum is wrong zlib throws away what stands before it, and that may be a whole answer.
            rescued = bytearray()
            with suppress(zlib.error):
                for place in range(len(coded)):
                    rescued += before.decompress(coded[place : place + 1])
            if rescued:
                yield bytes(rescued)
            raise CodingError("its compressed data is damaged") from error
        coded = stream.unconsumed_tail
        if not plain:
            return
        yield plain


def _wbits_of(name: str, start: bytes) -> int:
    """The `wbits` of zlib for bytes with this beginning. Plain ones begin as JSON, an event, text or a picture.

    `deflate` means zlib by the standard and raw deflate by habit.
    """
    is_zlib = start[0] & 0x8F == _DEFLATE_METHOD and (start[0] << 8 | start[1]) % 31 == 0
    if start.startswith(GZIP_MAGIC):
        return _GZIP
    if name in _GZIPS and start[0] == _ZLIB_START and is_zlib:
        return _ZLIB  # called gzip
    if name in _OTHERS and not _begins_plainly(start):
        raise CodingError(f"it has a Content-Encoding that was not requested ({name})")
    if name == "deflate" and start[:2] not in _WORDS_NO_DEFLATE_BEGINS_WITH:
        return _ZLIB if is_zlib else _RAW
    return _PLAIN


def _begins_plainly(start: bytes) -> bool:
    bare = start.lstrip()
    return not bare or bare.startswith(_STARTS)


def unpacker(content_encoding: str) -> Unpacker | None:
    """What undoes this `Content-Encoding`; None when the bytes are plain.

    A word that is no coding (`utf-8`, `none`) says nothing; one that the bytes are not in is not believed.

    Raises:
        CodingError: more codings upon one another than make sense.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    codings = [name for name in names if name in _GZIPS or name in _OTHERS or name == "deflate"]
    if len(codings) > _MOST_CODINGS:
        raise CodingError("it has too many nested Content-Encodings")
    return Unpacker([_Coding(name) for name in reversed(codings)]) if codings else None
