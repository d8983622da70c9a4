"""A person says which batch at the server an order became whose reply was lost: the next run reads its results.

Writes one record into the ledger, as the holder of the directory's lock, and asks no server.
"""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path

from batchrunner.core import VERSION
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.events import BATCH_VERSION, BatchAccepted
from batchrunner.core.remote_batch import RemoteBatch
from batchrunner.core.values import dataclass
from batchrunner.engine.work_queue import LoopClock
from batchrunner.report.directory_status import day_offset_of
from batchrunner.stores.ledger import LedgerWriter
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.lock import RunLock
from batchrunner.stores.run_file import RunFile, run_file_or_refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What was written down."""

    batch: int
    """The number of the batch in the directory."""
    id: str
    items: int
    """Items that wait for its results."""
    next_command: str | None
    """What reads them."""


def adopt_batch(folder: Path, batch_id: str, *, number: int | None = None) -> Adoption:
    """Note that a batch of this directory, the only one that waits for that or the one with the number, is `batch_id`.

    Raises:
        WrongDirectoryError: there is no run in this directory.
        JobMistakesError: no batch waits for that, or several do and no number says which.
        LockHeldError: a run works here.
        LedgerDamagedError, StoreBrokenError: its ledger cannot be read or written.
    """
    there = run_file_or_refuse(folder)
    with RunLock(folder):
        state = replay(folder, day_offset_s=day_offset_of(there))
        batch = _meant([one for one in state.batches.open if one.held or not one.batch_id], number)
        asyncio.run(_write(folder, there, BatchAccepted(b=batch.number, id=batch_id, by_hand=True)))
    return Adoption(batch=batch.number, id=batch_id, items=batch.left, next_command=there.command_here())


def _meant(waiting: list[RemoteBatch], number: int | None) -> RemoteBatch:
    shown = ", ".join(f"{batch.number} ({batch.left:,} items of {batch.model})" for batch in waiting)
    if not waiting:
        problem = "no batch of this directory waits to be adopted"
        raise JobMistakesError((Mistake(key="DIR", problem=problem, hint="`batchrunner status` lists the batches"),))
    found = [batch for batch in waiting if number in {None, batch.number}]
    if len(found) != 1:
        problem = "several batches wait to be adopted" if number is None else f"no batch {number} waits to be adopted"
        raise JobMistakesError((Mistake(key="--batch", problem=problem, expected=f"one of {shown}"),))
    return found[0]


async def _write(folder: Path, there: RunFile, event: BatchAccepted) -> None:
    wall = time.time()
    async with AsyncExitStack() as stack:
        ledger = LedgerWriter.open(
            folder / LEDGER,
            run=f"{os.getpid()}-{int(wall)}",
            job=there.digest,
            program=VERSION,
            name=there.job_name,
            simulated=there.simulated,
            version=BATCH_VERSION,
            clock=LoopClock(),
        )
        stack.push_async_callback(ledger.close)
        await ledger.commit(event)
