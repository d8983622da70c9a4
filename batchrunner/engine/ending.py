"""How a run ended, when nothing was raised: its exit status and the reason, from what is left and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import ItemCounts
from batchrunner.engine.lanes import Lane
from batchrunner.engine.shutdown import Shutdown
from batchrunner.engine.work_queue import WorkQueue

_LEFT: Final = {
    "held": "held for a person to decide",
    "timed_out": "late at the server",
    "download_failed": "with pictures that could not be fetched",
}
_MOST_REASONS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is left at the end of a run."""

    shutdown: Shutdown
    lanes: tuple[Lane, ...]
    queues: Iterable[WorkQueue]
    items: ItemCounts
    left_open: bool
    """Items were left unfinished: held, late at the server, or waiting for a key that is not there."""
    spent: str | None
    """Why the budget lets nothing more through."""
    unasked: tuple[str, ...] = ()
    """Accepted tasks that this run could not ask for, and why."""
    last_words: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(why, what the server said last) -> items that are left unfinished so."""

    def exit_status(self) -> ExitStatus:
        """What is beyond `--limit` does not count as left."""
        if self.shutdown.requests:
            interrupted = self.shutdown.signal_number in {None, ExitStatus.INTERRUPTED - 128}
            return ExitStatus.INTERRUPTED if interrupted else ExitStatus.TERMINATED
        undrained = any(not queue.drained for queue in self.queues)
        if undrained and any(lane.closed is not None and lane.closed.refused_account for lane in self.lanes):
            return ExitStatus.REFUSED
        if undrained and any(lane.closed is not None and lane.closed.mistake for lane in self.lanes):
            return ExitStatus.MISTAKE
        items = self.items
        if self.shutdown.paused is not None and not items.pending and not items.accepted:
            undrained = False  # the sources were not read to their end, but nothing in the rest of them is to be sent
        if undrained or self.left_open or items.held or items.timed_out:
            return ExitStatus.PAUSED
        if items.lost:
            return ExitStatus.STOPPED
        return ExitStatus.FAILED if items.failed else ExitStatus.DONE

    def message(self) -> str | None:
        """The job's own wish, or the words of whoever refused; None when nothing stopped it."""
        if self.exit_status() is ExitStatus.PAUSED and (wish := self.shutdown.paused or self.spent):
            return "; ".join([wish, *self._nothing_came_through()])
        if self.exit_status() is ExitStatus.STOPPED:
            return lost_words(self.items.lost)
        reasons = [lane.closed.reason for lane in self.lanes if lane.closed is not None][:1]
        left = [
            f"{count:,} {_LEFT[why]}; the last word: {words}"
            for (why, words), count in sorted(self.last_words.items(), key=lambda entry: -entry[1])
            if why in _LEFT
        ]
        told = [*reasons, *self.unasked, *left] or self._nothing_came_through()
        return "; ".join(told[:_MOST_REASONS]) or None

    def _nothing_came_through(self) -> list[str]:
        """The last trouble, where a run that was ended from outside had met nothing else."""
        if any(queue.answers for queue in self.queues):
            return []
        problems = dict.fromkeys(lane.last_problem for lane in self.lanes if lane.last_problem and not lane.open_tasks)
        return [f"nothing has come through: {problem}" for problem in problems][:1]


def lost_words(lost: int) -> str:
    """What it means that so many done items have no row or picture, and what to do."""
    subject = (
        "the row or a picture of 1 finished item is"
        if lost == 1
        else f"rows or pictures of {lost:,} finished items are"
    )
    return f"{subject} gone from the directory; put back what was removed, or pay again with --resend-lost"
