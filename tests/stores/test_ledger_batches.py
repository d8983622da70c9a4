"""Reading a ledger in batches tells exactly what reading it line by line tells, whatever was done to its bytes."""

from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.errors import LedgerDamagedError
from batchrunner.core.events import (
    Accepted,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Lost,
    Open,
    Parked,
    Ready,
    Reformatted,
    Requeued,
    Retry,
    Rewritten,
)
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.state import LedgerState
from batchrunner.stores import ledger_line as ledger_batches
from batchrunner.stores.files import Disk
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.ledger_line import Batch, Record
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.ledger_replay import replay_into

AT = 1_790_000_000.0


class OneSegment(Disk):
    """A ledger that is a few bytes in memory."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def names(self, path: Path) -> list[str]:
        return ["000001.jsonl"]

    def exists(self, path: Path) -> bool:
        return True

    def open_read(self, path: Path) -> int:
        return 0

    def read_at(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        return self.text[offset : offset + size_bytes]

    def close(self, descriptor: int) -> None:
        """Nothing is open."""


def events_of_a_run(items: int) -> list[Event]:
    """Of a run with a bit of everything in it."""
    events: list[Event] = [Open(version=1, run="r", segment=1, job="j", program="0")]
    for number in range(items):
        i, k = f"item-{number}", f"{number * 0x9E3779B97F4A7C15:032x}"
        events.append(Intent(i=i, k=k, n=1, a=0, model="m", account="KEY"))
        if number % 7 == 3:
            events.append(Retry(i=i, k=k, n=1, a=1, kind="timeout", ambiguous=True))
            events.append(Intent(i=i, k=k, n=2, a=1, model="m", account="KEY"))
        if number % 5 == 2:
            events.append(Accepted(i=i, k=k, n=1, a=0, task=f"task-{number}", model="m", account="KEY", others=("t",)))
            events.append(Ready(i=i, k=k, urls=(f"https://host/{number}.png",)))
        if number % 11 == 5:
            events.append(Failed(i=i, k=k, n=1, a=1, kind="invalid_request", message="nö"))
        elif number % 13:
            events.append(Done(i=i, k=k, n=1, a=1, crc=f"{number:08x}", length=100 * number, input_tokens=3))
        if number % 33 == 5:
            events.append(Requeued(i=i, k=k))
        if number % 39 == 1:
            events.append(Lost(i=i, k=k))
            events.append(Reformatted(i=i, k=k, files=(("images/a.png", 1, "0" * 64),), gone=("images/a.jpg",)))
        if number % 29 == 17:
            events.append(Parked(account="KEY", model="m", kind="throttle", reason="slow down", until=AT + 60))
            events.append(Rewritten(length=50 * number, labels="l"))
    return [*events, Close(records=len(events) + 1)]


def lines_of(events: list[Event]) -> list[bytes]:
    return [
        encode_line(event, sequence=number, at=AT + number, durable=0 if number % 50 == 0 else None)
        for number, event in enumerate(events)
    ]


def everything_read(text: bytes, take: Callable[[LedgerState, OneSegment], object]) -> tuple[object, ...]:
    """All that a reading tells."""
    state, disk = LedgerState(), OneSegment(text)
    try:
        rest = take(state, disk)
    except LedgerDamagedError as error:
        return "damaged", error.file, error.offset, error.problem
    state.segment_ended()
    known = {key: (state.record(key), state.crc(key)) for key, _ in state.item_states()}
    sums = state.sends, state.ambiguous, state.unknown, state.results_length, state.intact_at, state.closed
    return (
        rest,
        known,
        sums,
        state.tallies,
        state.days,
        state.parks,
        [state.count(item_state) for item_state in ItemState],
    )


def in_batches(state: LedgerState, disk: OneSegment) -> object:
    reading = read_ledger(Path("ledger"), files=disk)
    replay_into(state, reading)
    return reading.segments


def one_by_one(state: LedgerState, disk: OneSegment) -> object:
    reading = read_ledger(Path("ledger"), files=disk)
    verified = True
    for record in reading:
        state.apply(record.event, at=record.at)
        if isinstance(record.event, Close):
            verified = record.event.files is not None
            state.intact_at = 0.0
        if verified:
            state.intact_at = record.at
    return reading.segments


EVENTS = events_of_a_run(50)
LINES = lines_of(EVENTS)
WHOLE = b"".join(LINES)


@settings(max_examples=300)
@given(
    cut=st.integers(0, len(WHOLE)),
    flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=2),
    dropped=st.sets(st.integers(0, len(LINES) - 1), max_size=2),
    piece=st.sampled_from([700, 4096, 1 << 18]),
)
def test_a_ledger_read_in_batches_reports_what_it_reports_line_by_line(
    cut: int, flips: list[tuple[int, int]], dropped: set[int], piece: int
) -> None:
    text = bytearray(b"".join(line for number, line in enumerate(LINES) if number not in dropped))
    for place, byte in flips:
        text[place % len(text)] = byte
    ledger_batches.PIECE_BYTES, before = piece, ledger_batches.PIECE_BYTES  # few lines are many pieces
    try:
        assert everything_read(bytes(text[:cut]), in_batches) == everything_read(bytes(text[:cut]), one_by_one)
    finally:
        ledger_batches.PIECE_BYTES = before


def _with(changed: Callable[[int, bytes], bytes]) -> bytes:
    return b"".join(changed(number, line) for number, line in enumerate(LINES))


def _resealed(line: bytes, old: bytes, new: bytes) -> bytes:
    """A sound line that says something else."""
    import zlib  # noqa: PLC0415 - here alone

    body = line.replace(old, new)[: -len(',"c":"01234567"}\n')]
    return body + b',"c":"%08x"}\n' % zlib.crc32(body)


def test_intact_lines_that_no_program_writes_are_classified_as_they_are_line_by_line() -> None:
    strange = [
        _with(lambda _, line: line[:-1] + b"\r\n"),
        _with(lambda number, line: line[:-1] + b"\r\n" if number % 3 else line),
        *(
            _with(lambda number, line, at=at, old=old, new=new: _resealed(line, old, new) if number == at else line)  # type: ignore[misc]
            for at in (40, 41, 50, *(list(map(type, EVENTS)).index(kind) for kind in set(map(type, EVENTS))))
            for old, new in (
                (b'"e":"', b'"e":"later-'),
                (b'"k":"0', b'"k":"G'),
                (b'"k":"0', b'"k":"00'),
                (b'"k":"0', b'"k":" 0'),
                (b'"k":"00', b'"k":"AA'),
                (b'"k":"00', b'"k":"  '),
                (b'"n":1', b'"n":"1"'),
                (b'"crc":"0', b'"crc":"X'),
                (b'"crc":"0', b'"crc":" '),
                (b'"length":', b'"length":-'),
                (b'"i":"', b'"i":"\xc3\xa9'),
                (b'"i"', b'"j"'),
                (b'"d":', b'"d":"'),
                (b'"t":', b'"t":"1",'),
                (b'"s":40', b'"s":41'),
                (b'"s":40', b'"s":40.0'),
                (b'"e":"intent"', b'"e":"open"'),
                (b'"e":"done"', b'"e":"open"'),
            )
        ),
        WHOLE + WHOLE,
        WHOLE + b"\n",
        b"\n" + WHOLE,
        WHOLE.replace(b"\n", b"", 1),
    ]
    for text in strange:
        assert everything_read(text, in_batches) == everything_read(text, one_by_one)


def test_nearly_all_records_of_a_chat_run_come_in_batches() -> None:
    steps = list(read_ledger(Path("ledger"), files=OneSegment(WHOLE)).steps())
    batched = sum(len(step.events) for step in steps if isinstance(step, Batch))
    single = [step.event for step in steps if isinstance(step, Record)]
    assert batched + len(single) == len(LINES)
    assert not any(isinstance(event, Intent | Done) for event in single)
