"""`ledger/NNNNNN.checkpoint`: the state after the clean end of segment N, so that the ledger need not be read again.

It is written and synced before that segment's `close`, which names its length, checksum and format. Nobody needs it: a
checkpoint that is gone, cut, changed or of another format, or whose segments are not the files that they were (inode,
size, time of change), is passed over, and the ledger is replayed from its beginning.

The file is a line of JSON, then four arrays in this machine's byte order, which the line names: the upper and lower
halves of the items' keys and their words (64 bits each), and the checksums of their rows (32 bits each).
"""

import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from batchrunner.core.events import CheckpointMark, Close
from batchrunner.core.item_table import ItemTable
from batchrunner.core.remote_batch import Figures
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass
from batchrunner.stores.files import PRIVATE_FILE, Files, InspectedFiles, write_pieces
from batchrunner.stores.ledger_line import CHECKPOINT_NAME, MAX_LINE_BYTES, checkpoint_path, is_intact, segment_path
from batchrunner.stores.row_codec import UNREADABLE

FORMAT: Final = 4
_MOST_HEAD_BYTES: Final = 1 << 26
_STEP_BYTES: Final = 1 << 20

_ITEM_BYTES: Final = 8 + 8 + 8 + 4
SegmentMark = tuple[int, int, int, int]
"""(number, inode, size in bytes, mtime in nanoseconds) of a segment."""


class _Head(msgspec.Struct):
    format: int
    byteorder: Literal["little", "big"]
    items: int
    figures: Figures
    before: tuple[SegmentMark, ...]
    """The segments before this one."""
    length: int
    """Bytes of this one before its `close`."""
    intact_at: float
    """See `LedgerState`: if its `close` vouches for nothing."""


class _Stamp(msgspec.Struct):
    t: float


_decode_close = msgspec.json.Decoder(Close).decode
_decode_stamp = msgspec.json.Decoder(_Stamp).decode
_decode_head = msgspec.json.Decoder(_Head).decode


@dataclass(frozen=True, slots=True)
class Restored:
    """What a checkpoint knew, its segment's `close` included."""

    segment: int
    state: LedgerState
    verified: bool
    """The `close` record describes how the directory was left."""


def segment_mark(files: InspectedFiles, ledger: Path, number: int) -> SegmentMark | None:
    """The identity of a segment now. Raises OSError."""
    found = files.look(segment_path(ledger, number))
    return None if found is None else (number, found.inode, found.size_bytes, found.mtime_ns)


def write_checkpoint(
    files: InspectedFiles, ledger: Path, state: LedgerState, *, segment: int, intact_at: float
) -> CheckpointMark | None:
    """Keep what the state knows at the end of this segment, durably; everything before its `close` is on the disk.

    None where the disk refuses, or a segment is missing: then the next start reads the ledger. Blocks.
    """
    with suppress(OSError):
        marks = [segment_mark(files, ledger, number) for number in range(1, segment + 1)]
        own = marks.pop()
        before = tuple(mark for mark in marks if mark is not None)
        if own is None or len(before) != len(marks):
            return None
        head = _Head(
            format=FORMAT,
            byteorder=sys.byteorder,
            items=state.table.known_count(),
            figures=state.figures(),
            before=before,
            length=own[2],
            intact_at=intact_at,
        )
        pieces = _pieces(head, state.table)
        return _place(files, checkpoint_path(ledger, segment), pieces)
    return None


def _pieces(head: _Head, table: ItemTable) -> Iterator[bytes]:
    yield msgspec.json.encode(head) + b"\n"
    yield from table.dump()


def _place(files: Files, path: Path, pieces: Iterable[bytes]) -> CheckpointMark:
    """Write the whole file; returns its mark for `close`. Raises OSError."""
    crc = 0

    def checked() -> Iterator[bytes]:
        nonlocal crc
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
            yield piece

    length = write_pieces(files, path, checked(), PRIVATE_FILE)
    return length, crc, FORMAT


def remove_checkpoints(files: Files, ledger: Path, *, but: int | None = None) -> None:
    """All that a newer one has made useless. What cannot be removed does no harm."""
    with suppress(OSError):
        for number in checkpoint_numbers(files, ledger):
            if number != but:
                files.unlink(checkpoint_path(ledger, number))


def restored(
    files: InspectedFiles, ledger: Path, newest: SegmentMark | None, *, day_offset_s: float | None
) -> Restored | None:
    """What the newest checkpoint knows; None where there is none that can be relied on. Blocks.

    `newest` is how its segment was left, by run.json. `day_offset_s` None: where days turned when it was written.
    """
    if newest is None:
        return None
    number = newest[0]
    try:
        if number not in checkpoint_numbers(files, ledger) or segment_mark(files, ledger, number) != newest:
            return None
        reading = _Reading(files, checkpoint_path(ledger, number))
        with closing(reading):
            head = _decode_head(reading.line())
            last = _close_of(files, segment_path(ledger, number), head.length)
            before = tuple(segment_mark(files, ledger, earlier) for earlier in range(1, number))
            if last is None or before != head.before:
                return None
            close, at = last
            offset_s = head.figures.day_offset_s if day_offset_s is None else day_offset_s
            state = _loaded(reading, head, close.checkpoint, day_offset_s=offset_s)
    except (OSError, *_UNUSABLE):
        return None
    state.intact_at = head.intact_at if close.files is None else at
    state.apply(close, at=at)
    state.begun_from = number
    return Restored(number, state, close.files is not None)


def kept_state(files: Files, ledger: Path, number: int, mark: CheckpointMark) -> LedgerState | None:
    """The state in a checkpoint, checked against the mark in its segment's `close`; for an audit.

    None where it is another file than that, or not for this program and machine.
    """
    try:
        with closing(_Reading(files, checkpoint_path(ledger, number))) as reading:
            head = _decode_head(reading.line())
            return _loaded(reading, head, mark, day_offset_s=head.figures.day_offset_s)
    except (OSError, *_UNUSABLE):
        return None


class _DamagedError(Exception):
    """It is not what it was, or not ours to read."""


_UNUSABLE: Final = (ValueError, _DamagedError, *UNREADABLE)


class _Reading:
    """A file read from its beginning, with its checksum."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._descriptor = files.open_read(path)
        self.size_bytes = files.length(self._descriptor)
        self.length = 0
        self.crc = 0

    def close(self) -> None:
        """Give the file back."""
        self._files.close(self._descriptor)

    def line(self) -> bytes:
        """The first line."""
        found = bytearray()
        while b"\n" not in found[-_STEP_BYTES:]:
            step = self._files.read_at(self._descriptor, _STEP_BYTES, len(found))
            if not step or len(found) > _MOST_HEAD_BYTES:
                raise _DamagedError
            found += step
        line = bytes(found[: found.index(b"\n") + 1])
        self.length, self.crc = len(line), zlib.crc32(line)
        return line

    def exactly(self, size_bytes: int) -> bytes:
        """So many bytes."""
        found = self._files.read_at(self._descriptor, size_bytes, self.length)
        while len(found) < size_bytes:
            more = self._files.read_at(self._descriptor, size_bytes - len(found), self.length + len(found))
            if not more:
                raise _DamagedError
            found += more
        self.length, self.crc = self.length + size_bytes, zlib.crc32(found, self.crc)
        return found


def _loaded(reading: _Reading, head: _Head, mark: CheckpointMark | None, *, day_offset_s: float) -> LedgerState:
    """Raises one of _UNUSABLE, and OSError."""
    if head.format != FORMAT or head.byteorder != sys.byteorder:
        raise _DamagedError
    if not 0 <= head.items * _ITEM_BYTES <= reading.size_bytes:
        raise _DamagedError
    table = ItemTable.load(head.items, reading.exactly)
    state = LedgerState(day_offset_s=day_offset_s)
    if (reading.size_bytes, reading.crc, FORMAT) != mark or reading.length != reading.size_bytes:
        raise _DamagedError
    if not state.take_over(head.figures, table):
        raise _DamagedError
    return state


def _close_of(files: Files, path: Path, offset: int) -> tuple[Close, float] | None:
    """The `close` record, if it is the last line, and when it was written."""
    descriptor = files.open_read(path)
    try:
        text = files.read_at(descriptor, MAX_LINE_BYTES, offset)
    finally:
        files.close(descriptor)
    if not text.endswith(b"\n") or text.count(b"\n") != 1 or not is_intact(text[:-1]):
        return None
    return _decode_close(text), _decode_stamp(text).t


def checkpoint_numbers(files: Files, ledger: Path) -> list[int]:
    """Which checkpoints there are. Raises OSError."""
    names = files.names(ledger) if files.exists(ledger) else []
    return [int(found[1]) for name in names if (found := CHECKPOINT_NAME.fullmatch(name))]
