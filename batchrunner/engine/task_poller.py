"""Follows remote image tasks: one scheduler, one heap for each account, however many tasks there are.

A task is asked when its answer is likely (`core.pacing`), the one that is due longest first, and followed to its own
end. Trouble with a poll never ends a task and never costs an attempt: it slows the task's polls, and much of it the
account's. A deadline leaves the task accepted for the next run. Nothing here submits anything.
"""

import asyncio
import heapq
import math
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from batchrunner.core.error_policy import POLICY
from batchrunner.core.outcome import (
    NO_ADDRESSES,
    FollowUp,
    Pending,
    Pictures,
    PictureUrl,
    PollOutcome,
    Problem,
    ProblemKind,
    TaskAddresses,
)
from batchrunner.core.pacing import PollPace, RunTimes, backoff_s, next_poll_s
from batchrunner.core.ports import Clock, TaskDialect, Transport
from batchrunner.core.values import dataclass, field, replace
from batchrunner.engine.work_queue import Condition

_LATE_SHARE: Final = 0.5
"""Of `timeouts.task_s`: after that a task is called late, and so long nothing more is said of it."""
_POLLS_AT_ONCE: Final = 32
_NOT_FOUND_GRACE_S: Final = 30.0
_SEEN_GRACE_S: Final = 180.0
"""Of a task that was there before: a server that has just been started again may not know it yet."""
_NOT_FOUND_POLLS: Final = 3
_LATE_RESULT_S: Final = 60.0
"""How long the pictures of a task that says that it succeeded are waited for."""
UNKNOWN_STATE: Final = "unknown_state"
"""The flag of results beside a word that nobody knows, unchanged for as long as late ones are waited for."""
_REREAD_S: Final = 1.0
_REFUSED_POLLS: Final = 3
"""Polls of an account in a row that are refused because of its key: no order is placed with it any more."""
_STUB_POLLS: Final = 3
_RESUME_SPREAD_S: Final = 3.0
_YOUNG_S: Final = 1.0
_NOW_S: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class StillRunning:
    """The task continues without us: it is still accepted, and the next run polls it."""

    why: Literal["timed_out", "draining", "download_failed"]
    message: str = ""


TaskEnd: TypeAlias = Pictures | Problem | StillRunning


@dataclass(slots=True, kw_only=True)
class _PolledTask:
    task_id: str
    account: str
    model: str
    accepted: float
    """Monotonic time at which the server took it; before this process began, if need be."""
    deadline: float
    end: "asyncio.Future[TaskEnd]"
    addresses: TaskAddresses
    sought: bool
    """No clear answer said that the server has it."""
    open_at_s: float | None
    """The greatest age at which it is known to have been open; None before the first poll."""
    polls: int = 0
    troubles: int = 0
    stubs: int = 0
    not_found: int = 0
    not_found_since: float | None = None
    empty_since: float | None = None
    empty_polls: int = 0
    reread: bool = False
    shows: tuple[PictureUrl, ...] = ()
    shows_since: float = 0.0
    """Results that the last replies held beside a word that nobody knows, and since when the same."""
    seen: bool = False
    """The server has known it: an earlier process polled it, or this one has."""
    last_word: str = ""


@dataclass(slots=True, kw_only=True)
class _Account:
    """The tasks of one account by the time at which they are due, and how often the account may be asked."""

    pace: PollPace
    refusals: int = 0
    """Polls in a row that were refused because of the key."""
    due: list[tuple[float, int, _PolledTask]] = field(default_factory=list)

    def wait_s(self, now: float) -> float:
        """Seconds until its next poll; there must be one."""
        return max(self.due[0][0] - now, self.pace.wait_s(now))


@dataclass(slots=True, kw_only=True)
class TaskPoller:
    """`wait_for` any number of tasks while `run` runs."""

    dialect: TaskDialect
    transport: Transport
    clock: Clock
    random_source: random.Random
    poll_per_second: float
    """Of each account."""
    task_s: float
    key_refused: Callable[[str, Problem], Awaitable[None]] | None = None
    """Told that an account's polls are refused because of its key."""
    say: Callable[[str], None] = lambda _: None
    """Told when tasks are late."""
    _late_reported_at: float = -math.inf
    polls: int = 0
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _run_times: dict[str, RunTimes] = field(default_factory=dict)
    """By model: what one account's tasks show holds for the others'."""
    _sequence: int = 0
    _changed: Condition = field(default_factory=Condition)
    _draining: bool = False

    def __repr__(self) -> str:
        waiting = sum(len(account.due) for account in self._accounts.values())
        return f"<TaskPoller: {waiting} tasks waiting for their next poll, {self.polls} polls made>"

    def change(self, poll_per_second: float) -> None:
        """Poll every account so often from now on."""
        if poll_per_second != self.poll_per_second:
            self.poll_per_second = poll_per_second
            for account in self._accounts.values():
                account.pace = PollPace(per_second=poll_per_second)
            self._changed.notify()

    async def wait_for(
        self,
        task_id: str,
        *,
        account: str,
        model: str,
        accepted_at: float,
        resumed: bool,
        addresses: TaskAddresses = NO_ADDRESSES,
        sought: bool = False,
    ) -> TaskEnd:
        """Until the task's own end, its deadline, or the run's. First polls of resumed tasks are spread out.

        One that is `sought` may end as never taken: not before a request that was under way has had time to come.

        `accepted_at` is wall clock time.
        """
        if self._draining:
            return StillRunning(why="draining")
        now = self.clock.monotonic()
        age_s = max(0.0, self.clock.wall() - accepted_at)
        young = age_s <= _YOUNG_S and not resumed
        followed = _PolledTask(
            task_id=task_id,
            account=account,
            model=model,
            accepted=now - age_s,
            deadline=now + self.task_s,
            end=asyncio.get_running_loop().create_future(),
            addresses=addresses,
            sought=sought,
            open_at_s=0.0 if young else None,
            seen=resumed and not sought,
        )
        self._plan(
            followed, self._cadence_s(followed, None) if young else self.random_source.random() * _RESUME_SPREAD_S
        )
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
        for account in self._accounts.values():
            while account.due:
                _, _, followed = account.due.pop()
                _end(followed, StillRunning(why="draining"))

    async def _next_due(self) -> _PolledTask:
        while True:
            seen = self._sequence
            now = self.clock.monotonic()
            waiting = [account for account in self._accounts.values() if account.due]
            if not waiting:
                await self._changed.until(self._planned_since(seen))
                continue
            account = min(waiting, key=lambda account: (max(0.0, account.wait_s(now)), account.due[0]))
            wait_s = account.wait_s(now)
            if wait_s <= _NOW_S:
                account.pace.take(now)
                return heapq.heappop(account.due)[2]
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.until(self._planned_since(seen))
            except TimeoutError:
                continue

    def _planned_since(self, sequence: int) -> Callable[[], bool]:
        return lambda: self._sequence != sequence

    async def _poll(self, followed: _PolledTask) -> None:
        try:
            await self._ask(followed)
        except Exception as error:  # noqa: BLE001 - a fault of ours in one task's poll: passed to its item
            if not followed.end.done():
                followed.end.set_exception(error)

    async def _ask(self, followed: _PolledTask) -> None:
        followed.polls += 1
        self.polls += 1
        age_s = self._age_s(followed)
        task = followed.task_id, followed.addresses
        outcome = await self.transport.exchange(
            self.dialect.poll(*task), self.dialect.poll_decoder(*task), account=followed.account
        )
        if isinstance(outcome, FollowUp):
            self.polls += 1
            self._account(followed.account).pace.take(self.clock.monotonic())
            outcome = await self.transport.exchange(outcome.request, outcome.decoder, account=followed.account)
        await self._on_account_reply(followed.account, outcome)
        match outcome:
            case Pictures():
                if followed.open_at_s is not None:
                    self._times(followed.model).ended(since_s=followed.open_at_s, age_s=age_s)
                _end(followed, outcome)
            case Pending():
                self._still_open(followed, outcome, age_s)
                self._again(followed, self._cadence_s(followed, outcome.hint_s))
            case Problem():
                self._after_problem(followed, outcome)
            case FollowUp():
                raise AssertionError("a follow-up comes to no other one")

    async def _on_account_reply(self, name: str, outcome: PollOutcome) -> None:
        """What a reply says of the account: how fast it may be asked, and whether its key is taken."""
        now, account = self.clock.monotonic(), self._account(name)
        if not isinstance(outcome, Problem) or outcome.of_task or POLICY[outcome.kind].about_task:
            account.pace.answered(now)
            account.refusals = 0
            return
        account.pace.refused(now, wait_s=outcome.wait_s)
        account.refusals = account.refusals + 1 if POLICY[outcome.kind].rejects_key else 0
        if account.refusals == _REFUSED_POLLS and self.key_refused is not None:
            await self.key_refused(name, outcome)

    def _still_open(self, followed: _PolledTask, word: Pending, age_s: float) -> None:
        followed.troubles = 0
        followed.stubs = followed.stubs + 1 if word.stub else 0
        followed.last_word = _stub_words(followed) if word.stub else word.raw
        if [_address(ref) for ref in word.shows] != [_address(ref) for ref in followed.shows]:
            followed.shows_since = self.clock.monotonic()
        followed.shows = word.shows
        if not word.stub:
            followed.seen = followed.seen or word.state != "unknown"
            followed.not_found, followed.not_found_since = 0, None
            followed.empty_polls, followed.empty_since = 0, None
            if followed.open_at_s is not None:
                self._times(followed.model).still_open(since_s=followed.open_at_s, age_s=age_s)
            followed.open_at_s = age_s

    def _after_problem(self, followed: _PolledTask, problem: Problem) -> None:
        now = self.clock.monotonic()
        followed.last_word = _words_of(problem)
        if problem.of_task:
            if problem.unexplained and not followed.reread:
                followed.reread = True  # details of a failure have been seen to arrive a second later
                self._again(followed, _REREAD_S)
            else:
                _end(followed, problem)
            return
        if POLICY[problem.kind].result_may_follow:
            followed.empty_polls += 1
            followed.empty_since = now if followed.empty_since is None else followed.empty_since
            if now - followed.empty_since >= _LATE_RESULT_S:
                _end(followed, replace(problem, of_task=True))
            else:
                self._again(followed, min(1.0 + followed.empty_polls, 10.0))
        elif problem.kind is ProblemKind.TASK_NOT_FOUND:
            followed.not_found += 1
            followed.not_found_since = now if followed.not_found_since is None else followed.not_found_since
            grace_s = _SEEN_GRACE_S if followed.seen else _NOT_FOUND_GRACE_S
            is_new = followed.sought and not followed.seen
            gone = now - (followed.accepted if is_new else followed.not_found_since) >= grace_s
            if gone and followed.not_found >= _NOT_FOUND_POLLS:
                kind = ProblemKind.TASK_NOT_TAKEN if is_new else ProblemKind.TASK_EXPIRED
                _end(followed, Problem(kind=kind, message=problem.message, of_task=True))
            else:
                self._again(followed, min(3.0 + followed.not_found // 4, 15.0))
        else:  # of the poll
            followed.troubles += 1
            backoff = backoff_s(
                first_s=2.0, cap_s=60.0, tries=followed.troubles, random_source=self.random_source.random()
            )
            self._again(followed, max(backoff, problem.wait_s or 0.0))

    def _again(self, followed: _PolledTask, wait_s: float) -> None:
        now = self.clock.monotonic()
        if self._draining:
            _end(followed, StillRunning(why="draining"))
        elif now >= followed.deadline and followed.shows and now - followed.shows_since >= _LATE_RESULT_S:
            # waiting longer would not explain the word, and the addresses may expire
            self.say(
                f"the server says {followed.last_word!r} of task {followed.task_id}; its results are taken as final"
            )
            _end(followed, Pictures(refs=followed.shows, flags=(UNKNOWN_STATE,)))
        elif now >= followed.deadline:
            # one that is said to be done, and has no result yet, is not at work any more
            why: Literal["timed_out", "download_failed"] = (
                "timed_out" if followed.empty_since is None else "download_failed"
            )
            _end(followed, StillRunning(why=why, message=followed.last_word))
        else:
            if now - followed.accepted >= _LATE_SHARE * self.task_s:
                self._report_late(followed, now)
            self._plan(followed, min(wait_s, max(0.0, followed.deadline - now)))

    def _report_late(self, followed: _PolledTask, now: float) -> None:
        """Tasks that take long: how many, since when, until when they are waited for. Not again for a while."""
        if now - self._late_reported_at < _LATE_SHARE * self.task_s:
            return
        self._late_reported_at = now
        waiting = [each for account in self._accounts.values() for _, _, each in account.due]
        late = [each for each in (followed, *waiting) if now - each.accepted >= _LATE_SHARE * self.task_s]
        wall, oldest = self.clock.wall(), min(each.accepted for each in late)
        since, until = (_clock_time(wall + at - now) for at in (oldest, max(each.deadline for each in late)))
        some = "1 remote task is" if len(late) == 1 else f"{len(late):,} remote tasks are"
        self.say(
            f"{some} still running, the oldest since {since}; polling until {until}, after that the next run continues"
        )

    def _plan(self, followed: _PolledTask, wait_s: float) -> None:
        self._sequence += 1
        entry = self.clock.monotonic() + wait_s, self._sequence, followed
        heapq.heappush(self._account(followed.account).due, entry)
        self._changed.notify()

    def _cadence_s(self, followed: _PolledTask, hint_s: float | None) -> float:
        return next_poll_s(
            self._times(followed.model),
            age_s=self._age_s(followed),
            polls=followed.polls,
            hint_s=hint_s,
            random_source=self.random_source.random(),
        )

    def _age_s(self, followed: _PolledTask) -> float:
        return self.clock.monotonic() - followed.accepted

    def _times(self, model: str) -> RunTimes:
        times = self._run_times.get(model)
        if times is None:
            times = self._run_times[model] = RunTimes()
        return times

    def _account(self, name: str) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            account = _Account(pace=PollPace(per_second=self.poll_per_second))
            self._accounts[name] = account
        return account


def _address(ref: PictureUrl) -> str:
    """Without what may be a signature, which is another in each reply."""
    return ref.url.partition("?")[0]


def _words_of(problem: Problem) -> str:
    status = f"HTTP {problem.status}, " if problem.status is not None else ""
    return f"{status}{problem.kind.value.replace('_', ' ')}: {problem.message}"


def _stub_words(followed: _PolledTask) -> str:
    if followed.stubs < _STUB_POLLS:
        return "the reply contains no task"
    return f"{ProblemKind.POLL_STUB.value}: {followed.stubs} replies in a row contained no task"


def _end(followed: _PolledTask, end: TaskEnd) -> None:
    if not followed.end.done():
        followed.end.set_result(end)


def _clock_time(wall: float) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M:%S UTC")
