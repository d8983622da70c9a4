"""The requests of batches: which items go into the next ones, and upload, order, look, find, download.

Requests that are free are repeated a few times.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from batchrunner.core.batch_ports import BatchDialect, BatchFiles, RequestsBeingWritten
from batchrunner.core.budget import Amounts
from batchrunner.core.error_policy import POLICY, Then
from batchrunner.core.item import Item
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.pacing import backoff_s
from batchrunner.core.ports import Transport
from batchrunner.core.remote_batch import WORTH_A_BATCH, BatchLook, ItemName, RemoteBatch, RequestFile, ResultFile
from batchrunner.core.values import dataclass, field

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner

NOT_FOUND: Final = 404
_TRIES: Final = 5
_FIND_PAGES: Final = 50


@dataclass(slots=True, kw_only=True)
class BatchRequests:
    """One for a run. What goes wrong is a value."""

    dialect: BatchDialect
    transport: Transport
    files: BatchFiles
    sleep: Callable[[float], Awaitable[None]]
    random_source: random.Random

    async def upload(self, batch: RemoteBatch, requests: RequestFile) -> str | Problem:
        """The id of the file of requests, which each try reads anew.

        Raises:
            SteppedOutError: the run drains between two tries.
            StoreBrokenError: the file cannot be read any more.
        """
        request = self.dialect.upload(requests, name=f"batchrunner-{batch.number:06d}.jsonl")
        tries = 0
        while True:
            outcome = await self.transport.exchange(request, self.dialect.uploaded(), account=batch.account)
            tries += 1
            if isinstance(outcome, str) or tries == _TRIES or not passes(outcome):
                return outcome
            await self.sleep(self.backoff_s(tries, outcome))

    async def order(self, batch: RemoteBatch, requests: RequestFile) -> BatchLook | Problem:
        """The one request that is paid for; its intent, and its file if it has one, are in the ledger."""
        request = self.dialect.create(batch.file, key=batch.key, model=batch.model, requests=requests)
        return await self.transport.exchange(request, self.dialect.looked(), account=batch.account)

    async def look(self, batch: RemoteBatch) -> BatchLook | Problem:
        """How it stands."""
        request = self.dialect.look(batch.batch_id)
        return await self.transport.exchange(request, self.dialect.looked(), account=batch.account)

    async def find(self, batch: RemoteBatch) -> BatchLook | Problem | None:
        """The batch in the account's list, by our key or by its file; None where it is not there."""
        return await self._first(
            batch, lambda look: look.key == batch.key or bool(batch.file and look.input_file == batch.file)
        )

    async def find_like(self, batch: RemoteBatch, known: Collection[str]) -> BatchLook | Problem | None:
        """A batch in the account's list that may be this one, and is none of the `known`; None where there is none."""
        return await self._first(batch, lambda look: look.batch_id not in known and look.may_be(batch))

    async def _first(self, batch: RemoteBatch, fits: Callable[[BatchLook], bool]) -> BatchLook | Problem | None:
        after: str | None = None
        for _ in range(_FIND_PAGES):
            request = self.dialect.listing(after)
            page = await self.transport.exchange(request, self.dialect.listed(after), account=batch.account)
            if isinstance(page, Problem):
                return page
            for look in page.batches:
                if fits(look):
                    return look
            after = page.after
            if after is None:
                return None
        return Problem(kind=ProblemKind.NOT_UNDERSTOOD, message="the account's list of batches has no end")

    async def download(self, batch: RemoteBatch, look: BatchLook) -> list[ResultFile] | Problem:
        """The result files, on the disk. A file of errors that is gone is left out."""
        files: list[ResultFile] = []
        for kind, file in look.outputs:
            found = await self._download(batch, kind, file)
            if not isinstance(found, Problem):
                files.append(found)
            elif not (kind == "err" and found.status == NOT_FOUND and files):
                return found
        return files

    async def _download(self, batch: RemoteBatch, kind: str, file: str) -> ResultFile | Problem:
        tries = 0
        while True:
            writing = await asyncio.to_thread(self.files.begin, f"{batch.number:06d}.{kind}.jsonl")
            try:
                outcome = await self.transport.exchange(
                    self.dialect.content(file), self.dialect.downloaded(writing.write), account=batch.account
                )
            except BaseException:
                writing.give_up()
                raise
            if outcome is None:
                return await asyncio.to_thread(writing.finish)
            writing.give_up()
            tries += 1
            if tries == _TRIES:
                return outcome
            await self.sleep(self.backoff_s(tries, outcome))

    def backoff_s(self, tries: int, problem: Problem, *, first_s: float = 2.0, cap_s: float = 300.0) -> float:
        """Before the next try; the server's own wish is a lower bound."""
        random_source = self.random_source.random()
        grown = backoff_s(first_s=first_s, cap_s=cap_s, tries=tries, random_source=random_source)
        return max(grown, problem.wait_s or 0.0)


def passes(problem: Problem) -> bool:
    """Whether what went wrong passes by itself."""
    return POLICY[problem.kind].then in {Then.WAIT, Then.RETRY, Then.PARK_LANE, Then.PARK_ACCOUNT}


# Which items go into the next batches: the source is read once, and what is worth a batch is handed over.
#
# Of the items of a batch only their names are kept; what they ask stands in its file of requests, on the disk.


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
