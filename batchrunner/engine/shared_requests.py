"""One request for several items: for dialects whose POST carries many texts of one model.

Each item keeps its own key, intent, attempts and row. All intents stand in the ledger before the POST leaves, so a cut
leaves every one of them in doubt, and each is counted so. The request is one: for the lane's concurrency, its requests
a minute and a day, the budget's calls, and what its outcome teaches the limiter.

- A reply comes to an outcome for each item: answers are recorded as any other, the rest is tried again together.
- A refusal that may be about one text, or about how many there are (a 4xx for which an item would fail), is nobody's:
  all go back to the queue without a charged attempt, and requests of that model carry half as many from then on. One
  that is refused alone is to blame, and requests are as large again as the largest one that was answered. So a text
  that is too long costs a few refused requests, and a server that takes fewer texts than the job says is found once.
- Anything else is the trouble of each of them: a wait, a try more, a failure.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from batchrunner.core.budget import Amounts
from batchrunner.core.error_policy import POLICY, Then
from batchrunner.core.outcome import Answer, Problem
from batchrunner.core.pacing import estimate_tokens
from batchrunner.core.ports import SharedDialect
from batchrunner.core.rate_limiter import Ticket
from batchrunner.core.values import dataclass, field
from batchrunner.engine.outcome_handling import size_of
from batchrunner.engine.recorder import uncancellable
from batchrunner.engine.send_records import AllWritten
from batchrunner.engine.shutdown import SteppedOutError
from batchrunner.engine.verdict import Again, Finished, GivenUp, Verdict, naming_path, used_up
from batchrunner.engine.work_queue import Work, WorkQueue

if TYPE_CHECKING:
    from batchrunner.engine.attempt import Attempts, Slot

MOST_CHARS: Final = 200_000
"""Of the texts of one request: servers also limit the tokens of it, and refuse the whole of what is beyond."""
_MAY_BE_ONE_TEXT: Final = frozenset({Then.FAIL, Then.FAIL_MODEL})
_CLIENT_ERRORS: Final = range(400, 500)

Parts = tuple[Answer | Problem, ...]


@dataclass(slots=True, kw_only=True)
class SharedRequests:
    """One for a run. `most`: items of a request, as the job says; what a server is known to take is in its queue."""

    attempts: "Attempts"
    dialect: SharedDialect
    most: int
    answered: dict[str, int] = field(default_factory=dict)
    """Items of the largest request that was answered, by model."""

    def company(self, work: Work, queue: WorkQueue) -> list[Work]:
        """Those that may go with the item."""
        if queue.together == 1:
            return []
        room, places = MOST_CHARS - len(work.item.prompt), queue.together - 1

        def fits(other: Work) -> bool:
            nonlocal room, places
            if not places or room < len(other.item.prompt):
                return False
            places, room = places - 1, room - len(other.item.prompt)
            return True

        return queue.take_company(work, fits)

    async def process(self, works: list[Work], slot: "Slot") -> None:
        """From a slot in hand to the end of each of them, or its return to the queue."""
        attempts, lane, queue = self.attempts, slot.lane, slot.queue
        together = _Together(left=list(works), stand_in=Work(item=works[0].item, key=works[0].key))
        for work in works:
            lane.enter()
            work.retried = False
        try:
            verdict = await self._send(together, slot)
            if isinstance(verdict, Again):
                verdict = await attempts.persist(
                    together.stand_in, slot, verdict, send=partial(self._send, together, slot)
                )
        except SteppedOutError:
            for work in together.left:
                queue.requeue(work)
        except Exception as error:  # noqa: BLE001 - a fault of ours in their work is not the others'
            for work in together.left:
                await attempts.fail(work, lane, queue, error)
        finally:
            for work in together.left:
                work.rides = False
                attempts.leave(work, lane, queue)

    # -- one send

    async def _send(self, together: "_Together", slot: "Slot") -> Verdict:
        """One POST of all that are left, and what comes of it. As `Attempts._send`."""
        lane, attempts = slot.lane, self.attempts
        ticket, slot.ticket = slot.ticket, None
        assert ticket is not None, "who sends has a slot"
        outcome: Parts | Problem | None = None
        set_aside: list[tuple[Work, Amounts]] = []
        stands = goes_on = False
        now = 0.0
        try:
            await self._without_those_that_are_through(together, slot)
            if not together.left:
                return Finished()
            tokens = await self._admitted(together, slot, ticket, set_aside)
            works = list(together.left)
            outcome, path = await self._exchange(works, slot, ticket)
            now = attempts.ports.clock.monotonic()
            lane.record_outcome(ticket, _lesson(outcome), now=now)
            if isinstance(outcome, Problem):
                outcome = path(outcome)
                if not self._is_split(outcome, together):
                    stands = await attempts.lane_policy.on_problem(lane, slot.queue, outcome)
            else:
                stands = await self._take(outcome, works, together, slot, tokens=tokens, now=now)
                goes_on = not together.left
        finally:
            self._settle(set_aside, outcome, together)
            if goes_on:
                slot.ticket = lane.renew(now)
            elif outcome is None:
                lane.give_up(ticket)
            else:
                lane.release()
        return await self._follow(outcome, works, together, slot, stands=stands)

    async def _exchange(
        self, works: list[Work], slot: "Slot", ticket: Ticket
    ) -> "tuple[Parts | Problem, partial[Problem]]":
        """The outcome, and what names the request's path in a problem.

        Raises:
            SteppedOutError: nothing may leave any more.
        """
        attempts, lane = self.attempts, slot.lane
        if attempts.shutdown.drains or ticket.stops != lane.stops:
            raise SteppedOutError
        clock, items = attempts.ports.clock, [work.item for work in works]
        request = self.dialect.encode_all(items)
        decoder = self.dialect.decoder_of_all(items)
        for place, work in enumerate(works):
            work.rides = place > 0
            if work.began is None:
                work.began, work.began_wall = clock.monotonic(), clock.wall()
        gate = AllWritten([attempts.recorder.intent(work, lane) for work in works])
        outcome: Parts | Problem
        try:
            outcome = await attempts.gated.exchange(request, decoder, account=lane.account, gate=gate)
            if not gate.decided:  # the connection was lost before: what follows is written after it
                await gate.opened()
        except SteppedOutError:
            raise  # its gate stayed closed
        except Exception as error:  # noqa: BLE001 - the request has left: its slot, its tokens and its price count
            outcome = await attempts.internal_faults.problem(works[0], error)
        return outcome, partial(naming_path, request)

    # -- before it

    async def _without_those_that_are_through(self, together: "_Together", slot: "Slot") -> None:
        """Items of a model that is refused, or with no attempt left, fail without being sent."""
        attempts = self.attempts
        for work in list(together.left):
            charged = attempts.recorder.state.attempts(work.key, number=work.number)
            if slot.queue.rejected is not None or charged >= attempts.job.retry.attempts:
                problem = slot.queue.rejected or used_up(charged)
                await attempts.conclude(work, slot, GivenUp(problem=problem, charged=charged, ambiguous=False))
                self._gone(work, together, slot)

    async def _admitted(
        self, together: "_Together", slot: "Slot", ticket: Ticket, set_aside: list[tuple[Work, Amounts]]
    ) -> int:
        """Room in the budget and tokens a minute; those for which there is no room now go back to the queue.

        Raises:
            SteppedOutError: nothing may leave any more. No tokens were taken.
        """
        attempts, lane = self.attempts, slot.lane
        guard = attempts.budget_guard
        if guard.counts:
            first, *others = together.left
            amounts = guard.reserve_now(first.item) or await guard.reserve(first.item)
            if amounts is None:
                raise SteppedOutError
            set_aside.append((first, amounts))
            for place, work in enumerate(others):
                amounts = guard.reserve_now(work.item, rides=True)
                if amounts is None:  # to wait for it would be to wait for those that wait here
                    for left_out in others[place:]:
                        slot.queue.requeue(left_out)
                        self._gone(left_out, together, slot)
                    break
                set_aside.append((work, amounts))
        if not lane.counts_tokens:
            return 0
        tokens = sum(estimate_tokens(len(work.item.prompt)) for work in together.left)
        await guard.may_spend(lane, ticket, tokens)
        return tokens

    def _settle(
        self, set_aside: Iterable[tuple[Work, Amounts]], outcome: Parts | Problem | None, together: "_Together"
    ) -> None:
        split = isinstance(outcome, Problem) and self._is_split(outcome, together)
        for place, (work, amounts) in enumerate(set_aside):
            own = outcome[place] if isinstance(outcome, tuple) else None if split else outcome
            self.attempts.budget_guard.commit(work.item, amounts, own)

    # -- after it

    async def _take(
        self, parts: Parts, works: list[Work], together: "_Together", slot: "Slot", *, tokens: int, now: float
    ) -> bool:
        """Record the answers of a reply; True where the lane waits for what the others came to."""
        attempts, lane, queue = self.attempts, slot.lane, slot.queue
        answers = [(work, part) for work, part in zip(works, parts, strict=True) if isinstance(part, Answer)]
        together.troubles = {
            work.key: part for work, part in zip(works, parts, strict=True) if isinstance(part, Problem)
        }
        hints = next((part.hints for part in parts if part.hints is not None), None)
        announced = attempts.lane_policy.on_rate_headers(lane, queue, hints) if hints is not None else ()
        used = sum(part.usage.input_tokens or 0 for part in parts if part.usage is not None)
        if lane.counts_tokens and used:
            lane.take_tokens(used - tokens)
        careful = bool(announced) or lane.probing
        if answers and len(works) > self.answered.get(queue.model, 0):
            self.answered[queue.model] = len(works)
        if answers and not careful:
            queue.model_works()
            attempts.lane_policy.answered = True
            lane.record_success()
        for place, (work, answer) in enumerate(answers):
            if careful:
                with attempts.ports.hold(size_of(answer)):
                    parked = announced if place == len(answers) - 1 else ()
                    await uncancellable(attempts.outcome_handler.keep(work, lane, queue, answer, parked))
                self._gone(work, together, slot)
            else:
                attempts.keep_in_line(work, slot, answer, now)
                together.left.remove(work)
        if answers or not together.troubles:
            return False
        return await attempts.lane_policy.on_problem(lane, queue, next(iter(together.troubles.values())))

    async def _follow(
        self, outcome: Parts | Problem, works: list[Work], together: "_Together", slot: "Slot", *, stands: bool
    ) -> Verdict:
        """What becomes of those that got no answer: `Again` for all that are tried once more."""
        if isinstance(outcome, Problem) and self._is_split(outcome, together):
            await _all(self.attempts.recorder.refused(work, outcome) for work in together.left)
            slot.queue.carry(min(slot.queue.together, len(works) // 2))
            for work in reversed(together.left.copy()):  # next again: the one to blame is soon alone
                slot.queue.requeue(work, first=True)
                self._gone(work, together, slot)
            return Finished()
        if isinstance(outcome, Problem):
            if len(works) == 1 and self._may_be_one_text(outcome):
                slot.queue.carry(self.answered.get(slot.queue.model, self.most))
            together.troubles = {work.key: outcome for work in works}
        await _all(self._after_trouble(work, together, slot, stands=stands) for work in list(together.left))
        if not together.left:
            return Finished()
        first = together.left[0]
        together.stand_in.kinds = first.kinds
        return Again(problem=together.troubles[first.key], charged=0)  # each of them counts its own

    async def _after_trouble(self, work: Work, together: "_Together", slot: "Slot", *, stands: bool) -> None:
        attempts, problem = self.attempts, together.troubles[work.key]
        verdict = await attempts.outcome_handler.after_problem(work, slot.lane, slot.queue, problem, parked=stands)
        if not isinstance(verdict, Again):
            await attempts.conclude(work, slot, verdict)
            self._gone(work, together, slot)

    def _gone(self, work: Work, together: "_Together", slot: "Slot") -> None:
        """It has its end, or is in the queue again."""
        together.left.remove(work)
        work.rides = False
        self.attempts.leave(work, slot.lane, slot.queue)

    @classmethod
    def _is_split(cls, problem: Problem, together: "_Together") -> bool:
        """Whether it may be about one text alone or about their number, and nobody was answered."""
        return len(together.left) > 1 and cls._may_be_one_text(problem)

    @staticmethod
    def _may_be_one_text(problem: Problem) -> bool:
        return problem.status in _CLIENT_ERRORS and POLICY[problem.kind].then in _MAY_BE_ONE_TEXT


@dataclass(slots=True, kw_only=True)
class _Together:
    """Items that go from send to send together."""

    left: list[Work]
    """Those that have no end yet and are not in the queue."""
    stand_in: Work
    """What waits are counted by."""
    troubles: dict[bytes, Problem] = field(default_factory=dict)
    """What the last send came to for each of them, by key."""


def shared_requests(attempts: "Attempts", most: int) -> SharedRequests | None:
    """None where the job's dialect has no such requests. `most`: items of one."""
    dialect = attempts.ports.dialect
    return SharedRequests(attempts=attempts, dialect=dialect, most=most) if isinstance(dialect, SharedDialect) else None


def _lesson(outcome: Parts | Problem) -> Answer | Problem:
    """What the request teaches the lane: an answer, if there was one."""
    if isinstance(outcome, Problem):
        return outcome
    return next((part for part in outcome if isinstance(part, Answer)), outcome[0])


async def _all(steps: Iterable[Awaitable[None]]) -> None:
    """All of them, side by side, so that their records share a write; then the first error, if there was one."""
    for ended in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended
