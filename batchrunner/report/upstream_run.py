"""The runs that a job reads, the one of its prompts and those that it takes answers from: may it, and where they stand.

A simulated run never feeds a real job, a job does not read itself, and a run with items left is read only where the job
says so. Runs that read runs are followed to the first one, for `plan`.
"""

import os
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from batchrunner.core.errors import (
    JobMistakesError,
    Mistake,
    NoRunError,
    UnreadableRunFileError,
    UpstreamUnfinishedError,
    WrongDirectoryError,
)
from batchrunner.core.job import Job, Json, Source
from batchrunner.core.status import ItemCounts, Status
from batchrunner.core.upstream import ReusedRun, RunRows, Upstream, UpstreamStatus
from batchrunner.core.values import replace
from batchrunner.engine.run_status import lost_words
from batchrunner.prompts import EMPTY_JOB
from batchrunner.report.directory_status import status_of_directory
from batchrunner.report.wording import count
from batchrunner.stores.lock import holder_of
from batchrunner.stores.run_file import RunFile, read_run_file, run_file_of_ledger
from batchrunner.stores.upstream_rows import PairRows, UpstreamRun

_KEY: Final = "prompts.run"
_REUSE: Final = "reuse"
_LONGEST_CHAIN: Final = 20
_Made = TypeVar("_Made")


def look_upstream(job: Job, *, before: Iterable[Job] = ()) -> Upstream:
    """The runs that the job reads; nothing of their rows is read yet. Blocks.

    One that is not there is waited for if one of the jobs `before` will make it.

    Raises:
        JobMistakesError: there is no run, or it is the job's own.
        WrongDirectoryError: it is a simulated run and the job is real, or its run.json is damaged.
        LedgerDamagedError, StoreBrokenError: its files cannot be read.
    """
    source = job.prompts
    reused = _look_reused(job, tuple(before)) if job.reuse else Upstream()
    if not isinstance(source, Source) or not source.run:
        return reused
    folder = Path(source.path)
    if os.path.realpath(folder) == os.path.realpath(job.output.dir):
        raise _mistake(job, source, f"{source.shown} is the results folder of this job itself", None)
    try:
        status = status_of_directory(folder)
    except NoRunError:
        if any(os.path.realpath(other.output.dir) == os.path.realpath(folder) for other in before):
            return replace(reused, waits_for=source.shown)
        raise _missing(job, source) from None
    if status.simulated and not job.simulated:
        raise WrongDirectoryError(
            f"{job.file}: {_KEY}: {source.shown} is a simulated run, which a real job does not read; "
            "run that job for real, or this one with --simulate"
        )
    here = _status_of(source.shown, status)
    chain = (here, *_further(folder, {os.path.realpath(folder)}))
    notes = (*_notes(here, takes=source.takes_unfinished), *reused.notes)
    return replace(reused, rows=rows_of(source), chain=chain, notes=notes)


def _look_reused(job: Job, before: Sequence[Job]) -> Upstream:
    """The runs that the job takes answers from: one at work, with items left or without its ledger gives what it has.

    One that is not there is passed over if one of the jobs `before` will make it. Raises as `look_upstream`.
    """
    runs, notes, mistakes, missing = list[ReusedRun](), list[str](), list[Mistake](), list[Mistake]()
    own = os.path.realpath(job.output.dir)
    for run in (ReusedRun(*pair) for pair in job.reuse):
        folder = Path(run.path)
        if os.path.realpath(folder) == own:
            problem = f"{run.shown} is the results folder of this job itself"
            mistakes.append(Mistake(problem=problem, file=job.file, key=_REUSE))
            continue
        there = _run_there(folder)
        if there is None:
            if not any(os.path.realpath(other.output.dir) == os.path.realpath(folder) for other in before):
                problem = f"there is no run in {run.path}, so nothing can be taken from it"
                hint = "correct the path, or take it out of `reuse`: what no other run has is sent and paid"
                missing.append(Mistake(problem=problem, file=job.file, key=_REUSE, hint=hint))
            continue
        if there.simulated and not job.simulated:
            raise WrongDirectoryError(
                f"{job.file}: {_REUSE}: {run.shown} is a simulated run, whose answers a real job does not take; "
                "take it out of `reuse`, or run this job with --simulate"
            )
        if holder_of(folder) is not None:
            notes.append(f"reuse: a run is at work in {run.shown}; the rows that it has now are taken")
        runs.append(run)
    if mistakes:
        raise JobMistakesError((*mistakes, *missing))
    return Upstream(reused=tuple(runs), missing=tuple(missing), notes=tuple(notes))


def _run_there(folder: Path) -> RunFile | None:
    """Of run.json or, where that is gone or damaged, of the ledger; None where there is no run."""
    try:
        there = read_run_file(folder)
    except UnreadableRunFileError:
        there = run_file_of_ledger(folder)
        if there is None:
            raise
    return there or run_file_of_ledger(folder)


async def if_any_rows(made: Awaitable[_Made]) -> _Made | None:
    """None where the job has no rows: a mistake of most jobs, and none of a judge whose answers are not there."""
    try:
        return await made
    except JobMistakesError as error:
        if all(mistake.hint == EMPTY_JOB for mistake in error.mistakes):
            return None
        raise


def rows_of(source: Source) -> RunRows:
    """The rows of the run that is a source, or pairs of them."""
    rows = UpstreamRun(Path(source.path))
    return rows if source.pair is None else PairRows(rows, source.pair)


def require_finished(job: Job, upstream: Upstream) -> None:
    """Refuse to read a run that has items left, unless the job takes it as it is.

    Raises:
        UpstreamUnfinishedError: nothing was sent.
    """
    source, chain = job.prompts, upstream.chain
    if chain and chain[0].left and isinstance(source, Source) and not source.takes_unfinished:
        raise UpstreamUnfinishedError(_unfinished_words(chain[0]))


def _unfinished_words(upstream: UpstreamStatus) -> str:
    """That a run has items left, and what to do."""
    if upstream.lost == upstream.left:
        return f"{upstream.dir}: {lost_words(upstream.lost)}, or read the other rows with `unfinished: take`"
    finish = f": {upstream.next_command}" if upstream.next_command else ""
    return (
        f"{upstream.dir} has {count(upstream.left, 'item')} left; finish it first{finish}, or read the rows that are "
        "there with `unfinished: take`"
    )


def _notes(upstream: UpstreamStatus, *, takes: bool) -> Iterator[str]:
    if upstream.lost and takes:
        yield f"{upstream.dir}: {lost_words(upstream.lost)}"
    if upstream.left > upstream.lost and takes:
        yield f"{upstream.dir} has {count(upstream.left - upstream.lost, 'item')} left; a later run reads their rows"
    if upstream.left and not takes:
        yield _unfinished_words(upstream)
    if upstream.failed:
        yield f"{upstream.dir} has {count(upstream.failed, 'failed item')}, which this job does not read"


def _status_of(shown: str, status: Status) -> UpstreamStatus:
    items = status.items
    return UpstreamStatus(
        dir=shown,
        job=status.job,
        state=status.state,
        done=items.done,
        left=_left(items),
        failed=items.failed,
        lost=items.lost,
        next_command=status.next_command,
    )


def _left(items: ItemCounts) -> int:
    return items.pending + items.accepted + items.held + items.timed_out + items.lost


def _further(folder: Path, seen: set[str]) -> Iterator[UpstreamStatus]:
    """What the runs before this one were made of, as far as they are still there."""
    run = read_run_file(folder)
    prompts: Json = run.job.get("prompts") if run is not None else None
    if run is None or not isinstance(prompts, dict) or not prompts.get("run") or len(seen) >= _LONGEST_CHAIN:
        return
    shown, path = prompts.get("shown"), prompts.get("path")
    if not isinstance(shown, str) or not isinstance(path, str):
        return
    before = Path(run.typed_in or "") / path
    real = os.path.realpath(before)
    if real in seen:
        return
    try:
        yield _status_of(shown, replace(status_of_directory(before), next_command=None))
    except NoRunError:
        yield UpstreamStatus(dir=shown, job=None, state="gone", done=0, left=0, failed=0)
        return
    yield from _further(before, seen | {real})


def _missing(job: Job, source: Source) -> JobMistakesError:
    problem = f"there is no run in {source.path}"
    hint = "run that job first"
    if job.simulated:
        real = source.path.removesuffix(".simulated")
        problem += f", where a simulated job looks for the simulated run of {real}"
        hint = "simulate that job first"
    return _mistake(job, source, problem, hint)


def _mistake(job: Job, source: Source, problem: str, hint: str | None) -> JobMistakesError:
    return JobMistakesError((Mistake(problem=problem, file=job.file, line=source.line, key=_KEY, hint=hint),))
