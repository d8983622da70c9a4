"""What a lane is said to do is what it does: at work, backing off, parked, closed or done."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from batchrunner.core.outcome import ProblemKind
from batchrunner.core.status import LaneReason, LaneStatus, Status
from tests.support.engine import Latency, RunHarness, World

PROMPTS: Final = "\n".join(f"  - question {number}" for number in range(40))


def lanes_of(tmp_path: Path, *models: str, more: str = "", every_s: float = 1.0) -> list[dict[str, LaneStatus]]:
    """The lanes by model, once a second of a run over 40 prompts."""
    seen: list[dict[str, LaneStatus]] = []

    async def look(snapshot: Callable[[], Status]) -> None:
        while True:
            await asyncio.sleep(every_s)
            seen.append({lane.model: lane for lane in snapshot().lanes})

    listed = ", ".join(f"'{model}'" for model in models)
    harness = RunHarness(tmp_path, world=World(latency=Latency(first_byte_s=1.0)))
    harness.run(f"name: job\nprovider: simulator\nmodels: [{listed}]\nprompts:\n{PROMPTS}\n{more}\n", progress=look)
    return seen


def test_a_lane_that_has_nothing_left_is_done_while_others_go_on(tmp_path: Path) -> None:
    seen = lanes_of(tmp_path, "quick", "slow#retry-after:200")
    (quick,) = {lane.activity for moment in seen[100:150] for lane in [moment["quick"]]}
    assert quick == "done"
    assert (seen[120]["quick"].total, seen[120]["quick"].left) == (40, 0)


def test_a_model_that_does_not_exist_is_closed_with_its_failures(tmp_path: Path) -> None:
    seen = lanes_of(tmp_path, "gone#bad-model-id", "slow#retry-after:60")
    lane = seen[40]["gone#bad-model-id"]
    assert (lane.activity, lane.kind, lane.failed, lane.left) == ("closed", ProblemKind.MODEL_NOT_FOUND, 40, 0)


def test_a_parked_lane_states_until_when_and_why_in_our_word_apart_from_the_servers(tmp_path: Path) -> None:
    seen = lanes_of(tmp_path, "quota#quota-model:10", every_s=600.0)
    lane = seen[0]["quota#quota-model:10"]
    assert (lane.activity, lane.kind, lane.left) == ("parked", ProblemKind.QUOTA_MODEL, 30)
    assert lane.until is not None
    assert lane.words
    assert "quota" in lane.words
    assert lane.per_day == pytest.approx(10, abs=4), "what the provider allowed on the day"


def test_items_that_back_off_are_counted_with_the_time_of_the_next_try(tmp_path: Path) -> None:
    seen = lanes_of(tmp_path, "broken#5xx:1", more="limits: {concurrency: 4}\nbreaker: 100", every_s=0.7)
    (lane, *_) = [moment["broken#5xx:1"] for moment in seen if moment["broken#5xx:1"].activity == "retrying"]
    assert lane.kind is LaneReason.BACKOFF
    assert lane.retrying > 0
    assert lane.retry_in_s is not None


def test_a_lane_at_work_is_working_and_its_mean_in_flight_is_reported_by_two_looks(tmp_path: Path) -> None:
    seen = lanes_of(tmp_path, "steady", more="limits: {concurrency: 4}")
    first, second = seen[1]["steady"], seen[5]["steady"]
    assert first.activity == "working"
    assert first.in_flight_s is not None
    assert second.in_flight_s is not None
    assert (second.in_flight_s - first.in_flight_s) / 4.0 == pytest.approx(4.0, rel=0.05)


def test_identical_items_count_once_and_those_beyond_the_limit_do_not(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    told: list[LaneStatus] = []

    async def look(snapshot: Callable[[], Status]) -> None:
        told.extend(snapshot().lanes)
        await asyncio.Event().wait()

    job = "name: job\nprovider: simulator\nmodel: m\nprompts: [a, a, b, c, d]\n"
    harness.run(job, limit=3, progress=look)
    assert (told[0].total, told[0].left) == (2, 2)
    harness.run(job, limit=4, progress=look)
    assert (told[1].total, told[1].left) == (3, 1)
