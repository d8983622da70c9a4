"""Which rows of a run are exported, and into which split: by id, by mark, by a condition, by a hash of a group.

What is left out is counted under the first reason that it has. A row's split depends on its group and the seed alone,
so adding rows to a run moves none from one split to another.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.exports import ExportOptions, ExportRow
from batchrunner.core.job import Json
from batchrunner.prompts.render import TemplateFault
from batchrunner.prompts.row_condition import RowCondition, row_values
from batchrunner.report.selection import marks_in
from batchrunner.stores.export_files import RowOrder
from batchrunner.stores.run_file import run_file_or_refuse
from batchrunner.stores.score_file import ScoreFile

_NOT_ASKED_FOR: Final = "not asked for (--only)"
_NO_MARK: Final = "without such a mark (--marks)"
_BEYOND: Final = "beyond --limit"
_NOT_SCORED: Final = "not scored yet (`batchrunner score` scores them)"
_NO_SPLIT: Final = "in no split"
_HASHES: Final = 1 << 64
_ALL: Final = 1 + 1e-9
"""Shares may come to a little more than 1 by rounding."""


class Selection:
    """Rows by their place in a `RowOrder`, by the name of their split."""

    def __init__(self, options: ExportOptions, *, scores: ScoreFile) -> None:
        """Prepare to choose.

        Raises:
            JobMistakesError: a condition is no template, or reads scores of a run that has none; a file of marks cannot
                be read; shares beyond 1.
        """
        self._options = options
        self._scores = scores
        self._only = frozenset(options.only)
        self._found: set[str] = set()
        self._marked = None if options.marks is None else marked(Path(options.marks), options.mark)
        self._condition = None if options.where is None else _condition(options.where)
        if self._condition is not None and self._condition.needs_scores:
            scores.require("--where")
        self._splits = tuple(_limits(options.split))
        self.left_out: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Selection left_out={dict(self.left_out)}>"

    @property
    def takes_all(self) -> bool:
        """Whether nothing was asked for."""
        options = self._options
        asked = options.only, options.marks, options.where, options.split
        return not any(asked) and options.limit is None

    def choose(self, order: RowOrder) -> dict[str | None, Sequence[int]]:
        """One pass over the rows. Raises JobMistakesError, StoreBrokenError."""
        chosen: dict[str | None, array[int]] = {name: array("Q") for name, _ in self._splits} or {None: array("Q")}
        taken = 0
        for number, row in enumerate(order.rows()):
            reason = self._refusal(row)
            if reason is None and taken == self._options.limit:
                reason = _BEYOND
            split = None if reason is not None else self._split_of(row)
            if reason is None and split is None and self._splits:
                reason = _NO_SPLIT
            if reason is not None:
                self.left_out[reason] += 1
                continue
            taken += 1
            chosen[split].append(number)
        if unknown := len(self._only - self._found):
            self.left_out["ids of --only that have no row"] = unknown
        return dict(chosen)

    def _refusal(self, row: ExportRow) -> str | None:
        if self._only:
            named = self._only.intersection((str(row.fields.get("id")), str(row.fields.get("prompt_id"))))
            if not named:
                return _NOT_ASKED_FOR
            self._found |= named
        if self._marked is not None and self._marked.isdisjoint((row.fields.get("key"), ("id", row.fields.get("id")))):
            return _NO_MARK
        if self._condition is None:
            return None
        if self._condition.needs_scores and row.outcome == "done" and self._scores.of(row.fields) is None:
            return _NOT_SCORED
        return None if self._holds(self._condition, row) else f"not {self._options.where} (--where)"

    def _holds(self, condition: RowCondition, row: ExportRow) -> bool:
        try:
            return condition.holds(self._values(row, with_scores=condition.needs_scores))
        except TemplateFault as fault:
            raise _mistake("--where", f"{fault.problem} (row {row.fields.get('id')!r})") from None

    def _values(self, row: ExportRow, *, with_scores: bool) -> dict[str, Json]:
        return row_values(row.fields, self._scores.of(row.fields) if with_scores else None)

    def _split_of(self, row: ExportRow) -> str | None:
        if not self._splits:
            return None
        name = self._options.split_by
        values = self._values(row, with_scores=name in ("pass", "score", "verdict"))
        if name not in values:
            raise _mistake("--split-by", f"the row {row.fields.get('id')!r} has no `{name}`")
        group = json.dumps([self._options.seed, values[name]], sort_keys=True)
        place = int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest()) / _HASHES
        return next((split for split, limit in self._splits if place < limit), None)


def _condition(text: str) -> RowCondition:
    try:
        return RowCondition(text)
    except TemplateFault as fault:
        raise _mistake("--where", fault.problem) from None


def _limits(splits: Sequence[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """Each split with the end of its share of the hashes."""
    total = 0.0
    names = set[str]()
    for name, share in splits:
        total += share
        if not name.replace("-", "").replace("_", "").isalnum() or name.casefold() in names:
            raise _mistake(
                "--split",
                f"`{name}` is not the name of a split, or is given twice",
                hint="write letters and digits: train=0.9,test=0.1",
            )
        if not 0 < share <= 1 or total > _ALL:
            raise _mistake("--split", "shares are above 0 and come to 1 at most", hint="write train=0.9,test=0.1")
        names.add(name.casefold())  # files of splits, where a file system does not tell `a` from `A`
        yield name, 1.0 if total > 2 - _ALL else total


def marked(path: Path, wanted: Sequence[str]) -> frozenset[Json | tuple[str, Json]]:
    """Keys of the marked items, and ("id", id) of those whose line has no key.

    Args:
        path: as the page of a run gives it: a JSON object a line, with `id`, `key`, `mark` and `note`.
        wanted: which marks; empty for all of them.

    Raises:
        JobMistakesError: the file cannot be read, or a line is no mark.
    """
    return frozenset(
        entry["key"] if isinstance(entry.get("key"), str) else ("id", entry["id"]) for entry in marks_in(path, wanted)
    )


class Captions:
    """The answers of a run about pictures, by the picture that was shown; by id where none was. A context manager."""

    def __init__(self, folder: Path) -> None:
        """Raises JobMistakesError: there is no run in this directory."""
        run_file_or_refuse(folder)
        self._order = RowOrder(folder)
        self._by_name: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Captions {self._order!r}>"

    def __enter__(self) -> Self:
        """Find them, in one pass. Raises StoreBrokenError."""
        self._order.__enter__()
        self._order.index()
        for number, row in enumerate(self._order.rows()):
            shown = row.fields.get("images")
            pictures = [one.get("sha256") for one in shown if isinstance(one, dict)] if isinstance(shown, list) else []
            for name in pictures or [f"id {row.fields.get('id')}"]:
                self._by_name.setdefault(str(name), number)
        return self

    def __exit__(self, *_: object) -> None:
        self._order.__exit__()

    def of(self, row: ExportRow, sha256: str) -> str | None:
        """The caption of a picture of a row; None where there is none. Raises StoreBrokenError."""
        number = self._by_name.get(sha256, self._by_name.get(f"id {row.fields.get('id')}"))
        output = None if number is None else self._order.row(number).fields.get("output")
        said = output.get("text") if isinstance(output, dict) else None
        return said if isinstance(said, str) and said.strip() else None


def _mistake(file: str, problem: str, *, hint: str | None = None) -> JobMistakesError:
    return JobMistakesError((Mistake(file=file, problem=problem, hint=hint),))
