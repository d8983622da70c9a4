"""Records on their way to the disk: one small object for each, which the stores call back. No task waits for them."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from batchrunner.core.errors import LifecycleError, StoreBrokenError
from batchrunner.core.events import Done, Intent
from batchrunner.core.outcome import Usage
from batchrunner.core.ports import Place
from batchrunner.core.state import Standing
from batchrunner.engine.work_queue import Work

if TYPE_CHECKING:
    from batchrunner.engine.record import Book


class Intended:
    """A send whose intent is on its way to the ledger, and its request's gate (see `core.wire.Gate`).

    One small object for each send, and no future: the transport leaves its call here, or finds the gate open already.
    """

    __slots__ = ("_args", "_book", "_call", "_decided", "_event", "_key", "_refused")

    def __init__(self, book: "Book", key: bytes, event: Intent) -> None:
        self._book = book
        self._key = key
        self._event = event
        self._decided = False
        self._refused: Exception | None = None
        self._call: Callable[..., None] | None = None
        self._args: tuple[object, ...] = ()

    def __call__(self, call: Callable[..., None], /, *args: object) -> None:
        """See `core.wire.Gate`."""
        if self._decided:
            call(self._refused, *args)
        else:
            self._call, self._args = call, args

    @property
    def decided(self) -> bool:
        """Whether the intent's fate is known: an exchange may be over before it is."""
        return self._decided

    def written(self, error: StoreBrokenError | None) -> None:
        """Told by the ledger; the state follows the disk, and the request follows both."""
        event, book = self._event, self._book
        self._refused = error
        if error is None:
            try:
                book.state.sent(
                    self._key, model=event.model, account=event.account, n=event.n, a=event.a, at=book.clock.wall()
                )
            except LifecycleError as wrong:
                self._refused = wrong
            if not book.synced_intents:
                book.sync_intents_in_time()
        self._decided = True
        if self._call is not None:
            self._call(self._refused, *self._args)

    async def opened(self) -> None:
        """For a transport that takes no gates: return when the request may leave. Raises what the gate refuses with."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def decide(refused: Exception | None) -> None:
            if opened.done():  # cancelled meanwhile
                return
            if refused is None:
                opened.set_result(None)
            else:
                opened.set_exception(refused)

        self(decide)
        await opened


class Kept:
    """An item's answer on its way to the disk: its row, then its `done`, then its state; and who is told of the end."""

    __slots__ = (
        *("attempts", "book", "crc", "files", "images", "intents"),
        *("length", "recovered", "sends", "then", "usage", "work"),
    )

    def __init__(self, book: "Book", work: Work, usage: Usage | None, then: Callable[[Exception | None], None]) -> None:
        self.book, self.work, self.usage, self.then = book, work, usage, then
        self.sends = self.attempts = self.images = self.intents = self.length = 0
        self.crc = ""
        self.recovered = False
        self.files: tuple[tuple[str, int, str], ...] = ()

    def row_is_durable(self, place: Place | StoreBrokenError) -> None:
        """Told by the results. Only now may `done` stand in the ledger."""
        if isinstance(place, StoreBrokenError):
            self.book.kept(self, place)
            return
        book, item, usage = self.book, self.work.item, self.usage
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
                images=self.images,
                recovered=self.recovered,
            )
            if book.state.standing(self.work.key) is not Standing.SENDING:
                book.state.check(event)
            self.intents = book.intents
            book.open.discard(item.key)
            book.ledger.commit_soon(event, self.done_is_durable)
        except Exception as error:  # noqa: BLE001 - it is the item's trouble, and whoever recorded it hears of it
            self.book.kept(self, error)

    def done_is_durable(self, error: StoreBrokenError | None) -> None:
        """Told by the ledger. What was appended to it before is durable, too: the intents so far."""
        if error is not None:
            self.book.kept(self, error)
            return
        book, usage = self.book, self.usage
        book.intents_synced = max(book.intents_synced, self.intents)
        try:
            book.state.ended_well(
                self.work.key,
                a=self.attempts,
                crc=int(self.crc, 16),
                length=self.length,
                input_tokens=usage.input_tokens if usage is not None else None,
                output_tokens=usage.output_tokens if usage is not None else None,
                images=self.images,
            )
        except Exception as wrong:  # noqa: BLE001 - as above
            self.book.kept(self, wrong)
            return
        self.book.kept(self, None)
