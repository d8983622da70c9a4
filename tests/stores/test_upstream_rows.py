"""The rows of a run as another job reads them: the same in every pass, whatever becomes of the run meanwhile."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.stores.upstream_rows import UpstreamRun


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "key": f"{number:032x}", "index": number, "output": {"text": f"a{number}"}, **more}


def write(folder: Path, *rows: dict[str, Any], name: str = "results.jsonl") -> None:
    (folder / name).write_text("".join(f"{json.dumps(each)}\n" for each in rows))


def descriptors() -> int:
    """Files that this process has open, where the system tells."""
    here = Path("/proc/self/fd")
    return len(list(here.iterdir())) if here.exists() else 0


def ids(run: UpstreamRun) -> list[object]:
    return [fields["id"] for fields, _ in run.rows(with_scores=False)]


def test_rows_stay_as_they_were_while_the_run_goes_on_is_put_in_order_moved_and_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder, row(2), row(1))
    run = UpstreamRun(folder)
    first = ids(run)
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(row(3)) + "\n")
    assert ids(run) == first == ["q1", "q2"]
    write(folder, row(1), row(2), row(3), name="new")
    (folder / "new").replace(folder / "results.jsonl")
    assert ids(run) == first
    folder.rename(tmp_path / "elsewhere")
    assert ids(run) == first
    shutil.rmtree(tmp_path / "elsewhere")
    assert ids(run) == first


def test_rows_that_are_written_over_in_place_end_the_reading_with_their_place(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2))
    run = UpstreamRun(tmp_path)
    assert ids(run) == ["q1", "q2"]
    (tmp_path / "results.jsonl").write_text("x" * 500)
    with pytest.raises(StoreBrokenError, match=r"results.jsonl: byte 0: changed while it was read; try again"):
        ids(run)


def test_a_run_without_rows_has_none(tmp_path: Path) -> None:
    assert ids(UpstreamRun(tmp_path)) == []
    assert UpstreamRun(tmp_path).unreadable() == []
    assert not UpstreamRun(tmp_path).has_scores()


def test_several_passes_at_a_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    write(tmp_path, *map(row, range(1, 50)))
    run = UpstreamRun(tmp_path)
    both = list(zip(run.rows(with_scores=False), run.rows(with_scores=False), strict=True))
    assert all(one == other for one, other in both)


def test_files_are_closed_when_nobody_reads_the_run_any_more(tmp_path: Path) -> None:
    write(tmp_path, row(1))
    write(tmp_path, {**row(1), "pass": True, "scores": {}}, name="scores.jsonl")
    before = descriptors()
    run = UpstreamRun(tmp_path)
    assert [scores and scores["pass"] for _, scores in run.rows(with_scores=True)] == [True]
    del run
    gc.collect()
    assert descriptors() == before
