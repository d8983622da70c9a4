"""A run's rows in the job's order, for whoever takes them away: read only, also while another process adds to them.

An integer a row is kept in memory, with the key while the files are indexed; rows are read again by their place. The
files stay open from the first look to the last, so an atomic replacement meanwhile changes nothing. Refuses to give a
row twice, and to stay silent about lines that are no rows.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, Self, cast

import msgspec

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.job import Json
from batchrunner.core.status import ExportRow
from batchrunner.stores.files import DISK, Files
from batchrunner.stores.lines import Line, lines_of
from batchrunner.stores.marks import FAILURES, RESULTS
from batchrunner.stores.outgoing import EXPORTS
from batchrunner.stores.row_forms import open_rows
from batchrunner.stores.rows import name_of, trimmed
from batchrunner.stores.unreadable import UNREADABLE

_LENGTH_BITS: Final = 32
_OFFSET_BITS: Final = 48
_LENGTH_MASK: Final = (1 << _LENGTH_BITS) - 1
_OFFSET_MASK: Final = (1 << _OFFSET_BITS) - 1

_Outcome = Literal["done", "failed"]
_FILES: Final[dict[_Outcome, str]] = {"done": RESULTS, "failed": FAILURES}
"""In this order: a failure counts for nothing beside an answer."""
_decode = msgspec.json.Decoder(dict[str, object]).decode


class RowOrder:
    """The rows of `results.jsonl` and, for items that stand failed, of `failures.jsonl`. A context manager."""

    def __init__(self, folder: Path, *, files: Files = DISK) -> None:
        """Look into a run's directory; nothing is opened yet."""
        self._folder = folder
        self._files = files
        self._open: dict[_Outcome, int] = {}
        self._order: list[int] = []
        self.done = 0
        """Rows of succeeded items."""
        self.failed = 0
        """Rows of failed items that are given."""
        self.unreadable: list[int] = []
        """Offsets of whole lines of `results.jsonl` that are no rows."""
        self.fills_export_folder = False
        """Whether an answer has a file of its own below `export/`."""

    def __repr__(self) -> str:
        return f"<RowOrder {self._folder} done={self.done} failed={self.failed} unreadable={len(self.unreadable)}>"

    def __len__(self) -> int:
        return len(self._order)

    def __enter__(self) -> Self:
        """Open what is there. Raises StoreBrokenError."""
        for outcome, name in reversed(
            _FILES.items()
        ):  # an item that goes from the second to the first meanwhile is met twice
            path = self._folder / name
            try:
                if self._files.exists(path):
                    self._open[outcome] = open_rows(self._files, path)
            except OSError as error:
                self.__exit__()
                raise _unread(path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._files.close(self._open.popitem()[1])

    def index(self, *, is_failed: Callable[[bytes], bool] | None = None) -> None:
        """Find every row, by one streaming pass; of failed items only with `is_failed`, which takes an item's key.

        Raises:
            StoreBrokenError: the disk refused to be read.
        """
        seen: set[bytes] = set()
        for outcome, name in _FILES.items():
            if outcome in self._open and (outcome == "done" or is_failed is not None):
                try:
                    self._index_file(outcome, seen, is_failed)
                except OSError as error:
                    raise _unread(self._folder / name, error) from error
        self._order.sort()

    def _index_file(self, outcome: _Outcome, seen: set[bytes], is_failed: Callable[[bytes], bool] | None) -> None:
        latest: dict[bytes, int] = {}
        for raw in lines_of(self._files, self._open[outcome]):
            line = trimmed(raw)
            if not line.text.strip() or (not line.whole and name_of(line.text) is None):
                continue
            found = _name_and_fields(line)
            if found is None:
                if outcome == "done":
                    self.unreadable.append(line.offset)
                continue
            key, fields = found
            place = _packed(line, fields, outcome)
            mark = key + str(fields.get("id")).encode() if "shared_with" in fields else key
            if outcome == "done":
                self._note_answer_file(fields)
                if mark not in seen:
                    seen.add(mark)
                    self._order.append(place)
                    self.done += 1
            elif is_failed is not None and mark not in seen and is_failed(key):
                latest[mark] = place  # an item that failed again has its last row last
        self.failed += len(latest)
        self._order.extend(latest.values())

    def _note_answer_file(self, fields: dict[str, Json]) -> None:
        output = fields.get("output")
        path = output.get("path") if isinstance(output, dict) else None
        if isinstance(path, str) and path.startswith(f"{EXPORTS}/"):
            self.fills_export_folder = True

    def rows(self) -> Iterator[ExportRow]:
        """The rows that `index` found, in order.

        Raises:
            StoreBrokenError: the disk refused, or the files were changed under our hands.
        """
        for place in self._order:
            outcome: _Outcome = "failed" if place >> (_OFFSET_BITS + _LENGTH_BITS) & 1 else "done"
            offset, length = place >> _LENGTH_BITS & _OFFSET_MASK, place & _LENGTH_MASK
            try:
                line = self._files.read_at(self._open[outcome], length, offset)
                fields = cast("dict[str, Json]", _decode(line))
            except OSError as error:
                raise _unread(self._folder / _FILES[outcome], error) from error
            except UNREADABLE as error:
                words = f"{self._folder / _FILES[outcome]}: byte {offset}"
                raise StoreBrokenError(f"{words}: changed while it was read; export again") from error
            yield ExportRow(line=line, fields=fields, outcome=outcome)


def _name_and_fields(line: Line) -> tuple[bytes, dict[str, Json]] | None:
    """(key, fields) of a row's line; None when it is no row of ours."""
    name = name_of(line.text)
    if name is None:
        return None
    try:
        fields = cast("dict[str, Json]", _decode(line.text))
    except UNREADABLE:
        return None
    index = fields.get("index")
    return (name[0], fields) if isinstance(index, int) and index >= 0 else None


def _packed(line: Line, fields: dict[str, Json], outcome: _Outcome) -> int:
    """Sorts by index, then by file, then by place in it."""
    index = fields["index"]
    assert isinstance(index, int), "it was looked at when the line was read"
    high = index << 1 | (outcome == "failed")
    return (high << _OFFSET_BITS | line.offset) << _LENGTH_BITS | len(line.text)


def _unread(path: Path, error: OSError) -> StoreBrokenError:
    return StoreBrokenError(f"{path}: cannot be read: {error.strerror or error}")
