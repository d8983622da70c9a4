"""The live display on a terminal: pyte stands for one, and every frame of a run with every wait is looked at."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO, cast

import pytest
from rich.cells import cell_len

from batchrunner.cli.live import LiveDisplay, Screen
from batchrunner.core.status import Status
from batchrunner.core.values import replace
from tests.support.engine import MONDAY_EVENING, Latency, RunHarness, World
from tests.support.virtual_time import run_virtual

pyte = pytest.importorskip("pyte", reason="the extra `dev` has pyte, a terminal in Python")

MODELS: Final = (
    "sim/talker",
    "sim/通义千问-很长的名字-👩‍👩‍👧-plus#quota-model:40",
    "sim/wait#retry-after:45",
    "sim/flaky#throttle:12",
    "sim/broken#5xx:1",
    "sim/gone#bad-model-id",
    "sim/🇩🇪-huge#retry-after-huge",
)
LASTS_S: Final = 120.0
FRAME_S: Final = 0.5
GLYPHS: Final = "▶↻⏸✕✓"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Status]:
    """How a run with every park stands, twice a second for two minutes."""
    seen: list[Status] = []

    async def look(snapshot: Callable[[], Status]) -> None:
        while len(seen) < LASTS_S / FRAME_S:
            seen.append(snapshot())
            await asyncio.sleep(FRAME_S)

    listed = ", ".join(f'"{model}"' for model in MODELS)
    prompts = "\n".join(f"  - question {number}" for number in range(150))
    harness = RunHarness(tmp_path_factory.mktemp("night"), world=World(latency=Latency(first_byte_s=2.0, spread=0.3)))
    harness.run(
        f"name: 夜-night\nprovider: simulator\nmodels: [{listed}]\nlimits: {{concurrency: 4}}\nprompts:\n{prompts}\n",
        progress=look,
    )
    assert {lane.activity for status in seen for lane in status.lanes} >= {"working", "parked", "closed", "done"}
    return seen


@dataclass
class Terminal:
    """A stream that is a terminal of that size."""

    columns: int
    lines: int
    encoding: str = "utf-8"
    written: int = 0
    writes: int = 0
    screen: Any = field(init=False)
    stream: Any = field(init=False)

    def __post_init__(self) -> None:
        self.screen = pyte.Screen(self.columns, self.lines)
        self.screen.set_mode(pyte.modes.LNM)
        self.stream = pyte.Stream(self.screen)

    def write(self, text: str) -> int:
        self.written += len(text.encode())
        self.writes += 1
        self.stream.feed(text)
        return len(text)

    def flush(self) -> None:
        return

    def size(self) -> tuple[int, int]:
        return self.columns, self.lines

    def rows(self) -> list[str]:
        return [row.rstrip() for row in self.screen.display if row.strip()]


def watched(terminal: Terminal, frames: list[Status], look: Callable[[Status, list[str]], None]) -> None:
    """Play the frames in virtual time; `look` sees each as it stands on the terminal."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        began_s, shown = loop.time(), iter(frames)
        last: list[Status] = []

        def snapshot() -> Status:
            if last:
                look(last[-1], terminal.rows())
            status = next(shown, frames[-1])
            last.append(status)
            return status

        def now() -> datetime:
            return datetime.fromtimestamp(MONDAY_EVENING + loop.time() - began_s, UTC)

        display = LiveDisplay(stream=cast("TextIO", terminal), size=terminal.size, now=now, every_s=FRAME_S)
        following = asyncio.create_task(display.follow(snapshot))
        await asyncio.sleep(LASTS_S)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run_virtual(play)


@pytest.mark.parametrize("lines", [10, 24, 50])
@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_every_frame_has_the_totals_and_each_lane_it_shows_on_one_line(
    frames: list[Status], columns: int, lines: int
) -> None:
    terminal = Terminal(columns, lines)
    terminal.write("$ batchrunner run night.yaml\n")
    counts = set[int]()

    def look(status: Status, rows: list[str]) -> None:
        finished = status.items.done + status.items.failed
        assert rows[0] == "$ batchrunner run night.yaml", rows
        assert f"{finished:,}/1,050" in rows[1], rows
        lanes = [row for row in rows if row[0] in GLYPHS and not row.startswith(f"✕ {status.items.failed:,} failed")]
        missing = [row for row in rows if row.startswith("and ")]
        assert len(lanes) + (int(missing[0].split()[1]) if missing else 0) == len(MODELS), rows
        assert len(rows) <= lines - 1, "the blocks leave two lines alone; one of them has the prompt here"
        if status.items.failed:
            assert any("failed" in row for row in rows), rows
        counts.add(len(lanes))

    watched(terminal, frames, look)
    assert max(counts) >= min(len(MODELS), 3)
    assert terminal.rows() == ["$ batchrunner run night.yaml"], "nothing is left behind"
    assert not terminal.screen.cursor.hidden
    assert terminal.written / LASTS_S <= 2000
    assert terminal.writes / LASTS_S <= 4


def test_no_line_is_as_wide_as_the_terminal_with_cjk_and_emoji_names(
    frames: list[Status], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def draw(_: Screen, lines: list[Any]) -> None:
        drawn.extend(sum(cell_len(text) for text, _ in line) for line in lines)

    monkeypatch.setattr(Screen, "draw", draw)
    for columns in (40, 60, 80):
        drawn.clear()
        watched(Terminal(columns, 24), frames, lambda _, __: None)
        assert max(drawn) < columns


def test_nothing_is_written_where_nothing_has_changed(frames: list[Status]) -> None:
    terminal = Terminal(80, 24)
    screen = Screen(cast("TextIO", terminal), size=terminal.size)
    screen.draw([(("one", ""),), (("two", "bold"),)])
    written = terminal.written
    screen.draw([(("one", ""),), (("two", "bold"),)])
    assert terminal.written == written
    screen.draw([(("one", ""),), (("three", "bold"),)])
    assert terminal.written - written < 30, "the line that did not change is not written again"
    assert terminal.rows() == ["one", "three"]


def test_blocks_grow_shrink_and_let_messages_pass_above(frames: list[Status]) -> None:
    terminal = Terminal(80, 6)
    screen = Screen(cast("TextIO", terminal), size=terminal.size)
    screen.draw([(("one", ""),)])
    screen.draw([(("one", ""),), (("two", ""),), (("three", ""),)])
    screen.print_above("a message\n")
    assert terminal.rows() == ["a message", "one", "two", "three"]
    screen.draw([(("uno", ""),)])
    assert terminal.rows() == ["a message", "uno"]
    for number in range(8):
        screen.print_above(f"message {number}\n")
    screen.draw([(("uno", ""),), (("due", ""),)])
    assert terminal.rows() == ["message 5", "message 6", "message 7", "uno", "due"]
    screen.close()
    assert terminal.rows() == ["message 5", "message 6", "message 7"]


def test_a_terminal_that_changes_its_size_shows_each_line_once(frames: list[Status]) -> None:
    terminal = Terminal(80, 24)
    screen = Screen(cast("TextIO", terminal), size=terminal.size)
    lines: list[Any] = [((f"line {number}", ""),) for number in range(5)]
    screen.draw(lines)
    for columns in (120, 60, 90):
        terminal.columns = columns
        terminal.screen.resize(24, columns)
        screen.draw(lines)
        assert terminal.rows() == [f"line {number}" for number in range(5)]


def test_several_jobs_share_the_terminal(frames: list[Status]) -> None:
    terminal = Terminal(80, 24)

    async def play() -> None:
        display = LiveDisplay(stream=cast("TextIO", terminal), size=terminal.size)
        jobs = [asyncio.create_task(display.follow(_status_of(replace(frames[100], job=name)))) for name in ("a", "b")]
        await asyncio.sleep(2.0)
        assert len(terminal.rows()) <= 22
        assert sum("1,050" in row for row in terminal.rows()) == 2
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    run_virtual(play)
    assert terminal.rows() == []


def _status_of(status: Status) -> Callable[[], Status]:
    return lambda: status


def test_what_is_printed_to_stderr_meanwhile_stands_above(frames: list[Status], tmp_path: Path) -> None:
    terminal = Terminal(80, 24)

    async def play() -> None:
        import sys  # noqa: PLC0415 - the stream is looked up when it is written to

        display = LiveDisplay(stream=cast("TextIO", terminal), size=terminal.size)
        job = asyncio.create_task(display.follow(_status_of(frames[100])))
        await asyncio.sleep(1.0)
        sys.stderr.write("server error; ret")
        sys.stderr.write("rying\n")
        assert terminal.rows()[0] == "server error; retrying"
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)

    run_virtual(play)
    assert terminal.rows() == ["server error; retrying"]
