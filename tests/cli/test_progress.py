"""What people see while a run goes on."""

import asyncio
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from batchrunner.cli.live import LiveDisplay, block
from batchrunner.cli.progress import Display, LineDisplay, ProgressRate, harmless
from batchrunner.core.status import ItemCounts, LaneStatus, SendCounts, Status, UsageCounts

START = Status(
    job="cats",
    state="running",
    items=ItemCounts(total=600, pending=600),
    sends=SendCounts(),
    usage=UsageCounts(),
    lanes=(LaneStatus(account="KEY", model="Qwen", state="open", concurrency=4, in_flight=3),),
)
LATER = replace(START, items=ItemCounts(total=600, done=500, failed=2, pending=98), usage=UsageCounts(images=500))
PARKED = replace(
    LATER,
    lanes=(
        LaneStatus(
            account="KEY", model="Qwen", state="parked", reason="daily quota", until="2026-11-23T00:05:00+08:00"
        ),
    ),
)
NOW = datetime(2026, 11, 22, 15, 5, tzinfo=UTC)


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


def lines(*statuses: Status) -> list[str]:
    written: list[str] = []
    follow(LineDisplay(write=written.append, every_s=0.0), *statuses)
    return written


def drawn(*statuses: Status, width: int = 120) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    follow(LiveDisplay(console=console, every_s=0.0), *statuses)
    return file.getvalue()


def test_without_a_terminal_there_is_a_line_at_the_start_and_one_for_each_change() -> None:
    assert lines(START, START, START, LATER, LATER) == [
        "cats: 0 of 600 done, 600 still to send, 3 in flight",
        "cats: 500 of 600 done, 2 failed, 98 still to send, 3 in flight, 500 pictures",
    ]


def test_a_wait_is_told_once_with_its_reason_and_its_end() -> None:
    told = lines(PARKED, PARKED, replace(PARKED, items=ItemCounts(total=600, done=501, failed=2, pending=97)))
    assert told.count("cats: KEY · Qwen waiting until 2026-11-23 00:05 +08:00: daily quota") == 1
    assert len(told) == 3


def test_a_wait_on_a_terminal_says_how_long_it_still_is() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(block(PARKED, ProgressRate(), now=NOW))
    assert "daily quota · until 2026-11-23 00:05 +08:00 (in 1 h)" in console.export_text()


def test_a_lane_that_flickers_between_waiting_and_open_is_not_told_each_time() -> None:
    assert sum("waiting" in line for line in lines(PARKED, LATER, PARKED, LATER, PARKED)) == 1


def test_a_wait_that_lasts_is_told_again_after_a_while() -> None:
    written: list[str] = []
    follow(LineDisplay(write=written.append, every_s=0.0, remind_s=0.0), PARKED, PARKED, PARKED)
    assert sum("waiting" in line for line in written) == 3


def test_the_live_display_shows_figures_lanes_and_waits() -> None:
    shown = drawn(START, PARKED)
    assert "502/600  83%" in shown
    assert "500 of 600 done, 2 failed, 98 still to send, 500 pictures" in shown
    assert "3 of 4" in shown
    assert "daily quota · until 2026-11-23 00:05 +08:00" in shown


def test_the_live_display_follows_several_jobs_and_ends_with_the_last() -> None:
    file = io.StringIO()
    display = LiveDisplay(console=Console(file=file, force_terminal=True, width=100), every_s=0.0)

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


def test_markup_and_escapes_from_servers_are_shown_never_obeyed() -> None:
    hostile = LaneStatus(account="[red]KEY", model="\x1b[2Jm", state="waiting", reason="[bold]no\u202e\nforged")
    shown = drawn(replace(START, job="[link=x]cats\x1b]0;t\x07", lanes=(hostile,)))
    assert "[red]KEY · \\x1b[2Jm" in shown
    assert "[bold]no\\u202e\\nforged" in shown
    assert "[link=x]cats\\x1b]0;t\\x07" in shown
    assert "\x1b[2Jm" not in shown
    assert all("\x1b" not in line for line in lines(replace(START, lanes=(hostile,))))


def test_many_lanes_show_the_stuck_ones_first_and_count_the_rest() -> None:
    crowd = tuple(LaneStatus(account=f"K{n}", model="m", state="open") for n in range(20))
    stuck = LaneStatus(account="LAST", model="m", state="stopped", reason="bad key")
    shown = drawn(replace(START, lanes=(*crowd, stuck)))
    assert "LAST · m" in shown
    assert "and 13 more lanes" in shown


def test_an_empty_job_and_a_narrow_terminal_can_be_drawn() -> None:
    console = Console(file=io.StringIO(), width=20)
    console.print(block(replace(PARKED, items=ItemCounts()), ProgressRate(), now=NOW))


def test_a_fault_of_the_display_is_told_and_ends_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(harmless(LineDisplay(write=lambda _: None, every_s=0.0))(script([START])))  # type: ignore[arg-type]
    assert "OutOfSnapshotsError" in capsys.readouterr().err


def test_a_terminal_that_went_away_does_not_end_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    follow(LiveDisplay(console=Console(file=Gone(), force_terminal=True), every_s=0.0), START, LATER)
