"""A run in order: continue what was left, open the lanes, process the items, settle, report how it ended."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Final

from batchrunner.core.errors import JobMistakesError, StoreBrokenError
from batchrunner.core.item import Item
from batchrunner.core.job import Job, LaneSettings
from batchrunner.core.lifecycle import Closed, ItemEvent, ItemState
from batchrunner.core.pacing import day_of
from batchrunner.core.part import RunRequest
from batchrunner.core.plan import HELD, PlanningPass, Totals, count_part
from batchrunner.core.ports import Ports
from batchrunner.core.presets import PRESETS
from batchrunner.core.schedule import OffsetAt
from batchrunner.core.state import LedgerState
from batchrunner.core.status import ItemCounts, Status
from batchrunner.core.values import dataclass, field, replace
from batchrunner.engine.attempt import Attempts, Slot
from batchrunner.engine.budget_guard import BudgetGuard
from batchrunner.engine.fallbacks import Fallbacks
from batchrunner.engine.lane_policy import LaneSet, restore_parks
from batchrunner.engine.lanes import Lane
from batchrunner.engine.planning import (
    closed_queue,
    has_batches,
    lane_settings,
    vanished_item,
    why_left,
)
from batchrunner.engine.recorder import Recorder, uncancellable
from batchrunner.engine.reuse import Takings, take_answers_of_others
from batchrunner.engine.run_control import RunControl
from batchrunner.engine.run_parts import attempts_of, follower_of
from batchrunner.engine.run_schedule import RunSchedule
from batchrunner.engine.run_status import RunEnd, lanes_of_run, left_words, status_of
from batchrunner.engine.settling import requeue_what_was_asked_for, settle
from batchrunner.engine.shutdown import Shutdown, first_of
from batchrunner.engine.task_poller import TaskPoller
from batchrunner.engine.work_queue import Work, WorkQueue

_WORDS_KEPT: Final = 50
_SOURCE: Final = "source"
"""A reason in `Runner.left_open`."""


@dataclass(slots=True, kw_only=True)
class Runner:
    """One run. Make it, `await run()`, ask `ending()`; `snapshot()` at any time."""

    job: Job
    ports: Ports
    state: LedgerState
    found: PlanningPass
    totals: Totals
    run_request: RunRequest
    shutdown: Shutdown
    random_source: random.Random
    say: Callable[[str], None]
    offset_at: OffsetAt = lambda _: 0.0
    """The zone of the job's window and deadline."""
    adopted: Iterable[ItemEvent] = ()
    """Of rows that reached the disk although their process did not live to say so, or whose ledger is gone."""
    realigned_length: int | None = None
    """Set when results.jsonl is not the file of the ledger: a rewrite whose record was lost in a crash."""
    recorder: Recorder = field(init=False)
    lanes: LaneSet = field(init=False)
    queues: dict[str, WorkQueue] = field(init=False)
    wanted: Callable[[bytes], int] = field(init=False)
    """See `WorkQueue`."""
    schedule: RunSchedule = field(init=False)
    budget_guard: BudgetGuard = field(init=False)
    control: RunControl = field(init=False)
    fallbacks: Fallbacks | None = field(init=False)
    """Of jobs that ask their models one after another."""
    left_open: dict[str, int] = field(default_factory=dict)
    """Items that this run leaves unfinished, counted by reason."""
    unserved: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(account, model, why) -> open tasks that this process cannot ask for."""
    last_words: dict[tuple[str, str], int] = field(default_factory=dict)
    """(why, what the server said last) -> items that this run leaves unfinished so."""
    vanished_items_ended: bool = False
    _totals_unsaved: bool = False
    """The totals could not be saved once: that was reported."""
    requeued: Counter[str] = field(default_factory=Counter)
    """By model: failed or held items that a person wanted once more."""
    takings: Takings = field(default_factory=Takings)
    _resumed: Counter[str] = field(default_factory=Counter)
    """By model: items whose tasks an earlier process left, which are followed."""

    def __post_init__(self) -> None:
        ports, job = self.ports, self.job
        self.recorder = Recorder(
            ledger=ports.ledger,
            results=ports.results,
            state=self.state,
            clock=ports.clock,
            synced_intents=job.durability == "full",
            unsynced_max=self.totals.concurrency,
            origin=job.provider.base_url,
            may_send=ports.may_send,
            say=self.say,
            last_resort=lambda answer: self.say(f"could not save this answer to disk: {answer}"),
        )
        self.lanes = LaneSet(tuple(self.lane(account, model) for model in job.models for account in ports.accounts))
        self.recorder.widest = self.lanes.widest
        live_keys, together = set[bytes](), job.limits.inputs_per_request or 1
        self.wanted = partial(self.state.number_to_send, hold=self.totals.hold)
        self.queues = {
            model: WorkQueue(model, wanted=self.wanted, keys=live_keys, together=together) for model in job.models
        }
        for lane in self.lanes:
            lane.on_stopped = self.queues[lane.model].notify
        self.schedule = RunSchedule(job=job, clock=ports.clock, shutdown=self.shutdown, offset_at=self.offset_at)
        self.budget_guard = BudgetGuard(
            job, self.state, on_spent=self._close_lanes, clock=ports.clock, shutdown=self.shutdown
        )
        self.budget_guard.is_leased = ports.leased is not None
        self.control = RunControl(runner=self)
        self.fallbacks = Fallbacks(runner=self, policy=job.fallback) if job.fallback is not None else None

    # -- the run

    async def run(self) -> None:
        """Work until nothing is left to do, or nothing can continue.

        Raises:
            StoreBrokenError: the disk refused; nothing was sent after that instant.
            JobMistakesError: a source became unreadable before anything was sent.
            asyncio.CancelledError: the end was asked for twice, or the grace is over.
        """
        await self.record_recovered()
        await requeue_what_was_asked_for(self)
        await take_answers_of_others(self)
        await restore_parks(self.job, self.state, self.lanes, self.recorder, now=self.ports.clock.wall())
        await self.control.take_up()
        await self._remember(self.totals, sends_follow=True)
        follower = follower_of(self)
        attempts = attempts_of(self, follower)
        if follower is not None:
            follower.key_refused = attempts.lane_policy.polls_refused
        beside = [
            asyncio.create_task(self._beside("an interruption", lambda: self._drain_when_asked(follower))),
            asyncio.create_task(self._beside("the deadline", self.schedule.watch)),
            asyncio.create_task(self._beside("commands in `control/`", lambda: self.control.watch(attempts, follower))),
        ]
        try:
            has_work = self.found.ahead or self.state.tasks or self.requeued or self.state.batches.open
            if not has_work or await self.schedule.opened():
                await self._work(attempts, follower)
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)  # their failures were reported when they happened
        for line in self.takings.lines("answers of next models"):
            self.say(line)
        await self.ports.confirm()
        if not self.shutdown.requests and _SOURCE not in self.left_open:
            try:
                await settle(self)
            except JobMistakesError as error:
                self._source_changed(error)
        windows = {f"{lane.account} {lane.model}": lane.limit for lane in self.lanes}
        await self._remember(replace(self.totals, windows=windows), sends_follow=False)

    async def record_recovered(self) -> None:
        """Write down what was found in the result files and an earlier process did not live to say."""
        if self.realigned_length is not None:
            await self.recorder.rewritten(length=self.realigned_length, labels="")
        if adopted := await self.recorder.adopted(self.adopted):
            self.say(f"rows not yet in the ledger: {adopted:,} (counted as done, not sent again)")

    async def _remember(self, totals: Totals, *, sends_follow: bool) -> None:
        """Totals for `status`: a failure is reported, and no reason to stop unless it is the disk.

        Raises:
            StoreBrokenError: before the first send: nothing is paid for on a disk that has refused once.
        """
        try:
            await asyncio.to_thread(self.ports.remember, totals)
        except StoreBrokenError as error:
            if sends_follow:
                raise
            self.say(f"could not save the totals for `batchrunner status`: {error}")
        except Exception as error:  # noqa: BLE001 - as the docstring says
            if not self._totals_unsaved:
                self.say(f"could not save the totals for `batchrunner status`: {error}")
            self._totals_unsaved = True

    async def _beside(self, what: str, watching: Callable[[], Coroutine[None, None, None]]) -> None:
        """A watch beside the work. Without it the run would not end as it should, so its failure pauses the run."""
        try:
            await watching()
        except Exception as error:  # noqa: BLE001 - it is awaited at the end only, and answers are in flight
            line = await self.ports.note_fault(f"watching for {what}", error)
            reason = f"internal error while watching for {what}; please report it with errors.log: {line}"
            self.say(reason)
            self.shutdown.pause(reason)
            self.lanes.drain()

    async def _work(self, attempts: Attempts, follower: TaskPoller | None) -> None:
        try:
            if has_batches(self.job, self.state):
                from batchrunner.engine.batches import batch_phase  # noqa: PLC0415 - for runs with batches only

                await batch_phase(self, attempts)
            await self._send_all(attempts, follower)
        finally:  # also when cancelled: what was queued is recorded, or reported
            await uncancellable(attempts.settled())

    async def _send_all(self, attempts: Attempts, follower: TaskPoller | None) -> None:
        async with asyncio.TaskGroup() as supplying:
            suppliers = [] if follower is None else [supplying.create_task(follower.run())]
            async with asyncio.TaskGroup() as sending:
                self._resume_tasks(attempts, sending)
                suppliers += [supplying.create_task(self._read(queue)) for queue in self.queues.values()]
                if self.fallbacks is not None:
                    suppliers += [supplying.create_task(watching) for watching in self.fallbacks.watches()]
                for lane in self.lanes:
                    sending.create_task(self._drive(lane, self.queues[lane.model], attempts, sending))
            for supplier in suppliers:
                supplier.cancel()

    async def _read(self, queue: WorkQueue) -> None:
        """The model's part of the source, if the planning pass or a person asks for anything of it."""
        await self._read_source(queue)
        if queue.is_fed and self.fallbacks is not None:
            await self.fallbacks.last_came(queue)
            if queue.overflowed:
                await self._read_source(queue)
            queue.feeding_ended()
        self.close_when_drained(queue)

    async def _read_source(self, queue: WorkQueue) -> None:
        if queue.model in self.requeued or queue.model in self.found.ahead:
            batches = self.ports.items.batches(frozenset({queue.model}))
            surveyed = self.found.per_model.get(queue.model, 0)
            is_chosen = self._is_chosen if self.fallbacks is not None or self.part_keys is not None else None
            try:
                await queue.read(batches, limit=self.run_request.limit, surveyed=surveyed, is_chosen=is_chosen)
            except JobMistakesError as error:
                self._source_changed(error)
            except Exception as error:  # noqa: BLE001 - a fault of ours here must not cut off what is in flight
                line = await self.ports.note_fault("reading the prompts", error)
                self.note_left_open(_SOURCE, "")
                self.shutdown.pause(
                    f"internal error while reading the prompts; please report it with errors.log: {line}"
                )
        else:
            queue.nothing_to_read()

    def _is_chosen(self, item: Item, key: bytes) -> bool:
        """Whether the run is about this item, and it is its model's turn."""
        part, others = self.part_keys, self.fallbacks.arrived if self.fallbacks is not None else ()
        if (part is not None and key not in part and key not in others) or not self.state.is_current(item):
            return False
        return not (item.fallback_keys and self._is_reusable(key))

    def _is_reusable(self, key: bytes) -> bool:
        """Whether its answer is taken from another run when it is handed over."""
        reusable = self.ports.reusable
        return reusable is not None and key in reusable and key not in self.takings.keys_refused

    def _source_changed(self, error: JobMistakesError) -> None:
        """Nothing more leaves, what is under way is awaited and recorded; a later run settles the result files."""
        self.note_left_open(_SOURCE, "")
        self.shutdown.pause(f"the prompts changed during the run: {error}; run again to use the new prompts")

    async def _drive(self, lane: Lane, queue: WorkQueue, attempts: Attempts, group: asyncio.TaskGroup) -> None:
        """Wait until there is an item; a slot first, then the item for it. The slot continues by itself."""
        while await queue.ready(stopped=lane.has_stopped):
            ticket = await lane.acquire(fresh=True)
            if ticket is None:
                return
            work = queue.take()
            if work is None:
                lane.give_up(ticket)  # another lane was faster
                continue
            group.create_task(attempts.process_items(Slot(lane, queue, ticket), work, attempts.company(work, queue)))

    def _close_lanes(self, reason: str) -> None:
        """The budget is spent: nothing leaves any more, what was accepted is followed to its end."""
        for lane in self.lanes:
            lane.close(Closed(kind="budget", reason=reason, refused_account=False))

    def close_when_drained(self, queue: WorkQueue) -> None:
        """Wake the drivers that wait for a slot, or for a parked lane, of a model with nothing left to do."""
        if queue.exhausted and queue.drained:
            for lane in self.lanes.of_model(queue.model):
                lane.drain()

    async def _drain_when_asked(self, follower: TaskPoller | None) -> None:
        await self.shutdown.draining.wait()
        under_way = sum(lane.in_flight for lane in self.lanes)
        if under_way:
            self.say(self.shutdown.waiting_for(under_way))
        self.lanes.drain()
        self.budget_guard.close()
        if follower is not None:
            follower.drain()

    # -- taking up what was left

    def _resume_tasks(self, attempts: Attempts, group: asyncio.TaskGroup) -> None:
        """Accepted tasks first: they are paid for. Those of items that the job has no more are followed, too."""
        items = {bytes.fromhex(item.key): item for item in self.found.resumable}
        for key, task in tuple(self.state.tasks.items()):
            item = items.get(key)
            why = why_left(task, self.job, self.ports.accounts)
            if why and not task.urls:
                self.unserved[task.account, task.model, why] += 1
                continue
            lane = self.lanes.find(task.account, task.model) or self.lane(task.account, task.model)
            queue = self.queues.get(task.model) or closed_queue(task.model)
            work = Work(item=item or vanished_item(key, task), key=key, number=self.state.table.find(key))
            queue.claim(work)
            self._resumed[task.model] += item is not None
            group.create_task(self._resume(attempts, work, lane, queue, may_ask=not why, vanished=item is None))

    async def _resume(
        self, attempts: Attempts, work: Work, lane: Lane, queue: WorkQueue, *, may_ask: bool, vanished: bool
    ) -> None:
        task = self.state.tasks[work.key]
        wanted = not vanished and self.is_in_part(work.item) and task.account in self.ports.accounts
        await attempts.resume(work, lane, queue, task, wanted=wanted, may_ask=may_ask)
        self.close_when_drained(queue)
        if vanished:
            self.vanished_ended(work.key)

    def vanished_ended(self, key: bytes) -> None:
        """An item that the job has no more has left its task or its batch."""
        vanished, record = self.totals.vanished, self.state.record(key)
        held = self.state.waits_for_a_person(key, hold=self.totals.hold)
        changes = (ItemState.ACCEPTED.name, -1), (record.item_state.name, 1), (HELD, int(held))
        for name, more in changes:
            vanished[name] = vanished.get(name, 0) + more
        self.vanished_items_ended = True

    # -- how it stands, how it ended

    def snapshot(self) -> Status:
        """Now."""
        now, found = self.ports.clock.wall(), self.found
        lanes = lanes_of_run(
            self.lanes,
            self.queues,
            self.state,
            found,
            more=self.requeued + self._resumed,
            failed=self.recorder.failed_of,
            unserved=self.unserved,
            offset_s=PRESETS[self.job.provider.preset].day_offset_s,
            now=now,
        )
        return status_of(
            self.job,
            self.state,
            self.totals,
            now=now,
            run_state="running",
            lanes=lanes,
            failures=sorted(self.recorder.failures.values(), key=lambda group: -group.count),
            waiting=self.schedule.waiting,
            ends=self.schedule.ends,
            budget=self.budget_guard.lines() if self.job.budget is not None else (),
            control=self.control.state,
        )

    def ending(self) -> RunEnd:
        """How it ended when nothing was raised."""
        return RunEnd(
            shutdown=self.shutdown,
            lanes=tuple(self.lanes),
            queues=tuple(self.queues.values()),
            items=self.part_counts() or self.snapshot().items,
            left_open=bool(self.left_open or self.unserved),
            spent=self.budget_guard.spent_out,
            unasked=tuple(left_words(count, why) for (_, _, why), count in self.unserved.items()),
            last_words=self.last_words,
        )

    # -- pieces

    def is_in_part(self, item: Item) -> bool:
        """Whether the run was asked for this item."""
        limit, part = self.run_request.limit, self.part_keys
        return (limit is None or item.index <= limit) and (part is None or bytes.fromhex(item.key) in part)

    @property
    def part_keys(self) -> frozenset[bytes] | None:
        """The items that the run is for; None where it is for all."""
        return self.run_request.part.keys if self.run_request.part is not None else None

    def part_counts(self) -> ItemCounts | None:
        """Where the items stand that the run was asked for; None where that is the whole job."""
        part = self.run_request.part
        if part is None:
            return None
        now = self.ports.clock.wall()
        moved = self.fallbacks.moved if self.fallbacks is not None else {}
        return count_part(part, self.state, moved=moved, hold=self.totals.hold, now=now, task_s=self.totals.task_s)

    def lane(self, account: str, model: str) -> Lane:
        """A new one."""
        preset, clock = PRESETS[self.job.provider.preset], self.ports.clock
        sent = self.state.sent_today(account, model, day=day_of(wall=clock.wall(), offset_s=preset.day_offset_s))
        settings, leased = self.lane_settings(account, model), self.ports.leased
        own = leased() if leased is not None else None
        return Lane(account, model, settings=settings, clock=clock, sent_today=sent, leased=own)

    def lane_settings(self, account: str, model: str) -> LaneSettings:
        """What a lane is made with, by the job as it is now."""
        return lane_settings(
            self.job,
            window=self.totals.windows.get(f"{account} {model}"),
            most_in_flight=self.run_request.most_in_flight,
            has_tasks=self.ports.tasks is not None,
        )

    def note_left_open(self, why: str, words: str, items: int = 1) -> None:
        """Items are left unfinished by this run: why, and what the server said last."""
        self.left_open[why] = self.left_open.get(why, 0) + items
        cause = why, words
        if words and (cause in self.last_words or len(self.last_words) < _WORDS_KEPT):
            self.last_words[cause] = self.last_words.get(cause, 0) + items
