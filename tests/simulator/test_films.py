"""The simulator's videos: whole MP4 files of drawn pictures, by a writer of a few boxes."""

from collections.abc import Iterator
from struct import unpack

import pytest

from batchrunner.simulator.drawing import draw
from batchrunner.simulator.films import FRAMES, film, mp4_of
from batchrunner.simulator.null_stores import PLACEHOLDER

NESTED = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"}


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends), outer boxes first."""
    at = start
    while at < (len(data) if end is None else end):
        size, kind = unpack(">I4s", data[at : at + 8])
        assert size >= 8, "a box holds its own head"
        yield kind, at + 8, at + size
        if kind in NESTED:
            yield from boxes(data, at + 8, at + size)
        at += size
    assert at == (len(data) if end is None else end), "boxes fill what they are in"


@pytest.mark.parametrize("frames", [1, 3, 40])
def test_the_frames_lie_where_the_index_states(frames: int) -> None:
    pictures = [PLACEHOLDER + bytes(number) for number in range(frames)]
    data = mp4_of(pictures, (64, 48))
    found = {kind: data[start:end] for kind, start, end in boxes(data)}
    assert {b"ftyp", b"moov", b"mdat", b"mvhd", b"tkhd", b"mdhd", b"hdlr", b"vmhd", b"stsd", b"stts"} <= found.keys()
    sizes = unpack(f">{frames}I", found[b"stsz"][12:])
    (at,) = unpack(">I", found[b"stco"][8:])
    for picture, size in zip(pictures, sizes, strict=True):
        assert data[at : at + size] == picture
        at += size
    assert unpack(">II", found[b"tkhd"][-8:]) == (64 << 16, 48 << 16)


def test_a_film_is_the_same_for_the_same_request_and_another_for_another() -> None:
    one = film(draw, "a cat", (64, 64), 7)
    assert one == film(draw, "a cat", (64, 64), 7)
    assert one != film(draw, "a cat", (64, 64), 8)
    assert one.count(b"IHDR") == FRAMES
