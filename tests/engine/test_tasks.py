"""An accepted image task is followed to its own end, by the next run too, and never submitted again before it."""

from pathlib import Path

import pytest
from PIL import Image

from batchrunner.core.errors import ExitStatus
from tests.support.engine import FaultRates, House, Latency, World, image


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
def test_one_submit_is_enough_through_every_trap(house: House, scenario: str) -> None:
    report = house.run(image("a boat", model=model(scenario)))
    assert report.exit_status is ExitStatus.DONE, report.status
    assert house.stats.sends == 1
    (row,) = house.rows()
    (picture,) = row["output"]["images"]
    with Image.open(house.out / picture["path"]) as opened:
        opened.load()
        assert opened.size == (64, 64)
        assert opened.info["parameters"].startswith("a boat\n")


@pytest.mark.parametrize("scenario", ["img-fail:1", "img-fail-empty-then-text:1"])
def test_a_failed_task_is_a_new_attempt(house: House, scenario: str) -> None:
    assert house.run(image("a boat", model=model(scenario))).exit_status is ExitStatus.DONE
    assert house.stats.sends == 2
    assert house.rows()[0]["attempts"] == 2


@pytest.mark.parametrize("scenario", ["dl-html", "dl-cut", "dl-404", "dl-huge"])
def test_a_picture_that_cannot_be_had_stays_accepted_and_is_never_submitted_again(house: House, scenario: str) -> None:
    job = image("a boat", model=model(scenario))
    report = house.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.accepted + report.status.items.timed_out == 1
    assert house.events("ready"), "the URL that was paid for is not in the ledger"
    assert house.run(job).exit_status is ExitStatus.PAUSED
    assert house.stats.sends == 1
    assert not list((house.out / "images").glob("*.png")) if (house.out / "images").exists() else True


def test_a_damaged_picture_is_fetched_again_then_failed_with_its_bytes_kept(house: House) -> None:
    job = image("a boat", model=model("dl-truncated"))
    assert house.run(job).exit_status is ExitStatus.FAILED
    error = house.rows("failures.jsonl")[0]["error"]
    assert error["class"] == "bad_picture"
    (kept,) = (house.out / "images/damaged").iterdir()
    assert f"images/damaged/{kept.name}" in error["message"]
    assert house.run(job).exit_status is ExitStatus.FAILED
    assert house.stats.sends == 1


def test_no_picture_is_fetched_for_ever(house: House) -> None:
    job = image("a boat", model=model("dl-html"))
    assert house.run(job).exit_status is ExitStatus.PAUSED
    house.began += 8 * 86_400.0
    assert house.run(job).exit_status is ExitStatus.FAILED
    assert "given up after 8 days" in house.rows("failures.jsonl")[0]["error"]["message"]
    assert house.stats.sends == 1


def test_a_picture_that_is_gone_after_a_day_has_expired_and_is_reported_as_perhaps_paid_twice(house: House) -> None:
    job = image("a boat", model=model("dl-404"), more="retry: {attempts: 2}")
    assert house.run(job).exit_status is ExitStatus.PAUSED
    house.began += 86_400.0
    report = house.run(job)
    assert (report.exit_status, house.stats.sends) == (ExitStatus.PAUSED, 2), "a new attempt, whose file is young"
    assert report.status.sends.possible_duplicates == 1
    house.began += 86_400.0
    assert house.run(job).exit_status is ExitStatus.FAILED
    assert house.rows("failures.jsonl")[0]["error"]["class"] == "task_expired"
    assert house.stats.sends == 2


def test_stub_replies_end_with_the_deadline_and_the_task_stays_accepted(house: House) -> None:
    began = house.began
    report = house.run(image("a boat", model=model("img-stub"), more="timeouts: {task_s: 300}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.timed_out == 1
    assert house.stats.sends == 1
    assert 300.0 <= house.began - began <= 400.0


def test_a_task_that_is_gone_for_good_is_a_new_attempt_and_counted(house: House) -> None:
    report = house.run(image("a boat", model=model("img-gone"), more="retry: {attempts: 2}"))
    assert report.exit_status is ExitStatus.FAILED
    assert house.stats.sends == 2
    assert report.status.sends.ambiguous == 2


def test_a_task_accepted_by_one_run_is_finished_by_the_next(tmp_path: Path) -> None:
    house = House(tmp_path, World(latency=Latency(task_s=500.0)))
    job = image("a boat", "a barn", more="timeouts: {task_s: 100}")
    first = house.run(job)
    assert first.exit_status is ExitStatus.PAUSED
    assert first.status.items.timed_out == 2
    house.began += 1000.0
    second = house.run(job)
    assert second.exit_status is ExitStatus.DONE
    assert house.stats.sends == 2
    assert {row["recovered"] for row in house.rows()} == {True}


def test_a_task_of_a_prompt_that_vanished_is_kept_and_moved_aside(tmp_path: Path) -> None:
    house = House(tmp_path, World(latency=Latency(task_s=500.0)))
    limits = "timeouts: {task_s: 100}"
    house.run(image("a boat", "a barn", more=limits))
    house.began += 1000.0
    report = house.run(image("a barn", more=limits))
    assert report.exit_status is ExitStatus.DONE
    assert [row["prompt"] for row in house.rows()] == ["a barn"]
    (aside,) = house.rows("superseded.jsonl")
    assert (house.out / aside["output"]["images"][0]["path"]).exists()
    assert house.stats.sends == 2
    assert report.status.items.total == report.status.items.done == 1


def test_in_flight_tasks_are_bounded(tmp_path: Path) -> None:
    house = House(tmp_path, World(latency=Latency(task_s=30.0)))
    prompts = tuple(f"picture {number}" for number in range(60))
    house.run(image(*prompts, more="limits: {in_flight_tasks: 7, concurrency: 5}"))
    open_now = most = 0
    for event in house.events("accepted", "done"):
        open_now += 1 if event["e"] == "accepted" else -1
        most = max(most, open_now)
    assert most <= 7
    assert len(house.rows()) == 60


def test_many_tasks_under_faults_each_end_once(tmp_path: Path) -> None:
    faults = FaultRates.parse(
        "throttle=0.1,5xx=0.05,task-fail=0.05,task-slow=0.05,poll-429=0.1,dl-404=0.05,dl-html=0.05"
    )
    house = House(tmp_path, World(7, faults=faults, latency=Latency(task_s=12.0, spread=0.5)))
    prompts = tuple(f"picture {number}" for number in range(150))
    report = house.run(image(*prompts, more="limits: {concurrency: 8}"))
    while report.exit_status is ExitStatus.PAUSED:
        report = house.run(image(*prompts, more="limits: {concurrency: 8}"))
    assert report.exit_status is ExitStatus.DONE
    assert len({row["id"] for row in house.rows()}) == len(house.rows()) == 150
    assert house.stats.paid_twice <= report.status.sends.possible_duplicates


def test_a_failed_task_of_a_prompt_that_vanished_is_not_paid_for_again(tmp_path: Path) -> None:
    house = House(tmp_path, World(latency=Latency(task_s=100.0)))
    settings = {"model": "Qwen/Qwen-Image#img-fail:1", "more": "timeouts: {task_s: 10}"}
    assert house.run(image("a boat", "a barn", **settings)).status.items.timed_out == 2
    house.began += 200.0
    house.run(image("a boat", **settings))
    assert house.stats.sends == 3, "the boat again, the barn not: nobody wants it any more"
