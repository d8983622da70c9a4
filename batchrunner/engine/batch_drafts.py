"""Which items go into the next batches: the source is read once, and what is worth a batch is handed over.

Of the items of a batch only their names are kept; what they ask stands in its file of requests, on the disk.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from batchrunner.core.batch_ports import BatchDialect, BatchFiles, RequestsBeingWritten
from batchrunner.core.budget import Amounts
from batchrunner.core.item import Item
from batchrunner.core.remote_batch import WORTH_A_BATCH, ItemName
from batchrunner.core.values import dataclass, field

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner


@dataclass(slots=True)
class Draft:
    """Items of one model that will be a batch."""

    requests: RequestsBeingWritten
    items: list[ItemName] = field(default_factory=list)

    async def add(self, item: Item, key: bytes, line: bytes) -> None:
        """One more item, with its line in the file of requests."""
        self.items.append(ItemName(item.id, key))
        self.requests.add(line)
        if self.requests.is_due:
            await asyncio.to_thread(self.requests.flush)


@dataclass(slots=True, kw_only=True)
class Drafts:
    """One for a run. `order` takes a draft, and says whether another one may follow."""

    runner: "Runner"
    dialect: BatchDialect
    files: BatchFiles
    order: Callable[[str, Draft], Awaitable[bool]]
    most_items: int
    set_aside: dict[bytes, Amounts]
    """What the budget holds back for items of open batches."""
    is_first: bool = True
    """Nothing was ordered by this process before."""
    has_no_room: bool = False
    """The budget had no room for an item, in the last pass."""
    _open: dict[str, Draft] = field(default_factory=dict)
    _taken: set[bytes] = field(default_factory=set)
    _ordered: Counter[str] = field(default_factory=Counter)
    """Items by model, in this pass."""

    async def read(self) -> None:
        """Read the source once, and order all that is worth a batch.

        Raises:
            JobMistakesError: a source became unreadable.
            SteppedOutError: the run drains.
            StoreBrokenError: the disk refused.
        """
        self._open, self._taken, self._ordered = {}, set(), Counter()
        self.has_no_room = False
        try:
            await self._read()
        finally:
            for draft in self._open.values():
                self.give_up(draft)  # what was ordered has no items left
                await asyncio.to_thread(draft.requests.remove)
            self._open.clear()

    async def _read(self) -> None:
        runner = self.runner
        models = frozenset(model for model in runner.job.models if self._usable(model))
        async with aclosing(runner.ports.items.batches(models)) as groups:
            async for group in groups:
                for item in group:
                    if self._is_wanted(item) and not await self._take(item):
                        return
        for model, draft in self._open.items():
            if draft.items and not self._is_worth(model, len(draft.items)):
                self.give_up(draft)
            elif draft.items and not await self.order(model, draft):
                break
        self.is_first = False

    async def _take(self, item: Item) -> bool:
        """Put the item into its model's draft; False when nothing more is ordered now."""
        line = self.dialect.line(item)
        if len(line) > self.dialect.most_bytes:
            return True  # it goes the ordinary way
        draft = self._open.get(item.model)
        if draft is not None and self._is_full(draft, line):
            self._ordered[item.model] += len(draft.items)
            self._taken.difference_update([one.key for one in draft.items])
            if not await self.order(item.model, draft):
                return False
            await asyncio.to_thread(draft.requests.remove)
            draft = None
        if not self._is_admitted(item):
            self.has_no_room = True
            return True
        if draft is None:
            requests = await asyncio.to_thread(self.files.begin_requests, self.dialect.between)
            draft = self._open[item.model] = Draft(requests)
        key = bytes.fromhex(item.key)
        self._taken.add(key)
        await draft.add(item, key, line)
        return True

    def _is_full(self, draft: Draft, line: bytes) -> bool:
        size_bytes = draft.requests.size_bytes + len(self.dialect.between) + len(line)
        return len(draft.items) >= self.most_items or size_bytes > self.dialect.most_bytes

    def give_up(self, draft: Draft) -> None:
        """Its items stay where they are."""
        for item in draft.items:
            if (estimate := self.set_aside.pop(item.key, None)) is not None:
                self.runner.budget_guard.give_back(estimate)

    def _usable(self, model: str) -> bool:
        lanes = self.runner.lanes.of_model(model)
        return any(lane.closed is None and not lane.paused for lane in lanes)

    def _is_wanted(self, item: Item) -> bool:
        runner, request, key = self.runner, self.runner.run_request, bytes.fromhex(item.key)
        if (request.limit is not None and item.index > request.limit) or key in self._taken:
            return False
        if request.part is not None and key not in request.part.keys:
            return False
        number = runner.wanted(key)
        return bool(number) and runner.state.attempts(key, number=number) < runner.job.retry.attempts

    def _is_worth(self, model: str, items: int) -> bool:
        """Whether these last items of a model make a batch."""
        policy = self.runner.job.batch
        return (
            items + self._ordered[model] >= WORTH_A_BATCH
            or policy.rest == "wait"
            or (policy.use == "always" and self.is_first)
        )

    def _is_admitted(self, item: Item) -> bool:
        """Whether the budget has room for one more item."""
        guard = self.runner.budget_guard
        if not guard.counts:
            return True
        estimate = guard.reserve_now(item, in_batch=True)
        if estimate is not None:
            self.set_aside[bytes.fromhex(item.key)] = estimate
        return estimate is not None
