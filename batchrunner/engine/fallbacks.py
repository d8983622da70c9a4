"""Models that are asked one after another: when a prompt goes to the next one, and how its item gets there.

An item that ends for one of the reasons of `models.on` is recorded as `replaced`; its prompt's item of the next model
goes into that model's queue. Where a model stands still for long, those that wait for it go the same way, as far as the
next model can take them, so that what it cannot take is there when the first one answers again.
"""

from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Final

from batchrunner.core.error_policy import POLICY, policy_named
from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.fallback import Fallback, FallbackReason
from batchrunner.core.item import Item
from batchrunner.core.lifecycle import IN_JOB, ITEM_STATE, ITEM_STATES, KNOWN
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.values import dataclass, field
from batchrunner.engine.lanes import Lane
from batchrunner.engine.reuse import take_in_turn
from batchrunner.engine.shutdown import SteppedOutError
from batchrunner.engine.work_queue import Work, WorkQueue

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner

_OF_LANES: Final[frozenset[FallbackReason]] = frozenset({"overloaded", "quota"})
"""Reasons for which a lane stands still; the others are an item's."""
_LOOKS: Final = 20
_MOST_BETWEEN_LOOKS_S: Final = 3.0


@dataclass(slots=True, kw_only=True)
class Fallbacks:
    """One for a run."""

    runner: "Runner"
    policy: Fallback
    moved: dict[bytes, bytes] = field(default_factory=dict)
    """In runs on a part of the job: the items of the part that were replaced -> the items in their place."""

    arrived: set[bytes] = field(default_factory=set)
    """The items in their place."""

    _spent: dict[Lane, float] = field(default_factory=dict)
    """Lanes whose `limits.requests_per_day` is reached, and the wall clock since when."""

    def __post_init__(self) -> None:
        models = self.runner.job.models
        for model in models[:-1]:
            self.runner.queues[model].feeds = True
            for lane in self.runner.lanes.of_model(model) if "quota" in self.policy.on else ():
                lane.lets_go_when_spent = True
        for model in models[1:]:
            self.runner.queues[model].is_fed = True

    # -- one item

    def answers(self, work: Work, problem: Problem) -> bool:
        """Whether the next model is asked when the item ends like this."""
        return work.item.then is not None and POLICY[problem.kind].fallback in self.policy.on

    def has_waited(self, work: Work, problem: Problem) -> bool:
        """Whether the item was turned away like this for so long that the next model is asked."""
        if not self.answers(work, problem) or work.began is None:
            return False
        return self.runner.ports.clock.monotonic() - work.began >= self.policy.after_s

    async def replace(self, work: Work, problem: Problem, charged: int, *, ambiguous: bool) -> None:
        """Record the end of the item, and hand its prompt over to the next model."""
        then = work.item.then
        assert then is not None, "see `answers`"
        await self.runner.recorder.replaced(work, problem, then, charged=charged, ambiguous=ambiguous)
        key = self._hand_over(work, then)
        if await take_in_turn(self.runner, then, key):
            self._count_asked(then.model, -1)
        elif number := self.runner.wanted(key):
            self.runner.queues[then.model].bring(Work(item=then, key=key, number=number))

    def _count_asked(self, model: str, more: int) -> None:
        """So many more items are the model's to answer in this run than were."""
        unasked = self.runner.found.unasked
        unasked[model] = unasked.get(model, 0) - more
        self.runner.requeued[model] += more

    def _hand_over(self, work: Work, then: Item) -> bytes:
        """The key of the other item, whose turn it is now."""
        runner, key = self.runner, bytes.fromhex(then.key)
        word = runner.state.table.claim(key)
        self._count_asked(work.item.model, -1)
        self._count_asked(then.model, 1)
        if (alike := runner.found.shared.pop(work.key, 0)) > 0:
            runner.found.shared[key] = alike
            runner.totals.shared.pop(work.item.key, None)
            runner.totals.shared[then.key] = alike
        if word & KNOWN and not word & IN_JOB:  # an earlier version of the job had it
            name, vanished = ITEM_STATES[word & ITEM_STATE].name, runner.totals.vanished
            vanished[name] = vanished.get(name, 0) - 1
            runner.vanished_items_ended = True
        if runner.part_keys is not None:
            self.moved[work.key] = key
            self.arrived.add(key)
        return key

    # -- models that stand still

    def watches(self) -> Iterator[Coroutine[None, None, None]]:
        """What looks after the models, beside the lanes."""
        if _OF_LANES & {*self.policy.on}:
            for model, then in zip(self.runner.job.models, self.runner.job.models[1:], strict=False):
                yield self._watch(self.runner.queues[model], self.runner.queues[then])

    async def _watch(self, queue: WorkQueue, target: WorkQueue) -> None:
        runner = self.runner
        try:
            while not queue.drained:
                await self._divert(queue, target)
                await runner.shutdown.sleep(min(_MOST_BETWEEN_LOOKS_S, max(1.0, self.policy.after_s / _LOOKS)))
        except SteppedOutError:
            return
        except StoreBrokenError as error:
            runner.shutdown.disk_refused(error)
        except Exception as error:  # noqa: BLE001 - it is awaited at the end only, and answers are in flight
            line = await runner.ports.note_fault("asking the next model", error)
            runner.shutdown.pause(
                f"internal error while asking the next model; please report it with errors.log: {line}"
            )
            runner.lanes.drain()

    async def _divert(self, queue: WorkQueue, target: WorkQueue) -> None:
        """Hand over what waits for a model that stands still, as there is room for it."""

        def is_over() -> bool:
            return self._stands_still(queue.model) is None or not self._can_send(target.model)

        while not is_over():
            if not await queue.ready(stopped=is_over):
                return
            await target.wait_for_space(unless=is_over)
            problem = self._stands_still(queue.model)
            if problem is None or is_over() or (work := queue.take()) is None:
                return
            try:
                charged = self.runner.recorder.state.attempts(work.key)
                await self.replace(work, problem, charged, ambiguous=False)
            finally:
                queue.release(work)
                self.runner.close_when_drained(queue)

    def _stands_still(self, model: str) -> Problem | None:
        """Why nothing has been sent to the model for long, and nothing will be now; None where something may be."""
        found = None
        for lane in self.runner.lanes.of_model(model):
            if lane.paused or self.runner.shutdown.drains:
                return None
            problem = self._stop_of(lane)
            policy = POLICY[problem.kind] if problem is not None else None
            is_reason = policy is not None and policy.fallback in _OF_LANES & {*self.policy.on}
            if lane.closed is None and not (is_reason and self._has_stood(lane)):
                return None
            found = problem if is_reason else found
        return found

    def _stop_of(self, lane: Lane) -> Problem | None:
        """Why the lane sends nothing, where that is a class of problem."""
        stop = lane.closed or lane.park
        if stop is not None and policy_named(stop.kind) is not None:
            return Problem(kind=ProblemKind(stop.kind), message=stop.reason)
        if stop is None and lane.day_is_spent:
            return Problem(kind=ProblemKind.QUOTA_MODEL, message="limits.requests_per_day reached")
        self._spent.pop(lane, None)
        return None

    def _has_stood(self, lane: Lane) -> bool:
        wall = self.runner.ports.clock.wall()
        since = lane.parked_since if lane.park is not None else self._spent.setdefault(lane, wall)
        return since is not None and wall - since >= self.policy.after_s

    def _can_send(self, model: str) -> bool:
        lanes = self.runner.lanes.of_model(model)
        return any(not (lane.has_stopped() or lane.stands_still or lane.day_is_spent) for lane in lanes)

    # -- the end

    async def last_came(self, queue: WorkQueue) -> None:
        """Return when no item of another model can come to this one any more."""
        models = self.runner.job.models
        before = self.runner.queues[models[models.index(queue.model) - 1]]
        await before.until(lambda: not self._may_bring(before, queue))

    def _may_bring(self, queue: WorkQueue, target: WorkQueue) -> bool:
        if queue.drained:
            return False
        if not all(lane.has_stopped() for lane in self.runner.lanes.of_model(queue.model)):
            return True
        is_open = not all(lane.has_stopped() for lane in self.runner.lanes.of_model(target.model))
        return queue.is_active or (is_open and self._stands_still(queue.model) is not None)
