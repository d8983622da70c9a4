"""What an earlier process left: items that a person wants once more, and tasks whose items the job has no more.

Those tasks are paid for, so they are followed and kept all the same.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import aclosing
from urllib.parse import SplitResult, urlsplit

from batchrunner.core.item import Item
from batchrunner.core.job import Job
from batchrunner.core.lifecycle import ItemState, OpenTask
from batchrunner.core.ports import Items
from batchrunner.engine.record import Book
from batchrunner.engine.survey import one_by_one
from batchrunner.engine.work_queue import WorkQueue


async def requeue(
    items: Items, book: Book, *, failed: bool, held: bool, lost: bool = False, limit: int | None = None
) -> frozenset[str]:
    """Give failed, held and lost items, among the first `limit`, a new generation of attempts.

    Durable when this returns: their rows leave failures.jsonl next, and no power loss may bring the failures back.

    Returns:
        The models of these items.

    Raises:
        JobMistakesError, StoreBrokenError: see `Items` and `Book`.
    """
    last: Item | None = None
    models = set[str]()
    async with aclosing(one_by_one(items.batches())) as stream:
        async for item in stream:
            if limit is not None and item.index > limit:
                break
            key = bytes.fromhex(item.key)
            if lost and key in book.state.lost:
                await book.resend_lost(item.id, item.key)
                models.add(item.model)
                continue
            record = book.state.record(key)
            is_held = record.item_state is ItemState.PENDING and record.doubtful
            if (failed and record.item_state is ItemState.FAILED) or (held and is_held):
                if last is not None:
                    await book.requeued(last.id, last.key, synced=False)
                last = item
                models.add(item.model)
    if last is not None:
        await book.requeued(last.id, last.key, synced=True)
    return frozenset(models)


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


def closed_queue(model: str) -> WorkQueue:
    """A queue for a model that the job has no more: nothing comes from it."""
    queue = WorkQueue(model, wanted=lambda _: 0, keys=set())
    queue.exhausted = True
    return queue


def same_server(origin: str, base_url: str) -> bool:
    """Whether a task that was accepted at one base URL can be asked for at another. Older ledgers do not say where."""
    return not origin or _place(origin) == _place(base_url)


def why_left(task: OpenTask, job: Job, accounts: Collection[str]) -> str:
    """Why an accepted task cannot be asked for, told of several; empty where it can.

    Its key is not among `accounts`, or its server is not the job's: no key goes to a host that the job does not name.
    Pictures whose addresses are known can be had all the same.
    """
    if task.account not in accounts:
        if task.account in job.provider.key_env:
            return f"wait for the key in {task.account}, which is not set"
        return f"were ordered with the key in {task.account}: add it to provider.api_key_env to get them"
    if same_server(task.origin, job.provider.base_url):
        return ""
    at = task.origin
    return f"belong to {at}: set provider.base_url to it again to get their pictures; nothing is ordered elsewhere"


def left_notes(tasks: Iterable[OpenTask], job: Job, accounts: Collection[str]) -> tuple[str, ...]:
    """Notes for `plan`: how many accepted tasks a run of this job could not poll, one line for each reason."""
    causes = Counter(why_left(task, job, accounts) for task in tasks if not task.urls)
    return tuple(f"{count} accepted tasks {why}" for why, count in causes.items() if why)


def _place(url: str) -> tuple[str, str, int | None, str]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", url, "", ""), None
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").rstrip("."), port or usual, parts.path.rstrip("/").removesuffix("/v1")
