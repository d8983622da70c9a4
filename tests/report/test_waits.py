"""Every reason for which a lane stands still has a sentence of ours, and times are those of the person."""

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import pytest

from batchrunner.core.outcome import ProblemKind
from batchrunner.core.status import ItemCounts, LaneReason, LaneStatus, SendCounts, Status, UsageCounts
from batchrunner.engine.run_status import reason_named
from batchrunner.report.waits import WAITS, clock_time, in_order, sentence, until, why, zone_of

NOW: Final = datetime(2026, 11, 26, 22, 50, tzinfo=UTC)
SHANGHAI: Final = ZoneInfo("Asia/Shanghai")


@pytest.mark.parametrize("reason", [*ProblemKind, *LaneReason], ids=str)
def test_every_reason_has_a_short_sentence_in_our_words(reason: ProblemKind | LaneReason) -> None:
    words = sentence(reason)
    assert 5 <= len(words) <= 60
    assert not words.endswith(".")
    assert WAITS[reason] == words
    assert reason_named(reason.value) is reason


def test_a_reason_of_a_later_version_is_no_reason() -> None:
    assert reason_named("something new") is None


@pytest.mark.parametrize(
    ("rfc3339", "shown"),
    [
        ("2026-11-26T23:05:00+00:00", "23:05 (15 min)"),
        ("2026-11-27T07:05:00+08:00", "23:05 (15 min)"),
        ("2026-11-27T16:05:00+00:00", "Fri 16:05 (17 h)"),
        ("2026-11-27T02:02:00+00:00", "Fri 02:02 (3 h 12 min)"),
        ("2026-12-24T16:05:00+00:00", "2026-12-24 16:05 (27 d 17 h)"),
        ("2026-11-26T22:00:00+00:00", "22:00 (0 s)"),
        ("tomorrow", "tomorrow"),
    ],
)
def test_an_end_is_reported_in_the_persons_zone_with_its_day_only_if_that_is_another(rfc3339: str, shown: str) -> None:
    assert until(rfc3339, now=NOW, zone=ZoneInfo("UTC")) == shown


def test_the_jobs_own_zone_is_used_where_it_has_one() -> None:
    status = Status(
        job="j", state="running", items=ItemCounts(), sends=SendCounts(), usage=UsageCounts(), timezone="Asia/Shanghai"
    )
    assert zone_of(status) == SHANGHAI
    assert clock_time("2026-11-26T23:05:00+00:00", now=NOW, zone=zone_of(status)) == "07:05"


def test_a_zone_that_this_machine_does_not_know_is_the_machines() -> None:
    status = Status(
        job="j",
        state="running",
        items=ItemCounts(),
        sends=SendCounts(),
        usage=UsageCounts(),
        timezone="Moon/Copernicus",
    )
    assert zone_of(status) is None


def test_why_has_no_words_of_the_server_and_counts_failures() -> None:
    closed = LaneStatus(
        account="",
        model="m",
        state="open",
        activity="closed",
        kind=ProblemKind.MODEL_NOT_FOUND,
        words="NO!",
        failed=150,
    )
    assert why(closed) == "no such model, 150 failed"
    assert why(LaneStatus(account="", model="m", state="open", activity="done", failed=1)) == "1 failure"
    assert why(LaneStatus(account="", model="m", state="open")) == ""


def test_parked_lanes_stand_in_the_order_of_their_ends() -> None:
    late, soon = (
        LaneStatus(account="", model=hour, state="parked", activity="parked", until=f"2026-11-27T{hour}:00:00+00:00")
        for hour in ("09", "07")
    )
    open_lane = LaneStatus(account="", model="open", state="open")
    assert [lane.model for lane in in_order([late, soon, open_lane])] == ["open", "07", "09"]
