"""An accepted task belongs to the server that accepted it; what it says of the key and of its place is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.status import Report
from batchrunner.engine.planning import same_server
from batchrunner.engine.work_queue import LoopClock
from tests.field.runs import KEY_ENV, Field, job_with
from tests.field.server import FieldServer, http, json_reply, serving
from tests.field.tasks import DONE, RUNNING, Tasks, image_job
from tests.support.virtual_time import run_virtual

GONE = json_reply({"errors": {"message": "task not found"}}, status=404)
LATE = {"timeouts": {"task_s": 20}}


class Servers:
    """Two servers at once, and runs of one job with the base URL of either."""

    def __init__(self, folder: Path, first: Tasks, second: Tasks) -> None:
        self.folder = folder
        self.first, self.second = first, second
        self.bases: list[str] = []

    def play(self, *runs: tuple[int, str, dict[str, Any]]) -> list[Report]:
        """(which server, what stands behind its address, further keys of the job) of each run."""

        async def main() -> list[Report]:
            async with serving(self.first) as first, serving(self.second) as second:
                self.bases = [first.base, second.base]
                return [
                    await self.run(number, (first, second)[which], path, changes)
                    for number, (which, path, changes) in enumerate(runs)
                ]

        return run_virtual(main)

    async def run(self, number: int, server: FieldServer, path: str, changes: dict[str, Any]) -> Report:
        file = self.folder / "job.yaml"
        job = job_with(**image_job(**changes))
        job["provider"]["base_url"] = server.base + path
        file.write_text(json.dumps(job), "utf-8")
        loaded = api.load_job(str(file), out=str(self.folder / "out"))
        clock = LoopClock(wall_at_zero=1_795_000_000.0 + 10_000.0 * number)
        return await api.run(loaded, clock=clock, say=lambda _: None)


def test_a_changed_base_url_orders_nothing_again_and_states_where_the_task_is(field: Field) -> None:
    servers = Servers(field.folder, Tasks(polls=[RUNNING]), Tasks(polls=[GONE]))
    late, moved, back = servers.play((0, "/v1", LATE), (1, "/v1", LATE), (0, "/v1", LATE))
    assert (late.exit_status, moved.exit_status) == (3, 3)
    assert (servers.first.orders, servers.second.orders, servers.second.polled) == (1, 0, {})
    assert servers.bases[0] in (moved.status.message or "")
    assert "provider.base_url" in (moved.status.message or "")
    assert back.exit_status == 3
    shown = api.status(str(field.folder / "out"))
    assert shown.items.accepted + shown.items.timed_out == 1


def test_the_picture_is_fetched_once_the_base_url_is_restored(field: Field) -> None:
    first = Tasks(at=lambda asked, _: RUNNING if asked.at_s < 21.0 else DONE)
    servers = Servers(field.folder, first, Tasks())
    reports = servers.play((0, "/v1", LATE), (1, "/v1", {}), (0, "/v1", {}))
    assert [report.exit_status for report in reports] == [3, 3, 0]
    assert (servers.first.orders, servers.second.orders) == (1, 0)


def test_further_tasks_of_an_order_are_not_forgotten_by_the_next_run(field: Field) -> None:
    first = Tasks(submits=[{"task_ids": ["T", "t8"]}], at=lambda asked, _: RUNNING if asked.at_s < 21.0 else DONE)
    servers = Servers(field.folder, first, Tasks())
    assert [report.exit_status for report in servers.play((0, "/v1", LATE), (0, "/v1", {}))] == [3, 0]
    (row,) = (field.folder / "out" / "results.jsonl").read_text("utf-8").splitlines()
    assert json.loads(row)["output"]["other_tasks"] == ["t8"]


def test_new_items_are_ordered_at_the_new_server_beside_old_tasks(field: Field) -> None:
    servers = Servers(field.folder, Tasks(polls=[RUNNING]), Tasks())
    reports = servers.play((0, "/v1", LATE), (1, "/v1", {"items": 3}))
    assert [report.exit_status for report in reports] == [3, 3]
    assert (servers.first.orders, servers.second.orders) == (1, 2)
    assert reports[1].status.items.done == 2


@pytest.mark.parametrize("path", ["", "/", "/v1/", "/v1/images/generations"])
def test_another_spelling_of_the_base_url_is_the_same_server(field: Field, path: str) -> None:
    first = Tasks(at=lambda asked, _: RUNNING if asked.at_s < 21.0 else DONE)
    servers = Servers(field.folder, first, Tasks())
    reports = servers.play((0, "/v1", LATE), (0, path, {}))
    assert [report.exit_status for report in reports] == [3, 0]
    assert servers.first.orders == 1


def test_tasks_of_a_key_that_the_job_names_no_more_wait_and_are_reported(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other-key-of-the-field")
    servers = Servers(field.folder, Tasks(polls=[RUNNING]), Tasks())
    renamed = {**LATE, "provider": {"api_key_env": "OTHER_KEY"}}
    _, after = servers.play((0, "/v1", LATE), (0, "/v1", renamed))
    assert (after.exit_status, servers.first.orders) == (3, 1)
    assert "add it to provider.api_key_env" in (after.status.message or "")
    assert "not set" not in (after.status.message or "")


def test_tasks_of_items_that_the_job_has_no_more_are_not_counted_as_its_own(field: Field) -> None:
    servers = Servers(field.folder, Tasks(polls=[RUNNING]), Tasks())
    _, after = servers.play((0, "/v1", LATE), (1, "/v1", {**LATE, "params": {"size": "128x128"}}))
    items = after.status.items
    assert (items.total, items.done, items.accepted, items.timed_out) == (1, 1, 0, 0)


def test_pictures_whose_addresses_are_known_need_no_server_to_be_asked(field: Field) -> None:
    broken = http(b"", status=500)
    first = Tasks()
    first.file = broken
    second = Tasks(at=lambda _asked, _order: GONE)
    servers = Servers(field.folder, first, second)
    late, moved = servers.play((0, "/v1", {}), (1, "/v1", {}))
    assert (late.exit_status, moved.exit_status) == (3, 3)
    assert (first.orders, second.orders, second.polled) == (1, 0, {})
    assert moved.status.items.accepted + moved.status.items.timed_out == 1


def test_an_old_ledger_without_origins_is_followed_as_before() -> None:
    assert same_server("", "https://anywhere.example/v1")
    assert not same_server("https://a.example/v1", "http://a.example/v1")
    assert not same_server("https://a.example/v1", "https://b.example/v1")
    assert not same_server("https://a.example/x/v1", "https://a.example/y/v1")
    assert same_server("https://A.example:443/v1/", "https://a.example")


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("gone", [True, False])
def test_pictures_whose_addresses_are_known_need_no_key(
    field: Field, monkeypatch: pytest.MonkeyPatch, *, named: bool, gone: bool
) -> None:
    """The key of the account that ordered them is not set any more, or not named by the job: nothing is ordered."""
    monkeypatch.setenv("OTHER_KEY", "sk-other-key-of-the-field")
    first = Tasks(file=http(b"", status=500))
    servers = Servers(field.folder, first, Tasks())
    keys = {"provider": {"api_key_env": [KEY_ENV, "OTHER_KEY"] if named else "OTHER_KEY"}}

    async def second_life() -> tuple[Report, Report]:
        async with serving(first) as server:
            one = await servers.run(0, server, "/v1", {})
            monkeypatch.delenv(KEY_ENV)
            first.file = http(b"", status=404) if gone else None
            return one, await servers.run(1, server, "/v1", keys)

    late, last = run_virtual(second_life)
    polls = sum(first.polled.values())
    assert (late.exit_status, last.exit_status) == (3, 3 if gone else 0)
    assert (first.orders, last.status.items.done) == (1, 0 if gone else 1)
    assert polls == sum(first.polled.values())


def test_plan_states_which_accepted_tasks_a_run_could_not_ask_for(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = Servers(field.folder, Tasks(polls=[RUNNING]), Tasks())
    servers.play((0, "/v1", LATE))
    file = field.folder / "job.yaml"
    out = str(field.folder / "out")

    def notes() -> str:
        return " | ".join(run_virtual(api.plan(api.load_job(str(file), out=out))).notes)

    assert "remote task" not in notes()
    text = file.read_text("utf-8")
    file.write_text(text.replace(servers.bases[0], "https://elsewhere.example"), "utf-8")
    assert f"1 remote task started at {servers.bases[0]}" in notes()
    file.write_text(text.replace(KEY_ENV, "OTHER_KEY"), "utf-8")
    assert f"started with the API key in {KEY_ENV}; add it to provider.api_key_env" in notes()
    file.write_text(text, "utf-8")
    monkeypatch.delenv(KEY_ENV)
    assert f"waiting for the API key in {KEY_ENV}, which is not set" in notes()
