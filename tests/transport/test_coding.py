"""Content codings are undone in small steps, whatever the pieces are cut into."""

import gzip
import itertools
import random
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchrunner.transport.coding import STEP_BYTES, CodingError, unpacker


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": (" X-GZIP ", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "two members": ("gzip", lambda data: gzip.compress(data[:3]) + gzip.compress(data[3:])),
    "padded": ("gzip", lambda data: gzip.compress(data) + b"\0" * 20),
}


def undo(coding: str, pieces: list[bytes]) -> tuple[list[bytes], bool]:
    stream = unpacker(coding)
    assert stream is not None
    return [plain for piece in pieces for plain in stream.feed(piece)], stream.is_complete()


@pytest.mark.parametrize("name", CODINGS)
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 400), max_size=8), times=st.sampled_from([1, 700]))
def test_any_cutting_gives_the_same_bytes_in_small_pieces(name: str, data: bytes, cuts: list[int], times: int) -> None:
    coding, pack = CODINGS[name]
    coded = pack(data * times)
    assume(name != "raw deflate" or coded[:1] not in b"{[de")  # it has no magic: such bytes are read as JSON or events
    places = [0, *sorted(cut % (len(coded) + 1) for cut in cuts), len(coded)]
    plain, complete = undo(coding, [coded[start:end] for start, end in itertools.pairwise(places)])
    assert b"".join(plain) == data * times
    assert complete
    assert all(0 < len(piece) <= STEP_BYTES for piece in plain)


@pytest.mark.parametrize("name", ["gzip", "deflate", "raw deflate"])
def test_every_cut_end_is_noticed(name: str) -> None:
    coding, pack = CODINGS[name]
    coded = pack(bytes(range(200)))
    for length in range(len(coded)):
        assert not undo(coding, [coded[:length]])[1]


@pytest.mark.parametrize("name", ["gzip", "deflate", "two members"])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_wrong_checksum_is_reported_behind_the_bytes_it_is_about(name: str, step: int) -> None:
    """They may be a whole answer, which was paid for."""
    coding, pack = CODINGS[name]
    data = bytes(range(200)) * 3
    coded = pack(data)
    coded = coded[:-4] + bytes(4)
    stream = unpacker(coding)
    assert stream is not None
    plain = [piece for at in range(0, len(coded) - step, step) for piece in stream.feed(coded[at : at + step])]
    last = stream.feed(coded[(len(coded) - 1) // step * step :])
    with pytest.raises(CodingError, match="damaged"):
        plain.extend(last)
    assert b"".join(plain) == data
    assert not stream.is_complete()


@pytest.mark.parametrize("flags", [0, 2, 4, 8, 16, 30])
def test_a_gzip_header_may_hold_names_and_extras(flags: int) -> None:
    """Cut anywhere; a header without an end is no answer."""
    extras = (
        (b"\x03\0abc" if flags & 4 else b"") + (b"name\0" if flags & 8 else b"") + (b"why\0" if flags & 16 else b"")
    )
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + extras
    if flags & 2:
        head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    coded = head + gzip.compress(b"hello", mtime=0)[10:]
    for step in (1, 4, 100):
        plain, complete = undo("gzip", [coded[at : at + step] for at in range(0, len(coded), step)])
        assert (b"".join(plain), complete) == (b"hello", True)
    assert undo("gzip", [b"\x1f\x8b\x08\x08" + bytes(6), *[b"n" * 9000] * 10]) == ([], False)


@pytest.mark.parametrize("name", CODINGS)
def test_a_big_body_may_come_in_one_piece(name: str) -> None:
    coding, pack = CODINGS[name]
    data = random.Random(0).randbytes(300_000)
    plain, complete = undo(coding, [pack(data)])
    assert (b"".join(plain), complete) == (data, True)


@given(junk=st.binary(max_size=60))
def test_any_bytes_give_bytes_or_a_coding_error(junk: bytes) -> None:
    for coding in ("gzip", "deflate"):
        try:
            undo(coding, [junk])
        except CodingError as error:
            assert str(error) == "its compressed data is damaged"  # noqa: PT017 - either way is right


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "compress"])
def test_codings_that_were_not_asked_for_are_refused(coding: str) -> None:
    with pytest.raises(CodingError, match="not requested"):
        undo(coding, [b"\x0b\x05\x80hello world\x03"])


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "identity, gzip"])
@pytest.mark.parametrize("plain", [b'{"a": 1}', b'data: {"a": 1}\n\n', b"\n\n [{}]", b"event: ping\n\n"])
@pytest.mark.parametrize("step", [1, 2, 5, 100])
def test_a_coding_that_the_bytes_are_not_in_is_not_believed(coding: str, plain: bytes, step: int) -> None:
    """RFC 9110 knows no such reply; gateways that unpack a body and pass its head on make them."""
    if coding == "deflate":
        plain = plain.lstrip()  # two bytes of white space may begin a deflate stream
    pieces = [plain[at : at + step] for at in range(0, len(plain), step)]
    told, complete = undo(coding, pieces)
    assert (b"".join(told), complete) == (plain, True)


def test_gzip_is_undone_whatever_its_coding_is_called() -> None:
    assert b"".join(undo("br", [gzip.compress(b"hello")])[0]) == b"hello"


@pytest.mark.parametrize("coding", ["utf-8", "UTF-8", "none", "nonsense", "binary", "chunked"])
def test_a_word_that_is_no_coding_states_nothing(coding: str) -> None:
    assert unpacker(coding) is None


@pytest.mark.parametrize("coding", ["", "identity", "Identity"])
def test_plain_bytes_need_nothing(coding: str) -> None:
    assert unpacker(coding) is None


@pytest.mark.parametrize("bits", [31, 15, -15])
def test_a_bomb_is_made_piece_by_piece(bits: int) -> None:
    """Threat 4."""
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    bomb = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(50)) + packer.flush()
    stream = unpacker("gzip" if bits == 31 else "deflate")
    assert stream is not None
    tracemalloc.start()
    try:
        size = sum(map(len, stream.feed(bomb)))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 50_000_000
    assert peak_bytes < 400_000
