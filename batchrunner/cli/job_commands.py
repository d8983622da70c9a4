"""The commands that take a job file and send nothing: `check` and `plan`."""

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import batchrunner
from batchrunner.cli.options import (
    AsJson,
    JobFile,
    JobFiles,
    Limit,
    Mark,
    Marks,
    Only,
    Out,
    Overrides,
    RowsFrom,
    ShardOf,
    Simulate,
    States,
    TypedPart,
    Where,
    part_options,
)
from batchrunner.cli.output import StatusLine, emit, fitted, print_message, print_mistakes
from batchrunner.core.budget import figure
from batchrunner.core.errors import CheckResult, ExitStatus, JobMistakesError, Mistake
from batchrunner.core.job import Job
from batchrunner.core.values import dataclass
from batchrunner.report.wording import count, duration, instant, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What `--json` shows of a job without errors."""

    file: str
    job: str
    items: int
    notes: tuple[str, ...]
    skipped_rows: int = 0
    skipped: tuple[Mistake, ...] = ()
    waits_for: str | None = None


def check(*, jobs: JobFiles, overrides: Overrides = None, as_json: AsJson = False) -> ExitStatus:
    r"""Check job files and prompts; print all errors.

    \b
    Nothing is sent. Each error names the file, line and key, and what was expected:
      batchrunner check jobs/cats.yaml
      batchrunner check jobs/*.yaml --json
    """
    fine: list[Checked] = []
    mistakes: list[Mistake] = []
    loaded: list[Job] = []
    for file in jobs:
        try:
            loaded.append(batchrunner.load_job(file, overrides=tuple(overrides or ())))
        except JobMistakesError as error:
            from batchrunner.prompts.job_items import every_mistake  # noqa: PLC0415 - Jinja2, only when it is called

            mistakes.extend(asyncio.run(every_mistake(error)))
    mistakes.extend(_mistakes_between(loaded))
    for job in loaded:
        before = [other for other in loaded if other is not job]
        try:
            with StatusLine() as line:
                found = asyncio.run(batchrunner.check(job, progress=_reading(line, job.file), before=before))
        except JobMistakesError as error:
            mistakes.extend(error.mistakes)
            continue
        mistakes.extend(found.mistakes)
        if not found.mistakes:
            fine.append(_checked(job, found))
    for checked in fine:
        _print_result(checked)
    if mistakes:
        return print_mistakes(tuple(mistakes), as_json=as_json)
    if as_json:
        emit({"mistakes": (), "jobs": fine})
    return ExitStatus.DONE


def _reading(line: StatusLine, file: str) -> Callable[[int], None]:
    """Shows how many items a long pass over the prompts has read, and says while a source does not come."""
    from batchrunner.prompts.sources.opening import waiting_voice  # noqa: PLC0415 - with the rest of `prompts`

    waiting_voice.set(print_message)
    return lambda items: line.show(f"{file}: {items:,} items read so far")


def _mistakes_between(jobs: list[Job]) -> tuple[Mistake, ...]:
    """What `run` with all of these jobs would refuse."""
    if len(jobs) == 1:
        return ()
    from batchrunner.cli.run_jobs import mistakes_between  # noqa: PLC0415 - what a run needs, for several jobs only

    return mistakes_between(jobs)


def _checked(job: Job, result: CheckResult) -> Checked:
    from batchrunner.spec.schema import stale_schema  # noqa: PLC0415 - with the rest of `spec`, for checks only

    stale = stale_schema(job.file)
    return Checked(
        file=job.file,
        job=job.name,
        items=result.items,
        notes=(*result.notes, *([stale] if stale is not None else [])),
        skipped_rows=result.skipped_rows,
        skipped=result.skipped,
        waits_for=result.waits_for,
    )


def _print_result(checked: Checked) -> None:
    if checked.waits_for is None:
        print_message(f"{checked.file}: no errors, {count(checked.items, 'item')}")
    else:
        print_message(
            f"{checked.file}: no errors so far; its rows are those of {checked.waits_for}, which has no run yet: "
            "check it again after that run to check what depends on them"
        )
    for note in checked.notes:
        print_message(f"  note: {note}")


# `batchrunner plan JOB`: what a run would do now. Sends nothing; shows estimates as estimates.

if TYPE_CHECKING:
    from batchrunner.core.plan import JudgePlan, Plan
    from batchrunner.core.plan_costs import BatchCost, CostPlan, FallbackPlan

_WIDTH = 22


def plan(
    *,
    job: JobFile,
    limit: Limit = None,
    only: Only = None,
    states: States = None,
    where: Where = None,
    rows_from: RowsFrom = None,
    marks: Marks = None,
    mark: Mark = None,
    shard: ShardOf = None,
    out: Out = None,
    overrides: Overrides = None,
    simulate: Simulate = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Show what a run would send and may cost.

    \b
    Sends nothing. Counts what is done already, so it also shows what a changed job file
    would resend:
      batchrunner plan jobs/cats.yaml
      batchrunner plan jobs/cats.yaml --set limits.requests_per_day=200
      batchrunner plan again.yaml --where "{{ not pass }}" --from outputs/first
    """
    typed = TypedPart(only=only, states=states, where=where, rows_from=rows_from, marks=marks, mark=mark)
    part = part_options(typed)
    loaded = batchrunner.load_job(job, overrides=tuple(overrides or ()), simulate=simulate, out=out, shard=shard)
    with StatusLine() as line:
        found = asyncio.run(batchrunner.plan(loaded, part=part, limit=limit, progress=_reading(line, job)))
    if as_json:
        emit(found)
    else:
        print_message(fitted("\n".join(table(found))))
    return ExitStatus.DONE


def table(found: "Plan") -> Iterator[str]:
    """The plan as lines of text; values that are zero or unknown are left out where they add nothing."""
    yield f"{found.job} in {found.dir}"
    for label, value in _rows(found):
        yield f"  {label:<{_WIDTH}} {value}"
    for note in found.notes:
        yield f"  note: {note}"


def _rows(found: "Plan") -> Iterator[tuple[str, str]]:
    from batchrunner.report.summary import items_line  # noqa: PLC0415 - the words of runs, which `check` has no use for

    for place, upstream in enumerate(found.upstream):
        figures = [f"{upstream.done:,} done"]
        figures += [
            f"{number:,} {what}" for number, what in ((upstream.left, "left"), (upstream.failed, "failed")) if number
        ]
        stands = "gone" if upstream.state == "gone" else ", ".join(figures)
        yield "" if place else "reads", f"{'which was made of ' if place else ''}{printable(upstream.dir)}: {stands}"
    yield "items", items_line(found.items)
    most = f" (at most {found.max_calls:,} if every retry{' and fallback' * bool(found.fallbacks)} is used)"
    most *= bool(found.to_send)
    yield "requests to send", f"{found.to_send:,}{most}"
    yield from _counted(found)
    if found.to_send:
        yield "input tokens", f"about {found.estimated_input_tokens:,} (prompt characters / 4;"
        yield "", "pictures, tools, schemas and retries are not counted)"
    if answers := found.answers:
        basis = "; ".join(
            _BASES[basis].format(mean=answers.per_answer, key=answers.limit_key) for basis in answers.basis
        )
        yield "output tokens", f"about {answers.tokens:,} ({basis})"
    if disk := found.disk:
        free = f"; {_bytes_words(disk.free_bytes)} free" if disk.free_bytes is not None else ""
        if disk.needed_bytes is None:
            yield "disk space", f"unknown until a first file is there{free}"
        else:
            yield "disk space", f"about {_bytes_words(disk.needed_bytes)}, from {disk.measured:,} files so far{free}"
    yield from _price(found)
    for fallback in found.fallbacks:
        yield from _fallback_rows(fallback)
    for judge in found.judges:
        yield from _judge_rows(judge)
    if ends := found.forecast:
        days = f", sending on {ends.quota_days} days" if ends.quota_days > 1 else ""
        yield "would finish", f"about {instant(ends.at)}, {duration(ends.seconds)} from now{days}"
        yield "", "estimate; run `batchrunner rehearse` for a simulation"


def _bytes_words(size_bytes: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.1f} {name}"
    return f"{size_bytes / 1e3:,.0f} kB"


def _price(found: "Plan") -> Iterator[tuple[str, str]]:
    from batchrunner.report.summary import balance_line, budget_line  # noqa: PLC0415 - as above

    if points := found.points:
        a_day = f"; at most {figure(points.per_day)} can be claimed per day" if points.per_day is not None else ""
        yield "points needed", f"about {figure(points.needed)}{a_day}"
        if points.assumed:
            yield "", "assumed; set provider.points_per_call and provider.points_per_day"
        yield "", "Log in daily to claim points; they expire"
    if cost := found.cost:
        key = found.answers.limit_key if found.answers else "max_tokens"
        most = f", at most {figure(cost.most)}" if cost.most is not None else f", no upper bound: {key} is not set"
        answers = f", about {figure(cost.expected)} with answers" if cost.expected is not None else ""
        yield "cost", f"{printable(cost.currency)} {figure(cost.least)} for input{answers}{most}"
        if cost.batch is not None:
            yield from _batch_rows(cost, cost.batch)
        if cost.source is not None:
            yield "", f"by the prices of {printable(cost.source)}"
    for line in found.budget:
        yield "budget used", budget_line(line)
    for balance in found.balances:
        yield "balance", balance_line(balance)


def _batch_rows(cost: "CostPlan", batch: "BatchCost") -> Iterator[tuple[str, str]]:
    currency = printable(cost.currency)
    if batch.used:
        most = f", at most {figure(batch.most)}" if batch.most is not None else ""
        answers = f", about {figure(batch.expected)} with answers" if batch.expected is not None else ""
        yield "cost in batches", f"{currency} {figure(batch.least)} for input{answers}{most}"
        return
    expected = batch.least if batch.expected is None else batch.expected
    saved = (cost.least if cost.expected is None else cost.expected) - expected
    yield "cost in batches", f"about {currency} {figure(expected)}, {figure(saved)} less: `batch: {{use: auto}}`"


def _fallback_rows(fallback: "FallbackPlan") -> Iterator[tuple[str, str]]:
    on = ", ".join(fallback.on)
    yield "fallback", f"{printable(fallback.model)} on {on}; at most {count(fallback.at_most, 'request')} more"
    if later := [reason for reason in fallback.on if reason in {"overloaded", "quota"}]:
        yield "", f"{' and '.join(later)} after {duration(fallback.after_s)}"
    if cost := fallback.cost:
        most = f", at most {figure(cost.most)}" if cost.most is not None else ", no upper bound: max_tokens is not set"
        answers = f", about {figure(cost.expected)} with answers" if cost.expected is not None else ""
        yield "", f"for all of them {printable(cost.currency)} {figure(cost.least)} for input{answers}{most}"


def _judge_rows(judge: "JudgePlan") -> Iterator[tuple[str, str]]:
    later = f", then at most {judge.later:,} about answers that are still to come" if judge.later else ""
    yield f"judge {printable(judge.name)}"[:_WIDTH], f"{count(judge.to_send, 'request')} to send{later}"
    if judge.to_send or judge.later:
        yield "", f"about {judge.estimated_input_tokens:,} input tokens"
    if cost := judge.cost:
        most = f", at most {figure(cost.most)}" if cost.most is not None else ", no upper bound: max_tokens is not set"
        yield "", f"{printable(cost.currency)} {figure(cost.least)} for input{most}"


_BASES: dict[str, str] = {
    "measured": "{mean:,.0f} each, the average of this job's answers so far",
    "max_tokens": "{mean:,.0f} each, the limit set by {key}",
    "guess": "{mean:,.0f} each, a guess: no answers yet and {key} is not set",
}
"""Text for each `AnswersPlan.basis`."""
_COUNTED: tuple[tuple[str, str, str, str], ...] = (
    ("to_poll", "remote tasks", "task", "to poll"),
    ("reused", "reused answers", "answer", "of other runs; nothing is sent for them"),
    ("identical", "identical items", "item", "that need no request of their own"),
    ("superseded", "superseded", "row", "that the job no longer asks for; superseded.jsonl keeps them"),
    ("skipped_rows", "bad rows", "row", "skipped"),
)
"""Fields of `Plan` that are shown when they are not zero."""


def _counted(found: "Plan") -> Iterator[tuple[str, str]]:
    for field, label, unit, what in _COUNTED:
        if number := getattr(found, field):
            yield label, f"{count(number, unit)} {what}"
