"""What an earlier process left: items that a person wants once more, and tasks whose items the job has no more.

Those tasks are paid for, so they are followed and kept all the same.
"""

from collections.abc import AsyncGenerator

from batchrunner.core.item import Item
from batchrunner.core.ports import Items
from batchrunner.core.state import OpenTask, Standing
from batchrunner.engine.pool import Pool
from batchrunner.engine.record import Book


async def requeue(items: Items, book: Book, *, failed: bool, held: bool) -> None:
    """Give failed and held items a new generation of attempts.

    Durable when this returns: their rows leave failures.jsonl next, and no power loss may bring the failures back.

    Raises:
        JobMistakesError, StoreBrokenError: see `Items` and `Book`.
    """
    last: Item | None = None
    async for item in items.stream():
        record = book.state.record(bytes.fromhex(item.key))
        is_held = record.standing is Standing.PENDING and record.doubtful
        if (failed and record.standing is Standing.FAILED) or (held and is_held):
            if last is not None:
                await book.requeued(last.id, last.key, synced=False)
            last = item
    if last is not None:
        await book.requeued(last.id, last.key, synced=True)


def orphan(key: bytes, task: OpenTask) -> Item:
    """What the ledger knows of the item; its row moves to `superseded.jsonl` when the run settles. Its index is 0."""
    return Item(
        id=task.item_id,
        prompt_id=task.item_id,
        index=0,
        key=key.hex(),
        model=task.model,
        prompt="",
        turns=(),
        stem=f"superseded-{key.hex()[:12]}",
    )


def closed_pool(model: str) -> Pool:
    """A pool for a model that the job has no more: nothing comes from it."""
    pool = Pool(model, _nothing(), wanted=lambda _item, _key: False)
    pool.exhausted = True
    return pool


async def _nothing() -> AsyncGenerator[Item, None]:
    nothing: tuple[Item, ...] = ()
    for item in nothing:
        yield item
