"""`batchrunner rehearse JOB`: run the job against a simulated provider in virtual time and print how it would go.

The command itself exits with 0 whenever the simulation worked; the exit status of the simulated run is printed and in
`exit_status`.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.options import AsJson, JobFile, Limit, Out, Overrides
from batchrunner.cli.output import StatusLine, emit, fitted, print_message
from batchrunner.core.errors import ExitStatus
from batchrunner.core.rehearsal_report import Moment, MomentKind, Rehearsal, RehearsalOptions, Span
from batchrunner.report.summary import STATES, budget_line, items_line, usage_line
from batchrunner.report.wording import count, duration, instant, printable

_WIDTH = 22
_MOST_WORDS = 240
_MOST_GROUPS = 10

Profile = Annotated[
    str,
    typer.Option(
        metavar="NAME=FIGURE,...", help="The provider's delays and limits, or a YAML file with them (names below)."
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same prediction.")]
FromScratch = Annotated[bool, typer.Option("--from-scratch", help="Simulate the whole job, not only what is left.")]
Timeline = Annotated[bool, typer.Option("--timeline", help="Show what would happen hour by hour.")]


def rehearse(
    *,
    job: JobFile,
    profile: Profile = "",
    seed: Seed = 0,
    limit: Limit = None,
    from_scratch: FromScratch = False,
    timeline: Timeline = False,
    out: Out = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Simulate the run and predict when it ends.

    \b
    Also predicts what it uses and what stops it. Sends and writes nothing. The real
    engine processes what is left of the job against a simulated provider in virtual time.
    The provider's delays and limits are guesses: set what you know with --profile.
      batchrunner rehearse jobs/cats.yaml
      batchrunner rehearse jobs/cats.yaml --timeline
      batchrunner rehearse jobs/cats.yaml --profile "task=15,rpm=60,concurrent=1,per_day=200"
      batchrunner rehearse jobs/cats.yaml --profile "faults=throttle=0.02+5xx=0.01" --seed 7
    \b
    Names: first, chunk, task, poll, download, refusal (seconds each; an answer has about ten
    chunks), spread (0 to 1), rpm, burst, concurrent, hint (yes: 429s say when to retry),
    schedule (SECONDS:FACTOR+…), per_day (of a model), account_per_day, tokens (of an answer),
    faults (as in `simulate --list`, joined by +). `none` removes a limit.
    """
    loaded = batchrunner.load_job(job, overrides=tuple(overrides or ()), out=out)
    with StatusLine() as line:

        def progress(ended: int, items: int, seconds: float) -> None:
            line.show(f"simulated {duration(seconds)} so far: {ended:,} of {items:,} items have ended")

        options = RehearsalOptions(
            profile=profile, seed=seed, limit=limit, from_scratch=from_scratch, progress_with_time=progress
        )
        rehearsal = batchrunner.rehearse(loaded, **options)
    if as_json:
        emit(rehearsal)
        return ExitStatus.DONE
    lines = [*(_timeline(rehearsal) if timeline else ()), *_table(rehearsal)]
    print_message(fitted("\n".join(lines)))
    return ExitStatus.DONE


def _table(rehearsal: Rehearsal) -> Iterator[str]:
    yield f"{printable(rehearsal.job)}: simulated in virtual time, nothing was sent"
    for label, value in _rows(rehearsal):
        yield f"  {label:<{_WIDTH}} {value}"
    for note in rehearsal.notes:
        yield f"  note: {printable(note)}"


def _rows(rehearsal: Rehearsal) -> Iterator[tuple[str, str]]:
    yield "would finish", f"{instant(rehearsal.ends)}, {duration(rehearsal.seconds)} from now"
    yield "outcome", f"{STATES[rehearsal.state]} (exit status {int(rehearsal.exit_status)})"
    if rehearsal.message:
        yield "reason", printable(rehearsal.message, most=_MOST_WORDS)
    yield "items", items_line(rehearsal.items)
    yield (
        "requests",
        f"{rehearsal.calls:,}" + (f", {rehearsal.refused:,} rejected (not billed)" if rehearsal.refused else ""),
    )
    yield from _counted(rehearsal)
    if used := usage_line(rehearsal.usage):
        yield "usage", used
    for line in rehearsal.budget:
        yield "budget used", budget_line(line)
    for group in rehearsal.failures[:_MOST_GROUPS]:
        yield "would fail", f"{group.count:,} × {group.kind}: {printable(group.message, most=_MOST_WORDS)}"
    yield "assumed provider", printable(rehearsal.profile)


_COUNTED: tuple[tuple[str, str], ...] = (
    ("retried", "retries"),
    ("polls", "polls"),
    ("quota_days", "days with requests"),
    ("peak_concurrency", "max requests at once"),
    ("peak_tasks", "max tasks at once"),
)
"""Fields of `Rehearsal` that are shown when they are not zero."""


def _counted(rehearsal: Rehearsal) -> Iterator[tuple[str, str]]:
    for field, label in _COUNTED:
        if number := getattr(rehearsal, field):
            yield label, f"{number:,}"
    if rehearsal.parked_seconds >= 1.0:
        yield "time spent waiting", duration(rehearsal.parked_seconds)
    if rehearsal.starts > 1:
        yield "to be started", count(rehearsal.starts, "time")


# -- hour by hour


def _timeline(rehearsal: Rehearsal) -> Iterator[str]:
    """Days, their hours, and what happened in between, in the order of time."""
    done = rehearsal.items.done - sum(hour.done for hour in rehearsal.hours)
    entries: list[Span | Moment] = [*rehearsal.hours, *rehearsal.moments]
    entries.sort(key=lambda entry: _hour_of(_when(entry)))  # a stable sort: an hour's sum, then what happened in it
    spans = {day.began[:10]: day for day in rehearsal.days}
    for date, of_day in groupby(entries, key=lambda entry: _when(entry)[:10]):
        day = spans.get(date)
        yield f"{date}  {_span_words(day)}" if day is not None else date
        for entry in of_day:
            match entry:
                case Span():
                    done += entry.done
                    yield f"  {entry.began[11:16]}  {_span_words(entry)}; {done:,} of {rehearsal.items.total:,}"
                case Moment():
                    yield f"  {entry.at[11:16]}  {_moment_words(entry)}"


def _when(entry: Span | Moment) -> str:
    return entry.began if isinstance(entry, Span) else entry.at


def _hour_of(at: str) -> datetime:
    return datetime.fromisoformat(at).replace(minute=0, second=0)


def _span_words(span: Span) -> str:
    parts = [f"{span.done:,} done", count(span.calls, "request")]
    parts += [f"{span.refused:,} rejected"] if span.refused else []
    parts += [f"{span.failed:,} failed"] if span.failed else []
    return ", ".join(parts)


_HAPPENED: dict[MomentKind, str] = {
    "begins": "begins",
    "parked": "waits",
    "resumed": "resumes",
    "pauses": "pauses until you run it again",
    "ends": "ends",
}


def _moment_words(moment: Moment) -> str:
    lane = " · ".join(printable(part) for part in (moment.account, moment.model) if part)
    words = f"{lane} {_HAPPENED[moment.kind]}" if lane else _HAPPENED[moment.kind]
    why = f": {printable(moment.words, most=_MOST_WORDS)}" if moment.words else ""
    until = f" until {instant(moment.until)}" if moment.until else ""
    return f"{words}{until}{why}"
