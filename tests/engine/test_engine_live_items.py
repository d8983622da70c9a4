"""One live work item for a key, whatever comes back and however slowly the source is read; nobody waits for ever."""

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_house import House, World, chat, image

from batchrunner.core.errors import ExitStatus, LifecycleError
from batchrunner.core.events import Accepted, Intent, Requeued
from batchrunner.core.state import LedgerState, Standing
from batchrunner.simulator.scenarios import parse_scenarios
from batchrunner.simulator.script import Call, Script


class Timetable(World):
    """A provider that behaves by the hour: `scenario_at(seconds since the first call)`."""

    def __init__(self, scenario_at: Callable[[float], str], **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the world's own settings
        self._scenario_at = scenario_at
        self._first_at: float | None = None

    def answer(self, call: Call, now: float) -> Script:
        self._first_at = now if self._first_at is None else self._first_at
        self._scenario = parse_scenarios(self._scenario_at(now - self._first_at))
        return super().answer(call, now)


def failing_tasks_then(refusal: str, *, until_s: float = 5000.0) -> Timetable:
    """Tasks that take a quarter of an hour and fail; an hour later, refusals for a while."""
    return Timetable(lambda s: "img-slow:900+img-fail" if s < 900 else refusal if s < until_s else "ok")


def with_tasks_left_behind(tmp_path: Path, world: World, job: str) -> House:
    """An hour after a run that did not wait for its tasks."""
    house = House(tmp_path, world, item_s=lambda _: 30.0)
    assert house.run(job).exit_status is ExitStatus.PAUSED
    house.began += 3600.0
    return house


IMPATIENT = "timeouts: {task_s: 30}\nlimits: {concurrency: 2}\n"
REFUSALS = ["quota-model:0", "throttle", "retry-after:4000", "5xx:2"]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_task_that_failed_and_was_refused_is_sent_once_however_slow_the_source(tmp_path: Path, refusal: str) -> None:
    """Invariant 23. Two tasks of an earlier run fail; their next sends are refused, and the source is still read."""
    job = image("one", "two", more=IMPATIENT + "breaker: 1")
    house = with_tasks_left_behind(tmp_path, failing_tasks_then(refusal), job)
    assert house.run(job).exit_status is ExitStatus.DONE
    assert house.stats.tasks == 4
    assert house.stats.paid_twice == 0
    assert len(house.rows()) == 2


@pytest.mark.parametrize("refusal", REFUSALS)
def test_identical_items_that_were_refused_are_sent_once(tmp_path: Path, refusal: str) -> None:
    """Invariant 23. The first of three identical items is returned and waits; the source comes to the others."""
    world = Timetable(lambda s: refusal if s < 5000 else "ok")
    house = House(tmp_path, world, item_s=lambda _: 30.0)
    report = house.run(chat("same", "same", "other", "same", more="breaker: 1\nlimits: {concurrency: 2}"))
    assert report.exit_status is ExitStatus.DONE
    assert house.stats.paid == 2
    assert len(house.rows()) == 4


def test_a_task_beyond_the_limit_that_failed_is_not_sent_again(tmp_path: Path) -> None:
    job = image("one", "two", more=IMPATIENT)
    house = with_tasks_left_behind(tmp_path, failing_tasks_then("ok"), job)
    report = house.run(job, limit=1)
    assert report.exit_status is ExitStatus.DONE
    assert (report.status.items.done, report.status.items.pending) == (1, 1)
    assert house.stats.tasks == 3


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
            with pytest.raises(LifecycleError, match="the item x, which is sending"):
                state.apply(event, at=0.0)
        else:
            state.apply(event, at=0.0)
    assert state.standing(bytes(16)) is Standing.SENDING
    assert state.sends == (1 if live else 2)


def test_an_intent_of_an_accepted_item_raises() -> None:
    state = live_state()
    state.apply(intent(1), at=0.0)
    state.apply(Accepted(i="x", k="0" * 32, n=1, a=0, task="t", model="m", account=""), at=0.0)
    with pytest.raises(LifecycleError, match="accepted"):
        state.check(intent(2))
