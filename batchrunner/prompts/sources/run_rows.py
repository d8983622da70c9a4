"""A run as a source: a row for each item that is done there, with the names that `row_condition` gives it.

What the rows hold was written by this program, or by hands since: a line that is no row is a bad row, named by the
item's id or by its place in the file.
"""

from collections.abc import Iterator
from typing import Final

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.job import Json
from batchrunner.core.upstream import RunRows
from batchrunner.prompts.row_condition import ROW_NAMES, row_values
from batchrunner.prompts.sources.base import (
    BATCH_BYTES,
    BATCH_ROWS,
    PLAIN,
    BadRow,
    BadSourceError,
    Batch,
    SourceFormat,
    SourceRow,
    TextForm,
)

_SHOWN_UNREADABLE: Final = 100
_NO_SCORES: Final = "has no scores.jsonl, in which `pass`, `score` and `verdict` stand"
_HOW_TO_SCORE: Final = "give that job `checks:`, then `batchrunner score {shown} --checks JOB`"


def run_format(run: RunRows, *, shown: str, pictures_in: str, with_scores: bool) -> SourceFormat:
    """How a run is read.

    Args:
        run: its rows.
        shown: its folder as the person wrote it or, where that is absolute, from the job file's folder: it stands in
            `from` of the rows that come of it.
        pictures_in: the folder as a picture's path from the job file's folder begins, with a slash at its end.
        with_scores: whether a template uses them.
    """

    def read(_path: str, _form: TextForm = PLAIN, /) -> Iterator[Batch]:
        return _read(run, shown, pictures_in, with_scores=with_scores)

    return SourceFormat(blocking_read=read, same_columns=False, unshown=ROW_NAMES)


def _read(run: RunRows, shown: str, pictures_in: str, *, with_scores: bool) -> Iterator[Batch]:
    number = 0
    rows: list[SourceRow | BadRow] = []
    try:
        if with_scores and not run.has_scores():
            raise BadSourceError(_NO_SCORES, hint=_HOW_TO_SCORE.format(shown=shown))
        for offset in run.unreadable()[:_SHOWN_UNREADABLE]:
            number += 1
            problem, hint = "the line is not a row of a run", f"`batchrunner verify {shown}` lists what is damaged"
            rows.append(
                BadRow(number=number, line=None, where=f"/results.jsonl: byte {offset}", problem=problem, hint=hint)
            )
        size = 0
        for fields, scores in run.rows(with_scores=with_scores):
            number += 1
            values = row_values(fields, scores, pictures_in=pictures_in)
            name = values.get("id")
            if isinstance(name, str) and name:
                origin: dict[str, Json] = {"run": shown, "id": name}
                rows.append(SourceRow(number, None, values, f", item `{name}`", origin=origin))
            else:
                rows.append(BadRow(number=number, line=None, where=f", row {number}", problem="the row has no id"))
            size += len(str(values.get("text"))) + len(str(values.get("prompt")))
            if size > BATCH_BYTES or len(rows) >= BATCH_ROWS:
                yield rows
                rows, size = [], 0
    except StoreBrokenError as error:
        raise BadSourceError(str(error)) from error
    if rows:
        yield rows
