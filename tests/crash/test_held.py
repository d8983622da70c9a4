"""What is held is counted right, whatever became of the items since."""

from batchrunner.core.errors import ExitStatus
from batchrunner.core.part import RunRequest
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.world import World
from tests.crash.invariants import check, check_end
from tests.crash.jobs import Shape
from tests.crash.lives import CrashHouse


def house_with_sends_cut_off(shape: Shape, *, items: int) -> CrashHouse:
    house = CrashHouse(1, shape=shape, items=items, world=World(latency=Latency(first_byte_s=3.0)))
    assert house.live(dies_at_post=items) is None
    house.wake(power_was_lost=False)
    check(house)
    return house


def test_a_failed_item_is_not_held() -> None:
    """It was cut off, then failed because its one attempt was used up."""
    house = house_with_sends_cut_off(Shape(kind="chat", attempts=1), items=1)
    check_end(house, house.live())
    house.turn(hold=True)
    assert house.live() is ExitStatus.FAILED
    assert house.status is not None
    assert house.status.items.held == 0


def test_an_item_that_the_job_has_no_more_is_not_held() -> None:
    house = house_with_sends_cut_off(Shape(kind="chat", hold=True), items=3)
    assert house.live() is ExitStatus.PAUSED
    house.change(1)
    check_end(house, house.live(run_request=RunRequest(resend_held=True)))
    assert house.status is not None
    assert (house.status.items.done, house.status.items.held, house.status.items.pending) == (1, 0, 0)


def test_twins_are_held_together() -> None:
    house = house_with_sends_cut_off(Shape(kind="chat", hold=True, twins=True), items=2)
    assert house.live() is ExitStatus.PAUSED
    assert house.status is not None
    assert (house.status.items.held, house.status.items.pending) == (4, 0)
