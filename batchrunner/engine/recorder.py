"""Writes down what happened to items and to the run: artifact first, ledger second, state third.

Terminal records are shielded from cancellation. Intents and ordinary answers, which every item has, are `send_records`.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TypedDict, TypeVar
from weakref import WeakSet

from batchrunner.core.control import Command, Reply
from batchrunner.core.events import (
    Accepted,
    Controlled,
    Done,
    Event,
    Failed,
    Lost,
    Named,
    Parked,
    Ready,
    Refused,
    ReplacedBy,
    Requeued,
    Resumed,
    Retry,
    Rewritten,
    parts_of_urls,
    recorded_ids,
)
from batchrunner.core.item import Item
from batchrunner.core.lifecycle import ItemEvent, Park
from batchrunner.core.outcome import Answer, Problem, TaskAccepted, Usage
from batchrunner.core.row import (
    NO_MEDIA,
    AnyOutput,
    KeptMedia,
    MediaFile,
    Picture,
    answer_output,
    failure_row,
    task_output,
)
from batchrunner.core.status import FailureGroup
from batchrunner.core.values import dataclass, field
from batchrunner.engine.lanes import Lane
from batchrunner.engine.send_records import SendRecorder, rfc3339
from batchrunner.engine.work_queue import Work

T = TypeVar("T")
MESSAGE_MAX: Final = 2000
"""Characters of a message in a record."""
_GROUPS_MAX = 50
_MOST_LISTED_TASKS = 20


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


_RECORDING: Final[WeakSet[asyncio.Future[Any]]] = WeakSet()
"""Tasks of records that are under way: nobody else has them, so nobody cancels them."""


async def uncancellable(record: Awaitable[T]) -> T:
    """Let a terminal record finish even when its caller is cancelled meanwhile; the cancellation comes afterwards.

    A record that fails in that time raises what it raises: whoever waits must learn that an answer was not kept.
    Within another such record it is a part of it: nobody can cancel that one's task, so it needs none of its own.
    """
    if asyncio.current_task() in _RECORDING:
        return await record
    task = asyncio.ensure_future(record)
    _RECORDING.add(task)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):  # one more Ctrl-C does not undo a record that is under way
                await asyncio.wait([task])
        task.result()
        raise


def named(work: Work, lane: Lane, task_id: str, *, origin: str) -> Named:
    """The record that the next intent of the item asks for a task of this id, at the server with this base URL."""
    item = work.item
    return Named(i=item.id, k=item.key, task=task_id, model=lane.model, account=lane.account, origin=origin)


@dataclass(slots=True, kw_only=True)
class Recorder(SendRecorder):
    """Writes every state change of an item: the result row first, then the ledger event, then the state in memory."""

    last_resort: Callable[[str], None]
    """Told of paid answers that the disk refused to take."""
    origin: str = ""
    """Base URL of the server that the run sends to: accepted tasks belong to it."""
    say: Callable[[str], None] = lambda _: None
    """Told of what a person should know at once."""
    failures: dict[tuple[str, str], FailureGroup] = field(default_factory=dict)
    failed_of: Counter[str] = field(default_factory=Counter)
    """Items that failed in this run, by model."""

    # -- before and between sends

    def note(self, event: Event) -> None:
        """Put an event in line that is written with the next one, if not before."""
        self.ledger.note(event)
        self.state.apply(event, at=self.clock.wall())

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

    # -- the run as a whole

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

    # -- pieces

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
