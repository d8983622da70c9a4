"""Writes down what happened to items: artifact first, ledger second, state third.

Nothing is sent before its intent stands here, and terminal records are shielded from cancellation. Intents and answers,
which every item has, wait in no task: the stores call back, a whole batch at a time, when they are written.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypedDict

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import (
    Accepted,
    Event,
    Failed,
    Intent,
    Parked,
    Ready,
    Refused,
    ReplacedBy,
    Resumed,
    Retry,
    parts_of_urls,
    recorded_files,
    recorded_ids,
)
from batchrunner.core.item import Item
from batchrunner.core.lifecycle import Park
from batchrunner.core.outcome import Answer, Problem, TaskAccepted, Usage
from batchrunner.core.ports import Clock, Ledger, Results
from batchrunner.core.row import (
    NO_MEDIA,
    AnyOutput,
    Audio,
    ChatOutput,
    Effort,
    KeptMedia,
    MediaFile,
    Picture,
    answer_output,
    failure_row,
    files_of,
    result_row,
    task_output,
)
from batchrunner.core.state import LedgerState
from batchrunner.core.status import FailureGroup
from batchrunner.engine.lanes import Lane
from batchrunner.engine.pending_records import PendingAnswer, PendingIntent, uncancellable
from batchrunner.engine.work_queue import Condition, Work

MESSAGE_MAX: Final = 2000
"""Characters of a message in a record."""
_GROUPS_MAX = 50
_MOST_LISTED_TASKS = 20
_SECOND_MS = 1000


class _TokenFields(TypedDict):
    input_tokens: int | None
    output_tokens: int | None
    cache_read: int | None
    cache_write: int | None


class _ProblemFields(_TokenFields):
    kind: str
    message: str
    request_id: str | None


def _tokens_of(usage: Usage | None) -> _TokenFields:
    """As events have them."""
    used = usage or Usage()
    return _TokenFields(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cache_read=used.cache_read_tokens,
        cache_write=used.cache_write_tokens,
    )


def _problem_fields(problem: Problem) -> _ProblemFields:
    """What an event has of the problem that ended an item."""
    return _ProblemFields(
        kind=problem.kind.value,
        message=problem.message[:MESSAGE_MAX],
        request_id=problem.request_id,
        **_tokens_of(problem.usage),
    )


def rfc3339(wall: float) -> str:
    """UTC with milliseconds."""
    second = int(wall // 1.0)
    millis = round((wall - second) * 1e6) // 1000
    if millis == _SECOND_MS:
        second, millis = second + 1, 0
    if second != _second[0]:
        _second[:] = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{_second[1]}.{millis:03d}Z"


_second: list[int | str] = [-1, ""]
"""The last one that was written out, and its words: a second's thousands of rows share them."""


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Writes every state change of an item: the result row first, then the ledger event, then the state in memory."""

    ledger: Ledger
    results: Results
    state: LedgerState
    clock: Clock
    synced_intents: bool
    """`durability: full`."""
    unsynced_max: int = 0
    """Intents that a power loss may take where they are not synced one by one: what `unaccounted_max` promises.

    That is the job's concurrency, or what a replay will find to have been under way at once, if it is more. So it grows
    with `concurrency: auto`, but only by what stands on the disk.
    """
    widest: Callable[[], int] = lambda: 0
    """Sends that all lanes together let be in flight at once, now."""
    last_resort: Callable[[str], None]
    """Told of paid answers that the disk refused to take."""
    may_send: Callable[[], bool] | None = None
    """See `Ports.may_send`."""
    origin: str = ""
    """Base URL of the server that the run sends to: accepted tasks belong to it."""
    say: Callable[[str], None] = lambda _: None
    """Told of what a person should know at once."""
    failures: dict[tuple[str, str], FailureGroup] = field(default_factory=dict)
    failed_of: Counter[str] = field(default_factory=Counter)
    """Items that failed in this run, by model."""
    intents: int = 0
    """Put in line by this process."""
    intents_synced: int = 0
    """Of these, known to be on the disk."""
    open: set[str] = field(default_factory=set)
    """Keys of items whose last record in the ledger is an intent, in the order of the file: as a replay sees them."""
    _most_open: int = 0
    asked_for: int = 0
    """The intents that the last sync that was asked for covers."""
    on_the_way: int = 0
    """Answers whose records have not come to their end."""
    _all_kept: Condition = field(default_factory=Condition)

    # -- before and between sends

    def note(self, event: Event) -> None:
        """Put an event in line that is written with the next one, if not before."""
        self.ledger.note(event)
        self.state.apply(event, at=self.clock.wall())

    def intent(self, work: Work, lane: Lane) -> PendingIntent:
        """A paid POST is about to leave: its intent is put in line, and the gate that is given opens when it may.

        It may when its intent is written, or, with `durability: full`, on the disk. Without, a power loss may take no
        more intents than `unaccounted_max` says: a sync begins at half of that, in the background, and
        where it comes too late requests wait for it.

        Raises:
            LifecycleError: the item is not pending.
            StoreBrokenError: the disk refused something before.
        """
        item = work.item
        n, a = self.state.next_send(work.key, item.id, number=work.number)
        event = Intent(i=item.id, k=item.key, n=n, a=a, model=lane.model, account=lane.account, w=work.rides)
        intended = PendingIntent(self, work, event)
        self.intents += 1
        self.open.add(item.key)
        if len(self.open) > self._most_open:  # noqa: PLR1730 - a call of `max` is dear here
            self._most_open = len(self.open)
        unsynced = self.intents - self.intents_synced
        if self.synced_intents or unsynced > self.unsynced_max:
            self.ledger.commit_soon(event, intended.written, urgent=True)
        else:
            self.ledger.write_soon(event, intended.written)
        return intended

    def sync_intents_in_time(self) -> None:
        """Begin a sync at half of the intents that a power loss may take.

        To be called when intents have been written: all those of the same write are in line by then, and covered.
        """
        unsynced = self.intents - self.intents_synced
        if not unsynced or 2 * unsynced < self.unsynced_max or self.asked_for > self.intents_synced:
            return
        self.asked_for = self.intents
        self.ledger.sync_now(partial(self._are_synced, self.intents, self._most_open))

    def _are_synced(self, intents: int, most_open: int, error: StoreBrokenError | None) -> None:
        if error is None:
            self.unsynced_max = max(self.unsynced_max, min(most_open, self.widest()))
            self.intents_synced = max(self.intents_synced, intents)
            if not self.synced_intents:
                self.sync_intents_in_time()

    async def refused(self, work: Work, problem: Problem, *, wait_s: float | None = None) -> None:
        """The server refused the send for a reason that does not concern the item."""
        record = self.state.record(work.key)
        await self._write(
            Refused(
                i=work.item.id,
                k=work.item.key,
                n=record.sends,
                a=record.attempts,
                kind=problem.kind.value,
                wait=wait_s,
                w=work.rides,
            )
        )

    async def retry(
        self,
        work: Work,
        problem: Problem,
        *,
        charged: int,
        ambiguous: bool,
        wait_s: float | None = None,
        held: bool = False,
    ) -> None:
        """A send or a task ended without a result; `charged` is the attempts used up, this one included.

        `held`: a person decides whether it is sent again.
        """
        record = self.state.record(work.key)
        task = self.state.tasks.get(work.key)
        await uncancellable(
            self._write(
                Retry(
                    i=work.item.id,
                    k=work.item.key,
                    n=record.sends,
                    a=charged,
                    kind=problem.kind.value,
                    wait=wait_s,
                    ambiguous=ambiguous,
                    held=held,
                    message=problem.message[:MESSAGE_MAX] if held else "",
                    task=task.task_id if held and task is not None else "",
                    **_tokens_of(problem.usage),
                )
            )
        )

    # -- remote tasks

    async def accepted(self, work: Work, lane: Lane, task: TaskAccepted) -> None:
        """The server took a task; it may be polled when this returns."""
        record, others = self.state.record(work.key), task.others
        event = Accepted(
            i=work.item.id,
            k=work.item.key,
            n=record.sends,
            a=record.attempts,
            task=task.task_id,
            model=lane.model,
            account=lane.account,
            origin=self.origin,
            guess=task.guess,
            others=recorded_ids(others),
            poll=task.addresses.poll,
            result=task.addresses.result,
            sought=task.sought,
        )
        await uncancellable(self._commit(event))
        if others:
            named = ", ".join(other[:80] for other in others[:_MOST_LISTED_TASKS])
            more = f" and {len(others) - _MOST_LISTED_TASKS:,} more" if len(others) > _MOST_LISTED_TASKS else ""
            self.say(
                f"{work.item.id}: the server started several tasks for one request; polling {task.task_id[:80]} only, "
                f"the others are listed in `output.other_tasks` of the row: {named}{more}"
            )
        if work.key in self.state.shared_tasks:
            self.say(f"{work.item.id}: the server returned the task id of another item: {task.task_id[:80]}")

    async def ready(self, work: Work, urls: tuple[str, ...], *, usage: Usage | None) -> None:
        """The task's pictures can be fetched from these URLs, also by a later process, which then has their usage."""
        first = 0
        for part in parts_of_urls(urls):
            event = Ready(
                i=work.item.id,
                k=work.item.key,
                urls=part,
                input_tokens=usage.input_tokens if usage else None,
                output_tokens=usage.output_tokens if usage else None,
                first=first,
            )
            if self.state.tasks[work.key].task_id:
                await self._write(event)
            else:  # no server can be asked for them again
                await uncancellable(self._commit(event))
            first += len(part)

    # -- the ends

    def keep(
        self,
        work: Work,
        output: AnyOutput,
        *,
        usage: Usage | None,
        task_id: str | None,
        then: Callable[[Exception | None], None],
        now: float | None = None,
    ) -> None:
        """Queue an item's row. Once it is durable its `done` follows, and once that is durable `then` is called.

        It gets None, or why the item is not recorded; it must not raise. What is raised here is a fault of
        this program: then nothing is queued and `then` is not called. `now` is the clock's monotonic time, where
        it was just read.
        """
        sends, attempts, ambiguous, fresh = self.state.effort(work.key, number=work.number)
        kept = PendingAnswer(self, work, usage, then)
        kept.sends, kept.attempts, kept.recovered = sends, attempts + 1, not fresh
        files: tuple[Picture | Audio | MediaFile, ...]
        files = (*output.images, *output.audio) if isinstance(output, ChatOutput) else files_of(output)
        if files:
            kept.images = sum(isinstance(file, Picture) for file in files)
            kept.files = recorded_files(tuple((file.path, file.bytes, file.sha256) for file in files))
        if work.began is None or work.began_wall is None:
            started, seconds = self._time_of_task(work)
        else:
            started, seconds = work.began_wall, (self.clock.monotonic() if now is None else now) - work.began
        effort = Effort(
            attempts=kept.attempts,
            ambiguous=ambiguous,
            recovered=kept.recovered,
            started_at=rfc3339(started),
            seconds=round(seconds, 3) if seconds > 0.0 else 0.0,
        )
        row = result_row(work.item, output, usage=usage, task_id=task_id, effort=effort)
        self.on_the_way += 1
        try:
            self.results.put(row, kept.row_is_durable)
        except BaseException:
            self.on_the_way -= 1
            raise

    def kept(self, kept: PendingAnswer, error: Exception | None) -> None:
        """The records of an answer have come to their end."""
        self.on_the_way -= 1
        kept.then(error)
        if not self.on_the_way:
            self._all_kept.notify()

    async def settled(self) -> None:
        """Return when every answer that was put in line is recorded, or cannot be."""
        await self._all_kept.until(lambda: not self.on_the_way)

    async def answered(self, work: Work, answer: Answer, *, path: str | None, media: KeptMedia = NO_MEDIA) -> None:
        """A chat answer, durable when this returns. The caller shields it, with the steps before it."""
        await self._done(work, answer_output(answer, path=path, media=media), usage=answer.usage, task_id=None)

    async def pictured(
        self,
        work: Work,
        pictures: tuple[Picture | MediaFile, ...],
        *,
        usage: Usage | None,
        task_id: str | None,
        flags: tuple[str, ...] = (),
    ) -> None:
        """Pictures, or other files, that are on the disk: their row, then `done`."""
        if work.key in self.state.shared_tasks:
            flags = (*flags, "shared_task")
        task = self.state.tasks.get(work.key)
        others = task.others if task is not None else ()
        if others:
            flags = (*flags, "more_tasks")
        output = task_output(pictures, flags=flags, other_tasks=others)
        await uncancellable(self._done(work, output, usage=usage, task_id=task_id))

    async def failed(self, work: Work, problem: Problem, *, charged: int, ambiguous: bool) -> None:
        """The item failed for good."""
        await uncancellable(self._failed(work, problem, charged=charged, ambiguous=ambiguous))

    async def _done(self, work: Work, output: AnyOutput, *, usage: Usage | None, task_id: str | None) -> None:
        ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.keep(
            work,
            output,
            usage=usage,
            task_id=task_id,
            then=lambda error: None if ended.done() else ended.set_result(error),
        )
        error = await ended
        if error is not None:
            raise error

    async def _failed(self, work: Work, problem: Problem, *, charged: int, ambiguous: bool) -> None:
        record = self.state.record(work.key)
        task = self.state.tasks.get(work.key)
        row = failure_row(
            work.item,
            problem,
            task_id=task.task_id if task else None,
            attempts=charged,
            ambiguous=record.ambiguous + ambiguous,
            at=rfc3339(self.clock.wall()),
        )
        await self.results.add_failure(row)
        await self._commit(
            Failed(
                i=work.item.id,
                k=work.item.key,
                n=record.sends,
                a=charged,
                ambiguous=ambiguous,
                **_problem_fields(problem),
            )
        )
        self._group(work, problem)

    async def replaced(self, work: Work, problem: Problem, then: Item, *, charged: int, ambiguous: bool) -> None:
        """The item ended without an answer, and `then` is asked in its place. Durable when this returns."""
        await uncancellable(
            self._commit(
                ReplacedBy(
                    i=work.item.id,
                    k=work.item.key,
                    n=self.state.record(work.key).sends,
                    a=charged,
                    by=then.key,
                    model=then.model,
                    ambiguous=ambiguous,
                    **_problem_fields(problem),
                )
            )
        )

    # -- lanes

    async def parked(self, account: str, model: str, park: Park) -> None:
        """A lane stopped."""
        await self._write(Parked(account=account, model=model, kind=park.kind, reason=park.reason, until=park.until))

    async def resumed(self, account: str, model: str) -> None:
        """It goes on."""
        await self._write(Resumed(account=account, model=model))

    # -- pieces

    def _time_of_task(self, work: Work) -> tuple[float, float]:
        """When an accepted task of an earlier process began, by the wall clock, and the seconds since."""
        task = self.state.tasks.get(work.key)
        wall = self.clock.wall()
        began_wall = task.accepted_at if task else wall
        return began_wall, wall - began_wall

    def _group(self, work: Work, problem: Problem) -> None:
        self.failed_of[work.item.model] += 1
        cause = problem.kind.value, problem.message[:200]
        known = self.failures.get(cause)
        if known is None and len(self.failures) >= _GROUPS_MAX:
            cause = problem.kind.value, "other messages"
            known = self.failures.get(cause)
        self.failures[cause] = FailureGroup(
            kind=cause[0],
            message=cause[1],
            count=known.count + 1 if known else 1,
            example=known.example if known else work.item.id,
        )

    async def _write(self, event: Event) -> None:
        self.state.check(event)
        self.open.discard(getattr(event, "k", ""))
        await self.ledger.write(event)
        self.state.apply(event, at=self.clock.wall())

    async def _commit(self, event: Event) -> None:
        self.state.check(event)
        self.open.discard(getattr(event, "k", ""))
        intents = self.intents
        await self.ledger.commit(event)
        self.intents_synced = max(self.intents_synced, intents)
        self.state.apply(event, at=self.clock.wall())
