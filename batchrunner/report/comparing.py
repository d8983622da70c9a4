"""Reads the rows and scores of runs into groups, compares them, and says what came out: as a table and as JUnit XML."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Json
from batchrunner.evaluation.comparison import Comparison, PairResult, ScoredItem, State, compare_groups
from batchrunner.report.scoring import SCORES
from batchrunner.stores.export_files import RowOrder
from batchrunner.stores.files import DISK, SHARED_FILE, write_pieces
from batchrunner.stores.run_file import RunFile, run_file_or_refuse

_MOST_GROUPS: Final = 50
_MOST_FLIP_TEXTS: Final = 2_000
_COMPARED_CHARS: Final = 2_000
_MILLION: Final = 1_000_000
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Row = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A run's directory and the scores in it, by (id, index)."""

    label: str
    folder: Path
    run: RunFile
    scores: dict[tuple[str, int], Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """How rows become groups and pairs."""

    by: str | None = None
    """`model`, `run`, or the name of a parameter or variable; None: what varies."""
    base: str | None = None
    """Name of the group that the others are compared with; None: every pair."""
    check: str | None = None
    """Only this check's verdicts; None: the items' `pass`."""
    pair_by: str | None = None
    """A column that is equal for the answers to one question; None: prompt ids, or the rows' variables."""
    cluster: str | None = None
    """A column that is equal for questions that depend on each other."""


def open_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """The runs to compare, labelled by their directories' names where these differ.

    Raises:
        JobMistakesError: a directory without a run, or without scores.
        WrongDirectoryError, StoreBrokenError.
    """
    names = Counter(folder.name for folder in folders)
    return [
        ComparedRun(
            label=folder.name if names[folder.name] == 1 else str(folder),
            folder=folder,
            run=run_file_or_refuse(folder),
            scores=_scores(folder),
        )
        for folder in folders
    ]


def _scores(folder: Path) -> dict[tuple[str, int], Row]:
    path = folder / SCORES
    try:
        with path.open("rb") as lines:
            found = [_decoded(line) for line in lines]
    except FileNotFoundError:
        hint = f"add `checks:` to the job and run it, or score it: batchrunner score {folder} --checks FILE"
        raise JobMistakesError((Mistake(file=str(path), problem="there are no scores", hint=hint),)) from None
    except OSError as error:
        raise StoreBrokenError(f"{path}: {error.strerror or error}") from error
    broken = next((number for number, line in enumerate(found, 1) if line is None), None)
    if broken is not None:
        hint = f"score again: batchrunner score {folder}"
        raise JobMistakesError((Mistake(file=str(path), line=broken, problem="is no line of scores", hint=hint),))
    return {(str(line["id"]), _whole(line.get("index"))): line for line in found if line is not None}


def _decoded(line: bytes) -> Row | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("scores"), dict) and "id" in found else None


def _whole(value: Json) -> int:
    return value if isinstance(value, int) else -1


def rows_of(run: ComparedRun) -> Iterator[ExportRow]:
    """Every row of a run, failed items too, in the job's order. Raises StoreBrokenError."""
    with RowOrder(run.folder) as order:
        order.index(is_failed=lambda _: True)
        yield from order.rows()


def compare_runs(runs: Sequence[ComparedRun], options: CompareOptions) -> Comparison:
    """See the module.

    Raises:
        JobMistakesError: nothing to compare, an unknown group, check or column.
        StoreBrokenError: rows cannot be read.
    """
    name_of = _grouping(runs, options)
    groups: dict[str, list[ScoredItem]] = {}
    alternatives: dict[str, list[Hashable]] = {}
    for run in runs:
        for row in rows_of(run):
            name = name_of(run, row.fields)
            item = _item(run, row, options)
            groups.setdefault(name, []).append(item)
            alternatives.setdefault(name, []).append(_canonical(row.fields.get("vars")))
            if len(groups) > _MOST_GROUPS:
                raise _mistake(f"there are more than {_MOST_GROUPS} groups", "choose them with --by")
    if not groups:
        raise _mistake("there are no rows to compare", None)
    if options.base is not None and options.base not in groups:
        raise _mistake(f"there is no group `{options.base}`", f"the groups are {', '.join(groups)}")
    if options.pair_by is None and options.cluster is None and not _share_pairs(groups):
        groups = {
            name: [
                replace(item, pair=vars_, cluster=vars_) for item, vars_ in zip(items, alternatives[name], strict=True)
            ]
            for name, items in groups.items()
        }
    return compare_groups(groups, base=options.base)


def _share_pairs(groups: Mapping[str, Sequence[ScoredItem]]) -> bool:
    """Whether every group has a question in common with the first one."""
    first, *others = ({item.pair for item in items} for items in groups.values())
    return all(first & other for other in others)


def _canonical(value: Json) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


def _grouping(runs: Sequence[ComparedRun], options: CompareOptions) -> Callable[[ComparedRun, Row], str]:
    """What a row's group is called."""
    by = options.by
    if by == "run":
        return lambda run, _row: run.label
    if by == "model":
        return lambda _run, row: str(row.get("model"))
    if by is not None:
        name = by.removeprefix("param:").removeprefix("var:")
        if not any(_column(row.fields, name) is not None for run in runs for row in rows_of(run)):
            raise _mistake(
                f"no row has a parameter or variable `{name}`", "use model, run, or a column's name with --by"
            )
        return lambda _run, row: f"{name}={_shown(_column(row, name))}"
    several_models = len({str(row.fields.get("model")) for run in runs for row in rows_of(run)}) > 1
    if len(runs) > 1:
        return lambda run, row: f"{run.label} · {row.get('model')}" if several_models else run.label
    return lambda _run, row: str(row.get("model"))


def _column(row: Row, name: str) -> Json:
    for part in ("params", "vars"):
        inner = row.get(part)
        if isinstance(inner, dict) and name in inner:
            return inner[name]
    return row.get(name)


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _item(run: ComparedRun, row: ExportRow, options: CompareOptions) -> ScoredItem:
    fields = row.fields
    output, usage = fields.get("output"), fields.get("usage")
    score = run.scores.get((str(fields.get("id")), _whole(fields.get("index")))) if row.outcome == "done" else None
    is_cut = isinstance(output, dict) and output.get("truncated") is True
    state: State = "failed" if row.outcome == "failed" else "truncated" if is_cut else "answered"
    pair = fields.get("prompt_id") if options.pair_by is None else _column(fields, options.pair_by)
    pair_text = _canonical(pair)
    tokens = usage if isinstance(usage, dict) else {}
    seconds = fields.get("seconds")
    return ScoredItem(
        id=str(fields.get("id")),
        pair=pair_text,
        cluster=pair_text if options.cluster is None else _canonical(_column(fields, options.cluster)),
        prompt=hash((fields.get("prompt"), _canonical(fields.get("messages")))),
        replica=_whole(fields.get("replica", 0)),
        verdict=None if is_cut else _verdict(score, options.check),
        state=state,
        seconds=seconds if isinstance(seconds, int | float) else None,
        input_tokens=_count(tokens.get("input_tokens")),
        output_tokens=_count(tokens.get("output_tokens")),
        cost=_cost(run.run, str(fields.get("model")), tokens),
    )


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) else None


def _verdict(score: Row | None, check: str | None) -> bool | None:
    if score is None:
        return None
    if check is None:
        passed = score.get("pass")
        return passed if isinstance(passed, bool) else None
    scores = score.get("scores")
    one = scores.get(check) if isinstance(scores, dict) else None
    if one is None:
        raise _mistake(
            f"there is no check `{check}`", f"the checks are {', '.join(scores)}" if isinstance(scores, dict) else None
        )
    verdict = one.get("verdict") if isinstance(one, dict) else None
    return {"pass": True, "fail": False}.get(str(verdict))


def _cost(run: RunFile, model: str, tokens: Mapping[str, Json]) -> float | None:
    """By the prices of the job's budget; None without them."""
    budget = run.job.get("budget")
    prices = budget.get("prices") if isinstance(budget, dict) else None
    price = prices.get(model) if isinstance(prices, dict) else None
    if not isinstance(price, dict):
        return None
    rates = [price.get(name) for name in ("input_per_million", "output_per_million", "per_call")]
    per_input, per_output, per_call = (rate if isinstance(rate, int | float) else 0.0 for rate in rates)
    used_in, used_out = _count(tokens.get("input_tokens")) or 0, _count(tokens.get("output_tokens")) or 0
    return (used_in * per_input + used_out * per_output) / _MILLION + per_call


def most_changed(pair: PairResult, runs: Sequence[ComparedRun], *, most: int) -> list[tuple[str, bool]]:
    """(id in the second group, whether it was won) of the flips whose answers differ most, the most different first."""
    flips = [(*ids, True) for ids in pair.won] + [(*ids, False) for ids in pair.lost]
    texts: dict[str, list[str]] = {}
    wanted = {name for first, second, _ in flips[:_MOST_FLIP_TEXTS] for name in (first, second)}
    for run in runs if len(flips) > 1 else ():
        for row in rows_of(run):
            output = row.fields.get("output")
            if row.fields.get("id") in wanted and isinstance(output, dict):
                texts.setdefault(str(row.fields["id"]), []).append(str(output.get("text"))[:_COMPARED_CHARS])

    def similarity(flip: tuple[str, str, bool]) -> float:
        first, second = texts.get(flip[0], [""])[0], texts.get(flip[1], [""])[-1]
        return difflib.SequenceMatcher(None, first, second).quick_ratio()

    return [(second, won) for _, second, won in sorted(flips[:_MOST_FLIP_TEXTS], key=similarity)[:most]]


def write_junit(path: Path, runs: Sequence[ComparedRun], options: CompareOptions) -> None:
    """One test case an item: a failure, an error (a check broke), or skipped (no verdict). Raises StoreBrokenError."""
    name_of = _grouping(runs, options)
    cases = [(name_of(run, row.fields), _case(run, row, options)) for run in runs for row in rows_of(run)]
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, case in cases:
        groups.setdefault(name, []).append(case)

    def pieces() -> Iterator[bytes]:
        yield b'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="batchrunner">\n'
        for name, made in groups.items():
            kinds = Counter(kind for kind, _ in made)
            counts = f'tests="{len(made)}" failures="{kinds["failure"]}" errors="{kinds["error"]}"'
            yield f'<testsuite name={_attribute(name)} {counts} skipped="{kinds["skipped"]}">\n'.encode()
            for _, text in made:
                yield text.encode()
            yield b"</testsuite>\n"
        yield b"</testsuites>\n"

    try:
        write_pieces(DISK, path, pieces(), SHARED_FILE)
    except OSError as error:
        raise StoreBrokenError(f"{path}: {error.strerror or error}; no JUnit file was written") from error


def _case(run: ComparedRun, row: ExportRow, options: CompareOptions) -> tuple[str, str]:
    """(kind, XML) of an item's test case."""
    fields = row.fields
    item = _item(run, row, options)
    score = run.scores.get((item.id, _whole(fields.get("index"))))
    details = _details(score)
    if row.outcome == "failed":
        kind, inner = "error", f"<error message={_attribute('not answered: ' + str(fields.get('error')))}/>"
    elif item.verdict is True:
        kind, inner = "passed", ""
    elif item.verdict is False:
        kind, inner = "failure", f"<failure message={_attribute(details or 'failed')}/>"
    elif details and item.state == "answered":
        kind, inner = "error", f"<error message={_attribute(details)}/>"
    else:
        reason = "the answer was cut off" if item.state == "truncated" else "no check applies"
        kind, inner = "skipped", f"<skipped message={_attribute(reason)}/>"
    given = {"model": fields.get("model"), **_mapping(fields.get("params"))}
    properties = "".join(f"<property name={_attribute(n)} value={_attribute(_shown(v))}/>" for n, v in given.items())
    names = f"classname={_attribute(str(fields.get('model')))} name={_attribute(item.id)}"
    head = f'<testcase {names} time="{item.seconds or 0:.3f}">'
    return kind, f"{head}<properties>{properties}</properties>{inner}</testcase>\n"


def _details(score: Row | None) -> str:
    """The checks that failed or broke, with their reasons."""
    scores = _mapping(score.get("scores")) if score is not None else {}
    return "; ".join(
        f"{name}: {_mapping(one).get('reason') or _mapping(one).get('verdict')}"
        for name, one in scores.items()
        if _mapping(one).get("verdict") in ("fail", "error")
    )


def _mapping(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))


def _mistake(problem: str, hint: str | None) -> JobMistakesError:
    return JobMistakesError((Mistake(problem=problem, hint=hint),))
