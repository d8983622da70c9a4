"""An image task from its submission to its picture, with everything that may befall it."""

from io import BytesIO

import pytest
from PIL import Image

from batchrunner.core.job import Json
from batchrunner.simulator.drawing import draw
from batchrunner.simulator.profiles import FaultRates, Latency
from batchrunner.simulator.script import Cut, Delay, Send
from batchrunner.simulator.world import World
from tests.simulator.calls import NOW, POLL, bearer, error_of, fetch, first, poll, reply, submit


def world_of(scenario: str | None = None, *, task_s: float = 10.0, rates: str = "") -> World:
    return World(scenario=scenario, latency=Latency(task_s=task_s), faults=FaultRates.parse(rates))


def task_of(world: World, *, prompt: str = "a cat", size: str = "512x512", seed: int = 0) -> str:
    return str(reply(submit(world, prompt=prompt, size=size, seed=seed))["task_id"])


def status(world: World, task: str, after_s: float) -> Json:
    return reply(poll(world, task, now=NOW + after_s)).get("task_status")


def url_of(world: World, task: str, after_s: float = 100.0) -> str:
    return str(first(reply(poll(world, task, now=NOW + after_s)), "output_images", 0))


def test_a_task_waits_runs_succeeds_and_its_picture_is_the_prompt_drawn() -> None:
    world = world_of()
    task = task_of(world, prompt="a blue cat", size="640x320", seed=5)
    assert [status(world, task, at) for at in (0, 3, 9.9, 10)] == ["PENDING", "PROCESSING", "RUNNING", "SUCCEED"]
    script = fetch(world, url_of(world, task), now=NOW + 100)
    assert (script.status, script.headers["content-type"]) == (200, "image/png")
    assert script.body == draw("a blue cat", (640, 320), 5)
    with Image.open(BytesIO(script.body)) as picture:
        picture.load()
        assert picture.size == (640, 320)


def test_the_picture_is_512_square_unless_a_size_is_asked_for() -> None:
    world = world_of()
    task = str(reply(submit(world))["task_id"])
    body = fetch(world, url_of(world, task), now=NOW + 100).body
    with Image.open(BytesIO(body)) as picture:
        assert picture.size == (512, 512)


@pytest.mark.parametrize("headers", [{}, {"x-modelscope-task-type": "aigc"}])
def test_without_the_task_type_a_poll_gets_the_stub_for_ever(headers: dict[str, str]) -> None:
    world = world_of()
    stub = reply(poll(world, task_of(world), headers=headers, now=NOW + 999))
    assert stub == {"request_id": "", "task_id": "", "task_status": "PROCESSING", "outputs": {}}


def test_a_task_is_unknown_to_other_tokens_and_unknown_tasks_to_all() -> None:
    world = world_of()
    task = str(reply(submit(world, headers={"x-modelscope-async-mode": "true", **bearer("mine")}))["task_id"])
    assert poll(world, task, headers={**POLL, **bearer("mine")}).status == 200
    assert poll(world, task, headers={**POLL, **bearer("other")}).status == 404
    assert error_of(poll(world, "nonsense")) == "task not found"


def test_a_picture_is_there_only_after_its_task_has_ended() -> None:
    world = world_of()
    task = task_of(world)
    url = url_of(world, task)
    assert fetch(world, url, now=NOW + 9).status == 404
    assert fetch(world, url, now=NOW + 10).status == 200


def test_a_world_made_anew_still_knows_the_tasks_of_the_earlier_one() -> None:
    task = task_of(world_of(), size="256x128")
    later = world_of()
    assert status(later, task, 5) != "SUCCEED"
    with Image.open(BytesIO(fetch(later, url_of(later, task), now=NOW + 100).body)) as picture:
        assert picture.size == (256, 128)
    assert poll(World(9), task).status == 404
    assert poll(later, task[:-1] + ("0" if task[-1] != "0" else "1")).status == 404


def test_equal_orders_are_different_tasks() -> None:
    world = world_of()
    assert task_of(world) != task_of(world)


def test_the_submit_reply_may_already_state_succeed() -> None:
    body = reply(submit(world_of("img-submit-says-succeed")))
    assert body["task_status"] == "SUCCEED"
    assert "output_images" not in body


def test_a_task_id_may_be_a_number() -> None:
    world = world_of("img-id-number")
    task = reply(submit(world))["task_id"]
    assert isinstance(task, int)
    assert reply(poll(world, task, now=NOW + 20))["task_status"] == "SUCCEED"


def test_a_task_takes_as_long_as_it_is_reported() -> None:
    world = world_of("img-slow:40")
    task = task_of(world)
    assert [status(world, task, at) for at in (39, 40)] == ["RUNNING", "SUCCEED"]


def test_a_task_may_fail_and_the_next_one_succeed() -> None:
    world = world_of("img-fail:1")
    failed, good = task_of(world), task_of(world)
    assert status(world, failed, 10) == "FAILED"
    assert (
        first(reply(poll(world, failed, now=NOW + 10)), "errors", "message") == "Model inference failed: out of memory"
    )
    assert status(world, good, 10) == "SUCCEED"


def test_the_reason_of_a_failure_may_come_a_second_later() -> None:
    world = world_of("img-fail-empty-then-text")
    task = task_of(world)
    assert reply(poll(world, task, now=NOW + 10))["errors"] == {"code": 0, "message": ""}
    assert first(reply(poll(world, task, now=NOW + 11)), "errors", "message")


def test_polls_may_be_stubs_or_refused_or_find_nothing_for_a_while() -> None:
    stubs = world_of("img-stub")
    assert reply(poll(stubs, task_of(stubs), now=NOW + 99))["task_id"] == ""
    refusing = world_of("img-poll-429:2")
    task = task_of(refusing)
    assert [poll(refusing, task, now=NOW + 99).status for _ in range(3)] == [429, 429, 200]
    late = world_of("img-notfound-grace:5")
    task = task_of(late)
    assert [poll(late, task, now=NOW + at).status for at in (0, 4.9, 5)] == [404, 404, 200]
    gone = world_of("img-gone")
    assert poll(gone, task_of(gone), now=NOW + 99).status == 404


def test_a_task_may_succeed_without_a_picture() -> None:
    world = world_of("img-no-urls")
    body = reply(poll(world, task_of(world), now=NOW + 99))
    assert (body["task_status"], body["output_images"]) == ("SUCCEED", [])


def test_the_picture_may_come_with_the_submit_reply() -> None:
    world = world_of("img-sync-result")
    body = reply(submit(world, headers={}))
    assert "task_id" not in body
    assert fetch(world, str(first(body, "images", 0, "url"))).status == 200


def test_strange_statuses_end_in_success() -> None:
    world = world_of("img-status-weird")
    task = task_of(world)
    said = [status(world, task, 99) for _ in range(5)]
    assert "" in said
    assert said[-1] == "SUCCEED"


def download(scenario: str) -> tuple[World, str]:
    world = world_of(scenario)
    return world, url_of(world, task_of(world))


def test_a_download_may_be_a_page_half_a_picture_or_cut_off() -> None:
    world, url = download("dl-html")
    page = fetch(world, url, now=NOW + 99)
    assert page.headers["content-type"] == "image/png"
    assert page.body.startswith(b"<!DOCTYPE html>")
    world, url = download("dl-truncated")
    assert b"IEND" not in fetch(world, url, now=NOW + 99).body
    world, url = download("dl-cut")
    script = fetch(world, url, now=NOW + 99)
    assert script.steps[-1] == Cut()
    assert int(script.headers["content-length"]) > len(script.body)


def test_a_download_may_be_missing_once_or_moved_once() -> None:
    world, url = download("dl-404-once")
    assert [fetch(world, url, now=NOW + 99).status for _ in range(2)] == [404, 200]
    world, url = download("dl-redirect")
    moved = fetch(world, url, now=NOW + 99)
    assert moved.status == 302
    assert fetch(world, moved.headers["location"], now=NOW + 99).body.startswith(b"\x89PNG")


def test_a_download_may_drip_be_misnamed_or_be_huge() -> None:
    world, url = download("dl-slow:10")
    steps = fetch(world, url, now=NOW + 99).steps
    assert sum(step.seconds for step in steps if isinstance(step, Delay)) == pytest.approx(10.0)
    world, url = download("dl-wrong-ext")
    assert url.endswith(".jpg")
    assert fetch(world, url, now=NOW + 99).body.startswith(b"\x89PNG")
    world, url = download("dl-huge")
    steps = fetch(world, url, now=NOW + 99).steps
    assert sum(len(step.piece) for step in steps if isinstance(step, Send)) > 64 * 1024 * 1024
    assert len({id(step.piece) for step in steps if isinstance(step, Send)}) == 2


def test_chance_befalls_tasks_polls_and_downloads() -> None:
    world = world_of(rates="task-fail=0.3,task-slow=0.3,poll-429=0.3,dl-404=0.3")
    tasks = [task_of(world, prompt=f"cat {at}") for at in range(100)]
    ended = [poll(world, task, now=NOW + 50) for task in tasks]
    said = [reply(script).get("task_status") for script in ended if script.status == 200]
    assert 10 < said.count("FAILED") < 35
    assert 10 < sum(word in {"PENDING", "RUNNING", "PROCESSING"} for word in said) < 35
    assert 15 < sum(script.status == 429 for script in ended) < 45


def test_polls_and_downloads_are_counted_apart_from_sends() -> None:
    world = world_of()
    task = task_of(world)
    for _ in range(3):
        poll(world, task)
    fetch(world, url_of(world, task), now=NOW + 99)
    stats = world.stats()
    assert (stats.sends, stats.polls, stats.most_polls_of_a_task, stats.downloads) == (1, 4, 4, 1)


@pytest.mark.parametrize("prompt", ["", "猫" * 40, "\ud83d", "a\x00b", "word " * 400])
def test_any_prompt_can_be_drawn(prompt: str) -> None:
    for size in ((64, 64), (2048, 64)):
        with Image.open(BytesIO(draw(prompt, size, 0))) as picture:
            assert picture.size == size
