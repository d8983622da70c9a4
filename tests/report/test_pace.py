"""The arithmetic behind the progress display."""

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from batchrunner.core.status import ItemCounts, LaneStatus, SendCounts, Status, UsageCounts
from batchrunner.core.values import replace
from batchrunner.report.pace import Eta, ProgressRate, RunPace, eta_words


def test_nothing_is_stated_before_a_second_has_passed() -> None:
    pace = ProgressRate()
    assert pace.per_s() is None
    pace.note(now_s=10.0, finished=0)
    pace.note(now_s=10.5, finished=40)
    assert pace.per_s() is None


def test_what_was_done_before_this_run_does_not_count_as_pace() -> None:
    pace = ProgressRate()
    pace.note(now_s=0.0, finished=512)
    pace.note(now_s=4.0, finished=520)
    assert pace.per_s() == pytest.approx(2.0)


def test_only_the_last_minute_counts() -> None:
    pace = ProgressRate()
    for second in range(200):
        pace.note(now_s=float(second), finished=1000 if second >= 100 else second * 10)
    assert pace.per_s() == 0.0


def test_memory_is_bounded_by_the_minute() -> None:
    pace = ProgressRate()
    for tick in range(10_000):
        pace.note(now_s=tick / 2, finished=tick)
    assert "12" in repr(pace)
    assert pace.per_s() == pytest.approx(2.0)


NOW: Final = datetime(2026, 11, 26, 22, tzinfo=UTC)
LANE: Final = LaneStatus(account="", model="m", state="open", total=1000, left=1000)


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


def status_of(*lanes: LaneStatus) -> Status:
    left = sum(lane.left or 0 for lane in lanes)
    items = ItemCounts(total=1000 * len(lanes), done=1000 * len(lanes) - left, pending=left)
    return Status(job="j", state="running", items=items, sends=SendCounts(), usage=UsageCounts(), lanes=lanes)


def eta_after(*lanes: LaneStatus, per_s: float = 2.0, for_s: int = 100) -> Eta:
    """After the models of these lanes had worked at that rate for a while."""
    pace = RunPace()
    for second in range(for_s + 1):
        working = [
            replace(lane, left=round((lane.left or 0) + per_s * (for_s - second)), activity="working") for lane in lanes
        ]
        pace.note(status_of(*working), now_s=float(second), now=NOW - timedelta(seconds=for_s - second))
    return pace.eta(status_of(*lanes), now=NOW)


def test_a_lane_at_work_ends_when_its_items_are_finished_at_its_rate() -> None:
    eta = eta_after(replace(LANE, left=500))
    assert (eta.ready, eta.waiting) == (500, 0)
    assert eta.ends_s == pytest.approx(250.0, rel=0.02)


def test_a_parked_lane_ends_after_its_park_and_its_items_at_its_own_rate() -> None:
    eta = eta_after(replace(LANE, left=500, activity="parked", until=at(3600)))
    assert (eta.ready, eta.waiting, eta.until) == (0, 500, at(3600))
    assert eta.ends_s == pytest.approx(3600 + 250, rel=0.02)


def test_the_run_ends_with_its_latest_lane_and_states_both() -> None:
    working = replace(LANE, left=200)
    parked = replace(LANE, model="quota", left=110, activity="parked", until=at(61_500))
    eta = eta_after(working, parked)
    assert (eta.ready, eta.waiting, eta.until) == (200, 110, at(61_500))
    assert eta.ready_s == pytest.approx(100.0, rel=0.02)
    assert eta.ends_s == pytest.approx(61_500 + 55, rel=0.01)


def test_a_parked_lane_whose_pace_nobody_knows_ends_no_earlier_than_its_park() -> None:
    parked = replace(LANE, activity="parked", until=at(7200))
    assert RunPace().eta(status_of(parked), now=NOW).ends_s == pytest.approx(7200)


def test_nothing_is_reported_of_a_lane_at_work_whose_pace_nobody_knows() -> None:
    assert RunPace().eta(status_of(LANE), now=NOW).ends_s is None


def test_a_daily_limit_stretches_the_end_over_days() -> None:
    lane = replace(LANE, left=500, per_day=200, left_today=100, day_turns=at(7200))
    eta = eta_after(lane)
    assert eta.ends_s == pytest.approx(7200 + 86_400 + 100, rel=0.01)
    assert (eta.ready, eta.stretched) == (0, 500)
    assert eta_words(eta, now=NOW, status=status_of(lane)) == ["500 over ~1 d 2 h (limit a day)"]


def test_a_paused_lane_has_no_end_and_is_not_left_over() -> None:
    eta = eta_after(replace(LANE, left=100, activity="paused"))
    assert (eta.ready, eta.waiting, eta.stuck, eta.ends_s) == (0, 0, 0, None)


def test_a_quota_that_is_spent_again_each_day_counts_days_from_the_end_of_the_park() -> None:
    lane = replace(LANE, left=450, activity="parked", until=at(7500), per_day=200, left_today=0, day_turns=at(7200))
    assert eta_after(lane).ends_s == pytest.approx(7500 + 2 * 86_400 + 25, rel=0.01)


def test_items_go_to_the_lane_of_the_model_that_is_not_parked() -> None:
    one, other = (
        replace(LANE, account="A", left=500),
        replace(LANE, account="B", left=500, activity="parked", until=at(90_000)),
    )
    eta = eta_after(one, other)
    assert (eta.ready, eta.waiting) == (500, 0)
    assert eta.ends_s is not None
    assert eta.ends_s < 1000


def test_items_of_closed_lanes_are_reported_as_left_over() -> None:
    eta = eta_after(replace(LANE, left=30, activity="closed"), replace(LANE, model="n", left=100))
    assert (eta.stuck, eta.ready) == (30, 100)


def test_items_that_are_held_in_a_lane_that_is_done_are_not_reported_as_left_over() -> None:
    assert eta_after(replace(LANE, left=3, activity="done")).stuck == 0


def test_time_in_a_park_does_not_make_a_lane_slow() -> None:
    pace = RunPace()
    moment, left = NOW, 1000
    for _ in range(60):
        left -= 2
        moment += timedelta(seconds=1)
        pace.note(status_of(replace(LANE, left=left)), now_s=moment.timestamp(), now=moment)
    parked = replace(LANE, left=left, activity="parked", until=(moment + timedelta(hours=2)).isoformat())
    for _ in range(100):
        moment += timedelta(seconds=60)
        pace.note(status_of(parked), now_s=moment.timestamp(), now=moment)
    eta = pace.eta(status_of(parked), now=moment)
    assert eta.ends_s == pytest.approx(1200 + left / 2, rel=0.05)


def test_the_mean_in_flight_is_of_the_time_between_two_looks() -> None:
    pace = RunPace()
    pace.note(status_of(replace(LANE, in_flight=0, in_flight_s=10.0)), now_s=0.0, now=NOW)
    pace.note(status_of(replace(LANE, in_flight=0, in_flight_s=17.0)), now_s=2.0, now=NOW)
    assert pace.in_flight(replace(LANE, in_flight=0)) == pytest.approx(3.5)
