"""Every wait says why: pictures that cannot be fetched, tasks that are late, a server that is not there or silent."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.job import Provider, Timeouts
from batchrunner.core.status import Status
from batchrunner.transport import ApiTransport
from batchrunner.transport.deadlines import Deadlines, TimeoutPolicy
from tests.support.engine import RunHarness, World, chat, image
from tests.support.virtual_time import run_virtual


@pytest.mark.parametrize(
    ("scenario", "words"), [("dl-404", r"404"), ("dl-html", "page|picture"), ("dl-cut", "ended before")]
)
def test_a_picture_that_cannot_be_fetched_is_reported_at_once_with_its_cause_and_address(
    tmp_path: Path, scenario: str, words: str
) -> None:
    harness = RunHarness(tmp_path, world=World(scenario=scenario))
    harness.run(image("a cat"))
    told = [line for line in harness.said if "picture not saved yet" in line]
    assert re.search(words, told[0])
    assert "files.simulator.invalid/" in told[0]
    assert "downloading it again (no new request)" in told[0]


def test_many_failures_of_one_cause_are_counted_and_not_reported_one_by_one(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="dl-404"))
    harness.run(image(*(f"cat {n}" for n in range(12))))
    told = [line for line in harness.said if "picture not saved yet" in line]
    assert len(told) == 2
    assert ", 10 times so far" in told[1]


def test_late_tasks_are_reported_with_how_many_since_when_and_until_when(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="img-slow:100000"))
    harness.run(image("a cat", "a dog", more="timeouts: {task_s: 600}\n"))
    told = [line for line in harness.said if "still running" in line]
    assert len(told) == 1
    assert re.search(
        r"^2 remote tasks are still running, the oldest since \d\d:\d\d:\d\d UTC; polling until \d\d:\d\d",
        told[0],
    )


@pytest.mark.parametrize("duration", [15, 290])
def test_a_task_in_time_is_not_called_late(tmp_path: Path, duration: int) -> None:
    harness = RunHarness(tmp_path, world=World(scenario=f"img-slow:{duration}"))
    harness.run(image("a cat", more="timeouts: {task_s: 600}\n"))
    assert not [line for line in harness.said if "still running" in line]


@pytest.mark.parametrize("scenario", ["hang-headers:1", "reset-before-headers:1", "5xx:1", "html502:1"])
def test_the_first_failure_of_a_run_is_reported_with_its_cause_before_anything_else_follows(
    tmp_path: Path, scenario: str
) -> None:
    harness = RunHarness(tmp_path, world=World(scenario=scenario))
    harness.run(chat("a", "b", "c", more="limits: {concurrency: 1}\n"))
    assert len([line for line in harness.said if "; retrying" in line]) == 1


@pytest.mark.parametrize("scenario", ["cut-mid-stream", "5xx", "reset-mid-stream"])
def test_a_failure_after_good_answers_is_reported_with_its_cause_and_stands_with_the_wait(
    tmp_path: Path, scenario: str
) -> None:
    shown: list[str] = []

    async def watching(snapshot: Callable[[], Status]) -> None:
        while True:
            await asyncio.sleep(0.5)
            shown.extend(lane.reason or "" for lane in snapshot().lanes)

    harness = RunHarness(tmp_path)
    broken = f"models: [sim/chat, 'sim/chat#{scenario}:2']"
    job = chat("a", more="limits: {concurrency: 1}\n").replace('model: "sim/chat"', broken)
    harness.run(job, progress=watching)
    told = [line for line in harness.said if "; retrying" in line]
    assert len(told) == 1
    cause = told[0].partition("; retrying")[0]
    waits = [reason for reason in shown if reason.endswith(f"; last problem: {cause}")]
    assert any(re.match(r"backing off \(retry in \d+ s\);", reason) for reason in waits)


def test_a_failure_that_is_the_items_last_try_is_not_called_tried_again(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="5xx"))
    harness.run(chat("a", more="retry: {attempts: 1}\n"))
    assert not [line for line in harness.said if "; retrying" in line]


def _pace(*, first_byte_s: float, idle_s: float = 120.0) -> TimeoutPolicy:
    return TimeoutPolicy(
        connect_s=10, first_byte_s=first_byte_s, idle_s=idle_s, total_s=600, window_s=idle_s, least_bytes=0
    )


@pytest.mark.parametrize(
    ("first_byte_s", "told"), [(120.0, [(60.0, 120.0)]), (90.0, [(60.0, 90.0)]), (60.0, []), (30.0, [])]
)
def test_a_request_that_receives_nothing_for_a_minute_is_reported_once(
    first_byte_s: float, told: list[tuple[float, float]]
) -> None:
    async def scene() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        began, record_outcome = loop.time(), list[tuple[float, float]]()
        on_silence = lambda limit_s: record_outcome.append((round(loop.time() - began), limit_s))  # noqa: E731 - one line
        with Deadlines(_pace(first_byte_s=first_byte_s), on_silence=on_silence) as watch:
            watch.request_leaves()
            await asyncio.Event().wait()
        assert watch.late == "first_byte"
        return record_outcome

    assert run_virtual(scene) == told


def test_pieces_that_come_are_no_silence_and_a_stop_after_them_is() -> None:
    async def scene() -> list[float]:
        loop = asyncio.get_running_loop()
        began, record_outcome = loop.time(), list[float]()
        with Deadlines(
            _pace(first_byte_s=120), on_silence=lambda _: record_outcome.append(round(loop.time() - began))
        ) as watch:
            watch.request_leaves()
            watch.head_came()
            for _ in range(10):
                await asyncio.sleep(30)
                watch.piece_came(10)
            await asyncio.Event().wait()
        assert watch.late == "idle"
        return record_outcome

    assert run_virtual(scene) == [360]


def test_requests_that_wait_together_are_reported_of_once() -> None:
    said: list[str] = []

    async def scene() -> None:
        transport = ApiTransport(PROVIDER, timeouts=Timeouts(), keys={}, say=said.append)
        for _ in range(64):
            transport._silent(120.0)
        await asyncio.sleep(120)
        transport._silent(120.0)

    run_virtual(scene)
    assert said == ["nothing received for 60 s from host.test:443; waiting up to 120 s"] * 2


PROVIDER = Provider(preset="openai", dialect="openai-chat", base_url="https://host.test/v1", key_env=(), auth="none")


@pytest.mark.parametrize("scenario", ["5xx:100000", "reset-before-headers:100000", "throttle:100000", "html502:100000"])
@pytest.mark.parametrize("more", ["deadline: 10m", "deadline: 2h"])
def test_an_end_from_outside_states_what_kept_everything_from_coming_through(
    tmp_path: Path, scenario: str, more: str
) -> None:
    harness = RunHarness(tmp_path, world=World(scenario=scenario))
    report = harness.run(chat("one", "two", more=f"{more}\nretry: {{attempts: 100}}"))
    message = report.status.message or ""
    assert (report.exit_status, report.status.items.done) == (3, 0)
    assert message.startswith("the deadline")
    assert "; no request succeeded: " in message
    assert api.status(str(harness.out)).message == message


def test_an_end_from_outside_names_no_trouble_that_did_not_keep_answers_away(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="5xx:1"))
    more = "deadline: 10m\nlimits: {concurrency: 1, requests_per_minute: 1}"
    report = harness.run(chat(*(f"prompt {n}" for n in range(40)), more=more))
    assert report.exit_status == 3
    assert report.status.items.done > 0
    assert "come through" not in (report.status.message or "")
