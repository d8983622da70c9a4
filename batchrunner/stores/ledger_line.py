r"""What a ledger line looks like, byte for byte, and how lines are read; `ledger` writes them.

    {"s":41,"t":1790000000.123,"d":9000,"e":"intent", … ,"c":"0123abcd"}\n

`s` counts from 0 in a segment, `t` is the wall clock, `d` (first record of a batch only) the segment's length known to
be durable, then the event's own fields. The last 17 bytes, newline included, are `,"c":"` + eight lowercase hex digits
+ `"}\n`; the digits are `zlib.crc32` of every byte of the line before those 17. All 17 are compared as bytes, so that
no bit of a line can change unseen. Lines are ASCII and at most 64 KiB with their newline.

Refuses: records that stay longer than that when their messages are cut, and text that no UTF-8 can carry (lone
surrogates become U+FFFD).
"""

import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Union, get_args

import msgspec

from batchrunner.core.events import Done, Event, Intent, Open
from batchrunner.core.lifecycle import ItemEvent
from batchrunner.core.values import dataclass
from batchrunner.stores.files import Files
from batchrunner.stores.row_codec import UNREADABLE

MAX_LINE_BYTES = 64 * 1024
TRAILER_BYTES = 17
LEDGER = "ledger"
"""The ledger's folder in a run's directory."""
SEGMENT_NAME = re.compile(r"([0-9]{6,})\.jsonl")
CHECKPOINT_NAME = re.compile(r"([0-9]{6,})\.checkpoint")


def segment_path(folder: Path, number: int) -> Path:
    """The path of segment `number` (from 1) of a ledger."""
    return folder / f"{number:06d}.jsonl"


def checkpoint_path(folder: Path, number: int) -> Path:
    """The path of the checkpoint at the end of segment `number`."""
    return folder / f"{number:06d}.checkpoint"


def segment_numbers(names: list[str]) -> list[int]:
    """The numbers of the segments among a folder's names, ascending."""
    return sorted(int(found[1]) for name in names if (found := SEGMENT_NAME.fullmatch(name)))


def is_intact(text: bytes) -> bool:
    """Whether a line without its newline ends with the checksum of its content."""
    cut = 1 - TRAILER_BYTES
    return text[cut:] == b',"c":"%08x"}' % zlib.crc32(text[:cut])


# Ledger records by the thousand: stretches of intents and good answers, checked and decoded in few steps.
#
# Every line has its right checksum, records stand in turn, types and keys are as they must be. Records of other kinds
# come between batches, one by one. Whatever is unusual is for `ledger_reader` to judge, in its own words.

PIECE_BYTES = 1 << 18
"""Read in one step."""
_KEY_BYTES: Final = 16
_TRAILER_BYTES: Final = 16
"""Of a line without its newline."""
_TRAILER: Final = b',"c":"%08x"}'
_CRC_DIGITS: Final = 8


class _IntentLine(Intent, frozen=True, kw_only=True, tag="intent", gc=False):
    s: int
    t: float


class _DoneLine(Done, frozen=True, kw_only=True, tag="done", gc=False):
    s: int
    t: float


class _Other(msgspec.Struct, frozen=True, kw_only=True, tag_field="e", gc=False):
    """Of another kind: where it stands. What it says is decoded apart, since its type has to be the event's own."""

    s: int
    t: float
    d: int | None = None


class _OtherOfItem(_Other, frozen=True, kw_only=True, gc=False):
    k: str


_BATCHED: Final = frozenset({_IntentLine, _DoneLine})
_others = tuple(
    msgspec.defstruct(
        f"_{kind.__name__}Line",
        [],
        bases=(_OtherOfItem if kind in get_args(ItemEvent) else _Other,),
        frozen=True,
        kw_only=True,
        tag=kind.__struct_config__.tag,
        gc=False,
    )
    for kind in get_args(Event)
    if kind not in {Open, Intent, Done}
)
_decode_events = msgspec.json.Decoder(Event).decode_lines
_decode_lines: Final[Callable[[bytes], list[_IntentLine | _DoneLine | _Other]]] = msgspec.json.Decoder(
    Union[(_IntentLine, _DoneLine, *_others)]
).decode_lines
_crc32 = zlib.crc32


class Record(msgspec.Struct, frozen=True, gc=False):
    """One event as it was recorded."""

    event: Event
    at: float
    """Wall clock, seconds since 1970."""
    segment: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Intents and good answers in order, without a gap."""

    segment: int
    keys: list[bytes]
    """Of their items."""
    events: list[_IntentLine | _DoneLine]

    @property
    def at(self) -> float:
        """Wall clock of the last event."""
        return self.events[-1].t

    @property
    def ats(self) -> list[float]:
        """Wall clock of each."""
        return [event.t for event in self.events]


class LedgerPiece(NamedTuple):
    """A stretch of a segment, each line of which is usual."""

    steps: list[Batch | Record]
    records: int
    end: int
    """Byte where the next record begins."""


def intact_pieces(files: Files, path: Path, segment: int, *, start: int, sequence: int) -> Iterator[LedgerPiece]:
    """The records from byte `start` on, the first of them number `sequence`; ends before a piece with an unusual line.

    Raises OSError.
    """
    descriptor = files.open_read(path)
    try:
        while piece := files.read_at(descriptor, PIECE_BYTES, start):
            lines = _intact_lines(piece)
            size_bytes = sum(map(len, lines)) + len(lines)
            events = _events(piece[:size_bytes], lines, sequence)
            if not events:
                return
            start, sequence = start + size_bytes, sequence + len(events)
            yield LedgerPiece(_steps(events, lines, segment), len(events), start)
    except _UnusualError:
        return
    finally:
        files.close(descriptor)


class _UnusualError(Exception):
    """The rest needs the careful reader."""


def _intact_lines(piece: bytes) -> list[bytes]:
    """The first whole lines, without their newlines, as long as their checksums are right."""
    lines = piece.split(b"\n")
    lines.pop()
    # All at once first, in a third of the time. Where two long strings are equal each line has all its 16 bytes.
    crcs = [_crc32(line[:-_TRAILER_BYTES]) for line in lines]
    if b"".join([line[-_TRAILER_BYTES:] for line in lines]) == _TRAILER * len(lines) % tuple(crcs):
        return lines
    for number, (line, crc) in enumerate(zip(lines, crcs, strict=True)):
        if line[-_TRAILER_BYTES:] != _TRAILER % crc:
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


def _steps(events: list[_IntentLine | _DoneLine | _Other], lines: list[bytes], segment: int) -> list[Batch | Record]:
    """Raises _UnusualError if one of them is such as no program writes."""
    kinds = list(map(type, events))
    if set(kinds) <= _BATCHED:
        return [Batch(segment, _keys(events), events)]  # type: ignore[arg-type]  # all are of these two
    texts = b"\n".join([line for kind, line in zip(kinds, lines, strict=True) if kind not in _BATCHED])
    try:
        others = iter(_decode_events(texts))
    except UNREADABLE:
        raise _UnusualError from None
    keys = _keys([event for event in events if not isinstance(event, _Other) or isinstance(event, _OtherOfItem)])
    steps: list[Batch | Record] = []
    first = unkeyed = 0
    for number, event in enumerate(events):
        if isinstance(event, _Other):
            if first < number:
                steps.append(Batch(segment, keys[first - unkeyed : number - unkeyed], events[first:number]))  # type: ignore[arg-type]  # as above
            steps.append(Record(next(others), event.t, segment, event.s))
            unkeyed += not isinstance(event, _OtherOfItem)
            first = number + 1
    if first < len(events):
        steps.append(Batch(segment, keys[first - unkeyed :], events[first:]))  # type: ignore[arg-type]  # as above
    return steps


def _keys(events: list[_IntentLine | _DoneLine | _Other]) -> list[bytes]:
    """The keys of events of items. Raises _UnusualError if one of them is no key, or another value is impossible."""
    names = [event.k for event in events]  # type: ignore[union-attr]  # all of items
    done = [event for event in events if isinstance(event, Done)]
    crcs = [event.crc for event in done]
    written = "".join((*names, *crcs))
    try:
        raw = bytes.fromhex(written)
    except ValueError:
        raise _UnusualError from None
    lengths = set(map(len, names)) <= {2 * _KEY_BYTES} and set(map(len, crcs)) <= {0, _CRC_DIGITS}
    if raw.hex() != written or not lengths or (done and min([event.length for event in done]) < 0):
        raise _UnusualError
    return [raw[at : at + _KEY_BYTES] for at in range(0, _KEY_BYTES * len(names), _KEY_BYTES)]
