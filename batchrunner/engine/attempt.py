"""One item's life in a lane: send, decode, record, and try again while that makes sense. The one retry layer.

The first send costs no retry machinery; tenacity is entered at the first trouble. Its wait is the server's hint or a
backoff, its sleep gives the slot up, its stop counts charged attempts only. This is the only file that knows it.
"""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from batchrunner.core.governor import Ticket
from batchrunner.core.job import Job
from batchrunner.core.outcome import (
    Accepted,
    Adaptation,
    Answer,
    Pictures,
    PictureUrl,
    Problem,
    ProblemKind,
    SendOutcome,
)
from batchrunner.core.pacing import backoff_s, estimate_tokens
from batchrunner.core.ports import Ports
from batchrunner.core.row import NO_MEDIA
from batchrunner.core.rules import RULES, Then, is_ambiguous, is_held, may_try_again
from batchrunner.core.state import OpenTask
from batchrunner.engine.faults import Faults
from batchrunner.engine.judge import Judge
from batchrunner.engine.lanes import Lane
from batchrunner.engine.purse import Purse
from batchrunner.engine.record import Book, shielded
from batchrunner.engine.remote import Remote
from batchrunner.engine.shutdown import Shutdown, SteppedOutError
from batchrunner.engine.verdict import Again, Finished, GivenUp, TaskEnded, Unchanged, Verdict, Waiting
from batchrunner.engine.work_queue import Work, WorkQueue

if TYPE_CHECKING:
    from tenacity import RetryCallState

_SINGLED_OUT: Final = 3
_FREE_HALVES: Final = 3
_TURNED_AWAY: Final = frozenset(
    {Then.WAIT, Then.ADAPT, Then.PARK_LANE, Then.PARK_ACCOUNT, Then.STOP_ACCOUNT, Then.STOP_RUN}
)
"""What says nothing of the item."""
_CHANGES_ANSWERS: Final = frozenset[Adaptation]({"json_object", "no_thinking_switch"})


@dataclass(slots=True, kw_only=True)
class Attempts:
    """What every item's life needs; one for a run."""

    job: Job
    ports: Ports
    book: Book
    judge: Judge
    faults: Faults
    remote: Remote
    shutdown: Shutdown
    purse: Purse
    dice: random.Random
    left_open: Callable[[str, str], None]
    """Told of every item that this run leaves unfinished: why, and the server's last words about it."""

    # -- the story of an item

    def __post_init__(self) -> None:
        """A run loads tenacity before its first send, not at its first trouble; plans and checks never do."""
        import tenacity  # noqa: F401, PLC0415 - as the docstring says

    async def pursue(self, work: Work, lane: Lane, queue: WorkQueue, ticket: Ticket) -> None:
        """From a slot in hand to the item's end, or to its return to the queue."""
        lane.entered()
        try:
            verdict = await self._send(work, lane, queue, ticket)
            await self._conclude(work, lane, queue, verdict)
        except SteppedOutError:
            queue.requeue(work)
        except Exception as error:  # noqa: BLE001 - a fault of ours in one item's work is not the others'
            await self.faults.fail(work, lane, queue, error)
        finally:
            lane.left()
            queue.release(work)

    async def resume(
        self, work: Work, lane: Lane, queue: WorkQueue, task: OpenTask, *, wanted: bool, may_ask: bool = True
    ) -> None:
        """An accepted task of an earlier process: followed to its own end, without a slot.

        `wanted`: should the task have failed, its item is to be sent again by this run. `may_ask`: see `Remote.follow`.
        """
        lane.entered()
        lane.task_opened()
        try:
            try:
                found = await self.remote.follow(work, task, resumed=True, may_ask=may_ask)
                verdict = await self._judged(work, lane, queue, found)
            finally:
                lane.task_ended()
            if isinstance(verdict, Again | Unchanged) and not wanted:
                return  # the job has no such item any more, or not in this part: nobody wants it to be paid for again
            await self._conclude(work, lane, queue, verdict)
        except SteppedOutError:
            queue.requeue(work)
        except Exception as error:  # noqa: BLE001 - as above
            await self.faults.fail(work, lane, queue, error)
        finally:
            lane.left()
            queue.release(work)

    async def _conclude(self, work: Work, lane: Lane, queue: WorkQueue, verdict: Verdict) -> None:
        if isinstance(verdict, Again):
            verdict = await self._persist(work, lane, queue, verdict)
        match verdict:
            case Finished() | Again():
                pass
            case GivenUp():
                await self.book.failed(work, verdict.problem, charged=verdict.charged, ambiguous=verdict.ambiguous)
            case Unchanged():
                queue.requeue(work, last=verdict.last)
            case Waiting():
                self.left_open(verdict.why, verdict.message)

    # -- one send

    async def _send(self, work: Work, lane: Lane, queue: WorkQueue, ticket: Ticket) -> Verdict:
        """One POST and what comes of it. The slot is held when this begins, and free before anything is synced."""
        tokens = estimate_tokens(sum(len(turn.content) for turn in work.item.turns))
        outcome: SendOutcome | None = None
        try:
            refusal = self._refuse(work, queue)
            if refusal is not None:
                return refusal
            await self._may_spend(lane, ticket, tokens)
            outcome = await self._exchange(work, lane, queue, ticket)
            lane.heard(ticket, outcome)
            # A refusal acts on the lane before its slot is free: else the next item runs into the same wall.
            stands = isinstance(outcome, Problem) and await self.judge.hear(lane, queue, outcome)
            foreseen = () if isinstance(outcome, Problem) else self.judge.foresee(lane, queue, outcome.hints)
            if isinstance(outcome, Accepted | Pictures):
                lane.task_opened()  # before the slot is free: else one task too many is let in
        finally:
            if outcome is None:
                lane.give_up(ticket)
            else:
                lane.release()
        match outcome:
            case Answer():
                outcome = _telling(outcome, work)
                queue.adapted |= work.revision.adapted
                if outcome.usage and outcome.usage.input_tokens is not None:
                    lane.take_tokens(outcome.usage.input_tokens + (outcome.usage.output_tokens or 0) - tokens)
                with self.ports.hold(_size_of(outcome)):  # at once: else the next replies are read beside this one
                    return await shielded(self._keep(work, lane, queue, outcome, foreseen))
            case Accepted() | Pictures():
                return await self._fetch(work, lane, queue, outcome, foreseen)
            case Problem():
                return await self._after(work, queue, outcome, parked=stands)

    async def _keep(
        self, work: Work, lane: Lane, queue: WorkQueue, answer: Answer, foreseen: tuple[Lane, ...]
    ) -> Verdict:
        """A paid answer, to its record. Whatever refuses a step on the way, its words are told rather than lost."""
        try:
            await self._came_through(lane, queue)
            path = await self.ports.each.save(work.item, answer.text) if self.ports.each else None
            has_media = answer.pictures or answer.sounds
            media = await self.remote.keeper.keep_answer(work, answer) if has_media else NO_MEDIA
            await self.book.answered(work, answer, path=path, media=media)
        except Exception:
            self.book.last_resort(f"{work.item.id}: {answer.text}")
            raise
        for parked in foreseen:
            await self.judge.record_park(parked)
        return Finished()

    async def _fetch(
        self, work: Work, lane: Lane, queue: WorkQueue, outcome: Accepted | Pictures, foreseen: tuple[Lane, ...]
    ) -> Verdict:
        try:
            found: Verdict | TaskEnded | None = None
            if isinstance(outcome, Pictures):
                found = await self.remote.keep_at_once(work, lane, outcome)
                await self._came_through(lane, queue)
            else:
                await self.book.accepted(work, lane, outcome.task_id, guess=outcome.guess, others=outcome.others)
                await self._taken(lane, queue)
            for parked in foreseen:
                await self.judge.record_park(parked)
            if found is None:
                there = outcome if isinstance(outcome, Pictures) else None
                found = await self.remote.follow(work, self.book.state.tasks[work.key], resumed=False, found=there)
            return await self._judged(work, lane, queue, found)
        finally:
            lane.task_ended()

    def _refuse(self, work: Work, queue: WorkQueue) -> GivenUp | None:
        """Why this item is not worth a send any more."""
        charged = self.book.state.record(work.key).attempts
        if queue.rejected is not None:
            return GivenUp(problem=queue.rejected, charged=charged, ambiguous=False)
        if charged >= self.job.retry.attempts:
            return GivenUp(problem=_used_up(charged), charged=charged, ambiguous=False)
        return None

    async def _may_spend(self, lane: Lane, ticket: Ticket, tokens: int) -> None:
        """Wait for tokens a minute. Requests a minute are then counted when the send leaves, not when its slot came.

        Raises:
            SteppedOutError: the run drains, or the lane stopped meanwhile. No tokens were taken.
        """
        if lane.tokens_wait_s(tokens) <= 0:
            lane.take_tokens(tokens)
            return
        clock, pace = self.ports.clock, lane.pace
        if pace is not None:
            pace.take(clock.monotonic(), -1.0)
        try:
            while (
                wait_s := max(lane.tokens_wait_s(tokens), pace.wait_s(clock.monotonic()) if pace is not None else 0.0)
            ) > 0:
                await self.shutdown.sleep(wait_s)
                if not lane.honours(ticket):
                    raise SteppedOutError
        finally:
            if pace is not None:
                pace.take(clock.monotonic())
        lane.take_tokens(tokens)

    async def _exchange(self, work: Work, lane: Lane, queue: WorkQueue, ticket: Ticket) -> SendOutcome:
        held = await self.purse.admit(work.item)
        if held is None:
            raise SteppedOutError
        outcome: SendOutcome | None = None
        try:
            if not lane.honours(ticket):
                raise SteppedOutError
            outcome = await self._converse(work, lane, queue)
        finally:
            self.purse.settle(work.item, held, outcome)
        return outcome

    async def _converse(self, work: Work, lane: Lane, queue: WorkQueue) -> SendOutcome:
        if self.shutdown.draining.is_set():
            raise SteppedOutError
        if not queue.adapted <= work.revision.adapted:
            work.revision = replace(work.revision, adapted=work.revision.adapted | queue.adapted)
        request = self.ports.dialect.encode(work.item, work.revision)
        if work.began is None:
            work.began, work.began_wall = self.ports.clock.monotonic(), self.ports.clock.wall()
        decoder = self.ports.dialect.decoder(work.item)
        await self.book.intent(work, lane)
        try:
            outcome = await self.ports.transport.exchange(request, decoder, account=lane.account)
        except Exception as error:  # noqa: BLE001 - the request has left: its slot, its tokens and its price count
            return await self.faults.problem(work, error)
        if isinstance(outcome, Problem) and outcome.look_at == "provider.base_url":
            path = urlsplit(request.url).path
            return replace(outcome, message=f"{request.method} {path}: {outcome.message}")
        return outcome

    async def _came_through(self, lane: Lane, queue: WorkQueue) -> None:
        queue.model_works()
        self.judge.answered = True
        if lane.came_through():
            await self.book.resumed(lane.account, lane.model)

    async def _taken(self, lane: Lane, queue: WorkQueue) -> None:
        """A task was accepted: the door is open, and whether the task comes to anything its own end will say."""
        queue.task_taken()
        self.judge.answered = True
        if lane.task_taken():
            await self.book.resumed(lane.account, lane.model)

    async def _judged(self, work: Work, lane: Lane, queue: WorkQueue, found: Verdict | TaskEnded) -> Verdict:
        """What follows from the end of a task; one that gave nothing is judged like a submit that is refused so."""
        if isinstance(found, Finished):
            await self._came_through(lane, queue)
        if not isinstance(found, TaskEnded):
            return found
        problem = found.problem
        stands = await self.judge.hear(lane, queue, problem)
        work.kinds[problem.kind] = work.kinds.get(problem.kind, 0) + 1
        before = self.book.state.record(work.key).attempts
        if self.judge.then(problem, queue) not in _TURNED_AWAY:
            return await self._charge(work, queue, problem, before=before, parked=stands)
        await self.book.retry(work, problem, charged=before, ambiguous=False, wait_s=problem.wait_s)
        return Unchanged() if stands else Again(problem=problem, charged=before)

    # -- trouble

    async def _after(self, work: Work, queue: WorkQueue, problem: Problem, *, parked: bool) -> Verdict:
        """Obey the table of `core.rules`; `parked` tells that the lane stands still because of it."""
        work.kinds[problem.kind] = work.kinds.get(problem.kind, 0) + 1
        before = self.book.state.record(work.key).attempts
        match self.judge.then(problem, queue):
            case Then.PARK_LANE | Then.PARK_ACCOUNT | Then.STOP_ACCOUNT | Then.STOP_RUN:
                await self.book.refused(work, problem)
                return Unchanged()
            case Then.WAIT if problem.kind is ProblemKind.NOT_REACHED:
                if queue.single_out(work) >= _SINGLED_OUT:
                    return GivenUp(problem=problem, charged=before + 1, ambiguous=False)
                await self.book.refused(work, problem)
                return Unchanged(last=True)
            case Then.WAIT if problem.under_way:
                return await self._charge(work, queue, problem, before=before, parked=parked)
            case Then.WAIT:
                await self.book.refused(work, problem, wait_s=problem.wait_s)
                return Unchanged() if parked else Again(problem=problem, charged=before)
            case Then.ADAPT:
                await self.book.refused(work, problem)
                return self._adapt(work, problem, charged=before)
            case Then.RETRY | Then.HOLD | Then.FAIL | Then.FAIL_MODEL:
                return await self._charge(work, queue, problem, before=before, parked=parked)

    async def _charge(self, work: Work, queue: WorkQueue, problem: Problem, *, before: int, parked: bool) -> Verdict:
        rule, ambiguous = RULES[problem.kind], is_ambiguous(problem)
        charged = before + 1
        # A refusal in the middle of an answer costs no try, but the half that came may be paid for: not for ever.
        free = rule.then is Then.WAIT and work.kinds[problem.kind] <= _FREE_HALVES
        if free or (parked and rule.then is Then.RETRY):
            # the lane stands still because of this very trouble: it is the server's, not the item's, and costs no try
            wait_s = None if parked else problem.wait_s
            await self.book.retry(work, problem, charged=before, ambiguous=ambiguous, wait_s=wait_s)
            if is_held(problem, self.job):
                return Waiting(why="held")
            return Unchanged() if parked else Again(problem=problem, charged=before)
        if rule.then is Then.HOLD:
            await self.book.retry(work, problem, charged=charged, ambiguous=True, held=True)
            return Waiting(why="held", message=problem.message)
        if rule.then is Then.FAIL_MODEL:
            queue.model_rejected(work, problem)
        if not may_try_again(problem, charged=charged, same_kind=work.kinds[problem.kind], retry=self.job.retry):
            return GivenUp(problem=problem, charged=charged, ambiguous=ambiguous)
        await self.book.retry(work, problem, charged=charged, ambiguous=ambiguous, wait_s=problem.wait_s)
        if is_held(problem, self.job):
            return Waiting(why="held")
        if problem.correction is not None:
            work.revision = replace(work.revision, correction=problem.correction)
        if problem.adaptation is not None:
            work.revision = replace(work.revision, adapted=work.revision.adapted | {problem.adaptation})
        return Again(problem=problem, charged=charged)

    def _adapt(self, work: Work, problem: Problem, *, charged: int) -> Verdict:
        wish = problem.adaptation
        if wish is None or wish in work.revision.adapted:
            return GivenUp(problem=problem, charged=charged + 1, ambiguous=False)
        work.revision = replace(work.revision, adapted=work.revision.adapted | {wish})
        return Again(problem=problem, charged=charged)

    async def _persist(self, work: Work, lane: Lane, queue: WorkQueue, first: Again) -> Verdict:
        """Try again until something else than `Again` comes. Raises SteppedOutError when the lane cannot go on."""
        known: list[Verdict] = [first]
        tickets: list[Ticket] = []
        last_failed = [True]

        async def go_on() -> Verdict:
            return known.pop() if known else await self._send(work, lane, queue, tickets.pop())

        def wait(state: "RetryCallState") -> float:
            problem = _verdict(state).problem
            unhinted = RULES[problem.kind].then is Then.RETRY and problem.wait_s is None
            last_failed[-1] = unhinted and problem.correction is None  # a re-ask follows a whole answer, no failure
            return self._wait_s(work, problem)

        def used_up(state: "RetryCallState") -> bool:
            return _verdict(state).charged >= self.job.retry.attempts

        async def step_aside(seconds: float) -> None:
            await self.shutdown.sleep(seconds)
            while last_failed[-1] and (wait_s := lane.retry_wait_s()) > 0:
                await self.shutdown.sleep(wait_s)
            if last_failed[-1]:
                lane.take_retry()
            ticket = await lane.acquire(fresh=False)
            if ticket is None:
                raise SteppedOutError
            tickets.append(ticket)

        def give_up(state: "RetryCallState") -> Verdict:
            last = _verdict(state)
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
        lane.retry_ended(worked=last_failed[-1] and isinstance(verdict, Finished))
        return verdict

    def _wait_s(self, work: Work, problem: Problem) -> float:
        """The server's own hint is a lower bound; otherwise a backoff that grows with this item's same trouble."""
        if problem.wait_s is not None:
            return problem.wait_s * (1.0 + 0.1 * self.dice.random())
        rule = RULES[problem.kind]
        cap_s = min(rule.cap_s, self.job.retry.max_wait_s)
        tries = work.kinds.get(problem.kind, 1) - 1
        return backoff_s(first_s=rule.first_wait_s, cap_s=cap_s, tries=tries, dice=self.dice.random())


def _verdict(state: "RetryCallState") -> Again:
    assert state.outcome is not None, "tenacity asks before the first call"
    verdict = state.outcome.result()
    assert isinstance(verdict, Again), "only `Again` is tried again"
    return verdict


def _size_of(answer: Answer) -> int:
    """Bytes of memory that an answer takes, about."""
    media = sum(len(found.data) for found in (*answer.pictures, *answer.sounds) if not isinstance(found, PictureUrl))
    return sys.getsizeof(answer.text) + sys.getsizeof(answer.reasoning) + media


def _telling(answer: Answer, work: Work) -> Answer:
    """With what was asked otherwise than the job says, where that may have changed the answer."""
    return replace(answer, flags=(*answer.flags, *sorted(work.revision.adapted & _CHANGES_ANSWERS)))


def _used_up(charged: int) -> Problem:
    return Problem(
        kind=ProblemKind.RESET,
        message=f"all {charged} attempts are used up; the last send was cut off by the end of its process",
    )
