"""A run awaited in somebody's service: no step of its start, its work and its end keeps the loop to itself.

Not by timings: by the threads that touch the run's files, and by the turns that another task of the loop gets.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from batchrunner import api, wiring
from batchrunner.core.errors import LockHeldError
from batchrunner.core.events import Parked
from batchrunner.core.status import Report
from batchrunner.providers.structured import SchemaCheck
from batchrunner.stores import takeover
from batchrunner.stores.files import Disk
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.lock import RunLock
from tests.support.engine import RunHarness, chat
from tests.support.waiting import PATIENCE_S

T = TypeVar("T")
TOUCHES = frozenset(
    {"open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.chmod", "fcntl.flock"}
)
"""Audit events of calls that wait for a disk."""
MANY = 1_500


@dataclass
class Touched:
    """Files below a folder that were touched by the thread of the loop."""

    folder: str
    by_loop: list[str] = field(default_factory=list)
    active: bool = True
    thread: int = field(default_factory=threading.get_ident)

    def hook(self, event: str, given: tuple[Any, ...]) -> None:
        if self.active and event in TOUCHES and threading.get_ident() == self.thread:
            what = str(given[0]) if given else ""
            if event == "fcntl.flock" or what.startswith(self.folder):
                self.by_loop.append(f"{event} {what}")


@pytest.fixture
def touched(tmp_path: Path) -> Iterator[Touched]:
    watched = Touched(folder=str(tmp_path / "out"))
    sys.addaudithook(watched.hook)
    yield watched
    watched.active = False


def job_of(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "job.yaml"
    path.write_text(text, "utf-8")
    return api.load_job(str(path), simulate=True, out=str(tmp_path / "out"))


def prompts(count: int) -> tuple[str, ...]:
    return tuple(f"prompt {number}" for number in range(count))


@dataclass
class Beat:
    """Another task of the loop."""

    turns: int = 0

    async def go_on(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


def beside(work: Callable[[], Coroutine[Any, Any, T]], beat: Beat | None = None) -> tuple[T, int]:
    """On a loop in real time, with a task that counts its own turns."""
    other = beat or Beat()

    async def main() -> tuple[T, int]:
        beating = asyncio.create_task(other.go_on())
        try:
            return await work(), other.turns
        finally:
            beating.cancel()

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["chat", "image", "each"])
def test_the_loops_thread_touches_no_file_of_the_run(tmp_path: Path, touched: Touched, kind: str) -> None:
    more = {
        "chat": "durability: full",
        "image": "kind: image\nparams: {size: 64x64}",
        "each": 'output: {each: "a/{{ id }}.md"}',
    }[kind]
    model = "Qwen/Qwen-Image" if kind == "image" else "sim/chat"
    for count in (3, 5, 2):  # a first run, one that goes on, one whose rows move
        job = job_of(tmp_path, chat(*prompts(count), model=model, more=more))
        report, _ = beside(lambda job=job: api.run(job, say=lambda _: None))  # type: ignore[misc]  # bound at once
        assert report.exit_status == 0
    assert touched.by_loop == []


def test_a_lock_that_is_held_is_waited_for_beside_the_loop(tmp_path: Path, touched: Touched) -> None:
    touched.active = False
    job = job_of(tmp_path, chat("one"))
    (tmp_path / "out").mkdir()
    slept: list[int] = []

    async def turned_away() -> str:
        with pytest.raises(LockHeldError) as refused:
            await api.run(job, say=lambda _: None)
        return str(refused.value)

    with RunLock(tmp_path / "out"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchrunner.stores.lock.time.sleep", lambda _: slept.append(threading.get_ident()))
        touched.active = True
        words, _ = beside(turned_away)
        touched.active = False
    assert "already running (pid " in words
    assert slept
    assert threading.get_ident() not in slept
    assert touched.by_loop == []


def test_the_ledger_is_replayed_beside_the_loop_and_others_have_turns_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = RunHarness(tmp_path)
    harness.run(chat(*prompts(4)))
    (segment,) = (harness.out / "ledger").glob("*.jsonl")
    assert len(list(read_ledger(harness.out / "ledger"))) > 4, segment
    threads: list[int] = []
    names = ("remove_leftovers", "windows_that_worked", "digest_of_job", "remember_totals")
    for module, name in ((takeover, "replay"), *((wiring, name) for name in names)):
        whole = getattr(module, name)

        def noted(*given: Any, whole: Any = whole, **named: Any) -> Any:
            threads.append(threading.get_ident())
            return whole(*given, **named)

        monkeypatch.setattr(module, name, noted)
    job = job_of(tmp_path, chat(*prompts(4)))
    beside(lambda: api.run(job, say=lambda _: None))
    assert len(threads) >= 5
    assert threading.get_ident() not in threads


def test_a_long_source_in_memory_lets_others_have_turns(tmp_path: Path) -> None:
    job = job_of(tmp_path, chat(*prompts(MANY)))

    async def limited() -> Report:
        return await api.run(job, say=lambda _: None, limit=1)

    report, turns = beside(limited)
    assert report.status.items.total == MANY
    assert turns > MANY / 64
    _, planned = beside(lambda: api.plan(job))
    assert planned > MANY / 64


def test_a_slow_start_that_is_cancelled_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path, chat("one"))
    begun, go_on = threading.Event(), threading.Event()
    whole = RunLock.acquire

    def slow(self: RunLock) -> None:
        begun.set()
        go_on.wait(PATIENCE_S)
        whole(self)

    monkeypatch.setattr(RunLock, "acquire", slow)

    async def cancelled() -> None:
        running = asyncio.create_task(api.run(job, say=lambda _: None))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        running.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    monkeypatch.undo()
    report, _ = beside(lambda: api.run(job, say=lambda _: None))
    assert report.exit_status == 0


EVENTS = 50_000


def test_a_ledger_of_fifty_thousand_events_on_a_slow_disk_lets_others_have_turns(
    tmp_path: Path, touched: Touched, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunHarness(tmp_path).run(chat("one", "two"))
    (segment,) = (tmp_path / "out" / "ledger").glob("*.jsonl")
    lines = segment.read_bytes().splitlines()
    at = time.time()
    with segment.open("wb") as file:
        file.write(lines[0] + b"\n")
        for number in range(1, EVENTS):
            parked = Parked(account="", model="sim/chat", kind="throttle", reason=f"{number}", until=1.0)
            file.write(encode_line(parked, sequence=number, at=at, durable=0))
    slow, beat, without_turns = Disk.read_at, Beat(), list[int]()

    def read_slowly(self: Disk, descriptor: int, size_bytes: int, offset: int) -> bytes:
        """Waits for turns of the other task: in the loop's own thread it would wait for ever."""
        goal, end = beat.turns + 10, time.monotonic() + 60
        while beat.turns < goal and not without_turns:
            if time.monotonic() > end:
                without_turns.append(offset)
            time.sleep(0.001)
        return slow(self, descriptor, size_bytes, offset)

    monkeypatch.setattr(Disk, "read_at", read_slowly)
    job = job_of(tmp_path, chat("one", "two"))
    touched.by_loop.clear()
    report, turns = beside(lambda: api.run(job, say=lambda _: None), beat)
    assert report.exit_status == 0
    assert touched.by_loop == []
    assert without_turns == [], "a read during which the loop stood still"
    assert turns > 500, "ten for each read of fifty thousand lines"


HOSTILE = "a" * 40 + "!"


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", r"^(a|aa)+(?!b)$", r"^((a+)+)\\1$"])
def test_a_hostile_answer_to_a_pattern_is_a_miss_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    look = SchemaCheck.look

    def hostile(self: SchemaCheck, _: str) -> Any:
        return look(self, f'"{HOSTILE}"')

    monkeypatch.setattr(SchemaCheck, "look", hostile)
    schema = f'schema: {{type: string, pattern: "{pattern}"}}'
    job = job_of(tmp_path, chat("one", "two", more=f"{schema}\nretry: {{attempts: 2}}"))
    report, _ = beside(lambda: api.run(job, say=lambda _: None))
    assert (report.exit_status, report.status.items.failed) == (1, 2)
    assert {group.kind for group in report.status.failures} == {"schema_miss"}
