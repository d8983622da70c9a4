"""Videos really written: an MP4 of a few drawn pictures, a second each, by a writer of a few boxes.

The boxes are those of ISO/IEC 14496-12 and -14: one track of video whose samples are whole PNG files (object type
0x6D), so that no encoder is needed. Not every player has a decoder for that type.
"""

from collections.abc import Sequence
from struct import pack
from typing import Final

from batchrunner.simulator.drawing import Paint

FRAMES: Final = 3
_TICKS: Final = 1000
"""A second, in the file's own unit."""
_MATRIX: Final = pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_PNG_OBJECT: Final = 0x6D
_VISUAL_STREAM: Final = 0x11
_TRACK_IN_USE: Final = 3
_UNDEFINED_LANGUAGE: Final = 0x55C4


def film(paint: Paint, prompt: str, size: tuple[int, int], seed: int, *, frames: int = FRAMES) -> bytes:
    """A whole MP4 of pictures of this prompt, the same for the same request."""
    return mp4_of([paint(prompt, size, seed + number) for number in range(frames)], size)


def mp4_of(frames: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """An MP4 with these PNG files as its frames, a second each."""
    start = _box(b"ftyp", b"isom", pack(">I", 0x200), b"isomiso2mp41")
    lasts = len(frames) * _TICKS
    head_bytes = len(start) + len(_index(frames, size, lasts, first_at=0)) + 8
    index = _index(frames, size, lasts, first_at=head_bytes)
    return start + index + _box(b"mdat", *frames)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return pack(">I", len(body) + 8) + kind + body


def _full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return _box(kind, pack(">I", flags), *parts)


def _index(frames: Sequence[bytes], size: tuple[int, int], lasts: int, *, first_at: int) -> bytes:
    width, height = size
    movie = _full(
        b"mvhd",
        pack(">4I", 0, 0, _TICKS, lasts),
        pack(">IHHII", 0x10000, 0x100, 0, 0, 0),
        _MATRIX,
        bytes(24),
        pack(">I", 2),
    )
    track = _full(
        b"tkhd",
        pack(">5I", 0, 0, 1, 0, lasts),
        bytes(16),
        _MATRIX,
        pack(">2I", width << 16, height << 16),
        flags=_TRACK_IN_USE,
    )
    media = _box(
        b"mdia",
        _full(b"mdhd", pack(">4IHH", 0, 0, _TICKS, lasts, _UNDEFINED_LANGUAGE, 0)),
        _full(b"hdlr", bytes(4), b"vide", bytes(12), b"video\0"),
        _box(
            b"minf",
            _full(b"vmhd", bytes(8), flags=1),
            _box(b"dinf", _full(b"dref", pack(">I", 1), _full(b"url ", flags=1))),
            _samples(frames, size, first_at=first_at),
        ),
    )
    return _box(b"moov", movie, _box(b"trak", track, media))


def _samples(frames: Sequence[bytes], size: tuple[int, int], *, first_at: int) -> bytes:
    decoder = _descriptor(4, pack(">BB", _PNG_OBJECT, _VISUAL_STREAM), bytes(11))
    stream = _descriptor(3, pack(">HB", 1, 0), decoder, _descriptor(6, b"\2"))
    entry = _box(
        b"mp4v",
        bytes(6),
        pack(">H", 1),
        bytes(16),
        pack(">HH", *size),
        pack(">III", 72 << 16, 72 << 16, 0),
        pack(">H", 1),
        bytes(32),
        pack(">Hh", 24, -1),
        _full(b"esds", stream),
    )
    return _box(
        b"stbl",
        _full(b"stsd", pack(">I", 1), entry),
        _full(b"stts", pack(">3I", 1, len(frames), _TICKS)),
        _full(b"stsc", pack(">4I", 1, 1, len(frames), 1)),
        _full(b"stsz", pack(">2I", 0, len(frames)), *(pack(">I", len(frame)) for frame in frames)),
        _full(b"stco", pack(">2I", 1, first_at)),
    )


def _descriptor(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return pack(">BB", tag, len(body)) + body
