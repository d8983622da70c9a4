"""Which items go into the next batches: the source is read once, and what is worth a batch is handed over."""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchrunner.core.budget import Amounts
from batchrunner.core.item import Item
from batchrunner.core.ports import BatchDialect
from batchrunner.core.remote_batch import WORTH_A_BATCH

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner


@dataclass(slots=True)
class Draft:
    """Items of one model that will be a batch."""

    items: list[Item] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, item: Item, line: bytes) -> None:
        """One more item, with its line in the file of requests."""
        self.items.append(item)
        self.lines.append(line)
        self.size_bytes += len(line)


@dataclass(slots=True, kw_only=True)
class Drafts:
    """One for a run. `order` takes a draft, and says whether another one may follow."""

    runner: "Runner"
    dialect: BatchDialect
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
        """
        runner = self.runner
        self._open, self._taken, self._ordered = {}, set(), Counter()
        self.has_no_room = False
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
        draft = self._open.setdefault(item.model, Draft())
        if draft.items and (
            len(draft.items) >= self.most_items or draft.size_bytes + len(line) > self.dialect.most_bytes
        ):
            self._ordered[item.model] += len(draft.items)
            self._taken.difference_update([bytes.fromhex(one.key) for one in draft.items])
            if not await self.order(item.model, draft):
                return False
            draft = self._open[item.model] = Draft()
        if self._is_admitted(item):
            draft.add(item, line)
            self._taken.add(bytes.fromhex(item.key))
        else:
            self.has_no_room = True
        return True

    def give_up(self, draft: Draft) -> None:
        """Its items stay where they are."""
        for item in draft.items:
            if (estimate := self.set_aside.pop(bytes.fromhex(item.key), None)) is not None:
                self.runner.budget_guard.commit(item, estimate, None, in_batch=True)

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
