"""The rows of a run as another job reads them: those that are done, in the job's order, as they stood at one moment.

The files stay open from the first look on, so every pass gives the same rows: whether the run goes on meanwhile, puts
its rows in order, or its folder is moved away. In memory stay a few bytes for each row.
"""

import json
import threading
import weakref
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.upstream import DoneRow
from batchrunner.stores.export_files import RowOrder
from batchrunner.stores.files import DISK, InspectedFiles
from batchrunner.stores.score_file import ScoreFile


class UpstreamRun:
    """The done rows of a run's directory. Implements `core.upstream.RunRows`; for any number of threads."""

    def __init__(self, folder: Path, *, files: InspectedFiles = DISK) -> None:
        self._folder = folder
        self._files = files
        self._lock = threading.Lock()
        self._order: RowOrder | None = None
        self._scores: ScoreFile | None = None

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
            yield row.fields, None if scores is None else scores.of(row.fields)

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

    def _scores_of_then(self) -> ScoreFile | None:
        with self._lock:
            if self._scores is None:
                scores = ScoreFile(self._folder, files=self._files).__enter__()
                weakref.finalize(self, scores.__exit__)
                self._scores = scores if scores.exists else None
            return self._scores


ORDERS: Final = ("ab", "ba")
"""Which of two answers is shown first."""


class PairRows:
    """A row for each prompt that two models answered, once in either order: `first` and `second` are the answers.

    With a matrix, for each of its combinations. Implements `core.upstream.RunRows`. The texts of one model are in
    memory during a pass.
    """

    def __init__(self, run: UpstreamRun, models: tuple[str, str]) -> None:
        self._run = run
        self._models = models
        self._has_variants: bool | None = None
        """Whether a model answers a prompt several times, with other parameters or variables; None: not known yet."""

    def __repr__(self) -> str:
        return f"<PairRows of {' and '.join(self._models)} in {self._run}>"

    def rows(self, *, with_scores: bool) -> Iterator[DoneRow]:
        """As the protocol says; the rows have no scores."""
        del with_scores
        waiting: dict[str, Mapping[str, Json]] = {}
        for fields, _ in self._run.rows(with_scores=False):
            if fields.get("model") not in self._models:
                continue
            name = self.id_of(fields, ORDERS[0])
            other = waiting.pop(name, None)
            if other is None:
                waiting[name] = fields
                continue
            a, b = (fields, other) if fields.get("model") == self._models[0] else (other, fields)
            yield self._paired(a, b, ORDERS[0]), None
            yield self._paired(b, a, ORDERS[1]), None

    def id_of(self, row: Mapping[str, Json], order: str) -> str:
        """The id of the row here that has this row's answer. The first call reads the run: blocks. StoreBrokenError."""
        if self._has_variants is None:
            self._has_variants = self._looked_for_variants()
        replica = row.get("replica")
        variant = f"-{_variant(row)}" if self._has_variants else ""
        return f"{row.get('prompt_id')}{variant}{f'-r{replica}' if replica else ''}~{order}"

    def _looked_for_variants(self) -> bool:
        seen = set[int]()
        for row, _ in self._run.rows(with_scores=False):
            if row.get("model") == self._models[0]:
                name = hash((str(row.get("prompt_id")), str(row.get("replica"))))
                if name in seen:
                    return True
                seen.add(name)
        return False

    def has_scores(self) -> bool:
        """None of a pair."""
        return True

    def unreadable(self) -> list[int]:
        """As of the run."""
        return self._run.unreadable()

    def _paired(self, first: Mapping[str, Json], second: Mapping[str, Json], order: str) -> Mapping[str, Json]:
        given = first.get("vars")
        shown: dict[str, Json] = {"first": _text(first), "second": _text(second)}
        columns: dict[str, Json] = {**(given if isinstance(given, dict) else {}), **shown}
        return {**first, "id": self.id_of(first, order), "vars": columns}


def _variant(row: Mapping[str, Json]) -> str:
    text = json.dumps([row.get("params"), row.get("vars")], sort_keys=True)
    return blake2b(text.encode(), digest_size=3).hexdigest()


def _text(row: Mapping[str, Json]) -> Json:
    output = row.get("output")
    return output.get("text") if isinstance(output, dict) else None
