"""Reads the rows and scores of runs into groups, and compares them."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

from batchrunner.core.budget import Price
from batchrunner.core.checks import Verdict
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field_names, replace
from batchrunner.evaluation.comparison import Comparison, PairResult, ScoredItem, State, compare_groups
from batchrunner.stores.export_files import RowOrder
from batchrunner.stores.run_file import RunFile, run_file_or_refuse
from batchrunner.stores.score_file import ScoreFile

_MOST_GROUPS: Final = 50
_MOST_FLIP_TEXTS: Final = 2_000
_COMPARED_CHARS: Final = 2_000
_MILLION: Final = 1_000_000
_MOST_COUNT: Final = 2**63 - 1
_VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Row = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A run's directory and the scores in it."""

    label: str
    folder: Path
    run: RunFile
    checks: frozenset[str]
    """Digests of the checks that the scores were made by."""


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
    """The runs to compare, labelled by their directories' names where these differ; one named twice is two runs.

    Raises:
        JobMistakesError: a directory without a run, or without scores.
        WrongDirectoryError, StoreBrokenError.
    """
    names, paths = Counter(folder.name for folder in folders), Counter[str]()
    runs = []
    for folder in folders:
        label = folder.name if names[folder.name] == 1 else str(folder)
        paths[label] += 1
        runs.append(_opened(folder, label if paths[label] == 1 else f"{label} ({paths[label]})"))
    return runs


def _opened(folder: Path, label: str) -> ComparedRun:
    run = run_file_or_refuse(folder)
    with ScoreFile(folder) as scores:
        scores.require()
    return ComparedRun(label=label, folder=folder, run=run, checks=frozenset(scores.checks))


def _whole(value: Json) -> int:
    return value if isinstance(value, int) else -1


def rows_of(run: ComparedRun) -> Iterator[tuple[ExportRow, Row | None]]:
    """Every row of a run with its line of scores, failed items too, in the job's order. Raises StoreBrokenError."""
    with RowOrder(run.folder) as order, ScoreFile(run.folder) as scores:
        order.index(is_failed=lambda _: True)
        for row in order.rows():
            yield row, scores.of(row.fields) if row.outcome == "done" else None


def compare_runs(runs: Sequence[ComparedRun], options: CompareOptions) -> Comparison:
    """See the module.

    Raises:
        JobMistakesError: nothing to compare, an unknown group, check or column.
        StoreBrokenError: rows cannot be read.
    """
    groups = groups_of(runs, options)
    compared = compare_groups(groups, base=options.base)
    unscored = {
        name: sum(item.state != "failed" and not item.checks for item in items) for name, items in groups.items()
    }
    notes = tuple(
        f"{number:,} answers of {name} have no scores; `batchrunner score DIR` makes them"
        for name, number in unscored.items()
        if number
    )
    return replace(compared, notes=notes)


def groups_of(runs: Sequence[ComparedRun], options: CompareOptions) -> dict[str, list[ScoredItem]]:
    """The items of each group, in the order of `rows_of`, run after run. Raises as `compare_runs`."""
    name_of = grouping(runs, options)
    for option, column in (("--pair-by", options.pair_by), ("--cluster", options.cluster)):
        if column is not None:
            _require_column(runs, column, f"use a column's name with {option}")
    groups: dict[str, list[ScoredItem]] = {}
    alternatives: dict[str, list[Hashable]] = {}
    for run in runs:
        for row, score in rows_of(run):
            name = name_of(run, row.fields)
            item = item_of(run, row, score, options)
            groups.setdefault(name, []).append(item)
            vars_, asked = row.fields.get("vars"), [row.fields.get("prompt"), row.fields.get("messages")]
            alternatives.setdefault(name, []).append(_canonical(vars_ or asked))
            if len(groups) > _MOST_GROUPS:
                raise _mistake(f"there are more than {_MOST_GROUPS} groups", "choose them with --by")
    if not groups:
        raise _mistake("there are no rows to compare", None)
    if options.base is not None and options.base not in groups:
        raise _mistake(f"there is no group `{options.base}`", f"the groups are {', '.join(groups)}")
    if options.pair_by is None and not _share_pairs(groups):
        groups = {
            name: [
                replace(item, pair=pair, cluster=pair if options.cluster is None else item.cluster)
                for item, pair in zip(items, alternatives[name], strict=True)
            ]
            for name, items in groups.items()
        }
    return groups


def _share_pairs(groups: Mapping[str, Sequence[ScoredItem]]) -> bool:
    """Whether every group has a question in common with the first one."""
    first, *others = ({item.pair for item in items} for items in groups.values())
    return all(first & other for other in others)


def _canonical(value: Json) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


def grouping(runs: Sequence[ComparedRun], options: CompareOptions) -> Callable[[ComparedRun, Row], str]:
    """What a row's group is called."""
    by = options.by
    if by == "run":
        return lambda run, _row: run.label
    if by == "model":
        return lambda _run, row: str(row.get("model"))
    if by is not None:
        name = _name_of_column(by)
        _require_column(runs, name, "use model, run, or a column's name with --by")
        return lambda _run, row: f"{name}={shown(_column(row, name))}"
    several_models = len({str(row.fields.get("model")) for run in runs for row, _ in rows_of(run)}) > 1
    if len(runs) > 1:
        return lambda run, row: f"{run.label} · {row.get('model')}" if several_models else run.label
    return lambda _run, row: str(row.get("model"))


def _require_column(runs: Sequence[ComparedRun], name: str, hint: str) -> None:
    if not any(_column(row.fields, name) is not None for run in runs for row, _ in rows_of(run)):
        raise _mistake(f"no row has a parameter or variable `{name}`", hint)


def _name_of_column(by: str) -> str:
    return by.removeprefix("param:").removeprefix("var:")


def _column(row: Row, name: str) -> Json:
    for part in ("params", "vars"):
        inner = row.get(part)
        if isinstance(inner, dict) and name in inner:
            return inner[name]
    return row.get(name)


def shown(value: Json) -> str:
    """A value as people read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def item_of(run: ComparedRun, row: ExportRow, score: Row | None, options: CompareOptions) -> ScoredItem:
    """What comparisons need of a row, with its line of scores."""
    fields = row.fields
    output, usage = fields.get("output"), fields.get("usage")
    is_cut = isinstance(output, dict) and output.get("truncated") is True
    state: State = "failed" if row.outcome == "failed" else "truncated" if is_cut else "answered"
    pair = fields.get("prompt_id") if options.pair_by is None else _column(fields, options.pair_by)
    pair_text = _canonical(pair)
    tokens = usage if isinstance(usage, dict) else {}
    return ScoredItem(
        id=str(fields.get("id")),
        pair=pair_text,
        cluster=pair_text if options.cluster is None else _canonical(_column(fields, options.cluster)),
        prompt=hash(_canonical([fields.get(name) for name in ("system", "prompt", "messages")])),
        replica=_whole(fields.get("replica", 0)),
        variant=_canonical(
            [
                None if options.by in (None, "model") else fields.get("model"),
                *(_without(fields.get(name), options.by) for name in ("params", "vars")),
            ]
        ),
        verdict=None if is_cut else _verdict(score, options.check),
        checks=_checks(score),
        state=state,
        seconds=_number(fields.get("seconds")),
        input_tokens=_count(tokens.get("input_tokens")),
        output_tokens=_count(tokens.get("output_tokens")),
        cost=_cost(run.run, str(fields.get("model")), tokens),
    )


def _without(value: Json, name: str | None) -> Json:
    """A row's parameters or variables without the one that the groups are made by."""
    column = None if name is None else _name_of_column(name)
    return {key: one for key, one in value.items() if key != column} if isinstance(value, dict) else None


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) and abs(value) <= _MOST_COUNT else None


def _number(value: Json) -> float | None:
    """A number as a float; None for what is none, and for one that is too large for it."""
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # edited by hand
        return None


def _checks(score: Row | None) -> tuple[tuple[str, Verdict, float | None], ...]:
    listed = score.get("scores") if score is not None else None
    found: list[tuple[str, Verdict, float | None]] = []
    verdict: Verdict
    for name, one in listed.items() if isinstance(listed, dict) else ():
        said = one if isinstance(one, dict) else {}
        verdict = next((each for each in _VERDICTS if each == said.get("verdict")), "error")
        found.append((name, verdict, _number(said.get("value"))))
    return tuple(found)


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
    rates = {name: float(rate) for name, rate in price.items() if name in _RATES and isinstance(rate, int | float)}
    known = Price(**rates)
    used = {
        name: _count(tokens.get(f"{name}_tokens")) or 0 for name in ("input", "output", "cache_read", "cache_write")
    }
    asked = known.input_cost(used["input"], used["cache_read"], used["cache_write"])
    return asked + used["output"] * known.output_per_million / _MILLION + known.per_call


_RATES: Final = frozenset(field_names(Price))


def most_changed(pair: PairResult, runs: Sequence[ComparedRun], *, most: int) -> list[tuple[str, bool]]:
    """(id in the second group, whether it was won) of the flips whose answers differ most, the most different first."""
    flips = [(*ids, True) for ids in pair.won] + [(*ids, False) for ids in pair.lost]
    texts: dict[str, list[str]] = {}
    wanted = {name for first, second, _ in flips[:_MOST_FLIP_TEXTS] for name in (first, second)}
    for run in runs if len(flips) > 1 else ():
        for row, _ in rows_of(run):
            output = row.fields.get("output")
            if row.fields.get("id") in wanted and isinstance(output, dict):
                texts.setdefault(str(row.fields["id"]), []).append(str(output.get("text"))[:_COMPARED_CHARS])

    def similarity(flip: tuple[str, str, bool]) -> float:
        first, second = texts.get(flip[0], [""])[0], texts.get(flip[1], [""])[-1]
        return difflib.SequenceMatcher(None, first, second).quick_ratio()

    return [(second, won) for _, second, won in sorted(flips[:_MOST_FLIP_TEXTS], key=similarity)[:most]]


def _mistake(problem: str, hint: str | None) -> JobMistakesError:
    return JobMistakesError((Mistake(problem=problem, hint=hint),))
