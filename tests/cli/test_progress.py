"""What people see while a run goes on."""

import asyncio
import gc
import io
import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from batchrunner.cli.block import ASCII, View, block
from batchrunner.cli.event_file import EventFile
from batchrunner.cli.live import LiveDisplay
from batchrunner.cli.progress import Display, LineDisplay, Progress, colours_wanted, display
from batchrunner.core.errors import ExitStatus
from batchrunner.core.outcome import ProblemKind
from batchrunner.core.status import FailureGroup, ItemCounts, LaneStatus, SendCounts, Status, UsageCounts
from batchrunner.core.values import replace
from batchrunner.report.pace import RunPace
from tests.support.virtual_time import run_virtual
from tests.support.waiting import PATIENCE_S

START = Status(
    job="cats",
    state="running",
    items=ItemCounts(total=600, pending=600),
    sends=SendCounts(),
    usage=UsageCounts(),
    lanes=(LaneStatus(account="KEY", model="Qwen", state="open", concurrency=4, in_flight=3, total=600, left=600),),
    timezone="UTC",
)
LATER = replace(START, items=ItemCounts(total=600, done=500, failed=2, pending=98), usage=UsageCounts(images=500))
PARKED = replace(
    LATER,
    lanes=(
        LaneStatus(
            account="KEY",
            model="Qwen",
            state="parked",
            activity="parked",
            kind=ProblemKind.QUOTA_MODEL,
            reason="daily model quota used up: come back tomorrow",
            words="come back tomorrow",
            until="2026-11-23T00:05:00+08:00",
            total=600,
            left=98,
            failed=2,
        ),
    ),
)
NOW: Final = datetime(2026, 11, 22, 15, 5, tzinfo=UTC)


def test_a_run_that_ends_in_its_first_moment_leaves_nothing_that_was_not_awaited() -> None:
    async def ended_at_once() -> None:
        following = asyncio.ensure_future(Progress(LineDisplay()).follow(lambda: START))
        await asyncio.sleep(0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        asyncio.run(ended_at_once())
        gc.collect()
    assert [str(one.message) for one in warned if one.category is RuntimeWarning] == []


class OutOfSnapshotsError(Exception):
    """The scripted run is over."""


def script(statuses: Iterable[Status]) -> Callable[[], Status]:
    left: Iterator[Status] = iter(statuses)

    def snapshot() -> Status:
        for status in left:
            return status
        raise OutOfSnapshotsError

    return snapshot


def follow(display: Display, *statuses: Status) -> None:
    with pytest.raises(OutOfSnapshotsError):
        asyncio.run(display.follow(script(statuses)))


def lines_of_a_run(at: Callable[[float], Status], *, hours: float) -> list[str]:
    """The plain lines of a run in virtual time; `at` gives how it stands after so many seconds."""
    written: list[str] = []

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        lines = LineDisplay(write=written.append, now=lambda: NOW + timedelta(seconds=loop.time() - began_s))
        following = asyncio.create_task(lines.follow(lambda: at(loop.time() - began_s)))
        await asyncio.sleep(hours * 3600.0)
        following.cancel()

    run_virtual(watch)
    return written


def drawn(*statuses: Status) -> str:
    file = io.StringIO()
    follow(LiveDisplay(stream=file, every_s=0.0, colours=False), *statuses)
    return file.getvalue()


def shown(status: Status, *, width: int = 120, height: int = 30, **more: Any) -> list[str]:
    pace = RunPace()
    pace.note(status, now_s=0.0, now=NOW)
    lines = block(status, pace, now=NOW, elapsed_s=62.0, view=View(width=width, height=height, **more))
    return ["".join(text for text, _ in line) for line in lines]


# Plain lines.


def test_every_line_begins_with_the_time_in_utc() -> None:
    assert lines_of_a_run(lambda _: START, hours=0.1) == ["2026-11-22T15:05:00Z cats: 0 of 600 done, 600 still to send"]


def test_a_line_comes_at_each_twentieth_and_at_most_one_a_minute() -> None:
    def quick(seconds: float) -> Status:
        done = min(600, int(seconds * 3))
        return replace(START, items=ItemCounts(total=600, done=done, pending=600 - done))

    told = lines_of_a_run(quick, hours=0.5)
    assert len(told) == 5
    assert "600 of 600 done" in told[-1]
    assert "more in ~" not in told[-1]


def test_a_lane_that_is_parked_is_reported_once_it_has_lasted_with_its_end_in_the_persons_zone() -> None:
    told = lines_of_a_run(lambda seconds: LATER if seconds < 100 else PARKED, hours=0.5)
    (line,) = [line for line in told if "parked" in line]
    assert line.startswith("2026-11-22T15:07:")
    assert "KEY · Qwen parked until 16:05 (57 min): model's daily quota used up" in line
    assert "98 wait until 16:05 (57 min)" in line
    assert "come back tomorrow" not in line, "a server's words are not in a line of ours"


def test_a_lane_that_flickers_is_not_reported_each_time() -> None:
    told = lines_of_a_run(lambda seconds: PARKED if int(seconds / 90) % 2 else LATER, hours=1)
    assert sum("Qwen parked" in line for line in told) == 1


def test_while_all_is_parked_there_is_a_line_an_hour_with_the_next_try() -> None:
    far = replace(PARKED.lanes[0], until="2026-11-23T08:05:00+00:00")
    told = lines_of_a_run(lambda _: replace(PARKED, lanes=(far,)), hours=9.99)
    assert 10 <= len(told) <= 11
    assert "all parked" in told[4]
    assert "98 wait until Mon 08:05" in told[4]


def test_a_run_of_ten_hours_whose_lanes_come_and_go_has_at_most_150_lines() -> None:
    def restless(seconds: float) -> Status:
        done = int(seconds / 61)
        kinds = [ProblemKind.THROTTLE, ProblemKind.OVERLOADED, ProblemKind.QUOTA_MODEL, ProblemKind.TIMEOUT]
        lanes = [
            replace(PARKED.lanes[0], model=f"m{n}", kind=kinds[int(seconds / (70 + 7 * n)) % 4])
            if int(seconds / (50 + 11 * n)) % 2
            else replace(LATER.lanes[0], model=f"m{n}")
            for n in range(8)
        ]
        return replace(START, lanes=tuple(lanes), items=ItemCounts(total=600, done=done, pending=600 - done))

    told = lines_of_a_run(restless, hours=10)
    assert 20 <= len(told) <= 150


def test_causes_of_failures_and_possible_double_payments_are_reported_as_soon_as_there_are_some() -> None:
    group = FailureGroup(kind="model_not_found", message="no", count=2, example="a")
    (line, *_) = lines_of_a_run(
        lambda _: replace(LATER, failures=(group,), sends=SendCounts(possible_duplicates=3)), hours=0.1
    )
    assert "2 × model_not_found" in line
    assert "3 requests may have been billed without a usable answer" in line


# The block of a terminal.


def test_the_block_states_how_far_it_is_how_long_it_runs_and_what_each_lane_does() -> None:
    lines = shown(LATER)
    assert "502/600 83 %   1 min 02 s" in lines[0]
    assert "500 pictures" in lines[2]
    assert "Qwen" in lines[3]
    assert "3 in flight" in lines[3]


def test_a_parked_lane_states_until_when_before_it_states_why_and_the_servers_words_stand_below() -> None:
    lines = shown(PARKED)
    (lane,) = [line for line in lines if line.startswith("⏸")]
    assert " ".join(lane.split()) == "⏸ Qwen 500/600 until 16:05 (1 h) model's daily quota used up"
    assert lines[-1] == "KEY · Qwen: come back tomorrow"
    assert "98 wait until 16:05 (1 h)" in lines[1]


def test_lanes_that_work_come_first_and_closed_and_done_ones_last_in_true_words() -> None:
    gone = LaneStatus(
        account="",
        model="gone",
        state="open",
        activity="closed",
        kind=ProblemKind.MODEL_NOT_FOUND,
        failed=150,
        total=150,
        left=0,
    )
    done = LaneStatus(account="", model="quick", state="open", activity="done", total=150, left=0)
    retrying = LaneStatus(
        account="", model="broken", state="waiting", activity="retrying", retrying=6, retry_in_s=3.0, total=150, left=89
    )
    working = LaneStatus(account="", model="busy", state="open", in_flight=4, total=150, left=62)
    parked = replace(PARKED.lanes[0], account="")
    lines = shown(replace(LATER, lanes=(gone, done, parked, retrying, working)))
    lanes = [line for line in lines if line[0] in "▶↻⏸✕✓" and " failed" not in line[:12]]
    assert [line.split()[1] for line in lanes] == ["busy", "broken", "Qwen", "gone", "quick"]
    assert "retrying 6, next 3 s" in lanes[1]
    assert "closed" in lanes[3]
    assert "no such model, 150 failed" in lanes[3]
    assert lanes[4].split() == ["✓", "quick", "150/150", "done"]


def test_every_lane_has_one_line_however_narrow_and_what_does_not_fit_is_counted() -> None:
    crowd = tuple(replace(PARKED.lanes[0], model=f"通义千问-很长的名字-{n}") for n in range(20))
    for width in (20, 40, 60, 80, 200):
        for height in (4, 8, 22, 48):
            lines = shown(replace(LATER, lanes=crowd), width=width, height=height)
            assert len(lines) <= height
            lanes = sum(line.startswith("⏸") for line in lines)
            assert lanes == 20 or f"and {20 - lanes} more" in lines
            assert any("502/600" in line for line in lines) or width == 20


def test_remote_tasks_of_a_lane_are_reported_beside_its_requests() -> None:
    lane = replace(LATER.lanes[0], open_tasks=20)
    assert "3 in flight, 20 tasks" in shown(replace(LATER, lanes=(lane,)))[3]
    assert "  20 tasks" in shown(replace(LATER, lanes=(replace(lane, in_flight=0),)))[3]


def test_a_dumb_terminal_and_one_without_utf_8_get_ascii() -> None:
    lines = shown(replace(PARKED, usage=UsageCounts(input_tokens=1, output_tokens=2)), glyphs=ASCII)
    assert "\n".join(lines).isascii() or "·" in lines[-1]
    assert any(line.startswith("= ") for line in lines)


def test_a_pause_by_command_is_one_line_with_the_command_that_resumes() -> None:
    lane = replace(LATER.lanes[0], activity="paused")
    lines = shown(replace(LATER, lanes=(lane,), dir="outputs/cats"))
    assert any("paused by command" in line and "batchrunner resume outputs/cats" in line for line in lines)


def test_the_live_display_follows_several_jobs_and_ends_with_the_last() -> None:
    file = io.StringIO()
    display = LiveDisplay(stream=file, every_s=0.0)

    async def both() -> None:
        await asyncio.gather(
            display.follow(script([START] * 3)),
            display.follow(script([replace(START, job="dogs")] * 6)),
            return_exceptions=True,
        )

    asyncio.run(both())
    assert "cats" in file.getvalue()
    assert "dogs" in file.getvalue()
    assert repr(display) == "<LiveDisplay: 0 jobs, off>"


def test_escapes_from_servers_are_shown_never_obeyed() -> None:
    hostile = LaneStatus(
        account="[red]KEY",
        model="\x1b[2Jm",
        state="parked",
        activity="parked",
        until="2026-11-23T00:05:00+08:00",
        words="[bold]no\u202e\nforged",
        total=5,
        left=5,
    )
    hostile_job = replace(START, job="[link=x]cats\x1b]0;t\x07", lanes=(hostile,))
    text = drawn(hostile_job)
    assert "\\x1b[2Jm" in text
    assert "[bold]no\\u202e\\nforged" in text
    assert "[link=x]cats\\x1b]0;t\\x07" in text
    assert "\x1b[2Jm" not in text
    assert all("\x1b" not in line for line in lines_of_a_run(lambda _: hostile_job, hours=0.1))


def test_an_empty_job_and_a_narrow_terminal_can_be_drawn() -> None:
    assert shown(replace(PARKED, items=ItemCounts()), width=1, height=1)


def test_a_fault_of_the_display_is_reported_and_ends_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    async def watch() -> None:
        following = asyncio.create_task(
            Progress(LineDisplay(write=lambda _: None, every_s=0.0)).follow(script([START]))
        )
        await asyncio.sleep(0.05)
        following.cancel()

    asyncio.run(watch())
    assert "OutOfSnapshotsError" in capsys.readouterr().err


def test_a_terminal_that_went_away_does_not_end_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    follow(LiveDisplay(stream=Gone()), START)


# Which display, events, signals.


@pytest.mark.parametrize(
    ("environment", "is_terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
    ],
)
def test_no_color_and_force_color_are_obeyed(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *, is_terminal: bool, wanted: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert colours_wanted(is_terminal) is wanted


def test_the_display_is_lines_without_a_terminal_and_in_ci_and_what_was_asked_for_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(display("auto"), LineDisplay)
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    assert isinstance(display("auto"), LiveDisplay)
    assert isinstance(display("plain"), LineDisplay)
    assert display("none") is None
    for name in ("dumb", ""):
        monkeypatch.setenv("TERM", name)
        assert isinstance(display("auto"), LineDisplay)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "true")
    assert isinstance(display("auto"), LineDisplay)
    assert isinstance(display("live"), LiveDisplay)


def test_events_are_json_lines_and_each_states_what_when_and_of_which_job() -> None:
    file = io.StringIO()
    group = FailureGroup(kind="timeout", message="late", count=2, example="a")
    with pytest.raises(OutOfSnapshotsError):
        asyncio.run(
            EventFile(file, now=lambda: NOW, every_s=0.0).follow(
                script([START, START, replace(PARKED, failures=(group,))])
            )
        )
    events = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["started", "lane", "progress", "lane", "failed", "paused"]
    assert {(event["time"], event["job"]) for event in events} == {("2026-11-22T15:05:00Z", "cats")}
    assert events[3]["lane"]["kind"] == "quota_model"
    assert events[4]["failure"]["count"] == 2
    assert events[5] == {
        "event": "paused",
        "time": "2026-11-22T15:05:00Z",
        "job": "cats",
        "reason": "all_parked",
        "until": "2026-11-23T00:05:00+08:00",
    }


def test_an_event_file_that_cannot_be_written_any_more_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutOfSnapshotsError):
        asyncio.run(EventFile(Full(), every_s=0.0).follow(script([START, LATER, PARKED])))
    assert capsys.readouterr().err.count("No space left on device") == 1


@pytest.mark.parametrize("reads", [True, False], ids=["late", "never"])
def test_a_program_that_does_not_read_the_events_holds_up_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, reads: bool
) -> None:
    monkeypatch.setattr("batchrunner.cli.event_file._LAST_WAIT_S", PATIENCE_S if reads else 0.01)
    read_end, write_end = os.pipe()
    lines: list[str] = []

    def read() -> None:
        with os.fdopen(read_end) as stream:
            lines.extend(stream)

    reader = threading.Thread(target=read, daemon=True)
    with os.fdopen(write_end, "w") as stream, EventFile(stream) as file:
        for number in range(300 if reads else 5000):  # many times what a pipe holds
            file.ended(f"job{number}", ExitStatus.DONE, status=LATER)
        if reads:
            reader.start()
    if reads:
        reader.join()
        assert [json.loads(line)["job"] for line in lines] == [f"job{number}" for number in range(300)]
    else:
        os.close(read_end)
        assert capsys.readouterr().err.count("nobody reads them; the run continues") == 1


@pytest.mark.parametrize("reads", [True, False], ids=["later", "never"])
def test_a_named_pipe_that_nobody_reads_yet_holds_up_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, reads: bool
) -> None:
    monkeypatch.setattr("batchrunner.cli.event_file._LAST_WAIT_S", PATIENCE_S if reads else 0.2)
    pipe, lines = tmp_path / "events", list[str]()
    os.mkfifo(pipe)

    def read() -> None:
        with pipe.open() as stream:
            lines.extend(stream)

    reader = threading.Thread(target=read, daemon=True)
    with EventFile.opened(str(pipe)) as file:
        for number in range(300):
            file.ended(f"job{number}", ExitStatus.DONE, status=LATER)
            if reads and number == 150:
                reader.start()
    told = capsys.readouterr().err
    if reads:
        reader.join()
        assert [json.loads(line)["job"] for line in lines] == [f"job{number}" for number in range(300)]
        assert told == ""
    else:
        assert told.count("the last events are lost: nobody reads them") == 1


def test_a_signal_prints_the_block_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def watch() -> None:
        following = asyncio.create_task(Progress(None).follow(lambda: LATER))
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.05)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        os.kill(os.getpid(), signal.SIGUSR1)  # one that comes too late ends nothing

    before = signal.getsignal(signal.SIGUSR1)
    try:
        asyncio.run(watch())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert capsys.readouterr().err.count("502/600") == 1
