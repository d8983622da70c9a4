"""`compare --html FILE`: the page of a run with a column for each group, also where these are of several runs.

Rows of all runs stand in one page, by the question that they answer; everything else is as in `report.html`.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Json
from batchrunner.evaluation.comparison import ScoredItem
from batchrunner.page.report_file import page_pieces, read_run
from batchrunner.page.row_chunks import OWN_AXES, Axis, RowChunks, as_text
from batchrunner.page.run_facts import is_our_page
from batchrunner.report.comparing import ComparedRun, CompareOptions, grouping, groups_of, rows_of
from batchrunner.stores.files import DISK, SHARED_FILE, broken, write_pieces
from batchrunner.stores.run_file import run_around

_GROUP: Final = "group"
_ANSWER: Final = "answer"


def require_place(path: Path) -> None:
    """Refuse a place where something else would be lost. Raises JobMistakesError."""
    problem, hint = "", "choose another place with --html"
    if not path.resolve().parent.is_dir():
        problem, hint = "no such directory", f"create {path.parent}, or {hint}"
    elif run_around(path) is not None:
        problem = "is inside a run's directory, whose files are not to be replaced"
    elif path.exists() and not is_our_page(path):
        problem = "is there already and is no page of a run; nothing is overwritten"
    if problem:
        raise JobMistakesError((Mistake(file=str(path), problem=problem, hint=hint),))


def write_comparison(path: Path, runs: Sequence[ComparedRun], options: CompareOptions) -> None:
    """Write the page.

    Raises:
        JobMistakesError: see `require_place` and `compare_runs`.
        WrongDirectoryError, LedgerDamagedError, StoreBrokenError: a run cannot be read, or the page not be written.
    """
    require_place(path)
    groups = groups_of(runs, options)
    name_of = grouping(runs, options)
    pairs = {name: iter(items) for name, items in groups.items()}
    first = read_run(runs[0].folder, lambda _number, _data: None)
    chunks: list[str] = []
    rows = RowChunks(
        axes=[*_repeats(groups), Axis(name=_GROUP, values=list(groups))],
        since=first.rows.since,
        log_of=lambda _key: [],
        hide=first.hide,
        on_chunk=lambda _number, data: chunks.append(as_text(data)),
    )
    answers: Counter[tuple[str, str]] = Counter()
    for run in runs:
        beside = os.path.relpath(run.folder, path.parent)
        for row, score in rows_of(run):
            name = name_of(run, row.fields)
            pair = str(next(pairs[name]).pair)
            answers[name, pair] += 1
            fields: dict[str, Json] = {
                **row.fields,
                OWN_AXES: {_GROUP: name, _ANSWER: answers[name, pair]},
                "prompt_id": pair,
                "index": rows.rows + 1,
                "output": _with_paths(row.fields.get("output"), Path(beside)),
            }
            if score is not None:
                fields |= {"pass": score.get("pass"), "_scores": score.get("scores")}
            rows.add(ExportRow(line=row.line, fields=fields, outcome=row.outcome))
    rows.finish()
    failed = sum(item.state == "failed" for items in groups.values() for item in items)
    title = " · ".join(dict.fromkeys(run.label for run in runs))
    counts: dict[str, Json] = {"total": rows.rows, "done": rows.rows - failed, "failed": failed, "held": 0, "lost": 0}
    meta: dict[str, Json] = {
        **first.meta(),
        **rows.facts(),
        "job": title,
        "items": counts,
        "open": {},
        "stamp": f"{time.time_ns() // 1_000_000:x}",
        "view": "compare",
    }
    pieces = page_pieces(
        meta,
        title=f"{title} · batchrunner",
        totals=[(name, f"{len(listed):,} items") for name, listed in groups.items()],
        first=b"\n".join(rows.first),
        index=as_text(rows.index()),
        chunks=chunks,
    )
    try:
        write_pieces(DISK, path, pieces, SHARED_FILE)
    except OSError as error:
        raise broken(path, error, sending=False) from error


def _repeats(groups: Mapping[str, Sequence[ScoredItem]]) -> list[Axis]:
    """An axis for several answers of a group to one question, so that none is hidden behind another one."""
    most = max(max(Counter(item.pair for item in items).values()) for items in groups.values())
    return [Axis(name=_ANSWER, values=list(range(1, most + 1)))] if most > 1 else []


def _with_paths(output: Json, folder: Path) -> Json:
    """The output with the paths of its pictures as they are seen from where the page lies."""
    pictures = output.get("images") if isinstance(output, dict) else None
    if not isinstance(output, dict) or not isinstance(pictures, list):
        return output
    moved = [
        {**one, "path": (folder / str(one.get("path"))).as_posix()} if isinstance(one, dict) else one
        for one in pictures
    ]
    return {**output, "images": moved}
