"""Follows batches that were ordered: looks at them until they end, has their results read, finds lost ones again."""

import math
from typing import TYPE_CHECKING, Final

from batchrunner.core.batch_ports import BatchDialect
from batchrunner.core.error_policy import POLICY
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.remote_batch import BatchLook, RemoteBatch
from batchrunner.core.values import dataclass, field
from batchrunner.engine.batch_records import BatchRecords
from batchrunner.engine.batch_requests import NOT_FOUND, BatchRequests
from batchrunner.engine.batch_results import BatchResults
from batchrunner.engine.planning import closed_queue

if TYPE_CHECKING:
    from batchrunner.engine.batches import BatchPhase
    from batchrunner.engine.runner import Runner

_FIRST_LOOK_S: Final = 30.0
_LAST_LOOK_S: Final = 300.0
_FIND_GAP_S: Final = 60.0
"""Between two looks into the list, after which a batch that was in neither was never ordered."""
_GONE_LOOKS: Final = 5
_GONE_S: Final = 180.0
"""A batch that the server knows nothing of for so long, and so often, is gone."""
_REFUSED_LOOKS: Final = 3
_GIVE_UP_S: Final = 26 * 3600.0
_AFTER_EXPIRY_S: Final = 3600.0
_LISTED_S: Final = 28 * 24 * 3600.0
"""For so long a list without names is trusted to have every batch."""
_NOT_LISTED: Final = frozenset({400, 404, 405, 501})
NOT_ORDERED: Final = "batch_not_ordered"
"""Why items leave a batch whose order the server does not have."""


@dataclass(slots=True, kw_only=True)
class OpenBatch:
    """What this process knows of an open batch."""

    batch: RemoteBatch
    next_at: float
    """When it is looked at again, on the loop's clock."""
    looks: int = 0
    troubles: int = 0
    refused: int = 0
    missing: int = 0
    missing_since: float = math.inf


@dataclass(slots=True, kw_only=True)
class BatchFollower:
    """One for a run. What a batch gives back goes to its phase."""

    phase: "BatchPhase"
    runner: "Runner"
    dialect: BatchDialect
    records: BatchRecords
    results: BatchResults
    requests: BatchRequests
    followed: dict[int, OpenBatch] = field(default_factory=dict)

    def follow(self, batch: RemoteBatch, *, wait_s: float) -> None:
        """Look at it after so many seconds, and from then on until it has ended."""
        next_at = self.runner.ports.clock.monotonic() + wait_s
        followed = self.followed.setdefault(batch.number, OpenBatch(batch=batch, next_at=next_at))
        followed.next_at = next_at

    def next_at(self) -> float:
        """When one is to be looked at again, on the loop's clock; infinite where none is open."""
        ahead = [followed.next_at for followed in self.followed.values()]
        return min(ahead, default=math.inf)

    def due(self) -> list[OpenBatch]:
        """Those that are to be looked at now."""
        now = self.runner.ports.clock.monotonic()
        return [followed for followed in self.followed.values() if followed.next_at <= now]

    async def look(self, followed: OpenBatch) -> None:
        """Ask the server for it, and do what its state asks for."""
        batch = followed.batch
        if not batch.batch_id:
            await self._find(followed)
            return
        outcome = await self.requests.look(batch)
        followed.looks += 1
        if isinstance(outcome, Problem):
            await self._after_trouble(followed, outcome)
            return
        followed.troubles = followed.refused = followed.missing = 0
        followed.missing_since = math.inf
        match outcome.state:
            case "running" if self._is_overdue(batch):
                reason = f"still `{outcome.word}` long after it should have ended"
                await self._lost(batch, reason, look=outcome)
            case "running":
                self._again(followed)
            case "failed":
                problem = Problem(kind=ProblemKind.BAD_REQUEST, message=outcome.message or "no reason given")
                await self.phase.refused(batch, problem, too_much=outcome.too_much)
            case "ended":
                await self._collect(followed, outcome)

    def _again(self, followed: OpenBatch, *, wait_s: float = 0.0) -> None:
        every_s = self.look_every_s(followed.looks)
        followed.next_at = self.runner.ports.clock.monotonic() + max(every_s, wait_s)

    async def _after_trouble(self, followed: OpenBatch, problem: Problem) -> None:
        batch, now = followed.batch, self.runner.ports.clock.monotonic()
        if problem.status == NOT_FOUND:
            followed.missing += 1
            followed.missing_since = min(followed.missing_since, now)
            if followed.missing >= _GONE_LOOKS and now - followed.missing_since >= _GONE_S:
                await self._lost(batch, f"the server does not know it any more: {problem.message}", look=None)
                return
        elif POLICY[problem.kind].rejects_key:
            followed.refused += 1
            if followed.refused >= _REFUSED_LOOKS:
                self._leave(batch, f"asking for it is refused: {problem.message}")
                return
        if self._is_overdue(batch):
            await self._lost(batch, f"cannot be asked for: {problem.message}", look=None)
            return
        followed.troubles += 1
        self._again(followed, wait_s=self.requests.backoff_s(followed.troubles, problem))

    def _is_overdue(self, batch: RemoteBatch) -> bool:
        give_up_s = self.runner.job.batch.give_up_s
        if give_up_s is not None:
            at = batch.accepted_at + give_up_s
        elif batch.expires_at is not None:
            at = batch.expires_at + _AFTER_EXPIRY_S
        else:
            at = batch.accepted_at + _GIVE_UP_S
        return self.runner.ports.clock.wall() >= at

    async def _lost(self, batch: RemoteBatch, reason: str, *, look: BatchLook | None) -> None:
        """Nothing more will come of it. What it has is read; whether the rest was billed is not known."""
        self.followed.pop(batch.number, None)
        if look is not None and look.outputs:
            files = await self.requests.download(batch, look)
            if isinstance(files, list):
                await self.read(batch, [path for path, _, _ in files], is_all=False)
        if not batch.left:
            return
        self.runner.say(f"batch {name_of(batch)}: lost with {batch.left:,} items: {reason}")
        if self.runner.job.batch.on_lost == "resend":
            self.results.release_budget(batch)
            self.phase.came_back(batch, await self.records.resent(batch, asked=False))
            return
        await self.hold(batch, reason)

    async def hold(self, batch: RemoteBatch, reason: str) -> None:
        """A person decides whether its items are sent again."""
        self.followed.pop(batch.number, None)
        await self.records.held(batch, reason)
        self.runner.note_left_open("held", f"batch {name_of(batch)}: {reason}", batch.left)

    # -- an order whose reply was lost

    async def _find(self, followed: OpenBatch) -> None:
        """Look for the batch in the account's list; one that is in none of two looks was never ordered."""
        batch, clock = followed.batch, self.runner.ports.clock
        if self.dialect.finds_again:
            found = await self.requests.find(batch)
        elif self.dialect.is_known and clock.wall() - batch.at < _LISTED_S:
            known = {other.batch_id for other in self.runner.state.batches.known.values()}
            found = await self.requests.find_like(batch, known)
        else:  # nor is it known whether this list has all batches, and for how long
            await self.hold(batch, "the reply to its order was lost, and this API cannot be asked whether it has it")
            return
        if isinstance(found, BatchLook) and not self.dialect.finds_again:
            same = f"{found.batch_id} has as many requests and may be it, which nothing proves"
            await self.hold(batch, f"the reply to its order was lost; {same}")
            return
        if isinstance(found, BatchLook):
            self.runner.say(f"batch {found.batch_id}: found again; the reply to its order was lost")
            await self.phase.accepted(batch, found)
            return
        if isinstance(found, Problem):
            if found.status in _NOT_LISTED:
                await self.hold(batch, f"the reply to its order was lost, and it cannot be looked for: {found.message}")
            elif clock.wall() - batch.at >= (self.runner.job.batch.give_up_s or _GIVE_UP_S):
                await self._lost(batch, f"it cannot be looked for: {found.message}", look=None)
            else:
                followed.troubles += 1
                self._again(followed, wait_s=self.requests.backoff_s(followed.troubles, found))
            return
        now = clock.monotonic()
        followed.missing_since = min(followed.missing_since, now)
        if now - followed.missing_since >= self.gap_s():
            self.runner.say(f"batch {name_of(batch)}: the server has no such batch; its items are ordered again")
            await self.phase.release(batch, NOT_ORDERED)
        else:
            followed.next_at = now + self.gap_s()

    # -- results

    async def _collect(self, followed: OpenBatch, look: BatchLook) -> None:
        batch = followed.batch
        files = await self.requests.download(batch, look)
        if isinstance(files, Problem):
            if files.status == NOT_FOUND:
                await self._lost(batch, f"its results are gone: {files.message}", look=None)
            elif self._is_overdue(batch):
                await self._lost(batch, f"its results cannot be downloaded: {files.message}", look=None)
            else:
                self._again(followed)
            return
        await self.records.ended(batch, look.word, files)
        self.followed.pop(batch.number, None)
        await self.read(batch, [path for path, _, _ in files])

    async def read(self, batch: RemoteBatch, paths: list[str], *, is_all: bool = True) -> None:
        """Read its result files; `is_all`: all of them are there."""
        runner = self.runner
        lane = runner.lanes.find(batch.account, batch.model) or runner.lane(batch.account, batch.model)
        queue = runner.queues.get(batch.model) or closed_queue(batch.model)
        before = batch.done, batch.failed, batch.returned
        if not await self.results.read(batch, lane, queue, paths, is_all=is_all):
            await self.hold(batch, "its result files have no line of any of its items")
            return
        after = batch.done, batch.failed, batch.returned
        done, failed, returned = (now - then for now, then in zip(after, before, strict=True))
        runner.say(f"batch {name_of(batch)}: {done:,} done, {failed:,} failed, {returned:,} to be sent again")
        self.phase.came_back(batch, returned)
        self.phase.has_read(worked=bool(done or failed))

    # -- the end of the phase

    def _leave(self, batch: RemoteBatch, why: str) -> None:
        """It stays open, and this run does not ask for it any more."""
        self.followed.pop(batch.number, None)
        self.runner.note_left_open("timed_out", f"batch {name_of(batch)}: {why}", batch.left)

    def leave_open(self) -> None:
        """The time to wait for batches is over."""
        for followed in list(self.followed.values()):
            self._leave(followed.batch, "did not end within `batch.max_wait`; the next run goes on")

    def report_open(self) -> None:
        """Say how many are still open."""
        count = len(self.followed)
        if count:
            batches = "1 batch is" if count == 1 else f"{count:,} batches are"
            self.runner.say(f"{batches} still open at the server, and will be billed; the next run reads the results")

    # -- waits

    def look_every_s(self, looks: int) -> float:
        """Seconds until the next look, after so many."""
        every_s = self.runner.job.batch.look_every_s
        return every_s if every_s is not None else min(_LAST_LOOK_S, _FIRST_LOOK_S * 1.5 ** min(looks, 20))

    def gap_s(self) -> float:
        """A server may take a while to list a batch; one that is asked often is near."""
        every_s = self.runner.job.batch.look_every_s
        return _FIND_GAP_S if every_s is None else min(_FIND_GAP_S, 10.0 * every_s)


def name_of(batch: RemoteBatch) -> str:
    """How messages call it: by the server's id, or by our number until there is one."""
    return batch.batch_id or f"number {batch.number}"
