"""Records on their way to the disk: one small object for each, which the stores call back. No task waits for them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

from batchrunner.core.errors import LifecycleError, StoreBrokenError
from batchrunner.core.events import Done, Intent, Named
from batchrunner.core.http import Decoder, Gate, Request
from batchrunner.core.lifecycle import ITEM_STATE, ItemState
from batchrunner.core.outcome import Usage
from batchrunner.core.ports import Place, Transport
from batchrunner.engine.shutdown import SteppedOutError
from batchrunner.engine.work_queue import Work

if TYPE_CHECKING:
    from batchrunner.engine.lanes import Lane
    from batchrunner.engine.recorder import Recorder

T = TypeVar("T")
_SENDING: Final = ItemState.SENDING.value
_RECORDING: Final[WeakSet[asyncio.Future[Any]]] = WeakSet()
"""Tasks of records that are under way: nobody else has them, so nobody cancels them."""


async def uncancellable(record: Awaitable[T]) -> T:
    """Let a terminal record finish even when its caller is cancelled meanwhile; the cancellation comes afterwards.

    A record that fails in that time raises what it raises: whoever waits must learn that an answer was not kept.
    Within another such record it is a part of it: nobody can cancel that one's task, so it needs none of its own.
    """
    if asyncio.current_task() in _RECORDING:
        return await record
    task = asyncio.ensure_future(record)
    _RECORDING.add(task)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):  # one more Ctrl-C does not undo a record that is under way
                await asyncio.wait([task])
        task.result()
        raise


class PendingIntent:
    """A send whose intent is on its way to the ledger, and its request's gate (see `core.http.Gate`).

    One small object for each send, and no future: the transport leaves its call here, or finds the gate open already.
    """

    __slots__ = ("_args", "_call", "_event", "_recorder", "_refused", "_work", "decided")

    def __init__(self, recorder: "Recorder", work: Work, event: Intent) -> None:
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


def named(work: Work, lane: "Lane", task_id: str, *, origin: str) -> Named:
    """The record that the next intent of the item asks for a task of this id, at the server with this base URL."""
    item = work.item
    return Named(i=item.id, k=item.key, task=task_id, model=lane.model, account=lane.account, origin=origin)


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


class PendingAnswer:
    """An item's answer on its way to the disk: its row, then its `done`, then its state; and its callback."""

    __slots__ = (
        *("attempts", "recorder", "crc", "files", "images", "intents"),
        *("length", "recovered", "sends", "then", "usage", "work"),
    )

    def __init__(
        self, recorder: "Recorder", work: Work, usage: Usage | None, then: Callable[[Exception | None], None]
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
