"""Writes down what is done to a run as a whole: what people ask for, rows that were found, files written anew."""

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from batchrunner.core.control import Command, Reply
from batchrunner.core.events import Controlled, Done, Failed, Lost, ReplacedBy, Requeued, Rewritten
from batchrunner.core.fallback import is_rerouted
from batchrunner.core.item import Item
from batchrunner.core.lifecycle import ItemEvent, ItemState
from batchrunner.core.ports import Items
from batchrunner.engine.planning import one_by_one
from batchrunner.engine.recorder import MESSAGE_MAX, Recorder


@dataclass(slots=True, kw_only=True)
class RunRecorder(Recorder):
    """The recorder of a run: what comes to items and lanes is in `Recorder`."""

    async def requeued(self, item_id: str, key: str, *, synced: bool) -> None:
        """A person asked for one more generation of attempts. `synced`: this, and all before it, is on the disk."""
        event = Requeued(i=item_id, k=key)
        await (self._commit(event) if synced else self._write(event))

    async def resend_lost(self, item_id: str, key: str) -> None:
        """A person pays again for an item whose answer is gone from the directory."""
        await self._commit(Lost(i=item_id, k=key))

    async def rewritten(self, *, length: int, labels: str) -> None:
        """results.jsonl shows the present job."""
        await self._commit(Rewritten(length=length, labels=labels))

    async def controlled(self, command: Command, reply: Reply) -> None:
        """A command of another process was followed. Durable when this returns."""
        changed = {key: json.dumps(now) for key, (_, now) in reply.changed.items()}
        await self._commit(
            Controlled(
                id=command.id,
                action=command.action,
                by=command.by,
                message=reply.message[:MESSAGE_MAX],
                changed=changed,
            )
        )

    async def adopted(self, events: Iterable[ItemEvent]) -> int:
        """Whole rows were found whose records a crash, or a person, had taken; how many. Durable when this returns."""
        count, last = 0, None
        steps = iter(events)
        while (event := await asyncio.to_thread(next, steps, None)) is not None:  # each reads its row from the disk
            if last is not None:
                await self._write(last)
            count, last = count + isinstance(event, Done | Failed), event
        if last is not None:
            await self._commit(last)
        return count

    async def rerouted(self, item: Item) -> None:
        """The job names another next model than the one that has the item's prompt."""
        record = self.state.record(key := bytes.fromhex(item.key))
        found = self.state.hand_overs.of(self.state.table, key)
        assert found is not None, "see `is_rerouted`"
        assert item.then is not None, "as above"
        await self._write(
            ReplacedBy(
                i=item.id,
                k=item.key,
                n=record.sends,
                a=record.attempts,
                by=item.then.key,
                model=item.then.model,
                kind=found[2],
                message="the job names another next model",
            )
        )

    async def reused(self, events: Sequence[Done]) -> None:
        """Answers were taken from other runs; their rows are durable. So are these when this returns."""
        for event in events[:-1]:
            await self._write(event)
        if events:
            await self._commit(events[-1])


async def requeue(
    items: Items,
    recorder: RunRecorder,
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
        JobMistakesError, StoreBrokenError: see `Items` and `RunRecorder`.
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
