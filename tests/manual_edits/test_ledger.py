"""The ledger and run.json after hands: what was paid for is never paid again because its memory is gone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.core.errors import BatchrunnerError, ExitStatus
from tests.manual_edits.cases import CHAT, IMAGE, Fields, lines


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "ledger").glob("*.jsonl"))


def emptied(folder: Path) -> None:
    for path in segments(folder):
        path.unlink()


def cut(path: Path, *, keep: int = -2) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:keep]))


def cut_with_its_row(folder: Path) -> None:
    cut(segments(folder)[-1], keep=1)
    cut(folder / "results.jsonl", keep=-1)


def edited(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"e":"intent"', b'"e":"Intent"', 1))


GONE: dict[str, Callable[[Path], object]] = {
    "the folder": lambda folder: shutil.rmtree(folder / "ledger"),
    "all segments": emptied,
    "the newest segment": lambda folder: segments(folder)[-1].unlink(),
    "the end of the newest segment, and the row": cut_with_its_row,
}
DAMAGED: dict[str, Callable[[Path], object]] = {
    "the first segment": lambda folder: segments(folder)[0].unlink(),
    "the end of the first segment": lambda folder: cut(segments(folder)[0]),
    "a byte of the first segment": lambda folder: edited(segments(folder)[0]),
    "all of the first segment": lambda folder: segments(folder)[0].write_bytes(b""),
}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(BatchrunnerError) as caught:
        call()
    assert caught.value.exit_status is ExitStatus.STOPPED
    return str(caught.value)


@pytest.mark.parametrize("job", [CHAT, IMAGE], ids=["chat", "image"])
@pytest.mark.parametrize("case", GONE)
def test_a_missing_ledger_is_refused_with_the_way_on_and_adopting_its_rows_pays_for_nothing_twice(
    fields: Fields, job: str, case: str
) -> None:
    run = fields(job, limit=3)
    GONE[case](run.folder)
    rows = lines(run.folder)
    for call in (run.status, run.run):
        assert "--adopt-rows" in refused(call)
    assert run.verify().exit_status is ExitStatus.STOPPED
    assert lines(run.folder) == rows
    ended = run.run(adopt_rows=True)
    assert ended.exit_status is ExitStatus.DONE
    assert ended.status.items.done == len(lines(run.folder)) == 5
    intents = sum(path.read_bytes().count(b'"e":"intent"') for path in segments(run.folder))
    assert intents <= 5
    assert run.verify().exit_status is ExitStatus.DONE
    assert run.run().exit_status is ExitStatus.DONE
    assert run.status().sends.total <= 5


@pytest.mark.parametrize("job", [CHAT, IMAGE], ids=["chat", "image"])
def test_a_newest_segment_cut_anywhere_is_read_on_where_rows_make_up_for_it_and_refused_elsewhere(
    fields: Fields, job: str
) -> None:
    run = fields(job, limit=3)
    newest, whole = segments(run.folder)[-1], lines(run.folder)
    text = newest.read_bytes()
    for length in (*range(1, len(text), len(text) // 7), len(text) - 1):
        newest.write_bytes(text[:length])
        assert run.status().items.done == 3, length
        (run.folder / "results.jsonl").write_bytes(b"".join(whole[:-1]))
        for call in (run.status, run.run):
            if length < text.rindex(b"\n", 0, -1):
                assert "--adopt-rows" in refused(call)
        (run.folder / "results.jsonl").write_bytes(b"".join(whole))
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == len(lines(run.folder)) == 5


@pytest.mark.parametrize("case", DAMAGED)
def test_a_gap_or_a_cut_in_the_ledger_is_refused_with_words(fields: Fields, case: str) -> None:
    run = fields(CHAT, limit=3)
    DAMAGED[case](run.folder)
    for call in (run.status, run.run, lambda: run.run(adopt_rows=True)):
        assert "000001.jsonl" in refused(call)
    assert run.verify().exit_status is ExitStatus.STOPPED
    assert len(lines(run.folder)) == 3


def test_a_ledger_whose_line_ends_a_tool_changed_is_read(fields: Fields) -> None:
    run = fields(CHAT, limit=3)
    for path in segments(run.folder):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert run.status().items.done == 3
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == 5
    assert run.verify().exit_status is ExitStatus.DONE


def test_a_run_of_which_only_run_json_is_left_is_not_silently_paid_again(fields: Fields) -> None:
    run = fields(CHAT)
    for path in run.folder.iterdir():
        if path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "--adopt-rows" in refused(run.run)
    assert run.run(adopt_rows=True).exit_status is ExitStatus.DONE


def test_failures_are_adopted_with_the_rows(fields: Fields) -> None:
    run = fields(CHAT.replace("sim/chat", "sim/chat#content-filter"))
    assert run.status().items.failed == 5
    shutil.rmtree(run.folder / "ledger")
    ended = run.run(adopt_rows=True)
    assert (ended.exit_status, ended.status.items.failed, ended.status.sends.total) == (ExitStatus.FAILED, 5, 0)


RUN_JSON: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
}


@pytest.mark.parametrize("case", RUN_JSON)
def test_run_json_is_made_anew_from_the_job_and_the_ledger(fields: Fields, case: str) -> None:
    run = fields(CHAT, limit=3)
    RUN_JSON[case](run.folder / "run.json")
    assert "run.json" in refused(run.status)
    assert "run_file_lost" in run.found()
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == 5
    there = json.loads((run.folder / "run.json").read_bytes())
    assert (there["job_name"], there["simulated"]) == ("job", True)
    assert run.verify().exit_status is ExitStatus.DONE


def test_another_jobs_directory_is_refused_by_its_ledger_too(fields: Fields) -> None:
    run, other = fields(CHAT, limit=3), CHAT + "name: other\n"
    text = (run.folder / "run.json").read_text("utf-8")
    for there in (None, text.replace('"job_name": "job"', '"job_name": "other"')):
        (run.folder / "run.json").unlink(missing_ok=True)
        if there is not None:
            (run.folder / "run.json").write_text(there, "utf-8")
        assert "belongs to the job `job`" in refused(lambda: fields(other, name="other"))


def test_rows_without_run_json_and_ledger_are_refused_and_may_be_adopted(fields: Fields) -> None:
    run = fields(CHAT, limit=3)
    (run.folder / "run.json").unlink()
    shutil.rmtree(run.folder / "ledger")
    assert "--adopt-rows" in refused(run.run)
    ended = run.run(adopt_rows=True)
    assert (ended.exit_status, ended.status.sends.total) == (ExitStatus.DONE, 2)


def test_a_run_that_adopted_rows_and_was_killed_at_once_goes_on(fields: Fields) -> None:
    run = fields(CHAT, limit=3)
    kept = (run.folder / "run.json").read_bytes()
    shutil.rmtree(run.folder / "ledger")
    assert run.run(adopt_rows=True, limit=3).exit_status is ExitStatus.DONE
    there = json.loads((run.folder / "run.json").read_bytes())
    assert there["segment"] == 1
    assert there["segment_bytes"] == segments(run.folder)[0].stat().st_size
    assert json.loads(kept)["segment"] > 1
