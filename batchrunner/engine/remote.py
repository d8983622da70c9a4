"""An item whose pictures come from elsewhere: its accepted task is followed to its own end, its pictures are kept.

A picture that was paid for is not given up: what cannot be fetched, or is no picture, leaves the task accepted with
its URLs in the ledger. The next run fetches it again; nothing here submits anything. Only a file that is gone when a
provider may have swept it away has expired with its task.
"""

import random
from dataclasses import dataclass
from typing import Final

from batchrunner.core.job import Job
from batchrunner.core.outcome import PictureBytes, Pictures, PictureUrl, Problem, ProblemKind
from batchrunner.core.pacing import backoff_s
from batchrunner.core.rules import RULES, is_held, may_try_again
from batchrunner.core.state import OpenTask
from batchrunner.engine.lanes import Lane
from batchrunner.engine.pictures import PictureKeeper
from batchrunner.engine.record import Book
from batchrunner.engine.shutdown import Shutdown, SteppedOutError
from batchrunner.engine.tasks import LeftOpen, TaskEnd, TaskFollower
from batchrunner.engine.verdict import Again, Finished, GivenUp, Verdict, Waiting
from batchrunner.engine.work_queue import Work

_FETCHES: Final = 4
_FETCHES_BEFORE_ASKING_AGAIN: Final = 2
_KEPT_FOR_S: Final = 86_400.0
"""No provider is known to keep results for less than a day (PROTOCOL 3.9, 6.2)."""
_GONE: Final = frozenset({404, 410})


@dataclass(slots=True, kw_only=True)
class Remote:
    """What following needs; one for a run."""

    job: Job
    book: Book
    tasks: TaskFollower | None
    keeper: PictureKeeper
    shutdown: Shutdown
    dice: random.Random

    async def follow(self, work: Work, task: OpenTask, *, resumed: bool) -> Verdict:
        """An accepted task, to its own end. The caller counts it as open in its lane."""
        missing: Problem | None = None
        try:
            for round_ in range(_FETCHES):
                asked_again = round_ >= _FETCHES_BEFORE_ASKING_AGAIN
                end = await self._end_of(
                    task, resumed=resumed, ask=not task.urls or (asked_again and bool(task.task_id))
                )
                if isinstance(end, LeftOpen):
                    return Waiting(why=end.why)
                if isinstance(end, Problem):
                    return await self._task_ended(work, end)
                missing = await self._keep(work, end, task)
                if missing is None:
                    return Finished()
                await self.shutdown.sleep(backoff_s(first_s=1.0, cap_s=30.0, tries=round_, dice=self.dice.random()))
            if missing is not None and self._has_expired(task, missing):
                expired = Problem(kind=ProblemKind.TASK_EXPIRED, message=missing.message, status=missing.status)
                return await self._task_ended(work, expired)
            return Waiting(why="download_failed")
        except SteppedOutError:
            return Waiting(why="draining")

    def _has_expired(self, task: OpenTask, missing: Problem) -> bool:
        return missing.status in _GONE and self.book.clock.wall() - task.accepted_at > _KEPT_FOR_S

    async def _end_of(self, task: OpenTask, *, resumed: bool, ask: bool) -> TaskEnd:
        if not ask:
            return Pictures(refs=tuple(PictureUrl(url=url) for url in task.urls), usage=task.usage)
        assert self.tasks is not None, "a task was accepted by a dialect that has none"
        return await self.tasks.follow(
            task.task_id, account=task.account, model=task.model, accepted_at=task.accepted_at, resumed=resumed
        )

    async def _keep(self, work: Work, pictures: Pictures, task: OpenTask) -> Problem | None:
        urls = tuple(ref.url for ref in pictures.refs if isinstance(ref, PictureUrl))
        if urls and urls != task.urls:
            await self.book.ready(work, urls, usage=pictures.usage)
        kept = await self.keeper.keep(work, pictures)
        if isinstance(kept, Problem):
            return kept
        await self.book.pictured(work, kept, usage=pictures.usage, task_id=task.task_id or None)
        return None

    async def keep_at_once(self, work: Work, lane: Lane, pictures: Pictures) -> Verdict:
        """A synchronous answer: pictures in it are kept now, URLs are remembered first, like those of a task."""
        if any(isinstance(ref, PictureUrl) for ref in pictures.refs):
            await self.book.accepted(work, lane, "")
            task = self.book.state.tasks[work.key]
            urls = tuple(ref.url for ref in pictures.refs if isinstance(ref, PictureUrl))
            await self.book.ready(work, urls, usage=pictures.usage)
            return await self.follow(work, task, resumed=False)
        with self.keeper.hold(sum(len(ref.data) for ref in pictures.refs if isinstance(ref, PictureBytes))):
            kept = await self.keeper.keep(work, pictures)
        if isinstance(kept, Problem):
            charged = self.book.state.record(work.key).attempts + 1
            return GivenUp(problem=kept, charged=charged, ambiguous=True)
        await self.book.pictured(work, kept, usage=pictures.usage, task_id=None)
        return Finished()

    async def _task_ended(self, work: Work, problem: Problem) -> Verdict:
        work.kinds[problem.kind] = work.kinds.get(problem.kind, 0) + 1
        charged = self.book.state.record(work.key).attempts + 1
        ambiguous = RULES[problem.kind].ambiguous
        if not may_try_again(problem, charged=charged, same_kind=work.kinds[problem.kind], retry=self.job.retry):
            return GivenUp(problem=problem, charged=charged, ambiguous=ambiguous)
        await self.book.retry(work, problem, charged=charged, ambiguous=ambiguous)
        return Waiting(why="held") if is_held(problem, self.job) else Again(problem=problem, charged=charged)
