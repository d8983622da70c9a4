"""The run of a job that has judges: its items, then each judge, then their verdicts, as one run with one lock.

The lock is held from the first item to the last verdict: nobody scores or verifies the run while a judge works.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from batchrunner.core.control import Reply
from batchrunner.core.errors import BatchrunnerError, ExitStatus, JobMistakesError
from batchrunner.core.job import Job, Source
from batchrunner.core.status import Report
from batchrunner.core.values import replace
from batchrunner.engine.run_status import STATES
from batchrunner.prompts import items_of
from batchrunner.report.directory_status import judge_line, left_to_judge, score_notes
from batchrunner.report.judging import Judge, judge_mistakes, judges_of, missing_keys
from batchrunner.report.upstream_run import if_any_rows
from batchrunner.stores.control_folder import CONTROL, ControlFolder, state_of
from batchrunner.stores.lock import RunLock
from batchrunner.stores.run_directory import remember_end

_PASSED_ON: Final = (
    *("progress", "signals", "say", "command", "command_elsewhere", "clock"),
    *("retry_failed", "resend_held", "resend_lost"),
)
"""Options of a run that hold for its judges, too."""
_WORST_FIRST: Final = (
    ExitStatus.INTERRUPTED,
    ExitStatus.TERMINATED,
    ExitStatus.STOPPED,
    ExitStatus.REFUSED,
    ExitStatus.MISTAKE,
    ExitStatus.PAUSED,
    ExitStatus.FAILED,
    ExitStatus.DONE,
)
_ENDS_ALL: Final = frozenset({ExitStatus.INTERRUPTED, ExitStatus.TERMINATED})
_ENDED: Final = frozenset({ExitStatus.DONE, ExitStatus.FAILED})
_SCORE_NOTES: Final = ("checks: ", "check `", "judge ", "no scores were written: ")


class RunAlone(Protocol):
    """Runs a job without its judges."""

    async def __call__(self, job: Job, options: Any, lock: RunLock | None = None) -> Report:
        """See `api.run`; takes `lock` and leaves it held, or takes and releases one of its own."""


async def judged(job: Job, options: Mapping[str, Any], *, run_alone: RunAlone) -> Report:
    """Run a job, and its judges when its items have ended; then score it again.

    Raises:
        JobMistakesError: of the job, of a judge's file, or a judge's key is not set: nothing was paid for.
        BatchrunnerError: of the job. What a judge raises is told in a note, and decides the exit status.
    """
    judges = await _ready(job) if options.get("judges", True) else ()
    if not judges:
        return await run_alone(job, options)
    lock = RunLock(Path(job.output.dir))
    try:
        report = await run_alone(job, options, lock)
        if report.exit_status in _ENDED:
            async with _commands_refused(job, judges) as begins:
                return await _judged(job, options, report, judges, begins=begins, run_alone=run_alone)
    finally:
        await asyncio.to_thread(lock.release)
    note = "the judges begin when the items of the run have ended"
    return replace(report, status=replace(report.status, notes=(*report.status.notes, note)))


async def _judged(
    job: Job,
    options: Mapping[str, Any],
    report: Report,
    judges: Sequence[Judge],
    *,
    begins: Callable[[Judge], None],
    run_alone: RunAlone,
) -> Report:
    """What the run came to with its judges; `begins` is told of each when it begins."""
    passed_on = {key: options[key] for key in _PASSED_ON if key in options}
    statuses, notes, unfinished = [report.exit_status], list[str](), list[str]()
    for judge in judges:
        begins(judge)
        exit_status, note, is_left = await _run_judge(judge, passed_on, run_alone)
        statuses.append(exit_status)
        notes.append(note)
        unfinished += [note] * is_left
        if exit_status in _ENDS_ALL:
            break
    exit_status = min(statuses, key=_WORST_FIRST.index)
    scored = await asyncio.to_thread(score_notes, job, Path(job.output.dir), report.status, exit_status)
    kept = (note for note in report.status.notes if not note.startswith(_SCORE_NOTES))
    status = replace(report.status, notes=(*kept, *notes, *scored))
    if exit_status is not report.exit_status:
        status = replace(status, state=STATES[exit_status], message=unfinished[0] if unfinished else None)
    if unfinished:
        status = replace(status, next_command=options.get("command"))
    try:
        await asyncio.to_thread(remember_end, Path(job.output.dir), status.message, ended=status.state)
    except BatchrunnerError as error:
        status = replace(status, notes=(*status.notes, f"could not save the outcome for `batchrunner status`: {error}"))
    return Report(status=status, exit_status=exit_status)


@asynccontextmanager
async def _commands_refused(job: Job, judges: Sequence[Judge]) -> AsyncIterator[Callable[[Judge], None]]:
    """Answers commands to the run while its judges work: which directory they are for.

    The value is to be told which judge works now.
    """
    folder = Path(job.output.dir)
    now = [judges[0]]
    control = ControlFolder(folder, resolve=lambda _: job)

    async def answer() -> None:
        in_force = await asyncio.to_thread(state_of, folder / CONTROL)
        await asyncio.to_thread(control.begin)
        control.start(asyncio.get_running_loop())
        early = list(control.early)
        while True:
            command = early.pop(0) if early else await control.next()
            here = now[0].job.output.dir
            said = f"the items of this run have ended, and its judge {now[0].check.name} works now; tell {here}"
            with suppress(OSError):
                await control.acknowledge(command, Reply(ok=False, message=said), in_force)

    answering = asyncio.create_task(answer())
    try:
        yield lambda judge: now.__setitem__(0, judge)
    finally:
        control.close()
        answering.cancel()
        await asyncio.wait({answering})
        if not answering.cancelled():
            answering.exception()  # a folder that cannot be read is told by the next run: no judge ends for it


async def _ready(job: Job) -> tuple[Judge, ...]:
    """The judges of a job that is about to be paid for. Raises JobMistakesError."""
    judges = await asyncio.to_thread(judges_of, job)
    mistakes = missing_keys(judges)
    if not (isinstance(job.prompts, Source) and job.prompts.run):
        mistakes += await judge_mistakes(job, items_of(job))
    if mistakes:
        raise JobMistakesError(mistakes)
    return judges


async def _run_judge(judge: Judge, options: Mapping[str, Any], run_alone: RunAlone) -> tuple[ExitStatus, str, bool]:
    """Let a judge work: its exit status, where it stands for people, and whether something is left to it."""
    try:
        found = await if_any_rows(run_alone(judge.job, options))
    except BatchrunnerError as error:
        return error.exit_status, f"judge {judge.check.name}: {error}", True
    if found is None:
        return ExitStatus.DONE, f"judge {judge.check.name}: there is no answer that it is asked about", False
    return found.exit_status, judge_line(judge.check.name, found.status), bool(left_to_judge(found.status.items))
