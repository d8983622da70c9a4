"""One run of a job, without its judges: from the lock of its directory to its report.

`api` loads this module when it is asked for a run.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypedDict

from batchrunner.core import VERSION
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.job import Job
from batchrunner.core.part import WHOLE, PartOptions, RunRequest
from batchrunner.core.ports import Downloads, Transport
from batchrunner.core.shard import merge_notes, shard_notes
from batchrunner.core.status import Report, Status
from batchrunner.core.values import replace
from batchrunner.engine.leased_pace import Seat, leased
from batchrunner.engine.run_status import going_on, part_words, with_end
from batchrunner.engine.runner import Runner
from batchrunner.engine.work_queue import LoopClock
from batchrunner.network import ask_balances
from batchrunner.prompts.sources.opening import waiting_voice
from batchrunner.providers import require_dialect
from batchrunner.report.attended import attended, harmless, or_remembered
from batchrunner.report.directory_status import failure_groups, new_format_notes, paused_report, score_notes
from batchrunner.report.notify import notifications, notified
from batchrunner.report.summary import balance_line, schedule_notes
from batchrunner.report.uploading import ledger_kept, mirrored_meanwhile, require_mirror
from batchrunner.report.upstream_run import look_upstream, require_finished
from batchrunner.report.wording import skipped_words
from batchrunner.spec.settings import with_settings
from batchrunner.stores.control_folder import ControlFolder
from batchrunner.stores.lock import RunLock
from batchrunner.stores.preflight import lock_notes, requests_allowed
from batchrunner.stores.run_directory import digest_of_job, refuse_run_elsewhere, remember_end, take_directory
from batchrunner.stores.run_file import check_claim, make_run_folder
from batchrunner.stores.shards import check_shard, claim_shard
from batchrunner.stores.threads import Threads
from batchrunner.transport import FoundKeys, read_keys
from batchrunner.transport.secrets import refuse_keys_in_job
from batchrunner.wiring import assemble, reformatted, run_to_end

Progress = Callable[[Callable[[], Status]], Awaitable[None]]
_WHOLE: Final = frozenset({ExitStatus.DONE, ExitStatus.FAILED})
"""Ends with nothing left to do: whatever stopped a lane on the way does not matter any more."""


class RunOptions(TypedDict, total=False):
    """What `run` and `run_sync` take beyond the job.

    limit: only the first so many items of the job, or of the part.
    part: only a part of the job's items, see `PartOptions`. What is outside is neither sent nor moved.
    retry_failed: give items that had failed a new generation of attempts.
    resend_lost: pay again for done items whose row or picture is gone from the directory.
    adopt_rows: continue although the ledger, or a part of it, is missing: items with a row count as done.
    reformat: convert the pictures that are there to `output.format`; sends nothing.
    resend_held: send items that are held because they may have been paid already.
    judges: False leaves out the judges of the job's checks.
    progress: started as a task with a function that returns the current status; cancelled at the end.
    signals: SIGINT, SIGTERM and SIGHUP drain the run; SIGINT or SIGTERM after one of them cancels it. SIGHUP stays
        ignored where it was ignored before (nohup).
    say: for what a person should know at once; default: a line on stderr.
    command: the shell command that continues the run, for `Status.next_command`.
    command_elsewhere: the same with absolute paths, for those who ask from another folder.
    clock: for runs in virtual time.
    network: transports to use instead of the job's own, for rehearsals.
    seat: what a worker of a coordinator works with; see `working`.
    traced: makes of the transport and the job a transport that tells of its requests, see `transport.telemetry`.
    """

    limit: int | None
    part: PartOptions
    retry_failed: bool
    resend_held: bool
    resend_lost: bool
    adopt_rows: bool
    reformat: bool
    judges: bool
    progress: Progress | None
    signals: bool
    say: Callable[[str], None] | None
    command: str | None
    command_elsewhere: str | None
    clock: LoopClock
    network: tuple[Transport, Downloads] | None
    seat: Seat | None
    traced: Callable[[Transport, Job], Transport] | None


async def run_alone(job: Job, options: RunOptions, lock: RunLock | None = None) -> Report:
    """As `run`, without judges. Takes `lock` and leaves it held; without one, has a lock of its own."""
    speak = _voice(options)
    clock = options.get("clock") or LoopClock()
    found = await asyncio.to_thread(_keys_of, job, is_needed=not options.get("reformat", False))
    require_dialect(job.provider)
    upstream = await asyncio.to_thread(look_upstream, job)
    if not options.get("reformat", False):
        require_finished(job, upstream)
    folder = Path(job.output.dir)
    async with AsyncExitStack() as stack:
        # the caller may have other tasks on the loop, and a disk may be slow
        disk = Threads("run-files", count=1)
        stack.callback(disk.close)
        await disk.run(_refuse_mixing, job)
        before = await disk.run(
            check_claim,
            folder,
            job_name=job.name,
            simulated=job.simulated,
            digest=await disk.run(digest_of_job, job),
            adopt_rows=options.get("adopt_rows", False),
        )
        await disk.run(make_run_folder, folder)
        if lock is None:
            lock = RunLock(folder)
            stack.push_async_callback(disk.run, lock.release)
        await disk.run(_take, lock, job)
        control = ControlFolder(folder, resolve=partial(with_settings, job))
        await disk.run(control.begin)
        if control.state.paused and not options.get("reformat", False):
            await disk.run(lock.release)
            return await disk.run(paused_report, folder, options.get("command"))
        job = with_settings(job, control.state.settings)
        await disk.run(
            take_directory,
            folder,
            job,
            program=VERSION,
            wall=clock.wall(),
            command=options.get("command"),
            command_elsewhere=options.get("command_elsewhere"),
            adopt_rows=options.get("adopt_rows", False),
        )
        most_in_flight = requests_allowed(job, lanes=len(job.models) * max(1, len(found.keys)), say=speak)
        formats = () if options.get("reformat") else await disk.run(new_format_notes, job, folder, before)
        notes = (
            *upstream.notes,
            *lock_notes(lock, folder),
            *formats,
            *(f"{mistake.problem}: requests with this key are not sent" for mistake in found.missing),
            *found.notes,
            *(shard_notes(job) if options.get("seat") is None else ()),
            *map(balance_line, await ask_balances(job, found.keys)),
        )
        for note in (*notes, *schedule_notes(job, wall=clock.wall())):
            speak(note)
        assembling = assemble(
            job,
            stack,
            clock=clock,
            keys=found.keys,
            folder=folder,
            run_request=_request(options, most_in_flight=most_in_flight),
            part_options=options.get("part", WHOLE),
            say=speak,
            network=options.get("network"),
            traced=options.get("traced"),
            tries_disk=True,
            files=stack.enter_context(await disk.run(ledger_kept, job)),
            upstream=upstream,
            control=control,
            seat=options.get("seat"),
        )
        runner = await or_remembered(assembling, disk, folder, before)
        stack.callback(control.close)
        control.start(asyncio.get_running_loop())
        attending = attended(
            runner, progress=options.get("progress"), signals=options.get("signals", False), speak=speak
        )
        async with (
            attending,
            notifications(job, runner.snapshot, speak),
            mirrored_meanwhile(runner, speak),
            leased(runner, options.get("seat")),
        ):
            exit_status, message = await (reformatted if options.get("reformat") else run_to_end)(runner)
        status = await _ended(runner, disk, options, exit_status, message, missing=found.missing, say=speak)
    if job.output.report:
        from batchrunner.page.report_file import with_page  # noqa: PLC0415 - for jobs with a page only

        status = await with_page(folder, status, speak)
    return Report(status=await notified(job, status, speak), exit_status=exit_status)


def _voice(options: RunOptions) -> Callable[[str], None]:
    """The caller's `say`; also for threads that wait for a source."""
    speak = harmless(options.get("say"))
    loop = asyncio.get_running_loop()

    def notify(text: str) -> None:
        with suppress(RuntimeError):  # the run has ended meanwhile
            loop.call_soon_threadsafe(speak, text)

    waiting_voice.set(notify)
    return speak


def _refuse_mixing(job: Job) -> None:
    """Raise BatchrunnerError where other runs of the job have what this one would pay for again. Blocks.

    Also where its results could not be uploaded.
    """
    require_mirror(job)
    refuse_run_elsewhere(job)
    claim_shard(job)


def _take(lock: RunLock, job: Job) -> None:
    """Take the lock, and look again: a merge, or a first shard, may have begun meanwhile. Blocks."""
    lock.acquire()
    check_shard(job)


def _keys_of(job: Job, *, is_needed: bool) -> FoundKeys:
    """The job's API keys; `is_needed` refuses to go on without any, and runs commands for them. Blocks."""
    found = read_keys(job.provider, os.environ, run_commands=is_needed)
    if found.missing and not found.keys and is_needed:
        raise JobMistakesError(found.missing)
    refuse_keys_in_job(job, found.keys)
    return found


def _request(options: RunOptions, *, most_in_flight: int) -> RunRequest:
    return RunRequest(
        limit=options.get("limit"),
        retry_failed=options.get("retry_failed", False),
        resend_held=options.get("resend_held", False),
        reformat=options.get("reformat", False),
        most_in_flight=most_in_flight,
        resend_lost=options.get("resend_lost", False),
        adopt_rows=options.get("adopt_rows", False),
    )


async def _ended(
    runner: Runner,
    disk: Threads,
    options: RunOptions,
    exit_status: ExitStatus,
    message: str | None,
    *,
    missing: tuple[Mistake, ...],
    say: Callable[[str], None],
) -> Status:
    """The status that the run ends with, remembered in its directory."""
    job, folder = runner.job, Path(runner.job.output.dir)
    runner.state.segment_ended()  # requests that were cut off count from now on, not only for the next process
    part_counts = runner.part_counts()
    ended = with_end(
        replace(
            runner.snapshot(),
            failures=await disk.run(failure_groups, folder, runner.state),
            notes=(
                *(mistake.problem for mistake in missing),
                *skipped_words(runner.found.skipped_rows, runner.found.skipped),
                *(merge_notes(job) if options.get("seat") is None else ()),
                *await disk.run(score_notes, job, folder, replace(runner.snapshot(), part=part_counts), exit_status),
            ),
            part=part_counts,
        ),
        exit_status,
        message=message if exit_status not in _WHOLE else None,
        next_command=going_on(
            part_counts or runner.snapshot().items,
            options.get("command"),
            paused_in=str(folder) if runner.control.state.paused else None,
        ),
    )
    try:
        await disk.run(remember_end, folder, ended.message or part_words(part_counts), ended=ended.state)
    except Exception as error:  # noqa: BLE001 - what was paid for is recorded: this is for `status` alone
        say(f"could not save the outcome for `batchrunner status`: {error}")
    return ended
