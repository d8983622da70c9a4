"""The ledger of a merged run: those of its shards, one after the other, as if one process after the other had run.

A segment is copied byte for byte, up to its torn tail, but for its first record, which says where it stands now. So
every send, attempt, doubt, task, park and answer is what it was, and replay counts all of them. Batches are numbered in
each directory from 1: theirs get other numbers. A last segment has what a shard had no time to record, and says that
results.jsonl was written anew.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from batchrunner.core.events import (
    BATCH_VERSION,
    FORMAT_VERSION,
    Batched,
    BatchEnded,
    CheckpointMark,
    Event,
    Open,
    Rewritten,
)
from batchrunner.core.remote_batch import BatchEvent
from batchrunner.core.values import dataclass
from batchrunner.stores.files import DISK, PRIVATE_FILE, write_all
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.ledger_line import LEDGER, MAX_LINE_BYTES, segment_path
from batchrunner.stores.ledger_salvage import SegmentCopy, SegmentLeft
from batchrunner.stores.row_forms import read_lines

_PIECE_BYTES: Final = 1 << 20
_HAS_NUMBER: Final = b'"b":'
_decode: Final[Callable[[bytes], Event]] = msgspec.json.Decoder(Event).decode


@dataclass(slots=True, kw_only=True)
class MergedLedger:
    """Written into a new folder, segment by segment: `add` every run directory, then `end`. Blocks. Raises OSError."""

    folder: Path
    segments: int = 0
    last_bytes: int | None = None
    """Length of the last segment."""
    batches: int = 0
    """The highest number of a batch so far."""
    newest: Open | None = None
    """How the last copied segment was opened."""

    def add(self, run: Path, ends: Iterable[tuple[int, int]], *, name: str) -> None:
        """The ledger of a shard's run directory; `name` is the shard's and stands in the names of its batches' files.

        `ends` has the number and the end of the last whole record of each of its segments.
        """
        before = self.batches
        for number, end in ends:
            source = segment_path(run / LEDGER, number)
            descriptor = DISK.open_read(source)
            try:
                head = _first_line(descriptor)
                opened = _decode(head)
                assert isinstance(opened, Open), "it was read as one just now"
                at = msgspec.json.decode(head, type=_Envelope).t
                target = self._begin(opened, at=at, of=f"{name}/{source.name}", least_bytes=len(head))
                try:
                    if opened.version < BATCH_VERSION:
                        _copy(descriptor, target, start=len(head), end=end)
                    else:
                        self._renumber(source, target, start=len(head), end=end, before=before, name=name)
                    DISK.fsync(target)
                    self.last_bytes = DISK.length(target)
                finally:
                    DISK.close(target)
            finally:
                DISK.close(descriptor)

    def end(
        self,
        events: Iterable[Event],
        *,
        program: str,
        labels: str,
        length: int,
        at: float,
        left: Callable[[int], SegmentLeft],
    ) -> CheckpointMark | None:
        """The last segment: what the shards had no time to record, and the length of the merged results.jsonl.

        `left` is called with its number before its last record, see `SegmentCopy.end`; returns the checkpoint's mark.
        """
        newest, self.segments = self.newest, self.segments + 1
        opened = Open(
            version=FORMAT_VERSION,
            run="merge",
            segment=self.segments,
            job=newest.job if newest is not None else "",
            program=program,
            name=newest.name if newest is not None else "",
            simulated=newest.simulated if newest is not None else None,
            before=self.last_bytes,
        )
        with SegmentCopy(DISK, self.folder, opened, at=at) as copy:
            for event in events:
                copy.add(event, at=at)
            copy.add(Rewritten(length=length, labels=labels), at=at)
            checkpoint = copy.end(at=at, left=lambda: left(self.segments))
        look = DISK.look(segment_path(self.folder, self.segments))
        assert look is not None, "it was written just now"
        self.last_bytes = look.size_bytes
        return checkpoint

    def _begin(self, opened: Open, *, at: float, of: str, least_bytes: int) -> int:
        """A new segment with its first record, no shorter than the one that it replaces: lengths in it stay true."""
        self.segments += 1
        self.newest = opened
        placed = msgspec.structs.replace(opened, segment=self.segments, before=self.last_bytes, of=of)
        line = encode_line(placed, sequence=0, at=at, durable=0)
        if len(line) < least_bytes:
            placed = msgspec.structs.replace(placed, of=of + " " * (least_bytes - len(line)))
            line = encode_line(placed, sequence=0, at=at, durable=0)
        target = DISK.open_new(segment_path(self.folder, self.segments), PRIVATE_FILE)
        write_all(DISK, target, line)
        return target

    def _renumber(self, source: Path, target: int, *, start: int, end: int, before: int, name: str) -> None:
        """Copy records with the numbers of batches after those that are there already, and the names of their files."""
        for line in read_lines(DISK, source, start=start, longest_bytes=MAX_LINE_BYTES):
            if line.offset >= end:
                break
            text = line.text
            if _HAS_NUMBER in text:
                event = _decode(text)
                if isinstance(event, BatchEvent | Batched):
                    event = msgspec.structs.replace(event, b=event.b + before)
                    if isinstance(event, BatchEnded):
                        event = msgspec.structs.replace(event, files=tuple(_renamed(event.files, name)))
                    self.batches = max(self.batches, event.b)
                    place = msgspec.json.decode(text, type=_Envelope)
                    text = encode_line(event, sequence=place.s, at=place.t, durable=place.d)[:-1]
            write_all(DISK, target, text + b"\n")


class _Envelope(msgspec.Struct):
    s: int
    t: float
    d: int | None = None


def renamed(path: str, name: str) -> str:
    """Of a file of a batch in a shard's directory: its path in the merged one."""
    folder, _, file = path.rpartition("/")
    return f"{folder}/{name.replace('/', '-')}-{file}"


def _renamed(files: Iterable[tuple[str, int, str]], name: str) -> Iterator[tuple[str, int, str]]:
    return ((renamed(path, name), size_bytes, sha256) for path, size_bytes, sha256 in files)


def _first_line(descriptor: int) -> bytes:
    text = DISK.read_at(descriptor, MAX_LINE_BYTES, 0)
    return text[: text.index(b"\n") + 1]


def _copy(source: int, target: int, *, start: int, end: int) -> None:
    while start < end and (piece := DISK.read_at(source, min(_PIECE_BYTES, end - start), start)):
        write_all(DISK, target, piece)
        start += len(piece)
