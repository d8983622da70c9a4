"""Before a run's work, items that a person wants once more; after it, result files in line with the present job."""

from collections import Counter
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING

from batchrunner.core.fallback import is_rerouted
from batchrunner.core.item import Item
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.plan import count_items
from batchrunner.core.ports import Items
from batchrunner.engine.planning import one_by_one
from batchrunner.engine.recorder import Recorder

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner


async def requeue_what_was_asked_for(runner: "Runner") -> None:
    """Failed, held and lost items that the run was asked to send once more, and those whose fallback the job has lost.

    Raises:
        JobMistakesError, StoreBrokenError: as `settle`.
    """
    run_request, state = runner.run_request, runner.state
    failed = run_request.retry_failed and state.count(ItemState.FAILED)
    stranded = runner.found.stranded
    held = run_request.resend_held and state.doubtful_count
    lost = run_request.resend_lost and state.lost
    rerouted = runner.found.rerouted or (run_request.adopt_rows and runner.job.fallback is not None)
    if failed or held or lost or stranded or rerouted:
        runner.requeued = await requeue(
            runner.ports.items,
            runner.recorder,
            failed=run_request.retry_failed,
            held=run_request.resend_held,
            lost=run_request.resend_lost,
            limit=run_request.limit,
            part=runner.part_keys,
        )
        await settle_failures(runner)


async def settle(runner: "Runner") -> None:
    """Bring the result files in line with the present job: labels, shared rows, vanished items, failures.

    Reads the whole source, whatever part of it the run was for, and only if something must change. Failures come
    first: once `rewritten` is in the ledger, no later run has a reason to look at their labels again.

    Raises:
        JobMistakesError, StoreBrokenError: the source cannot be read, or the files not written.
    """
    state, found, results = runner.state, runner.found, runner.ports.results
    moved = bool(state.labels - {found.labels}) or runner.vanished_items_ended
    failures_stayed = 0
    count = count_items(state, runner.totals, now=runner.ports.clock.wall()).failed
    if moved or not await results.failures_are_settled(count=count, is_failed=lambda key: _is_failed(runner, key)):
        failures_stayed = await settle_failures(runner)
    shares = bool(found.shared) and state.unsettled
    if moved or shares:
        replaced = await results.rewrite(_current(runner), is_done=lambda key: state.item_state(key) is ItemState.DONE)
        # rows outside of a part that stay wait for a run on the whole job, which looks at labels again
        labels = "" if replaced.stayed or failures_stayed else found.labels
        await runner.recorder.rewritten(length=replaced.length, labels=labels)


async def settle_failures(runner: "Runner") -> int:
    """Write failures.jsonl anew by the ledger; how many rows of earlier requests stay where they are.

    Raises:
        JobMistakesError, StoreBrokenError: as `settle`.
    """
    count = runner.state.count(ItemState.FAILED)
    items = _current(runner)
    settled = await runner.ports.results.settle_failures(
        items, is_failed=lambda key: _is_failed(runner, key), count=count
    )
    if settled.made:
        rows = "1 missing row" if settled.made == 1 else f"{settled.made:,} missing rows"
        runner.say(f"failures.jsonl: restored {rows} from the ledger; nothing was sent")
    return settled.stayed


async def _current(runner: "Runner") -> AsyncGenerator[Item, None]:
    """The job's items, each prompt's as far as its models have been asked one after another."""
    async with aclosing(one_by_one(runner.ports.items.batches())) as items:
        async for item in items:
            if runner.state.is_current(item):
                yield item


def _is_failed(runner: "Runner", key: bytes) -> bool:
    return runner.state.item_state(key) is ItemState.FAILED


async def requeue(
    items: Items,
    recorder: Recorder,
    *,
    failed: bool,
    held: bool,
    lost: bool = False,
    limit: int | None = None,
    part: Collection[bytes] | None = None,
) -> Counter[str]:
    """Give failed, held and lost items, among the first `limit` and those in `part`, a new generation of attempts.

    So do items that another model had taken over which the job does not ask any more.

    Durable when this returns: their rows leave failures.jsonl next, and no power loss may bring the failures back.

    Returns:
        How many of each model.

    Raises:
        JobMistakesError, StoreBrokenError: see `Items` and `Recorder`.
    """
    last: Item | None = None
    models = Counter[str]()
    async with aclosing(one_by_one(items.batches())) as stream:
        async for item in stream:
            if limit is not None and item.index > limit:
                break
            key = bytes.fromhex(item.key)
            if is_rerouted(recorder.state, item):
                await recorder.rerouted(item)
            if (part is not None and key not in part) or not recorder.state.is_current(item):
                continue
            if lost and key in recorder.state.lost:
                await recorder.resend_lost(item.id, item.key)
                models[item.model] += 1
                continue
            record = recorder.state.record(key)
            is_held = record.item_state is ItemState.PENDING and record.doubtful
            stranded = record.item_state is ItemState.REPLACED and item.then is None
            if stranded or (failed and record.item_state is ItemState.FAILED) or (held and is_held):
                if last is not None:
                    await recorder.requeued(last.id, last.key, synced=False)
                last = item
                models[item.model] += 1
    if last is not None:
        await recorder.requeued(last.id, last.key, synced=True)
    return models
