"""The arithmetic behind the progress display."""

import pytest

from batchrunner.cli.progress import ProgressRate


def test_nothing_is_said_before_a_second_has_passed() -> None:
    pace = ProgressRate()
    assert pace.per_s() is None
    pace.note(now_s=10.0, finished=0)
    pace.note(now_s=10.5, finished=40)
    assert pace.per_s() is None
    assert pace.eta_s(left=10) is None


def test_what_was_done_before_this_run_does_not_count_as_pace() -> None:
    pace = ProgressRate()
    pace.note(now_s=0.0, finished=512)
    pace.note(now_s=4.0, finished=520)
    assert pace.per_s() == pytest.approx(2.0)
    assert pace.eta_s(left=30) == pytest.approx(15.0)


def test_only_the_last_minute_counts() -> None:
    pace = ProgressRate()
    for second in range(200):
        pace.note(now_s=float(second), finished=1000 if second >= 100 else second * 10)
    assert pace.per_s() == 0.0
    assert pace.eta_s(left=5) is None


def test_memory_is_bounded_by_the_minute() -> None:
    pace = ProgressRate()
    for tick in range(10_000):
        pace.note(now_s=tick / 2, finished=tick)
    assert "12" in repr(pace)
    assert pace.per_s() == pytest.approx(2.0)
