"""An accepted image task is followed to its own end, by the next run too, and never submitted again before it."""

from pathlib import Path

import pytest
from PIL import Image

from batchrunner.core.errors import ExitStatus
from tests.support.engine import FaultRates, Latency, RunHarness, World, image


def model(scenario: str) -> str:
    return f"Qwen/Qwen-Image#{scenario}"


@pytest.mark.parametrize(
    "scenario",
    [
        "img-submit-says-succeed",
        "img-id-number",
        "img-slow:200",
        "img-notfound-grace:20",
        "img-sync-result",
        "img-poll-429:3",
        "img-status-weird",
        "dl-404-once",
        "dl-wrong-ext",
        "dl-redirect",
        "dl-slow:5",
    ],
)
def test_one_submit_is_enough_through_every_trap(harness: RunHarness, scenario: str) -> None:
    report = harness.run(image("a boat", model=model(scenario)))
    assert report.exit_status is ExitStatus.DONE, report.status
    assert harness.stats.sends == 1
    (row,) = harness.rows()
    (picture,) = row["output"]["images"]
    with Image.open(harness.out / picture["path"]) as opened:
        opened.load()
        assert opened.size == (64, 64)
        assert opened.info["parameters"].startswith("a boat\n")


@pytest.mark.parametrize("scenario", ["img-fail:1", "img-fail-empty-then-text:1"])
def test_a_failed_task_is_a_new_attempt(harness: RunHarness, scenario: str) -> None:
    assert harness.run(image("a boat", model=model(scenario))).exit_status is ExitStatus.DONE
    assert harness.stats.sends == 2
    assert harness.rows()[0]["attempts"] == 2


@pytest.mark.parametrize("scenario", ["dl-html", "dl-cut", "dl-404", "dl-huge"])
def test_a_picture_that_cannot_be_had_stays_accepted_and_is_never_submitted_again(
    harness: RunHarness, scenario: str
) -> None:
    job = image("a boat", model=model(scenario))
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    assert (report.status.items.accepted, report.status.items.timed_out) == (1, 0), "its picture is what is missing"
    assert harness.events("ready"), "the URL that was paid for is not in the ledger"
    assert harness.run(job).exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == 1
    assert not list((harness.out / "images").glob("*.png")) if (harness.out / "images").exists() else True


def test_a_damaged_picture_is_fetched_again_then_failed_with_its_bytes_kept(harness: RunHarness) -> None:
    job = image("a boat", model=model("dl-truncated"))
    assert harness.run(job).exit_status is ExitStatus.FAILED
    error = harness.rows("failures.jsonl")[0]["error"]
    assert error["class"] == "bad_picture"
    (kept,) = (harness.out / "images/damaged").iterdir()
    assert f"images/damaged/{kept.name}" in error["message"]
    assert harness.run(job).exit_status is ExitStatus.FAILED
    assert harness.stats.sends == 1


def test_no_picture_is_fetched_for_ever(harness: RunHarness) -> None:
    job = image("a boat", model=model("dl-html"))
    assert harness.run(job).exit_status is ExitStatus.PAUSED
    harness.began += 8 * 86_400.0
    assert harness.run(job).exit_status is ExitStatus.FAILED
    assert "given up after 8 days" in harness.rows("failures.jsonl")[0]["error"]["message"]
    assert harness.stats.sends == 1


def test_a_picture_that_is_gone_after_a_day_has_expired_and_is_reported_as_perhaps_paid_twice(
    harness: RunHarness,
) -> None:
    job = image("a boat", model=model("dl-404"), more="retry: {attempts: 2}")
    assert harness.run(job).exit_status is ExitStatus.PAUSED
    harness.began += 86_400.0
    report = harness.run(job)
    assert (report.exit_status, harness.stats.sends) == (ExitStatus.PAUSED, 2), "a new attempt, whose file is young"
    assert report.status.sends.possible_duplicates == 1
    harness.began += 86_400.0
    assert harness.run(job).exit_status is ExitStatus.FAILED
    assert harness.rows("failures.jsonl")[0]["error"]["class"] == "task_expired"
    assert harness.stats.sends == 2


def test_stub_replies_end_with_the_deadline_and_the_task_stays_accepted(harness: RunHarness) -> None:
    began = harness.began
    report = harness.run(image("a boat", model=model("img-stub"), more="timeouts: {task_s: 300}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.timed_out == 1
    assert harness.stats.sends == 1
    assert 300.0 <= harness.began - began <= 400.0


def test_a_task_that_is_gone_for_good_is_a_new_attempt_and_counted(harness: RunHarness) -> None:
    report = harness.run(image("a boat", model=model("img-gone"), more="retry: {attempts: 2}"))
    assert report.exit_status is ExitStatus.FAILED
    assert harness.stats.sends == 2
    assert report.status.sends.ambiguous == 2


def test_a_task_accepted_by_one_run_is_finished_by_the_next(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(task_s=500.0)))
    job = image("a boat", "a barn", more="timeouts: {task_s: 100}")
    first = harness.run(job)
    assert first.exit_status is ExitStatus.PAUSED
    assert first.status.items.timed_out == 2
    harness.began += 1000.0
    second = harness.run(job)
    assert second.exit_status is ExitStatus.DONE
    assert harness.stats.sends == 2
    assert {row["recovered"] for row in harness.rows()} == {True}


def test_a_task_of_a_prompt_that_vanished_is_kept_and_moved_aside(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(task_s=500.0)))
    limits = "timeouts: {task_s: 100}"
    harness.run(image("a boat", "a barn", more=limits))
    harness.began += 1000.0
    report = harness.run(image("a barn", more=limits))
    assert report.exit_status is ExitStatus.DONE
    assert [row["prompt"] for row in harness.rows()] == ["a barn"]
    (aside,) = harness.rows("superseded.jsonl")
    assert (harness.out / aside["output"]["images"][0]["path"]).exists()
    assert harness.stats.sends == 2
    assert report.status.items.total == report.status.items.done == 1


def test_in_flight_tasks_are_bounded(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(task_s=30.0)))
    prompts = tuple(f"picture {number}" for number in range(60))
    harness.run(image(*prompts, more="limits: {in_flight_tasks: 7, concurrency: 5}"))
    open_now = most = 0
    for event in harness.events("accepted", "done"):
        open_now += 1 if event["e"] == "accepted" else -1
        most = max(most, open_now)
    assert most <= 7
    assert len(harness.rows()) == 60


def test_many_tasks_under_faults_each_end_once(tmp_path: Path) -> None:
    faults = FaultRates.parse(
        "throttle=0.1,5xx=0.05,task-fail=0.05,task-slow=0.05,poll-429=0.1,dl-404=0.05,dl-html=0.05"
    )
    harness = RunHarness(tmp_path, World(7, faults=faults, latency=Latency(task_s=12.0, spread=0.5)))
    prompts = tuple(f"picture {number}" for number in range(150))
    report = harness.run(image(*prompts, more="limits: {concurrency: 8}"))
    while report.exit_status is ExitStatus.PAUSED:
        report = harness.run(image(*prompts, more="limits: {concurrency: 8}"))
    assert report.exit_status is ExitStatus.DONE
    assert len({row["id"] for row in harness.rows()}) == len(harness.rows()) == 150
    assert harness.stats.paid_twice <= report.status.sends.possible_duplicates


def test_a_failed_task_of_a_prompt_that_vanished_is_not_paid_for_again(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(task_s=100.0)))
    settings = {"model": "Qwen/Qwen-Image#img-fail:1", "more": "timeouts: {task_s: 10}"}
    assert harness.run(image("a boat", "a barn", **settings)).status.items.timed_out == 2
    harness.began += 200.0
    harness.run(image("a boat", **settings))
    assert harness.stats.sends == 3, "the boat again, the barn not: nobody wants it any more"
