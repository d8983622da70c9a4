"""When a run would end, by arithmetic."""

import pytest

from batchrunner.core.rehearsal_report import LaneLoad, end_of
from batchrunner.core.values import replace

SHANGHAI_S = 8 * 3600.0
NOON = 1_795_000_000.0 // 86_400.0 * 86_400.0 - SHANGHAI_S + 43_200.0
LANE = LaneLoad(calls=100, call_s=3.0, at_once=10, per_minute=None, per_day=None)


def ends_after(*lanes: LaneLoad) -> tuple[float, int]:
    at, days = end_of(lanes, now=NOON, offset_s=SHANGHAI_S)
    return at - NOON, days


def test_rounds_of_what_fits_at_once() -> None:
    assert ends_after(LANE) == (30.0, 1)
    assert ends_after(replace(LANE, calls=101)) == (33.0, 1)


def test_a_rate_holds_it_back_where_it_is_slower() -> None:
    assert ends_after(replace(LANE, per_minute=60.0)) == (99.0 + 3.0, 1)
    assert ends_after(replace(LANE, per_minute=6000.0)) == (30.0, 1)


@pytest.mark.parametrize(
    ("per_day", "sent_today", "midnights", "last_day", "days"),
    [(100, 0, 0, 100, 1), (50, 0, 1, 50, 2), (40, 0, 2, 20, 3), (100, 100, 1, 100, 1), (100, 60, 1, 60, 2)],
)
def test_a_daily_limit_waits_for_midnight_where_the_provider_is(
    per_day: int, sent_today: int, midnights: int, last_day: int, days: int
) -> None:
    after, counted = ends_after(replace(LANE, per_day=per_day, sent_today=sent_today))
    waited = 43_200.0 + (midnights - 1) * 86_400.0 if midnights else 0.0
    assert after == waited + 3.0 * -(-last_day // 10)
    assert counted == days


def test_the_last_lane_ends_the_run_and_nothing_to_do_ends_now() -> None:
    assert ends_after(LANE, replace(LANE, calls=1000)) == (300.0, 1)
    assert ends_after() == (0.0, 0)
