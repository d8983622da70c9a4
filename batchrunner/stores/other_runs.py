"""Rows of other runs, found by the key of what they answer.

The other directories are read only, and need not be at rest: their files of rows stay open from the first look on, so
that every row is where it was. Of each row 28 bytes are kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from batchrunner.core.item_table import ItemTable
from batchrunner.core.ports import Untaken, with_example
from batchrunner.core.upstream import ReusedRun
from batchrunner.core.values import dataclass
from batchrunner.stores.files import DISK, RESULTS, SUPERSEDED, InspectedFiles, broken
from batchrunner.stores.row_codec import RowFacts, facts_of, name_of, trimmed
from batchrunner.stores.row_forms import lines_of, open_rows

_NAMES: Final = (RESULTS, SUPERSEDED)
"""Of the files with rows, the better first."""
FILES_DIFFER: Final = "{}: their pictures or other files are missing, or are not what the rows say"
_OF_FILES: Final = b'"sha256"'
"""What the line of a row has that names files: only those are looked at whole."""
_OFFSET_BITS: Final = 48
_OFFSET: Final = (1 << _OFFSET_BITS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowFile:
    run: ReusedRun
    path: Path
    descriptor: int


class OtherRuns:
    """Rows of the runs that a job names; the first run that has a key gives its row. `index` first, `close` last."""

    def __init__(self, runs: Sequence[ReusedRun], *, files: InspectedFiles = DISK) -> None:
        self.runs = runs
        self._files = files
        self._table = ItemTable()
        """A key's word: number of the file from 1, and offset of the line; its length stands in place of a checksum."""
        self._open: list[_RowFile] = []
        self.unreadable: dict[str, int] = {}
        """File -> lines of it that are no rows."""

    def __repr__(self) -> str:
        return f"<OtherRuns {len(self._table)} rows of {len(self.runs)} runs>"

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and bool(self._table.find(key))

    def keys(self) -> Iterator[bytes]:
        """Of all rows."""
        return (self._table.key(number) for number in range(1, len(self._table) + 1))

    def index(self) -> None:
        """Find all rows. Blocks.

        Raises:
            StoreBrokenError: a file cannot be read.
        """
        for run in self.runs:
            for name in _NAMES:
                path = Path(run.path) / name
                try:
                    if self._files.exists(path):
                        self._index(_RowFile(run=run, path=path, descriptor=open_rows(self._files, path)))
                except OSError as error:
                    raise broken(path, error, sending=False) from error

    def _index(self, file: _RowFile) -> None:
        self._open.append(file)
        place, table = len(self._open) << _OFFSET_BITS, self._table
        for raw in lines_of(self._files, file.descriptor):
            line = trimmed(raw)
            if not line.text or line.text.isspace():
                continue
            name = name_of(line.text)
            if name is None:
                if line.whole:  # else its run is writing it now
                    self.unreadable[str(file.path)] = self.unreadable.get(str(file.path), 0) + 1
                continue
            number = table.add(name[0])
            if not table.words[number]:
                table.words[number], table.crcs[number] = place | line.offset, len(line.text)

    def row_of(self, key: bytes) -> tuple[ReusedRun, bytes, RowFacts] | Untaken:
        """The run, the line and what it says; or why there is none. Blocks."""
        found = self._line_of(key)
        if isinstance(found, Untaken):
            return found
        file, text = found
        facts = facts_of(text)
        if facts is None or bytes.fromhex(facts.key) != key:
            return Untaken(f"{file.path}: was changed while it was read")
        return file.run, text, facts

    def _line_of(self, key: bytes) -> tuple[_RowFile, bytes] | Untaken:
        number = self._table.find(key)
        word, length = self._table.words[number], self._table.crcs[number]
        file = self._open[(word >> _OFFSET_BITS) - 1]
        try:
            return file, self._files.read_at(file.descriptor, length, word & _OFFSET)
        except OSError as error:
            return Untaken(f"{file.path}: {error.strerror or error}")

    def notes(self) -> Iterator[str]:
        """That lines of some files are no rows."""
        for path, lines in self.unreadable.items():
            yield f"reuse: {path}: {lines:,} {'line' if lines == 1 else 'lines'} cannot be read as rows; passed over"

    def close(self) -> None:
        """No further rows."""
        for file in self._open:
            with suppress(OSError):
                self._files.close(file.descriptor)
        self._open.clear()


class TakeableRows(OtherRuns):
    """The same for a look without taking any: rows that name files which are not there, with their sizes, are none."""

    def __init__(self, runs: Sequence[ReusedRun]) -> None:
        super().__init__(runs)
        self._refused: dict[str, tuple[int, str]] = {}
        """Why -> how many rows cannot be taken, and a file of the first."""

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, bytes) or not super().__contains__(key):
            return False
        found = self._line_of(key)
        if not isinstance(found, Untaken) and _OF_FILES in found[1]:
            row = self.row_of(key)
            found = row if isinstance(row, Untaken) else self._missing(*row) or found
        if not isinstance(found, Untaken):
            return True
        count, example = self._refused.get(found.why, (0, found.example))
        self._refused[found.why] = count + 1, example
        return False

    def _missing(self, run: ReusedRun, _text: bytes, facts: RowFacts) -> Untaken | None:
        for path, size_bytes, _ in facts.files:
            look = self._files.look(Path(run.path) / path)
            if look is None or look.kind != "file" or look.size_bytes != size_bytes:
                return Untaken(FILES_DIFFER.format(run.shown), path)
        return None

    def notes(self) -> Iterator[str]:
        """Those, too."""
        yield from super().notes()
        for why, (count, example) in self._refused.items():
            words = with_example(why, example)
            yield f"reuse: {count:,} of the answers cannot be taken and would be sent: {words}"


def rows_of_others(runs: Sequence[ReusedRun]) -> TakeableRows:
    """Which rows there are; close it. Blocks. Raises StoreBrokenError."""
    others = TakeableRows(runs)
    others.index()
    return others
