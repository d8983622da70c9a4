"""Judges of a run: jobs that ask a model about every answer, in `judge/NAME` of the run's directory.

A judge is an ordinary job with a ledger, limits and a budget of its own, whose source is the run. Its items are made of
the answers, so an answer that it has judged is not paid for again, equal answers are asked about once, and one that
changed is asked about anew. A verdict is read from the judge's rows by the same keys: what it said of an earlier
answer counts for nothing.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from math import isfinite, prod
from pathlib import Path, PurePath
from typing import Final

from batchrunner.core.budget import output_limit
from batchrunner.core.checks import Score, Verdict
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import Item
from batchrunner.core.job import Check, Job, Json, Source
from batchrunner.core.pacing import estimate_tokens
from batchrunner.core.plan import JudgePlan, Plan
from batchrunner.core.plan_costs import ToSend, cost_plan
from batchrunner.core.upstream import DoneRow, RunRows
from batchrunner.core.values import dataclass, replace
from batchrunner.prompts import EMPTY_JOB, JobItems, items_of
from batchrunner.prompts.row_condition import ROW_NAMES
from batchrunner.prompts.templates import templates_of
from batchrunner.report.directory_status import JUDGES
from batchrunner.report.upstream_run import if_any_rows, rows_of
from batchrunner.report.wording import printable
from batchrunner.spec import load_job
from batchrunner.stores.row_codec import iter_failures, iter_results
from batchrunner.stores.run_file import read_run_file
from batchrunner.stores.upstream_rows import ORDERS, PairRows
from batchrunner.transport import read_keys

_SCHEMA: Final = (
    "`schema: {type: object, properties: {score: {type: number, minimum: 0, maximum: 1}, reason: {type: string}}, "
    "required: [score, reason]}`"
)
_PAIR_SCHEMA: Final = (
    "`schema: {type: object, properties: {winner: {enum: [first, second, tie]}, reason: {type: string}}, "
    "required: [winner, reason]}`"
)
NOT_ANSWERED_YET: Final = "the judge has not answered yet"
_SAMPLE: Final = 20
_SHOWN_CHARS: Final = 60
_REASON_CHARS: Final = 1_000
_SAFE_NAMES: Final = frozenset({"id", "prompt_id", "index", "model", "prompt", "system", "text", "vars", "params"})
_UNKNOWN_YET: Final = frozenset(ROW_NAMES) - _SAFE_NAMES
"""Names of a row of which nothing is known before there is an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A check of the kind `judge`, and the job that it comes to for a run."""

    check: Check
    job: Job

    @property
    def rows(self) -> RunRows:
        """The answers of the run, or pairs of them, as they are now."""
        assert isinstance(self.job.prompts, Source), "see `judges_in`"
        return rows_of(self.job.prompts)


def pair_of(check: Check) -> tuple[str, str] | None:
    """The two models that a judge compares; None for one that rates each answer."""
    pair = check.options.get("pair")
    return (str(pair[0]), str(pair[1])) if isinstance(pair, list | tuple) and pair else None


def judges_of(job: Job) -> tuple[Judge, ...]:
    """The judges of a job. Blocks.

    Raises:
        JobMistakesError: with all mistakes of their files.
    """
    return judges_in(Path(job.output.dir), job.checks, base=job.folder, name=job.name, simulated=job.simulated)


def judges_in(
    folder: Path, checks: Sequence[Check], *, base: PurePath, name: str, simulated: bool
) -> tuple[Judge, ...]:
    """The judges of the run in a directory, whose files are relative to `base`. Blocks. Raises as `judges_of`."""
    judges, mistakes = list[Judge](), list[Mistake]()
    for check in checks:
        if check.kind != "judge":
            continue
        path = str(base / str(check.expected))
        here = folder / JUDGES / check.name
        try:
            job = load_job(path, simulate=simulated, out=str(here))
        except JobMistakesError as error:
            mistakes += error.mistakes
            continue
        pair = pair_of(check)
        faults = tuple(_faults(job, pair=pair is not None))
        mistakes += faults
        if not faults and isinstance(job.prompts, Source):
            source = replace(job.prompts, path=str(folder), shown=str(folder), takes_unfinished=True, pair=pair)
            source = replace(source, where=_both(check.when, source.where))
            named = f"{name}-{check.name}"
            folders = (*job.picture_folders, str(folder))
            judges.append(Judge(check=check, job=replace(job, name=named, prompts=source, picture_folders=folders)))
    if mistakes:
        raise JobMistakesError(tuple(mistakes))
    return tuple(judges)


_ONE_EXPRESSION: Final = re.compile(r"\s*\{\{-?((?:(?!\{\{|\}\}|\{%).)*?)-?\}\}\s*", re.DOTALL)


def _both(when: str | None, where: str | None) -> str | None:
    """The condition for answers that a judge is asked about: its check applies to them, and its own file wants them.

    Where one of them is more than an expression they cannot be one condition; the judge's own is taken, and the check
    says `none` of what it does not apply to.
    """
    if when is None or where is None:
        return where if when is None else when
    parts = [_ONE_EXPRESSION.fullmatch(text if "{" in text else f"{{{{ {text} }}}}") for text in (when, where)]
    if None in parts:
        return where
    return "{{ " + " and ".join(f"({part[1].strip()})" for part in parts if part is not None) + " }}"


def _faults(job: Job, *, pair: bool) -> Iterator[Mistake]:
    """Why a job cannot be a judge, or one of pairs."""
    if not (isinstance(job.prompts, Source) and job.prompts.run):
        expected = "`prompts: {run: DIR, template: …}`: the run that is judged takes the place of DIR"
        yield Mistake(file=job.file, key="prompts", problem="a judge reads a run", expected=expected)
    properties = (job.schema or {}).get("properties")
    wanted, expected = ("winner", _PAIR_SCHEMA) if pair else ("score", _SCHEMA)
    if not isinstance(properties, dict) or wanted not in properties:
        problem = f"a judge answers with a `{wanted}`" if job.schema else "a judge needs a schema"
        yield Mistake(file=job.file, key="schema", problem=problem, expected=expected)
    if job.fallback is not None:
        problem = "a judge has no fallback: verdicts of two models are not of one measure"
        yield Mistake(file=job.file, key="models", problem=problem, expected="`model`, or `models` as a list")
    if any(check.kind == "judge" for check in job.checks):
        problem = "a judge has no judges of its own"
        yield Mistake(file=job.file, key="checks", problem=problem, hint="remove `judge` from its `checks`")


def missing_keys(judges: Sequence[Judge]) -> tuple[Mistake, ...]:
    """Of judges that could not ask anything: the variables of their keys are not set."""
    found: list[Mistake] = []
    for judge in judges:
        found_keys = read_keys(judge.job.provider, os.environ, run_commands=False)
        if not found_keys.accounts:
            hint = "set it, or leave the judges out with --no-judge"
            found += [
                replace(mistake, problem=f"judge {judge.check.name}: {mistake.problem}", hint=hint)
                for mistake in found_keys.missing
            ]
    return tuple(found)


# -- mistakes before anything is paid


class _Answers:
    """Stands in for a run that has no rows yet: the job's first items, each with an answer. See `RunRows`."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def rows(self, *, with_scores: bool) -> Iterator[DoneRow]:
        """A row of each item."""
        del with_scores
        for item in self._items:
            output: Json = {"text": "an answer", "reasoning": None, "parsed": None, "truncated": False}
            fields: dict[str, Json] = {"id": item.id, "prompt_id": item.prompt_id, "index": item.index}
            fields |= {"model": item.model, "prompt": item.prompt, "system": None, "vars": item.vars}
            yield {**fields, "params": item.params, "output": output, "key": item.key}, None

    def has_scores(self) -> bool:
        """None of these matter."""
        return True

    def unreadable(self) -> list[int]:
        """None."""
        return []


async def judge_mistakes(job: Job, items: JobItems | None) -> tuple[Mistake, ...]:
    """What is wrong with the judges of a job: their files, and their templates as far as its first items show it.

    `items` is None where there are none yet.
    """
    try:
        judges = await asyncio.to_thread(judges_of, job)
    except JobMistakesError as error:
        return error.mistakes
    first: list[Item] = []
    if judges and items is not None:
        async for batch in items.batches():
            first += batch[: _SAMPLE - len(first)]
            if len(first) >= _SAMPLE:
                break
    found: list[Mistake] = []
    for judge in judges:
        for model in pair_of(judge.check) or ():
            if model not in job.models:
                expected = f"two of its models: {', '.join(job.models)}"
                problem = f"`{printable(model)}` is not a model of the job"
                found.append(Mistake(file=job.file, key="checks: judge.pair", problem=problem, expected=expected))
        templates, broken = templates_of(judge.job)
        found += broken
        if not broken and pair_of(judge.check) is None and templates.needs().keys().isdisjoint(_UNKNOWN_YET):
            tried = await items_of(judge.job, _Answers(first)).mistakes()
            found += [one for one in tried if one.hint != EMPTY_JOB]  # the judge may be asked about later ones only
    return tuple(found)


# -- the plan


async def judge_plans(job: Job, found: Plan, *, plan: Callable[[Job], Awaitable[Plan]]) -> tuple[JudgePlan, ...]:
    """What the judges of a job would be asked, given the plan for its own items; `plan` makes one of another job.

    Raises:
        JobMistakesError: mistakes in the judges' files.
    """
    judges = await asyncio.to_thread(judges_of, job)
    here = await asyncio.to_thread(read_run_file, Path(job.output.dir))
    now = [await if_any_rows(plan(judge.job)) if here is not None else None for judge in judges]
    return tuple(_judge_plan(judge, found, each) for judge, each in zip(judges, now, strict=True))


def _judge_plan(judge: Judge, found: Plan, now: Plan | None) -> JudgePlan:
    job, answer_tokens = judge.job, found.answers.per_answer if found.answers is not None else 0.0
    per_answer = len(job.first_models) * job.replicas * prod(len(values) for values in job.matrix.values())
    later = (found.to_send + found.to_poll) * per_answer
    if now is not None and now.to_send:
        chars_each = 4 * now.estimated_input_tokens / now.to_send
    else:
        assert isinstance(job.prompts, Source), "see `judges_in`"
        texts = (job.prompts.template, job.system, *(turn.content for turn in job.messages))
        chars_each = sum(len(text or "") for text in texts) + 4 * answer_tokens
    to_send = now.to_send if now is not None else 0
    limit = output_limit(job.params)
    ahead = {}
    for place, model in enumerate(job.first_models):
        calls = (to_send + later) // len(job.first_models)
        calls += place < (to_send + later) % len(job.first_models)
        ahead[model] = ToSend(
            calls=calls,
            chars=round(calls * chars_each),
            turns=calls,
            answers=calls,
            most_output_tokens=calls * (limit or 0),
            unlimited=calls if limit is None else 0,
        )
    chars = sum(of_model.chars for of_model in ahead.values())
    return JudgePlan(
        name=judge.check.name,
        dir=job.output.dir,
        to_send=to_send,
        later=later,
        estimated_input_tokens=estimate_tokens(chars) if chars else 0,
        cost=cost_plan(job, ahead),
    )


# -- verdicts


def verdicts_of(folder: Path, checks: Sequence[Check], *, base: PurePath) -> "dict[str, Verdicts]":
    """What the judges among the checks of a run say, by the check's name. Blocks, and not on a loop's thread.

    Raises:
        JobMistakesError: with the mistakes of the judges' files.
        WrongDirectoryError, StoreBrokenError: the run, or rows of a judge, cannot be read.
    """
    if not any(check.kind == "judge" for check in checks):
        return {}
    run = read_run_file(folder)
    name, simulated = (run.job_name, run.simulated) if run is not None else ("", False)
    judges = judges_in(folder, checks, base=base, name=name, simulated=simulated)
    return {judge.check.name: Verdicts(judge) for judge in judges}


class Verdicts:
    """What a judge says of each answer of its run, from the judge's own rows. Sends nothing."""

    def __init__(self, judge: Judge) -> None:
        """Read them. Blocks, and not on a loop's thread.

        Raises:
            StoreBrokenError: rows cannot be read.
        """
        self._least = float(str(judge.check.options.get("at_least", 1)))
        self._pair = pair_of(judge.check)
        self._rows = judge.rows
        self._asked: dict[str, list[bytes]] = {}
        self._broken: str | None = None
        folder = Path(judge.job.output.dir)
        said = _score_in if self._pair is None else _winner_in
        self._scores = {_key_of(row): said(row) for row in iter_results(folder)}
        self._failed = {_key_of(row): _failure_in(row) for row in iter_failures(folder)}
        try:
            asyncio.run(if_any_rows(self._read(judge)))
        except JobMistakesError as error:
            self._broken = f"the judge's prompts cannot be made: {error.mistakes[0]}"

    async def _read(self, judge: Judge) -> None:
        async for batch in items_of(judge.job, self._rows).batches():
            for item in batch:
                self._asked.setdefault(str((item.origin or {}).get("id")), []).append(bytes.fromhex(item.key))

    def of(self, row: Mapping[str, Json]) -> Score:
        """The verdict on an answer: the mean of the scores that it was given, and the reason of the lowest."""
        if self._broken is not None:
            return Score(verdict="error", reason=self._broken)
        if self._pair is not None and isinstance(self._rows, PairRows):
            return self._of_pair(row, self._pair, self._rows)
        keys = self._asked.get(str(row.get("id")))
        if keys is None:
            return Score(verdict="none", reason="the judge is not asked about this answer")
        given = list[tuple[float, str | None]]()
        for key in keys:
            score = self._scores.get(key)
            if score is None:
                return Score(verdict="error", reason=self._failed.get(key, NOT_ANSWERED_YET))
            if isinstance(score, str):
                return Score(verdict="error", reason=score)
            given.append(score)
        value = sum(score for score, _ in given) / len(given)
        reason = min(given, key=lambda one: one[0])[1]
        verdict: Verdict = "pass" if value >= self._least else "fail"
        return Score(verdict=verdict, value=round(value, 6), expected=self._least, reason=reason)

    def _of_pair(self, row: Mapping[str, Json], pair: tuple[str, str], rows: PairRows) -> Score:
        """A win or a loss, where it is the same in both orders; else a tie, which is no verdict."""
        model = str(row.get("model"))
        orders = [self._asked.get(rows.id_of(row, order)) for order in ORDERS]
        if model not in pair or not all(orders):
            return Score(verdict="none", reason="the judge is not asked about this answer")
        found = list[tuple[float, str | None]]()
        for order, keys in zip(ORDERS, orders, strict=True):
            for key in keys or ():
                score = self._scores.get(key)
                if score is None:
                    return Score(verdict="error", reason=self._failed.get(key, NOT_ANSWERED_YET))
                if isinstance(score, str):
                    return Score(verdict="error", reason=score)
                is_turned = (order == ORDERS[1]) != (model == pair[1])  # the answer was shown second
                found.append((1 - score[0] if is_turned else score[0], score[1]))
        values = {value for value, _ in found}
        if values in ({1.0}, {0.0}):
            return Score(verdict="pass" if values == {1.0} else "fail", value=found[0][0], reason=found[0][1])
        turned = "the choice changed with the order" if {0.0, 1.0} <= values else "the judge sees no difference"
        return Score(verdict="none", value=0.5, reason=f"tie: {turned}")

    def note(self) -> str | None:
        """Of pairs: how often the choice depended on the order, the judge's position bias."""
        if self._pair is None:
            return None
        both = swapped = first = choices = 0
        for name, keys in self._asked.items():
            prompt, _, order = name.rpartition("~")
            others = self._asked.get(f"{prompt}~{ORDERS[1]}") if order == ORDERS[0] else None
            for one, other in zip(keys, others or (), strict=False):
                values = self._scores.get(one), self._scores.get(other)
                if isinstance(values[0], tuple) and isinstance(values[1], tuple):
                    both += 1
                    swapped += values[0][0] != 1 - values[1][0]
                    chosen = [value[0] for value in values if isinstance(value, tuple) and value[0] != _TIE]
                    first, choices = first + chosen.count(1.0), choices + len(chosen)
        if not both:
            return None
        share = f"; it chose what was shown first in {first / choices:.1%} of its choices" if choices else ""
        often = f"in {swapped:,} of {both:,} pairs ({swapped / both:.1%})"
        return f"position bias: the choice changed with the order {often}{share}"


_TIE: Final = 0.5


def _winner_in(row: Mapping[str, Json]) -> tuple[float, str | None] | str:
    """1 where the answer that was shown first is better, 0 where it is the second, 0.5 for a tie; words for none."""
    output = row.get("output")
    parsed = output.get("parsed") if isinstance(output, dict) else None
    if not isinstance(parsed, dict):
        return "the judge's answer is not JSON of its schema"
    value = {"first": 1.0, "second": 0.0, "tie": _TIE}.get(str(parsed.get("winner")))
    if value is None:
        return f"the judge's winner is {json.dumps(parsed.get('winner'))[:_SHOWN_CHARS]}, not first, second or tie"
    reason = parsed.get("reason")
    return value, str(reason)[:_REASON_CHARS] if reason is not None else None


def _key_of(row: Mapping[str, Json]) -> bytes:
    try:
        return bytes.fromhex(str(row.get("key")))
    except ValueError:  # edited by hand
        return b""


def _score_in(row: Mapping[str, Json]) -> tuple[float, str | None] | str:
    """The score and reason of a judge's row; words where it has none."""
    output = row.get("output")
    parsed = output.get("parsed") if isinstance(output, dict) else None
    if not isinstance(parsed, dict):
        return "the judge's answer is not JSON of its schema"
    score, reason = parsed.get("score"), parsed.get("reason")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1 or not isfinite(score):
        return f"the judge's score is {json.dumps(score)[:_SHOWN_CHARS]}, not a number from 0 to 1"
    return float(score), str(reason)[:_REASON_CHARS] if reason is not None else None


def _failure_in(row: Mapping[str, Json]) -> str:
    error = row.get("error")
    said = f"{error.get('class')}: {error.get('message')}" if isinstance(error, dict) else "it failed"
    return f"the judge did not answer: {said}"[:_REASON_CHARS]
