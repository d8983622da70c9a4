"""Batches before the ordinary way: items are ordered by the thousand, followed to their end, and read.

    intents durable > upload > its id durable > order > accepted durable > ... > result files durable > their lines

A phase of its own, before the first ordinary request: a run without `batch:` never comes here. An order whose reply is
lost is looked for in the account's list, by what was written down before it left; it is never repeated blindly, and no
batch is ever cancelled from here. What a batch gives back goes into another one, or the ordinary way.
"""

import asyncio
import math
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from batchrunner.core.error_policy import POLICY, Then, is_ambiguous
from batchrunner.core.events import BatchIntent
from batchrunner.core.item import digest
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.ports import BatchDialect, BatchFiles
from batchrunner.core.remote_batch import BatchLook, RemoteBatch
from batchrunner.engine.attempt import Attempts
from batchrunner.engine.batch_drafts import Draft, Drafts
from batchrunner.engine.batch_records import BatchRecords
from batchrunner.engine.batch_requests import NOT_FOUND, BatchRequests, passes
from batchrunner.engine.batch_results import BatchResults
from batchrunner.engine.planning import closed_queue, same_server
from batchrunner.engine.shutdown import SteppedOutError

if TYPE_CHECKING:
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
_REFUSED_FIRST_S: Final = 60.0
_REFUSED_CAP_S: Final = 3600.0
_EMPTY_MOST: Final = 3
"""Batches in a row that gave all their items back."""
_PAUSED_LOOK_S: Final = 5.0
_NOT_LISTED: Final = frozenset({400, 404, 405, 501})
_REFUSED: Final = "batch_refused"
_NOT_ORDERED: Final = "batch_not_ordered"


@dataclass(slots=True, kw_only=True)
class _OpenBatch:
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
class BatchPhase:
    """One for a run. `run` returns when no batch is left that this run waits for."""

    runner: "Runner"
    attempts: Attempts
    dialect: BatchDialect
    files: BatchFiles
    records: BatchRecords = field(init=False)
    results: BatchResults = field(init=False)
    drafts: Drafts = field(init=False)
    requests: BatchRequests = field(init=False)
    _followed: dict[int, _OpenBatch] = field(default_factory=dict)
    _may: bool = False
    """Whether this run orders batches at all."""
    _orders: bool = False
    """Whether there may be items to order."""
    _order_after: float = -math.inf
    _refusals: int = 0
    _empty: int = 0

    def __post_init__(self) -> None:
        runner, attempts = self.runner, self.attempts
        self.records = BatchRecords(ledger=runner.ports.ledger, state=runner.state, clock=runner.ports.clock)
        self.results = BatchResults(
            job=runner.job,
            ports=runner.ports,
            dialect=self.dialect,
            files=self.files,
            records=self.records,
            recorder=runner.recorder,
            budget_guard=runner.budget_guard,
            handler=attempts.outcome_handler,
            faults=attempts.internal_faults,
            vanished_ended=runner.vanished_ended,
            left_open=runner.note_left_open,
            say=runner.say,
        )
        self.drafts = Drafts(
            runner=runner,
            dialect=self.dialect,
            order=self._order,
            most_items=min(runner.job.batch.max_items or self.dialect.most_items, self.dialect.most_items),
            set_aside=self.results.set_aside,
        )
        self.requests = BatchRequests(
            dialect=self.dialect,
            transport=runner.ports.transport,
            files=self.files,
            sleep=runner.shutdown.sleep,
            random_source=runner.random_source,
        )

    async def run(self) -> None:
        """Order what is to be sent, and follow all that is open to its end.

        Raises:
            StoreBrokenError: the disk refused; nothing was ordered after that instant.
            JobMistakesError: a source became unreadable.
        """
        clock, policy = self.runner.ports.clock, self.runner.job.batch
        ends_at = clock.monotonic() + policy.max_wait_s
        self._may = self._orders = self._may_order()
        try:
            await self._take_up()
            while True:
                await self._order_all()
                if not self._followed and not self._waits_to_order():
                    return
                now = clock.monotonic()
                if now >= ends_at:
                    self._leave_open()
                    return
                await self.runner.shutdown.sleep(max(0.0, min(self._next_at(), ends_at) - now))
                for followed in self._due():
                    await self._look(followed)
        except SteppedOutError:
            self._report_open()

    # -- what earlier processes left

    async def _take_up(self) -> None:
        runner = self.runner
        for batch in runner.state.batches.open:
            if batch.held and runner.run_request.resend_held:
                self._came_back(batch, await self.records.resent(batch, asked=True))
                continue
            if batch.held:
                runner.note_left_open("held", f"batch {_name(batch)}: {batch.held}")
                continue
            if batch.stage == "preparing":  # its order never left
                self._came_back(batch, await self.records.released(batch, _NOT_ORDERED))
                continue
            if why := self._why_left(batch):
                runner.unserved[batch.account, batch.model, why] += batch.left
                continue
            if batch.ended and all([await asyncio.to_thread(self.files.stands, file) for file in batch.files]):
                await self._read(batch, [path for path, _, _ in batch.files])
                continue
            self._follow(batch, wait_s=0.0)

    def _why_left(self, batch: RemoteBatch) -> str:
        """Why this process cannot ask for the batch, as `planning.why_left` says it of tasks; empty if it can."""
        if batch.account not in self.runner.ports.accounts:
            return f"in batch {_name(batch)}, started with the API key in {batch.account}, which is not in use"
        if not same_server(batch.origin, self.runner.job.provider.base_url):
            return f"in batch {_name(batch)}, started at {batch.origin}; set provider.base_url back to it to go on"
        return ""

    # -- ordering

    def _may_order(self) -> bool:
        """Whether the job wants batches, and they can be waited for."""
        runner = self.runner
        policy = runner.job.batch
        if policy.use != "auto":
            return policy.use == "always"
        ends_at, now = runner.schedule.ends_at, runner.ports.clock.wall()
        if not self.dialect.is_known:
            runner.say("batch: this provider is not known to have batches; sending the ordinary way (`use: always`)")
            return False
        if ends_at is not None and ends_at - now < policy.max_wait_s:
            runner.say("batch: the run ends before `batch.max_wait` is over; sending the ordinary way")
            return False
        return True

    def _waits_to_order(self) -> bool:
        """Whether something was refused that is ordered again later."""
        return self._orders and self._order_after > self.runner.ports.clock.monotonic()

    async def _order_all(self) -> None:
        """Order all that is worth a batch, if there may be something, and it may be ordered now."""
        runner, now = self.runner, self.runner.ports.clock.monotonic()
        if not self._orders or self._order_after > now or runner.shutdown.drains:
            return
        if any(lane.paused for lane in runner.lanes):
            self._order_after = now + _PAUSED_LOOK_S
            return
        self._orders = False
        await self.drafts.read()

    async def _order(self, model: str, draft: Draft) -> bool:
        """One batch, from its intents to the reply to its order; False when no further one is ordered now."""
        runner = self.runner
        if runner.shutdown.drains:
            self.drafts.give_up(draft)
            raise SteppedOutError
        number = runner.state.batches.next_number
        lanes = [lane for lane in runner.lanes.of_model(model) if lane.closed is None]
        account = lanes[number % len(lanes)].account if lanes else runner.ports.accounts[0]
        wall = runner.ports.clock.wall()
        data = b"".join(draft.lines)
        intent = BatchIntent(
            b=number,
            key=digest([runner.job.name, number, f"{wall:.6f}", *(item.key for item in draft.items)]),
            items=len(draft.items),
            model=model,
            account=account,
            origin=runner.job.provider.base_url,
            sha256=sha256(data).hexdigest(),
            bytes=len(data),
        )
        del data
        batch = await self.records.begun(intent, draft.items)
        draft.items.clear()
        try:
            file = await self.requests.upload(batch, draft.lines)
        except SteppedOutError:
            await self._release(batch, _NOT_ORDERED)
            raise
        draft.lines.clear()
        if isinstance(file, Problem):
            await self._refused(batch, file)
            return False
        await self.records.uploaded(batch, file)
        return await self._after_order(batch, await self.requests.order(batch))

    async def _after_order(self, batch: RemoteBatch, outcome: BatchLook | Problem) -> bool:
        """False when no further batch is ordered now."""
        if isinstance(outcome, BatchLook):
            await self._accepted(batch, outcome)
            return True
        unclear = is_ambiguous(outcome) or POLICY[outcome.kind].then is Then.HOLD
        if unclear:
            self.runner.say(f"batch {_name(batch)}: no clear reply to its order ({outcome.message}); looking for it")
            self._follow(batch, wait_s=self._gap_s() / 10.0)
            return True
        await self._refused(batch, outcome)
        return False

    async def _accepted(self, batch: RemoteBatch, look: BatchLook) -> None:
        await self.records.accepted(batch, look.batch_id, expires_at=look.expires_at)
        self._refusals = 0
        self.runner.say(f"batch {look.batch_id}: accepted with {batch.items:,} items of {batch.model}")
        self._follow(batch, wait_s=self._look_every_s(0))

    async def _refused(self, batch: RemoteBatch, problem: Problem, *, too_much: bool = False) -> None:
        """Nothing of it was executed. A limit lets a smaller batch through, later; anything else ends the run."""
        items = batch.left
        await self._release(batch, _REFUSED)
        if not too_much and not passes(problem):
            reason = f"the server refused a batch: {problem.message}"
            if self.runner.job.batch.use == "always":
                reason += "; nothing was sent the ordinary way, `batch: {use: never}` does that"
            self.runner.say(reason)
            self.runner.shutdown.pause(reason)
            self.runner.lanes.drain()
            return
        self._refusals += 1
        if too_much:
            self.drafts.most_items = max(1, items // 2)
        wait_s = self.requests.backoff_s(self._refusals - 1, problem, first_s=_REFUSED_FIRST_S, cap_s=_REFUSED_CAP_S)
        self._orders = self._may
        self._order_after = self.runner.ports.clock.monotonic() + wait_s
        smaller = f"with at most {self.drafts.most_items:,} items " if too_much else ""
        self.runner.say(f"batch refused ({problem.message}); ordering again {smaller}in {wait_s:.0f} s")

    async def _release(self, batch: RemoteBatch, kind: str) -> None:
        self.results.release_budget(batch)
        self._followed.pop(batch.number, None)
        self._came_back(batch, await self.records.released(batch, kind))

    def _came_back(self, batch: RemoteBatch, items: int) -> None:
        """Items that are to be sent, which the planning pass did not see."""
        if items:
            self.runner.requeued[batch.model] += items
            self._orders = self._may

    # -- following

    def _follow(self, batch: RemoteBatch, *, wait_s: float) -> None:
        next_at = self.runner.ports.clock.monotonic() + wait_s
        followed = self._followed.setdefault(batch.number, _OpenBatch(batch=batch, next_at=next_at))
        followed.next_at = next_at

    def _next_at(self) -> float:
        ahead = [followed.next_at for followed in self._followed.values()]
        if self._waits_to_order():
            ahead.append(self._order_after)
        return min(ahead, default=math.inf)

    def _due(self) -> list[_OpenBatch]:
        now = self.runner.ports.clock.monotonic()
        return [followed for followed in self._followed.values() if followed.next_at <= now]

    async def _look(self, followed: _OpenBatch) -> None:
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
                await self._refused(batch, problem, too_much=outcome.too_much)
            case "ended":
                await self._collect(followed, outcome)

    def _again(self, followed: _OpenBatch, *, wait_s: float = 0.0) -> None:
        every_s = self._look_every_s(followed.looks)
        followed.next_at = self.runner.ports.clock.monotonic() + max(every_s, wait_s)

    async def _after_trouble(self, followed: _OpenBatch, problem: Problem) -> None:
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
        self._followed.pop(batch.number, None)
        if look is not None and look.outputs:
            files = await self.requests.download(batch, look)
            if isinstance(files, list):
                await self._read(batch, [path for path, _, _ in files], is_all=False)
        if not batch.left:
            return
        self.runner.say(f"batch {_name(batch)}: lost with {batch.left:,} items: {reason}")
        if self.runner.job.batch.on_lost == "resend":
            self.results.release_budget(batch)
            self._came_back(batch, await self.records.resent(batch, asked=False))
            return
        await self._hold(batch, reason)

    async def _hold(self, batch: RemoteBatch, reason: str) -> None:
        self._followed.pop(batch.number, None)
        await self.records.held(batch, reason)
        self.runner.note_left_open("held", f"batch {_name(batch)}: {reason}")

    # -- an order whose reply was lost

    async def _find(self, followed: _OpenBatch) -> None:
        """Look for the batch in the account's list; one that is in none of two looks was never ordered."""
        batch, clock = followed.batch, self.runner.ports.clock
        if not self.dialect.finds_again:
            await self._hold(batch, "the reply to its order was lost, and this API cannot be asked whether it has it")
            return
        found = await self.requests.find(batch)
        if isinstance(found, BatchLook):
            self.runner.say(f"batch {found.batch_id}: found again; the reply to its order was lost")
            await self._accepted(batch, found)
            return
        if isinstance(found, Problem):
            if found.status in _NOT_LISTED:
                await self._hold(
                    batch, f"the reply to its order was lost, and it cannot be looked for: {found.message}"
                )
            elif clock.wall() - batch.at >= (self.runner.job.batch.give_up_s or _GIVE_UP_S):
                await self._lost(batch, f"it cannot be looked for: {found.message}", look=None)
            else:
                followed.troubles += 1
                self._again(followed, wait_s=self.requests.backoff_s(followed.troubles, found))
            return
        now = clock.monotonic()
        followed.missing_since = min(followed.missing_since, now)
        if now - followed.missing_since >= self._gap_s():
            self.runner.say(f"batch {_name(batch)}: the server has no such batch; its items are ordered again")
            await self._release(batch, _NOT_ORDERED)
        else:
            followed.next_at = now + self._gap_s()

    # -- results

    async def _collect(self, followed: _OpenBatch, look: BatchLook) -> None:
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
        self._followed.pop(batch.number, None)
        await self._read(batch, [path for path, _, _ in files])

    async def _read(self, batch: RemoteBatch, paths: list[str], *, is_all: bool = True) -> None:
        runner = self.runner
        lane = runner.lanes.find(batch.account, batch.model) or runner.lane(batch.account, batch.model)
        queue = runner.queues.get(batch.model) or closed_queue(batch.model)
        before = batch.done, batch.failed, batch.returned
        if not await self.results.read(batch, lane, queue, paths, is_all=is_all):
            await self._hold(batch, "its result files have no line of any of its items")
            return
        after = batch.done, batch.failed, batch.returned
        done, failed, returned = (now - then for now, then in zip(after, before, strict=True))
        runner.say(f"batch {_name(batch)}: {done:,} done, {failed:,} failed, {returned:,} to be sent again")
        self._came_back(batch, returned)
        self._orders = self._orders or (self._may and self.drafts.has_no_room)
        self._empty = 0 if done or failed else self._empty + 1
        if self._empty >= _EMPTY_MOST:
            reason = f"{self._empty} batches in a row gave all their items back"
            runner.shutdown.pause(reason)
            runner.lanes.drain()

    # -- the end of the phase

    def _leave(self, batch: RemoteBatch, why: str) -> None:
        """It stays open, and this run does not ask for it any more."""
        self._followed.pop(batch.number, None)
        self.runner.note_left_open("timed_out", f"batch {_name(batch)}: {why}")

    def _leave_open(self) -> None:
        for followed in list(self._followed.values()):
            self._leave(followed.batch, "did not end within `batch.max_wait`; the next run goes on")
        if self._orders:
            self.runner.shutdown.pause("`batch.max_wait` is over, and items wait for a batch; run again to go on")
            self.runner.lanes.drain()

    def _report_open(self) -> None:
        count = len(self._followed)
        if count:
            batches = "1 batch is" if count == 1 else f"{count:,} batches are"
            self.runner.say(f"{batches} still open at the server, and will be billed; the next run reads the results")

    # -- waits

    def _look_every_s(self, looks: int) -> float:
        every_s = self.runner.job.batch.look_every_s
        return every_s if every_s is not None else min(_LAST_LOOK_S, _FIRST_LOOK_S * 1.5 ** min(looks, 20))

    def _gap_s(self) -> float:
        """A server may take a while to list a batch; one that is asked often is near."""
        every_s = self.runner.job.batch.look_every_s
        return _FIND_GAP_S if every_s is None else min(_FIND_GAP_S, 10.0 * every_s)


def _name(batch: RemoteBatch) -> str:
    return batch.batch_id or f"number {batch.number}"


async def batch_phase(runner: "Runner", attempts: Attempts) -> None:
    """Go through the run's batches, if it has some or orders some."""
    ports = runner.ports
    if ports.batches is None or ports.batch_files is None:
        return
    await BatchPhase(runner=runner, attempts=attempts, dialect=ports.batches, files=ports.batch_files).run()
