"""What became of an item so far, as `attempt` and `image_tasks` pass it to each other."""

from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from batchrunner.core.errors import BatchrunnerError, LifecycleError
from batchrunner.core.http import Request
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.ports import NoteFault
from batchrunner.core.values import dataclass, replace
from batchrunner.engine.lane_policy import LanePolicy
from batchrunner.engine.lanes import Lane
from batchrunner.engine.recorder import Recorder
from batchrunner.engine.work_queue import Work, WorkQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Done and recorded."""


IN_LINE: Final = Finished()
"""The very object that says: answered, and its row is in line. The item stays live until it is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """To be tried again after a wait. `charged` is the attempts used up, this one included if it was charged."""

    problem: Problem
    charged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """Failed for good; not recorded yet."""

    problem: Problem
    charged: int
    ambiguous: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """Refused, with the lane parked: the item goes back to its queue. Recorded."""

    last: bool = False
    """It is queued after all others, so that another item is the next probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Held, or its task continues without us: nothing more in this run. `message` is what the server said last."""

    why: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded:
    """An accepted task came to an end that gave nothing; not recorded and not judged yet."""

    problem: Problem


Verdict: TypeAlias = Finished | Again | GivenUp | Unchanged | Waiting


def naming_path(request: Request, problem: Problem) -> Problem:
    """With the path that was asked for, where the job's base URL may be what is wrong."""
    if problem.look_at != "provider.base_url":
        return problem
    return replace(problem, message=f"{request.method} {urlsplit(request.url).path}: {problem.message}")


def used_up(charged: int) -> Problem:
    """Of an item that has no attempt left before it is sent."""
    return Problem(
        kind=ProblemKind.RESET,
        message=f"all {charged} attempts are used up; the process ended during the last one",
    )


# Faults of this program in one item's work: the item fails as `internal`, the traceback is kept, the others continue.
#
# The same step would fail again, so nothing is sent a second time. What the item has cost is reported as far as it is
# known: a request that had left counts as an attempt, and may have been paid for.

_ENDED: Final = frozenset({ItemState.DONE, ItemState.FAILED, ItemState.REPLACED})


@dataclass(slots=True, kw_only=True)
class InternalFaults:
    """One for a run."""

    recorder: Recorder
    lane_policy: LanePolicy
    note: NoteFault
    left_open: Callable[[str, str], None]
    pause: Callable[[str], None]
    """Ends the run: what is under way is awaited and recorded."""

    async def problem(self, work: Work, error: Exception) -> Problem:
        """The item's failure, for who records what became of its request.

        Raises:
            BatchrunnerError: the error itself, when it is one that this program raises on purpose.
        """
        if isinstance(error, BatchrunnerError):
            raise error
        line = await self.note(f"item {work.item.id} ({work.item.key})", error)
        return Problem(kind=ProblemKind.INTERNAL, message=f"internal error, see errors.log: {line}")

    async def fail(self, work: Work, lane: Lane, queue: WorkQueue, error: Exception) -> None:
        """Record the item as failed, whatever it was doing; pause the run if it is not known where the item stands.

        Raises:
            BatchrunnerError: see `problem`; or the disk refused the record.
        """
        if isinstance(error, LifecycleError):
            # The memory of this process is wrong about the item: no record of it may be written, and nothing more sent.
            await self.note(f"item {work.item.id} ({work.item.key})", error)
            self.left_open("internal", str(error))
            self.pause(str(error))
            return
        problem = await self.problem(work, error)
        record = self.recorder.state.record(work.key)
        if record.item_state in _ENDED:
            return
        task = self.recorder.state.tasks.get(work.key)
        if task is not None and (task.task_id or task.urls):
            kept = "the remote task is kept: --retry-failed polls it again without a new request"
            problem = replace(problem, message=f"{problem.message}; {kept}")
        await self.lane_policy.on_problem(lane, queue, problem)
        sent = record.item_state is not ItemState.PENDING
        try:
            await self.recorder.failed(work, problem, charged=record.attempts + sent, ambiguous=sent)
        except BatchrunnerError:
            raise
        except Exception as second:  # noqa: BLE001 - what broke the item's work may break the record of it, too
            await self.note(
                f"the failure of item {work.item.id} could not be recorded; the next run resends it", second
            )
            self.left_open("internal", problem.message)
