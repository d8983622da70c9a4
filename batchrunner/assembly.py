"""Builds the concrete things of a run and plugs them together; decides nothing. The one file that knows every room.

Libraries that cost time to load are loaded inside the functions that need them.
"""

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Done, recorded_files
from batchrunner.core.job import Job
from batchrunner.core.plan import PointBalance, Totals
from batchrunner.core.ports import Downloads, Holding, Ports, TaskDialect, Transport
from batchrunner.core.presets import PRESETS
from batchrunner.core.rehearsal import Rehearsal, RehearsalOptions
from batchrunner.core.state import LedgerState, Standing
from batchrunner.core.version import VERSION
from batchrunner.engine.clock import LoopClock
from batchrunner.engine.runner import Runner, Wishes
from batchrunner.engine.shutdown import Shutdown
from batchrunner.engine.survey import survey, totals_of
from batchrunner.prompts import JobItems, items_of
from batchrunner.providers import dialect_for
from batchrunner.providers.modelscope_balance import BalanceReader, balance_origin, balance_request
from batchrunner.report.standing import LEDGER, replay
from batchrunner.report.words import skipped_words
from batchrunner.stores.artifacts import AnswerFolder, Artifacts
from batchrunner.stores.error_log import ErrorLog
from batchrunner.stores.files import DISK, Files, InspectedFiles
from batchrunner.stores.ledger import LedgerWriter
from batchrunner.stores.off_loop import Threads
from batchrunner.stores.results import AdoptedRow, ResultsFile
from batchrunner.stores.run_directory import (
    digest_of_job,
    refuse_run_elsewhere,
    remember_totals,
    remove_leftovers,
    windows_that_worked,
)
from batchrunner.stores.run_file import check_claim
from batchrunner.stores.zones import offset_of_zone
from batchrunner.transport import ApiTransport, PictureDownloads, Secret, is_private_host, read_keys
from batchrunner.transport.masking import KeylessItems
from batchrunner.transport.room import Room
from batchrunner.transport.secrets import mask, read_proxy_auth


async def assemble(
    job: Job,
    stack: AsyncExitStack,
    *,
    clock: LoopClock,
    keys: dict[str, Secret],
    folder: Path,
    wishes: Wishes,
    say: Callable[[str], None],
    network: tuple[Transport, Downloads] | None,
    files: InspectedFiles = DISK,
    dice: random.Random | None = None,
) -> Runner:
    """Everything that a run needs, from the ledger up. The ledger's segment is opened once all mistakes are out.

    `files` and `dice` are the machine's own unless a simulation, which must be the same for the same seed, brings its.
    """
    disk = Threads("assembly", count=1)
    stack.callback(disk.close)
    await disk.run(remove_leftovers, folder, files=files)
    told: list[str] = []  # by the thread; `say` belongs to the loop
    day_offset_s = PRESETS[job.provider.preset].day_offset_s
    state = await disk.run(replay, folder, day_offset_s=day_offset_s, say=told.append, files=files)
    for line in told:
        say(line)
    items = items_of(job)
    found = await survey(KeylessItems(items, keys), state, limit=wishes.limit, hold=job.on_ambiguous == "hold")
    found = replace(found, skipped=items.skipped)
    for line in skipped_words(found.skipped_rows, found.skipped):
        say(line)
    results = ResultsFile(folder, files=files)
    recovered = await disk.run(results.recover, state.results_length)
    transport, downloads = network or await _network(job, stack, disk, clock=clock, keys=keys, say=say)
    wall = clock.wall()
    opened: list[LedgerWriter] = []
    stack.push_async_callback(_close, opened, results)

    def open_ledger() -> None:
        opened.append(
            LedgerWriter.open(
                folder / LEDGER,
                run=f"{os.getpid()}-{int(wall)}",
                job=digest_of_job(job),
                program=VERSION,
                labels=found.labels,
                clock=clock,
                wall=wall,
                files=files,
            )
        )

    await disk.run(open_ledger)
    (ledger,) = opened
    state.live = True
    windows = await disk.run(windows_that_worked, folder, files=files)
    totals = totals_of(job, found, accounts=len(keys), windows=windows)
    runner = Runner(
        job=job,
        ports=_ports(
            job,
            stack,
            clock=clock,
            items=items,
            transport=transport,
            downloads=downloads,
            ledger=ledger,
            results=results,
            keys=keys,
            folder=folder,
            files=files,
        ),
        state=state,
        found=found,
        totals=totals,
        wishes=wishes,
        shutdown=Shutdown(),
        dice=dice or random.Random(),  # noqa: S311 - jitter, no secret
        say=say,
        offset_at=offset_of_zone(job.timezone),
        adopted=tuple(done for row in recovered.adopted if (done := _adopted(row, state)) is not None),
        realigned_length=recovered.length if recovered.realigned else None,
    )
    if recovered.torn_bytes:
        say(f"{folder}/results.jsonl: a torn end of {recovered.torn_bytes} bytes was moved to results.torn")
    return runner


def _ports(
    job: Job,
    stack: AsyncExitStack,
    *,
    clock: LoopClock,
    items: JobItems,
    transport: Transport,
    downloads: Downloads,
    ledger: LedgerWriter,
    results: ResultsFile,
    keys: dict[str, Secret],
    folder: Path,
    files: Files,
) -> Ports:
    from batchrunner.stores.images import PictureFiles  # noqa: PLC0415 - Pillow, for runs only

    artifacts = Artifacts(folder, files=files)
    stack.callback(artifacts.close)
    pictures = PictureFiles(artifacts)
    stack.callback(pictures.close)

    def hide_keys(text: str) -> str:
        return mask(text, keys.values())

    def remember(totals: Totals) -> None:
        remember_totals(folder, totals, files=files)

    dialect = dialect_for(job.provider)
    return Ports(
        clock=clock,
        items=items,
        dialect=dialect,
        tasks=dialect if isinstance(dialect, TaskDialect) else None,
        transport=transport,
        downloads=downloads,
        ledger=ledger,
        results=results,
        pictures=pictures,
        each=AnswerFolder(artifacts, path_of=items.path_of) if job.output.each else None,
        accounts=tuple(keys) or ("",),
        remember=remember,
        note_fault=ErrorLog(folder, mask=hide_keys, wall=clock.wall, files=files),
        hold=transport.hold if isinstance(transport, Holding) else _hold_nothing,
    )


def _hold_nothing(_: int) -> AbstractContextManager[object]:
    return nullcontext()


async def _network(
    job: Job,
    stack: AsyncExitStack,
    disk: Threads,
    *,
    clock: LoopClock,
    keys: dict[str, Secret],
    say: Callable[[str], None],
) -> tuple[Transport, Downloads]:
    """The real sessions, or the simulated world in process."""
    if job.provider.base_url.removesuffix("/v1") == PRESETS["simulator"].base_url.removesuffix("/v1"):
        from batchrunner.simulator.in_process import simulated_network  # noqa: PLC0415 - for simulated runs only

        return simulated_network(scenario=job.scenario, timeouts=job.timeouts, clock=clock)
    provider, room = job.provider, Room()
    proxy_auth = read_proxy_auth(provider.proxy_auth_env, os.environ) if provider.proxy_auth_env else None
    transport = await disk.run(  # reads certificates
        ApiTransport,
        provider,
        timeouts=job.timeouts,
        keys=keys,
        wall=clock.wall,
        room=room,
        say=say,
        proxy_auth=proxy_auth,
    )
    private = await is_private_host(provider.base_url)
    downloads = await disk.run(
        PictureDownloads,
        timeouts=job.timeouts,
        allow_private=private,
        allow_http=private or provider.allow_http,
        proxy=provider.proxy,
        proxy_auth=proxy_auth,
        ca_file=provider.ca_file,
        hide=tuple(keys.values()),
        room=room,
    )
    return await stack.enter_async_context(transport), await stack.enter_async_context(downloads)


async def ask_balances(job: Job, keys: dict[str, Secret]) -> tuple[PointBalance, ...]:
    """What each account has at ModelScope, when the job wants to know; a free question to a host of its own."""
    if not job.provider.balance or not keys:
        return ()
    base_url = job.provider.base_url
    provider = replace(job.provider, base_url=balance_origin(base_url), auth="bearer", headers={}, api_version=None)
    proxy_auth = read_proxy_auth(provider.proxy_auth_env, os.environ) if provider.proxy_auth_env else None
    async with ApiTransport(provider, timeouts=job.timeouts, keys=keys, proxy_auth=proxy_auth) as transport:
        request = balance_request(base_url)
        asked = [transport.exchange(request, BalanceReader(account), account=account) for account in keys]
        return tuple(await asyncio.gather(*asked))


def rehearsal_of(job: Job, options: RehearsalOptions) -> Rehearsal:
    """A rehearsal of what the job's directory says is left; see `app.rehearse`."""
    from batchrunner.simulator.profiles import profile_of  # noqa: PLC0415 - the simulator, for simulated runs only
    from batchrunner.simulator.rehearsal import rehearse  # noqa: PLC0415 - as above

    profile = profile_of(job, options.get("profile", ""))
    day_offset_s = PRESETS[job.provider.preset].day_offset_s
    state, windows = LedgerState(day_offset_s=day_offset_s), dict[str, int]()
    if not options.get("from_scratch", False):
        folder = Path(job.output.dir)
        refuse_run_elsewhere(job)
        check_claim(folder, job_name=job.name, simulated=job.simulated)
        state, windows = replay(folder, day_offset_s=day_offset_s), windows_that_worked(folder)
    missing = read_keys(job.provider.key_env, os.environ)[1]
    return rehearse(
        job,
        state=state,
        profile=profile,
        wall=options.get("began", LoopClock().wall()),
        seed=options.get("seed", 0),
        limit=options.get("limit"),
        windows=windows,
        notes=tuple(mistake.problem for mistake in missing),
    )


async def _close(opened: list[LedgerWriter], results: ResultsFile) -> None:
    """A clean end where the disk lets us; where it does not, the next run finds a torn tail and goes on."""
    with suppress(StoreBrokenError):
        await results.close()
    for ledger in opened:
        with suppress(StoreBrokenError):
            await ledger.close()


def _adopted(row: AdoptedRow, state: LedgerState) -> Done | None:
    """A `done` for a row that reached the disk although its process did not live to say so.

    Its item may be unknown to the ledger: a power loss may take intents that were not synced, and the row is paid for.
    """
    record = state.record(bytes.fromhex(row.key))
    if record.standing in {Standing.DONE, Standing.FAILED}:
        return None
    return Done(
        i=row.id,
        k=row.key,
        n=max(1, record.sends),
        a=row.attempts,
        crc=row.place.crc,
        length=row.place.length,
        files=recorded_files(row.files),
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        images=len(row.files),
        recovered=True,
    )
