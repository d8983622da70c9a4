"""One live work item for a key, whatever comes back and however slowly the source is read; nobody waits for ever."""

from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus, LifecycleError
from batchrunner.core.events import Accepted, Intent, Requeued
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.state import LedgerState
from tests.engine.timetable import Timetable
from tests.support.engine import RunHarness, World, chat, image


def failing_tasks_then(refusal: str, *, until_s: float = 5000.0) -> Timetable:
    """Tasks that take a quarter of an hour and fail; an hour later, refusals for a while."""
    return Timetable(lambda s: "img-slow:900+img-fail" if s < 900 else refusal if s < until_s else "ok")


def with_tasks_left_behind(
    tmp_path: Path, world: World, job: str, *, item_s: float = 30.0, limit: int | None = None
) -> RunHarness:
    """An hour after a run that did not wait for its tasks."""
    harness = RunHarness(tmp_path, world, item_s=lambda _: item_s)
    assert harness.run(job, limit=limit).exit_status is ExitStatus.PAUSED
    harness.began += 3600.0
    return harness


IMPATIENT = "timeouts: {task_s: 30}\nlimits: {concurrency: 2}\n"
REFUSALS = ["quota-model:0", "throttle", "retry-after:4000", "5xx:2"]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_task_that_failed_and_was_refused_is_sent_once_however_slow_the_source(tmp_path: Path, refusal: str) -> None:
    """Invariant 23. Two tasks of an earlier run fail; their next sends are refused, and the source is still read."""
    job = image("one", "two", more=IMPATIENT + "breaker: 1")
    harness = with_tasks_left_behind(tmp_path, failing_tasks_then(refusal), job)
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.stats.tasks == 4
    assert harness.stats.paid_twice == 0
    assert len(harness.rows()) == 2


@pytest.mark.parametrize("refusal", REFUSALS)
def test_identical_items_that_were_refused_are_sent_once(tmp_path: Path, refusal: str) -> None:
    """Invariant 23. The first of three identical items is returned and waits; the source comes to the others."""
    world = Timetable(lambda s: refusal if s < 5000 else "ok")
    harness = RunHarness(tmp_path, world, item_s=lambda _: 30.0)
    report = harness.run(chat("same", "same", "other", "same", more="breaker: 1\nlimits: {concurrency: 2}"))
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.paid == 2
    assert len(harness.rows()) == 4


def test_a_task_beyond_the_limit_that_failed_is_not_sent_again(tmp_path: Path) -> None:
    job = image("one", "two", more=IMPATIENT)
    harness = with_tasks_left_behind(tmp_path, failing_tasks_then("ok"), job)
    report = harness.run(job, limit=1)
    assert report.exit_status is ExitStatus.DONE
    assert (report.status.items.done, report.status.items.pending) == (1, 1)
    assert harness.stats.tasks == 3


# -- the lifecycle


def live_state() -> LedgerState:
    state = LedgerState()
    state.live = True
    return state


def intent(n: int) -> Intent:
    return Intent(i="x", k="0" * 32, n=n, a=0, model="m", account="")


@pytest.mark.parametrize("live", [True, False])
def test_a_live_step_that_the_lifecycle_does_not_have_raises_and_replay_forgives_it(*, live: bool) -> None:
    state = LedgerState()
    state.live = live
    state.apply(intent(1), at=0.0)
    for event in (intent(2), Requeued(i="x", k="0" * 32)):
        if live:
            with pytest.raises(LifecycleError, match="item x, which is sending"):
                state.apply(event, at=0.0)
        else:
            state.apply(event, at=0.0)
    assert state.item_state(bytes(16)) is ItemState.SENDING
    assert state.sends == (1 if live else 2)


def test_an_intent_of_an_accepted_item_raises() -> None:
    state = live_state()
    state.apply(intent(1), at=0.0)
    state.apply(Accepted(i="x", k="0" * 32, n=1, a=0, task="t", model="m", account=""), at=0.0)
    with pytest.raises(LifecycleError, match="accepted"):
        state.check(intent(2))


# -- nobody waits for ever, and nobody waits for the source with a slot in hand


def test_an_item_that_is_returned_while_the_rest_of_the_source_is_passed_over_is_sent(tmp_path: Path) -> None:
    """It is returned between a look for work and the wait for it. The source holds nothing else that is wanted."""
    job = image(*(str(number) for number in range(40)), more=IMPATIENT + "breaker: 1")
    harness = with_tasks_left_behind(tmp_path, failing_tasks_then("quota-model:0"), job, item_s=1.0, limit=1)
    report = harness.run(job, limit=1)
    assert (report.status.items.done, report.status.items.pending) == (1, 39)
    assert harness.stats.tasks == 2
