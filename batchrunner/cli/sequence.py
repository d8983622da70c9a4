"""One job or several of one command: one after the other or all at once, and the one exit status of them all.

Refuses to start anything while one of several jobs has a mistake, or while two of them would write to one directory.
"""

import asyncio
import os.path
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import batchrunner
from batchrunner.cli.output import say
from batchrunner.cli.progress import Display, display, harmless
from batchrunner.core.errors import BatchrunnerError, ExitStatus, JobMistakesError, Mistake
from batchrunner.core.job import Job
from batchrunner.core.status import Report

if TYPE_CHECKING:
    from batchrunner.app import RunOptions

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
"""Which exit status speaks for several jobs."""

_ENDS_ALL = frozenset({ExitStatus.INTERRUPTED, ExitStatus.TERMINATED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the person asked of every job of the command."""

    limit: int | None
    retry_failed: bool
    resend_held: bool
    resend_lost: bool = False
    adopt_rows: bool = False
    reformat: bool = False
    quiet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A job to run, and the command that goes on with it alone: from here, and from any other folder."""

    job: Job
    command: str
    elsewhere: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A job's run came to an end of its own, good or bad."""

    errand: Errand
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Broke:
    """A job could not be run, or this machine stopped it."""

    errand: Errand
    error: BatchrunnerError


Ended = Ran | Broke


def exit_status(ended: Ended) -> ExitStatus:
    """What this job alone would end the command with."""
    match ended:
        case Ran():
            return ended.report.exit_status
        case Broke():
            return ended.error.exit_status


def worst(statuses: Iterable[ExitStatus]) -> ExitStatus:
    """The one exit status of several jobs; DONE for none."""
    return min(statuses, key=PRECEDENCE.index, default=ExitStatus.DONE)


def run_one(errand: Errand, asked: Asked) -> Report:
    """Run a single job.

    Raises:
        BatchrunnerError: mistakes in its prompts, a held lock, a broken disk.
    """
    return batchrunner.run_sync(errand.job, **_options(errand, asked, _display(asked)))


def run_all(errands: tuple[Errand, ...], asked: Asked, *, at_once: bool) -> tuple[Ended, ...]:
    """Run several jobs; those that an interruption kept from starting are told to people and are not in the result.

    Raises:
        JobMistakesError: a job's prompts have mistakes, or two jobs share a directory; nothing was started.
    """
    from batchrunner.app import on_a_fast_loop  # noqa: PLC0415 - the door to the house opens when something is run

    mistakes = (*_shared_folders(errands), *asyncio.run(_prompt_mistakes(errands)))
    if mistakes:
        raise JobMistakesError(mistakes)
    return on_a_fast_loop(_together(errands, asked)) if at_once else tuple(_in_turn(errands, asked))


def _in_turn(errands: tuple[Errand, ...], asked: Asked) -> Iterator[Ended]:
    shown = _display(asked)
    for place, errand in enumerate(errands):
        ended: Ended
        try:
            report = batchrunner.run_sync(errand.job, **_options(errand, asked, shown))
            ended = Ran(errand=errand, report=report)
        except BatchrunnerError as error:
            ended = Broke(errand=errand, error=error)
        yield ended
        if exit_status(ended) in _ENDS_ALL:
            for missed in errands[place + 1 :]:
                say(f"not started: {missed.job.file}")
            return


async def _together(errands: tuple[Errand, ...], asked: Asked) -> tuple[Ended, ...]:
    shown = _display(asked)
    return tuple(await asyncio.gather(*(_run_beside(errand, asked, shown) for errand in errands)))


async def _run_beside(errand: Errand, asked: Asked, shown: Display | None) -> Ended:
    try:
        report = await batchrunner.run(errand.job, **_options(errand, asked, shown))
    except BatchrunnerError as error:
        return Broke(errand=errand, error=error)
    return Ran(errand=errand, report=report)


def _options(errand: Errand, asked: Asked, shown: Display | None) -> "RunOptions":
    return {
        "limit": asked.limit,
        "retry_failed": asked.retry_failed,
        "resend_held": asked.resend_held,
        "resend_lost": asked.resend_lost,
        "adopt_rows": asked.adopt_rows,
        "reformat": asked.reformat,
        "progress": harmless(shown) if shown else None,
        "signals": True,
        "say": say,
        "command": errand.command,
        "command_elsewhere": errand.elsewhere,
    }


def _display(asked: Asked) -> Display | None:
    return None if asked.quiet else display()


async def _prompt_mistakes(errands: tuple[Errand, ...]) -> tuple[Mistake, ...]:
    found: list[Mistake] = []
    for errand in errands:
        found.extend((await batchrunner.check(errand.job)).mistakes)
    return tuple(found)


def _shared_folders(errands: tuple[Errand, ...]) -> Iterator[Mistake]:
    taken: dict[str, Errand] = {}
    for errand in errands:
        folder = os.path.realpath(errand.job.output.dir)
        first = taken.setdefault(folder, errand)
        if first is not errand:
            yield Mistake(
                file=errand.job.file,
                key="output.dir",
                problem=f"{errand.job.output.dir} is the directory of {first.job.file} too",
                hint="give each job its own, or name a job once",
            )
