"""Reads a ledger back, record by record, and distinguishes a torn tail from damage.

A crash may leave unsynced pages in any order, so damage at or above the greatest durable length that a sound record of
the segment names ends the replay of that segment and is reported in `left_out`. Damage below it, a gap in the segments'
numbers, a missing `open` or an unknown version raises LedgerDamagedError: going on could pay twice. Nothing on the disk
is ever changed here.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

import msgspec

from batchrunner.core.errors import LedgerDamagedError
from batchrunner.core.events import READABLE_VERSIONS, Close, Done, Event, Open, Reformatted
from batchrunner.core.lifecycle import ItemEvent
from batchrunner.core.values import dataclass
from batchrunner.stores.files import DISK, Files, broken
from batchrunner.stores.ledger_line import (
    MAX_LINE_BYTES,
    PIECE_BYTES,
    Batch,
    Record,
    intact_pieces,
    is_intact,
    segment_numbers,
    segment_path,
)
from batchrunner.stores.row_codec import UNREADABLE
from batchrunner.stores.row_forms import FileLine, read_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A torn tail: the end of a segment that is not replayed."""

    file: str
    offset: int
    bytes: int
    sound_records: int
    """Records in it whose checksum is right, but which follow the damage."""
    problem: str

    def __str__(self) -> str:
        return (
            f"{self.file}: byte {self.offset}: {self.problem}; the last {self.bytes} bytes "
            f"({self.sound_records} readable records) were never confirmed as durable and are ignored, as after a crash"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEnd:
    """How the reading of a segment ended."""

    number: int
    opened: Open | None
    """None when not even the `open` had been written."""
    records: int
    """Read, unknown events included."""
    closed: bool
    """True after a clean end."""
    left_out: LeftOut | None


class _RecordEnvelope(msgspec.Struct, gc=False):
    s: int
    t: float
    e: str
    d: int | None = None


class _OpenHead(msgspec.Struct):
    e: str
    version: int = 0
    resends: bool = False


class _Keyed(msgspec.Struct):
    k: str


_decode_key = msgspec.json.Decoder(_Keyed).decode
_decode_envelope = msgspec.json.Decoder(_RecordEnvelope).decode
_decode_head = msgspec.json.Decoder(_OpenHead).decode
_HEAD_BYTES = 4096
_decode_event = msgspec.json.Decoder(Event).decode
_is_key = re.compile("[0-9a-f]{32}").fullmatch
_is_crc = re.compile("[0-9a-f]{8}|").fullmatch
_KNOWN = frozenset(kind.__struct_config__.tag for kind in get_args(Event))


class LedgerReading:
    """Iterate it once for the records in order; `segments` then has how each segment ended."""

    def __init__(self, folder: Path, files: Files, after: int = 0) -> None:
        self._folder = folder
        self._after = after
        self._files = files
        self.segments: list[SegmentEnd] = []
        self._ended_at: int | None = None
        """Length of the last segment that was read, where it had no clean end."""

    def __repr__(self) -> str:
        return f"<LedgerReading {self._folder} segments={len(self.segments)} left_out={len(self.left_out)}>"

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The torn tails of what has been read so far."""
        return tuple(segment.left_out for segment in self.segments if segment.left_out is not None)

    def __iter__(self) -> Iterator[Record]:
        for step in self.steps(batched=False):
            assert isinstance(step, Record), "nothing else comes one by one"
            yield step

    def steps(self, *, batched: bool = True) -> Iterator[Record | Batch]:
        """The same records, but those of which there are millions in batches. Raises, while iterating, as there."""
        self.segments.clear()
        try:
            names = self._files.names(self._folder) if self._files.exists(self._folder) else []
            for expected, number in enumerate(segment_numbers(names), start=1):
                if number != expected:
                    missing = str(segment_path(self._folder, expected))
                    raise LedgerDamagedError(file=missing, offset=0, problem="this segment is missing; restore it")
                if number > self._after:
                    yield from self._segment(number, batched=batched)
        except OSError as error:
            raise broken(self._folder, error, sending=False) from error

    def _check_before(self, number: int, opened: Open) -> None:
        """The segment before was complete when this one was begun, and is never appended to."""
        if opened.before is None or self._ended_at is None or self._ended_at >= opened.before:
            return
        path = segment_path(self._folder, number - 1)
        problem = f"ends here but was {opened.before} bytes long: it was truncated; restore the original file"
        raise LedgerDamagedError(file=str(path), offset=self._ended_at, problem=problem)

    def _segment(self, number: int, *, batched: bool) -> Iterator[Record | Batch]:
        path = segment_path(self._folder, number)
        at = _Position()
        yield from self._look(path, number, at, upto=1 if batched else None)
        while batched and not at.ended:
            for piece in intact_pieces(self._files, path, number, start=at.end, sequence=at.sequence):
                yield from piece.steps
                last = piece.steps[-1]
                at.event = last.events[-1] if isinstance(last, Batch) else last.event
                at.sequence, at.end = at.sequence + piece.records, piece.end
            yield from self._look(path, number, at, upto=at.end + PIECE_BYTES)
        if at.sequence == 0 and at.left_out is None:
            problem = "empty: its process ended before writing anything"
            at.left_out = LeftOut(file=str(path), offset=0, bytes=0, sound_records=0, problem=problem)
        left_out = at.left_out
        closed = isinstance(at.event, Close) and left_out is None
        self._ended_at = None if closed else at.end if left_out is None else left_out.offset + left_out.bytes
        self.segments.append(
            SegmentEnd(number=number, opened=at.opened, records=at.sequence, closed=closed, left_out=left_out)
        )

    def _look(self, path: Path, number: int, at: "_Position", *, upto: int | None) -> Iterator[Record]:
        """Line by line, to the end of the segment or of the line that reaches the byte `upto`."""
        lines = read_lines(self._files, path, start=at.end, longest_bytes=MAX_LINE_BYTES)
        for raw in lines:
            at.end = raw.offset + len(raw.text) + raw.whole
            line = _trimmed(raw)
            problem = _fault(line)
            envelope = None if problem else _envelope(path, line)
            if envelope is None or envelope.s != at.sequence:
                gap = "" if envelope is None else f"found record {envelope.s}, expected record {at.sequence}"
                at.left_out = _torn_tail(path, line, lines, problem or gap, envelope)
                break
            yield from self._take(path, number, at, line, envelope)
            if upto is not None and at.end >= upto:
                return
        at.ended = True

    def _take(
        self, path: Path, number: int, at: "_Position", line: FileLine, envelope: _RecordEnvelope
    ) -> Iterator[Record]:
        """An intact line in sequence; events unknown to this version are ignored."""
        if at.sequence == 0:
            _check_open(path, line.text)
        at.event = _event(path, line, envelope)
        if at.sequence == 0 and isinstance(at.event, Open):
            at.opened = _in_its_place(path, number, at.event)
            self._check_before(number, at.opened)
        at.sequence += 1
        if at.event is not None:
            yield Record(at.event, envelope.t, number, envelope.s)


@dataclass(slots=True)
class _Position:
    """How far a segment was read."""

    sequence: int = 0
    end: int = 0
    event: Event | None = None
    """The last one; None where this version does not know its name."""
    opened: Open | None = None
    left_out: LeftOut | None = None
    ended: bool = False


def read_ledger(folder: Path, *, files: Files = DISK, after: int = 0) -> LedgerReading:
    """The records of all segments after number `after` in order, streamed; a folder that is not there has none.

    Raises, while iterating:
        LedgerDamagedError: see the module.
        StoreBrokenError: the disk refused to be read.
    """
    return LedgerReading(folder, files, after)


def newest_open(folder: Path, *, files: Files = DISK) -> Open | None:
    """How the newest segment with a readable beginning was opened; None without one. Raises StoreBrokenError."""
    try:
        for number in reversed(segment_numbers(files.names(folder)) if files.exists(folder) else []):
            first = next(read_lines(files, segment_path(folder, number), longest_bytes=MAX_LINE_BYTES), None)
            if first is None or not is_intact(text := first.text.removesuffix(b"\r")):
                continue
            with suppress(*UNREADABLE):
                event: Event = _decode_event(text)
                if isinstance(event, Open):
                    return event
    except OSError as error:
        raise broken(folder, error, sending=False) from error
    return None


def paid_again(folder: Path, *, files: Files = DISK) -> Counter[bytes]:
    """How often an answer of each item was given up as lost. Skips segments that cannot contain such a record.

    Raises StoreBrokenError.
    """
    found = Counter[bytes]()
    try:
        for number in segment_numbers(files.names(folder)) if files.exists(folder) else []:
            for line in read_lines(files, segment_path(folder, number), longest_bytes=MAX_LINE_BYTES):
                if line.offset == 0 and not _resends(line.text):
                    break
                if b'"e":"lost"' in line.text and is_intact(line.text.removesuffix(b"\r")):
                    found[bytes.fromhex(_decode_key(line.text).k)] += 1
    except OSError as error:
        raise broken(folder, error, sending=False) from error
    except UNREADABLE:  # damage, which reading the ledger reports
        pass
    return found


def _resends(text: bytes) -> bool:
    try:
        return _decode_head(text).resends
    except UNREADABLE:
        return False


def _trimmed(line: FileLine) -> FileLine:
    """Without a carriage return that another tool added: the checksum shows that the rest is intact."""
    return line._replace(text=line.text[:-1]) if line.text.endswith(b"\r") and is_intact(line.text[:-1]) else line


def reformatted_events(folder: Path, *, files: Files = DISK) -> Iterator[Reformatted]:
    """The conversions of pictures that a ledger has; nothing but the head of each segment is read where there are none.

    Raises, while iterating: as `read_ledger`.
    """
    try:
        numbers = segment_numbers(files.names(folder)) if files.exists(folder) else []
        if not any(_may_hold_conversions(files, segment_path(folder, number)) for number in numbers):
            return
    except OSError as error:
        raise broken(folder, error, sending=False) from error
    yield from (record.event for record in read_ledger(folder, files=files) if isinstance(record.event, Reformatted))


def _may_hold_conversions(files: Files, segment: Path) -> bool:
    descriptor = files.open_read(segment)
    try:
        return b'"resends":true' in files.read_at(descriptor, _HEAD_BYTES, 0)
    finally:
        files.close(descriptor)


def _fault(line: FileLine) -> str:
    """What is wrong with a line by itself; empty when it is sound."""
    if not line.whole:
        return "incomplete line"
    if not is_intact(line.text):
        return "checksum mismatch"
    return ""


def _envelope(path: Path, line: FileLine) -> _RecordEnvelope:
    try:
        line.text.decode("ascii")
        return _decode_envelope(line.text)
    except UNREADABLE as error:
        problem = f"intact line that is not a ledger record: {error}"
        raise LedgerDamagedError(file=str(path), offset=line.offset, problem=problem) from error


def _torn_tail(
    path: Path, bad: FileLine, rest: Iterator[FileLine], problem: str, out_of_turn: _RecordEnvelope | None
) -> LeftOut:
    """Look through what follows a fault: a durable length above it makes it damage."""
    found = [out_of_turn] if out_of_turn is not None else _swallowed(path, bad)
    intact, durable = len(found), max((record.d or 0 for record in found), default=0)
    end = bad.offset + len(bad.text) + bad.whole
    for line in rest:
        end = line.offset + len(line.text) + line.whole
        found = _swallowed(path, line) if _fault(line) else [_envelope(path, line)]
        intact += len(found)
        durable = max([durable, *(record.d or 0 for record in found)])
        if durable > bad.offset:
            break
    if durable > bad.offset:
        damage = f"{problem}, before byte {durable}, up to which the segment was confirmed as durable"
        raise LedgerDamagedError(file=str(path), offset=bad.offset, problem=damage)
    return LeftOut(file=str(path), offset=bad.offset, bytes=end - bad.offset, sound_records=intact, problem=problem)


def _swallowed(path: Path, line: FileLine) -> list[_RecordEnvelope]:
    """The sound record at the end of a faulty line: a lost newline makes one line of two."""
    start = line.text.rfind(b'{"s":')
    rest = line._replace(offset=line.offset + start, text=line.text[start:])
    return [_envelope(path, rest)] if start > 0 and not _fault(rest) else []


def _check_open(path: Path, text: bytes) -> None:
    """Versions first: the other fields of a later format are not ours to judge."""
    try:
        head = _decode_head(text)
    except UNREADABLE as error:
        problem = f"intact line that is not an `open` record: {error}"
        raise LedgerDamagedError(file=str(path), offset=0, problem=problem) from error
    if head.e != "open":
        raise LedgerDamagedError(file=str(path), offset=0, problem=f"begins with `{head.e}` instead of `open`")
    if head.version not in READABLE_VERSIONS:
        problem = f"has format version {head.version}; this batchrunner reads versions up to {max(READABLE_VERSIONS)}"
        raise LedgerDamagedError(file=str(path), offset=0, problem=problem)


def _in_its_place(path: Path, number: int, opened: Open) -> Open:
    if opened.segment != number:
        problem = f"contains segment {opened.segment}: the file was renamed or copied"
        raise LedgerDamagedError(file=str(path), offset=0, problem=problem)
    return opened


def _event(path: Path, line: FileLine, envelope: _RecordEnvelope) -> Event | None:
    """The event, None for a name that this version does not know."""
    try:
        event: Event = _decode_event(line.text)
    except UNREADABLE as error:
        if envelope.e not in _KNOWN:
            return None
        problem = f"intact line that is not a valid `{envelope.e}` record: {error}"
        raise LedgerDamagedError(file=str(path), offset=line.offset, problem=problem) from error
    if problem := fault_of(event):
        raise LedgerDamagedError(file=str(path), offset=line.offset, problem=f"intact line with {problem}")
    return event


def fault_of(event: Event) -> str:
    """The impossible value of an event, types aside; empty if there is none."""
    if isinstance(event, ItemEvent) and not _is_key(event.k):
        return "an invalid item key"
    if isinstance(event, Done) and not (_is_crc(event.crc) and event.length >= 0):
        return "an invalid position in results.jsonl"
    return ""
