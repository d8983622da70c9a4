"""`batchrunner plan JOB`: what a run would do now. Sends nothing; shows estimates as estimates."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import batchrunner
from batchrunner.cli.options import AsJson, JobFile, Out, Overrides, Simulate
from batchrunner.cli.output import emit, reading, say
from batchrunner.core.budget import figure
from batchrunner.core.errors import ExitStatus
from batchrunner.report.summary import balance_line, budget_line, items_line
from batchrunner.report.wording import duration, instant, printable

if TYPE_CHECKING:
    from batchrunner.core.plan import Plan

_WIDTH = 22


def plan(
    *,
    job: JobFile,
    out: Out = None,
    overrides: Overrides = None,
    simulate: Simulate = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Say what a run would do now, and what it may cost. Sends nothing.

    \b
    Also says what is done already, so it shows what a changed job file would send again:
      batchrunner plan jobs/cats.yaml
      batchrunner plan jobs/cats.yaml --set limits.requests_per_day=200
    """
    loaded = batchrunner.load_job(job, overrides=tuple(overrides or ()), simulate=simulate, out=out)
    found = asyncio.run(batchrunner.plan(loaded, progress=None if as_json else reading(job)))
    if as_json:
        emit(found)
    else:
        say("\n".join(table(found)))
    return ExitStatus.DONE


def table(found: "Plan") -> Iterator[str]:
    """The plan's lines for people; what is zero or unknown is left out where it says nothing."""
    yield f"{found.job} in {found.dir}"
    for label, value in _rows(found):
        yield f"  {label:<{_WIDTH}} {value}"
    for note in found.notes:
        yield f"  note: {note}"


def _rows(found: "Plan") -> Iterator[tuple[str, str]]:
    yield "items", items_line(found.items)
    yield "requests to send", f"{found.to_send:,}, at most {found.max_calls:,} if every attempt were used"
    yield from _counted(found)
    yield "tokens to send", f"about {found.estimated_input_tokens:,}: a quarter of the prompts' characters"
    yield "", "without pictures, tools, a schema, and requests that are sent again"
    if answers := found.answers:
        basis = ", ".join(_BASES[basis].format(mean=answers.per_answer) for basis in answers.basis)
        yield "tokens of answers", f"about {answers.tokens:,}: {basis}"
    yield from _price(found)
    if ends := found.forecast:
        days = f", calls on {ends.quota_days} days" if ends.quota_days > 1 else ""
        yield "would end", f"about {instant(ends.at)}, {duration(ends.seconds)} from now{days}"
        yield "", "a rule of thumb; batchrunner rehearse plays it through"


def _price(found: "Plan") -> Iterator[tuple[str, str]]:
    if points := found.points:
        a_day = f", {figure(points.per_day)} a day can be had" if points.per_day is not None else ""
        yield "points to spend", f"about {figure(points.needed)}{a_day}"
        if points.assumed:
            yield "", "assumed; see provider.points_per_call and provider.points_per_day"
        yield "", "points do not come by themselves: they are claimed by logging in, and expire"
    if cost := found.cost:
        most = f", at most {figure(cost.most)}" if cost.most is not None else ", no upper end: max_tokens is not set"
        answers = f", about {figure(cost.expected)} with the answers" if cost.expected is not None else ""
        yield "cost", f"{printable(cost.currency)} {figure(cost.least)} for what is sent{answers}{most}"
    for line in found.budget:
        yield "budget used", budget_line(line)
    for balance in found.balances:
        yield "balance", balance_line(balance)


_BASES: dict[str, str] = {
    "measured": "as many as this job's answers took so far, {mean:,.0f} each",
    "max_tokens": "the longest that max_tokens allows, {mean:,.0f} each",
    "guess": "a guess of {mean:,.0f} each, no answer has come yet and max_tokens is not set",
}
"""What `AnswersPlan.basis` means to people."""
_COUNTED: tuple[tuple[str, str], ...] = (
    ("to_poll", "tasks to follow"),
    ("identical", "identical items, free"),
    ("superseded", "rows to set aside"),
    ("skipped_rows", "bad rows left out"),
)
"""Fields of `Plan` that are shown when they are not zero."""


def _counted(found: "Plan") -> Iterator[tuple[str, str]]:
    for field, label in _COUNTED:
        if number := getattr(found, field):
            yield label, f"{number:,}"
