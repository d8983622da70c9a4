"""A lane whose requests are leased: what it may send, asks for and tells."""

from batchrunner.core.coordination_messages import Granted
from batchrunner.core.job import LaneSettings, Limits
from batchrunner.engine.lanes import Lane
from batchrunner.engine.leased_pace import LeasedPace
from batchrunner.engine.work_queue import LoopClock
from tests.support.virtual_time import run_virtual


def lane(pace: LeasedPace) -> Lane:
    settings = LaneSettings(
        concurrency=8,
        adaptive=True,
        in_flight_tasks=None,
        limits=Limits(inputs_per_request=None),
        breaker=5,
        day_offset_s=0.0,
    )
    return Lane("key", "m", settings=settings, clock=LoopClock(), sent_today=0, leased=pace)


def test_nothing_leaves_without_a_grant_and_each_grant_is_one_request() -> None:
    pace = LeasedPace(Limits(requests_per_day=10))
    assert pace.wait_s(0.0) is None
    assert pace.wanted(0.0, free=4, waits=False) == 4, "somebody has asked"
    pace.granted(Granted(requests=2, first_s=0.5, every_s=0.25, valid_s=1.0, day_left=8), 0.0)
    assert pace.wait_s(0.0) == 0.5
    assert pace.wait_s(0.5) == 0.0
    pace.take(0.5)
    assert pace.wait_s(0.5) == 0.25
    pace.take(0.75)
    assert pace.wait_s(0.75) is None
    assert (pace.used, pace.unused, pace.day_limit) == (2, 0, (10, 8))


def test_a_grant_expires_and_is_reported_as_unused() -> None:
    pace = LeasedPace(Limits())
    pace.granted(Granted(requests=3, every_s=1.0, valid_s=0.5), 0.0)
    assert pace.wait_s(1.2) == 0.0
    assert pace.unused == 1
    assert pace.wait_s(9.0) is None
    assert (pace.used, pace.unused) == (0, 3)


def test_a_request_that_does_not_leave_gives_its_grant_to_the_next_and_is_counted_once() -> None:
    pace = LeasedPace(Limits())
    pace.granted(Granted(requests=1, valid_s=1.0), 0.0)
    for told in (False, True):
        pace.take(0.0)
        if told:
            pace.used = 0  # a lease has told it meanwhile
        pace.take(0.0, -1.0)
        assert pace.wait_s(0.0) == 0.0
    pace.take(0.0)
    assert (pace.used, pace.unused) == (0, 0)


def test_a_lane_waits_for_a_grant_and_goes_on_with_it_within_its_part_of_the_concurrency() -> None:
    async def scenario() -> None:
        pace = LeasedPace(Limits())
        one = lane(pace)
        assert not one.limiter.adaptive, "the coordinator has the limiter"
        pace.granted(Granted(requests=5, valid_s=1.0), one._clock.monotonic())
        one.limiter.limit = 2
        tickets = [await one.acquire(fresh=True) for _ in range(2)]
        assert one._hold_s(one._clock.monotonic(), fresh=True) is None, "its part is in flight"
        assert all(tickets)
        one.release()
        assert one._hold_s(one._clock.monotonic(), fresh=True) == 0.0

    run_virtual(scenario)


def test_what_is_left_of_the_grants_is_given_back_once() -> None:
    pace = LeasedPace(Limits())
    pace.granted(Granted(requests=3, first_s=0.0, every_s=0.0, valid_s=1.0), 0.0)
    pace.take(0.1)
    pace.gives_back()
    pace.gives_back()
    assert (pace.used, pace.unused, pace.wait_s(0.2)) == (1, 2, None)


def test_no_more_is_asked_for_than_items_are_left() -> None:
    pace = LeasedPace(Limits())
    pace.granted(Granted(requests=8, valid_s=1.0), 0.0)
    for _ in range(4):
        pace.take(0.0)
    wanted = [pace.wanted(0.0, free=50, waits=True, left=left) for left in (None, 99, 10, 4, 0)]
    assert wanted == [50, 50, 6, 0, 0]


def test_requests_of_earlier_moments_come_before_those_that_are_held() -> None:
    pace = LeasedPace(Limits())
    pace.granted(Granted(requests=2, first_s=1.0, every_s=1.0, valid_s=1.0), 0.0)
    pace.granted(Granted(requests=2, first_s=0.5, every_s=1.0, valid_s=1.0), 0.0)
    moments = []
    for _ in range(4):
        moments.append(pace.wait_s(0.0))
        pace.take(0.0)
    assert moments == [0.5, 1.0, 1.5, 2.0]
