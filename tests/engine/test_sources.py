"""A source that becomes another one while the run reads it: nothing under way is lost, and the end says why."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus
from batchrunner.prompts import job_items
from batchrunner.prompts.expand import Expansion
from tests.support.engine import RunHarness

ITEMS = 60
JOB = "name: job\nprovider: simulator\nmodel: sim/chat\nprompts: {file: rows.jsonl}\nlimits: {concurrency: 40}\n"
AT = 20
"""The item that is being read when the source changes; what lies behind the first chunk of the file is not read yet."""


def row(number: int) -> str:
    return json.dumps({"prompt": f"say {number}", "filler": "x" * 20_000}) + "\n"


WHOLE = "".join(map(row, range(ITEMS)))


def shortened(path: Path) -> None:
    os.truncate(path, sum(len(row(number)) for number in range(45)))


def cut_within_a_row(path: Path) -> None:
    os.truncate(path, sum(len(row(number)) for number in range(45)) + 7)


def lengthened(path: Path) -> None:
    with path.open("a") as file:
        file.write(row(ITEMS) + row(ITEMS + 1))


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(sum(len(row(number)) for number in range(45)))
        file.write(b"\xff\xfe garbage")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "shorter": (shortened, "the source now has 45 prompts for sim/chat; it had 60 when the run began"),
    "cut within a row": (cut_within_a_row, "rows.jsonl:46: the line is not JSON"),
    "longer": (lengthened, "the source now has more than 60 prompts for sim/chat; it had 60"),
    "unreadable": (overwritten, "rows.jsonl:46: "),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_under_way_is_recorded_and_the_end_states_how_the_source_changed(tmp_path: Path, change: str) -> None:
    alter, words = CHANGES[change]
    harness, path = RunHarness(tmp_path), tmp_path / "rows.jsonl"
    path.write_text(WHOLE)

    def at_item(index: int) -> float:
        assert harness.source is not None
        if harness.source.passes == 2 and index == AT and path.stat().st_size == len(WHOLE):
            alter(path)
        return 0.0

    harness.item_s = at_item
    report = harness.run(JOB)
    assert report.exit_status is ExitStatus.PAUSED
    assert words in str(report.status.message)
    assert report.status.next_command is None or "run" in report.status.next_command
    done = len(harness.rows())
    assert done == harness.stats.sends == len(harness.events("intent")) == len(harness.events("done"))
    assert done >= 40

    harness.item_s = lambda _: 0.0
    path.write_text(WHOLE)
    assert harness.run(JOB).exit_status is ExitStatus.DONE
    assert harness.stats.sends == len(harness.rows()) == ITEMS


def test_a_source_that_is_gone_before_it_is_read_again_pauses_the_run(tmp_path: Path) -> None:
    harness, path = RunHarness(tmp_path), tmp_path / "rows.jsonl"
    path.write_text(WHOLE)

    def at_item(index: int) -> float:
        if index == ITEMS:
            path.unlink(missing_ok=True)
        return 0.0

    harness.item_s = at_item
    report = harness.run(JOB)
    assert (report.exit_status, harness.stats.sends) == (ExitStatus.PAUSED, 0)
    assert "No such file" in str(report.status.message)


def test_a_source_that_is_gone_when_the_rows_are_put_in_order_keeps_them(tmp_path: Path) -> None:
    harness, path = RunHarness(tmp_path), tmp_path / "rows.jsonl"
    path.write_text(WHOLE + row(0))  # an identical item gets its row at the end, for which the source is read again

    def at_item(index: int) -> float:
        assert harness.source is not None
        if harness.source.passes == 3:
            path.write_text("")
        return 0.0

    harness.item_s = at_item
    report = harness.run(JOB)
    assert len(harness.rows()) == harness.stats.sends == ITEMS
    assert report.exit_status in {ExitStatus.PAUSED, ExitStatus.DONE}


def test_a_run_and_a_run_with_nothing_to_do_make_their_items_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, path = RunHarness(tmp_path), tmp_path / "rows.jsonl"
    path.write_text(WHOLE)
    passes: list[Expansion] = []
    begin = Expansion.__init__

    def noted(self: Expansion, *given: object, **named: object) -> None:
        passes.append(self)
        begin(self, *given, **named)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(Expansion, "__init__", noted)
    assert harness.run(JOB).exit_status is ExitStatus.DONE
    assert len(passes) == 1
    (harness.out / "results.jsonl").touch()  # somebody was here: the end of the last run is not trusted
    assert harness.run(JOB).exit_status is ExitStatus.DONE
    assert len(passes) == 2
    monkeypatch.setattr(job_items, "KEPT_BYTES", 1)  # too many to be kept: they are made again while they are sent
    path.write_text(WHOLE + row(ITEMS))
    assert harness.run(JOB).exit_status is ExitStatus.DONE
    assert len(passes) >= 4
    passes.clear()
    assert harness.run(JOB).exit_status is ExitStatus.DONE
    assert len(passes) <= 1
    assert harness.stats.sends == ITEMS + 1
