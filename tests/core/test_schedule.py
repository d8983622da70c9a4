"""Windows and deadlines on calendars that jump: pure arithmetic, with the system's zones only as examples."""

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from batchrunner.core.schedule import (
    EVERY_DAY,
    AfterDuration,
    AtDate,
    AtTimeOfDay,
    Window,
    deadline_at,
    instant_of,
    opening,
)
from batchrunner.core.values import replace

OffsetAt = Callable[[float], float]

SPRING_S = datetime(2026, 3, 29, 1, 0, tzinfo=UTC).timestamp()
"""Berlin's clocks go from 02:00 to 03:00."""
AUTUMN_S = datetime(2026, 10, 25, 1, 0, tzinfo=UTC).timestamp()
"""Berlin's clocks go from 03:00 back to 02:00."""


def zone(name: str) -> OffsetAt:
    def offset_at(wall: float) -> float:
        offset = datetime.fromtimestamp(wall, ZoneInfo(name)).utcoffset()
        assert offset is not None
        return offset.total_seconds()

    return offset_at


def berlin(wall: float) -> float:
    """By hand, so that the rule does not hang on a database."""
    return 7200.0 if SPRING_S <= wall < AUTUMN_S else 3600.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def calendar(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def window(opens: str, closes: str) -> Window:
    minutes = [int(text[:2]) * 60 + int(text[3:]) for text in (opens, closes)]
    return Window(opens_minute=minutes[0], closes_minute=minutes[1], shown=f"{opens}-{closes}")


NIGHT = window("22:00", "07:00")


@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [
        ("2026-11-22T21:59:59+08:00", "2026-11-22T22:00+08:00", "2026-11-23T07:00+08:00"),
        ("2026-11-22T22:00:00+08:00", "2026-11-22T22:00+08:00", "2026-11-23T07:00+08:00"),
        ("2026-11-23T00:30:00+08:00", "2026-11-22T22:00+08:00", "2026-11-23T07:00+08:00"),
        ("2026-11-23T06:59:59+08:00", "2026-11-22T22:00+08:00", "2026-11-23T07:00+08:00"),
        ("2026-11-23T07:00:00+08:00", "2026-11-23T22:00+08:00", "2026-11-24T07:00+08:00"),
    ],
)
def test_a_window_across_midnight_opens_on_one_day_and_closes_on_the_next(now: str, opens: str, closes: str) -> None:
    found = opening(NIGHT, wall=at(now), offset_at=lambda _: 8 * 3600.0)
    assert (found.opens_at, found.closes_at) == (at(opens), at(closes))


def test_a_window_within_a_day_waits_for_the_next_day_once_it_is_over() -> None:
    found = opening(window("09:30", "24:00"), wall=at("2026-11-23T00:00+00:00"), offset_at=lambda _: 0.0)
    assert (found.opens_at, found.closes_at) == (at("2026-11-23T09:30+00:00"), at("2026-11-24T00:00+00:00"))


def test_a_window_is_an_hour_shorter_in_spring_and_longer_in_autumn() -> None:
    spring = opening(NIGHT, wall=SPRING_S, offset_at=berlin)
    autumn = opening(NIGHT, wall=AUTUMN_S, offset_at=berlin)
    assert spring.closes_at - spring.opens_at == 8 * 3600.0
    assert autumn.closes_at - autumn.opens_at == 10 * 3600.0
    assert spring.closes_at == at("2026-03-29T07:00+02:00")
    assert autumn.opens_at == at("2026-10-24T22:00+02:00")


def test_a_time_that_the_clocks_skip_is_the_moment_of_the_jump() -> None:
    for text in ("2026-03-29T02:00", "2026-03-29T02:30", "2026-03-29T02:59"):
        assert instant_of(calendar(text), berlin) == SPRING_S
    assert instant_of(calendar("2026-03-29T03:00"), berlin) == SPRING_S
    assert instant_of(calendar("2026-03-29T01:59"), berlin) == SPRING_S - 60.0


def test_a_time_that_comes_twice_means_the_first() -> None:
    assert instant_of(calendar("2026-10-25T02:30"), berlin) == at("2026-10-25T02:30+02:00")
    assert instant_of(calendar("2026-10-25T03:00"), berlin) == at("2026-10-25T03:00+01:00")


def test_a_window_that_ends_in_the_hour_that_comes_twice_does_not_open_again() -> None:
    short = window("22:00", "02:30")
    first, second = at("2026-10-25T02:29+02:00"), at("2026-10-25T02:10+01:00")
    assert opening(short, wall=first, offset_at=berlin).closes_at == at("2026-10-25T02:30+02:00")
    assert opening(short, wall=second, offset_at=berlin).opens_at == at("2026-10-25T22:00+01:00")


def test_a_window_that_lies_in_the_skipped_hour_is_left_out_that_day() -> None:
    found = opening(window("02:10", "02:50"), wall=SPRING_S - 600.0, offset_at=berlin)
    assert found.opens_at == at("2026-03-30T02:10+02:00")


@pytest.mark.parametrize(
    "name", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "UTC"]
)
def test_every_minute_of_a_year_is_either_in_the_window_or_before_it(name: str) -> None:
    offset_at = zone(name)
    wall = at("2026-01-01T00:00+00:00")
    while wall < at("2027-01-01T00:00+00:00"):
        found = opening(NIGHT, wall=wall, offset_at=offset_at)
        assert wall < found.closes_at
        assert found.opens_at - wall <= 16 * 3600.0
        assert 7.4 * 3600.0 <= found.closes_at - found.opens_at <= 10.1 * 3600.0
        for instant, shown in ((found.opens_at, 22 * 3600.0), (found.closes_at, 7 * 3600.0)):
            assert (instant + offset_at(instant)) % 86_400.0 == shown
        wall += 3 * 3600.0 + 660.0


def test_a_day_that_a_zone_left_out_is_no_opening() -> None:
    found = opening(window("09:00", "10:00"), wall=at("2011-12-29T20:00-10:00"), offset_at=zone("Pacific/Apia"))
    assert found.opens_at == at("2011-12-31T09:00+14:00")


@pytest.mark.parametrize(
    ("began", "expected"),
    [
        ("2026-11-22T23:00+08:00", "2026-11-23T07:00+08:00"),
        ("2026-11-23T06:59+08:00", "2026-11-23T07:00+08:00"),
        ("2026-11-23T07:00+08:00", "2026-11-24T07:00+08:00"),
    ],
)
def test_a_deadline_without_a_date_is_the_next_such_moment(began: str, expected: str) -> None:
    deadline = AtTimeOfDay(minute=7 * 60, shown="07:00")
    assert deadline_at(deadline, began=at(began), offset_at=zone("Asia/Shanghai")) == at(expected)


def test_a_deadline_in_the_skipped_hour_comes_with_the_jump_and_not_twice() -> None:
    deadline = AtTimeOfDay(minute=150, shown="02:30")
    assert deadline_at(deadline, began=SPRING_S - 60.0, offset_at=berlin) == SPRING_S
    assert deadline_at(deadline, began=SPRING_S, offset_at=berlin) == at("2026-03-30T02:30+02:00")
    assert deadline_at(deadline, began=at("2026-10-25T02:40+02:00"), offset_at=berlin) == at("2026-10-26T02:30+01:00")


def test_a_deadline_with_a_date_is_in_the_jobs_zone_unless_it_names_its_own() -> None:
    local_s = calendar("2026-11-23T07:00")
    shanghai, own = zone("Asia/Shanghai"), AtDate(local_s=local_s, offset_s=0.0, shown="")
    bare = AtDate(local_s=local_s, offset_s=None, shown="")
    assert deadline_at(bare, began=0.0, offset_at=shanghai) == at("2026-11-23T07:00+08:00")
    assert deadline_at(own, began=0.0, offset_at=shanghai) == at("2026-11-23T07:00+00:00")
    assert deadline_at(AfterDuration(seconds=60.0, shown="1m"), began=5.0, offset_at=shanghai) == 65.0


def week(*parts: tuple[tuple[int, ...], str, str]) -> Window:
    made = [replace(window(opens, closes), days=days) for days, opens, closes in parts]
    return replace(made[0], others=tuple(made[1:]))


WORKDAYS, WEEKEND = (0, 1, 2, 3, 4), (5, 6)


@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [
        ("2026-11-27T12:00", "2026-11-27T22:00", "2026-11-28T07:00"),  # a Friday: its hours end on Saturday
        ("2026-11-28T06:59", "2026-11-27T22:00", "2026-11-28T07:00"),
        ("2026-11-28T07:00", "2026-11-30T22:00", "2026-12-01T07:00"),
        ("2026-11-30T03:00", "2026-11-30T22:00", "2026-12-01T07:00"),  # Sunday night is no night of a work day
    ],
)
def test_hours_of_a_day_begin_on_it_and_may_end_on_the_next(now: str, opens: str, closes: str) -> None:
    found = opening(week((WORKDAYS, "22:00", "07:00")), wall=calendar(now), offset_at=lambda _: 0.0)
    assert (found.opens_at, found.closes_at) == (calendar(opens), calendar(closes))


def test_hours_that_touch_or_overlap_are_one_opening() -> None:
    nights = week((WORKDAYS, "22:00", "07:00"), (WEEKEND, "00:00", "24:00"), ((0,), "00:00", "05:00"))
    found = opening(nights, wall=calendar("2026-11-29T12:00"), offset_at=lambda _: 0.0)
    assert (found.opens_at, found.closes_at) == (calendar("2026-11-27T22:00"), calendar("2026-11-30T05:00"))
    apart = opening(nights, wall=calendar("2026-11-30T05:00"), offset_at=lambda _: 0.0)
    assert apart.opens_at == calendar("2026-11-30T22:00")


def test_an_opening_of_almost_a_week_is_found_from_its_last_minute() -> None:
    almost = week((EVERY_DAY[1:], "00:00", "24:00"), ((0,), "00:01", "24:00"))
    found = opening(almost, wall=calendar("2026-12-06T23:59"), offset_at=lambda _: 0.0)
    assert (found.opens_at, found.closes_at) == (calendar("2026-11-30T00:01"), calendar("2026-12-07T00:00"))


def test_the_days_are_those_of_the_zone() -> None:
    saturday = week(((5,), "00:00", "24:00"))
    found = opening(saturday, wall=at("2026-11-27T17:00+00:00"), offset_at=lambda _: 8 * 3600.0)
    assert (found.opens_at, found.closes_at) == (at("2026-11-28T00:00+08:00"), at("2026-11-29T00:00+08:00"))


def test_the_only_hours_of_a_week_that_are_skipped_open_a_week_later() -> None:
    sunday = week(((6,), "02:10", "02:40"))
    found = opening(sunday, wall=at("2026-03-28T12:00+01:00"), offset_at=berlin)
    assert found.opens_at == at("2026-04-05T02:10+02:00")


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_whole_day_of_the_week_is_as_long_as_the_calendar_has_it(day: str, hours: int) -> None:
    found = opening(week(((6,), "00:00", "24:00")), wall=at(f"{day}T12:00+01:00"), offset_at=berlin)
    assert found.closes_at - found.opens_at == hours * 3600.0
