"""Writes ledger segments anew, in one go, with valid checksums. For salvage; a run writes with `LedgerWriter`."""

from pathlib import Path
from typing import Self

from batchrunner.core.events import Close, Event, Open
from batchrunner.stores.atomic import write_all
from batchrunner.stores.files import PRIVATE_FILE, Files
from batchrunner.stores.ledger_line import encode_line, segment_path

_BATCH_BYTES = 1 << 20


class SegmentCopy:
    """One segment of a new ledger; a context manager that makes it durable. Raises OSError."""

    def __init__(self, files: Files, folder: Path, opened: Open, *, at: float) -> None:
        self._files = files
        self._descriptor = files.open_new(segment_path(folder, opened.segment), PRIVATE_FILE)
        self._buffer = bytearray()
        self._durable = 0
        self.records = 0
        self.add(opened, at=at)

    def __repr__(self) -> str:
        return f"<SegmentCopy records={self.records} durable={self._durable}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._files.close(self._descriptor)

    def add(self, event: Event, *, at: float) -> None:
        """The next record; the first of each batch says what is durable."""
        durable = None if self._buffer else self._durable
        self._buffer += encode_line(event, sequence=self.records, at=at, durable=durable)
        self.records += 1
        if len(self._buffer) >= _BATCH_BYTES:
            self._flush()

    def end(self, *, at: float) -> None:
        """The clean end; everything before it is durable first, so that damage to it can be told."""
        self._flush()
        self.add(Close(records=self.records + 1), at=at)

    def _flush(self) -> None:
        if self._buffer:
            write_all(self._files, self._descriptor, bytes(self._buffer))
            self._files.fsync(self._descriptor)
            self._durable += len(self._buffer)
            self._buffer.clear()
