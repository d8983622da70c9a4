"""From a slot to the ledger: what happens to an item, in the order in which it happens, and the one retry layer.

    slot > item > intent in line > intent written > POST > answer > row in line > durable > `done` in line > durable

A task is a slot, and goes from item to item. As long as answers come and nothing else, no item costs a task, a future
or a timer of its own, and whatever can be done without waiting is done without waiting:

- an intent is put in line, and the request is handed over with a gate; all intents of one turn of the loop are one
  write, and their requests leave right after it;
- an answer is queued as its row, and the slot takes its next item at once. The stores call back, a batch at a
  time: rows are durable, each `done` is put in line; they are durable, their items leave (`_recorded`). An item stays
  live, counts as alive in its lane and its answer as held until then.

Whatever is not ordinary leaves this road: what has to be waited for before a send (tokens, the budget) is waited for
here, everything that comes of a send but an ordinary answer is `outcome_handler`'s, and a wait before a second try
enters tenacity: its wait is the server's hint or a backoff, its sleep gives the slot up, its stop counts charged
attempts only. This is the only file that imports it.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, cast
from uuid import UUID

from batchrunner.core.error_policy import POLICY, Then
from batchrunner.core.errors import RowSetAsideError, StoreBrokenError
from batchrunner.core.http import Decoder, Request
from batchrunner.core.job import Job
from batchrunner.core.lifecycle import OpenTask
from batchrunner.core.outcome import Answer, Pictures, Problem, SendOutcome, TaskAccepted
from batchrunner.core.pacing import backoff_s
from batchrunner.core.ports import GatedTransport, Ports
from batchrunner.core.rate_limiter import Ticket
from batchrunner.core.row import answer_output
from batchrunner.core.values import dataclass, field, replace
from batchrunner.engine.budget_guard import BudgetGuard
from batchrunner.engine.fallbacks import Fallbacks
from batchrunner.engine.image_tasks import ImageTasks
from batchrunner.engine.lane_policy import LanePolicy
from batchrunner.engine.lanes import Lane
from batchrunner.engine.outcome_handling import NUMBER_BYTES, OutcomeHandler, size_of, with_adaptation_flags
from batchrunner.engine.recorder import Recorder, named, uncancellable
from batchrunner.engine.send_records import Gated, PendingIntent
from batchrunner.engine.shutdown import Shutdown, SteppedOutError
from batchrunner.engine.verdict import (
    IN_LINE,
    Again,
    Finished,
    GivenUp,
    InternalFaults,
    Unchanged,
    Verdict,
    Waiting,
    naming_path,
    used_up,
)
from batchrunner.engine.work_queue import Work, WorkQueue

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from batchrunner.engine.shared_requests import SharedRequests


@dataclass(slots=True)
class Slot:
    """A place in a lane: one send at a time leaves from it. `ticket` is in hand while no send is under way."""

    lane: Lane
    queue: WorkQueue
    ticket: Ticket | None


@dataclass(slots=True, kw_only=True)
class Attempts:
    """What every item's life needs; one for a run."""

    job: Job
    ports: Ports
    recorder: Recorder
    lane_policy: LanePolicy
    internal_faults: InternalFaults
    image_tasks: ImageTasks
    shutdown: Shutdown
    budget_guard: BudgetGuard
    random_source: random.Random
    left_open: Callable[[str, str], None]
    """Told of every item that this run leaves unfinished: why, and the server's last words about it."""
    ended: Callable[[WorkQueue], None]
    """Told whenever an item has left a queue whose source has nothing more."""
    fallbacks: Fallbacks | None = None
    """Of jobs that ask their models one after another."""
    outcome_handler: OutcomeHandler = field(init=False)
    gated: GatedTransport = field(init=False)
    _names_tasks: bool = field(init=False)
    _shared: "SharedRequests | None" = field(init=False, default=None)
    _late: set[asyncio.Task[None]] = field(default_factory=set)
    """Failures that are recorded outside any slot."""

    def __post_init__(self) -> None:
        """A run loads tenacity before its first send, not at its first trouble; plans and checks never do."""
        import tenacity  # noqa: F401, PLC0415 - as the docstring says

        transport = self.ports.transport
        self.gated = cast("GatedTransport", transport) if getattr(transport, "takes_gates", False) else Gated(transport)
        self._names_tasks = getattr(self.ports.dialect, "names_tasks", False)
        self.outcome_handler = OutcomeHandler(
            job=self.job,
            ports=self.ports,
            recorder=self.recorder,
            lane_policy=self.lane_policy,
            image_tasks=self.image_tasks,
            fallbacks=self.fallbacks,
        )
        if (most := self.job.limits.inputs_per_request or 1) > 1:
            from batchrunner.engine.shared_requests import shared_requests  # noqa: PLC0415 - of few jobs

            self._shared = shared_requests(self, most)

    # -- what a slot does

    def company(self, work: Work, queue: WorkQueue) -> list[Work]:
        """Further items of the queue that go with this one in its request."""
        return self._shared.company(work, queue) if self._shared is not None else []

    async def process_items(self, slot: Slot, work: Work, company: Sequence[Work] = ()) -> None:
        """Item after item, each from a slot in hand to its end or its return to the queue, while the slot is kept."""
        lane, queue = slot.lane, slot.queue
        while True:
            if self._shared is not None:
                await self._shared.process([work, *company], slot)
            else:
                verdict: Verdict | None = None
                lane.enter()
                work.retried = False  # of an item that came back after a retry: what it took of the budget is gone
                try:
                    verdict = await self._send(work, slot)
                    if verdict is not IN_LINE:
                        verdict = await self.conclude(work, slot, verdict)
                except SteppedOutError:
                    queue.requeue(work)
                except Exception as error:  # noqa: BLE001 - a fault of ours in one item's work is not the others'
                    await self.fail(work, lane, queue, error)
                finally:
                    if verdict is not IN_LINE:
                        self.leave(work, lane, queue)
            if slot.ticket is None:
                return
            following = queue.take() if self._shared is None or queue.is_filled else None
            if following is None:
                lane.give_up(slot.ticket)
                return
            work = following
            if self._shared is not None:
                company = self._shared.company(work, queue)

    async def resume(
        self, work: Work, lane: Lane, queue: WorkQueue, task: OpenTask, *, wanted: bool, may_ask: bool = True
    ) -> None:
        """An accepted task of an earlier process: followed to its own end, without a slot.

        `wanted`: should the task have failed, its item is to be sent again by this run. `may_ask`: see
        `ImageTasks.follow`.
        """
        slot = Slot(lane, queue, None)
        verdict: Verdict | None = None
        lane.enter()
        lane.task_opened()
        try:
            try:
                found = await self.image_tasks.follow(work, task, resumed=True, may_ask=may_ask)
                verdict = await self.outcome_handler.after_task(work, lane, queue, found)
            finally:
                lane.task_ended()
            if isinstance(verdict, Again | Unchanged) and not wanted:
                return  # the job has no such item any more, or not in this part: it must not be paid for again
            verdict = await self.conclude(work, slot, verdict)
        except SteppedOutError:
            queue.requeue(work)
        except Exception as error:  # noqa: BLE001 - as above
            await self.fail(work, lane, queue, error)
        finally:
            if verdict is not IN_LINE:
                self.leave(work, lane, queue)
            if slot.ticket is not None:
                lane.give_up(slot.ticket)

    async def conclude(self, work: Work, slot: Slot, verdict: Verdict) -> Verdict:
        """Try again, or record the end."""
        if isinstance(verdict, Again):
            verdict = await self.persist(work, slot, verdict)
        match verdict:
            case Finished() | Again():
                pass
            case GivenUp() if self.fallbacks is not None and self.fallbacks.answers(work, verdict.problem):
                await self.fallbacks.replace(work, verdict.problem, verdict.charged, ambiguous=verdict.ambiguous)
            case GivenUp():
                await self.recorder.failed(work, verdict.problem, charged=verdict.charged, ambiguous=verdict.ambiguous)
            case Unchanged():
                slot.queue.requeue(work, last=verdict.last)
            case Waiting():
                self.left_open(verdict.why, verdict.message)
        return verdict

    def leave(self, work: Work, lane: Lane, queue: WorkQueue) -> None:
        """It is in nobody's hands any more."""
        lane.leave()
        queue.release(work)
        if queue.exhausted:
            self.ended(queue)

    # -- one send

    async def _send(self, work: Work, slot: Slot) -> Verdict:
        """One POST and what comes of it. The slot is held when this begins, and free before anything is waited for.

        After an ordinary answer the slot has its next ticket already, if its lane allows it.

        Raises:
            SteppedOutError: nothing may leave any more.
        """
        lane, item = slot.lane, work.item
        ticket, slot.ticket = slot.ticket, None
        assert ticket is not None, "who sends has a slot"
        outcome: SendOutcome | None = None
        in_line, stands, now = False, False, 0.0
        announced: tuple[Lane, ...] = ()
        tokens, set_aside = 0, None
        try:
            charged = self.recorder.state.attempts(work.key, number=work.number)
            if slot.queue.rejected is not None or charged >= self.job.retry.attempts:
                return GivenUp(problem=slot.queue.rejected or used_up(charged), charged=charged, ambiguous=False)
            if lane.counts_tokens or self.budget_guard.counts:
                tokens, set_aside = await self.budget_guard.admitted(item, lane, ticket)
            request, decoder, intended = self._intend(work, slot, ticket)
            try:
                outcome = await self.gated.exchange(request, decoder, account=lane.account, gate=intended)
                if not intended.decided:  # the connection was lost before: what follows is written after it
                    await intended.opened()
            except SteppedOutError:
                raise  # its gate stayed closed
            except Exception as error:  # noqa: BLE001 - the request has left: its slot, its tokens and its price count
                outcome = await self.internal_faults.problem(work, error)
            now = self.ports.clock.monotonic()
            lane.record_outcome(ticket, outcome, now=now)
            if isinstance(outcome, Problem):
                outcome = naming_path(request, outcome)
                # A refusal acts on the lane before its slot is free: else the next item hits the same limit.
                stands = await self.lane_policy.on_problem(lane, slot.queue, outcome)
            else:
                announced, in_line = self._take(work, slot, outcome, tokens, now)
        finally:
            if set_aside is not None:
                self.budget_guard.commit(item, set_aside, outcome)
            if in_line:
                slot.ticket = lane.renew(now)
            elif outcome is None:
                lane.give_up(ticket)
            else:
                lane.release()
        return IN_LINE if in_line else await self._follow(work, slot, outcome, announced, stands=stands)

    async def _follow(
        self, work: Work, slot: Slot, outcome: SendOutcome, announced: tuple[Lane, ...], *, stands: bool
    ) -> Verdict:
        """Handle a send that was no ordinary answer. `stands`: its lane waits because of it."""
        lane, queue = slot.lane, slot.queue
        match outcome:
            case Answer():
                outcome = with_adaptation_flags(outcome, work)
                with self.ports.hold(size_of(outcome)):  # at once: else the next replies are read beside this one
                    return await uncancellable(self.outcome_handler.keep(work, lane, queue, outcome, announced))
            case TaskAccepted() | Pictures():
                return await self.outcome_handler.fetch(work, lane, queue, outcome, announced)
            case Problem():
                return await self.outcome_handler.after_problem(work, lane, queue, outcome, parked=stands)

    def _intend(self, work: Work, slot: Slot, ticket: Ticket) -> tuple[Request, Decoder[SendOutcome], PendingIntent]:
        """The request, who reads its reply, and its intent, which is in line and is the request's gate.

        Raises:
            SteppedOutError: nothing may leave any more.
        """
        lane, queue, ports = slot.lane, slot.queue, self.ports
        if self.shutdown.drains or ticket.stops != lane.stops:
            raise SteppedOutError
        if queue.adapted and not queue.adapted <= work.revision.adapted:
            work.revision = replace(work.revision, adapted=work.revision.adapted | queue.adapted)
        if self._names_tasks:
            task_id = str(UUID(int=self.random_source.getrandbits(128), version=4))
            work.revision = replace(work.revision, task_id=task_id)
            self.recorder.note(named(work, lane, task_id, origin=self.recorder.origin))
        request = ports.dialect.encode(work.item, work.revision)
        decoder = ports.dialect.decoder(work.item)
        if work.began is None:
            work.began, work.began_wall = ports.clock.monotonic(), ports.clock.wall()
        return request, decoder, self.recorder.intent(work, lane)

    # -- an answer

    def _take(
        self, work: Work, slot: Slot, outcome: Answer | TaskAccepted | Pictures, tokens: int, now: float
    ) -> tuple[tuple[Lane, ...], bool]:
        """What came, before its slot is free: lanes that it parks for what its head says, and whether it is in line.

        An ordinary answer's row is queued; its slot does not wait for it.

        Raises:
            Exception: a fault of ours in this item's row. It is reported rather than lost.
        """
        lane, queue = slot.lane, slot.queue
        announced: tuple[Lane, ...] = ()
        hints = outcome.hints
        if hints is not None:
            if 0 in {hints.model_remaining, hints.account_remaining, hints.requests_remaining}:
                announced = self.lane_policy.on_rate_headers(lane, queue, hints)
            elif hints.model_remaining is not None and not lane.stands_still:
                lane.model_remaining = hints.model_remaining
        if not isinstance(outcome, Answer):
            lane.task_opened()  # else one task too many is let in
            return announced, False
        adapted = work.revision.adapted
        if adapted:
            queue.adapted |= adapted
        if lane.counts_tokens and outcome.usage is not None and outcome.usage.input_tokens is not None:
            lane.take_tokens(outcome.usage.input_tokens + (outcome.usage.output_tokens or 0) - tokens)
        if announced or outcome.pictures or outcome.sounds or lane.probing or self.ports.each is not None:
            return announced, False  # something must be waited for before
        queue.model_works()
        self.lane_policy.answered = True
        lane.record_success()
        self.keep_in_line(work, slot, with_adaptation_flags(outcome, work) if adapted else outcome, now)
        return (), True

    def keep_in_line(self, work: Work, slot: Slot, answer: Answer, now: float) -> None:
        """Queue the row of an ordinary answer; the item leaves once it is recorded. Raises as `_take`."""
        lane, queue = slot.lane, slot.queue
        text, hold = answer.text, None
        size_bytes = sys.getsizeof(text) + sys.getsizeof(answer.reasoning) + NUMBER_BYTES * len(answer.embedding)
        if size_bytes >= self.ports.held_from_bytes:
            hold = self.ports.hold(size_bytes)
            hold.__enter__()
        try:
            self.recorder.keep(
                work,
                answer_output(answer, path=None),
                usage=answer.usage,
                task_id=None,
                then=partial(self._recorded, work, lane, queue, text, hold),
                now=now,
            )
        except Exception:  # any fault of ours: the answer is paid for, so it is shown before the fault is handled
            if hold is not None:
                hold.__exit__(None, None, None)
            self.recorder.last_resort(f"{work.item.id}: {text}")
            raise

    def _recorded(  # noqa: PLR0917 - called by the stores, with what was put aside for it
        self,
        work: Work,
        lane: Lane,
        queue: WorkQueue,
        text: str,
        hold: AbstractContextManager[object] | None,
        error: Exception | None,
    ) -> None:
        """The row of an ordinary answer and its `done` are durable, and the item leaves; or they will never be."""
        if hold is not None:
            hold.__exit__(None, None, None)
        if error is None:
            if work.retried:
                lane.retry_ended(worked=True)
            self.leave(work, lane, queue)
            return
        if isinstance(error, RowSetAsideError):
            self.recorder.say(f"could not save this answer in results.jsonl; superseded.jsonl has it: {work.item.id}")
        else:
            self.recorder.last_resort(f"{work.item.id}: {text}")
        if isinstance(error, StoreBrokenError):
            self.shutdown.disk_refused(error)
            self.leave(work, lane, queue)
        else:
            task = asyncio.ensure_future(self._fail_late(work, lane, queue, error))
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    async def fail(self, work: Work, lane: Lane, queue: WorkQueue, error: Exception) -> None:
        """A disk that refused a record of one item stops sending; the answers to the others are still awaited."""
        try:
            await self.internal_faults.fail(work, lane, queue, error)
        except StoreBrokenError as refused:
            self.shutdown.disk_refused(refused)

    async def _fail_late(self, work: Work, lane: Lane, queue: WorkQueue, error: Exception) -> None:
        try:
            await self.fail(work, lane, queue, error)
        finally:
            self.leave(work, lane, queue)

    async def settled(self) -> None:
        """Return when every queued answer is recorded, or its failure reported.

        Raises:
            StoreBrokenError: the disk refused one.
        """
        await self.recorder.settled()
        while self._late:
            await asyncio.wait(self._late)
        if self.shutdown.broken is not None:
            raise self.shutdown.broken

    # -- a second try

    async def persist(
        self, work: Work, slot: Slot, first: Again, *, send: Callable[[], Awaitable[Verdict]] | None = None
    ) -> Verdict:
        """Try again, by `send` if given, until something else than `Again` comes.

        Raises:
            SteppedOutError: the lane cannot continue.
        """
        lane = slot.lane
        known: Verdict | None = first
        after_failure = True  # what uses the lane's budget of retries

        async def go_on() -> Verdict:
            nonlocal known
            verdict, known = known, None  # tenacity's first call finds what the try before it led to
            return verdict or await (self._send(work, slot) if send is None else send())

        def wait(state: "RetryCallState") -> float:
            nonlocal after_failure
            problem = _last_of(state).problem
            unhinted = POLICY[problem.kind].then is Then.RETRY and problem.wait_s is None
            after_failure = unhinted and problem.correction is None  # a re-ask follows a whole answer, no failure
            return self._wait_s(work, problem)

        def used_up(state: "RetryCallState") -> bool:
            return _last_of(state).charged >= self.job.retry.attempts

        async def step_aside(seconds: float) -> None:
            await self.shutdown.sleep(seconds, ends=lane.retries_at)
            while after_failure and (wait_s := lane.retry_wait_s()) > 0:
                await self.shutdown.sleep(wait_s, ends=lane.retries_at)
            if after_failure:
                lane.take_retry()
            work.retried = after_failure
            slot.ticket = await lane.acquire(fresh=False)
            if slot.ticket is None:
                raise SteppedOutError

        def give_up(state: "RetryCallState") -> Verdict:
            last = _last_of(state)
            return GivenUp(problem=last.problem, charged=last.charged, ambiguous=False)

        from tenacity import AsyncRetrying, retry_if_result  # noqa: PLC0415 - plans and calm runs need none of it

        retrying = AsyncRetrying(
            retry=retry_if_result(lambda verdict: isinstance(verdict, Again)),
            wait=wait,
            stop=used_up,
            sleep=step_aside,
            retry_error_callback=give_up,
        )
        verdict: Verdict = await retrying(go_on)
        if verdict is not IN_LINE:  # whose retry is given back with its record
            lane.retry_ended(worked=after_failure and isinstance(verdict, Finished))
        return verdict

    def _wait_s(self, work: Work, problem: Problem) -> float:
        """The server's own hint is a lower bound; otherwise a backoff that grows with this item's same trouble."""
        if problem.wait_s is not None:
            return problem.wait_s * (1.0 + 0.1 * self.random_source.random())
        rule = POLICY[problem.kind]
        cap_s = min(rule.cap_s, self.job.retry.max_wait_s)
        tries = work.kinds.get(problem.kind, 1) - 1
        return backoff_s(first_s=rule.first_wait_s, cap_s=cap_s, tries=tries, random_source=self.random_source.random())


def _last_of(state: "RetryCallState") -> Again:
    """What tenacity's last call came to."""
    assert state.outcome is not None, "tenacity asks before the first call"
    verdict = state.outcome.result()
    assert isinstance(verdict, Again), "only `Again` is tried again"
    return verdict
