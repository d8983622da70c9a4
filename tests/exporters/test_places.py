"""Where an export goes: whole or absent, and in nobody's place."""

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner.core.errors import JobMistakesError, StoreBrokenError
from batchrunner.exporters import EXPORTERS
from batchrunner.stores.export_files import OutgoingFile, RowOrder
from batchrunner.stores.files import Disk
from batchrunner.stores.run_directory import remove_leftovers
from tests.support.engine import House, World, chat, image


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(folder=tmp_path, world=World())
    house.run(chat("One", "Two", more='output: {each: "answers/{{ id }}.md"}'))
    return house


def refused(house: House, **options: Any) -> str:
    with pytest.raises(JobMistakesError) as caught:
        batchrunner.export(str(house.out), **{"to": "jsonl", **options})
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_without_a_place_it_lies_in_the_run_under_the_jobs_name(house: House) -> None:
    exported = batchrunner.export(str(house.out), to="csv")
    assert exported.path == str(house.out / "export/job.csv")
    assert not exported.replaced
    Path(exported.path).write_text("an older one")
    again = batchrunner.export(str(house.out), to="csv")
    assert again.replaced
    assert Path(exported.path).stat().st_size == again.bytes
    assert sorted(path.name for path in (house.out / "export").iterdir()) == ["job.csv"]


def test_no_two_formats_take_the_same_place(house: House) -> None:
    paths = {batchrunner.export(str(house.out), to=to).path for to in EXPORTERS}
    assert len(paths) == len(EXPORTERS)


@pytest.mark.parametrize("stands", ["file", "folder", "link"])
def test_a_place_that_is_taken_stays_as_it_is(house: House, stands: str) -> None:
    place = house.folder / "mine.csv"
    if stands == "file":
        place.write_text("mine")
    elif stands == "folder":
        place.mkdir()
    else:
        place.symlink_to(house.folder / "nowhere")
    assert "already exists; choose another path; nothing is overwritten" in refused(house, out=str(place))
    assert not (house.folder / "nowhere").exists()
    assert stands != "file" or place.read_text() == "mine"


def test_a_folder_that_is_not_there_is_a_mistake(house: House) -> None:
    assert "no such directory" in refused(house, out=str(house.folder / "no/where.csv"))


@pytest.mark.parametrize("place", ["failures.jsonl", "images/x.csv", "ledger/000009.jsonl", "x.csv"])
def test_nothing_is_put_among_the_runs_own_files(house: House, place: str) -> None:
    assert "is inside the run directory" in refused(house, out=str(house.out / place))
    (house.folder / "way").symlink_to(house.out)
    assert "is inside the run directory" in refused(house, out=str(house.folder / "way" / place))
    with pytest.raises(JobMistakesError, match="is inside the run directory"):
        batchrunner.export(str(house.folder / "way"), to="csv", out=str(house.out / place))
    assert not (house.out / place).exists()


def test_a_name_of_ones_own_in_the_export_folder_is_allowed(house: House) -> None:
    batchrunner.export(str(house.out), to="csv")
    place = str(house.out / "export/other.csv")
    assert batchrunner.export(str(house.out), to="csv", out=place).path == place
    assert "already exists" in refused(house, out=place)


def test_answers_that_the_job_keeps_there_are_not_replaced(tmp_path: Path) -> None:
    house = House(folder=tmp_path, world=World())
    house.run(chat("One", more='output: {each: "export/job.jsonl"}'))
    answer = (house.out / "export/job.jsonl").read_bytes()
    assert "the job writes its answers there (output.each)" in refused(house)
    assert (house.out / "export/job.jsonl").read_bytes() == answer
    assert batchrunner.export(str(house.out), to="jsonl", out=str(tmp_path / "x.jsonl")).rows == 1


def test_an_open_file_may_be_given_and_stays_open(house: House) -> None:
    stream = io.BytesIO()
    exported = batchrunner.export(str(house.out), to="parquet", out=stream)
    assert exported.path is None
    assert len(stream.getvalue()) == exported.bytes
    assert not stream.closed


def test_links_lead_from_the_export_to_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(folder=tmp_path, world=World())
    house.run(image("A").replace('"A"', "{id: a, prompt: A}"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for out in (None, "out.md", "notes/out.md"):
        exported = batchrunner.export("out", to="markdown", out=out)
        assert exported.path is not None
        link = Path(exported.path).read_text().partition("![picture](")[2].partition(")")[0]
        assert (Path(exported.path).parent / link).resolve() == house.out / "images/a.png"


# -- what goes wrong


def test_an_unknown_format_is_a_mistake_that_names_them(house: House) -> None:
    said = refused(house, to="webdatset")
    assert "unknown format `webdatset`" in said
    assert "openai-batch" in said
    assert "did you mean `webdataset`?" in said


def test_where_no_run_has_been_is_a_mistake(tmp_path: Path) -> None:
    house = House(folder=tmp_path)
    assert "not a run directory" in refused(house)
    (tmp_path / "out").write_text("a file")
    assert "not a run directory" in refused(house)


def test_without_pyarrow_it_says_what_to_install(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refused(house, to="parquet")
    assert "pip install 'batchrunner[parquet]'" in said
    assert not (house.out / "export").exists()


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


def test_a_run_that_clears_up_meanwhile_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreBrokenError, match="export again"):
        write(OutgoingFile(tmp_path / "a.csv", replaces=False), lambda: remove_leftovers(tmp_path))


def test_what_a_killed_export_left_is_cleared_by_the_next_run(house: House) -> None:
    batchrunner.export(str(house.out), to="jsonl")
    half = house.out / "export/.123-4.tmp"
    half.write_text("half")
    assert [finding.kind for finding in batchrunner.verify(str(house.out)).findings] == ["leftover"]
    house.run(chat("One", "Two", more='output: {each: "answers/{{ id }}.md"}'))
    assert not half.exists()


def test_a_file_that_is_changed_while_it_is_read_is_told(house: House) -> None:
    with RowOrder(house.out) as order:
        order.index()
        path = house.out / "results.jsonl"
        path.write_bytes(b" " * path.stat().st_size)
        with pytest.raises(StoreBrokenError, match="changed during the export; export again"):
            list(order.rows())


def test_a_file_that_is_replaced_while_it_is_read_changes_nothing(house: House) -> None:
    with RowOrder(house.out) as order:
        order.index()
        path = house.out / "results.jsonl"
        (house.folder / "new").write_bytes(b"")
        (house.folder / "new").rename(path)
        assert [json.loads(row.line)["index"] for row in order.rows()] == [1, 2]
