"""Ledger records by the thousand: stretches of intents and good answers, checked and decoded in few steps.

Every line of a batch has its right checksum, its records stand in turn, types and keys are as they must be. Records of
other kinds come between batches as their lines. Whatever is unusual is for `ledger_reader` to judge, in its own words.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Union, get_args

import msgspec

from batchrunner.core.events import Done, Event, Intent, Open
from batchrunner.stores.files import Files
from batchrunner.stores.lines import Line
from batchrunner.stores.unreadable import UNREADABLE

PIECE_BYTES = 1 << 18
"""Read in one step."""
_KEY_BYTES: Final = 16
_TRAILER_BYTES: Final = 16
"""Of a line without its newline."""
_CRC_DIGITS: Final = 8


class _IntentLine(Intent, frozen=True, kw_only=True, tag="intent", gc=False):
    s: int
    t: float


class _DoneLine(Done, frozen=True, kw_only=True, tag="done", gc=False):
    s: int
    t: float


class _Other(msgspec.Struct, frozen=True, tag_field="e", gc=False):
    """Of kinds of which there are fewer: their turn is looked at here, and nothing else."""

    s: int


_others = tuple(
    msgspec.defstruct(
        f"_{kind.__name__}Line", [], bases=(_Other,), frozen=True, tag=kind.__struct_config__.tag, gc=False
    )
    for kind in get_args(Event)
    if kind not in {Open, Intent, Done}
)
_decode_lines: Final[Callable[[bytes], list[_IntentLine | _DoneLine | _Other]]] = msgspec.json.Decoder(
    Union[(_IntentLine, _DoneLine, *_others)]
).decode_lines
_crc32 = zlib.crc32


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in order, without a gap."""

    segment: int
    keys: list[bytes]
    """Of their items."""
    events: list[_IntentLine | _DoneLine]
    end: int
    """Byte where the next record begins."""

    @property
    def sequence(self) -> int:
        """The number of the next record."""
        return self.events[-1].s + 1

    @property
    def last(self) -> Intent | Done:
        """The last event."""
        return self.events[-1]

    @property
    def at(self) -> float:
        """Wall clock of the last event."""
        return self.events[-1].t

    @property
    def ats(self) -> list[float]:
        """Wall clock of each."""
        return [event.t for event in self.events]


def sound_batches(files: Files, path: Path, segment: int, *, start: int, sequence: int) -> Iterator[Batch | Line]:
    """What stands from byte `start` on, where record `sequence` must stand; ends before the first unusual line.

    A line is sound and in turn, too, and of another kind. Raises OSError.
    """
    descriptor = files.open_read(path)
    try:
        while piece := files.read_at(descriptor, PIECE_BYTES, start):
            lines = _sound_lines(piece)
            size_bytes = sum(map(len, lines)) + len(lines)
            events = _events(piece[:size_bytes], lines, sequence)
            if not events:
                return
            yield from _batches(events, lines, segment, start)
            start, sequence = start + size_bytes, sequence + len(events)
    except _UnusualError:
        return
    finally:
        files.close(descriptor)


class _UnusualError(Exception):
    """The rest is for somebody who looks closer."""


def _sound_lines(piece: bytes) -> list[bytes]:
    """The first whole lines, without their newlines, as long as their checksums are right."""
    lines = piece.split(b"\n")
    lines.pop()
    for number, line in enumerate(lines):
        if line[-_TRAILER_BYTES:] != b',"c":"%08x"}' % _crc32(line[:-_TRAILER_BYTES]):
            return lines[:number]
    return lines


def _events(piece: bytes, lines: list[bytes], sequence: int) -> list[_IntentLine | _DoneLine | _Other]:
    """The lines decoded; empty where one of them is unusual."""
    if not piece.isascii():
        return []
    try:
        events = _decode_lines(piece)
    except UNREADABLE:
        return []
    in_turn = [event.s for event in events] == list(range(sequence, sequence + len(lines)))
    return events if in_turn else []


def _batches(
    events: list[_IntentLine | _DoneLine | _Other], lines: list[bytes], segment: int, start: int
) -> Iterator[Batch | Line]:
    """Raises _UnusualError before those among which one is that no program writes."""
    end = start
    usual: list[_IntentLine | _DoneLine] = []
    for event, line in zip(events, lines, strict=True):
        if isinstance(event, _Other):
            if usual:
                yield _batch(usual, segment, end)
                usual = []
            yield Line(end, line, whole=True)
        else:
            usual.append(event)
        end += len(line) + 1
    if usual:
        yield _batch(usual, segment, end)


def _batch(events: list[_IntentLine | _DoneLine], segment: int, end: int) -> Batch:
    """Raises _UnusualError where one of them has no key, or says what none can say."""
    names = [event.k for event in events]
    crcs = [event.crc for event in events if isinstance(event, Done)]
    try:
        keys = [bytes.fromhex(name) for name in names]
        written = "".join(crcs)
        if bytes.fromhex(written).hex() != written or [key.hex() for key in keys] != names:
            raise _UnusualError
    except ValueError:
        raise _UnusualError from None
    lengths = {len(key) for key in keys} == {_KEY_BYTES} and {len(crc) for crc in crcs} <= {0, _CRC_DIGITS}
    if not lengths or any(event.length < 0 for event in events if isinstance(event, Done)):
        raise _UnusualError
    return Batch(segment, keys, events, end)
