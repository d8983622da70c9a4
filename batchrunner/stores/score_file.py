"""`scores.jsonl` of a run beside its rows: which line belongs to which row. Readers may read while scores are made.

About 20 bytes a line are kept in memory; lines are read again by their place. A line whose item or key is not the row's
belongs to an earlier answer and counts for nothing.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self, cast

import msgspec

from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Json
from batchrunner.stores.files import DISK, SHARED_FILE, Files
from batchrunner.stores.row_codec import UNREADABLE
from batchrunner.stores.row_forms import lines_of, open_rows

SCORES: Final = "scores.jsonl"
_decode_line = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.encode


class _CheckName(msgspec.Struct):
    """What an index needs of a line."""

    id: str | None
    index: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what an array keeps of it
    scores: msgspec.Raw
    verdict: bool | None = msgspec.field(name="pass", default=None)
    checks: str = ""


class _LastLine(msgspec.Struct):
    """What is asked of the last line before others follow it."""

    key: str
    checks: str


_decode_end = msgspec.json.Decoder(_LastLine).decode
_TAIL_BYTES: Final = 1 << 20
"""A line is shorter; of a longer one all is made again."""
_decode_name = msgspec.json.Decoder(_CheckName).decode


def open_for_more(folder: Path, *, digest: str, files: Files = DISK) -> tuple[int, str | None]:
    """A descriptor to append lines of these checks to, and the key of the last one that is there.

    Half a line at the end, of a process that was killed, is cut off. Lines of other checks are removed: beside new ones
    they would add up to nothing. For the holder of the run's lock. Raises OSError.
    """
    descriptor = files.open_append(folder / SCORES, SHARED_FILE)
    try:
        length = files.length(descriptor)
        start = max(0, length - _TAIL_BYTES)
        tail = files.read_at(descriptor, length - start, start) if length else b""
        end = tail.rfind(b"\n") + 1
        try:
            last = _decode_end(tail[:end].rstrip().rpartition(b"\n")[2])
        except UNREADABLE:
            last = None
        stays = last is not None and last.checks == digest
        if length != (kept := start + end if stays else 0):
            files.truncate(descriptor, kept)
    except BaseException:
        files.close(descriptor)
        raise
    return descriptor, last.key if last is not None and stays else None


class ScoreFile:
    """The lines of `scores.jsonl` by row; none where there is no such file. A context manager."""

    def __init__(self, folder: Path, *, files: Files = DISK) -> None:
        """Of a run's directory; nothing is opened yet."""
        self._path = folder / SCORES
        self._files = files
        self._descriptor: int | None = None
        self._indexes = array("q")
        self._offsets = array("Q")
        self._lengths = array("L")
        self.exists = False
        self.verdicts: Counter[bool | None] = Counter()
        """How many answers pass, fail and have no verdict."""
        self.checks: set[str] = set()
        """Digests of the checks that the lines were made by."""
        self.damaged: list[int] = []
        """Numbers of lines, from 1, that are no scores. The end of a line that is being written is none of them."""

    def __repr__(self) -> str:
        return f"<ScoreFile {self._path} lines={len(self)} damaged={len(self.damaged)}>"

    def __len__(self) -> int:
        return len(self._indexes)

    def __enter__(self) -> Self:
        """Open and index what is there. Raises StoreBrokenError."""
        try:
            if self._files.exists(self._path):
                self._descriptor = open_rows(self._files, self._path)
                self.exists = True
                self._index()
        except OSError as error:
            self.__exit__()
            raise StoreBrokenError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None

    def _index(self) -> None:
        assert self._descriptor is not None, "it was just opened"
        in_order, last = True, -1
        for number, line in enumerate(lines_of(self._files, self._descriptor), 1):
            try:
                name = _decode_name(line.text)
            except UNREADABLE:
                if line.whole and line.text.strip():
                    self.damaged.append(number)
                continue
            in_order, last = in_order and name.index >= last, name.index
            self.verdicts[name.verdict] += 1
            self.checks.add(name.checks)
            self._indexes.append(name.index)
            self._offsets.append(line.offset)
            self._lengths.append(len(line.text))
        if not in_order:
            order = sorted(range(len(self._indexes)), key=self._indexes.__getitem__)
            self._indexes, self._offsets, self._lengths = (
                array(column.typecode, map(column.__getitem__, order))
                for column in (self._indexes, self._offsets, self._lengths)
            )

    def require(self, key: str | None = None) -> None:
        """Raises JobMistakesError, with `key`, where there are no scores, or lines that are none."""
        folder, line, hint = self._path.parent, None, None
        if not self.exists:
            problem = "there are no scores"
            hint = f"add `checks:` to the job and run it, or score it: batchrunner score {folder} --checks FILE"
        elif self.damaged:
            problem, line, hint = "is no line of scores", self.damaged[0], f"score again: batchrunner score {folder}"
        else:
            return
        raise JobMistakesError((Mistake(file=str(self._path), line=line, key=key, problem=problem, hint=hint),))

    def of(self, row: Mapping[str, Json]) -> dict[str, Json] | None:
        """The line of a row, decoded; None where it has none. The last of several. Raises StoreBrokenError."""
        index = row.get("index")
        if self._descriptor is None or not isinstance(index, int):
            return None
        found: dict[str, Json] | None = None
        place = bisect_left(self._indexes, index)
        while place < len(self._indexes) and self._indexes[place] == index:
            line = self._line(place)
            if (line.get("id"), line.get("key")) == (row.get("id"), row.get("key")):
                found = line
            place += 1
        return found

    def _line(self, place: int) -> dict[str, Json]:
        assert self._descriptor is not None, "lines are read inside of the context"
        try:
            text = self._files.read_at(self._descriptor, self._lengths[place], self._offsets[place])
            return cast("dict[str, Json]", _decode_line(text))
        except OSError as error:
            raise StoreBrokenError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        except UNREADABLE as error:
            raise StoreBrokenError(f"{self._path}: was changed while it was read; try again") from error

    def joined(self, row: ExportRow) -> ExportRow:
        """The row with its verdicts: `pass`, and `score` and `verdict` by the name of the check.

        `pass` is null for a row without a verdict. Where there is no file of scores the row is as it was.
        """
        return with_scores(row, self.of(row.fields)) if self.exists else row

    def shown(self, row: ExportRow) -> ExportRow:
        """The row with `pass` and, for people, all that each check says in `_scores`; its line stays as it was."""
        line = self.of(row.fields) if self.exists else None
        if line is None:
            return row
        fields = {**row.fields, "pass": line.get("pass"), "_scores": line.get("scores")}
        return ExportRow(line=row.line, fields=fields, outcome=row.outcome)


def with_scores(row: ExportRow, line: dict[str, Json] | None) -> ExportRow:
    """The row with `pass`, `score` and `verdict` of its line of scores; None for a row that has none."""
    found = line.get("scores") if line is not None else None
    scores = {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}
    added: dict[str, Json] = {
        "pass": line.get("pass") if line is not None else None,
        "score": {name: one.get("value") for name, one in scores.items()},
        "verdict": {name: one.get("verdict") for name, one in scores.items()},
    }
    text = row.line.rstrip().removesuffix(b"}") + b"," + _encode(added)[1:]  # what stands on disk stays as it is
    return ExportRow(line=text, fields={**row.fields, **added}, outcome=row.outcome)
