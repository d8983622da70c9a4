"""The memory as replayed: where each item stands, what was sent, which tasks are open. The lifecycle is a table.

One word an item in a table by the 16 bytes of its content hash; objects exist for open tasks and parks only.
Terminal states are sticky; replaying an event twice changes no state (invariants 7 to 10).
"""

from collections.abc import Sequence
from math import inf
from typing import Final

from batchrunner.core.events import (
    Accepted,
    Batched,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Lost,
    Open,
    Parked,
    Ready,
    Refused,
    ReplacedBy,
    Requeued,
    Resumed,
    Retry,
    Rewritten,
)
from batchrunner.core.item_states import Memory, add_usage
from batchrunner.core.lifecycle import (
    AMBIGUOUS,
    ATTEMPTS,
    BELOW_SEEN,
    BYTE,
    CUT,
    DONE_KEEPS,
    DOUBTFUL,
    EPOCH,
    FRESH,
    ITEM_STATE,
    ITEM_STATES,
    KNOWN,
    LIFECYCLE,
    MODEL,
    MODEL_MASK,
    REPLAYED,
    SENDS,
    SENDS_MAX,
    SENT_KEEPS,
    ItemEvent,
    ItemState,
    Park,
    S,
    plus_ambiguous,
    usage_in,
    with_attempts,
    with_sends,
    wrong_step,
)
from batchrunner.core.outcome import HeldItem, ProblemKind
from batchrunner.core.pacing import DAY_S

_PENDING: Final = S.PENDING.value
_SENDING: Final = S.SENDING.value
_DONE: Final = S.DONE.value
_SENT: Final = KNOWN | _SENDING
_NO_SEND: Final = "", "", -inf


class LedgerState(Memory):
    """Feed it every event in order, `segment_ended` after each segment; then ask."""

    # -- the steps of nearly every item, without an event's object: the same as `check` and `apply`

    # `number` is the item's in the table, if the caller already has it: it never changes

    def number_to_send(self, key: bytes, *, hold: bool) -> int:
        """The number of an item that the job has; 0 where it is not to be sent. `hold` as of `waits_for_a_person`."""
        number = self.table.add(key)
        word = self.table.words[number]
        if word & KNOWN and (word & ITEM_STATE or self.waits_for_a_person(key, hold=hold)):
            return 0
        return number

    def next_send(self, key: bytes, item_id: str, *, number: int = 0) -> tuple[int, int]:
        """(n, a) of the intent to be written for a send that is about to leave. Changes nothing.

        Raises:
            LifecycleError: the item is not pending.
        """
        packed = self.table.words[number or self.table.find(key)]
        if packed & ITEM_STATE:
            raise wrong_step(Intent, item_id, ITEM_STATES[packed & ITEM_STATE])
        return (packed >> SENDS & SENDS_MAX) + 1, packed >> ATTEMPTS & BYTE

    def sent(
        self, key: bytes, *, model: str, account: str, n: int, a: int, at: float, number: int = 0, rides: bool = False
    ) -> None:
        """The intent that `next_send` gave the numbers of stands in the ledger. `rides`: no request of its own.

        Raises:
            LifecycleError: in a live process, the item is not pending.
        """
        words = self.table.words
        number = number or self.table.add(key)
        packed = words[number]
        if packed & ITEM_STATE or key in self._reasks or key in self._uncorrected:
            self._step(key, Intent(i="", k=key.hex(), n=n, a=a, model=model, account=account, w=rides), at)
            return
        if not packed & KNOWN:
            packed |= KNOWN | FRESH if self.live else KNOWN
        else:
            self._counts[_PENDING] -= 1
            if packed & DOUBTFUL:
                self.doubtful_count -= 1
            if self.held:
                self.held.pop(key, None)
        self._counts[_SENDING] += 1
        words[number] = (
            packed & SENT_KEEPS
            | _SENDING
            | min(a, BYTE) << ATTEMPTS
            | min(n, SENDS_MAX) << SENDS
            | self._count_send(model, account, at, 0 if rides else 1) << MODEL
        )
        sending = self._sending
        sending[key] = number
        if len(sending) > self.most_sending:  # noqa: PLR1730 - a call of `max` is dear here
            self.most_sending = len(sending)
        self.events += 1

    def ended_well(
        self,
        key: bytes,
        *,
        a: int,
        crc: int | None,
        length: int,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cache_read: int | None = None,
        cache_write: int | None = None,
        images: int = 0,
        number: int = 0,
    ) -> None:
        """The `done` of the item stands in the ledger; fields as there, `crc` as a number.

        Raises:
            LifecycleError: in a live process, the item is neither pending nor under way.
        """
        number = number or self.table.find(key)
        packed = self.table.words[number]
        if packed & ITEM_STATE != _SENDING or key in self._reasks or self.lost:
            done = Done(
                i="",
                k=key.hex(),
                n=0,
                a=a,
                crc="" if crc is None else f"{crc:08x}",
                length=length,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read=cache_read,
                cache_write=cache_write,
                images=images,
            )
            self._step(key, done, 0.0)
            return
        tally = self._models[packed >> MODEL & MODEL_MASK]
        tally.done += 1
        tally.pictures += images
        add_usage(tally, input_tokens, output_tokens, cache_read, cache_write)
        self._count_row(length, images, input_tokens, output_tokens)
        if cache_read is not None or cache_write is not None:
            self._count_cached(cache_read, cache_write)
        packed = packed & DONE_KEEPS | _DONE | min(a, BYTE) << ATTEMPTS
        self.table.words[number] = packed if crc is None else packed | self._epoch << EPOCH
        self.table.crcs[number] = crc or 0
        self._counts[_SENDING] -= 1
        self._counts[_DONE] += 1
        self._sending.pop(key, None)
        self.events += 1

    def _step(self, key: bytes, event: ItemEvent, at: float) -> None:
        if self.live and (self.item_state(key), type(event)) not in LIFECYCLE:
            raise wrong_step(type(event), event.i or key.hex(), self.item_state(key))
        self._item_event(key, event, at)

    def apply_all(  # noqa: PLR0915 - in one loop: a call for each event would double the time of a replay
        self, keys: Sequence[bytes], events: Sequence[Intent | Done], ats: Sequence[float]
    ) -> None:
        """The same as `apply` of each, in order, for replays of millions; `keys` are their keys.

        Raises:
            LifecycleError: a live process took a step that the lifecycle does not know.
        """
        words, sending = self.table.words, self._sending
        usual = not (self.live or self._reasks or self._uncorrected or self.held or self.lost)
        epoch, offset_s = self._epoch << EPOCH, self._day_offset_s
        sent = _NO_SEND  # the last send: further ones of its lane on its day are counted together
        sent_model, sent_account = "", ""
        day_begins = day_ends = inf
        model = more = begun = known = 0
        most = self.most_sending
        places: list[int] = []
        ended: list[Done] = []
        # A `done` finds its item's number among those under way: only sends are looked up in the table.
        sent_keys = [key for key, event in zip(keys, events, strict=True) if isinstance(event, Intent)]
        numbers = iter(self.table.add_all(sent_keys))
        for key, event, at in zip(keys, events, ats, strict=True):
            if isinstance(event, Intent):
                a, n, number = event.a, event.n, next(numbers)
                word = words[number]
                if not usual or word & (ITEM_STATE | DOUBTFUL) or a > BYTE or n > SENDS_MAX or event.w:
                    more, day_ends = self._count_more(sent, more), -inf
                    self.sent(
                        key, model=event.model, account=event.account, n=n, a=a, at=at, number=number, rides=event.w
                    )
                    continue
                if event.model == sent_model and event.account == sent_account and day_begins <= at < day_ends:
                    more += 1
                else:
                    more = self._count_more(sent, more)
                    sent_model, sent_account, _ = sent = event.model, event.account, at
                    day_begins = (at + offset_s) // DAY_S * DAY_S - offset_s
                    day_ends = day_begins + DAY_S
                    model = self._count_send(*sent) << MODEL
                words[number] = word & SENT_KEEPS | _SENT | a << ATTEMPTS | n << SENDS | model
                begun += 1
                known += bool(word & KNOWN)
                sending[key] = number
                if len(sending) > most:  # noqa: PLR1730 - a call of `max` is dear here
                    most = len(sending)
                continue
            number = sending.get(key, 0)
            if event.reused:  # a line's own type is not in the lifecycle
                plain = Done(**{name: getattr(event, name) for name in Done.__struct_fields__})
                self._item_event(key, plain, at)
                continue
            if not number or not usual or event.a > BYTE:
                crc = int(event.crc, 16) if event.crc else None
                self.ended_well(
                    key,
                    a=event.a,
                    crc=crc,
                    length=event.length,
                    input_tokens=event.input_tokens,
                    output_tokens=event.output_tokens,
                    cache_read=event.cache_read,
                    cache_write=event.cache_write,
                    images=event.images,
                )
                continue
            word = words[number] & DONE_KEEPS | _DONE | event.a << ATTEMPTS
            words[number] = word | epoch if event.crc else word
            ended.append(event)
            places.append(number)
            del sending[key]
        self._count_more(sent, more)
        self._counts[_PENDING] -= known
        self._counts[_SENDING] += begun - len(ended)
        self._counts[_DONE] += len(ended)
        self.events += begun
        self.most_sending = max(self.most_sending, most)
        self._ended_well_all(places, ended)

    def _ended_well_all(self, numbers: list[int], events: list[Done]) -> None:
        """What `ended_well` notes besides the items' words, which have been written."""
        words, crcs = self.table.words, self.table.crcs
        for number, event in zip(numbers, events, strict=True):
            crcs[number] = int(event.crc, 16) if event.crc else 0
        models = [words[number] >> MODEL & MODEL_MASK for number in numbers]
        for model in set(models):
            self._count_done(model, [event for event, of in zip(events, models, strict=True) if of == model])

    # -- replaying

    def check(self, event: Event) -> None:
        """Ask before an event of this process is written, or what it announces is done.

        Raises:
            LifecycleError: the item cannot take this step from where it stands.
        """
        if isinstance(event, ItemEvent):
            item_state = self.item_state(bytes.fromhex(event.k))
            if (item_state, type(event)) not in LIFECYCLE:
                raise wrong_step(type(event), event.i, item_state)

    def apply(self, event: Event, *, at: float) -> None:
        """Take one event that happened at wall clock `at`.

        Raises:
            LifecycleError: a live process took a step that the lifecycle does not know.
        """
        if self.live:
            self.check(event)
        self.events += not isinstance(event, ItemEvent)
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
                self._forget_checksums()
                self.results_length = event.length
                self.labels = {event.labels}
                self.unsettled = False
            case Parked():
                self.parks[event.account, event.model] = Park(
                    kind=event.kind, reason=event.reason, until=event.until, since=at
                )
            case Resumed():
                self.parks.pop((event.account, event.model), None)
            case (
                Intent()
                | Refused()
                | Accepted()
                | Ready()
                | Retry()
                | Done()
                | Failed()
                | ReplacedBy()
                | Requeued()
                | Lost()
                | Batched()
            ):
                self._item_event(bytes.fromhex(event.k), event, at)
            case _:
                self._take_note(event, at)  # it does not change the state of an item

    def segment_ended(self) -> None:
        """The process behind the segment is gone: whatever it was sending is unknown, charged and counted."""
        for key, task in self.tasks.items():
            if not task.task_id and not task.urls:
                self._sending[key] = self.table.find(key)
        for key, number in self._sending.items():
            self.tasks.pop(key, None)  # the answer held pictures, and there is no task to ask for their addresses
            packed = self.table.words[number]
            if key in self._named:
                self.tasks[key] = self._named[key]
                self._store(number, packed & ~ITEM_STATE | S.ACCEPTED)
                continue
            self.unknown += 1
            packed = with_attempts(plus_ambiguous(packed), (packed >> ATTEMPTS & BYTE) + 1)
            self._store(number, self._doubt((packed & ~ITEM_STATE) | CUT | S.PENDING, doubtful=True))
        self._sending.clear()
        self._named.clear()
        self._uncorrected |= self._reasks
        self._reasks.clear()

    def _item_event(self, key: bytes, event: ItemEvent, at: float) -> None:
        self.events += 1
        number = self.table.add(key)
        packed = self.table.words[number]
        if not packed & KNOWN:
            packed |= KNOWN | FRESH if self.live else KNOWN
            self._counts[S.PENDING] += 1
            self.table.words[number] = packed
        to = REPLAYED.get((ITEM_STATES[packed & ITEM_STATE], type(event)))
        self._count_sends(event, at, packed)
        if to is None:
            return
        self._tally(key, packed, event)
        packed = self._apply_to_item(key, self._asked_again(key, packed, event), event, at)
        task = self.tasks.get(key)
        if isinstance(event, Failed) and event.kind == ProblemKind.INTERNAL and task and (task.task_id or task.urls):
            self.kept_tasks[key] = task
        elif isinstance(event, Requeued) and key in self.kept_tasks:
            to, packed = self._take_task_up(key, packed)
        self._note_batch(key, number, event, to)
        self._note_hand_over(number, packed & ITEM_STATE, event)
        self._store(number, (packed & ~ITEM_STATE) | to)
        if isinstance(event, Done):
            self.table.crcs[number] = int(event.crc or "0", 16)
        if to is S.SENDING:
            self._sending[key] = number
            self.most_sending = max(self.most_sending, len(self._sending))
        else:
            self._sending.pop(key, None)
        if to is not S.ACCEPTED:
            self.tasks.pop(key, None)
        if isinstance(event, Retry) and event.held:
            self.held[key] = HeldItem(item_id=event.i, kind=event.kind, message=event.message)
        elif self.held:
            self.held.pop(key, None)

    def _note_hand_over(self, number: int, before: int, event: ItemEvent) -> None:
        """Another item has its prompt, or has it no more."""
        if before == S.REPLACED or isinstance(event, ReplacedBy):
            by = event if isinstance(event, ReplacedBy) else None
            self.hand_overs.take(self.table, number, by, again=before == S.REPLACED)
        elif before == S.DONE:
            self.hand_overs.look_again()

    def _asked_again(self, key: bytes, packed: int, event: ItemEvent) -> int:
        """Count the sends that repeat a request because the correction for the model was lost with its process."""
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
        return plus_ambiguous(packed)

    def _apply_to_item(self, key: bytes, packed: int, event: ItemEvent, at: float) -> int:
        match event:
            case Intent() | Batched():
                model = event.model if isinstance(event, Intent) else self.batches.of(event.b).model
                packed = self._doubt(packed, doubtful=False) & ~CUT
                packed = with_sends(with_attempts(packed, event.a), event.n)
                return packed & (BELOW_SEEN & ~(MODEL_MASK << MODEL)) | min(self._numbers[model], MODEL_MASK) << MODEL
            case Refused() | Ready():
                if isinstance(event, Ready) and key in self.tasks:
                    self.tasks[key].urls = (*self.tasks[key].urls[: event.first], *event.urls)
                    self.tasks[key].usage = usage_in(event) or self.tasks[key].usage
                return packed
            case Accepted():
                self._accept(key, event, at)
                return packed
            case Retry() | Failed() | ReplacedBy():
                packed = self._doubt(packed, doubtful=event.ambiguous and isinstance(event, Retry))
                if event.ambiguous:
                    packed = plus_ambiguous(packed)
                    self.ambiguous += 1
                return with_attempts(packed, event.a)
            case Done():
                self.lost.discard(key)
                return self._finish(packed, event)
            case Lost():
                self.lost.discard(key)
                return with_attempts(packed & BELOW_SEEN, 0)
            case Requeued():
                return with_attempts(self._doubt(packed, doubtful=False), 0)

    def _take_task_up(self, key: bytes, packed: int) -> tuple[ItemState, int]:
        self.tasks[key] = self.kept_tasks.pop(key)
        counted = bool(packed >> AMBIGUOUS & BYTE)  # it is not paid for nothing after all
        self.ambiguous -= counted
        return S.ACCEPTED, packed - counted * (1 << AMBIGUOUS)

    def _finish(self, packed: int, event: Done) -> int:
        if packed & CUT and not event.reused:  # its answer had reached the disk after all
            self.unknown -= 1
        self.reused += event.reused
        self._count_row(event.length, event.images, event.input_tokens, event.output_tokens)
        self._count_cached(event.cache_read, event.cache_write)
        packed = packed & BELOW_SEEN | self._epoch * bool(event.crc) << EPOCH
        return with_attempts(self._doubt(packed, doubtful=False) & ~CUT, event.a)
