"""Where an export goes: whole or absent, and in nobody's place."""

import errno
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import batchrunner
from batchrunner.core.errors import JobMistakesError, StoreBrokenError
from batchrunner.core.exports import ExportOptions
from batchrunner.exporters import EXPORTERS
from batchrunner.report.wording import export_words
from batchrunner.stores.export_files import OutgoingFile, RowOrder
from batchrunner.stores.files import Disk
from batchrunner.stores.run_directory import remove_leftovers
from tests.support.engine import RunHarness, World, chat, image


@pytest.fixture
def answered(harness: RunHarness) -> RunHarness:
    harness.run(chat("One", "Two", more='output: {each: "answers/{{ id }}.md"}'))
    return harness


def refused(answered: RunHarness, **options: Any) -> str:
    with pytest.raises(JobMistakesError) as caught:
        batchrunner.export(str(answered.out), **{"to": "jsonl", **options})
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_without_a_place_it_lies_in_the_run_under_the_jobs_name(answered: RunHarness) -> None:
    exported = batchrunner.export(str(answered.out), to="csv")
    assert exported.path == str(answered.out / "export/job.csv")
    assert not exported.replaced
    again = batchrunner.export(str(answered.out), to="csv", failures=True)
    assert again.replaced
    assert Path(exported.path).stat().st_size == again.bytes
    assert sorted(path.name for path in (answered.out / "export").iterdir()) == [".batchrunner-export", "job.csv"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda path: path.write_text(path.read_text().replace("One", "Uno")),
        lambda path: path.write_text(path.read_text() + "mine\n"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to(path.parent.parent / "results.jsonl")),
    ],
)
def test_an_export_that_was_edited_is_not_replaced(answered: RunHarness, edit: Callable[[Path], Any]) -> None:
    path = Path(str(batchrunner.export(str(answered.out), to="csv").path))
    edit(path)
    edited = path.read_bytes() if path.is_file() else None
    said = refused(answered, to="csv")
    assert "was changed since it was exported; move it away, or choose another path with --out" in said
    assert edited is None or path.read_bytes() == edited
    path.rename(answered.folder / "mine.csv")
    assert not batchrunner.export(str(answered.out), to="csv").replaced


def test_a_file_that_nobody_exported_is_not_replaced(answered: RunHarness) -> None:
    (answered.out / "export").mkdir()
    (answered.out / "export/job.csv").write_text("mine")
    assert "is not an export, or was changed" in refused(answered, to="csv")
    assert (answered.out / "export/job.csv").read_text() == "mine"


def test_an_export_is_known_in_a_copy_of_the_run_and_beside_a_torn_list(answered: RunHarness) -> None:
    for to in ("csv", "jsonl"):
        batchrunner.export(str(answered.out), to=to)
    with (answered.out / "export/.batchrunner-export").open("ab") as file:
        file.write(b"\n12 3f")
    copy = answered.folder / "copy"
    shutil.copytree(answered.out, copy, copy_function=shutil.copyfile)
    for _ in range(2):
        for to in ("csv", "jsonl"):
            assert batchrunner.export(str(copy), to=to).replaced


def test_an_edit_while_the_export_is_written_is_kept(tmp_path: Path) -> None:
    with OutgoingFile(tmp_path / "a.csv", replaces=True, lists=True) as file:
        file.write(b"first")
        file.finish()
    with OutgoingFile(tmp_path / "a.csv", replaces=True, lists=True) as file:
        file.write(b"second")
        (tmp_path / "a.csv").write_text("mine")
        with pytest.raises(JobMistakesError):
            file.finish()
    assert (tmp_path / "a.csv").read_text() == "mine"


def test_an_export_without_rows_is_an_empty_file_of_its_format_or_no_folder(answered: RunHarness) -> None:
    folders = set[str]()
    for to in EXPORTERS:
        none = batchrunner.export(str(answered.out), to=to, options=ExportOptions(where="model == 'x'"))
        assert none.rows == 0
        if none.path is None:
            folders.add(to)
            assert (none.files, none.bytes) == (0, 0)
            assert "nothing: there is no row" in export_words(none)
        else:
            assert Path(none.path).exists()
            assert (none.bytes == 0) == ("so the file is empty" in export_words(none))
    assert folders == {"hf", "imagefolder", "captions", "sheet"}
    here = answered.out / "export"
    tables = pd.read_csv(here / "job.csv"), pd.read_parquet(here / "job.parquet"), pd.read_excel(here / "job.xlsx")
    assert {(len(table), "id" in table.columns) for table in tables} == {(0, True)}
    assert pd.read_json(here / "job.jsonl", lines=True).empty


def test_no_two_formats_take_the_same_place(answered: RunHarness) -> None:
    written = [exported.path for to in EXPORTERS if (exported := batchrunner.export(str(answered.out), to=to)).files]
    assert len(set(written)) == len(written) == len(EXPORTERS) - 3, "a run without pictures makes no folders of them"


@pytest.mark.parametrize("stands", ["file", "folder", "link"])
def test_a_place_that_is_taken_stays_as_it_is(answered: RunHarness, stands: str) -> None:
    place = answered.folder / "mine.csv"
    if stands == "file":
        place.write_text("mine")
    elif stands == "folder":
        place.mkdir()
    else:
        place.symlink_to(answered.folder / "nowhere")
    assert "already exists; choose another path; nothing is overwritten" in refused(answered, out=str(place))
    assert not (answered.folder / "nowhere").exists()
    assert stands != "file" or place.read_text() == "mine"


def test_a_folder_that_is_not_there_is_a_mistake(answered: RunHarness) -> None:
    assert "no such directory" in refused(answered, out=str(answered.folder / "no/where.csv"))


@pytest.mark.parametrize("place", ["failures.jsonl", "images/x.csv", "ledger/000009.jsonl", "x.csv"])
def test_nothing_is_put_among_the_runs_own_files(answered: RunHarness, place: str) -> None:
    assert "is inside the run directory" in refused(answered, out=str(answered.out / place))
    (answered.folder / "way").symlink_to(answered.out)
    assert "is inside the run directory" in refused(answered, out=str(answered.folder / "way" / place))
    with pytest.raises(JobMistakesError, match="is inside the run directory"):
        batchrunner.export(str(answered.folder / "way"), to="csv", out=str(answered.out / place))
    assert not (answered.out / place).exists()


def test_a_name_of_ones_own_in_the_export_folder_is_allowed(answered: RunHarness) -> None:
    batchrunner.export(str(answered.out), to="csv")
    place = str(answered.out / "export/other.csv")
    assert batchrunner.export(str(answered.out), to="csv", out=place).path == place
    assert "already exists" in refused(answered, out=place)


def test_answers_that_the_job_keeps_there_are_not_replaced(tmp_path: Path) -> None:
    answered = RunHarness(folder=tmp_path, world=World())
    answered.run(chat("One", more='output: {each: "export/job.jsonl"}'))
    answer = (answered.out / "export/job.jsonl").read_bytes()
    assert "the job writes its answers there (output.each)" in refused(answered)
    assert (answered.out / "export/job.jsonl").read_bytes() == answer
    assert batchrunner.export(str(answered.out), to="jsonl", out=str(tmp_path / "x.jsonl")).rows == 1


def test_an_open_file_may_be_given_and_stays_open(answered: RunHarness) -> None:
    stream = io.BytesIO()
    exported = batchrunner.export(str(answered.out), to="parquet", out=stream)
    assert exported.path is None
    assert len(stream.getvalue()) == exported.bytes
    assert not stream.closed


def test_links_lead_from_the_export_to_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = RunHarness(folder=tmp_path, world=World())
    answered.run(image("A").replace('"A"', "{id: a, prompt: A}"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for out in (None, "out.md", "notes/out.md"):
        exported = batchrunner.export("out", to="markdown", out=out)
        assert exported.path is not None
        link = Path(exported.path).read_text().partition("![picture](")[2].partition(")")[0]
        assert (Path(exported.path).parent / link).resolve() == answered.out / "images/a.png"


# -- what goes wrong


def test_an_unknown_format_is_a_mistake_that_names_them(answered: RunHarness) -> None:
    said = refused(answered, to="webdatset")
    assert "unknown format `webdatset`" in said
    assert "openai-batch" in said
    assert "did you mean `webdataset`?" in said


def test_where_no_run_has_been_is_a_mistake(tmp_path: Path) -> None:
    answered = RunHarness(folder=tmp_path)
    assert "not a run directory" in refused(answered)
    (tmp_path / "out").write_text("a file")
    assert "not a run directory" in refused(answered)


def test_without_pyarrow_it_states_what_to_install(answered: RunHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refused(answered, to="parquet")
    assert "pip install pyarrow" in said
    assert not (answered.out / "export").exists()


class FullDisk(Disk):
    """Takes a few bytes and then none; or refuses one kind of call."""

    def __init__(self, *, fails: str) -> None:
        self._fails = fails

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._may_fail("write")
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._may_fail("fsync")
        super().fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._may_fail("rename")
        super().rename(source, target)

    def _may_fail(self, call: str) -> None:
        if call == self._fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write(outgoing: OutgoingFile, meanwhile: Callable[[], object] = lambda: None) -> None:
    with outgoing:
        outgoing.write(b"x" * 3_000_000)
        meanwhile()
        outgoing.finish()


@pytest.mark.parametrize("fails", ["write", "fsync", "rename"])
def test_a_disk_that_refuses_leaves_what_was_there_and_nothing_else(tmp_path: Path, fails: str) -> None:
    place = tmp_path / "a.csv"
    place.write_text("earlier")
    with pytest.raises(StoreBrokenError, match="No space left on device; nothing was exported"):
        write(OutgoingFile(place, replaces=True, files=FullDisk(fails=fails)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert place.read_text() == "earlier"


def test_whatever_ends_it_early_leaves_nothing(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(OutgoingFile(tmp_path / "a.csv", replaces=False), interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(JobMistakesError):
        write(OutgoingFile(tmp_path / "a.csv", replaces=False), lambda: (tmp_path / "a.csv").write_text("mine"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_that_clears_up_meanwhile_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreBrokenError, match="export again"):
        write(OutgoingFile(tmp_path / "a.csv", replaces=False), lambda: remove_leftovers(tmp_path))


def test_what_a_killed_export_left_is_cleared_by_the_next_run(answered: RunHarness) -> None:
    batchrunner.export(str(answered.out), to="jsonl")
    half = answered.out / "export/.123-4.tmp"
    half.write_text("half")
    assert [finding.kind for finding in batchrunner.verify(str(answered.out)).findings] == ["leftover"]
    answered.run(chat("One", "Two", more='output: {each: "answers/{{ id }}.md"}'))
    assert not half.exists()


def test_a_file_that_is_changed_while_it_is_read_is_reported(answered: RunHarness) -> None:
    with RowOrder(answered.out) as order:
        order.index()
        path = answered.out / "results.jsonl"
        path.write_bytes(b" " * path.stat().st_size)
        with pytest.raises(StoreBrokenError, match="changed while it was read; try again"):
            list(order.rows())


def test_a_file_that_is_replaced_while_it_is_read_changes_nothing(answered: RunHarness) -> None:
    with RowOrder(answered.out) as order:
        order.index()
        path = answered.out / "results.jsonl"
        (answered.folder / "new").write_bytes(b"")
        (answered.folder / "new").rename(path)
        assert [json.loads(row.line)["index"] for row in order.rows()] == [1, 2]
