"""One job or several of one command: one after the other or all at once, and the one exit status of them all.

Starts nothing if one of several jobs has an error, or if two of them would write to one directory.
"""

import asyncio
import os.path
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypedDict

import batchrunner
from batchrunner.cli.output import print_message, print_stamped
from batchrunner.cli.progress import Follower, Mode, Progress, display
from batchrunner.core.errors import BatchrunnerError, ExitStatus, JobMistakesError, Mistake
from batchrunner.core.job import Job, Source
from batchrunner.core.part import WHOLE, PartOptions
from batchrunner.core.status import Report
from batchrunner.core.values import dataclass, field

if TYPE_CHECKING:
    from batchrunner.running import RunOptions
    from batchrunner.transport.telemetry import Telemetry

PRECEDENCE: tuple[ExitStatus, ...] = (
    ExitStatus.INTERRUPTED,
    ExitStatus.TERMINATED,
    ExitStatus.STOPPED,
    ExitStatus.REFUSED,
    ExitStatus.PAUSED,
    ExitStatus.FAILED,
    ExitStatus.MISTAKE,
    ExitStatus.DONE,
)
"""Of several jobs, the exit status that comes first here is the one of the command."""

_ENDS_ALL = frozenset({ExitStatus.INTERRUPTED, ExitStatus.TERMINATED})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags:
    """Options of the command, which hold for all of its jobs."""

    limit: int | None
    part: PartOptions = WHOLE
    retry_failed: bool
    resend_held: bool
    resend_lost: bool = False
    adopt_rows: bool = False
    reformat: bool = False
    judges: bool = True
    progress: Mode = "auto"
    followers: tuple[Follower, ...] = ()
    coordinator: str | None = None
    """Where the shards come from that this process works on."""
    telemetry: "Telemetry | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """A job to run, and the command that goes on with it alone: from here, and from any other folder."""

    job: Job
    command: str
    elsewhere: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A job's run came to an end of its own, good or bad."""

    job_run: JobRun
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashedRun:
    """A job could not be run, or this machine stopped it."""

    job_run: JobRun
    error: BatchrunnerError


Ended = FinishedRun | CrashedRun


def exit_status(ended: Ended) -> ExitStatus:
    """What this job alone would end the command with."""
    match ended:
        case FinishedRun():
            return ended.report.exit_status
        case CrashedRun():
            return ended.error.exit_status


def worst(statuses: Iterable[ExitStatus]) -> ExitStatus:
    """The one exit status of several jobs; DONE for none."""
    return min(statuses, key=PRECEDENCE.index, default=ExitStatus.DONE)


def run_one(job_run: JobRun, asked: RunFlags) -> Report:
    """Run a single job.

    Raises:
        BatchrunnerError: errors in its prompts, a held lock, a broken disk.
    """
    with _end_event(job_run, asked) as ending:
        options = _options(job_run, asked, _progress(asked))
        if asked.coordinator is None:
            ending.report = batchrunner.run_sync(job_run.job, **options)
        else:
            from batchrunner.api import on_a_fast_loop  # noqa: PLC0415 - as in `run_all`
            from batchrunner.working import work  # noqa: PLC0415 - for workers only

            ending.report = on_a_fast_loop(work(job_run.job, options, coordinator=asked.coordinator))
    return ending.report


def run_on_ray(job_run: JobRun, asked: RunFlags, *, address: str, workers: int, shaped: "Shaped") -> Report:
    """Run a job with workers on Ray, then join its shards. Raises as `batchrunner.ray.run`."""
    from batchrunner.ray import run  # noqa: PLC0415 - when it is asked for

    with _end_event(job_run, asked) as ending:
        options = _options(job_run, asked, _progress(asked))
        ending.report = run(job_run.job.file, workers=workers, address=address, **shaped, **options)
    return ending.report


class Shaped(TypedDict):
    """What makes a job of its file: options of `load_job`."""

    overrides: tuple[str, ...]
    simulate: bool
    out: str | None


def run_all(job_runs: tuple[JobRun, ...], asked: RunFlags, *, at_once: bool) -> tuple[Ended, ...]:
    """Run several jobs; those that did not start because of an interruption are printed and are not in the result.

    Raises:
        JobMistakesError: a job's prompts have errors, or two jobs share a directory; nothing was started.
    """
    from batchrunner.api import on_a_fast_loop  # noqa: PLC0415 - it loads most of the program: only when it is called

    sources = _sources(job_runs)
    mistakes = (*_shared_folders(job_runs), *asyncio.run(_prompt_mistakes(job_runs, sources)))
    if mistakes:
        raise JobMistakesError(mistakes)
    in_turn = _sources_first(job_runs, sources)
    return on_a_fast_loop(_together(in_turn, sources, asked)) if at_once else tuple(_in_turn(in_turn, asked))


def mistakes_between(jobs: Iterable[Job]) -> tuple[Mistake, ...]:
    """What keeps these jobs from running together: a shared directory, or runs that are made of each other."""
    job_runs = tuple(JobRun(job=job, command="", elsewhere="") for job in jobs)
    try:
        _sources_first(job_runs, _sources(job_runs))
    except JobMistakesError as error:
        return (*_shared_folders(job_runs), *error.mistakes)
    return tuple(_shared_folders(job_runs))


def _sources(job_runs: tuple[JobRun, ...]) -> dict[str, JobRun]:
    """By job file, for each of these jobs that reads the run of another one: that other one."""
    folders = {os.path.realpath(job_run.job.output.dir): job_run for job_run in job_runs}
    found: dict[str, JobRun] = {}
    for job_run in job_runs:
        source = job_run.job.prompts
        other = folders.get(os.path.realpath(source.path)) if isinstance(source, Source) and source.run else None
        if other is not None and other is not job_run:
            found[job_run.job.file] = other
    return found


def _sources_first(job_runs: tuple[JobRun, ...], sources: dict[str, JobRun]) -> tuple[JobRun, ...]:
    """The jobs as they were named, each after the one whose run it reads.

    Raises:
        JobMistakesError: they read each other's.
    """
    ordered: dict[str, JobRun] = {}
    for job_run in job_runs:
        waiting: dict[str, JobRun] = {}
        here: JobRun | None = job_run
        while here is not None and here.job.file not in ordered:
            if here.job.file in waiting:
                problem = f"reads a run that is made of its own: {' -> '.join([*waiting, here.job.file])}"
                raise JobMistakesError((Mistake(file=here.job.file, key="prompts.run", problem=problem),))
            waiting[here.job.file] = here
            here = sources.get(here.job.file)
        ordered |= dict(reversed(waiting.items()))
    return tuple(ordered.values())


def _in_turn(job_runs: tuple[JobRun, ...], asked: RunFlags) -> Iterator[Ended]:
    shown = _progress(asked)
    for place, job_run in enumerate(job_runs):
        ended: Ended
        try:
            with _end_event(job_run, asked) as ending:
                ending.report = batchrunner.run_sync(job_run.job, **_options(job_run, asked, shown))
            ended = FinishedRun(job_run=job_run, report=ending.report)
        except BatchrunnerError as error:
            ended = CrashedRun(job_run=job_run, error=error)
        yield ended
        if exit_status(ended) in _ENDS_ALL:
            for missed in job_runs[place + 1 :]:
                print_message(f"not started: {missed.job.file}")
            return


async def _together(job_runs: tuple[JobRun, ...], sources: dict[str, JobRun], asked: RunFlags) -> tuple[Ended, ...]:
    shown = _progress(asked)
    started: dict[str, asyncio.Task[Ended]] = {}
    for job_run in job_runs:
        source = sources.get(job_run.job.file)
        before = None if source is None else started[source.job.file]
        started[job_run.job.file] = asyncio.create_task(_run_beside(job_run, asked, shown, before))
    return tuple(await asyncio.gather(*started.values()))


async def _run_beside(job_run: JobRun, asked: RunFlags, shown: Progress, before: "asyncio.Task[Ended] | None") -> Ended:
    """Run a job beside others, once the run that it reads has ended."""
    if before is not None:
        await asyncio.wait({before})
    try:
        with _end_event(job_run, asked) as ending:
            ending.report = await batchrunner.run(job_run.job, **_options(job_run, asked, shown))
    except BatchrunnerError as error:
        return CrashedRun(job_run=job_run, error=error)
    return FinishedRun(job_run=job_run, report=ending.report)


def _options(job_run: JobRun, asked: RunFlags, shown: Progress) -> "RunOptions":
    return {
        "limit": asked.limit,
        "part": asked.part,
        "retry_failed": asked.retry_failed,
        "resend_held": asked.resend_held,
        "resend_lost": asked.resend_lost,
        "adopt_rows": asked.adopt_rows,
        "reformat": asked.reformat,
        "judges": asked.judges,
        "progress": shown.follow,
        "signals": True,
        "say": print_stamped,
        "traced": None if asked.telemetry is None else asked.telemetry.traced,
        "command": job_run.command,
        "command_elsewhere": job_run.elsewhere,
    }


def _progress(asked: RunFlags) -> Progress:
    return Progress(display(asked.progress), asked.followers)


@dataclass(slots=True)
class _Ending:
    """Set by who has run the job."""

    report: Report = field(init=False)
    is_told_later: bool = False
    """By whoever goes on with the job."""


def _end_event(job_run: JobRun, asked: RunFlags) -> "AbstractContextManager[_Ending]":
    return with_end_event(job_run.job.name, asked.followers)


@contextmanager
def with_end_event(name: str, followers: Sequence[Follower]) -> Iterator[_Ending]:
    """Tell followers of a job's end, however it ends."""
    ending = _Ending()
    try:
        yield ending
    except BatchrunnerError as error:
        for follower in followers:
            follower.ended(name, error.exit_status, error=str(error))
        raise
    for follower in () if ending.is_told_later else followers:
        follower.ended(name, ending.report.exit_status, status=ending.report.status)


async def _prompt_mistakes(job_runs: tuple[JobRun, ...], sources: dict[str, JobRun]) -> tuple[Mistake, ...]:
    found: list[Mistake] = []
    for job_run in job_runs:
        if job_run.job.file in sources:  # its rows are not there yet
            from batchrunner.prompts import check_items  # noqa: PLC0415 - Jinja2, for several jobs only

            found.extend(await check_items(job_run.job))
        else:
            found.extend((await batchrunner.check(job_run.job)).mistakes)
    return tuple(found)


def _shared_folders(job_runs: tuple[JobRun, ...]) -> Iterator[Mistake]:
    taken: dict[str, JobRun] = {}
    for job_run in job_runs:
        folder = os.path.realpath(job_run.job.output.dir)
        first = taken.setdefault(folder, job_run)
        if first is not job_run:
            yield Mistake(
                file=job_run.job.file,
                key="output.dir",
                problem=f"{job_run.job.output.dir} is also the directory of {first.job.file}",
                hint="give each job its own directory, or list each job once",
            )
