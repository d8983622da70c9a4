"""What every send writes: its intent before it leaves, and an ordinary answer's row and `done`.

They wait in no task: the stores call back, a whole batch at a time, when they are written. One small object for each is
called back, and whatever else comes of a send is written by `recorder`.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from batchrunner.core.errors import LifecycleError, StoreBrokenError
from batchrunner.core.events import Done, Intent, recorded_files
from batchrunner.core.http import Decoder, Gate, Request
from batchrunner.core.lifecycle import ITEM_STATE, ItemState
from batchrunner.core.outcome import Usage
from batchrunner.core.ports import Clock, Ledger, Place, Results, Transport
from batchrunner.core.row import AnyOutput, Audio, ChatOutput, Effort, MediaFile, Picture, files_of, result_row
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field
from batchrunner.engine.shutdown import SteppedOutError
from batchrunner.engine.work_queue import Condition, Work

if TYPE_CHECKING:
    from batchrunner.engine.lanes import Lane

T = TypeVar("T")
_SENDING: Final = ItemState.SENDING.value
_SECOND_MS: Final = 1000


def rfc3339(wall: float) -> str:
    """UTC with milliseconds."""
    second = int(wall // 1.0)
    millis = round((wall - second) * 1e6) // 1000
    if millis == _SECOND_MS:
        second, millis = second + 1, 0
    if second != _second[0]:
        _second[:] = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{_second[1]}.{millis:03d}Z"


_second: list[int | str] = [-1, ""]
"""The last one that was written out, and its words: a second's thousands of rows share them."""


@dataclass(slots=True, kw_only=True)
class SendRecorder:
    """Writes the intents of sends, and rows of answers: the row first, then `done`, then the state in memory."""

    ledger: Ledger
    results: Results
    state: LedgerState
    clock: Clock
    synced_intents: bool
    """`durability: full`."""
    unsynced_max: int = 0
    """Intents that a power loss may take where they are not synced one by one: what `unaccounted_max` promises.

    That is the job's concurrency, or what a replay will find to have been under way at once, if it is more. So it grows
    with `concurrency: auto`, but only by what stands on the disk.
    """
    widest: Callable[[], int] = lambda: 0
    """Sends that all lanes together let be in flight at once, now."""
    may_send: Callable[[], bool] | None = None
    """See `Ports.may_send`."""
    intents: int = 0
    """Put in line by this process."""
    intents_synced: int = 0
    """Of these, known to be on the disk."""
    open: set[str] = field(default_factory=set)
    """Keys of items whose last record in the ledger is an intent, in the order of the file: as a replay sees them."""
    _most_open: int = 0
    asked_for: int = 0
    """The intents that the last sync that was asked for covers."""
    on_the_way: int = 0
    """Answers whose records have not come to their end."""
    _all_kept: Condition = field(default_factory=Condition)

    def intent(self, work: Work, lane: "Lane") -> "PendingIntent":
        """A paid POST is about to leave: its intent is put in line, and the gate that is given opens when it may.

        It may when its intent is written, or, with `durability: full`, on the disk. Without, a power loss may take no
        more intents than `unaccounted_max` says: a sync begins at half of that, in the background, and
        where it comes too late requests wait for it.

        Raises:
            LifecycleError: the item is not pending.
            StoreBrokenError: the disk refused something before.
        """
        item = work.item
        n, a = self.state.next_send(work.key, item.id, number=work.number)
        event = Intent(i=item.id, k=item.key, n=n, a=a, model=lane.model, account=lane.account, w=work.rides)
        intended = PendingIntent(self, work, event)
        self.intents += 1
        self.open.add(item.key)
        if len(self.open) > self._most_open:  # noqa: PLR1730 - a call of `max` is dear here
            self._most_open = len(self.open)
        unsynced = self.intents - self.intents_synced
        if self.synced_intents or unsynced > self.unsynced_max:
            self.ledger.commit_soon(event, intended.written, urgent=True)
        else:
            self.ledger.write_soon(event, intended.written)
        return intended

    def sync_intents_in_time(self) -> None:
        """Begin a sync at half of the intents that a power loss may take.

        To be called when intents have been written: all those of the same write are in line by then, and covered.
        """
        unsynced = self.intents - self.intents_synced
        if not unsynced or 2 * unsynced < self.unsynced_max or self.asked_for > self.intents_synced:
            return
        self.asked_for = self.intents
        self.ledger.sync_now(partial(self._are_synced, self.intents, self._most_open))

    def _are_synced(self, intents: int, most_open: int, error: StoreBrokenError | None) -> None:
        if error is None:
            if most_open > self.unsynced_max:
                self.unsynced_max = max(self.unsynced_max, min(most_open, self.widest()))
            self.intents_synced = max(self.intents_synced, intents)
            if not self.synced_intents:
                self.sync_intents_in_time()

    def keep(
        self,
        work: Work,
        output: AnyOutput,
        *,
        usage: Usage | None,
        task_id: str | None,
        then: Callable[[Exception | None], None],
        now: float | None = None,
    ) -> None:
        """Queue an item's row. Once it is durable its `done` follows, and once that is durable `then` is called.

        It gets None, or why the item is not recorded; it must not raise. What is raised here is a fault of
        this program: then nothing is queued and `then` is not called. `now` is the clock's monotonic time, where
        it was just read.
        """
        sends, attempts, ambiguous, fresh = self.state.effort(work.key, number=work.number)
        kept = PendingAnswer(self, work, usage, then)
        kept.sends, kept.attempts, kept.recovered = sends, attempts + 1, not fresh
        files: tuple[Picture | Audio | MediaFile, ...]
        files = (*output.images, *output.audio) if isinstance(output, ChatOutput) else files_of(output)
        if files:
            kept.images = sum(isinstance(file, Picture) for file in files)
            kept.files = recorded_files(tuple((file.path, file.bytes, file.sha256) for file in files))
        if work.began is None or work.began_wall is None:
            started, seconds = self._time_of_task(work)
        else:
            started, seconds = work.began_wall, (self.clock.monotonic() if now is None else now) - work.began
        effort = Effort(
            attempts=kept.attempts,
            ambiguous=ambiguous,
            recovered=kept.recovered,
            started_at=rfc3339(started),
            seconds=round(seconds, 3) if seconds > 0.0 else 0.0,
        )
        row = result_row(work.item, output, usage=usage, task_id=task_id, effort=effort)
        self.on_the_way += 1
        try:
            self.results.put(row, kept.row_is_durable)
        except BaseException:
            self.on_the_way -= 1
            raise

    def kept(self, kept: "PendingAnswer", error: Exception | None) -> None:
        """The records of an answer have come to their end."""
        self.on_the_way -= 1
        kept.then(error)
        if not self.on_the_way:
            self._all_kept.notify()

    async def settled(self) -> None:
        """Return when every answer that was put in line is recorded, or cannot be."""
        await self._all_kept.until(lambda: not self.on_the_way)

    def _time_of_task(self, work: Work) -> tuple[float, float]:
        """When an accepted task of an earlier process began, by the wall clock, and the seconds since."""
        task = self.state.tasks.get(work.key)
        wall = self.clock.wall()
        began_wall = task.accepted_at if task else wall
        return began_wall, wall - began_wall


class PendingIntent:
    """A send whose intent is on its way to the ledger, and its request's gate (see `core.http.Gate`).

    One small object for each send, and no future: the transport leaves its call here, or finds the gate open already.
    """

    __slots__ = ("_args", "_call", "_event", "_recorder", "_refused", "_work", "decided")

    def __init__(self, recorder: SendRecorder, work: Work, event: Intent) -> None:
        self._recorder = recorder
        self._work = work
        self._event = event
        self.decided = False
        """Whether the intent's fate is known: an exchange may be over before it is."""
        self._refused: Exception | None = None
        self._call: Callable[..., None] | None = None

    def __call__(self, call: Callable[..., None], /, *args: object) -> None:
        """See `core.http.Gate`."""
        if self.decided:
            call(self._refused, *args)
        else:
            self._call, self._args = call, args

    def written(self, error: StoreBrokenError | None) -> None:
        """Told by the ledger; the state follows the disk, and the request follows both."""
        event, recorder, work = self._event, self._recorder, self._work
        self._refused = error
        if error is None and recorder.may_send is not None and not recorder.may_send():
            self._refused = SteppedOutError()
        elif error is None:
            try:
                recorder.state.sent(
                    work.key,
                    model=event.model,
                    account=event.account,
                    n=event.n,
                    a=event.a,
                    at=recorder.clock.wall(),
                    number=work.number,
                    rides=event.w,
                )
            except LifecycleError as wrong:
                self._refused = wrong
            if recorder.asked_for <= recorder.intents_synced and not recorder.synced_intents:
                recorder.sync_intents_in_time()
        self.decided = True
        if self._call is not None:
            self._call(self._refused, *self._args)

    @property
    def refused(self) -> Exception | None:
        """Why the request must not leave, once that is decided."""
        return self._refused

    async def opened(self) -> None:
        """See `opened`."""
        await opened(self)


class PendingAnswer:
    """An item's answer on its way to the disk: its row, then its `done`, then its state; and its callback."""

    __slots__ = (
        *("attempts", "recorder", "crc", "files", "images", "intents"),
        *("length", "recovered", "sends", "then", "usage", "work"),
    )

    def __init__(
        self, recorder: SendRecorder, work: Work, usage: Usage | None, then: Callable[[Exception | None], None]
    ) -> None:
        self.recorder, self.work, self.usage, self.then = recorder, work, usage, then
        self.sends = self.attempts = self.images = self.intents = self.length = 0
        self.crc = ""
        self.recovered = False
        self.files: tuple[tuple[str, int, str], ...] = ()

    def row_is_durable(self, place: Place | StoreBrokenError) -> None:
        """Told by the results. Only now may `done` stand in the ledger."""
        if isinstance(place, StoreBrokenError):
            self.recorder.kept(self, place)
            return
        recorder, item, usage = self.recorder, self.work.item, self.usage
        self.crc, self.length = place.crc, place.length
        try:
            event = Done(
                i=item.id,
                k=item.key,
                n=self.sends,
                a=self.attempts,
                crc=place.crc,
                length=place.length,
                files=self.files,
                input_tokens=usage.input_tokens if usage is not None else None,
                output_tokens=usage.output_tokens if usage is not None else None,
                cache_read=usage.cache_read_tokens if usage is not None else None,
                cache_write=usage.cache_write_tokens if usage is not None else None,
                images=self.images,
                recovered=self.recovered,
            )
            words = recorder.state.table.words
            if not self.work.number or words[self.work.number] & ITEM_STATE != _SENDING:
                recorder.state.check(event)
            self.intents = recorder.intents
            recorder.open.discard(item.key)
            recorder.ledger.commit_soon(event, self.done_is_durable)
        except Exception as error:  # noqa: BLE001 - it concerns this item, and is passed to whoever recorded it
            self.recorder.kept(self, error)

    def done_is_durable(self, error: StoreBrokenError | None) -> None:
        """Told by the ledger. What was appended to it before is durable, too: the intents so far."""
        if error is not None:
            self.recorder.kept(self, error)
            return
        recorder, usage = self.recorder, self.usage
        if self.intents > recorder.intents_synced:  # noqa: PLR1730 - a call of `max` is dear here
            recorder.intents_synced = self.intents
        try:
            recorder.state.ended_well(
                self.work.key,
                a=self.attempts,
                crc=int(self.crc, 16),
                length=self.length,
                input_tokens=usage.input_tokens if usage is not None else None,
                output_tokens=usage.output_tokens if usage is not None else None,
                cache_read=usage.cache_read_tokens if usage is not None else None,
                cache_write=usage.cache_write_tokens if usage is not None else None,
                images=self.images,
                number=self.work.number,
            )
        except Exception as wrong:  # noqa: BLE001 - as above
            self.recorder.kept(self, wrong)
            return
        self.recorder.kept(self, None)


# Gates: what a request waits for before it leaves.


class AllWritten:
    """The gate of a request that several intents stand for: it opens once all of them are written."""

    __slots__ = ("_args", "_call", "_refused", "_waiting")

    def __init__(self, intents: list[PendingIntent]) -> None:
        self._waiting = intents[::-1]
        self._refused: Exception | None = None
        self._call: Callable[..., None] | None = None
        self._args: tuple[object, ...] = ()

    @property
    def decided(self) -> bool:
        """See `PendingIntent`."""
        return self._refused is not None or all(intent.decided for intent in self._waiting)

    def __call__(self, call: Callable[..., None], /, *args: object) -> None:
        """See `core.http.Gate`."""
        self._call, self._args = call, args
        self._go_on(self._refused)

    def _go_on(self, refused: Exception | None) -> None:
        while refused is None and self._waiting:
            intent = self._waiting[-1]
            if not intent.decided:
                intent(self._go_on)
                return
            refused = intent.refused
            self._waiting.pop()
        self._refused = refused
        if self._call is not None:
            self._call(refused, *self._args)

    async def opened(self) -> None:
        """See `opened`."""
        await opened(self)


async def opened(gate: Gate) -> None:
    """Return when the request may leave. Raises what the gate refuses with."""
    open_now: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def decide(refused: Exception | None) -> None:
        if open_now.done():  # cancelled meanwhile
            return
        if refused is None:
            open_now.set_result(None)
        else:
            open_now.set_exception(refused)

    gate(decide)
    await open_now


class Gated:
    """A transport that takes no gates, as one that does: the intent is written first, and then the exchange begins."""

    takes_gates = True

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        """See `core.ports.GatedTransport`."""
        if gate is not None:
            await opened(gate)
        return await self._transport.exchange(request, decoder, account=account)
