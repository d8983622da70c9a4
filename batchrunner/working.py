"""A worker of a job that a coordinator divides: takes a shard, works on it, puts it down, until none is left.

It beats for its shard apart from all that it sends. Once a beat is answered with no, or none has been answered for the
time that the coordinator named, the shard is another's: no request leaves any more, what is in flight is recorded in
this epoch's own directory, and the process ends with status 4.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batchrunner.coordination.address import CoordinatorGoneError, address_of, secret_for
from batchrunner.coordination.client import CoordinatorClient
from batchrunner.core.coordination_messages import Counts, Outcome
from batchrunner.core.errors import BatchrunnerError, ClaimLostError, ExitStatus, WrongDirectoryError
from batchrunner.core.job import Job
from batchrunner.core.part import Shard
from batchrunner.core.shard import with_leased_shard
from batchrunner.core.status import ItemCounts, Report, SendCounts, Status, UsageCounts
from batchrunner.core.values import dataclass, field
from batchrunner.engine.leased_pace import Seat
from batchrunner.report.attended import harmless
from batchrunner.report.shard_status import status_of_shards
from batchrunner.running import RunOptions, run_alone
from batchrunner.stores.run_directory import digest_of_job
from batchrunner.stores.shard_takeover import take_over_shard
from batchrunner.stores.shards import claim_shard

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner

OPTION: Final = "--coordinator"
_AGAIN_S: Final = 0.5
"""Between two tries to reach a coordinator that is away."""
_GIVES_UP_S: Final = 60.0
"""A worker without a shard waits so long for a coordinator that is started again, then ends with status 4."""
_ENDS: Final = frozenset({ExitStatus.INTERRUPTED, ExitStatus.TERMINATED, ExitStatus.STOPPED})


@dataclass(slots=True, kw_only=True)
class HeldClaim:
    """A shard at an epoch, as long as it is this worker's."""

    client: CoordinatorClient
    shard: int
    epoch: int
    until: float
    """Monotonic: lost then, unless a beat is answered before."""
    expires_s: float
    beat_s: float
    monotonic: Callable[[], float] = time.monotonic
    lost: str = ""
    """Why it is another's."""
    runner: "Runner | None" = field(default=None)
    _planned: asyncio.Event = field(default_factory=asyncio.Event)
    """The items are known: that is told with a beat of its own."""

    def may_send(self) -> bool:
        """Asked between each intent and its request: a process that was stopped there may have lost its claim."""
        if not self.lost and self.monotonic() >= self.until:
            self.lose(f"no beat was answered for {self.expires_s:g} s")
        return not self.lost

    def lose(self, why: str) -> None:
        """Nothing leaves any more; what is in flight is awaited and recorded."""
        if not self.lost:
            self.lost = (
                f"shard {self.shard}, epoch {self.epoch}: {why}, so another worker may have taken it over; nothing "
                "more is sent for it from here, and what it has is kept; start this worker again to take another shard"
            )
        if self.runner is not None:
            self.runner.shutdown.disk_refused(ClaimLostError(self.lost))

    def begins(self, runner: "Runner") -> None:
        """The run that works on the shard."""
        self.runner = runner
        self._planned.set()
        if self.lost:
            self.lose("")

    async def keep(self) -> None:
        """Beat until it is lost, or this is cancelled."""
        while self.may_send():
            asked = self.monotonic()
            try:
                async with asyncio.timeout(max(0.01, self.until - asked)):
                    beaten = await self.client.beat(self.shard, self.epoch, self.counts())
            except (CoordinatorGoneError, TimeoutError):
                await asyncio.sleep(min(_AGAIN_S, self.beat_s / 2.0))
                continue
            except BatchrunnerError as error:
                self.lose(str(error))
                return
            if not beaten.ok:
                self.lose("the coordinator has given it away")
                return
            self.until = asked + self.expires_s
            if beaten.stop is not None and self.runner is not None:
                self.runner.shutdown.pause("the coordinator ends the work")
            with suppress(TimeoutError):
                async with asyncio.timeout(self.beat_s):
                    await self._planned.wait()
            self._planned.clear()

    def counts(self) -> Counts:
        """Where the shard stands."""
        return Counts() if self.runner is None else _counts(self.runner.snapshot(), self.runner)


def _counts(status: Status, runner: "Runner") -> Counts:
    items, sends, usage, spent = status.items, status.sends, status.usage, runner.budget_guard.spent
    given = usage.input_tokens or 0, usage.output_tokens or 0
    return Counts(
        of_job=runner.totals.of_job,
        done=items.done,
        failed=items.failed,
        pending=items.pending + items.accepted,
        held=items.held,
        sending=sum(lane.in_flight + lane.open_tasks for lane in runner.lanes),
        paid_calls=round(spent.calls),
        sends=sends.total,
        refused=sends.refused,
        ambiguous=sends.ambiguous,
        unknown=sends.unknown,
        duplicates=sends.possible_duplicates,
        tokens=round(spent.tokens),
        input_tokens=given[0],
        output_tokens=given[1],
        images=usage.images,
        points=spent.points,
        money=spent.money,
    )


async def work(job: Job, options: RunOptions, *, coordinator: str) -> Report:
    """Work on shards of the job until the coordinator has none left; the status is that of all shards together.

    Raises:
        JobMistakesError: the address, or the job's own.
        CoordinatorGoneError, CoordinatorRefusedError: at the beginning.
        BatchrunnerError: as a run.
    """
    from batchrunner.transport import ApiTransport, PictureDownloads  # noqa: F401, PLC0415 - before beats wait for it

    address = address_of(coordinator, option=OPTION)
    base, say = Path(job.output.dir), harmless(options.get("say"))
    digest = await asyncio.to_thread(digest_of_job, job)
    async with CoordinatorClient(address, job=digest, secret=secret_for(address, option=OPTION)) as client:
        welcome = await client.hello()
        away_since: float | None = None
        while True:
            asked = time.monotonic()
            try:
                claimed = await client.claim()
            except CoordinatorGoneError as error:
                if away_since is None:
                    say(str(error))
                    away_since = asked
                if asked - away_since >= _GIVES_UP_S:
                    raise
                await asyncio.sleep(_AGAIN_S)
                continue
            away_since = None
            if claimed.shard is None or claimed.epoch is None:
                if claimed.wait_s is not None:
                    await asyncio.sleep(claimed.wait_s)
                    continue
                return await _ended(base, job, is_finished=claimed.finished)
            claim = HeldClaim(
                client=client,
                shard=claimed.shard,
                epoch=claimed.epoch,
                until=asked + welcome.expires_s,
                expires_s=welcome.expires_s,
                beat_s=welcome.beat_s,
            )
            report = await _work_on(claim, job, options, of=welcome.shards, say=say)
            if report is not None and report.exit_status in _ENDS:
                return report


async def _ended(base: Path, job: Job, *, is_finished: bool) -> Report:
    try:
        status = await asyncio.to_thread(status_of_shards, base)
    except (AssertionError, WrongDirectoryError):  # no shard has begun here
        status = Status(
            job=job.name,
            state="done" if is_finished else "paused",
            items=ItemCounts(),
            sends=SendCounts(),
            usage=UsageCounts(),
            dir=str(base),
        )
    if not is_finished:
        return Report(status=status, exit_status=ExitStatus.PAUSED)
    return Report(status=status, exit_status=ExitStatus.FAILED if status.items.failed else ExitStatus.DONE)


async def _work_on(
    claim: HeldClaim, job: Job, options: RunOptions, *, of: int, say: Callable[[str], None]
) -> Report | None:
    """What the run of a shard came to; None where another epoch had begun already."""
    shard, base = Shard(number=claim.shard, of=of), Path(job.output.dir)
    beating = asyncio.create_task(claim.keep())
    report: Report | None = None
    outcome: Outcome = "failed"
    message = ""
    try:
        say(f"shard {shard}, epoch {claim.epoch}: taken")
        folder = base / "shards" / shard.folder / f"epoch-{claim.epoch}"
        own = with_leased_shard(job, shard, folder=str(folder))
        await asyncio.to_thread(claim_shard, own)
        try:
            await asyncio.to_thread(take_over_shard, base, shard, claim.epoch)
        except WrongDirectoryError:
            outcome = "lost"
            return None
        seat = Seat(
            ask=claim.client.lease,
            worker=claim.client.worker,
            may_send=claim.may_send,
            begins=claim.begins,
            limits=job.limits,
        )
        report = await run_alone(own, {**options, "seat": seat})
        outcome, message = _outcome(claim, report)
    except BatchrunnerError as error:
        message = str(error)
        raise
    except asyncio.CancelledError:
        outcome = "paused"
        raise
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        with suppress(BatchrunnerError):
            await claim.client.end(claim.shard, claim.epoch, outcome, counts=claim.counts(), message=message)
    return report


def _outcome(claim: HeldClaim, report: Report) -> tuple[Outcome, str]:
    if claim.lost:
        return "lost", ""
    match report.exit_status:
        case ExitStatus.DONE | ExitStatus.FAILED:
            return "finished", ""
        case ExitStatus.STOPPED | ExitStatus.MISTAKE | ExitStatus.REFUSED:
            return "failed", report.status.message or ""
        case _:
            return "paused", ""
