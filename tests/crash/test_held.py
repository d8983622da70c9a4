"""What is held is counted right, whatever became of the items since."""

from batchrunner.core.errors import ExitStatus
from batchrunner.core.part import RunRequest
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.world import World
from tests.crash.invariants import check, check_end
from tests.crash.jobs import Shape
from tests.crash.lives import CrashHarness


def harness_with_sends_cut_off(shape: Shape, *, items: int) -> CrashHarness:
    harness = CrashHarness(1, shape=shape, items=items, world=World(latency=Latency(first_byte_s=3.0)))
    assert harness.live(dies_at_post=items) is None
    harness.wake(power_was_lost=False)
    check(harness)
    return harness


def test_a_failed_item_is_not_held() -> None:
    """It was cut off, then failed because its one attempt was used up."""
    harness = harness_with_sends_cut_off(Shape(kind="chat", attempts=1), items=1)
    check_end(harness, harness.live())
    harness.turn(hold=True)
    assert harness.live() is ExitStatus.FAILED
    assert harness.status is not None
    assert harness.status.items.held == 0


def test_an_item_that_the_job_has_no_more_is_not_held() -> None:
    harness = harness_with_sends_cut_off(Shape(kind="chat", hold=True), items=3)
    assert harness.live() is ExitStatus.PAUSED
    harness.change(1)
    check_end(harness, harness.live(run_request=RunRequest(resend_held=True)))
    assert harness.status is not None
    assert (harness.status.items.done, harness.status.items.held, harness.status.items.pending) == (1, 0, 0)


def test_twins_are_held_together() -> None:
    harness = harness_with_sends_cut_off(Shape(kind="chat", hold=True, twins=True), items=2)
    assert harness.live() is ExitStatus.PAUSED
    assert harness.status is not None
    assert (harness.status.items.held, harness.status.items.pending) == (4, 0)
