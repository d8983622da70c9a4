"""Tasks whose ids the client chooses: whatever becomes of a reply, or of the process, no send stays in doubt."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from batchrunner.core.events import NAMED_VERSION
from batchrunner.core.http import Completed, Decoder, Interrupted, Request, ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Problem
from batchrunner.core.ports import Write
from batchrunner.core.status import Report
from batchrunner.engine.work_queue import LoopClock
from tests.support.json_lines import json_lines
from tests.support.task_server import png_of
from tests.support.virtual_time import run_virtual

T = TypeVar("T")
BEGAN = 1_795_000_000.0
Fate: TypeAlias = Literal["reply", "reset", "timeout", "error", "half a reply", "cut"]
"""What becomes of the reply to an order. `cut`: the run's directory is copied, as a kill would leave it."""


@dataclass
class Comfy:
    """A `Transport` and `Downloads`: takes orders under the ids that they choose or does not, answers or does not."""

    folder: Path
    fates: Sequence[tuple[bool, Fate]] = ()
    """(whether it takes the order, what comes back), of one order after the other; afterwards all is well."""
    tasks: dict[str, str] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    """Texts of the orders that it took."""
    asked: int = 0
    polls: dict[str, int] = field(default_factory=dict)
    copies: int = 0

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        await asyncio.sleep(0.05)
        path = request.url.removeprefix("http://127.0.0.1:8188")
        if request.method == "POST":
            return await self._order(json.loads(request.body or b""), decoder)
        if path == "/queue":
            rows: list[Json] = [[1, task, {}] for task in self.tasks]
            return _decoded(decoder, 200, {"queue_running": rows[:1], "queue_pending": rows[1:]})
        task = path.removeprefix("/history/")
        self.polls[task] = self.polls.get(task, 0) + 1
        if task not in self.tasks or self.polls[task] < 3:
            return _decoded(decoder, 200, {})
        picture: Json = {"filename": f"{self.tasks[task]}.png", "subfolder": "", "type": "output"}
        return _decoded(
            decoder, 200, {task: {"status": {"status_str": "success"}, "outputs": {"9": {"images": [picture]}}}}
        )

    async def _order(self, body: dict[str, Any], decoder: Decoder[T]) -> T:
        takes, fate = self.fates[self.asked] if self.asked < len(self.fates) else (True, "reply")
        self.asked += 1
        if takes:
            self.tasks[body["prompt_id"]] = body["prompt"]["6"]["inputs"]["text"]
            self.orders.append(body["prompt"]["6"]["inputs"]["text"])
        match fate:
            case "cut":
                self.copies += 1
                shutil.copytree(self.folder / "out", self.folder / "killed")
            case "reset" | "timeout":
                return decoder.end(Interrupted(cause=fate, message=fate, sent=True))
            case "error":
                return _decoded(decoder, 500, {"error": "out of memory"})
            case "half a reply":
                decoder.begin(_head(200))
                decoder.feed(b'{"prom')
                return decoder.end(Interrupted(cause="reset", message="reset", sent=True))
            case "reply":
                pass
        return _decoded(decoder, 200, {"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    async def fetch(self, url: str, *, account: str = "") -> bytes | Problem:
        return png_of(url)

    async def fetch_into(self, url: str, write: Write, *, account: str = "") -> Problem | None:
        await write(png_of(url))
        return None


def _head(status: int) -> ResponseHead:
    return ResponseHead(status=status, headers={"content-type": "application/json"}, received_at=BEGAN)


def _decoded(decoder: Decoder[T], status: int, value: Json) -> T:
    decoder.begin(_head(status))
    decoder.feed(json.dumps(value).encode())
    return decoder.end(Completed())


GRAPH = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{ prompt }}"}}}
JOB = """
provider: {dialect: task, task: comfyui, body_file: graph.json}
kind: image
model: sd
limits: {concurrency: 1}
retry: {attempts: 2}
on_ambiguous: hold
prompts: [a cat, a dog, a pond]
"""


def run(server: Comfy, *, out: str = "out", began: float = BEGAN) -> Report:
    folder = server.folder
    (folder / "graph.json").write_text(json.dumps(GRAPH))
    (folder / "job.yaml").write_text(JOB)
    job = api.load_job(str(folder / "job.yaml"), out=str(folder / out))

    async def main() -> Report:
        clock = LoopClock(wall_at_zero=began)
        return await api.run(job, clock=clock, network=(server, server), say=lambda _: None)

    return run_virtual(main)


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [line for path in sorted((folder / "ledger").glob("*.jsonl")) for line in json_lines(path)]


PROMPTS = ["a cat", "a dog", "a pond"]


@pytest.mark.parametrize("fate", ["reset", "timeout", "error", "half a reply"])
def test_an_order_whose_reply_is_lost_is_found_by_its_id_and_not_sent_again(tmp_path: Path, fate: Fate) -> None:
    server = Comfy(tmp_path, [(True, fate)] * 3)
    report = run(server)
    rows = json_lines(tmp_path / "out" / "results.jsonl")
    assert report.exit_status is ExitStatus.DONE
    assert (server.orders, len(rows)) == (PROMPTS, 3)
    assert [(row["attempts"], row.get("ambiguous", 0)) for row in rows] == [(1, 0)] * 3
    assert report.status.sends.possible_duplicates == 0


@pytest.mark.parametrize("fate", ["reset", "timeout", "error", "half a reply"])
def test_an_order_that_the_server_never_had_is_sent_again_and_is_no_doubt(tmp_path: Path, fate: Fate) -> None:
    server = Comfy(tmp_path, [(False, fate)])
    report = run(server)
    assert report.exit_status is ExitStatus.DONE
    assert sorted(server.orders) == PROMPTS
    assert report.status.sends.possible_duplicates == 0


def test_errors_of_orders_that_are_never_taken_use_up_the_attempts(tmp_path: Path) -> None:
    server = Comfy(tmp_path, [(False, "error")] * 6)
    report = run(server)
    assert report.exit_status is not ExitStatus.DONE
    assert server.orders == []
    assert server.asked <= 6
    failed = json_lines(tmp_path / "out" / "failures.jsonl")
    assert all((row["attempts"], row["error"]["class"]) == (2, "server_error") for row in failed)


@pytest.mark.parametrize("takes", [True, False], ids=["the server has it", "the server never had it"])
def test_after_a_kill_an_order_under_way_is_asked_for_by_its_id(tmp_path: Path, takes: bool) -> None:  # noqa: FBT001 - parametrized
    server = Comfy(tmp_path, [(True, "reply"), (takes, "cut")])
    run(server)
    assert server.copies == 1
    server.orders[:] = server.orders[: 2 if takes else 1]
    server.tasks = {task: text for task, text in server.tasks.items() if text in server.orders}
    report = run(server, out="killed", began=BEGAN + 5.0)
    rows = json_lines(tmp_path / "killed" / "results.jsonl")
    assert report.exit_status is ExitStatus.DONE
    assert sorted(server.orders) == PROMPTS
    assert sorted((row["attempts"], row.get("ambiguous", 0)) for row in rows) == [(1, 0)] * 3
    assert report.status.sends.possible_duplicates == 0


def test_the_id_is_in_the_ledger_before_its_order_and_older_programs_refuse_it(tmp_path: Path) -> None:
    server = Comfy(tmp_path)
    run(server)
    lines = ledger(tmp_path / "out")
    assert lines[0]["version"] == NAMED_VERSION
    for place, line in enumerate(lines):
        if line["e"] == "intent":
            before = lines[place - 1]
            assert (before["e"], before["k"], before["origin"]) == ("named", line["k"], "http://127.0.0.1:8188")
            assert server.tasks[before["task"]] in PROMPTS
