"""From the result files of a batch to its items: each line that belongs to one is recorded as any answer is.

The files are on the disk before this begins, so it may be cut off at any point and done again. Lines are counted, and
nothing that the server counts is believed. A line of no item, or a second one of the same, is kept aside and shown.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Final

from batchrunner.core.batch_ports import BatchDialect, BatchFiles
from batchrunner.core.budget import Amounts
from batchrunner.core.error_policy import POLICY, Then, may_try_again
from batchrunner.core.item import Item
from batchrunner.core.job import Job
from batchrunner.core.lifecycle import OpenTask
from batchrunner.core.outcome import Answer, Problem, ProblemKind, SendOutcome
from batchrunner.core.ports import Ports
from batchrunner.core.remote_batch import BatchLine, RemoteBatch
from batchrunner.core.values import dataclass, field
from batchrunner.engine.batch_records import BatchRecords
from batchrunner.engine.budget_guard import BudgetGuard
from batchrunner.engine.lanes import Lane
from batchrunner.engine.outcome_handling import OutcomeHandler
from batchrunner.engine.planning import vanished_item
from batchrunner.engine.recorder import Recorder, uncancellable
from batchrunner.engine.verdict import InternalFaults
from batchrunner.engine.work_queue import Work, WorkQueue

UNANSWERED: Final = "batch_unanswered"
"""Why an item left its batch without an answer, in the ledger."""
_AT_ONCE: Final = 256
_KEY_CHARS: Final = 32
_GOOD: Final = range(200, 300)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an item's line stands."""

    path: str
    offset: int
    size_bytes: int
    is_good: bool


@dataclass(slots=True)
class Index:
    """The lines of the result files of one batch."""

    places: dict[bytes, _Place] = field(default_factory=dict)
    aside: list[_Place] = field(default_factory=list)
    """Lines that belong to no item of the batch, or to one that has a better one."""
    unanswered: int = 0
    """Lines of items that were not executed."""

    def add(self, key: bytes, place: _Place) -> None:
        """A line of an item. The first one with an answer counts."""
        known = self.places.get(key)
        if known is None:
            self.places[key] = place
        elif place.is_good and not known.is_good:
            self.places[key] = place
            self.aside.append(known)
        else:
            self.aside.append(place)


@dataclass(slots=True, kw_only=True)
class BatchResults:
    """One for a run."""

    job: Job
    ports: Ports
    dialect: BatchDialect
    files: BatchFiles
    records: BatchRecords
    recorder: Recorder
    budget_guard: BudgetGuard
    handler: OutcomeHandler
    faults: InternalFaults
    vanished_ended: Callable[[bytes], None]
    left_open: Callable[[str, str], None]
    say: Callable[[str], None]
    set_aside: dict[bytes, Amounts] = field(default_factory=dict)
    """What the budget holds back for items of open batches of this process."""

    async def read(
        self, batch: RemoteBatch, lane: Lane, queue: WorkQueue, paths: Iterable[str], *, is_all: bool = True
    ) -> bool:
        """Record what the lines say. `is_all`: items without a line were not executed, and go back.

        False, and nothing goes back: the files have lines, and none of them belongs to the batch.
        """
        index = await asyncio.to_thread(self._index, batch, tuple(paths))
        if index.aside:
            await self._keep_aside(batch, index)
            if not index.places and not index.unanswered:
                return False
        async for chunk in self._items(batch, index):
            lines = await asyncio.to_thread(self._lines, [index.places[key] for _, key in chunk])
            steps = (
                self._take(batch, lane, queue, item=item, key=key, line=line)
                for (item, key), line in zip(chunk, lines, strict=True)
            )
            await asyncio.gather(*steps)
        if is_all:
            for key in self.recorder.state.items_of_batch(batch.number):
                self._settle_budget(self.model_item(batch, key), key, None)
            await self.records.released(batch, UNANSWERED)
        return True

    def release_budget(self, batch: RemoteBatch) -> None:
        """Nothing of the batch was executed."""
        for key in self.recorder.state.items_of_batch(batch.number) if self.set_aside else ():
            self._settle_budget(self.model_item(batch, key), key, None)

    def model_item(self, batch: RemoteBatch, key: bytes) -> Item:
        """An item of the batch that the job does not have any more, or whose text is not needed."""
        task = OpenTask(
            task_id=batch.batch_id, item_id=f"batch-{key.hex()[:12]}", account="", model=batch.model, accepted_at=0.0
        )
        return vanished_item(key, task)

    # -- the files

    def _index(self, batch: RemoteBatch, paths: tuple[str, ...]) -> Index:
        """Blocks."""
        index, state = Index(), self.recorder.state
        members = set(state.items_of_batch(batch.number))
        is_begun = batch.left < batch.items
        for path in paths:
            for offset, line in self.files.lines(path):
                if not line.strip():
                    continue
                found = self.dialect.read(line)
                key = _key_of(found)
                place = _Place(path, offset, len(line), found.problem is None and found.status in _GOOD)
                if key in members and key is not None:
                    if found.unanswered:
                        index.unanswered += 1
                    else:
                        index.add(key, place)
                elif key is None or not is_begun or not state.knows(key):  # else it was recorded before a crash
                    index.aside.append(place)
        return index

    def _lines(self, places: list[_Place]) -> list[BatchLine]:
        """Blocks."""
        return [self.dialect.read(self.files.line_at(place.path, place.offset, place.size_bytes)) for place in places]

    async def _keep_aside(self, batch: RemoteBatch, index: Index) -> None:
        name = f"{batch.number:06d}.unmatched.jsonl"
        lines = (self.files.line_at(place.path, place.offset, place.size_bytes) for place in index.aside)
        path = await asyncio.to_thread(self.files.set_aside, name, lines)
        count = len(index.aside)
        what = "1 result matches" if count == 1 else f"{count:,} results match"
        self.say(f"batch {batch.batch_id}: {what} none of its items, or an item that has a result; kept in {path}")

    # -- the items

    async def _items(self, batch: RemoteBatch, index: Index) -> AsyncIterator[list[tuple[Item, bytes]]]:
        """The items with lines, some at a time: as the job has them, then those that it has no more."""
        left = set(index.places)
        chunk: list[tuple[Item, bytes]] = []
        if left and batch.model in self.job.models:
            async with aclosing(self.ports.items.batches(frozenset({batch.model}))) as groups:
                async for group in groups:
                    for item in group:
                        key = bytes.fromhex(item.key)
                        if key in left:
                            left.discard(key)
                            chunk.append((item, key))
                    if len(chunk) >= _AT_ONCE:
                        yield chunk
                        chunk = []
                    if not left:
                        break
        if chunk:
            yield chunk
        vanished = [(self.model_item(batch, key), key) for key in left]
        for start in range(0, len(vanished), _AT_ONCE):
            yield vanished[start : start + _AT_ONCE]
        for _, key in vanished:
            self.vanished_ended(key)

    async def _take(
        self, batch: RemoteBatch, lane: Lane, queue: WorkQueue, *, item: Item, key: bytes, line: BatchLine
    ) -> None:
        clock, state = self.ports.clock, self.recorder.state
        work = Work(item=item, key=key, number=state.table.find(key))
        work.began_wall = batch.accepted_at or batch.at
        work.began = clock.monotonic() - max(0.0, clock.wall() - work.began_wall)
        outcome: SendOutcome | None = None
        lane.enter()
        try:
            outcome = self.dialect.answer(item, line, received_at=clock.wall())
            if isinstance(outcome, Answer):
                await uncancellable(self.handler.keep(work, lane, queue, outcome, ()))
            elif isinstance(outcome, Problem):
                await self._without_answer(work, outcome)
            else:
                message = "the batch's reply has pictures where an answer was asked for"
                await self._without_answer(work, Problem(kind=ProblemKind.NOT_UNDERSTOOD, message=message))
        except Exception as error:  # noqa: BLE001 - a fault of ours in one item's work is not the others'
            await self.faults.fail(work, lane, queue, error)
        finally:
            lane.leave()
            self._settle_budget(item, key, outcome)

    async def _without_answer(self, work: Work, problem: Problem) -> None:
        """The line says what went wrong, and for certain: it is not sent again because it is not known."""
        before = self.recorder.state.record(work.key).attempts
        policy = POLICY[problem.kind]
        if policy.refusal:
            await self.recorder.refused(work, problem)
        elif policy.then is Then.HOLD:
            await self.recorder.retry(work, problem, charged=before + 1, ambiguous=True, held=True)
            self.left_open("held", problem.message)
        elif may_try_again(problem, charged=before + 1, same_kind=1, retry=self.job.retry):
            await self.recorder.retry(work, problem, charged=before + 1, ambiguous=False)
        else:
            await self.recorder.failed(work, problem, charged=before + 1, ambiguous=False)

    def _settle_budget(self, item: Item, key: bytes, outcome: SendOutcome | None) -> None:
        estimate = self.set_aside.pop(key, None)
        if estimate is not None:
            self.budget_guard.commit(item, estimate, outcome, in_batch=True)


def _key_of(line: BatchLine) -> bytes | None:
    """The key that the line names; None where that is none of ours."""
    if len(line.key) != _KEY_CHARS:
        return None
    try:
        key = bytes.fromhex(line.key)
    except ValueError:
        return None
    return key if key.hex() == line.key else None
