"""Figures and instants as people say them."""

from datetime import datetime

import pytest

from batchrunner.report.wording import count, duration, instant

NOW = datetime.fromisoformat("2026-11-22T20:53:00+08:00")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0.2, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (3569, "59 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (11_520, "3 h 12 min"),
        (86_400, "1 d"),
        (190_800, "2 d 5 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_an_instant_keeps_its_own_offset_and_states_how_far_away_it_is() -> None:
    assert instant("2026-11-23T00:05:00+08:00") == "2026-11-23 00:05 +08:00"
    assert instant("2026-11-23T00:05:00+08:00", now=NOW) == "2026-11-23 00:05 +08:00 (in 3 h 12 min)"
    assert instant("2026-11-22T13:00:00Z", now=NOW) == "2026-11-22 13:00 +00:00 (in 7 min)"


def test_an_instant_in_the_past_is_not_stated_to_be_ahead() -> None:
    assert instant("2026-11-22T00:05:00+08:00", now=NOW) == "2026-11-22 00:05 +08:00"


def test_what_is_no_instant_is_shown_as_it_is() -> None:
    assert instant("tomorrow", now=NOW) == "tomorrow"


def test_one_is_singular() -> None:
    assert count(1, "item") == "1 item"
    assert count(1200, "item") == "1,200 items"
    assert count(2, "entry", "entries") == "2 entries"
