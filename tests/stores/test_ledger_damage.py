"""Bytes of a ledger cut, flipped, dropped, doubled, swapped: nothing goes undetected or is lost without a word."""

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.errors import LedgerDamagedError
from batchrunner.core.events import Close, Event, Intent, Open
from batchrunner.stores.files import Disk
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.ledger_reader import LeftOut, read_ledger

KEY = "0123456789abcdef" * 2
OPEN = Open(version=1, run="r", segment=1, job="j", program="p")


def segment(*, batches: int = 3, size: int = 2) -> list[bytes]:
    """Lines as the writer makes them: each batch is synced before the next begins."""
    lines = [encode_line(OPEN, sequence=0, at=1.0, durable=0)]
    for batch in range(batches):
        durable = sum(map(len, lines))
        for place in range(size):
            event = Intent(i=f"{batch}.{place}", k=KEY, n=1, a=0, model="m", account="a")
            lines.append(encode_line(event, sequence=len(lines), at=1.0, durable=None if place else durable))
    return lines


class FirstSegment(Disk):
    """A disk whose first segment is in memory: byte-level tests read thousands of variants."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def names(self, path: Path) -> list[str]:
        return sorted({"000001.jsonl", *(super().names(path) if super().exists(path) else ())})

    def exists(self, path: Path) -> bool:
        return path.name in {"000001.jsonl", "no-such-folder"} or super().exists(path)

    def open_read(self, path: Path) -> int:
        return -1 if path.name == "000001.jsonl" else super().open_read(path)

    def read_at(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        if descriptor == -1:
            return self.text[offset : offset + size_bytes]
        return super().read_at(descriptor, size_bytes, offset)

    def close(self, descriptor: int) -> None:
        if descriptor != -1:
            super().close(descriptor)


def read(folder: Path, text: bytes) -> tuple[list[Event], tuple[LeftOut, ...]]:
    reading = read_ledger(folder, files=FirstSegment(text))
    events = [record.event for record in reading]
    return events, reading.left_out


def test_a_ledger_cut_anywhere_replays_as_its_whole_lines_and_reports_the_rest(tmp_path: Path) -> None:
    """Invariant 7."""
    lines = segment()
    text = b"".join(lines)
    events, left_out = read(tmp_path, text)
    assert left_out == ()
    for cut in range(len(text)):
        whole = text[:cut].count(b"\n")
        kept, told = read(tmp_path, text[:cut])
        assert kept == events[:whole]
        torn = cut - sum(map(len, lines[:whole]))
        assert [tail.bytes for tail in told] == ([torn] if torn or not whole else [])


def test_every_flipped_bit_is_damage_below_what_was_durable_and_a_reported_tail_above(tmp_path: Path) -> None:
    lines = segment()
    text = b"".join(lines)
    durable = sum(map(len, lines[:5]))
    events, _ = read(tmp_path, text)
    for place in range(len(text)):
        for bit in range(8):
            flipped = bytearray(text)
            flipped[place] ^= 1 << bit
            if place < durable:
                with pytest.raises(LedgerDamagedError) as caught:
                    read(tmp_path, bytes(flipped))
                assert caught.value.offset <= place
            else:
                kept, (tail,) = read(tmp_path, bytes(flipped))
                assert kept == events[: len(kept)]
                assert tail.offset <= place < tail.offset + tail.bytes


@pytest.mark.parametrize("number", range(7))
def test_a_dropped_line_is_damage_or_a_reported_tail(tmp_path: Path, number: int) -> None:
    lines = segment()
    del lines[number]
    if number < 5:
        with pytest.raises(LedgerDamagedError):
            read(tmp_path, b"".join(lines))
        return
    kept, told = read(tmp_path, b"".join(lines))
    assert len(kept) == number
    assert [tail.sound_records for tail in told] == [6 - number] * bool(told)
    assert bool(told) == (number < 6), "nobody can tell a dropped last line from one that was never written"


@pytest.mark.parametrize("number", range(7))
def test_a_doubled_line_is_damage_or_a_reported_tail(tmp_path: Path, number: int) -> None:
    lines = segment()
    lines.insert(number, lines[number])
    if number < 4:
        with pytest.raises(LedgerDamagedError):
            read(tmp_path, b"".join(lines))
        return
    kept, (tail,) = read(tmp_path, b"".join(lines))
    assert len(kept) == number + 1
    assert tail.offset == sum(map(len, lines[: number + 1]))


@pytest.mark.parametrize("number", range(6))
def test_swapped_lines_are_damage_or_a_reported_tail(tmp_path: Path, number: int) -> None:
    lines = segment()
    lines[number], lines[number + 1] = lines[number + 1], lines[number]
    if number < 5:
        with pytest.raises(LedgerDamagedError):
            read(tmp_path, b"".join(lines))
        return
    kept, told = read(tmp_path, b"".join(lines))
    assert len(kept) == number
    assert len(told) == 1


def test_a_torn_tail_states_which_file_where_and_how_much(tmp_path: Path) -> None:
    lines = segment()
    _, (tail,) = read(tmp_path, b"".join(lines[:-2]) + b"garbage\n" + lines[-1])
    assert (tail.offset, tail.bytes, tail.sound_records) == (sum(map(len, lines[:-2])), 8 + len(lines[-1]), 1)
    assert "000001.jsonl: byte" in str(tail)
    assert "are ignored" in str(tail)


def test_pages_that_a_power_loss_left_empty_are_a_torn_tail_in_bounded_pieces(tmp_path: Path) -> None:
    text = b"".join(segment())
    kept, (tail,) = read(tmp_path, text + bytes(5 << 20))
    assert len(kept) == 7
    assert tail.bytes == 5 << 20


def test_an_empty_segment_is_a_torn_tail(tmp_path: Path) -> None:
    kept, (tail,) = read(tmp_path, b"")
    assert kept == []
    assert "empty" in str(tail)


def test_a_torn_tail_of_an_older_segment_stops_no_later_one(tmp_path: Path) -> None:
    later = encode_line(Open(version=1, run="r", segment=2, job="j", program="p"), sequence=0, at=1.0, durable=0)
    (tmp_path / "000002.jsonl").write_bytes(later)
    kept, told = read(tmp_path, b"".join(segment())[:-3])
    assert len(kept) == 7
    assert len(told) == 1


def test_a_segment_without_open_is_damage(tmp_path: Path) -> None:
    line = encode_line(Close(records=1), sequence=0, at=1.0, durable=0)
    with pytest.raises(LedgerDamagedError, match=r"byte 0: begins with `close` instead of `open`"):
        read(tmp_path, line)


def test_an_unknown_version_is_refused_whatever_its_fields(tmp_path: Path) -> None:
    with pytest.raises(LedgerDamagedError, match="format version 6"):
        read(tmp_path, sealed(b'{"s":0,"t":1.0,"e":"open","version":6,"segment":"one"'))


def test_unknown_fields_and_unknown_events_of_this_version_are_passed_over(tmp_path: Path) -> None:
    lines = segment(batches=1)
    lines.append(sealed(b'{"s":3,"t":1.0,"e":"applauded","i":7'))
    lines.append(sealed(b'{"s":4,"t":1.0,"e":"requeued","i":"x","k":"%b","mood":[1,{}]' % KEY.encode()))
    kept, told = read(tmp_path, b"".join(lines))
    assert [type(event).__name__ for event in kept] == ["Open", "Intent", "Intent", "Requeued"]
    assert told == ()


def test_an_intact_line_with_the_wrong_fields_is_damage(tmp_path: Path) -> None:
    lines = [*segment(batches=1), sealed(b'{"s":3,"t":1.0,"e":"requeued","i":7,"k":"y"')]
    with pytest.raises(LedgerDamagedError, match="not a valid `requeued` record"):
        read(tmp_path, b"".join(lines))
    lines = [*segment(batches=1), sealed(b'{"s":3,"t":1.0,"e":"requeued","i":"x","k":"y"')]
    with pytest.raises(LedgerDamagedError, match="an invalid item key"):
        read(tmp_path, b"".join(lines))
    lines = [*segment(batches=1), sealed(b'{"a":1')]
    with pytest.raises(LedgerDamagedError, match="not a ledger record"):
        read(tmp_path, b"".join(lines))


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "000001.jsonl").write_bytes(b"".join(segment())[:-3])
    reading = read_ledger(tmp_path)
    assert list(reading) == list(reading)
    assert len(reading.left_out) == 1


def sealed(start: bytes) -> bytes:
    return b'%b,"c":"%08x"}\n' % (start, zlib.crc32(start))


@given(st.data())
def test_whatever_happens_to_its_bytes_a_ledger_is_refused_or_replays_a_beginning(data: st.DataObject) -> None:
    folder = Path(__file__).parent / "no-such-folder"
    lines = segment()
    text = bytearray(b"".join(lines))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 300)))
        text[start:end] = data.draw(st.binary(max_size=40) | st.sampled_from(lines) | st.just(bytes(end - start)))
    events = [
        OPEN,
        *(Intent(i=f"{b}.{p}", k=KEY, n=1, a=0, model="m", account="a") for b in range(3) for p in range(2)),
    ]
    try:
        kept, told = read(folder, bytes(text))
    except LedgerDamagedError:
        return
    assert kept == events[: len(kept)]
    assert told or bytes(text) == b"".join(lines[: len(kept)])
