"""Writes down what happened: artifact first, ledger second, state third. The only room that makes events.

Nothing is sent before its intent stands here, and terminal records are shielded from cancellation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from batchrunner.core.events import (
    Accepted as AcceptedEvent,
)
from batchrunner.core.events import (
    Done,
    Event,
    Failed,
    Intent,
    Lost,
    Parked,
    Ready,
    Refused,
    Requeued,
    Resumed,
    Retry,
    Rewritten,
    parts_of_urls,
    recorded_files,
    recorded_ids,
)
from batchrunner.core.outcome import Answer, Problem, Usage
from batchrunner.core.ports import Clock, Ledger, Results
from batchrunner.core.row import (
    NO_MEDIA,
    ChatOutput,
    Effort,
    ImageOutput,
    KeptMedia,
    Picture,
    Sound,
    chat_output,
    failure_row,
    result_row,
    unchecked,
)
from batchrunner.core.state import ItemEvent, ItemRecord, LedgerState, Park
from batchrunner.core.status import FailureGroup
from batchrunner.engine.lanes import Lane
from batchrunner.engine.work_queue import Work

T = TypeVar("T")

_MESSAGE_MAX = 2000
_GROUPS_MAX = 50
_TOLD_TASKS = 20


async def shielded(record: Awaitable[T]) -> T:
    """Let a terminal record finish even when its caller is cancelled meanwhile; the cancellation comes afterwards.

    A record that fails in that time raises what it raises: whoever waits must learn that an answer was not kept.
    """
    task = asyncio.ensure_future(record)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):  # one more Ctrl-C does not undo a record that is under way
                await asyncio.wait([task])
        task.result()
        raise


def rfc3339(wall: float) -> str:
    """UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True, kw_only=True)
class Book:
    """One run's pen."""

    ledger: Ledger
    results: Results
    state: LedgerState
    clock: Clock
    synced_intents: bool
    """`durability: full`."""
    unsynced_max: int = 0
    """Intents that a power loss may take where they are not synced one by one: what `unaccounted_max` promises."""
    last_resort: Callable[[str], None]
    """Told of paid answers that the disk refused to take."""
    origin: str = ""
    """Base URL of the server that the run sends to: accepted tasks belong to it."""
    say: Callable[[str], None] = lambda _: None
    """Told of what a person should know at once."""
    failures: dict[tuple[str, str], FailureGroup] = field(default_factory=dict)
    _intents: int = 0
    _intents_synced: int = 0

    # -- before and between sends

    async def intent(self, work: Work, lane: Lane) -> None:
        """A paid POST is about to leave; it may when this returns.

        Raises:
            LifecycleError: the item is not pending.
        """
        record = self.state.record(work.key)
        event = Intent(
            i=work.item.id,
            k=work.item.key,
            n=record.sends + 1,
            a=record.attempts,
            model=lane.model,
            account=lane.account,
        )
        self._intents += 1
        may_be_lost = not self.synced_intents and self._intents - self._intents_synced <= self.unsynced_max
        await (self._write(event) if may_be_lost else self._commit(event))

    async def refused(self, work: Work, problem: Problem, *, wait_s: float | None = None) -> None:
        """The server said no without a word about the item."""
        record = self.state.record(work.key)
        await self._write(
            Refused(
                i=work.item.id,
                k=work.item.key,
                n=record.sends,
                a=record.attempts,
                kind=problem.kind.value,
                wait=wait_s,
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
        await shielded(
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
                    message=problem.message[:_MESSAGE_MAX] if held else "",
                    task=task.task_id if held and task is not None else "",
                    input_tokens=problem.usage.input_tokens if problem.usage else None,
                    output_tokens=problem.usage.output_tokens if problem.usage else None,
                )
            )
        )

    # -- remote tasks

    async def accepted(
        self, work: Work, lane: Lane, task_id: str, *, guess: bool = False, others: tuple[str, ...] = ()
    ) -> None:
        """The server took a task; it may be polled when this returns. `others` are further tasks of the same order."""
        record = self.state.record(work.key)
        await shielded(
            self._commit(
                AcceptedEvent(
                    i=work.item.id,
                    k=work.item.key,
                    n=record.sends,
                    a=record.attempts,
                    task=task_id,
                    model=lane.model,
                    account=lane.account,
                    origin=self.origin,
                    guess=guess,
                    others=recorded_ids(others),
                )
            )
        )
        if others:
            named = ", ".join(other[:80] for other in others[:_TOLD_TASKS])
            more = f" and {len(others) - _TOLD_TASKS:,} more" if len(others) > _TOLD_TASKS else ""
            self.say(
                f"{work.item.id}: the server made further tasks for this order, {named}{more}; only {task_id[:80]} is"
                " followed, and the row names the others in `output.other_tasks`"
            )
        if work.key in self.state.shared_tasks:
            self.say(f"{work.item.id}: the server gave it the task id of another item, {task_id[:80]}")

    async def ready(self, work: Work, urls: tuple[str, ...], *, usage: Usage | None) -> None:
        """The task's pictures can be fetched from these URLs, also by a later process, which then knows their usage."""
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
                await shielded(self._commit(event))
            first += len(part)

    # -- the ends

    async def answered(self, work: Work, answer: Answer, *, path: str | None, media: KeptMedia = NO_MEDIA) -> None:
        """A chat answer: its row, then `done`. The caller shields it, with the steps before it."""
        await self._done(work, chat_output(answer, path=path, media=media), usage=answer.usage, task_id=None)

    async def pictured(
        self,
        work: Work,
        pictures: tuple[Picture, ...],
        *,
        usage: Usage | None,
        task_id: str | None,
        flags: tuple[str, ...] = (),
    ) -> None:
        """Pictures that are on the disk: their row, then `done`."""
        if work.key in self.state.shared_tasks:
            flags = (*flags, "shared_task")
        flags = (*flags, *unchecked(pictures))
        task = self.state.tasks.get(work.key)
        others = task.others if task is not None else ()
        if others:
            flags = (*flags, "more_tasks")
        output = ImageOutput(images=pictures, flags=flags, other_tasks=others)
        await shielded(self._done(work, output, usage=usage, task_id=task_id))

    async def failed(self, work: Work, problem: Problem, *, charged: int, ambiguous: bool) -> None:
        """The item failed for good."""
        await shielded(self._failed(work, problem, charged=charged, ambiguous=ambiguous))

    async def _done(
        self, work: Work, output: ChatOutput | ImageOutput, *, usage: Usage | None, task_id: str | None
    ) -> None:
        record = self.state.record(work.key)
        effort = self._effort(work, record)
        place = await self.results.add(result_row(work.item, output, usage=usage, task_id=task_id, effort=effort))
        files: tuple[Picture | Sound, ...] = (
            output.images if isinstance(output, ImageOutput) else (*output.images, *output.audio)
        )
        await self._commit(
            Done(
                i=work.item.id,
                k=work.item.key,
                n=record.sends,
                a=effort.attempts,
                crc=place.crc,
                length=place.length,
                files=recorded_files(tuple((file.path, file.bytes, file.sha256) for file in files)),
                input_tokens=usage.input_tokens if usage else None,
                output_tokens=usage.output_tokens if usage else None,
                images=len(output.images),
                recovered=effort.recovered,
            )
        )

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
                kind=problem.kind.value,
                message=problem.message[:_MESSAGE_MAX],
                request_id=problem.request_id,
                ambiguous=ambiguous,
                input_tokens=problem.usage.input_tokens if problem.usage else None,
                output_tokens=problem.usage.output_tokens if problem.usage else None,
            )
        )
        self._group(work, problem)

    # -- lanes, people, files

    async def parked(self, account: str, model: str, park: Park) -> None:
        """A lane stopped."""
        await self._write(Parked(account=account, model=model, kind=park.kind, reason=park.reason, until=park.until))

    async def resumed(self, account: str, model: str) -> None:
        """It goes on."""
        await self._write(Resumed(account=account, model=model))

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

    # -- pieces

    def _effort(self, work: Work, record: ItemRecord) -> Effort:
        now_wall = self.clock.wall()
        task = self.state.tasks.get(work.key)
        began_wall = work.began_wall or (task.accepted_at if task else now_wall)
        seconds = self.clock.monotonic() - work.began if work.began is not None else now_wall - began_wall
        return Effort(
            attempts=record.attempts + 1,
            ambiguous=record.ambiguous,
            recovered=not record.fresh,
            started_at=rfc3339(began_wall),
            seconds=round(max(0.0, seconds), 3),
        )

    def _group(self, work: Work, problem: Problem) -> None:
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
        await self.ledger.write(event)
        self.state.apply(event, at=self.clock.wall())

    async def _commit(self, event: Event) -> None:
        self.state.check(event)
        intents = self._intents
        await self.ledger.commit(event)
        self._intents_synced = max(self._intents_synced, intents)
        self.state.apply(event, at=self.clock.wall())
