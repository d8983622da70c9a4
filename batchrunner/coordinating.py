"""The coordinator of a job as a process: `coordinate`, and `run --processes N` with workers on this machine.

Both open the directory, serve the coordinator, show how it stands by what the workers' beats say, and end when no shard
is left. With processes, workers are started, started again when they died, ended together, and the shards are merged.
"""

import asyncio
import os
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from batchrunner.coordination.address import PROCESSES_VARIABLE, Address
from batchrunner.coordination.copies import CopiedProcess, Copies
from batchrunner.coordination.desk import Desk
from batchrunner.coordination.server import CoordinatorServer
from batchrunner.core.budget import Amounts, BudgetLine, budget_lines
from batchrunner.core.coordination import EXPIRES_S, Coordinator
from batchrunner.core.coordination_messages import Counts, Spent
from batchrunner.core.errors import BatchrunnerError, ExitStatus
from batchrunner.core.job import Job
from batchrunner.core.pacing import day_of
from batchrunner.core.part import Shard
from batchrunner.core.presets import PRESETS
from batchrunner.core.state import LedgerState
from batchrunner.core.status import ItemCounts, LaneStatus, Report, SendCounts, ShardStatus, Status, UsageCounts
from batchrunner.core.values import dataclass, field, replace
from batchrunner.engine.budget_guard import spent_so_far
from batchrunner.engine.shutdown import Shutdown, listening
from batchrunner.report.attended import Progress
from batchrunner.report.shard_status import status_of_shards
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_reader import newest_open, read_ledger
from batchrunner.stores.ledger_replay import replay_into
from batchrunner.stores.lock import RunLock
from batchrunner.stores.merging import Merge
from batchrunner.stores.run_directory import digest_of_job
from batchrunner.stores.run_file import RUN_FILE, SHARDS, make_run_folder
from batchrunner.stores.shard_claims import ClaimFiles
from batchrunner.stores.shards import claim_shard, epochs_of, has_open_shards, read_layout

_LOOK_S: Final = 0.1
_DEATHS_S: Final = 0.5
"""Between two looks for workers of this machine that have died."""
_LAST_WORD_S: Final = 2.5
"""How long workers that wait for a shard are told that there is none, once all are over."""
_DEATHS: Final = 5
"""Of one place for a worker, in a row, without an item more: then it is not started again."""
_LINES_KEPT: Final = 20
_AGAIN_S: Final = 0.2
_STATES: Final = {"refused": ExitStatus.REFUSED, "stopped": ExitStatus.STOPPED}


class WorkersEndedError(BatchrunnerError):
    """The workers of this machine cannot work; `exit_status` is theirs."""

    def __init__(self, text: str, exit_status: ExitStatus = ExitStatus.STOPPED) -> None:
        super().__init__(text)
        self.exit_status = exit_status


@asynccontextmanager
async def opened(
    job: Job, *, shards: int, locks_tell: bool, expires_s: float = EXPIRES_S
) -> AsyncIterator[tuple[Desk, Path]]:
    """The coordinator of the job in its directory, which no other one serves meanwhile.

    Args:
        job: the whole job.
        shards: how many, where the job is not divided yet.
        locks_tell: every worker runs on this machine, and what was finished is gone through again.
        expires_s: as for `Coordinator`.

    Raises:
        WrongDirectoryError, LockHeldError, LedgerDamagedError, StoreBrokenError: nothing was sent.
    """
    base = Path(job.output.dir)
    layout = await asyncio.to_thread(read_layout, base)
    of = layout.shards if layout is not None else shards
    first = replace(job, shard=Shard(number=0, of=of))
    folder = str(base / SHARDS / f"0-of-{of}" / "epoch-1")
    await asyncio.to_thread(claim_shard, replace(first, output=replace(job.output, dir=folder)))
    await asyncio.to_thread(make_run_folder, base / SHARDS)
    lock = RunLock(base / SHARDS)
    await asyncio.to_thread(lock.acquire)
    try:
        yield await asyncio.to_thread(_desk, job, base, of, locks_tell=locks_tell, expires_s=expires_s), base
    finally:
        lock.release()


def _desk(job: Job, base: Path, shards: int, *, locks_tell: bool, expires_s: float) -> Desk:
    """What the disk knows of claims, of today's requests and of the budget, and the coordinator of it. Blocks."""
    digest = digest_of_job(job)
    claims = ClaimFiles(base, shards=shards, job=digest)
    known = claims.known(locks_tell=locks_tell, keep_finished=not locks_tell)
    sent: dict[str, int] = {}
    spent: dict[int, Spent] = {}
    if job.limits.requests_per_day is not None or job.budget is not None:
        offset_s = PRESETS[job.provider.preset].day_offset_s
        today = day_of(wall=time.time(), offset_s=offset_s)
        for number in known.epochs:
            state = _state_of(base, Shard(number=number, of=shards), offset_s)
            for account, model in state.days:
                name = f"{account} {model}"
                sent[name] = sent.get(name, 0) + state.sent_today(account, model, day=today)
            if job.budget is not None:
                spent[number] = _spent(job, state)
    coordinator = Coordinator(
        job,
        digest=digest,
        shards=shards,
        now=time.monotonic(),
        expires_s=expires_s,
        epochs=known.epochs,
        goes_on=known.goes_on,
        finished=known.finished,
        held=known.held,
        sent_today=sent,
        counts=known.counts,
    )
    coordinator.lanes.spent.update(spent)
    return Desk(coordinator, claims)


def _state_of(base: Path, shard: Shard, offset_s: float) -> LedgerState:
    state = LedgerState(day_offset_s=offset_s)
    for folder in epochs_of(base, shard)[:1]:  # it has what the older ones had when it took the shard over
        replay_into(state, read_ledger(folder / LEDGER))
        state.segment_ended()
    return state


def _spent(job: Job, state: LedgerState) -> Spent:
    assert job.budget is not None, "asked for a job with a budget"
    amounts = spent_so_far(
        state.tallies, kind=job.kind, prices=job.budget.prices, points_per_call=job.provider.points_per_call
    )
    return Spent(calls=amounts.calls, tokens=amounts.tokens, points=amounts.points, money=amounts.money)


def snapshot_of(coordinator: Coordinator, job: Job, base: Path) -> Status:
    """Where the job stands, by the workers' last beats."""
    shards = [shard for _, shard in coordinator.counts()]
    told = [shard.counts for shard in shards]

    def items(one: Counts) -> ItemCounts:
        total = one.done + one.failed + one.pending + one.held
        return ItemCounts(total=total, done=one.done, failed=one.failed, pending=one.pending, held=one.held)

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in told)

    parks, lanes = coordinator.lanes.parks, list[LaneStatus]()
    for name, (in_flight, concurrency) in coordinator.lanes.in_flight.items():
        account, _, model = name.partition(" ")
        at_work = LaneStatus(account=account, model=model, state="open", in_flight=in_flight, concurrency=concurrency)
        park = parks.get(name)
        lanes.append(
            at_work if park is None else replace(at_work, state="parked", activity="parked", reason=park.reason)
        )
    done, failed, held = total("done"), total("failed"), total("held")
    pending = max(total("pending"), coordinator.items - done - failed - held)
    return Status(
        job=job.name,
        state="running",
        items=items(Counts(done=done, failed=failed, pending=pending, held=held)),
        sends=SendCounts(
            total=total("sends"),
            refused=total("refused"),
            ambiguous=total("ambiguous"),
            unknown=total("unknown"),
            possible_duplicates=total("duplicates"),
        ),
        usage=UsageCounts(
            input_tokens=total("input_tokens") or None,
            output_tokens=total("output_tokens") or None,
            images=total("images"),
        ),
        lanes=tuple(lanes),
        budget=_budget_lines(job, told),
        dir=str(base),
        simulated=job.simulated,
        shards=tuple(
            ShardStatus(
                shard=f"{number}/{len(shards)}",
                state="running" if shard.is_held else "done" if shard.outcome == "finished" else "pending",
                items=items(shard.counts) if shard.epoch else None,
                dir=str(base / SHARDS / f"{number}-of-{len(shards)}" / f"epoch-{max(1, shard.epoch)}"),
            )
            for number, shard in coordinator.counts()
        ),
    )


def _budget_lines(job: Job, told: list[Counts]) -> tuple[BudgetLine, ...]:
    if job.budget is None:
        return ()
    spent = Amounts(
        calls=sum(one.paid_calls for one in told),
        tokens=sum(one.tokens for one in told),
        points=sum(one.points for one in told),
        money=sum(one.money for one in told),
    )
    return tuple(budget_lines(job.budget, spent, Amounts()))


async def _shown(progress: Progress, coordinator: Coordinator, job: Job, base: Path) -> None:
    """Progress, from when it is known how many items there are."""
    while not coordinator.items and not coordinator.is_finished:  # noqa: ASYNC110 - it is pure: it wakes nobody
        await asyncio.sleep(_LOOK_S)
    await progress(lambda: snapshot_of(coordinator, job, base))


async def serve(desk: Desk, address: Address, secret: str, shutdown: Shutdown, say: Callable[[str], None]) -> None:
    """Serve until every shard is over, or until a signal has ended all workers.

    Raises:
        StoreBrokenError: the address cannot be listened on.
        asyncio.CancelledError: a second signal.
    """
    coordinator = desk.coordinator
    async with CoordinatorServer(desk, address, secret=secret) as server:
        say(
            f"coordinating {len(coordinator.shards)} shards at {server.address}; workers: run JOB --coordinator ADDRESS"
        )
        until, looked = None, time.monotonic()
        while True:
            if time.monotonic() - looked >= _DEATHS_S:
                with suppress(BatchrunnerError):  # what the disk does not say now, an expired claim does later
                    for number, epoch in await asyncio.to_thread(desk.found_dead):
                        desk.lost(number, epoch)
                looked = time.monotonic()
            if shutdown.drains and coordinator.stop is None:
                coordinator.drain("signal")
                say("no shard is given away any more; waiting for the workers, again to stop at once")
            coordinator.expire(time.monotonic())
            if coordinator.is_over:
                until = until or time.monotonic() + _LAST_WORD_S
                if time.monotonic() >= until or shutdown.requests > 1:
                    return
            await asyncio.sleep(_LOOK_S)


async def coordinate(
    job: Job,
    address: Address,
    *,
    secret: str,
    shards: int,
    say: Callable[[str], None],
    progress: Progress | None = None,
) -> Report:
    """Serve the job's coordinator until its shards are over. Raises as `opened` and `serve`."""
    shutdown = Shutdown()
    async with opened(job, shards=shards, locks_tell=False) as (desk, base):
        serving = asyncio.create_task(serve(desk, address, secret, shutdown, say))
        shutdown.watch_over(serving)
        showing = asyncio.create_task(_shown(progress, desk.coordinator, job, base)) if progress else None
        try:
            with listening(shutdown), suppress(asyncio.CancelledError):
                await serving
        finally:
            if showing is not None:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
            shutdown.over()
        return await asyncio.to_thread(_report, desk.coordinator, job, base, shutdown)


def _report(coordinator: Coordinator, job: Job, base: Path, shutdown: Shutdown) -> Report:
    """How it ended; the exit status is the one that one process would end with. Blocks."""
    status = status_of_shards(base)
    if not any(shard.items is not None for shard in status.shards):
        status = replace(status, job=job.name)
    words = next((shard.message for shard in coordinator.shards if shard.outcome == "failed" and shard.message), None)
    status = replace(status, message=words or status.message)
    if shutdown.signal_number is not None and not coordinator.is_finished:
        is_interrupt = shutdown.signal_number == signal.SIGINT
        return Report(status=status, exit_status=ExitStatus.INTERRUPTED if is_interrupt else ExitStatus.TERMINATED)
    if coordinator.is_finished:
        return Report(status=status, exit_status=ExitStatus.FAILED if status.items.failed else ExitStatus.DONE)
    if any(shard.outcome == "failed" for shard in coordinator.shards):
        return Report(status=status, exit_status=_STATES.get(status.state, ExitStatus.STOPPED))
    return Report(status=status, exit_status=ExitStatus.PAUSED)


# Workers of this machine.


@dataclass(slots=True)
class _WorkerPlace:
    """A place for a worker: who is there, and what became of those before."""

    of: int
    """How many places there are."""
    process: asyncio.subprocess.Process | CopiedProcess | None = None
    deaths: int = 0
    ended_at_death: int = -1
    exit_status: int | None = None
    lines: "deque[str]" = field(default_factory=lambda: deque(maxlen=_LINES_KEPT))
    copies: Copies | None = None
    """Who waits to be the first."""

    async def begin(self, argv: Sequence[str]) -> asyncio.subprocess.Process | CopiedProcess:
        """A worker at work: a copy that waits, else a program that is started."""
        if self.copies is not None and self.copies.waiting:
            return await CopiedProcess.of(self.copies.waiting.popleft())
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, PROCESSES_VARIABLE: str(self.of)},
            start_new_session=True,  # Ctrl-C in a terminal reaches this process, which hands it on
        )


async def run_processes(
    job: Job,
    command: Sequence[str],
    *,
    address: Address,
    processes: int,
    copies: Copies | None,
    say: Callable[[str], None],
    progress: Progress,
) -> tuple[Report, bool]:
    """Run a job with so many workers; `command` starts one that asks the coordinator at `address`.

    Copies that wait are the first workers.

    Returns how it ended, and whether every shard is finished, so that they may be merged.

    Raises:
        WorkersEndedError: the workers could not work, or died again and again.
        WrongDirectoryError, LockHeldError, LedgerDamagedError, StoreBrokenError: nothing was sent.
    """
    shutdown, places = Shutdown(), [_WorkerPlace(of=processes, copies=copies) for _ in range(processes)]
    try:
        async with opened(job, shards=processes, locks_tell=True) as (desk, base):
            coordinator = desk.coordinator
            async with CoordinatorServer(desk, address, secret=""):
                showing = asyncio.create_task(_shown(progress, coordinator, job, base))
                if copies is not None:
                    copies.begin()
                working = [asyncio.create_task(_keep(place, command, desk, shutdown, say)) for place in places]
                handing_on = asyncio.create_task(_hand_on(shutdown, places, coordinator))
                try:
                    with listening(shutdown):
                        await asyncio.gather(*working)
                finally:
                    for task in (showing, handing_on, *working):
                        task.cancel()
                    await asyncio.gather(showing, handing_on, *working, return_exceptions=True)
                    await _end_all(places)
                    shutdown.over()
            _raise_for(places, coordinator, shutdown)
            report = await asyncio.to_thread(_report, coordinator, job, base, shutdown)
            return report, coordinator.is_finished
    finally:
        if copies is not None:
            copies.close()


async def _hand_on(shutdown: Shutdown, places: list[_WorkerPlace], coordinator: Coordinator) -> None:
    """Each signal to every worker: the first ends them in order, the second at once."""
    handed_on = 0
    while True:
        if shutdown.requests > handed_on:
            handed_on += 1
            coordinator.drain("signal")
            for place in places:
                if place.process is not None and place.process.returncode is None:
                    with suppress(ProcessLookupError):
                        place.process.send_signal(shutdown.signal_number or signal.SIGTERM)
        await asyncio.sleep(_LOOK_S / 2.0)


async def _keep(
    place: _WorkerPlace, argv: Sequence[str], desk: Desk, shutdown: Shutdown, say: Callable[[str], None]
) -> None:
    """A worker in its place, started again when it died, until it has ended by itself."""
    coordinator = desk.coordinator
    while not shutdown.drains:
        place.process = process = await place.begin(argv)
        assert process.stderr is not None, "it is a pipe"
        place.lines.clear()
        while line := await _line(process.stderr):
            place.lines.append(line)
        place.exit_status = status = await process.wait()
        mine = f"{socket.gethostname()}-{process.pid}-"  # as clients name themselves
        for shard in coordinator.shards:
            if shard.worker is not None and shard.worker.startswith(mine):
                await asyncio.to_thread(desk.died, shard.worker)
        if shutdown.requests or status not in {ExitStatus.STOPPED, *range(-64, 0)}:
            return
        ended = sum(shard.counts.done + shard.counts.failed for shard in coordinator.shards)
        place.deaths = place.deaths + 1 if ended == place.ended_at_death else 1
        place.ended_at_death = ended
        if place.deaths >= _DEATHS or coordinator.is_over:
            return
        why = f"was ended by signal {-status}" if status < 0 else "lost its shard or was stopped by this machine"
        say(f"a worker (pid {process.pid}) {why}; it is started again")
        await asyncio.sleep(_AGAIN_S * place.deaths)


async def _line(stream: asyncio.StreamReader) -> str:
    """The next line with its end; empty at the end of the stream. Of lines that are too long nothing is kept."""
    try:
        return (await stream.readline()).decode("utf-8", "replace")
    except ValueError:
        return "…\n"


async def _end_all(places: list[_WorkerPlace]) -> None:
    """Whoever is left: after an error of this process."""
    for place in places:
        if place.process is not None and place.process.returncode is None:
            with suppress(ProcessLookupError):
                place.process.kill()
            await place.process.wait()


def _raise_for(places: list[_WorkerPlace], coordinator: Coordinator, shutdown: Shutdown) -> None:
    """Workers that could not work say why, once. Raises WorkersEndedError."""
    if coordinator.is_finished or shutdown.signal_number is not None:
        return
    mistaken = [place for place in places if place.exit_status == ExitStatus.MISTAKE]
    died = [place for place in places if place.exit_status is not None and place.exit_status < 0]
    stopped = [place for place in places if place.exit_status == ExitStatus.STOPPED]
    for found, status in ((mistaken, ExitStatus.MISTAKE), (stopped, ExitStatus.STOPPED), (died, ExitStatus.STOPPED)):
        if found:
            words = "".join(found[0].lines).strip() or f"a worker was ended by signal {-(found[0].exit_status or 0)}"
            raise WorkersEndedError(words, status)


def merge_all(job: Job) -> None:
    """Merge the shards that workers have finished, all of them of this very job. Blocks. Raises as `api.merge`."""
    Merge(Path(job.output.dir), partial=False, job_digest=digest_of_job(job)).run()


def is_alone(base: Path) -> bool:
    """Whether the directory has a run of the whole job, or a merged one: then one process goes on. Blocks."""
    if has_open_shards(base):
        return False
    return newest_open(base / LEDGER) is not None or os.path.lexists(base / RUN_FILE)
