"""Holds the checks of a job against the rows of its run: `scores.jsonl`, a line for each answer. Sends nothing.

Scores stand apart from the rows: rows are paid for, scores are made again whenever a check changes. A row that cannot
be checked gets the verdict `error`, which counts for nothing, and never ends the others.
"""

import asyncio
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Final

from batchrunner.core.checks import CheckCounts, Score, Scored, checks_digest, passes
from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.job import Check, Job, Json
from batchrunner.core.status import Status
from batchrunner.core.values import dataclass, replace
from batchrunner.evaluation.check_kinds import score_of
from batchrunner.prompts.job_items import JobItems
from batchrunner.prompts.render import Expression, TemplateFault, Templates
from batchrunner.prompts.row_condition import OF_SCORES, ROW_NAMES, is_true, row_values
from batchrunner.providers.structured import Fits, SchemaCheck
from batchrunner.report.check_process import CheckProcess, function_mistakes
from batchrunner.report.judging import NOT_ANSWERED_YET, Verdicts, verdicts_of
from batchrunner.report.picture_scores import PictureScores
from batchrunner.report.wording import count
from batchrunner.spec.job_errors import parsed_path
from batchrunner.spec.load import line_of
from batchrunner.stores.export_files import RowOrder
from batchrunner.stores.files import DISK, RESULTS, SHARED_FILE, write_all, write_pieces
from batchrunner.stores.row_codec import rows_behind
from batchrunner.stores.row_forms import lines_of
from batchrunner.stores.score_file import SCORES, open_for_more

_encode = json.JSONEncoder(ensure_ascii=False).encode
_LINES_A_WRITE: Final = 200
_SAMPLE: Final = 20
"""Items that show which columns there are."""
_LOOK_EVERY_S: Final = 0.5
_REST: Final = 4.0
_SLICE_S: Final = 0.002
"""Beside a run, checks take at most a fifth of the time of one core, in slices that keep no request waiting."""
_LONGEST_END_S: Final = 2.0
_ANY_JSON: Final[SchemaCheck] = SchemaCheck({})


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCheck:
    """A check with its templates compiled."""

    check: Check
    expected: Expression | None
    """None where the check's own value is no template."""
    equals: Expression | None
    when: Expression | None

    @property
    def is_templated(self) -> bool:
        """Whether its score depends on what a template makes of the row."""
        return (self.expected or self.equals or self.when) is not None


def prepared(
    checks: Sequence[Check], *, file: str | None = None
) -> tuple[tuple[PreparedCheck, ...], tuple[Mistake, ...]]:
    """The checks with their templates compiled, and what is wrong with these."""
    templates, mistakes, made = Templates(), list[Mistake](), list[PreparedCheck]()
    for place, check in enumerate(checks):

        def compiled(text: Json, key: str, where: str = f"checks[{place}]") -> Expression | None:
            if not isinstance(text, str) or "{" not in text:
                return None
            try:
                return templates.expression(text)
            except TemplateFault as fault:
                mistakes.append(Mistake(file=file, key=f"{where}.{key}", problem=fault.problem))
                return None

        is_template = check.kind in ("equals", "number")
        made.append(
            PreparedCheck(
                check=check,
                expected=compiled(check.expected, check.kind) if is_template else None,
                equals=compiled(check.options.get("equals"), "equals"),
                when=compiled(check.when, "when"),
            )
        )
    return tuple(made), tuple(mistakes)


async def check_mistakes(job: Job, items: JobItems | None) -> tuple[tuple[Mistake, ...], tuple[str, ...]]:
    """What is wrong with the checks of a job, and names in their templates that none of its first items has.

    Loads the files of their functions, in a process of its own. `items` is None where there are none yet.
    """
    ready, broken = prepared(job.checks, file=job.file)
    found = (*broken, *await asyncio.to_thread(lambda: tuple(function_mistakes(job))))
    if found or items is None:
        return tuple(replace(one, line=line_of(job.file, parsed_path(one.key or "") or ())) for one in found), ()
    known: set[str] = set(ROW_NAMES - OF_SCORES)
    first = 0
    async for batch in items.batches():
        for item in batch[: _SAMPLE - first]:
            known.update(item.vars)
        first = min(_SAMPLE, first + len(batch))
        if first == _SAMPLE:
            break
    notes = [
        f"checks[{place}]: its template uses `{name}`, which is no field of a row and no column of the first "
        f"{count(first, 'item')}"
        for place, one in enumerate(ready)
        for name in sorted({name for each in (one.expected, one.equals, one.when) if each for name in each.names})
        if name not in known
    ]
    notes += [
        f"checks[{place}].{check.kind}: the braces are taken literally; `equals`, `number` and `when` are templates"
        for place, check in enumerate(job.checks)
        if check.kind in ("contains", "any", "regex") and "{{" in str(check.expected)
    ]
    return (), tuple(notes)


def score_directory(folder: Path, checks: Sequence[Check], *, base: PurePath, key_env: Sequence[str] = ()) -> Scored:
    """Check every answer of a run and replace `scores.jsonl`. For the holder of the run's lock. Blocks.

    Args:
        folder: the run's directory.
        checks: at least one.
        base: the folder that the files of `python` checks are relative to.
        key_env: environment variables that the checks' process must not see.

    Raises:
        JobMistakesError: a template cannot be compiled.
        StoreBrokenError: rows cannot be read, or the scores not be written.
    """
    ready, mistakes = prepared(checks)
    if mistakes:
        raise JobMistakesError(mistakes)
    scored = _nothing_scored(folder, checks)
    path = folder / SCORES
    verdicts = verdicts_of(folder, checks, base=base)
    with RowOrder(folder) as order, CheckProcess(key_env=key_env) as process:
        order.index()
        outside = _Outside(folder, base, process, verdicts)
        lines = (_line_of(row.fields, ready, outside, scored) for row in order.rows())
        scored.notes += [f"judge {name}: {note}" for name, one in verdicts.items() if (note := one.note())]
        try:
            write_pieces(DISK, path, map(b"".join, _batches(lines)), SHARED_FILE)
        except OSError as error:
            raise StoreBrokenError(f"{path}: {error.strerror or error}; the scores before it are unchanged") from error
    return scored


def _nothing_scored(folder: Path, checks: Sequence[Check]) -> Scored:
    return Scored(
        dir=str(folder),
        path=str(folder / SCORES),
        checks=[CheckCounts(name=check.name, counts=check.counts) for check in checks],
        digest=checks_digest(checks),
    )


def _batches(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(islice(lines, _LINES_A_WRITE)):
        yield batch


class LiveScores:
    """Appends a line to `scores.jsonl` for each row as it comes to `results.jsonl`, in a thread of its own.

    Nothing of the run knows it or waits for it: it reads the file. Lines are not synced, and in the order in which the
    rows come; where these come faster than they may be checked beside a run, it falls behind. The run's end scores all
    rows anew, and says then what went wrong.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        """Of a run that is about to begin, for the holder of its lock."""
        self._job = job
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="scores", daemon=True)
        self._start = 0
        """Where the rows begin that have no line."""

    def __repr__(self) -> str:
        return f"<LiveScores {self._folder}>"

    def start(self) -> None:
        """Begin with the row behind that of the last line; with the first one where these checks have no line."""
        self._thread.start()

    def end(self) -> None:
        """Write no more. Blocks until the check of a row has ended, but not for long.

        One that takes longer is left alone: its line goes to a file that has no name any more.
        """
        self._ended.set()
        self._thread.join(_LONGEST_END_S)

    def _work(self) -> None:
        with suppress(Exception):  # of a disk, of a person's checks: nothing of it may touch the run
            checks = self._job.checks
            ready, mistakes = prepared(checks)
            scored = _nothing_scored(self._folder, checks)
            if mistakes or self._ended.is_set():
                return
            scores, last = open_for_more(self._folder, digest=scored.digest)
            try:
                with CheckProcess(key_env=self._job.provider.key_env) as process:
                    outside = _Outside(self._folder, self._job.folder, process, {})
                    for rows in self._slices(last):
                        lines = [_line_of(row, ready, outside, scored) for row in rows]
                        write_all(DISK, scores, b"".join(lines))
            finally:
                DISK.close(scores)

    def _slices(self, last: str | None) -> Iterator[Iterator[dict[str, Json]]]:
        """The rows behind the one with the key `last`, as they come, in pieces of some milliseconds with rests."""
        path = self._folder / RESULTS
        while not DISK.exists(path):
            if self._ended.wait(_LOOK_EVERY_S):
                return
        descriptor = DISK.open_read(path)
        try:
            self._start = 0 if last is None else _end_of_row(descriptor, last.encode())
            while not self._ended.wait(_LOOK_EVERY_S):
                rows = rows_behind(descriptor, self._start)
                for first in rows:
                    began = time.thread_time()
                    yield self._slice(chain((first,), rows), until=began + _SLICE_S)
                    if self._ended.wait(_REST * (time.thread_time() - began)):
                        return
        finally:
            DISK.close(descriptor)

    def _slice(self, rows: Iterable[tuple[dict[str, Json] | None, int]], *, until: float) -> Iterator[dict[str, Json]]:
        for row, self._start in rows:
            if row is not None:
                yield row
            if self._ended.is_set() or time.thread_time() >= until:
                return


def _end_of_row(rows: int, key: bytes) -> int:
    """Where the last row that names this key ends; where the file ends if none does: its order has changed since."""
    end = found = 0
    for line in lines_of(DISK, rows):
        if line.whole:
            end = line.offset + len(line.text) + 1
            found = end if key in line.text else found
    return found or end


def scores_of_run(job: Job, folder: Path, status: Status) -> tuple[str, ...]:
    """Score a run that has ended, for the holder of its lock; what came out, or went wrong, as notes. Blocks."""
    try:
        scored = score_directory(folder, job.checks, base=job.folder, key_env=job.provider.key_env)
    except Exception as error:  # noqa: BLE001 - scores are made again for nothing; they must not end a run badly
        return (f"no scores were written: {error}; try `batchrunner score {folder}`",)
    scored.not_answered = max(0, (status.part or status.items).total - scored.rows)
    return rate_words(scored)


def rate_words(scored: Scored) -> tuple[str, ...]:
    """A line for all checks together and one for each that broke, for people."""
    decided = scored.passed + scored.failed
    share = f" ({scored.passed / decided:.1%})" if decided else ""
    beside = [
        f"{number:,} {what}"
        for number, what in (
            (scored.undecided - scored.truncated, "without a verdict"),
            (scored.truncated, "cut off"),
            (scored.not_answered, "not answered"),
        )
        if number > 0
    ]
    broke = [
        f"check `{counts.name}` broke for {counts.errors:,} answers, which count for nothing: {counts.first_error}"
        for counts in scored.checks
        if counts.errors
    ]
    return (
        f"checks: {scored.passed:,} of {decided:,} passed{share}{''.join(f', {one}' for one in beside)}",
        *broke,
        *scored.notes,
    )


def check_table(scored: Scored) -> list[str]:
    """A line for each check, for people."""
    rows = [
        (one.name, f"{one.passed:,} pass", f"{one.failed:,} fail", f"{one.errors:,} error", f"{one.none:,} none")
        for one in scored.checks
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = [" " * 2 + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [
        line if one.counts else f"{line.rstrip()}  (does not count)"
        for line, one in zip(shown, scored.checks, strict=True)
    ]


def _line_of(row: Mapping[str, Json], ready: Sequence[PreparedCheck], outside: "_Outside", scored: Scored) -> bytes:
    """The row's line of `scores.jsonl`; counts it in `scored`."""
    output = row.get("output")
    truncated = isinstance(output, dict) and output.get("truncated") is True
    values = _template_values(row) if any(prepared.is_templated for prepared in ready) else {}
    scores = [_score(prepared, row, values, outside) for prepared in ready]
    verdict = passes([prepared.check for prepared in ready], scores, truncated=truncated)
    _count(scored, scores, verdict=verdict, truncated=truncated)
    line: dict[str, object] = {name: row.get(name) for name in ("id", "prompt_id", "index", "model", "key")}
    if "replica" in row:
        line["replica"] = row["replica"]
    line["pass"] = verdict
    if truncated:
        line["truncated"] = True
    line["scores"] = {prepared.check.name: _fields(score) for prepared, score in zip(ready, scores, strict=True)}
    line["checks"] = scored.digest
    return _encode(line).encode("utf-8", "replace") + b"\n"


def _fields(score: Score) -> dict[str, Json]:
    """The score as its line has it, without what it does not say."""
    fields: dict[str, Json] = {"verdict": score.verdict}
    if score.value is not None:
        fields["value"] = score.value
    if score.expected is not None:
        fields["expected"] = score.expected
    if score.reason is not None:
        fields["reason"] = score.reason
    return fields


def _count(scored: Scored, scores: Sequence[Score], *, verdict: bool | None, truncated: bool) -> None:
    scored.rows += 1
    scored.truncated += truncated
    scored.passed += verdict is True
    scored.failed += verdict is False
    scored.undecided += verdict is None
    for counts, score in zip(scored.checks, scores, strict=True):
        match score.verdict:
            case "pass":
                counts.passed += 1
            case "fail":
                counts.failed += 1
            case "none":
                counts.none += 1
            case "error":
                counts.errors += 1
                counts.first_error = counts.first_error or score.reason


def _template_values(row: Mapping[str, Json]) -> dict[str, Json]:
    """What the templates of checks can name; a column of the source comes before a field of the row."""
    given = row.get("vars")
    return {**row_values(row), **(given if isinstance(given, dict) else {})}


def _score(prepared: PreparedCheck, row: Mapping[str, Json], values: Mapping[str, Json], outside: "_Outside") -> Score:
    check = prepared.check
    try:
        if prepared.when is not None and not is_true(prepared.when.value(values)):
            return Score(verdict="none", reason="`when` does not hold")
        expected = check.expected if prepared.expected is None else _or_none(prepared.expected.value(values))
        options = check.options
        if prepared.equals is not None:
            options = {**options, "equals": _or_none(prepared.equals.value(values))}
    except TemplateFault as fault:
        return Score(verdict="error", reason=f"its template cannot be filled: {fault.problem}")
    if check.kind == "judge":
        said = outside.verdicts.get(check.name)
        return Score(verdict="error", reason=NOT_ANSWERED_YET) if said is None else said.of(row)
    return score_of(check, row, expected=expected, options=options, outside=outside)


def _or_none(reference: Json) -> Json:
    """None for an empty cell of a table: the row has no reference, which is not the same as an empty one."""
    return None if isinstance(reference, str) and not reference.strip() else reference


class _Outside:
    """Files and processes, for `evaluation`; see `check_kinds.Outside`."""

    def __init__(self, folder: Path, base: PurePath, process: CheckProcess, verdicts: Mapping[str, Verdicts]) -> None:
        self.verdicts = verdicts
        """Of the judges, by the name of the check; none while the items of the run are under way."""
        self._base = base
        self._process = process
        self._pictures = PictureScores(folder)

    def python(self, place: str, row: Mapping[str, Json]) -> Json:
        """See `Outside`."""
        path, _, name = place.rpartition(":")
        return self._process.python(f"{Path(self._base / path).absolute()}:{name}", row)

    def search(self, pattern: str, text: str) -> list[str | None] | None:
        """See `Outside`."""
        return self._process.search(pattern, text)

    def json_in(self, text: str) -> tuple[bool, Json]:
        """See `Outside`."""
        found = _ANY_JSON.look(text)
        return (True, found.value) if isinstance(found, Fits) else (False, None)

    def picture(self, name: str, row: Mapping[str, Json]) -> Score:
        """See `Outside`."""
        return self._pictures.score(name, row)
