"""Batches before the ordinary way: items are ordered by the thousand, followed to their end, and read.

    intents durable > upload > its id durable > order > accepted durable > ... > result files durable > their lines

A phase of its own, before the first ordinary request: a run without `batch:` never comes here. An order whose reply is
lost is looked for in the account's list, by what was written down before it left; it is never repeated blindly, and no
batch is ever cancelled from here. What a batch gives back goes into another one, or the ordinary way.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Final

from batchrunner.core.batch_ports import BatchDialect, BatchFiles
from batchrunner.core.error_policy import POLICY, Then, is_ambiguous
from batchrunner.core.events import BatchIntent
from batchrunner.core.item import digest
from batchrunner.core.outcome import Problem
from batchrunner.core.remote_batch import BatchLook, RemoteBatch
from batchrunner.core.values import dataclass, field
from batchrunner.engine.attempt import Attempts
from batchrunner.engine.batch_following import NOT_ORDERED, BatchFollower, name_of
from batchrunner.engine.batch_records import BatchRecords
from batchrunner.engine.batch_requests import BatchRequests, Draft, Drafts, passes
from batchrunner.engine.batch_results import BatchResults
from batchrunner.engine.planning import same_server
from batchrunner.engine.shutdown import SteppedOutError

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner

_REFUSED_FIRST_S: Final = 60.0
_REFUSED_CAP_S: Final = 3600.0
_EMPTY_MOST: Final = 3
"""Batches in a row that gave all their items back."""
_PAUSED_LOOK_S: Final = 5.0
_TOO_LARGE: Final = 413
"""The status of a file that is larger than the server takes."""
_REFUSED: Final = "batch_refused"
IN_THE_ORDER: Final = "in the order"
"""Stands for the id of a file of requests where the API has none: from that record on the order may have left."""


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
    follower: BatchFollower = field(init=False)
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
            files=self.files,
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
        self.follower = BatchFollower(
            phase=self,
            runner=runner,
            dialect=self.dialect,
            records=self.records,
            results=self.results,
            requests=self.requests,
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
                if not self.follower.followed and not self._waits_to_order():
                    return
                now = clock.monotonic()
                if now >= ends_at:
                    self._leave_open()
                    return
                await self.runner.shutdown.sleep(max(0.0, min(self._next_at(), ends_at) - now))
                for followed in self.follower.due():
                    await self.follower.look(followed)
        except SteppedOutError:
            self.follower.report_open()

    # -- what earlier processes left

    async def _take_up(self) -> None:
        runner = self.runner
        for batch in runner.state.batches.open:
            if batch.held and runner.run_request.resend_held:
                self.came_back(batch, await self.records.resent(batch, asked=True))
                continue
            if batch.held:
                runner.note_left_open("held", f"batch {name_of(batch)}: {batch.held}", batch.left)
                continue
            if batch.stage == "preparing":  # its order never left
                self.came_back(batch, await self.records.released(batch, NOT_ORDERED))
                continue
            if why := self._why_left(batch):
                runner.unserved[batch.account, batch.model, why] += batch.left
                continue
            if batch.ended and all([await asyncio.to_thread(self.files.stands, file) for file in batch.files]):
                await self.follower.read(batch, [path for path, _, _ in batch.files])
                continue
            self.follower.follow(batch, wait_s=0.0)

    def _why_left(self, batch: RemoteBatch) -> str:
        """Why this process cannot ask for the batch, as `planning.why_left` says it of tasks; empty if it can."""
        if batch.account not in self.runner.ports.accounts:
            return f"in batch {name_of(batch)}, started with the API key in {batch.account}, which is not in use"
        if not same_server(batch.origin, self.runner.job.provider.base_url):
            return f"in batch {name_of(batch)}, started at {batch.origin}; set provider.base_url back to it to go on"
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
        requests = await asyncio.to_thread(draft.requests.finish)
        intent = BatchIntent(
            b=number,
            key=digest([runner.job.name, number, f"{wall:.6f}", *(item.key.hex() for item in draft.items)]),
            items=len(draft.items),
            model=model,
            account=account,
            origin=runner.job.provider.base_url,
            sha256=requests.sha256,
            bytes=requests.body.size_bytes,
        )
        batch = await self.records.begun(intent, draft.items)
        draft.items.clear()
        file: str | Problem = IN_THE_ORDER
        if self.dialect.uploads:
            try:
                file = await self.requests.upload(batch, requests)
            except SteppedOutError:
                await self.release(batch, NOT_ORDERED)
                raise
        if isinstance(file, Problem):
            await self.refused(batch, file, too_much=file.status == _TOO_LARGE)
            return False
        await self.records.uploaded(batch, file)
        outcome = await self.requests.order(batch, requests)
        return await self._after_order(batch, outcome)

    async def _after_order(self, batch: RemoteBatch, outcome: BatchLook | Problem) -> bool:
        """False when no further batch is ordered now."""
        if isinstance(outcome, BatchLook):
            await self.accepted(batch, outcome)
            return True
        unclear = is_ambiguous(outcome) or POLICY[outcome.kind].then is Then.HOLD
        if unclear:
            self.runner.say(f"batch {name_of(batch)}: no clear reply to its order ({outcome.message}); looking for it")
            self.follower.follow(batch, wait_s=self.follower.gap_s() / 10.0)
            return True
        await self.refused(batch, outcome, too_much=outcome.status == _TOO_LARGE)
        return False

    async def accepted(self, batch: RemoteBatch, look: BatchLook) -> None:
        """The server has it."""
        await self.records.accepted(batch, look.batch_id, expires_at=look.expires_at)
        self._refusals = 0
        self.runner.say(f"batch {look.batch_id}: accepted with {batch.items:,} items of {batch.model}")
        self.follower.follow(batch, wait_s=self.follower.look_every_s(0))

    async def refused(self, batch: RemoteBatch, problem: Problem, *, too_much: bool = False) -> None:
        """Nothing of it was executed. A limit lets a smaller batch through, later; anything else ends the run."""
        items = batch.left
        too_much = too_much and items > 1
        await self.release(batch, _REFUSED)
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

    async def release(self, batch: RemoteBatch, kind: str) -> None:
        """Nothing of it was executed, and nothing will be: its items are to be sent."""
        self.results.release_budget(batch)
        self.follower.followed.pop(batch.number, None)
        self.came_back(batch, await self.records.released(batch, kind))

    def came_back(self, batch: RemoteBatch, items: int) -> None:
        """Items that are to be sent, which the planning pass did not see."""
        if items:
            self.runner.requeued[batch.model] += items
            self._orders = self._may

    def has_read(self, *, worked: bool) -> None:
        """The results of a batch were read; `worked`: some of its items are done or have failed."""
        self._orders = self._orders or (self._may and self.drafts.has_no_room)
        self._empty = 0 if worked else self._empty + 1
        if self._empty >= _EMPTY_MOST:
            reason = f"{self._empty} batches in a row gave all their items back"
            self.runner.shutdown.pause(reason)
            self.runner.lanes.drain()

    # -- the end of the phase

    def _next_at(self) -> float:
        ahead = self.follower.next_at()
        return min(ahead, self._order_after) if self._waits_to_order() else ahead

    def _leave_open(self) -> None:
        self.follower.leave_open()
        if self._orders:
            self.runner.shutdown.pause("`batch.max_wait` is over, and items wait for a batch; run again to go on")
            self.runner.lanes.drain()


async def batch_phase(runner: "Runner", attempts: Attempts) -> None:
    """Go through the run's batches, if it has some or orders some."""
    ports = runner.ports
    if ports.batches is None or ports.batch_files is None:
        return
    await BatchPhase(runner=runner, attempts=attempts, dialect=ports.batches, files=ports.batch_files).run()
