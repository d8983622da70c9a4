"""Accepted tasks whose items the job has no more: they are paid for, so they are followed and kept all the same."""

from collections.abc import AsyncGenerator

from batchrunner.core.item import Item
from batchrunner.core.state import OpenTask
from batchrunner.engine.pool import Pool


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
