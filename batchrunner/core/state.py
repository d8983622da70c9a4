"""The memory as replayed: where each item stands, what was sent, which tasks are open. The lifecycle is a table.

One packed integer an item, keyed by the 16 bytes of its content hash; objects exist for open tasks and parks only.
Terminal states are sticky; replaying an event twice changes no standing (RELIABILITY section 4, invariants 7 to 10).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from batchrunner.core.budget import BARREN_KINDS, Tally
from batchrunner.core.errors import LifecycleError
from batchrunner.core.events import (
    Accepted,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Lost,
    Open,
    Parked,
    Ready,
    Reformatted,
    Refused,
    Requeued,
    Resumed,
    Retry,
    Rewritten,
)
from batchrunner.core.outcome import HeldItem, ProblemKind, Usage
from batchrunner.core.pacing import day_of


class Standing(IntEnum):
    """Where an item stands."""

    PENDING = 0
    SENDING = 1
    ACCEPTED = 2
    DONE = 3
    FAILED = 4


S = Standing
_STANDINGS: Final = tuple(Standing)
"""By number: asked several times for every event, and an enum's own look-up is slow."""
ItemEvent = Intent | Refused | Accepted | Ready | Retry | Done | Failed | Requeued | Lost

LIFECYCLE: Final[dict[tuple[Standing, type[ItemEvent]], Standing]] = {
    (S.PENDING, Intent): S.SENDING,
    (S.PENDING, Done): S.DONE,  # a whole row whose `done` a crash swallowed is adopted
    (S.PENDING, Failed): S.FAILED,  # given up between two sends, or its model is known not to exist
    (S.PENDING, Requeued): S.PENDING,  # a held item that a person lets go
    (S.SENDING, Done): S.DONE,
    (S.SENDING, Accepted): S.ACCEPTED,
    (S.SENDING, Refused): S.PENDING,
    (S.SENDING, Retry): S.PENDING,
    (S.SENDING, Failed): S.FAILED,
    (S.ACCEPTED, Ready): S.ACCEPTED,
    (S.ACCEPTED, Done): S.DONE,
    (S.ACCEPTED, Retry): S.PENDING,  # its own end was reached: a new submit is a new attempt
    (S.ACCEPTED, Failed): S.FAILED,
    (S.FAILED, Requeued): S.PENDING,  # ACCEPTED where its task is kept
    (S.DONE, Lost): S.PENDING,  # its answer is gone, and a person pays for another one
}
"""The steps that an item may take. A process that takes another one is wrong, and raises before it does.

Replay is forgiving, for an earlier program may have been wrong: what is in neither table changes nothing there, so that
a terminal record wins over late ones.
"""
_REPLAYED: Final[dict[tuple[Standing, type[ItemEvent]], Standing]] = {
    **LIFECYCLE,
    (S.SENDING, Intent): S.SENDING,
    (S.ACCEPTED, Accepted): S.ACCEPTED,
}

# The packed integer, from its lowest bit: standing 3, doubtful 1, cut 1, fresh 1, attempts 8, ambiguous 8, sends 16,
# the model's number, 0 while no send has named it, 16; and of a done item: seen 1, epoch 16, crc 32.
_DOUBTFUL: Final = 1 << 3
_CUT: Final = 1 << 4
_FRESH: Final = 1 << 5
_ATTEMPTS: Final = 6
_AMBIGUOUS: Final = 14
_SENDS: Final = 22
_MODEL: Final = 38
_SEEN: Final = 1 << 54
_EPOCH: Final = 55
_CRC: Final = 71
_CRC_MASK: Final = 0xFFFFFFFF
_MODEL_MASK: Final = 0xFFFF
_BELOW_SEEN: Final = _SEEN - 1
_BYTE: Final = 0xFF
_SENDS_MAX: Final = 0xFFFF
_CLOCK_GRAIN_S: Final = 0.001
_TASKS_REMEMBERED: Final = 4096
"""Ids of accepted tasks, the latest ones, among which one that is given twice is noticed."""


@dataclass(slots=True, kw_only=True)
class OpenTask:
    """An accepted task that has not come to its end."""

    task_id: str
    item_id: str
    account: str
    model: str
    accepted_at: float
    """Wall clock."""
    urls: tuple[str, ...] = ()
    usage: Usage | None = None
    """Of the answer that held the URLs, where it was told."""
    origin: str = ""
    """The base URL of the server that accepted it; empty where an older program wrote it down."""
    guess: bool = False
    """Its id may not be a task's at all."""
    others: tuple[str, ...] = ()
    """Further tasks that the same order made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Why a lane stands still, and until when (wall clock; None: until a person has done something)."""

    kind: str
    reason: str
    until: float | None
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """What is known of one item, unpacked."""

    standing: Standing
    attempts: int
    ambiguous: int
    sends: int
    doubtful: bool
    """Its last send got no clear answer."""
    fresh: bool
    """First seen by this process: what finishes it later did not recover it."""


class LedgerState:
    """Feed it every event in order, `segment_ended` after each segment; then ask."""

    def __init__(self, *, day_offset_s: float = 0.0) -> None:  # noqa: PLR0915 - a line for each thing remembered
        self._day_offset_s = day_offset_s
        self._items: dict[bytes, int] = {}
        self._sending: set[bytes] = set()
        self._reasks: set[bytes] = set()
        """Items whose last answer broke its schema; the process of this segment knows what to tell the model."""
        self._uncorrected: set[bytes] = set()
        """Items like that whose process is gone: their next send is the first request once more, paid again."""
        self._counts = [0] * len(Standing)
        self.intact_at = 0.0  # wall clock until which the directory is known to be as recorded; set by who replays
        self.tasks: dict[bytes, OpenTask] = {}
        self.kept_tasks: dict[bytes, OpenTask] = {}
        """Of items that failed by a fault of ours: who wants such an item again gets its task, and no new one."""
        self.held: dict[bytes, HeldItem] = {}
        self.shared_tasks: set[bytes] = set()
        """Items whose task's id the server had given to another item before."""
        self._task_owners: dict[tuple[str, str], bytes] = {}
        self.parks: dict[tuple[str, str], Park] = {}
        self.days: dict[tuple[str, str], tuple[int, int]] = {}
        """(account, model) -> (days since 1970 where the quota turns, sends on that day)."""
        self.labels: set[str] = set()
        """Labels under which rows were written since results.jsonl was last rewritten."""
        self.tallies: dict[str, Tally] = {}
        """What was sent to each model, for budgets."""
        self._models: list[Tally] = [Tally()]
        self._numbers: dict[str, int] = {}
        self.unsettled = False
        """Rows were added since results.jsonl was last rewritten."""
        self.sends = 0
        self.refused = 0
        self.ambiguous = 0
        self.unknown = 0
        self.doubtful_count = 0
        self.most_sending = 0
        """The most sends that were ever in flight at once."""
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.images, self.results_length, self._epoch = 0, 0, 1
        """`_epoch`: rewritings of results.jsonl so far, from one: checksums of rows hold until the next one."""
        self.lost: set[bytes] = set()
        """Done items whose row or picture is gone: what a look at the directory found, not the ledger."""
        self.torn = False
        """See `Close`."""
        self.marked: Close | None = None
        """How the last clean end left the directory; None after any other end."""
        self.segments = 0
        self.closed = True
        """The last segment ended with `close`."""
        self.live = False
        """True once this process writes: items that first appear from now on are its own, and only steps of the
        lifecycle are taken."""

    def __repr__(self) -> str:
        stand = ", ".join(f"{self.count(s)} {s.name.lower()}" for s in Standing)
        return f"<LedgerState: {stand}; {self.sends} sends, {self.ambiguous} ambiguous, {self.unknown} unknown>"

    # -- asking

    def standing(self, key: bytes) -> Standing:
        """Where the item with this key stands; PENDING when the ledger has never heard of it."""
        return _STANDINGS[self._items.get(key, 0) & 7]

    def record(self, key: bytes) -> ItemRecord:
        """Everything known of one item."""
        packed = self._items.get(key, _FRESH)
        return ItemRecord(
            standing=_STANDINGS[packed & 7],
            attempts=packed >> _ATTEMPTS & _BYTE,
            ambiguous=packed >> _AMBIGUOUS & _BYTE,
            sends=packed >> _SENDS & _SENDS_MAX,
            doubtful=bool(packed & _DOUBTFUL),
            fresh=bool(packed & _FRESH),
        )

    def waits_for_a_person(self, key: bytes, *, hold: bool) -> bool:
        """Whether the item is held. `hold` is `on_ambiguous: hold`: every send without a clear answer is."""
        packed = self._items.get(key, 0)
        return packed & 7 == S.PENDING and (key in self.held or (hold and bool(packed & _DOUBTFUL)))

    def knows(self, key: bytes) -> bool:
        """Whether the ledger has ever heard of this item."""
        return key in self._items

    def crc(self, key: bytes) -> int | None:
        """crc32 of a done item's row; None when nobody said so, or the file was rewritten since."""
        packed = self._items.get(key, 0)
        return packed >> _CRC & _CRC_MASK if packed >> _EPOCH & _SENDS_MAX == self._epoch else None

    def see(self, key: bytes) -> bool:
        """The row of this done item is there; False when it was seen before."""
        packed = self._items[key]
        self._items[key] = packed | _SEEN
        return not packed & _SEEN

    def take_unseen(self) -> set[bytes]:
        """Done items whose row nobody saw since the last time this was asked."""
        unseen = set[bytes]()
        for key, packed in self._items.items():
            if packed & _SEEN:
                self._items[key] = packed & ~_SEEN
            elif packed & 7 == S.DONE:
                unseen.add(key)
        return unseen

    def count(self, standing: Standing) -> int:
        """Keys with this standing; PENDING counts only those that the ledger has heard of."""
        return self._counts[standing]

    def standings(self) -> Iterator[tuple[bytes, Standing]]:
        """Every known key with its standing."""
        return ((key, _STANDINGS[packed & 7]) for key, packed in self._items.items())

    def timed_out(self, *, now: float, task_s: float) -> int:
        """Accepted tasks whose deadline of `task_s` seconds has come."""
        return sum(1 for task in self.tasks.values() if now - task.accepted_at >= task_s - _CLOCK_GRAIN_S)

    def sent_today(self, account: str, model: str, *, day: int) -> int:
        """Sends of this lane on that day (days since 1970)."""
        counted_on, sends = self.days.get((account, model), (day, 0))
        return sends if counted_on == day else 0

    # -- replaying

    def check(self, event: Event) -> None:
        """Ask before an event of this process is written, or what it announces is done.

        Raises:
            LifecycleError: the item cannot take this step from where it stands.
        """
        if isinstance(event, ItemEvent):
            standing = self.standing(bytes.fromhex(event.k))
            if (standing, type(event)) not in LIFECYCLE:
                step = type(event).__name__.lower()
                raise LifecycleError(
                    f"internal error: `{step}` of the item {event.i}, which is {standing.name.lower()}; nothing "
                    "was sent or written for it, the run pauses; run again to go on, and please report this"
                )

    def apply(self, event: Event, *, at: float) -> None:
        """Take one event that happened at wall clock `at`.

        Raises:
            LifecycleError: a live process took a step that the lifecycle does not know.
        """
        if self.live:
            self.check(event)
        match event:
            case Open():
                self.segments += 1
                self.closed, self.torn, self.marked = False, False, None
                if event.labels:
                    self.labels.add(event.labels)
            case Close():
                self.closed, self.torn = True, event.torn
                self.marked = event if event.files is not None else None
            case Rewritten():
                self._epoch = self._epoch % _SENDS_MAX + 1
                self.results_length = event.length
                self.labels = {event.labels}
                self.unsettled = False
            case Parked():
                self.parks[event.account, event.model] = Park(
                    kind=event.kind, reason=event.reason, until=event.until, since=at
                )
            case Resumed():
                self.parks.pop((event.account, event.model), None)
            case Reformatted():
                pass  # it changes which files there are, and nothing of where the item stands
            case Intent() | Refused() | Accepted() | Ready() | Retry() | Done() | Failed() | Requeued() | Lost():
                self._item_event(bytes.fromhex(event.k), event, at)

    def segment_ended(self) -> None:
        """The process behind the segment is gone: whatever it was sending is unknown, charged and counted."""
        self._sending |= {key for key, task in self.tasks.items() if not task.task_id and not task.urls}
        for key in self._sending:
            self.tasks.pop(key, None)  # the answer held pictures, and nobody can be asked where they are
            packed = self._items[key]
            self.unknown += 1
            packed = _with_attempts(_plus_ambiguous(packed), (packed >> _ATTEMPTS & _BYTE) + 1)
            self._store(key, self._doubt((packed & ~7) | _CUT | S.PENDING, doubtful=True))
        self._sending.clear()
        self._uncorrected |= self._reasks
        self._reasks.clear()

    def _item_event(self, key: bytes, event: ItemEvent, at: float) -> None:
        packed = self._items.get(key)
        if packed is None:
            packed = _FRESH if self.live else 0
            self._counts[S.PENDING] += 1
            self._items[key] = packed
        to = _REPLAYED.get((_STANDINGS[packed & 7], type(event)))
        self._count_sends(event, at, packed)
        if to is None:
            return
        self._tally(packed, event)
        packed = self._apply_to_item(key, self._asked_again(key, packed, event), event, at)
        task = self.tasks.get(key)
        if isinstance(event, Failed) and event.kind == ProblemKind.INTERNAL and task and (task.task_id or task.urls):
            self.kept_tasks[key] = task
        elif isinstance(event, Requeued) and key in self.kept_tasks:
            to, packed = self._take_task_up(key, packed)
        self._store(key, (packed & ~7) | to)
        if to is S.SENDING:
            self._sending.add(key)
            self.most_sending = max(self.most_sending, len(self._sending))
        else:
            self._sending.discard(key)
        if to is not S.ACCEPTED:
            self.tasks.pop(key, None)
        if isinstance(event, Retry) and event.held:
            self.held[key] = HeldItem(item_id=event.i, kind=event.kind, message=event.message)
        elif self.held:
            self.held.pop(key, None)

    def _asked_again(self, key: bytes, packed: int, event: ItemEvent) -> int:
        """Count the sends that repeat a request because what was to be told the model went with its process."""
        if isinstance(event, Retry) and event.kind == ProblemKind.SCHEMA_MISS:
            self._reasks.add(key)
            return packed
        self._reasks.discard(key)
        if key not in self._uncorrected:
            return packed
        self._uncorrected.discard(key)
        if not isinstance(event, Intent):
            return packed
        self.unknown += 1
        return _plus_ambiguous(packed)

    def _apply_to_item(self, key: bytes, packed: int, event: ItemEvent, at: float) -> int:
        match event:
            case Intent():
                packed = self._doubt(packed, doubtful=False) & ~_CUT
                packed = _with_sends(_with_attempts(packed, event.a), event.n)
                return packed & ((1 << _MODEL) - 1) | min(self._numbers[event.model], _MODEL_MASK) << _MODEL
            case Refused() | Ready():
                if isinstance(event, Ready) and key in self.tasks:
                    self.tasks[key].urls = (*self.tasks[key].urls[: event.first], *event.urls)
                    self.tasks[key].usage = _told(event) or self.tasks[key].usage
                return packed
            case Accepted():
                self.tasks[key] = OpenTask(
                    task_id=event.task,
                    item_id=event.i,
                    account=event.account,
                    model=event.model,
                    accepted_at=at,
                    origin=event.origin,
                    guess=event.guess,
                    others=event.others,
                )
                self._remember_task(key, event)
                return packed
            case Retry() | Failed():
                packed = self._doubt(packed, doubtful=event.ambiguous and isinstance(event, Retry))
                if event.ambiguous:
                    packed = _plus_ambiguous(packed)
                    self.ambiguous += 1
                return _with_attempts(packed, event.a)
            case Done():
                self.lost.discard(key)
                return self._finish(packed, event)
            case Lost():
                self.lost.discard(key)
                return _with_attempts(packed & _BELOW_SEEN, 0)
            case Requeued():
                return _with_attempts(self._doubt(packed, doubtful=False), 0)

    def _remember_task(self, key: bytes, event: Accepted) -> None:
        if not event.task:
            return
        owners, task = self._task_owners, (event.origin, event.task)
        if owners.setdefault(task, key) != key:
            self.shared_tasks.add(key)
        if len(owners) > _TASKS_REMEMBERED:
            del owners[next(iter(owners))]

    def _take_task_up(self, key: bytes, packed: int) -> tuple[Standing, int]:
        self.tasks[key] = self.kept_tasks.pop(key)
        counted = bool(packed >> _AMBIGUOUS & _BYTE)  # it is not paid for nothing after all
        self.ambiguous -= counted
        return S.ACCEPTED, packed - counted * (1 << _AMBIGUOUS)

    def _finish(self, packed: int, event: Done) -> int:
        if packed & _CUT:  # its answer had reached the disk after all
            self.unknown -= 1
        self.results_length = max(self.results_length, event.length)
        self.unsettled = True
        self.images += event.images
        self.input_tokens = _plus(self.input_tokens, event.input_tokens)
        self.output_tokens = _plus(self.output_tokens, event.output_tokens)
        packed = packed & _BELOW_SEEN | self._epoch * bool(event.crc) << _EPOCH | int(event.crc or "0", 16) << _CRC
        return _with_attempts(self._doubt(packed, doubtful=False) & ~_CUT, event.a)

    def _tally(self, packed: int, event: ItemEvent) -> None:
        """What an item's event says of the call that it ends; `packed` is the item as it was before."""
        if isinstance(event, Done):
            tally = self._models[packed >> _MODEL & _MODEL_MASK]
            tally.done += 1
            tally.pictures += event.images
            tally.told(event.input_tokens, event.output_tokens)
        elif isinstance(event, Retry | Failed) and packed & 7 in {S.SENDING, S.ACCEPTED}:
            tally = self._models[packed >> _MODEL & _MODEL_MASK]
            tally.told(event.input_tokens, event.output_tokens)
            tally.barren += event.kind in BARREN_KINDS

    def _count_sends(self, event: ItemEvent, at: float, packed: int) -> None:
        if isinstance(event, Intent):
            self.sends += 1
            if event.model not in self._numbers:
                self._numbers[event.model] = len(self._models)
                self.tallies[event.model] = Tally()
                self._models.append(self.tallies[event.model])
            self._models[self._numbers[event.model]].calls += 1
            day = day_of(wall=at, offset_s=self._day_offset_s)
            lane = event.account, event.model
            self.days[lane] = day, self.sent_today(*lane, day=day) + 1
        elif isinstance(event, Refused):
            self.refused += 1
            self._models[packed >> _MODEL & _MODEL_MASK].calls -= 1

    def _doubt(self, packed: int, *, doubtful: bool) -> int:
        self.doubtful_count += doubtful - bool(packed & _DOUBTFUL)
        return packed | _DOUBTFUL if doubtful else packed & ~_DOUBTFUL

    def _store(self, key: bytes, packed: int) -> None:
        self._counts[self._items[key] & 7] -= 1
        self._counts[packed & 7] += 1
        self._items[key] = packed


def _told(event: Ready) -> Usage | None:
    usage = Usage(input_tokens=event.input_tokens, output_tokens=event.output_tokens)
    return None if usage == Usage() else usage


def _with_attempts(packed: int, attempts: int) -> int:
    return packed & ~(_BYTE << _ATTEMPTS) | min(attempts, _BYTE) << _ATTEMPTS


def _plus_ambiguous(packed: int) -> int:
    count = min((packed >> _AMBIGUOUS & _BYTE) + 1, _BYTE)
    return packed & ~(_BYTE << _AMBIGUOUS) | count << _AMBIGUOUS


def _with_sends(packed: int, sends: int) -> int:
    return packed & ~(_SENDS_MAX << _SENDS) | min(sends, _SENDS_MAX) << _SENDS


def _plus(known: int | None, more: int | None) -> int | None:
    return known if more is None else (known or 0) + more
