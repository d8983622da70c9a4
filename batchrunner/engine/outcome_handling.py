"""What follows from a send that was not an ordinary answer: the careful path, where `attempt` stops.

Answers with pictures, sounds or a file of their own, answers that end a park, accepted tasks, pictures, and every
problem. Here is waited for what must be: each step is a record that the next one relies on.
"""

import sys
from typing import TYPE_CHECKING, Final

from batchrunner.core.error_policy import POLICY, Then, is_ambiguous, is_held, may_try_again
from batchrunner.core.errors import RowSetAsideError, StoreBrokenError
from batchrunner.core.job import Job
from batchrunner.core.outcome import (
    Adaptation,
    Answer,
    Pictures,
    PictureUrl,
    Problem,
    ProblemKind,
    TaskAccepted,
    TaskAddresses,
)
from batchrunner.core.ports import Ports
from batchrunner.core.row import NO_MEDIA
from batchrunner.core.text import MASK
from batchrunner.core.values import dataclass, replace
from batchrunner.engine.fallbacks import Fallbacks
from batchrunner.engine.image_tasks import ImageTasks
from batchrunner.engine.lane_policy import LanePolicy
from batchrunner.engine.lanes import Lane
from batchrunner.engine.recorder import Recorder
from batchrunner.engine.verdict import Again, Finished, GivenUp, TaskEnded, Unchanged, Verdict, Waiting
from batchrunner.engine.work_queue import Work, WorkQueue

if TYPE_CHECKING:
    from batchrunner.core.task_table import TaskTable

NUMBER_BYTES: Final = 32
"""Of memory, with its place in the vector."""
_SINGLED_OUT: Final = 3
_FREE_HALVES: Final = 3
_REJECTED_EARLY: Final = frozenset(
    {Then.WAIT, Then.ADAPT, Then.PARK_LANE, Then.PARK_ACCOUNT, Then.STOP_ACCOUNT, Then.STOP_RUN}
)
"""Problems that say nothing about the item."""
_CHANGES_ANSWERS: Final = frozenset[Adaptation]({"json_object", "no_thinking_switch"})


@dataclass(slots=True, kw_only=True)
class OutcomeHandler:
    """One for a run."""

    job: Job
    ports: Ports
    recorder: Recorder
    lane_policy: LanePolicy
    image_tasks: ImageTasks
    fallbacks: Fallbacks | None = None
    """Of jobs that ask their models one after another."""

    # -- what came

    async def keep(
        self, work: Work, lane: Lane, queue: WorkQueue, answer: Answer, announced: tuple[Lane, ...]
    ) -> Verdict:
        """Record a paid answer. If a step fails, the answer is reported rather than lost."""
        try:
            await self._succeeded(lane, queue)
            path = await self._own_file(work, answer.text)
            has_media = answer.pictures or answer.sounds
            media = await self.image_tasks.saver.keep_answer(work, answer) if has_media else NO_MEDIA
            await self.recorder.answered(work, answer, path=path, media=media)
        except RowSetAsideError:
            raise
        except Exception:
            self.recorder.last_resort(f"{work.item.id}: {answer.text}")
            raise
        for parked in announced:
            await self.lane_policy.record_park(parked)
        return Finished()

    async def _own_file(self, work: Work, text: str) -> str | None:
        """The path of `output.each`; None also where the disk refuses the file: the text is in its row all the same."""
        if self.ports.each is None:
            return None
        try:
            return await self.ports.each.save(work.item, text)
        except StoreBrokenError as error:
            self.image_tasks.shutdown.disk_refused(error)
            return None

    async def fetch(
        self, work: Work, lane: Lane, queue: WorkQueue, outcome: TaskAccepted | Pictures, announced: tuple[Lane, ...]
    ) -> Verdict:
        """An accepted task, or pictures, to their end; the lane counts it as an open task."""
        try:
            found: Verdict | TaskEnded | None = None
            if isinstance(outcome, Pictures):
                found = await self.image_tasks.keep_at_once(work, lane, outcome)
                await self._succeeded(lane, queue)
            elif (known := _without_masked(outcome, self.job.provider.task)) is None:
                return await self._hold_masked(work, queue, outcome)
            else:
                await self.recorder.accepted(work, lane, known)
                await self._taken(lane, queue)
            for parked in announced:
                await self.lane_policy.record_park(parked)
            if found is None:
                there = outcome if isinstance(outcome, Pictures) else None
                found = await self.image_tasks.follow(
                    work, self.recorder.state.tasks[work.key], resumed=False, found=there
                )
            return await self.after_task(work, lane, queue, found)
        except StoreBrokenError as error:
            found_later = isinstance(error, RowSetAsideError) or work.key in self.recorder.state.tasks
            if not found_later:
                self.recorder.last_resort(f"{work.item.id}: {_described(outcome)}")
            raise
        finally:
            lane.task_ended()

    async def _hold_masked(self, work: Work, queue: WorkQueue, task: TaskAccepted) -> Verdict:
        """A task whose id or address held the API key: it cannot be written down, so nobody could ask for it."""
        message = (
            f"the server accepted the request, but its task cannot be polled: its id or address holds the API key, "
            f"which is kept in no file ({task.task_id[:80]})"
        )
        problem = Problem(kind=ProblemKind.NOT_UNDERSTOOD, message=message)
        before = self.recorder.state.record(work.key).attempts
        return await self._charge(work, queue, problem, before=before, parked=False)

    async def _succeeded(self, lane: Lane, queue: WorkQueue) -> None:
        queue.model_works()
        self.lane_policy.answered = True
        if lane.record_success():
            await self.recorder.resumed(lane.account, lane.model)

    async def _taken(self, lane: Lane, queue: WorkQueue) -> None:
        """A task was accepted: requests get through; whether the task succeeds is known when it ends."""
        queue.task_taken()
        self.lane_policy.answered = True
        if lane.task_taken():
            await self.recorder.resumed(lane.account, lane.model)

    async def after_task(self, work: Work, lane: Lane, queue: WorkQueue, found: Verdict | TaskEnded) -> Verdict:
        """What follows from the end of a task; one that gave nothing is judged like a submit that is refused so."""
        if isinstance(found, Finished):
            await self._succeeded(lane, queue)
        if not isinstance(found, TaskEnded):
            return found
        problem = found.problem
        stands = await self.lane_policy.on_problem(lane, queue, problem)
        work.tried(problem.kind)
        before = self.recorder.state.record(work.key).attempts
        if self.lane_policy.then(problem, queue) not in _REJECTED_EARLY:
            return await self._charge(work, queue, problem, before=before, parked=stands)
        await self.recorder.retry(work, problem, charged=before, ambiguous=False, wait_s=problem.wait_s)
        return Unchanged() if stands else Again(problem=problem, charged=before)

    # -- trouble

    async def after_problem(
        self, work: Work, lane: Lane, queue: WorkQueue, problem: Problem, *, parked: bool
    ) -> Verdict:
        """Obey the table of `core.error_policy`; `parked`: the lane waits because of it."""
        if work.revision.task_id and is_ambiguous(problem):
            return await self._seek(work, lane, queue, problem, parked=parked)
        work.tried(problem.kind)
        before = self.recorder.state.record(work.key).attempts
        match self.lane_policy.then(problem, queue):
            case Then.PARK_LANE | Then.PARK_ACCOUNT | Then.STOP_ACCOUNT | Then.STOP_RUN:
                await self.recorder.refused(work, problem)
                return Unchanged()
            case Then.WAIT if problem.kind is ProblemKind.NOT_REACHED:
                if queue.single_out(work) >= _SINGLED_OUT:
                    return GivenUp(problem=problem, charged=before + 1, ambiguous=False)
                await self.recorder.refused(work, problem)
                return Unchanged(last=True)
            case Then.WAIT if problem.under_way:
                return await self._charge(work, queue, problem, before=before, parked=parked)
            case Then.WAIT:
                await self.recorder.refused(work, problem, wait_s=problem.wait_s)
                if self.fallbacks is not None and self.fallbacks.has_waited(work, problem):
                    return GivenUp(problem=problem, charged=before, ambiguous=False)
                return Unchanged() if parked else Again(problem=problem, charged=before)
            case Then.ADAPT:
                await self.recorder.refused(work, problem)
                return self._adapt(work, problem, charged=before)
            case Then.RETRY | Then.HOLD | Then.FAIL | Then.FAIL_MODEL:
                return await self._charge(work, queue, problem, before=before, parked=parked)

    async def _seek(self, work: Work, lane: Lane, queue: WorkQueue, problem: Problem, *, parked: bool) -> Verdict:
        """A send without a clear answer, of a task whose id is known: it is asked for, and is never in doubt."""
        before = self.recorder.state.record(work.key).attempts
        task = TaskAccepted(task_id=work.revision.task_id, sought=True)
        lane.task_opened()
        try:
            await self.recorder.accepted(work, lane, task)
            found = await self.image_tasks.follow(work, self.recorder.state.tasks[work.key], resumed=False)
            if not isinstance(found, TaskEnded) or found.problem.kind is not ProblemKind.TASK_NOT_TAKEN:
                return await self.after_task(work, lane, queue, found)
        finally:
            lane.task_ended()
        work.tried(problem.kind)
        return await self._charge(work, queue, problem, before=before, parked=parked, done_nothing=True)

    async def _charge(
        self,
        work: Work,
        queue: WorkQueue,
        problem: Problem,
        *,
        before: int,
        parked: bool,
        done_nothing: bool = False,
    ) -> Verdict:
        """`done_nothing`: it is certain that the server did not do the work."""
        rule, ambiguous = POLICY[problem.kind], is_ambiguous(problem) and not done_nothing
        charged = before + 1
        # A refusal in the middle of an answer costs no try, but the half that came may be paid for: not without end.
        free = rule.then is Then.WAIT and work.kinds[problem.kind] <= _FREE_HALVES
        if free or (parked and rule.then is Then.RETRY):
            # the lane waits because of this very problem: it is the server's, not the item's, and costs no attempt
            wait_s = None if parked else problem.wait_s
            await self.recorder.retry(work, problem, charged=before, ambiguous=ambiguous, wait_s=wait_s)
            if ambiguous and is_held(problem, self.job):
                return Waiting(why="held")
            return Unchanged() if parked else Again(problem=problem, charged=before)
        if rule.then is Then.HOLD and ambiguous:
            await self.recorder.retry(work, problem, charged=charged, ambiguous=True, held=True)
            return Waiting(why="held", message=problem.message)
        if rule.then is Then.FAIL_MODEL:
            queue.model_rejected(work, problem)
        if not may_try_again(problem, charged=charged, same_kind=work.kinds[problem.kind], retry=self.job.retry):
            return GivenUp(problem=problem, charged=charged, ambiguous=ambiguous)
        await self.recorder.retry(work, problem, charged=charged, ambiguous=ambiguous, wait_s=problem.wait_s)
        if ambiguous and is_held(problem, self.job):
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


def _without_masked(task: TaskAccepted, table: "TaskTable | None") -> TaskAccepted | None:
    """The task without addresses that held the API key; None if it cannot be asked for without what held it."""
    poll, result = task.addresses
    if MASK not in f"{task.task_id} {poll} {result}":
        return task
    if MASK in task.task_id or table is None:
        return None
    if (MASK in poll and table.poll.path is None) or (MASK in result and table.result.path is None):
        return None
    clean = TaskAddresses("" if MASK in poll else poll, "" if MASK in result else result)
    return replace(task, addresses=clean)


def _described(outcome: TaskAccepted | Pictures) -> str:
    """What a person may still fetch of an order that no file remembers."""
    if isinstance(outcome, TaskAccepted):
        return f"the server accepted the remote task {outcome.task_id}"
    urls = [ref.url for ref in outcome.refs if isinstance(ref, PictureUrl)]
    lost = len(outcome.refs) - len(urls)
    return " ".join(["pictures at", *urls] if urls else []) or f"pictures in the reply: {lost}"


def size_of(answer: Answer) -> int:
    """Bytes of memory that an answer takes, about."""
    size_bytes = sys.getsizeof(answer.text) + sys.getsizeof(answer.reasoning) + NUMBER_BYTES * len(answer.embedding)
    for found in (*answer.pictures, *answer.sounds):
        size_bytes += 0 if isinstance(found, PictureUrl) else len(found.data)
    return size_bytes


def with_adaptation_flags(answer: Answer, work: Work) -> Answer:
    """With what was asked otherwise than the job says, where that may have changed the answer."""
    adapted = work.revision.adapted & _CHANGES_ANSWERS
    return replace(answer, flags=(*answer.flags, *sorted(adapted))) if adapted else answer
