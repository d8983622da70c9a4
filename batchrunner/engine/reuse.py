"""Answers that other runs have are taken over instead of being sent. Nothing is paid for them.

An item of the job that waits to be sent, and whose key another run has a row for, gets that row, the files that it
names, and a `done` that says so: before a run's work, and an item of a next model when its turn comes. Rows are durable
before their `done`, as ever; what a crash leaves in between the next run adopts. A row that cannot be taken is told,
and its item is sent.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Done, recorded_files
from batchrunner.core.item import Item
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.ports import Place, ReusableRows, TakenRow, Untaken, with_example
from batchrunner.engine.planning import one_by_one
from batchrunner.engine.recorder import uncancellable
from batchrunner.engine.work_queue import Work

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner

_AT_ONCE: Final = 512
"""Rows that are taken with one sync of results.jsonl and one of the ledger."""


async def take_answers_of_others(runner: "Runner") -> None:
    """Take what other runs have of the items that this one is about to send.

    Raises:
        JobMistakesError, StoreBrokenError: a source cannot be read, the disk refused.
    """
    reusable = runner.ports.reusable
    if reusable is None or not (runner.found.reused or runner.requeued):
        return
    taken, waiting, seen = runner.takings, list[Item](), set[str]()
    async with aclosing(one_by_one(runner.ports.items.batches())) as stream:
        async for item in stream:
            if item.key not in seen and _is_wanted(runner, reusable, item):
                waiting.append(item)
                seen.add(item.key)
            if len(waiting) >= _AT_ONCE:
                await uncancellable(_take(runner, reusable, waiting))
                waiting, seen = [], set()
                if runner.shutdown.drains:
                    break
    if waiting and not runner.shutdown.drains:
        await uncancellable(_take(runner, reusable, waiting))
    runner.requeued += taken.refused_of  # the planning pass did not count them as ones to send
    for line in taken.lines("answers"):
        runner.say(line)


async def take_in_turn(runner: "Runner", item: Item, key: bytes) -> bool:
    """Take the answer of an item whose model's turn has come, if another run has one; whether it is done by that.

    Raises:
        StoreBrokenError: the disk refused.
    """
    reusable = runner.ports.reusable
    if reusable is None or key not in reusable or runner.state.item_state(key) is not ItemState.PENDING:
        return False
    queue, work = runner.queues[item.model], Work(item=item, key=key)
    if queue.is_live(key):  # a task of an earlier process that came to nothing
        return False
    queue.claim(work)
    try:
        await uncancellable(_take(runner, reusable, [item]))
    finally:
        queue.release(work)
    return runner.state.item_state(key) is ItemState.DONE


class Takings:
    """What was taken from other runs, and what could not be."""

    def __init__(self) -> None:
        self.taken = 0
        """Since `lines`; so are the refusals."""
        self.keys_refused: set[bytes] = set()
        self.refused_of = Counter[str]()
        """By model."""
        self._refused: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Takings: {self.taken} taken, {len(self.keys_refused)} refused>"

    def refuse(self, item: Item, row: Untaken) -> None:
        """Its row cannot be taken."""
        self.keys_refused.add(bytes.fromhex(item.key))
        self.refused_of[item.model] += 1
        self._refused[row.why] = self._refused.get(row.why, 0) + 1
        self._examples.setdefault(row.why, row.example)

    def lines(self, what: str) -> Iterator[str]:
        """What a person is told of it, once."""
        if self.taken:
            yield f"{what} taken from other runs: {self.taken:,} (nothing was sent for them)"
        for why, count in self._refused.items():
            yield f"{count:,} of the answers cannot be taken and will be sent: {with_example(why, self._examples[why])}"
        self.taken = 0
        self._refused.clear()


def _is_wanted(runner: "Runner", reusable: ReusableRows, item: Item) -> bool:
    key = bytes.fromhex(item.key)
    pending = key in reusable and runner.state.item_state(key) is ItemState.PENDING and runner.is_in_part(item)
    return pending and runner.state.is_current(item)


async def _take(runner: "Runner", reusable: ReusableRows, items: list[Item]) -> None:
    """Durable with their `done` when this returns."""
    state, recorder, results = runner.state, runner.recorder, runner.ports.results
    efforts = [state.effort(bytes.fromhex(item.key)) for item in items]
    rows = await reusable.take(items, [(attempts, ambiguous) for _, attempts, ambiguous, _ in efforts])
    loop = asyncio.get_running_loop()
    kept: list[tuple[Item, int, int, TakenRow, asyncio.Future[Place | StoreBrokenError]]] = []
    for item, (sends, attempts, _, _), row in zip(items, efforts, rows, strict=True):
        if isinstance(row, Untaken):
            runner.takings.refuse(item, row)
            continue
        durable: asyncio.Future[Place | StoreBrokenError] = loop.create_future()
        results.put(row.line, durable.set_result)
        kept.append((item, sends, attempts, row, durable))
    done: list[Done] = []
    for item, sends, attempts, row, durable in kept:
        place = await durable
        if isinstance(place, StoreBrokenError):
            raise place
        done.append(
            Done(
                i=item.id,
                k=item.key,
                n=sends,
                a=attempts,
                crc=place.crc,
                length=place.length,
                files=recorded_files(row.files),
                reused=True,
            )
        )
    await recorder.reused(done)
    runner.takings.taken += len(done)
