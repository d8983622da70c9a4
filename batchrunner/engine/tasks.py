"""Follows remote image tasks: one scheduler, one heap, however many tasks there are.

A task is followed to its own end. Trouble with a poll never ends a task and never costs an attempt; a deadline leaves
it accepted, for the next run to go on with. Nothing here submits anything.
"""

import asyncio
import heapq
import random
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from batchrunner.core.outcome import Pending, Pictures, Problem, ProblemKind
from batchrunner.core.pacing import Bucket, backoff_s, poll_wait_s
from batchrunner.core.ports import Clock, TaskDialect, Transport

_POLLS_AT_ONCE: Final = 32
_NOT_FOUND_GRACE_S: Final = 30.0
_NOT_FOUND_POLLS: Final = 3
_EMPTY_RESULT_POLLS: Final = 3
_STUB_POLLS: Final = 3
_RESUME_SPREAD_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOpen:
    """The task goes on without us: it is accepted still, and the next run follows it."""

    why: Literal["timed_out", "draining", "download_failed"]
    message: str = ""


TaskEnd: TypeAlias = Pictures | Problem | LeftOpen


@dataclass(slots=True, kw_only=True)
class _Followed:
    task_id: str
    account: str
    began: float
    deadline: float
    end: "asyncio.Future[TaskEnd]"
    polls: int = 0
    troubles: int = 0
    stubs: int = 0
    not_found: int = 0
    not_found_since: float | None = None
    empty_results: int = 0
    reread: bool = False
    last_word: str = ""


@dataclass(slots=True, kw_only=True)
class TaskFollower:
    """`follow` any number of tasks while `run` runs."""

    dialect: TaskDialect
    transport: Transport
    clock: Clock
    dice: random.Random
    poll_per_second: float
    task_s: float
    _heap: list[tuple[float, int, _Followed]] = field(default_factory=list)
    _sequence: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _buckets: dict[str, Bucket] = field(default_factory=dict)
    _draining: bool = False
    polls: int = 0

    def __repr__(self) -> str:
        return f"<TaskFollower: {len(self._heap)} tasks waiting for their next poll, {self.polls} polls made>"

    async def follow(self, task_id: str, *, account: str, resumed: bool) -> TaskEnd:
        """Until the task's own end, its deadline, or the run's. First polls of resumed tasks are spread out."""
        if self._draining:
            return LeftOpen(why="draining")
        now = self.clock.monotonic()
        followed = _Followed(
            task_id=task_id,
            account=account,
            began=now,
            deadline=now + self.task_s,
            end=asyncio.get_running_loop().create_future(),
        )
        wait_s = self.dice.random() * _RESUME_SPREAD_S if resumed else self._cadence_s(followed, None)
        self._plan(followed, wait_s)
        return await followed.end

    async def run(self) -> None:
        """Ask each task when its time comes; never returns by itself."""
        async with asyncio.TaskGroup() as group:
            at_once = asyncio.Semaphore(_POLLS_AT_ONCE)
            while True:
                await at_once.acquire()
                followed = await self._next_due()
                polling = group.create_task(self._poll(followed))
                polling.add_done_callback(lambda _: at_once.release())

    def drain(self) -> None:
        """Leave every task open, at once."""
        self._draining = True
        while self._heap:
            _, _, followed = heapq.heappop(self._heap)
            _end(followed, LeftOpen(why="draining"))

    async def _next_due(self) -> _Followed:
        while True:
            self._changed.clear()
            if not self._heap:
                await self._changed.wait()
                continue
            due, _, followed = self._heap[0]
            now = self.clock.monotonic()
            bucket = self._bucket(followed.account)
            wait_s = max(due - now, bucket.wait_s(now))
            if wait_s <= 0:
                heapq.heappop(self._heap)
                bucket.take(now)
                return followed
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _poll(self, followed: _Followed) -> None:
        followed.polls += 1
        self.polls += 1
        outcome = await self.transport.exchange(
            self.dialect.poll(followed.task_id), self.dialect.poll_decoder(), account=followed.account
        )
        match outcome:
            case Pictures():
                _end(followed, outcome)
            case Pending():
                followed.troubles = 0
                followed.stubs = followed.stubs + 1 if outcome.stub else 0
                followed.last_word = _stub_words(followed) if outcome.stub else outcome.raw
                self._again(followed, self._cadence_s(followed, outcome.hint_s))
            case Problem():
                self._after_problem(followed, outcome)

    def _after_problem(self, followed: _Followed, problem: Problem) -> None:
        now = self.clock.monotonic()
        followed.last_word = problem.message
        match problem.kind:
            case ProblemKind.TASK_FAILED if not problem.message.strip() and not followed.reread:
                followed.reread = True  # details of a failure have been seen to arrive a second later
                self._again(followed, 1.0)
            case ProblemKind.TASK_FAILED | ProblemKind.TASK_CANCELLED:
                _end(followed, problem)
            case ProblemKind.EMPTY_RESULT:
                followed.empty_results += 1
                if followed.empty_results >= _EMPTY_RESULT_POLLS:
                    _end(followed, problem)
                else:
                    self._again(followed, 2.0)
            case ProblemKind.TASK_NOT_FOUND:
                followed.not_found += 1
                followed.not_found_since = now if followed.not_found_since is None else followed.not_found_since
                gone = now - followed.not_found_since >= _NOT_FOUND_GRACE_S
                if gone and followed.not_found >= _NOT_FOUND_POLLS:
                    _end(followed, Problem(kind=ProblemKind.TASK_EXPIRED, message=problem.message))
                else:
                    self._again(followed, 3.0)
            case _:  # every other kind speaks of the poll, not of the task
                followed.troubles += 1
                backoff = backoff_s(first_s=2.0, cap_s=60.0, tries=followed.troubles, dice=self.dice.random())
                self._again(followed, max(backoff, problem.wait_s or 0.0))

    def _again(self, followed: _Followed, wait_s: float) -> None:
        now = self.clock.monotonic()
        if self._draining:
            _end(followed, LeftOpen(why="draining"))
        elif now >= followed.deadline:
            _end(followed, LeftOpen(why="timed_out", message=followed.last_word))
        else:
            self._plan(followed, min(wait_s, max(0.0, followed.deadline - now)))

    def _plan(self, followed: _Followed, wait_s: float) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.clock.monotonic() + wait_s, self._sequence, followed))
        self._changed.set()

    def _cadence_s(self, followed: _Followed, hint_s: float | None) -> float:
        age_s = self.clock.monotonic() - followed.began
        return poll_wait_s(age_s=age_s, polls=followed.polls, hint_s=hint_s, dice=self.dice.random())

    def _bucket(self, account: str) -> Bucket:
        bucket = self._buckets.get(account)
        if bucket is None:
            bucket = Bucket(rate_per_s=self.poll_per_second, burst=max(1.0, self.poll_per_second / 2))
            self._buckets[account] = bucket
        return bucket


def _stub_words(followed: _Followed) -> str:
    if followed.stubs < _STUB_POLLS:
        return "the reply names no task"
    return f"{ProblemKind.POLL_STUB.value}: {followed.stubs} replies in a row named no task"


def _end(followed: _Followed, end: TaskEnd) -> None:
    if not followed.end.done():
        followed.end.set_result(end)
