"""Undoing content codings step by step, so that a small reply can never become a big one in memory.

Each step gives at most 64 KiB; the caller counts and stops. Refuses codings that were not asked for (br, zstd) and
stacked ones. Source: RELIABILITY threat 4, RFC 9110 section 8.4.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeAlias

STEP_BYTES: Final = 64 * 1024
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


_Maker: TypeAlias = Callable[[], Unpacker | None]

_UNPACKERS: dict[str, _Maker] = {
    "": lambda: None,
    "identity": lambda: None,
    "gzip": lambda: _Inflate(bits=_GZIP_BITS),
    "x-gzip": lambda: _Inflate(bits=_GZIP_BITS),
    "deflate": lambda: _Inflate(bits=None),
}


def unpacker(content_encoding: str | None) -> Unpacker | None:
    """What undoes this `Content-Encoding`; None when the bytes are plain.

    Raises:
        CodingError: a coding that was not asked for.
    """
    if content_encoding is None:
        return None
    make = _UNPACKERS.get(content_encoding.strip().lower())
    if make is None:
        raise CodingError("it has a content coding that was not asked for")
    return make()


def _begins_member(coded: bytes) -> bool:
    return coded[:1] == b"\x1f"
