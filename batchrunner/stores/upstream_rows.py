"""The rows of a run as another job reads them: those that are done, in the job's order, as they stood at one moment.

The files stay open from the first look on, so every pass gives the same rows: whether the run goes on meanwhile, puts
its rows in order, or its folder is moved away. In memory stay a few bytes for each row.
"""

import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

import msgspec

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.job import Json
from batchrunner.core.upstream import DoneRow
from batchrunner.stores.export_files import RowOrder
from batchrunner.stores.files import DISK, InspectedFiles
from batchrunner.stores.row_codec import UNREADABLE, name_of
from batchrunner.stores.row_forms import lines_of, open_rows

SCORES: Final = "scores.jsonl"
_LENGTH_BITS: Final = 32
_decode = msgspec.json.Decoder(dict[str, object]).decode


class UpstreamRun:
    """The done rows of a run's directory. Implements `core.upstream.RunRows`; for any number of threads."""

    def __init__(self, folder: Path, *, files: InspectedFiles = DISK) -> None:
        self._folder = folder
        self._files = files
        self._lock = threading.Lock()
        self._order: RowOrder | None = None
        self._scores: _Scores | None = None

    def __repr__(self) -> str:
        return f"<UpstreamRun {self._folder} {self._order}>"

    def rows(self, *, with_scores: bool) -> Iterator[DoneRow]:
        """The rows, the same at every call. Blocks.

        Raises:
            StoreBrokenError: the disk refused, or the file was written over in place.
        """
        order = self._opened()
        scores = self._scores_of_then() if with_scores else None
        for row in order.rows():
            yield row.fields, None if scores is None else scores.line_of(row.fields)

    def has_scores(self) -> bool:
        """Whether there is a `scores.jsonl`. Blocks."""
        return self._scores_of_then() is not None

    def unreadable(self) -> list[int]:
        """Offsets of lines of `results.jsonl` that are no rows. Blocks."""
        return self._opened().unreadable

    def _opened(self) -> RowOrder:
        with self._lock:
            if self._order is None:
                order = RowOrder(self._folder, files=self._files).__enter__()
                weakref.finalize(self, order.__exit__)
                order.index()
                self._order = order
            return self._order

    def _scores_of_then(self) -> "_Scores | None":
        with self._lock:
            if self._scores is None and self._files.exists(self._folder / SCORES):
                self._scores = _Scores(self._folder / SCORES, self._files)
                weakref.finalize(self, self._scores.close)
            return self._scores


class _Scores:
    """The lines of `scores.jsonl` by their rows' keys; a place in the file is kept of each."""

    def __init__(self, path: Path, files: InspectedFiles) -> None:
        self._files = files
        try:
            self._open = open_rows(files, path)
            self._places: dict[bytes, int] = {}
            for line in lines_of(files, self._open):
                if line.whole and (name := name_of(line.text)) is not None:
                    self._places[name[0]] = line.offset << _LENGTH_BITS | len(line.text)
        except OSError as error:
            raise StoreBrokenError(f"{path}: cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        self._files.close(self._open)

    def line_of(self, row: Mapping[str, Json]) -> Mapping[str, Json] | None:
        try:
            place = self._places.get(bytes.fromhex(str(row.get("key"))))
            if place is None:
                return None
            text = self._files.read_at(self._open, place & (1 << _LENGTH_BITS) - 1, place >> _LENGTH_BITS)
            return cast("dict[str, Json]", _decode(text))
        except (*UNREADABLE, ValueError, OSError):  # scores are made again for nothing
            return None
