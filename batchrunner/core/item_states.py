"""The state of each item according to the ledger: one word an item in a table by the 16 bytes of its content hash.

Objects exist for open tasks and parks only. `state` feeds it.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

from batchrunner.core.budget import Tally
from batchrunner.core.error_policy import policy_named
from batchrunner.core.events import (
    Accepted,
    Batched,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Named,
    Refused,
    ReplacedBy,
    Retry,
)
from batchrunner.core.fallback import HandOvers
from batchrunner.core.item import Item
from batchrunner.core.item_table import ItemTable
from batchrunner.core.lifecycle import (
    AMBIGUOUS,
    ATTEMPTS,
    BYTE,
    DOUBTFUL,
    EPOCH,
    EPOCHS,
    FRESH,
    ITEM_STATE,
    ITEM_STATES,
    KNOWN,
    LASTING,
    MODEL,
    MODEL_MASK,
    SEEN,
    SENDS,
    SENDS_MAX,
    ItemEvent,
    ItemRecord,
    ItemState,
    OpenTask,
    Park,
    S,
    TaskOwners,
    named_task,
    record_of,
)
from batchrunner.core.outcome import HeldItem
from batchrunner.core.pacing import DAY_S
from batchrunner.core.remote_batch import BatchEvent, Figures, RemoteBatch, RemoteBatches

_CLOCK_GRAIN_S: Final = 0.001


class Memory:
    """What is known of every item, every lane and of the whole, and the counting; `LedgerState` takes the events."""

    def __init__(self, *, day_offset_s: float = 0.0) -> None:  # noqa: PLR0915 - a line for each thing remembered
        self._day_offset_s = day_offset_s
        self.table = ItemTable()
        self._sending: dict[bytes, int] = {}
        """Items under way, with their numbers in the table."""
        self._reasks: set[bytes] = set()
        """Items whose last answer broke its schema; the process of this segment has the correction for the model."""
        self._uncorrected: set[bytes] = set()
        """Items like that whose process is gone: their next send is the first request once more, paid again."""
        self._counts = [0] * len(ItemState)
        self.intact_at = 0.0  # wall clock until which the directory is known to be as recorded; set by who replays
        self.tasks: dict[bytes, OpenTask] = {}
        self.kept_tasks: dict[bytes, OpenTask] = {}
        """Of items that failed by a fault of ours: who wants such an item again gets its task, and no new one."""
        self.held: dict[bytes, HeldItem] = {}
        self._named: dict[bytes, OpenTask] = {}
        """Of items that are under way: the task that their send asks for by its id."""
        self.batches = RemoteBatches()
        """The number of an accepted item's batch stands in its place of a checksum in the table."""
        self.shared_tasks: set[bytes] = set()
        """Items whose task's id the server had given to another item before."""
        self._task_owners = TaskOwners()
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
        self.sends, self.refused = 0, 0
        self.ambiguous = 0
        self.unknown = 0
        self.doubtful_count = 0
        self.most_sending = 0
        """The most sends that were ever in flight at once."""
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.images, self.results_length, self._epoch = 0, 0, 1
        self.cache_read: int | None = None
        """Of the input tokens: what came from a cache."""
        self.cache_write: int | None = None
        self.reused = 0
        """Answers that were taken from other runs."""
        """`_epoch`: rewritings of results.jsonl so far, from one: checksums of rows hold until the next one."""
        self.hand_overs = HandOvers()
        self.lost: set[bytes] = set()
        """Done items whose row or picture is gone: what a look at the directory found, not the ledger."""
        self.torn = False
        """See `Close`."""
        self.marked: Close | None = None
        """How the last clean end left the directory; None after any other end."""
        self.segments, self.events = 0, 0
        """`events`: taken so far, by this process."""
        self.begun_from: int | None = None
        """The segment at whose end the checkpoint stands from which this began."""
        self.closed = True
        """The last segment ended with `close`."""
        self.live = False
        """True once this process writes: items that first appear from now on are its own, and only steps of the
        lifecycle are taken."""

    def __repr__(self) -> str:
        stand = ", ".join(f"{self.count(s)} {s.name.lower()}" for s in ItemState)
        return (
            f"<{type(self).__name__}: {stand}; {self.sends} sends, {self.ambiguous} ambiguous, {self.unknown} unknown>"
        )

    # -- asking

    def item_state(self, key: bytes) -> ItemState:
        """The state of the item with this key; PENDING if the ledger has no record of it."""
        return ITEM_STATES[self.table.word(key) & ITEM_STATE]

    def record(self, key: bytes) -> ItemRecord:
        """Everything known of one item."""
        return record_of(self.table.word(key))

    def effort(self, key: bytes, *, number: int = 0) -> tuple[int, int, int, bool]:
        """(sends, attempts, ambiguous, fresh), as in `record`; `number` as in `attempts`."""
        packed = self.table.words[number or self.table.find(key)]
        fresh = bool(packed & FRESH) or not packed & KNOWN
        return packed >> SENDS & SENDS_MAX, packed >> ATTEMPTS & BYTE, packed >> AMBIGUOUS & BYTE, fresh

    def attempts(self, key: bytes, *, number: int = 0) -> int:
        """Attempts charged to the item, as in `record`; `number` is its own in the table, where that is known."""
        return self.table.words[number or self.table.find(key)] >> ATTEMPTS & BYTE

    def waits_for_a_person(self, key: bytes, *, hold: bool) -> bool:
        """Whether the item is held. `hold` is `on_ambiguous: hold`: every send without a clear answer is."""
        packed = self.table.word(key)
        return packed & ITEM_STATE == S.PENDING and (key in self.held or (hold and bool(packed & DOUBTFUL)))

    def knows(self, key: bytes) -> bool:
        """Whether the ledger has a record of this item."""
        return bool(self.table.word(key) & KNOWN)

    def crc(self, key: bytes) -> int | None:
        """crc32 of a done item's row; None if it was not recorded, or the file was rewritten since."""
        return self.crc_of(self.table.find(key))

    def crc_of(self, number: int) -> int | None:
        """As `crc`, of the item with this number in the table."""
        return self.table.crcs[number] if self.table.words[number] >> EPOCH == self._epoch else None

    def see(self, key: bytes) -> bool:
        """The row of this done item is there; False when it was seen before."""
        number, words = self.table.find(key), self.table.words
        packed = words[number]
        words[number] = packed | SEEN
        return not packed & SEEN

    def see_first_all(self, numbers: list[int]) -> list[bool]:
        """The rows of these items are there, as `see` notes of those that are done and not seen before; which are.

        `numbers` are theirs in the table.
        """
        words, first, done = self.table.words, [], S.DONE.value
        for number in numbers:
            word = words[number]
            if is_first := word & (ITEM_STATE | SEEN) == done:
                words[number] = word | SEEN
            first.append(is_first)
        return first

    def take_unseen(self) -> set[bytes]:
        """Done items whose row was not seen since the last call of this."""
        words = self.table.words
        unseen = {self.table.key(number) for number, word in enumerate(words) if word & (SEEN | ITEM_STATE) == S.DONE}
        self.table.clear(SEEN)
        return unseen

    def count(self, item_state: ItemState) -> int:
        """Keys in this state; PENDING counts only those with a record in the ledger."""
        return self._counts[item_state]

    def is_current(self, item: Item) -> bool:
        """Whether it is this item that has the answer to its prompt to give.

        Not one whose prompt another model has got, nor one of another model whose turn has not come.
        """
        if item.fallback_keys and not self.is_replaced(item.instead_of):
            return False
        return item.then is None or not self.is_replaced(item.key)

    def is_replaced(self, key: str) -> bool:
        """Whether another model has the prompt of the item with this key, in hex."""
        return self.item_state(bytes.fromhex(key)) is S.REPLACED

    def items_of_batch(self, number: int) -> list[bytes]:
        """The keys of the items that are in this batch, as it is now."""
        crcs, find = self.table.crcs, self.table.find
        accepted = (key for key, word in self.table.known() if word & ITEM_STATE == S.ACCEPTED)
        return [key for key in accepted if crcs[find(key)] == number and key not in self.tasks]

    def batch_of(self, key: bytes) -> RemoteBatch | None:
        """The batch that the item is in; None where it is in none."""
        number = self.table.find(key)
        if self.table.words[number] & ITEM_STATE != S.ACCEPTED or key in self.tasks:
            return None
        return self.batches.known.get(self.table.crcs[number])

    def _accept(self, key: bytes, event: Accepted, at: float) -> None:
        """The server took a task."""
        self.tasks[key] = OpenTask.of(event, at)
        self._named.pop(key, None)
        if event.task and self._task_owners.is_shared((event.origin, event.task), key):
            self.shared_tasks.add(key)

    def _note_batch(self, key: bytes, number: int, event: ItemEvent, to: ItemState) -> None:
        """The item, which is not there yet, comes into a batch or leaves the one that it is in."""
        if isinstance(event, Batched):
            self.batches.of(event.b).left += 1
            self.table.crcs[number] = event.b
        elif self.batches.known and to is not S.ACCEPTED and (batch := self.batch_of(key)) is not None:
            batch.leave(event)

    def handed_over(self) -> Iterator[tuple[str, str, int, int]]:
        """(model, class of problem, items that went to it so, those of them that it answered)."""
        return self.hand_overs.counts(self.table.words, state=ITEM_STATE, done=S.DONE.value)

    def item_states(self) -> Iterator[tuple[bytes, ItemState]]:
        """Every known key with its state."""
        return ((key, ITEM_STATES[packed & ITEM_STATE]) for key, packed in self.table.known())

    def timed_out(self, *, now: float, task_s: float) -> int:
        """Accepted tasks whose deadline of `task_s` seconds has come, and of which no result is known."""
        deadline_s = task_s - _CLOCK_GRAIN_S
        return sum(task.has_timed_out(now=now, task_s=deadline_s) for task in self.tasks.values())

    def sent_today(self, account: str, model: str, *, day: int) -> int:
        """Sends of this lane on that day (days since 1970)."""
        counted_on, sends = self.days.get((account, model), (day, 0))
        return sends if counted_on == day else 0

    # -- what the ledger says besides

    def _take_note(self, event: Event, at: float) -> None:
        """An event that changes the state of no item."""
        if isinstance(event, Named):
            self._named[bytes.fromhex(event.k)] = named_task(event, at)
        elif isinstance(event, BatchEvent):
            self.batches.take(event, at)

    def _forget_checksums(self) -> None:
        """results.jsonl was rewritten: the checksums of its rows hold no more."""
        self._epoch += 1
        if self._epoch > EPOCHS:
            self.table.clear(EPOCHS << EPOCH)
            self._epoch = 1

    def _doubt(self, packed: int, *, doubtful: bool) -> int:
        self.doubtful_count += doubtful - bool(packed & DOUBTFUL)
        return packed | DOUBTFUL if doubtful else packed & ~DOUBTFUL

    def _add_model(self, model: str) -> int:
        number = self._numbers[model] = len(self._models)
        self.tallies[model] = Tally()
        self._models.append(self.tallies[model])
        return number

    # -- counting

    def _count_row(self, length: int, images: int, input_tokens: int | None, output_tokens: int | None) -> None:
        if length > self.results_length:  # noqa: PLR1730 - a call of `max` is dear here
            self.results_length = length
        self.unsettled = True
        self.images += images
        if input_tokens is not None:
            self.input_tokens = (self.input_tokens or 0) + input_tokens
        if output_tokens is not None:
            self.output_tokens = (self.output_tokens or 0) + output_tokens

    def _count_cached(self, cache_read: int | None, cache_write: int | None) -> None:
        if cache_read is not None:
            self.cache_read = (self.cache_read or 0) + cache_read
        if cache_write is not None:
            self.cache_write = (self.cache_write or 0) + cache_write

    def _tally(self, key: bytes, packed: int, event: ItemEvent) -> None:
        """What an item's event says of the call that it ends; `packed` is the item as it was before."""
        tally = self._models[packed >> MODEL & MODEL_MASK]
        self._tally_in(tally, packed, event)
        if self.batches.known and self.batch_of(key) is not None:
            batched = tally.in_batches()
            batched.calls -= isinstance(event, Refused)
            self._tally_in(batched, packed, event)

    @staticmethod
    def _tally_in(tally: Tally, packed: int, event: ItemEvent) -> None:
        if isinstance(event, Done):
            if event.reused:  # nothing was sent for it
                return
            tally.done += 1
            tally.pictures += event.images
            add_usage(tally, event.input_tokens, event.output_tokens, event.cache_read, event.cache_write)
        elif isinstance(event, Retry | Failed | ReplacedBy) and packed & ITEM_STATE in {S.SENDING, S.ACCEPTED}:
            add_usage(tally, event.input_tokens, event.output_tokens, event.cache_read, event.cache_write)
            tally.without_work += (policy := policy_named(event.kind)) is not None and policy.no_work

    def _count_sends(self, event: ItemEvent, at: float, packed: int) -> None:
        if isinstance(event, Intent):
            self._count_send(event.model, event.account, at, 0 if event.w else 1)
        elif isinstance(event, Batched):  # no request of its own: limits a day do not count it
            self.sends += 1
            model = self.batches.of(event.b).model
            tally = self._models[self._numbers.get(model) or self._add_model(model)]
            tally.calls += 1
            tally.in_batches().calls += 1
        elif isinstance(event, Refused):
            self.refused += not event.w
            self._models[packed >> MODEL & MODEL_MASK].calls -= not event.w

    def _count_more(self, sent: tuple[str, str, float], times: int) -> int:
        """Count so many further sends of a lane and day; 0, how many are still to be counted."""
        if times:
            self._count_send(*sent, times)
        return 0

    def _count_done(self, model: int, events: list[Done]) -> None:
        """Answers of one model, by its number: as `ended_well` counts each."""
        tally = self._models[model]
        tally.done += len(events)
        tally.pictures += (images := sum([event.images for event in events]))
        reported = [event for event in events if event.input_tokens is not None or event.output_tokens is not None]
        inputs = [event.input_tokens for event in reported if event.input_tokens is not None]
        outputs = [event.output_tokens for event in reported if event.output_tokens is not None]
        tally.measured += len(reported)
        tally.input_tokens += (input_tokens := sum(inputs))
        tally.output_tokens += (output_tokens := sum(outputs))
        for event in reported:
            if event.cache_read is not None or event.cache_write is not None:
                tally.cache_read += event.cache_read or 0
                tally.cache_write += event.cache_write or 0
                self._count_cached(event.cache_read, event.cache_write)
        self._count_row(
            max([event.length for event in events]),
            images,
            input_tokens if inputs else None,
            output_tokens if outputs else None,
        )
        self.events += len(events)

    def _count_send(self, model: str, account: str, at: float, times: int = 1) -> int:
        """The model's number, as far as a word has room for it."""
        self.sends += times
        number = self._numbers.get(model)
        if number is None:
            number = self._add_model(model)
        self._models[number].calls += times
        day = int((at + self._day_offset_s) // DAY_S)
        lane = account, model
        counted_on, sends = self.days.get(lane, (day, 0))
        self.days[lane] = day, (sends if counted_on == day else 0) + times
        return min(number, MODEL_MASK)

    def _store(self, number: int, packed: int) -> None:
        self._counts[self.table.words[number] & ITEM_STATE] -= 1
        self._counts[packed & ITEM_STATE] += 1
        self.table.words[number] = packed

    # -- keeping it apart from the ledger

    def figures(self) -> Figures:
        """After the end of a segment: what `take_over` needs besides the table, to know the same."""
        assert not self._sending, "a segment is over when nothing is under way any more"
        names = ["", *self._numbers]
        return Figures(
            day_offset_s=self._day_offset_s,
            counts=list(self._counts),
            uncorrected=[key.hex() for key in self._uncorrected],
            tasks={key.hex(): task for key, task in self.tasks.items()},
            kept_tasks={key.hex(): task for key, task in self.kept_tasks.items()},
            held={key.hex(): item for key, item in self.held.items()},
            shared_tasks=[key.hex() for key in self.shared_tasks],
            task_owners=[(*task, key.hex()) for task, key in self._task_owners.items()],
            parks=[(*lane, park) for lane, park in self.parks.items()],
            days=[(*lane, *counted) for lane, counted in self.days.items()],
            labels=sorted(self.labels),
            models=list(zip(names, self._models, strict=True)),
            unsettled=self.unsettled,
            sends=self.sends,
            refused=self.refused,
            ambiguous=self.ambiguous,
            unknown=self.unknown,
            doubtful_count=self.doubtful_count,
            most_sending=self.most_sending,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            images=self.images,
            results_length=self.results_length,
            epoch=self._epoch,
            segments=self.segments,
            batches=list(self.batches.known.values()),
            reused=self.reused,
            handed_over=self.hand_overs.dumped(self.table),
            cache_read=self.cache_read,
            cache_write=self.cache_write,
        )

    def agrees_with(self, other: "Memory") -> bool:
        """Whether both know the same of every item, and counted the same; days, which turn at another hour, aside."""
        if self.sums() != other.sums():
            return False
        return all(word == other.table.word(key) & LASTING for key, word in self.table.known())

    def sums(self) -> tuple[object, ...]:
        """What was counted, for comparing."""
        sends = self.sends, self.refused, self.ambiguous, self.unknown, self.tallies
        rows = self.results_length, self._epoch, self.labels, self.input_tokens, self.output_tokens, self.images
        taken = self.reused, self.cache_read, self.cache_write
        open_ones = set(self.tasks), set(self.kept_tasks), set(self.held), self.batches.sums()
        return self._counts, sends, rows, taken, open_ones, list(self.handed_over())

    def take_over(self, figures: Figures, table: ItemTable) -> bool:
        """Take these before any event; False, and nothing is changed, if they do not agree.

        Raises:
            ValueError: a key that is none.
        """
        known = figures.epoch <= EPOCHS and figures.day_offset_s == self._day_offset_s and bool(figures.models)
        if not known or table.counts(models=len(figures.models), doubtful=figures.doubtful_count) != figures.counts:
            return False
        hand_overs = HandOvers(*figures.handed_over)
        hand_overs.known_in(table)
        tasks, kept = _by_key(figures.tasks), _by_key(figures.kept_tasks)
        held, shared = _by_key(figures.held), set(map(bytes.fromhex, figures.shared_tasks))
        uncorrected = set(map(bytes.fromhex, figures.uncorrected))
        owners = {(origin, task): bytes.fromhex(key) for origin, task, key in figures.task_owners}
        self.table, self._counts = table, figures.counts
        self._uncorrected, self.tasks, self.kept_tasks = uncorrected, tasks, kept
        self.held, self.shared_tasks = held, shared
        self._task_owners.update(owners)
        self.parks = {(account, model): park for account, model, park in figures.parks}
        self.days = {(account, model): (day, sends) for account, model, day, sends in figures.days}
        self.labels = set(figures.labels)
        self._models = [tally for _, tally in figures.models]
        self._numbers = {name: number for number, (name, _) in enumerate(figures.models) if number}
        self.tallies = {name: self._models[number] for name, number in self._numbers.items()}
        self.unsettled, self.sends, self.refused = figures.unsettled, figures.sends, figures.refused
        self.ambiguous, self.unknown = figures.ambiguous, figures.unknown
        self.doubtful_count, self.most_sending = figures.doubtful_count, figures.most_sending
        self.input_tokens, self.output_tokens = figures.input_tokens, figures.output_tokens
        self.images, self.results_length, self._epoch = figures.images, figures.results_length, figures.epoch
        self.segments, self.reused = figures.segments, figures.reused
        self.cache_read, self.cache_write = figures.cache_read, figures.cache_write
        self.batches = RemoteBatches({batch.number: batch for batch in figures.batches})
        self.hand_overs = hand_overs
        return True


def add_usage(
    tally: Tally, input_tokens: int | None, output_tokens: int | None, cache_read: int | None, cache_write: int | None
) -> None:
    """A server reported what a call used."""
    if input_tokens is None and output_tokens is None:
        return
    tally.measured += 1
    tally.input_tokens += input_tokens or 0
    tally.output_tokens += output_tokens or 0
    tally.cache_read += cache_read or 0
    tally.cache_write += cache_write or 0


T = TypeVar("T")


def _by_key(values: dict[str, T]) -> dict[bytes, T]:
    return {bytes.fromhex(key): value for key, value in values.items()}
