"""Builds the concrete things of a run and connects them; decides nothing. The one file that knows every package.

Libraries that cost time to load are loaded inside the functions that need them.
"""

import asyncio
import os
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing, nullcontext
from functools import partial
from pathlib import Path

from batchrunner.core import VERSION
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.events import Done
from batchrunner.core.job import Job, has_judges
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.part import WHOLE, PartOptions, RunRequest
from batchrunner.core.plan import PlanningPass, Totals
from batchrunner.core.ports import Control, Downloads, Holding, Ports, TaskDialect, Transport
from batchrunner.core.presets import PRESETS
from batchrunner.core.rehearsal_report import Rehearsal, RehearsalOptions
from batchrunner.core.state import LedgerState
from batchrunner.core.upstream import NO_UPSTREAM, Upstream
from batchrunner.core.values import replace
from batchrunner.engine import planning
from batchrunner.engine.leased_pace import LeasedPace, Seat
from batchrunner.engine.runner import Runner
from batchrunner.engine.shutdown import Shutdown
from batchrunner.engine.work_queue import LoopClock
from batchrunner.network import network_of, open_network
from batchrunner.prompts import JobItems, digest_of_items, items_of
from batchrunner.providers import batches_for, dialect_for
from batchrunner.report.directory_status import inspection_notes
from batchrunner.report.selection import on_a_part
from batchrunner.report.wording import skipped_words
from batchrunner.stores.artifacts import AnswerFolder, Artifacts
from batchrunner.stores.directory_watch import DirectoryWatch
from batchrunner.stores.files import DISK, Files, InspectedFiles
from batchrunner.stores.ledger import LedgerWriter, segment_version
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_reader import reformatted_events
from batchrunner.stores.ledger_replay import inspect_directory, replay
from batchrunner.stores.other_runs import OtherRuns, rows_of_others
from batchrunner.stores.preflight import try_disk
from batchrunner.stores.results import ResultsFile
from batchrunner.stores.run_directory import (
    ErrorLog,
    digest_of_job,
    refuse_run_elsewhere,
    remember_totals,
    remembered_totals,
    remove_leftovers,
    windows_that_worked,
)
from batchrunner.stores.run_file import check_claim
from batchrunner.stores.takeover import DirectoryState, look_over, remembered, take_over
from batchrunner.stores.threads import Threads
from batchrunner.stores.timezones import offset_of_zone
from batchrunner.transport import Secret, read_keys
from batchrunner.transport.secrets import KeylessItems, Masker, hidden_from_files, mask


async def assemble(
    job: Job,
    stack: AsyncExitStack,
    *,
    clock: LoopClock,
    keys: dict[str, Secret],
    folder: Path,
    run_request: RunRequest,
    part_options: PartOptions = WHOLE,
    say: Callable[[str], None],
    network: tuple[Transport, Downloads] | None,
    traced: Callable[[Transport, Job], Transport] | None = None,
    files: InspectedFiles = DISK,
    random_source: random.Random | None = None,
    tries_disk: bool = False,
    control: Control | None = None,
    seat: Seat | None = None,
    upstream: Upstream = NO_UPSTREAM,
) -> Runner:
    """Everything that a run needs, from the ledger up. The ledger's segment is opened after the job was checked.

    `part_options` choose the part of the job that the run is about; `run_request` has its limit, and no part yet.

    `files` and `random_source` are the machine's own unless a simulation, which must be the same for the same seed,
    brings its. `upstream` has the rows of the run that the job reads, if it reads one, and whose answers it takes.
    """
    disk = stack.enter_context(closing(Threads("assembly", count=1)))
    await disk.run(remove_leftovers, folder, files=files)
    state = await remembered(job, folder, disk, adopt_rows=run_request.adopt_rows, say=say, files=files)
    items = items_of(job, upstream.rows)
    items.keeps = True
    results = ResultsFile(folder, files=files)
    stock = await disk.run(look_over, folder, state, results, files=files)
    run_request = await on_a_part(job, items, run_request, part_options, state=state, results=results)
    others = stack.enter_context(closing(OtherRuns(upstream.reused, files=files)))
    found, digest = await _look_through(
        job, items, state, stock, run_request, keys=keys, disk=disk, files=files, control=control, others=others
    )
    for line in (
        *upstream.require_reused(sends=_may_send(found, state, run_request, control)),
        *run_request.notes,
        *skipped_words(found.skipped_rows, found.skipped),
        *items.left_out,
    ):
        say(line)
    state.lost = set(found.lost)
    realigned_length = await disk.run(take_over, stock, results, lost=bool(state.lost) and not run_request.resend_lost)
    if tries_disk:  # only now: it changes the folders' times, which show whether anything else did
        for note in await disk.run(try_disk, folder, job, files=files):
            say(note)
    await disk.run(results.look)
    opening = partial(open_network, job, stack, disk, clock=clock, keys=keys, say=say)
    is_needed = bool(found.ahead or found.reused or state.tasks or state.batches.open or run_request.changes_anything)
    transport, downloads = network or await network_of(opening, is_needed=is_needed)
    wall = clock.wall()
    artifacts = Artifacts(folder, files=files, refused=(shutdown := Shutdown()).disk_refused, say=say)
    watch = DirectoryWatch(
        folder=folder, files=files, state=state, results=results, artifacts=artifacts, outputs=stock.outputs
    )
    await disk.run(watch.begin)
    opened: list[LedgerWriter] = []
    stack.push_async_callback(watch.close, opened)
    stack.callback(artifacts.close)

    resends = run_request.reformat or (run_request.resend_lost and bool(state.lost))

    def open_ledger() -> None:
        opened.append(
            LedgerWriter.open(
                folder / LEDGER,
                run=f"{os.getpid()}-{int(wall)}",
                job=digest_of_job(job),
                program=VERSION,
                labels=found.labels,
                name=job.name,
                simulated=job.simulated,
                version=segment_version(job, resends=resends, batches=planning.has_batches(job, state)),
                resends=resends,
                clock=clock,
                wall=wall,
                files=files,
            )
        )

    await disk.run(open_ledger)
    (ledger,) = opened
    state.apply(ledger.opened, at=wall)
    state.live = True
    windows = await disk.run(windows_that_worked, folder, files=files)
    totals = planning.totals_of(job, found, accounts=len(keys), windows=windows, digest=digest)
    runner = Runner(
        job=job,
        ports=_ports(
            job,
            stack,
            clock=clock,
            items=items,
            transport=transport,
            traced=traced,
            downloads=downloads,
            ledger=ledger,
            results=results,
            keys=keys,
            artifacts=artifacts,
            confirm=watch.confirm,
            folder=folder,
            files=files,
            control=control,
            has_batches=planning.has_batches(job, state),
            others=others,
            disk=disk,
            seat=seat,
        ),
        state=state,
        found=found,
        totals=totals,
        run_request=run_request,
        shutdown=shutdown,
        random_source=random_source or random.Random(),  # noqa: S311 - jitter, no secret
        say=say,
        offset_at=offset_of_zone(job.timezone),
        adopted=stock.found.adopted(state, failures=run_request.adopt_rows) if stock.found is not None else (),
        realigned_length=realigned_length,
    )
    if stock.torn_bytes:
        say(f"{folder}/results.jsonl: {stock.torn_bytes} bytes of an incomplete last row were moved to results.torn")
    for note in (*inspection_notes(folder, stock.found), *others.notes()):
        say(note)
    return runner


def _may_send(found: PlanningPass, state: LedgerState, run_request: RunRequest, control: Control | None) -> bool:
    """Whether anything is left that the run could send."""
    failed = run_request.retry_failed or _is_retried(control)
    return bool(
        found.ahead
        or state.tasks
        or state.batches.open
        or (failed and state.count(ItemState.FAILED))
        or (run_request.resend_lost and found.lost)
        or (run_request.resend_held and state.doubtful_count + len(state.held))
    )


def _is_retried(control: Control | None) -> bool:
    """Whether somebody asked for failed items again before the run began."""
    return control is not None and any(command.action == "retry" for command in control.early)


async def _look_through(
    job: Job,
    items: JobItems,
    state: LedgerState,
    stock: DirectoryState,
    run_request: RunRequest,
    *,
    keys: dict[str, Secret],
    disk: Threads,
    files: Files,
    control: Control | None,
    others: OtherRuns,
) -> tuple[PlanningPass, str]:
    """The planning pass, and the digest of what it went through.

    The result of the last one is taken where nothing changed since, nothing is left and nothing is to be resent.
    """
    digest = await disk.run(_digest_of, job)
    known = await disk.run(remembered_totals, Path(job.output.dir), files=files)
    takes_held = bool(others.runs) and state.doubtful_count + len(state.held) > 0
    if (
        stock.found is None
        and known is not None
        and not (run_request.changes_anything or _is_retried(control) or takes_held)
    ):
        found = planning.reuse_planning_pass(state, known, digest=digest)
        if found is not None:
            return found, digest
    await disk.run(others.index)
    found = await planning.run_planning_pass(
        KeylessItems(items, keys),
        state,
        limit=run_request.limit,
        part=run_request.part.keys if run_request.part is not None else None,
        hold=job.on_ambiguous == "hold",
        adopting=frozenset(stock.found.adopting) if stock.found is not None else frozenset(),
        reusing=others if others.runs else None,
    )
    found = replace(found, skipped=items.skipped)
    stands = not found.skipped_rows and digest == await disk.run(_digest_of, job)
    return found, digest if stands else ""


def _digest_of(job: Job) -> str:
    """See `Totals.digest`. Blocks."""
    made_of = digest_of_items(job)
    return "" if made_of is None else f"{digest_of_job(job)}{made_of}"


def _ports(
    job: Job,
    stack: AsyncExitStack,
    *,
    clock: LoopClock,
    items: JobItems,
    transport: Transport,
    traced: Callable[[Transport, Job], Transport] | None,
    downloads: Downloads,
    ledger: LedgerWriter,
    results: ResultsFile,
    keys: dict[str, Secret],
    artifacts: Artifacts,
    confirm: Callable[[], Awaitable[None]],
    folder: Path,
    files: Files,
    control: Control | None,
    has_batches: bool,
    others: OtherRuns,
    disk: Threads,
    seat: Seat | None,
) -> Ports:
    from batchrunner.stores.batch_files import BatchFolder  # noqa: PLC0415 - as below
    from batchrunner.stores.images import PictureFiles, readers  # noqa: PLC0415 - for runs only
    from batchrunner.stores.media import MediaFiles  # noqa: PLC0415 - as above
    from batchrunner.stores.reused_rows import ReusedRows  # noqa: PLC0415 - as above

    pictures = PictureFiles(artifacts, thumbnails=folder if job.output.report else None, files=files)
    if job.kind == "image":
        readers()  # before the first order, not when its picture is there: the program may be replaced meanwhile
    stack.callback(pictures.close)
    media = MediaFiles(artifacts)

    hidden = hidden_from_files(job.provider, keys.values(), os.environ)

    def hide_keys(text: str) -> str:
        return mask(text, hidden)

    def remember(totals: Totals) -> None:
        remember_totals(folder, totals, segment=ledger.number, files=files)

    each = AnswerFolder(artifacts, path_of=items.path_of) if job.output.each else None
    dialect = dialect_for(job.provider)
    masker = Masker(hidden)
    batches = batches_for(job.provider, dialect, masker.masked) if has_batches else None
    return Ports(
        clock=clock,
        items=items,
        dialect=dialect,
        tasks=dialect if isinstance(dialect, TaskDialect) else None,
        transport=transport if traced is None else traced(transport, job),
        downloads=downloads,
        ledger=ledger,
        results=results,
        pictures=pictures,
        media=media,
        each=each,
        accounts=tuple(keys) or ("",),
        remember=remember,
        note_fault=ErrorLog(folder, mask=hide_keys, wall=clock.wall, files=files),
        hold=transport.hold if isinstance(transport, Holding) else lambda _: nullcontext(),
        held_from_bytes=getattr(transport, "held_from_bytes", 0) if isinstance(transport, Holding) else sys.maxsize,
        confirm=confirm,
        batches=batches,
        batch_files=BatchFolder(folder, files=files, clean=masker.masked_lines) if batches is not None else None,
        reusable=ReusedRows(others, artifacts, each=each, disk=disk) if others.runs else None,
        control=control,
        leased=None if seat is None else partial(LeasedPace, seat.limits),
        may_send=None if seat is None else seat.may_send,
    )


def rehearsal_of(job: Job, options: RehearsalOptions) -> Rehearsal:
    """A rehearsal of what is left of the job; see `api.rehearse`."""
    from batchrunner.report.upstream_run import look_upstream  # noqa: PLC0415 - with the status of runs: for rehearsals only
    from batchrunner.simulator.profiles import profile_of  # noqa: PLC0415 - the simulator, for simulated runs only
    from batchrunner.simulator.rehearsal import rehearse  # noqa: PLC0415 - as above

    profile, upstream = profile_of(job, options.get("profile", "")), look_upstream(job)
    day_offset_s = PRESETS[job.provider.preset].day_offset_s
    state, windows = LedgerState(day_offset_s=day_offset_s), dict[str, int]()
    if not options.get("from_scratch", False):
        folder = Path(job.output.dir)
        refuse_run_elsewhere(job)
        check_claim(folder, job_name=job.name, simulated=job.simulated, digest=digest_of_job(job))
        state, windows = replay(folder, day_offset_s=day_offset_s), windows_that_worked(folder)
        inspect_directory(folder, state)
    upstream.require_reused(sends=True)
    with closing(rows_of_others(upstream.reused)) as others:
        for key in others.keys():  # noqa: SIM118 - it is no dict
            if state.item_state(key) is ItemState.PENDING and key in others:
                state.apply(Done(i="", k=key.hex(), n=0, a=0, crc="", length=0, reused=True), at=0.0)
    missing = read_keys(job.provider, os.environ, run_commands=False).missing
    return rehearse(
        job,
        state=state,
        profile=profile,
        wall=options.get("began", LoopClock().wall()),
        seed=options.get("seed", 0),
        limit=options.get("limit"),
        windows=windows,
        notes=(
            *(mistake.problem for mistake in missing),
            *upstream.notes,
            *others.notes(),
            *(["the job's judges are not rehearsed; `plan` has their requests"] if has_judges(job) else ()),
        ),
        upstream=upstream.rows,
        progress=_with_time(options),
    )


def _with_time(options: RehearsalOptions) -> Callable[[int, int, float], None] | None:
    """Both kinds of progress as one."""
    plain, timed = options.get("progress"), options.get("progress_with_time")
    if timed is not None or plain is None:
        return timed
    return lambda ended, items, _: plain(ended, items)


async def run_to_end(runner: Runner) -> tuple[ExitStatus, str | None]:
    """The exit status and, if this machine or the user stopped the run, why."""
    shutdown = runner.shutdown
    running = asyncio.create_task(runner.run())
    shutdown.watch_over(running)
    try:
        await running
    except StoreBrokenError as error:
        return ExitStatus.STOPPED, str(error)
    except asyncio.CancelledError:
        if not shutdown.requests:
            running.cancel()
            raise
    finally:
        shutdown.over()
    ending = runner.ending()
    return ending.exit_status(), ending.message()


async def reformatted(runner: Runner) -> tuple[ExitStatus, str | None]:
    """Convert the pictures of a run to the job's format; returns the exit status and a message.

    Raises:
        JobMistakesError: the job names no format.
        StoreBrokenError: the disk refused.
    """
    from batchrunner.stores.reformat import reformat  # noqa: PLC0415 - Pillow, for pictures only

    wanted, folder = runner.job.output.format, Path(runner.job.output.dir)
    if wanted is None:
        problem = "needs `output.format`, the format to convert the pictures to"
        raise JobMistakesError((Mistake(problem=problem, key="--reformat", expected="png, jpeg, webp or gif"),))
    await runner.record_recovered()
    done = await reformat(
        folder,
        wanted,
        ledger=runner.ports.ledger,
        state=runner.state,
        files=DISK,
        leftovers=lambda: (path for event in reformatted_events(folder / LEDGER) for path in event.gone),
    )
    for line in done.left:
        runner.say(f"not converted: {line}")
    words = f"converted {done.pictures:,} pictures to {wanted}; nothing was sent"
    if done.left_count:
        words += f"; {done.left_count:,} not converted"
    runner.say(words)
    items = runner.snapshot().items
    if done.left_count or items.pending or items.accepted or items.held or items.timed_out:
        return ExitStatus.PAUSED, words
    return ExitStatus.FAILED if items.failed else ExitStatus.DONE, words
