"""A source that changes while the run is at work: what is paid for is recorded, nothing more leaves, exit 3 says why.

Also a step that no item may take: one item's trouble ends nothing that is under way.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.item import Item
from batchrunner.core.job import Job
from batchrunner.core.upstream import RunRows
from batchrunner.engine.work_queue import Work, WorkQueue
from tests.support.engine import Latency, RunHarness, World, chat
from tests.support.slow_source import SlowItems

MANY = tuple(f"question {number}" for number in range(100))
JOB = chat(*MANY, more="limits: {concurrency: 40}")


class Changing(SlowItems):
    """Sound when it is surveyed; `change` turns what the lanes get."""

    def __init__(
        self, job: Job, change: Callable[[AsyncGenerator[Sequence[Item]]], AsyncGenerator[Sequence[Item]]]
    ) -> None:
        super().__init__(job, lambda _: 0.001)
        self._change = change

    def batches(self, models: frozenset[str] | None = None) -> AsyncGenerator[Sequence[Item]]:
        items = super().batches(models)
        return items if models is None else self._change(items)


async def unreadable(items: AsyncGenerator[Sequence[Item]]) -> AsyncGenerator[Sequence[Item]]:
    async for batch in items:
        if batch[-1].index > 60:
            raise JobMistakesError((Mistake(problem="rows.csv cannot be read: Input/output error"),))
        yield batch


async def shorter(items: AsyncGenerator[Sequence[Item]]) -> AsyncGenerator[Sequence[Item]]:
    async for batch in items:
        if batch[-1].index <= 60:
            yield batch


async def longer(items: AsyncGenerator[Sequence[Item]]) -> AsyncGenerator[Sequence[Item]]:
    last: Sequence[Item] = ()
    async for batch in items:
        yield batch
        last = batch
    assert last
    yield last


class Harness100(RunHarness):
    change: Callable[[AsyncGenerator[Sequence[Item]]], AsyncGenerator[Sequence[Item]]]

    def _items_of(self, job: Job, upstream: RunRows | None = None) -> SlowItems:
        assert upstream is None
        self.source = Changing(job, self.change)
        return self.source


@pytest.mark.parametrize(
    ("change", "done", "words"),
    [(unreadable, 60, "Input/output error"), (shorter, 60, "60 prompts"), (longer, 100, "more than 100 prompts")],
)
def test_a_source_that_changes_while_it_runs_ends_the_run_with_what_was_under_way_recorded(
    tmp_path: Path,
    change: Callable[[AsyncGenerator[Sequence[Item]]], AsyncGenerator[Sequence[Item]]],
    done: int,
    words: str,
) -> None:
    harness = Harness100(tmp_path, World(latency=Latency(first_byte_s=30.0)))
    harness.change = change
    report = harness.run(JOB)
    assert report.exit_status is ExitStatus.PAUSED
    assert words in (report.status.message or "")
    assert harness.stats.paid == len(harness.rows()) == report.status.items.done
    assert 0 < report.status.items.done <= done
    assert report.status.sends.possible_duplicates == 0
    again = RunHarness(tmp_path, harness.world, began=harness.began)
    assert again.run(JOB).exit_status is ExitStatus.DONE
    assert (again.stats.paid, len(again.rows())) == (100, 100)


def test_a_step_that_no_item_may_take_pauses_the_run_and_loses_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 23, should the queue ever be wrong: an item is handed out a second time while it is being sent."""
    twice: list[Work] = []
    take = WorkQueue.take

    def wrong(queue: WorkQueue) -> Work | None:
        work = take(queue)
        if work is not None and work.item.index == 5:
            twice.append(work)
            queue._ahead.append(Work(item=work.item, key=work.key))
        return work

    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=30.0)))
    monkeypatch.setattr(WorkQueue, "take", wrong)
    report = harness.run(JOB)
    assert report.exit_status is ExitStatus.PAUSED
    assert "internal error: `intent` of item" in (report.status.message or "")
    assert harness.stats.paid == len(harness.rows()) == report.status.items.done > 5
    assert harness.stats.paid_twice == 0
    assert "LifecycleError" in (harness.out / "errors.log").read_text("utf-8")
    monkeypatch.setattr(WorkQueue, "take", take)
    assert harness.run(JOB).exit_status is ExitStatus.DONE
    assert (harness.stats.paid, len(harness.rows())) == (100, 100)
