"""Before a run's work: answers that other runs have are taken over instead of being sent. Nothing is paid for them.

An item of the job that waits to be sent, and whose key another run has a row for, gets that row, the files that it
names, and a `done` that says so. Rows are durable before their `done`, as ever; what a crash leaves in between the next
run adopts. A row that cannot be taken is told, and its item is sent.
"""

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Done, recorded_files
from batchrunner.core.item import Item
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.ports import Place, ReusableRows, TakenRow
from batchrunner.engine.pending_records import uncancellable
from batchrunner.engine.planning import one_by_one

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
    taken, refused = 0, Counter[str]()
    waiting: list[Item] = []
    seen: set[str] = set()
    async with aclosing(one_by_one(runner.ports.items.batches())) as stream:
        async for item in stream:
            if item.key not in seen and _is_wanted(runner, reusable, item):
                waiting.append(item)
                seen.add(item.key)
            if len(waiting) >= _AT_ONCE:
                taken += await uncancellable(_take(runner, reusable, waiting, refused))
                waiting, seen = [], set()
                if runner.shutdown.drains:
                    break
    if waiting and not runner.shutdown.drains:
        taken += await uncancellable(_take(runner, reusable, waiting, refused))
    if taken:
        runner.say(f"answers taken from other runs: {taken:,} (nothing was sent for them)")
    for why, count in refused.most_common(_MOST_REASONS):
        runner.say(f"{count:,} of the answers cannot be taken and will be sent: {why}")
    if len(refused) > _MOST_REASONS:
        rest = sum(refused.values()) - sum(count for _, count in refused.most_common(_MOST_REASONS))
        runner.say(f"{rest:,} further answers cannot be taken and will be sent")


_MOST_REASONS: Final = 5


def _is_wanted(runner: "Runner", reusable: ReusableRows, item: Item) -> bool:
    key = bytes.fromhex(item.key)
    pending = key in reusable and runner.state.item_state(key) is ItemState.PENDING and runner.is_in_part(item)
    return pending and runner.state.is_current(item)


async def _take(runner: "Runner", reusable: ReusableRows, items: list[Item], refused: Counter[str]) -> int:
    """How many rows were taken; durable with their `done` when this returns."""
    state, recorder, results = runner.state, runner.recorder, runner.ports.results
    efforts = [state.effort(bytes.fromhex(item.key)) for item in items]
    rows = await reusable.take(items, [(attempts, ambiguous) for _, attempts, ambiguous, _ in efforts])
    loop = asyncio.get_running_loop()
    kept: list[tuple[Item, int, int, TakenRow, asyncio.Future[Place | StoreBrokenError]]] = []
    for item, (sends, attempts, _, _), row in zip(items, efforts, rows, strict=True):
        if isinstance(row, str):
            refused[row] += 1
            runner.requeued[item.model] += 1  # the planning pass did not count it as one to send
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
    return len(done)
