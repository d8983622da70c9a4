"""Between an answer and the disk: what is in line is bounded, held, told when the disk refuses it, never cut off."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from batchrunner.core.events import Done
from batchrunner.core.http import Completed, Decoder, Gate, Request, ResponseHead
from batchrunner.core.status import Report
from batchrunner.engine import send_records
from batchrunner.stores.files import Disk
from batchrunner.transport.deadlines import passed
from tests.support.json_lines import json_lines
from tests.support.waiting import PATIENCE_S

T = TypeVar("T")
ITEMS: Final = 60
AT_ONCE: Final = 8


def body(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    answer = {"id": "c1", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return json.dumps(answer | {"usage": {"prompt_tokens": 9, "completion_tokens": 80}}).encode()


@dataclass
class Echo:
    """Answers at once with the prompt. Holds what it is told to hold."""

    takes_gates: bool = True
    posts: int = 0
    held_bytes: int = 0
    most_held_bytes: int = 0
    posted: asyncio.Event = field(default_factory=asyncio.Event)

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        if gate is not None:
            await passed(gate)
        self.posts += 1
        self.posted.set()
        decoder.begin(ResponseHead(status=200, headers={"content-type": "application/json"}, received_at=0.0))
        decoder.feed(body(json.loads(request.body or b"")["messages"][-1]["content"]))
        return decoder.end(Completed())

    @contextmanager
    def hold(self, size_bytes: int) -> Iterator[None]:
        self.held_bytes += size_bytes
        self.most_held_bytes = max(self.most_held_bytes, self.held_bytes)
        yield
        self.held_bytes -= size_bytes


@dataclass
class Gatekeeper:
    """Whoever syncs a file of this name waits until it is let go, or is refused."""

    name: str
    held: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    refusal: OSError | None = None
    armed: bool = True

    def install(self, patch: pytest.MonkeyPatch) -> None:
        fsync = Disk.fsync

        def watched(disk: Disk, descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - a descriptor's own name
            if self.armed and self.name in path:
                if self.refusal is not None:
                    raise self.refusal
                self.held.set()
                assert self.let_go.wait(PATIENCE_S)
            fsync(disk, descriptor)

        patch.setattr(Disk, "fsync", watched)


async def run(folder: Path, transport: Echo, said: list[str], more: str = "") -> Report:
    (folder / "prompts.txt").write_text("".join(f"question {number}\n" for number in range(ITEMS)), "utf-8")
    (folder / "job.yaml").write_text(
        "name: job\nprovider: {preset: openai, base_url: 'http://127.0.0.1:9/v1', api_key_env: [], auth: none}\n"
        f"model: m\nstream: false\nprompts: {{file: prompts.txt}}\nlimits: {{concurrency: {AT_ONCE}}}\n{more}\n",
        "utf-8",
    )
    job = api.load_job(str(folder / "job.yaml"), out=str(folder / "out"))
    network: Any = transport, transport
    return await api.run(job, network=network, say=said.append)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    text = "".join(path.read_text("ascii") for path in sorted((folder / "out" / "ledger").glob("*.jsonl")))
    return [record for record in map(json.loads, text.splitlines()) if record["e"] == name]


async def until_quiet(transport: Echo) -> int:
    """The posts, once there have been no more for a while."""
    posts = -1
    while posts != transport.posts:
        posts = transport.posts
        await asyncio.sleep(0.2)
    return posts


async def until_all_are_held(transport: Echo) -> None:
    """Every item has its answer, and no answer is durable."""
    async with asyncio.timeout(PATIENCE_S):
        while transport.posts < ITEMS or transport.held_bytes <= 20 * ITEMS:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.01)


def test_no_more_requests_leave_than_a_power_loss_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes its time with the ledger: the first intents are written and sent, the next ones wait for it."""
    keeper = Gatekeeper("ledger/000001.jsonl", armed=False)
    keeper.install(monkeypatch)

    async def scene() -> None:
        transport, said = Echo(), list[str]()
        running = asyncio.ensure_future(run(tmp_path, transport, said))
        await transport.posted.wait()
        keeper.armed = True  # the segment's own beginning is durable by now
        assert await until_quiet(transport) <= AT_ONCE
        keeper.let_go.set()
        assert (await running).exit_status is ExitStatus.DONE

    asyncio.run(scene())


def test_an_answer_is_held_until_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Gatekeeper("results.jsonl")
    keeper.install(monkeypatch)

    async def scene() -> None:
        transport, said = Echo(), list[str]()
        running = asyncio.ensure_future(run(tmp_path, transport, said))
        await asyncio.to_thread(keeper.held.wait, PATIENCE_S)
        await until_all_are_held(transport)
        assert transport.held_bytes == transport.most_held_bytes
        keeper.let_go.set()
        assert (await running).exit_status is ExitStatus.DONE
        assert (transport.held_bytes, len(json_lines(tmp_path / "out" / "results.jsonl"))) == (0, ITEMS)

    asyncio.run(scene())


def test_every_answer_in_line_is_reported_when_the_disk_refuses_it_and_nothing_more_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Gatekeeper("results.jsonl", refusal=OSError(5, "Input/output error"))
    keeper.install(monkeypatch)

    async def scene() -> None:
        transport, said = Echo(), list[str]()
        report = await run(tmp_path, transport, said)
        assert report.exit_status is ExitStatus.STOPPED
        assert "Input/output error" in str(report.status.message)
        told = [line for line in said if "could not save this answer" in line]
        assert len(set(told)) == len(told) == transport.posts < ITEMS
        assert not events(tmp_path, "done")

    asyncio.run(scene())


def test_a_run_that_is_cancelled_records_what_is_in_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Gatekeeper("results.jsonl")
    keeper.install(monkeypatch)

    async def scene() -> None:
        transport, said = Echo(), list[str]()
        running = asyncio.ensure_future(run(tmp_path, transport, said))
        await asyncio.to_thread(keeper.held.wait, PATIENCE_S)
        await until_all_are_held(transport)
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0.01)
        assert not running.done()
        keeper.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (len(json_lines(tmp_path / "out" / "results.jsonl")), len(events(tmp_path, "done"))) == (ITEMS, ITEMS)

    asyncio.run(scene())


def test_a_fault_of_ours_behind_a_row_fails_its_item_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store calls back into breaks for one item of a batch: the others of the batch are recorded."""
    whole = Done

    def broken(**named: Any) -> Any:
        if len(broken_ones) == 3:
            broken_ones.append(named["i"])
            raise KeyError("no such thing")
        broken_ones.append("")
        return whole(**named)

    broken_ones: list[str] = []
    monkeypatch.setattr(send_records, "Done", broken)

    async def scene() -> None:
        transport, said = Echo(), list[str]()
        report = await run(tmp_path, transport, said)
        assert (report.exit_status, report.status.items.done) == (ExitStatus.FAILED, ITEMS - 1)
        (failure,) = json_lines(tmp_path / "out" / "failures.jsonl")
        assert (failure["error"]["class"], failure["id"]) == ("internal", broken_ones[3])
        assert "KeyError" in (tmp_path / "out" / "errors.log").read_text("utf-8")
        assert any("could not save this answer" in line for line in said)

    asyncio.run(scene())
