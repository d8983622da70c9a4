"""The bytes of real ledgers, cut, flipped, dropped, doubled and swapped: nothing goes undetected (invariants 7 and 8).

The ledgers come from real runs. "Detected" is: refused as damaged, told as a torn tail, or seen to lack its `close`.
"""

from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.errors import LedgerDamagedError
from batchrunner.core.events import Event, Open
from batchrunner.core.state import LedgerState
from batchrunner.stores.files import Disk
from batchrunner.stores.ledger_line import segment_numbers
from batchrunner.stores.ledger_reader import LeftOut, SegmentEnd, read_ledger
from tests.support.engine import RunHarness, World, chat, image
from tests.support.torture import Tried, at_size

JOBS = {
    "chat": chat("one", "two", "three", model="sim/chat#throttle:1"),
    "image": image("a boat", "a barn"),
    "failures": chat("one", model="sim/chat#5xx:9", more="retry: {attempts: 2}"),
}


class InMemory(Disk):
    """Segments that are read thousands of times in variants."""

    def __init__(self, *texts: bytes) -> None:
        self.texts = texts

    def names(self, path: Path) -> list[str]:
        return [f"{number:06d}.jsonl" for number in range(1, len(self.texts) + 1)]

    def exists(self, path: Path) -> bool:
        return True

    def open_read(self, path: Path) -> int:
        return -segment_numbers([path.name])[0]

    def read_at(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        return self.texts[-descriptor - 1][offset : offset + size_bytes]

    def close(self, descriptor: int) -> None:
        pass


@pytest.fixture(scope="module", params=JOBS)
def segment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The one segment of a real run, closed."""
    harness = RunHarness(tmp_path_factory.mktemp(request.param), World())
    harness.run(JOBS[request.param])
    (path,) = sorted((harness.out / "ledger").glob("*.jsonl"))
    text: bytes = path.read_bytes()
    assert text.count(b"\n") >= 5
    return text


def read(*texts: bytes) -> tuple[list[Event], tuple[LeftOut, ...], list[SegmentEnd]]:
    reading = read_ledger(Path("ledger"), files=InMemory(*texts))
    events = [record.event for record in reading]
    return events, reading.left_out, reading.segments


def read_result_of(text: bytes) -> tuple[list[Event], LedgerDamagedError | None, LeftOut | None]:
    """What a reader gets of a segment: events, damage, or the torn tail that is not replayed."""
    reading = read_ledger(Path("ledger"), files=InMemory(text))
    events: list[Event] = []
    try:
        events.extend(record.event for record in reading)
    except LedgerDamagedError as error:
        return events, error, None
    assert not reading.segments[0].closed
    return events, None, reading.left_out[0] if reading.left_out else None


def state_after(*texts: bytes, times: int = 1) -> dict[str, Any]:
    """Everything that a replay knows, as a comparable value."""
    state = LedgerState()
    for _ in range(times):
        number = 0
        for record in read_ledger(Path("ledger"), files=InMemory(*texts)):
            if record.segment != number:
                state.segment_ended()
                number = record.segment
            state.apply(record.event, at=record.at)
        state.segment_ended()
    known = {key.hex(): state.record(key) for key, _ in state.item_states()}
    shown = {name: getattr(state, name) for name in ("tasks", "parks", "days", "labels", "results_length", "closed")}
    counts = {name: getattr(state, name) for name in ("sends", "refused", "ambiguous", "unknown", "images")}
    return {"items": known, **shown, "counts": counts}


def is_detected(*texts: bytes) -> bool:
    """Whether a reader of these segments learns that they are not whole."""
    try:
        _, left_out, segments = read(*texts)
    except LedgerDamagedError:
        return True
    return bool(left_out) or not segments[-1].closed


def test_the_whole_segment_is_intact(segment: bytes) -> None:
    events, left_out, (end,) = read(segment)
    assert left_out == ()
    assert end.closed
    assert isinstance(events[0], Open)
    assert len(events) == segment.count(b"\n")


def test_replay_of_a_segment_cut_anywhere_is_replay_of_its_whole_lines(segment: bytes, tried: Tried) -> None:
    """Invariant 7, for every offset."""
    events, _, _ = read(segment)
    for cut in range(len(segment)):
        whole = segment[: segment.rfind(b"\n", 0, cut) + 1]
        kept, told, _ = read(segment[:cut])
        assert kept == events[: whole.count(b"\n")]
        assert is_detected(segment[:cut])
        torn = cut - len(whole)
        assert sum(tail.bytes for tail in told) == torn
        assert bool(told) == (torn > 0 or not whole)
        if torn in (1, 60):
            assert state_after(segment[:cut]) == state_after(whole)
    tried("bytes: ledgers cut", len(segment))


def test_no_flipped_bit_goes_undetected(segment: bytes, tried: Tried) -> None:
    """Damage below the durable length is refused with its place; above it a told tail. Every bit in `make torture`."""
    events, _, _ = read(segment)
    bits = at_size(1, 8)
    for place in range(len(segment)):
        for bit in range(place % 8, place % 8 + bits):
            flipped = bytearray(segment)
            flipped[place] ^= 1 << bit % 8
            kept, damage, tail = read_result_of(bytes(flipped))
            assert kept == events[: len(kept)]
            if damage is not None:
                assert damage.offset <= place
            else:
                assert tail is not None
                assert tail.offset <= place < tail.offset + tail.bytes
    tried("bytes: bits flipped", bits * len(segment))


def test_no_dropped_doubled_or_swapped_line_goes_undetected(segment: bytes, tried: Tried) -> None:
    lines = segment.splitlines(keepends=True)
    for number, line in enumerate(lines):
        assert is_detected(b"".join([*lines[:number], *lines[number + 1 :]])), f"line {number} was dropped"
        assert is_detected(b"".join([*lines[: number + 1], line, *lines[number + 1 :]])), f"line {number} was doubled"
        for other in range(number):
            swapped = [*lines]
            swapped[number], swapped[other] = swapped[other], swapped[number]
            assert is_detected(b"".join(swapped)), f"lines {other} and {number} were swapped"
    tried("bytes: lines dropped, doubled, swapped", 2 * len(lines) + len(lines) * (len(lines) - 1) // 2)


def test_no_line_of_another_place_goes_undetected(segment: bytes, tried: Tried) -> None:
    """A sound line of the same ledger, put over another one."""
    lines = segment.splitlines(keepends=True)
    for number in range(len(lines)):
        for other in range(len(lines)):
            if other != number:
                assert is_detected(b"".join([*lines[:number], lines[other], *lines[number + 1 :]]))
    tried("bytes: lines put over others", len(lines) * (len(lines) - 1))


def test_a_segment_in_the_place_of_another_is_refused(segment: bytes) -> None:
    with pytest.raises(LedgerDamagedError, match="renamed or copied"):
        read(segment, segment)


def test_zeros_and_garbage_in_the_middle_are_detected(segment: bytes, tried: Tried) -> None:
    """What a lost page looks like, at every place and in several sizes."""
    for size in (1, 16, 64, 512):
        for place in range(0, len(segment), 7):
            hole = segment[:place] + bytes(min(size, len(segment) - place)) + segment[place + size :]
            assert hole == segment or is_detected(hole)
    tried("bytes: holes", 4 * len(range(0, len(segment), 7)))


def test_replaying_twice_changes_no_state(segment: bytes) -> None:
    """Invariant 8."""
    once, twice = state_after(segment), state_after(segment, times=2)
    assert {key: item.item_state for key, item in once["items"].items()} == {
        key: item.item_state for key, item in twice["items"].items()
    }
    assert once["results_length"] == twice["results_length"]
    assert once["tasks"] == twice["tasks"]
