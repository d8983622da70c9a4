"""What stands between a life and everything outside it: the ledger, the results and the world, all watched."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Event
from batchrunner.core.http import Decoder, Gate, Request
from batchrunner.core.item import Item
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.ports import Downloads, Kept, Ledger, Place, Replaced, Results, Transport, Write
from batchrunner.core.row import FailureRow, ResultRow
from batchrunner.transport.deadlines import passed
from tests.crash.invariant_error import Violation
from tests.crash.jobs import PROMPT
from tests.crash.watch import Body, Watch
from tests.support.crashing_disk import CrashingDisk

T = TypeVar("T")
_TASK_IS_OVER = frozenset(
    {ProblemKind.TASK_FAILED, ProblemKind.TASK_CANCELLED, ProblemKind.TASK_NOT_FOUND, ProblemKind.EMPTY_RESULT}
)


@dataclass
class WatchedLedger:
    """Tells the watch what is to be written and what was acknowledged."""

    inner: Ledger
    watch: Watch

    def note(self, event: Event) -> None:
        self.watch.begun(event)
        self.inner.note(event)

    async def write(self, event: Event) -> None:
        self.watch.begun(event)
        await self.inner.write(event)
        self.watch.acknowledged(event, durable=False)

    async def commit(self, event: Event) -> None:
        self.watch.begun(event)
        await self.inner.commit(event)
        self.watch.acknowledged(event, durable=True)

    def write_soon(self, event: Event, then: Callable[[StoreBrokenError | None], None]) -> None:
        self.watch.begun(event)
        self.inner.write_soon(event, self._acknowledging(event, then, durable=False))

    def commit_soon(
        self, event: Event, then: Callable[[StoreBrokenError | None], None], *, urgent: bool = False
    ) -> None:
        self.watch.begun(event)
        self.inner.commit_soon(event, self._acknowledging(event, then, durable=True), urgent=urgent)

    def _acknowledging(
        self, event: Event, then: Callable[[StoreBrokenError | None], None], *, durable: bool
    ) -> Callable[[StoreBrokenError | None], None]:
        def acknowledged(error: StoreBrokenError | None) -> None:
            if error is None:
                try:
                    self.watch.acknowledged(event, durable=durable)
                except Violation as violation:  # kept by the witness; whoever calls back must not be raised at
                    error = StoreBrokenError(str(violation))
            then(error)

        return acknowledged

    def sync_now(self, then: Callable[[StoreBrokenError | None], None]) -> None:
        self.inner.sync_now(then)


@dataclass
class WatchedResults:
    """Tells the watch of every row."""

    inner: Results
    watch: Watch

    def put(self, row: ResultRow | bytes, then: Kept) -> None:
        assert not isinstance(row, bytes), "no run here takes rows of another one"
        self.watch.row(bytes.fromhex(row.key))
        self.inner.put(row, then)

    async def add(self, row: ResultRow) -> Place:
        self.watch.row(bytes.fromhex(row.key))
        return await self.inner.add(row)

    async def add_failure(self, row: FailureRow) -> None:
        await self.inner.add_failure(row)

    async def rewrite(self, items: AsyncIterator[Item], *, is_done: Callable[[bytes], bool]) -> Replaced:
        return await self.inner.rewrite(items, is_done=is_done)

    async def settle_failures(
        self, items: AsyncIterator[Item], *, is_failed: Callable[[bytes], bool], count: int = 0
    ) -> Replaced:
        return await self.inner.settle_failures(items, is_failed=is_failed, count=count)

    async def failures_are_settled(self, *, count: int, is_failed: Callable[[bytes], bool]) -> bool:
        return await self.inner.failures_are_settled(count=count, is_failed=is_failed)


@dataclass
class RecordingPorts:
    """The world behind a wall that a dead process cannot pass. Accounts bring their keys, as they do in earnest."""

    disk: CrashingDisk
    transport: Transport
    downloads: Downloads
    key_of: Callable[[str], str]
    on_post: Callable[[], None]
    watch: Watch | None = None
    takes_gates: bool = True

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        await self._alive()
        if gate is not None:
            await passed(gate)
            await self._alive()
        assert self.watch is not None, "nobody sends before the life has begun"
        if request.method != "POST":
            task_id = request.url.rpartition("/")[2]
            self.watch.poll(account, task_id)
            outcome = await self.transport.exchange(request, decoder, account=self.key_of(account))
            await self._alive()
            if isinstance(outcome, Problem) and outcome.kind in _TASK_IS_OVER:
                self.watch.task_is_over(task_id)
            return outcome
        body = body_of(request)
        lane = account, body[0]
        self.watch.post(lane, body)
        self.on_post()
        try:
            outcome = await self.transport.exchange(request, decoder, account=self.key_of(account))
            await self._alive()
        finally:
            self.watch.replied(lane)
        return outcome

    async def fetch(self, url: str, *, account: str = "") -> bytes | Problem:
        await self._alive()
        found = await self.downloads.fetch(url, account=account)
        await self._alive()
        return found

    async def fetch_into(self, url: str, write: Write, *, account: str = "") -> Problem | None:
        await self._alive()
        found = await self.downloads.fetch_into(url, write, account=account)
        await self._alive()
        return found

    async def _alive(self) -> None:
        if self.disk.dead:
            await asyncio.get_running_loop().create_future()


def body_of(request: Request) -> Body:
    """What a request shows of its item. What a model is told besides, or asked again, comes after the prompt."""
    body = json.loads(request.body or b"{}")
    prompt = PROMPT.search(json.dumps(body.get("prompt") or body["messages"]))
    model = body["model"]
    assert prompt is not None
    assert isinstance(model, str)
    return model, prompt[0]
