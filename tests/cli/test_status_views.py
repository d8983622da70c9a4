"""How a run stands on a phone, on a terminal of any width, and what takes long and says so."""

import io
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from rich.cells import cell_len

import batchrunner as program
from batchrunner.cli.block import short
from batchrunner.cli.main import main
from batchrunner.cli.output import StatusLine, fitted
from batchrunner.core.outcome import ProblemKind
from batchrunner.core.status import FailureGroup, ItemCounts, LaneStatus, SendCounts, Status, UsageCounts
from batchrunner.core.values import replace
from tests.support.command_line import CommandLine

NOW: Final = datetime(2026, 11, 26, 22, 50, tzinfo=UTC)


def parked(model: str, hours: int) -> LaneStatus:
    until = (NOW + timedelta(hours=hours)).isoformat()
    return LaneStatus(
        account="K", model=model, state="parked", activity="parked", kind=ProblemKind.QUOTA_MODEL, until=until
    )


BUSY: Final = Status(
    job="a-night-with-a-very-long-name-indeed",
    state="running",
    items=ItemCounts(total=12_900, done=2_460, failed=150, pending=10_290),
    sends=SendCounts(possible_duplicates=124),
    usage=UsageCounts(),
    lanes=(*(parked(f"通义千问-很长的名字-{n}", n + 1) for n in range(8)),),
    failures=(FailureGroup(kind="model_not_found", message="no", count=150, example="a"),),
    timezone="UTC",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_short_status_has_six_lines_of_forty_columns_at_most() -> None:
    lines = short(BUSY, now=NOW)
    assert len(lines) == 6
    assert max(map(cell_len, lines)) <= 40
    assert "running 2,610/12,900 20 %" in lines[0]
    assert lines[1].startswith("✕ 150 failed: 150 × model_not_found")
    assert lines[2] == "⚠ 124 may be paid for nothing"
    assert lines[3].endswith("until 23:50 (60 min)") or lines[3].endswith("until 23:50 (1 h)")
    assert lines[5] == "and 6 more wait"


def test_a_short_status_of_a_run_without_trouble_is_one_line() -> None:
    calm = replace(BUSY, lanes=(), failures=(), sends=SendCounts(), items=ItemCounts(total=3, done=3), state="done")
    assert short(replace(calm, job="cats"), now=NOW) == ["cats: done 3/3 100 %"]


def test_status_short_and_watch_are_commands(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", "prompts: [a, b, c]\n")
    assert batchrunner("run", job, "--quiet").status == 0
    told = batchrunner("status", "outputs/cats.simulated", "--short")
    assert (told.status, told.err) == (0, "cats: done 3/3 100 %\n")
    watched = batchrunner("status", "outputs/cats.simulated", "--watch")
    assert watched.status == 0
    assert "every item is done" in watched.err


def test_watch_shows_lines_while_the_run_goes_on_and_the_summary_once_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    standing = iter([BUSY, replace(BUSY, state="done"), replace(BUSY, state="done")])
    monkeypatch.setattr(program, "status", lambda _: next(standing))
    monkeypatch.setattr("batchrunner.cli.directory_commands._WATCH_EVERY_S", 0.01)
    assert main(["status", "outputs/night", "--watch"]) == 0
    told = capsys.readouterr().err
    assert "Z a-night-with-a-very-long-name-indeed: 2,460 of 12,900 done" in told
    assert "every item is done" in told or "done (limited" in told


def test_closing_lines_are_wrapped_at_words_below_their_text_and_lanes_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    text = (
        "night: paused\n"
        "  would finish           about 2026-11-28 02:01 +08:00, 110 s from now\n"
        "  warning   124 requests may have been billed without a usable answer (124 without a clear reply)\n"
        "  lane      sim/flaky waiting until Fri 16:05 (17 h): rate limited · the server's own words at length\n"
        "next: batchrunner run night.yaml --set limits.concurrency=4 --out outputs/somewhere/else"
    )
    assert fitted(text).splitlines() == [
        "night: paused",
        "  would finish           about 2026-11-28 02:01 +08:00, 110",
        "                         s from now",
        "  warning   124 requests may have been billed without a",
        "            usable answer (124 without a clear reply)",
        "  lane      sim/flaky waiting until Fri 16:05 (17 h): rate…",
        "next: batchrunner run night.yaml --set limits.concurrency=4 --out outputs/somewhere/else",
    ]


def test_without_a_terminal_no_line_is_wrapped() -> None:
    assert fitted("word " * 100) == "word " * 100


def test_a_status_line_comes_after_a_second_is_written_over_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    now = [0.0]
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with StatusLine() as line:
        for step in range(30):
            now[0] = step / 10
            line.show(f"night.yaml: {step:,} items read so far, and more")
    written = screen.getvalue()
    assert written.count("\r") == 8
    assert written.startswith("\rnight.yaml: 10 items read so\x1b[K")
    assert written.endswith("\r\x1b[K")


def test_without_a_terminal_a_status_line_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine(after_s=0.0) as line:
        line.show("reading")
    assert capsys.readouterr().err == ""


def test_quiet_and_logs_begin_the_closing_lines_with_the_time(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", "prompts: [a]\n")
    lines = batchrunner("run", job, "--quiet").err.splitlines()
    assert lines[0][10:11] == "T"
    assert lines[0][19:] == "Z cats (simulated): every item is done"
    shown = batchrunner("run", job, "--progress", "plain", "--events", "events.jsonl")
    assert shown.status == 0
    events = (batchrunner.folder / "events.jsonl").read_text().splitlines()
    assert '"event": "started"' in events[0]
    assert '"event": "ended"' in events[-1]
    assert '"exit_status": 0' in events[-1]


@pytest.mark.parametrize("name", ["cats.yaml", "outputs/cats.simulated/results.jsonl", "words.txt"])
def test_events_are_appended_to_no_other_file(batchrunner: CommandLine, name: str) -> None:
    job = batchrunner.job("cats", "prompts: [a]\n")
    (batchrunner.folder / "words.txt").write_text('"event"\n')
    place = batchrunner.folder / name
    before = place.read_bytes() if place.exists() else None
    ran = batchrunner("run", job, "--events", name)
    assert (ran.status, place.read_bytes() if place.exists() else None) == (2, before)
    assert "is not an events file; nothing is appended to it" in ran.err


def test_events_and_json_cannot_share_stdout(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", "prompts: [a]\n")
    ran = batchrunner("run", job, "--events", "-", "--json")
    assert ran.status == 2
    assert "stdout cannot have both" in ran.err
    alone = batchrunner("run", job, "--events", "-")
    assert alone.status == 0
    assert alone.out.splitlines()[-1].startswith('{"event": "ended"')
