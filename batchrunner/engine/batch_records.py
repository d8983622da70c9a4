"""Writes down what happens to batches, as `recorder` does for items: ledger first, state second.

A batch has few records of its own; what each of its items comes to is `recorder`'s.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import (
    BatchAccepted,
    Batched,
    BatchEnded,
    BatchHeld,
    BatchIntent,
    BatchUploaded,
    Event,
    Refused,
    Requeued,
    Retry,
)
from batchrunner.core.outcome import ProblemKind
from batchrunner.core.ports import Clock, Ledger
from batchrunner.core.remote_batch import ItemName, RemoteBatch, ResultFile
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass
from batchrunner.engine.recorder import uncancellable

_REASON_MAX: Final = 1000
_IN_LINE: Final = 1024
"""Records that are put in line before they are waited for."""


@dataclass(slots=True, kw_only=True)
class BatchRecords:
    """One for a run."""

    ledger: Ledger
    state: LedgerState
    clock: Clock

    async def begun(self, intent: BatchIntent, items: Sequence[ItemName]) -> RemoteBatch:
        """A batch of these items is about to be ordered. Durable when this returns."""
        await self._all([intent])
        await self._all(
            Batched(i=item.id, k=item.key.hex(), n=n, a=a, b=intent.b)
            for item in items
            for n, a in (self.state.next_send(item.key, item.id),)
        )
        return self.state.batches.of(intent.b)

    async def uploaded(self, batch: RemoteBatch, file: str) -> None:
        """Its order may leave when this returns."""
        await self._all([BatchUploaded(b=batch.number, file=file)])

    async def accepted(self, batch: RemoteBatch, batch_id: str, *, expires_at: float | None) -> None:
        """The server has it."""
        await self._all([BatchAccepted(b=batch.number, id=batch_id, expires=expires_at)])

    async def ended(self, batch: RemoteBatch, word: str, files: Sequence[ResultFile]) -> None:
        """It has ended, and its result files are on the disk."""
        await self._all([BatchEnded(b=batch.number, word=word[:_REASON_MAX], files=tuple(files))])

    async def held(self, batch: RemoteBatch, reason: str) -> None:
        """A person decides."""
        await self._all([BatchHeld(b=batch.number, reason=reason[:_REASON_MAX])])

    async def released(self, batch: RemoteBatch, kind: str) -> int:
        """Whatever is still in it was not executed: it goes back, and no attempt is charged. How many items."""
        keys = self.state.items_of_batch(batch.number)
        await self._all(
            Refused(i="", k=key.hex(), n=record.sends, a=record.attempts, kind=kind)
            for key in keys
            for record in (self.state.record(key),)
        )
        return len(keys)

    async def resent(self, batch: RemoteBatch, *, asked: bool) -> int:
        """Whatever is still in it may have been executed, and is sent again all the same. How many items.

        `asked`: a person wants it; otherwise it uses up an attempt.
        """
        keys = self.state.items_of_batch(batch.number)
        lost = ProblemKind.TASK_EXPIRED.value
        for key in keys:
            record = self.state.record(key)
            a = record.attempts + (not asked)
            steps: list[Event] = [Retry(i="", k=key.hex(), n=record.sends, a=a, kind=lost, ambiguous=True)]
            if asked:
                steps.append(Requeued(i="", k=key.hex()))
            await self._all(steps, synced=False)
        await self._synced()
        return len(keys)

    async def _all(self, events: Iterable[Event], *, synced: bool = True) -> None:
        """Records in order; durable when this returns, if `synced`."""
        for number, event in enumerate(events, start=1):
            self.state.check(event)
            if number % _IN_LINE:
                self.ledger.note(event)
            else:
                await self.ledger.write(event)
            self.state.apply(event, at=self.clock.wall())
        if synced:
            await self._synced()

    async def _synced(self) -> None:
        """Return when everything in line is on the disk. Raises StoreBrokenError."""
        ended: asyncio.Future[StoreBrokenError | None] = asyncio.get_running_loop().create_future()
        self.ledger.sync_now(lambda error: None if ended.done() else ended.set_result(error))
        error = await uncancellable(ended)
        if error is not None:
            raise error
