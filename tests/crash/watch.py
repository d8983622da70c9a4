"""Sees every event of a life as it happens, and checks there and then what must hold at that moment.

An event is: a record that the engine wants written, its acknowledgement, a result row, a POST, its reply, a poll. Each
check costs the same whatever the run's length. The numbers are those of tests/README.md.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, get_args

from batchrunner.core.error_policy import POLICY, Then
from batchrunner.core.events import Accepted, Done, Event, Failed, Intent, Lost, Ready, ReplacedBy, Requeued, Retry
from batchrunner.core.item import Item
from batchrunner.core.job import Job
from batchrunner.core.lifecycle import LIFECYCLE, ItemEvent, ItemRecord, ItemState, OpenTask
from batchrunner.core.outcome import ProblemKind
from batchrunner.core.pacing import day_of, estimate_tokens
from batchrunner.core.presets import PRESETS
from batchrunner.core.state import LedgerState
from batchrunner.engine.lanes import Lane
from batchrunner.engine.runner import Runner
from batchrunner.engine.work_queue import LoopClock
from tests.crash.invariant_error import Violation, need
from tests.crash.ledger_tail import LedgerTail
from tests.crash.rates import Level, RetryAllowance
from tests.support.crashing_disk import CrashingDisk

Body: TypeAlias = tuple[str, str]
"""(model, prompt): what a request shows of its item. Replicas share one."""
LaneName: TypeAlias = tuple[str, str]
"""(account, model)."""
SHANGHAI_S: Final = 8 * 3600.0
_ITEM_EVENTS: Final = get_args(ItemEvent)


@dataclass
class Witness:
    """What the outside knows for certain, over all lives: what was sent, and what was acknowledged as durable."""

    posts: Counter[Body] = field(default_factory=Counter)
    sent_on: Counter[tuple[LaneName, int]] = field(default_factory=Counter)
    """Sends of a lane on a day."""
    done: set[bytes] = field(default_factory=set)
    failed: set[bytes] = field(default_factory=set)
    replaced: dict[bytes, bytes] = field(default_factory=dict)
    """Items whose prompts another model has -> that model's items."""
    tasks: dict[bytes, str] = field(default_factory=dict)
    lives: list[str] = field(default_factory=list)
    unaccounted: int = 0
    """POSTs whose unsynced intents power losses may have taken (`durability: result`)."""
    asked_again: int = 0
    """Answers that broke their schema and items that a person gave another chance: paid, told, and wanted again."""
    events: int = 0
    """So many times everything was checked."""
    violation: Violation | None = None
    """The first one: the engine may have swallowed it."""

    def acknowledged(self, event: Event) -> None:
        """The ledger says that this is on the disk."""
        match event:
            case Done():
                self.done.add(bytes.fromhex(event.k))
                self.tasks.pop(bytes.fromhex(event.k), None)
            case Failed():
                self.failed.add(bytes.fromhex(event.k))
                self.tasks.pop(bytes.fromhex(event.k), None)
            case ReplacedBy():
                self.replaced[bytes.fromhex(event.k)] = bytes.fromhex(event.by)
                self.tasks.pop(bytes.fromhex(event.k), None)
            case Accepted() if event.task:
                self.tasks[bytes.fromhex(event.k)] = event.task
            case _:
                pass

    def begun(self, event: Event) -> None:
        """The engine wants this to be written: a task whose end was seen needs not be remembered any more."""
        if isinstance(event, Retry):
            self.tasks.pop(bytes.fromhex(event.k), None)
            self.asked_again += event.kind == ProblemKind.SCHEMA_MISS
        elif isinstance(event, Requeued):
            self.failed.discard(bytes.fromhex(event.k))
            self.replaced.pop(bytes.fromhex(event.k), None)
            self.tasks.pop(bytes.fromhex(event.k), None)  # it had ended: nobody may requeue an item that is under way
            self.asked_again += 1
        elif isinstance(event, Lost):
            self.done.discard(bytes.fromhex(event.k))
            self.asked_again += 1


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the watch of a life is told of it."""

    disk: CrashingDisk
    job: Job
    clock: LoopClock
    witness: Witness
    bodies: Mapping[Body, frozenset[bytes]]
    items: Mapping[bytes, Item]
    most_attempts: int
    """Of all versions of the job so far."""
    rows: set[bytes]
    """Keys with a row in results.jsonl when the life began."""
    shadow: LedgerState
    """The ledger as replayed when the life began; fed from then on with what is acknowledged."""


class Watch:
    """One life's."""

    def __init__(self, known: Known, runner: Runner) -> None:
        self.known, self.runner, self.witness = known, runner, known.witness
        self.shadow, self.clock, self.job = known.shadow, known.clock, known.job
        self.shadow.live = True
        self.seen = LedgerTail(known.disk, on_the_disk=False)
        self.durable = LedgerTail(known.disk, on_the_disk=True)
        self.pending: dict[bytes, Event] = {}
        """Begun, not acknowledged."""
        self.since_durable: dict[bytes, list[ItemRecord]] = {}
        """Of items with events in this life: what was acknowledged, from the last record on that is on the disk."""
        self.flight: Counter[LaneName] = Counter()
        """POSTs without a reply."""
        self._flight_before: dict[LaneName, int] = {}
        self._last: bytes | None = None
        self._failed_in: dict[bytes, LaneName] = {}
        self._lane_of: dict[bytes, LaneName] = {}
        """Items that were sent in this life, and where."""
        self._estimates: dict[bytes, int] = {}
        self._tasks: dict[LaneName, set[bytes]] = {}
        self._over: set[str | None] = set()
        """Tasks whose end the server told."""
        self._ends: set[bytes] = set()
        """Items whose task is over, or whose end or next try is being written down."""
        self._paces: dict[LaneName, Level] = {}
        self._tokens: dict[LaneName, Level] = {}
        self._polls: dict[str, Level] = {}
        self._retries: dict[LaneName, RetryAllowance] = {}
        self._retried_in: dict[bytes, LaneName] = {}
        """Items whose last send was a retry of a failure in that lane."""

    # -- at any event

    def look(self) -> None:
        """Whatever happened: the memory agrees with the engine (4), no lane is over its limit (12)."""
        self.witness.events += 1
        if self.witness.violation is not None:
            raise self.witness.violation
        mine, its = self.shadow, self.runner.state
        agree = _sums(mine) == _sums(its) and (self._last is None or mine.record(self._last) == its.record(self._last))
        self._need(4, f"the engine believes {its}, the ledger says {mine}", holds=agree)
        for lane in self.runner.lanes:
            self._lane(lane)
        self._live_items()

    def _live_items(self) -> None:
        """At most one live work item for a key (23), over all queues of the run: a few at any time."""
        live = Counter(work.key for queue in self.runner.queues.values() for work in queue.live())
        twice = [self.known.items[key].id for key, count in live.items() if count > 1]
        self._need(23, f"more than one live work item of {twice}", holds=not twice)

    def _lane(self, lane: Lane) -> None:
        name = lane.account, lane.model
        before = self._flight_before.get(name, 0)
        within = lane.in_flight <= lane.limit or lane.in_flight <= before
        self._need(12, f"{lane}: {lane.in_flight} slots of {lane.limit} are taken, before {before}", holds=within)
        self._flight_before[name] = lane.in_flight
        self._need(12, f"{lane}: {self.flight[name]} POSTs", holds=self.flight[name] <= lane.in_flight)

    # -- the ledger

    def begun(self, event: Event) -> None:
        """The engine wants this to be written."""
        if not isinstance(event, _ITEM_EVENTS):
            self.look()
            return
        key = bytes.fromhex(event.k)
        record = self.shadow.record(key)
        name = type(event).__name__
        if isinstance(event, Intent):
            pending = record.item_state is ItemState.PENDING and not isinstance(self.pending.get(key), Intent)
            self._need(23, f"an intent of an item that is {record.item_state.name}", holds=pending)
        allowed = (record.item_state, type(event)) in LIFECYCLE
        self._need(9, f"{name} of an item that is {record.item_state.name}", holds=allowed)
        self._attempts(event, record)
        self.look()
        if isinstance(event, Intent):
            self._to_be_sent(key, event)
        elif isinstance(event, Accepted):
            self._task_begun(key, event)
        elif isinstance(event, Retry):
            rule = POLICY[ProblemKind(event.kind)]
            reasked = event.kind == ProblemKind.SCHEMA_MISS  # it follows a whole answer, and no failure
            if rule.then is Then.RETRY and event.wait is None and event.a > record.attempts and not reasked:
                self._failed_in[key] = self._lane_of.get(key, ("", ""))
        if isinstance(event, Retry | Done | Failed | ReplacedBy):
            self._ended(key, event)
        elif isinstance(event, Ready):
            self._ends.add(key)
        if isinstance(event, Lost):
            self.known.rows.discard(key)  # its row may be there, without its picture
        self.witness.begun(event)
        self.pending[key] = event

    def _attempts(self, event: ItemEvent, record: ItemRecord) -> None:
        match event:
            case Requeued():
                return
            case Intent():
                fits = record.attempts <= event.a < self.job.retry.attempts and event.n == record.sends + 1
                self._need(10, f"send {event.n} with {event.a} attempts after {record}", holds=fits)
            case Retry() | Done() | Failed() | ReplacedBy():
                fits = record.attempts <= event.a <= self.known.most_attempts
                self._need(10, f"{type(event).__name__} with {event.a} attempts after {record}", holds=fits)
            case _:
                self._need(10, f"{event} in an item with {record}", holds=True)

    def _to_be_sent(self, key: bytes, event: Intent) -> None:
        lane, now = (event.account, event.model), self.clock.monotonic()
        task = self.witness.tasks.get(key)
        self._need(4, f"an item is submitted again although its task {task} is under way", holds=task is None)
        failed_in = self._failed_in.pop(key, None)
        if failed_in is None:
            self._retried_in.pop(key, None)
            self._allowance(lane).sent(again=False, now=now)
        else:
            self._retried_in[key] = failed_in
            within = self._allowance(failed_in).sent(again=True, now=now)
            self._need(14, f"one retry too many in {failed_in}: {self._allowance(failed_in)}", holds=within)
        self._lane_of[key] = lane
        per_minute = self.job.limits.tokens_per_minute
        if per_minute is not None and self.job.kind == "chat":
            estimate = self._estimates[key] = estimate_tokens(
                sum(len(turn.content) for turn in self.known.items[key].turns)
            )
            fits = self._level(self._tokens, lane, per_minute).take(now, estimate)
            self._need(13, f"more than {per_minute} tokens a minute", holds=fits)

    def _task_begun(self, key: bytes, event: Accepted) -> None:
        lane = event.account, event.model
        left = {key for key, task in self.shadow.tasks.items() if _lane(task) == lane and not task.urls}
        tasks = self._tasks.setdefault(lane, left)
        tasks.add(key)
        most = self.job.limits.in_flight_tasks or PRESETS[self.job.provider.preset].in_flight_tasks
        if event.task:
            self._ends.discard(key)
            under_way = [key for key in tasks - self._ends if self.witness.tasks.get(key) not in self._over]
            fits = len(under_way) <= most
            self._need(12, f"{len(under_way)} tasks in flight in {lane}, {most} allowed", holds=fits)

    def _ended(self, key: bytes, event: Retry | Done | Failed | ReplacedBy) -> None:
        if isinstance(event, Done) and (retried_in := self._retried_in.pop(key, None)) is not None:
            self._allowance(retried_in).record_success()
        self._ends.add(key)
        for tasks in self._tasks.values():
            tasks.discard(key)
        estimate = self._estimates.pop(key, None)
        if estimate is not None and isinstance(event, Done) and event.input_tokens is not None:
            level = self._tokens[self._lane_of[key]]
            level.take(self.clock.monotonic(), event.input_tokens + (event.output_tokens or 0) - estimate)

    def acknowledged(self, event: Event, *, durable: bool) -> None:
        """The ledger says that it has it."""
        self.look()
        if durable:
            self.witness.acknowledged(event)
        if not isinstance(event, _ITEM_EVENTS):
            self.shadow.apply(event, at=self.clock.wall())
            return
        key = self._last = bytes.fromhex(event.k)
        before = self.since_durable.get(key) or [self.shadow.record(key)]
        self.shadow.apply(event, at=self.clock.wall())
        self.pending.pop(key, None)
        record = self.shadow.record(key)
        self.since_durable[key] = [record] if durable else [*before, record]

    # -- results

    def row(self, key: bytes) -> None:
        """A result row is about to be written."""
        self.look()
        self._need(11, f"a second row of {key.hex()}", holds=key not in self.known.rows)
        self.known.rows.add(key)

    # -- the ports

    def post(self, lane: LaneName, body: Body) -> None:
        """A paid request leaves."""
        now, witness = self.clock.monotonic(), self.witness
        refused_at = self.known.disk.refused_at
        self._need(16, "a POST after the disk had refused", holds=refused_at is None or now <= refused_at)
        witness.posts[body] += 1
        keys = self.known.bodies.get(body, frozenset())
        count = witness.posts[body] - witness.unaccounted
        self._need(2, "a POST without an intent in the ledger", holds=self.seen.intents(keys) >= count)
        if self.job.durability == "full":
            self._need(1, "a POST before its intent was on the disk", holds=self.durable.intents(keys) >= count)
        self.flight[lane] += 1
        most = self.job.limits.concurrency
        self._need(12, f"{self.flight[lane]} POSTs at once", holds=most is None or self.flight[lane] <= most)
        self._pace(lane, now)
        self.look()

    def _pace(self, lane: LaneName, now: float) -> None:
        limits = self.job.limits
        if limits.requests_per_minute is not None:
            fits = self._level(self._paces, lane, limits.requests_per_minute).take(now)
            self._need(13, f"more than {limits.requests_per_minute} requests a minute", holds=fits)
        day = day_of(wall=self.clock.wall(), offset_s=SHANGHAI_S)
        self.witness.sent_on[lane, day] += 1
        daily = limits.requests_per_day
        sent = self.witness.sent_on[lane, day] - self.witness.unaccounted
        self._need(13, f"{sent} requests on a day", holds=daily is None or sent <= daily)

    def replied(self, lane: LaneName) -> None:
        """A reply has come, or nobody waits for it any more."""
        self.flight[lane] -= 1
        self.look()

    def poll(self, account: str, task_id: str) -> None:
        """A task is asked for."""
        self.look()
        self._need(4, f"task {task_id} is polled before it is durable", holds=self.durable.knows_task(task_id))
        rate = self.job.limits.poll_per_second or PRESETS[self.job.provider.preset].poll_per_second
        level = self._polls.setdefault(account, Level(rate, max(1.0, rate / 2.0)))
        self._need(15, f"more than {rate} polls a second", holds=level.take(self.clock.monotonic()))

    def task_is_over(self, task_id: str) -> None:
        """The server has said so; what became of the item is written down after that, and others may go before."""
        self._over.add(task_id)

    # -- the end of the life

    def over(self) -> None:
        """The run ended by itself, or as it was asked to: every slot has come back (12)."""
        for lane in self.runner.lanes:
            left = lane.in_flight, lane.open_tasks, lane.alive, self.flight[lane.account, lane.model]
            self._need(12, f"{lane}: slots, tasks, items, POSTs {left} never came back", holds=not any(left))

    def may_stand(self, key: bytes, *, power_was_lost: bool) -> list[ItemRecord]:
        """How the ledger's bytes may show an item after this life; nothing is known of one without events in it."""
        known = self.since_durable.get(key)
        if known is None:
            return []
        possible = list(known) if power_was_lost else known[-1:]
        if key in self.pending:
            after = self.known.shadow
            after.apply(self.pending.pop(key), at=self.clock.wall_at_zero or 0.0)
            possible.append(after.record(key))
            self.since_durable[key] = possible
        return possible

    # -- pieces

    def _allowance(self, lane: LaneName) -> RetryAllowance:
        return self._retries.setdefault(lane, RetryAllowance(began=0.0))

    @staticmethod
    def _level(levels: dict[LaneName, Level], lane: LaneName, per_minute: float) -> Level:
        return levels.setdefault(lane, Level(per_minute / 60.0, max(1.0, per_minute / 20.0)))

    def _need(self, number: int, words: str, *, holds: bool) -> None:
        if holds:
            return
        try:
            need(number, words, holds=False)
        except Violation as violation:
            self.witness.violation = self.witness.violation or violation
            raise


def _sums(state: LedgerState) -> tuple[object, ...]:
    counts = tuple(state.count(item_state) for item_state in ItemState)
    sends = state.sends, state.refused, state.ambiguous, state.unknown, state.doubtful_count
    return (*counts, *sends, state.images, state.input_tokens, state.output_tokens, len(state.tasks), len(state.parks))


def _lane(task: OpenTask) -> LaneName:
    return task.account, task.model
