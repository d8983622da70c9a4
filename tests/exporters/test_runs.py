"""Exports of runs on disk: what is in the file, in which order, and that everything else is counted."""

import asyncio
import csv
import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner import Exported
from batchrunner.exporters import EXPORTERS, arrow_tables
from batchrunner.stores.lock import RunLock
from tests.support.engine import RunHarness, chat, image


def export(harness: RunHarness, to: str = "jsonl", **options: Any) -> Exported:
    return batchrunner.export(str(harness.out), to=to, **options)


def rows(exported: Exported) -> list[dict[str, Any]]:
    assert exported.path is not None
    content = Path(exported.path).read_bytes()
    assert len(content) == exported.bytes
    found = [json.loads(line) for line in content.decode().splitlines()]
    assert len(found) == exported.rows
    return found


def shuffle(path: Path) -> None:
    """As answers that came in another order."""
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))


# -- order


def test_rows_stand_in_the_jobs_order_whatever_order_they_came_in(harness: RunHarness) -> None:
    more = "replicas: 2\nmatrix: {temperature: [0, 1]}"
    job = chat("First", "Second", more=more).replace('model: "sim/chat"', "models: [sim/a, sim/b]")
    harness.run(job)
    shuffle(harness.out / "results.jsonl")
    exported = export(harness)
    found = rows(exported)
    assert [row["index"] for row in found] == list(range(1, 17))
    first = [(row["prompt"], row["params"]["temperature"], row["model"], row.get("replica", 1)) for row in found[:4]]
    assert first == [
        ("First", 0, "sim/a", 1),
        ("First", 0, "sim/a", 2),
        ("First", 0, "sim/b", 1),
        ("First", 0, "sim/b", 2),
    ]
    assert (exported.failed, exported.missing, exported.simulated, exported.exit_status) == (0, 0, True, 0)


def test_identical_items_have_a_row_each(harness: RunHarness) -> None:
    harness.run(chat("Same", "Other", "Same"))
    shuffle(harness.out / "results.jsonl")
    found = rows(export(harness))
    assert [(row["prompt"], row.get("shared_with") is not None) for row in found] == [
        ("Same", False),
        ("Other", False),
        ("Same", True),
    ]


def files_of(place: Path) -> dict[str, bytes]:
    """The file, or those of the folder without the list that has their times."""
    found = [place] if place.is_file() else [path for path in place.rglob("[!.]*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found if path.suffix != ".xlsx"}  # a workbook has its time in it


@pytest.mark.parametrize("to", EXPORTERS)
def test_the_same_run_gives_the_same_bytes_in_every_format(harness: RunHarness, to: str) -> None:
    harness.run(image("A boat", "A barn"))
    first = export(harness, to)
    assert first.path is not None
    content = files_of(Path(first.path))
    shuffle(harness.out / "results.jsonl")
    again = export(harness, to)
    assert files_of(Path(first.path)) == content
    assert (first.replaced, again.replaced) == (False, True)


# -- what is not in it


def test_items_without_a_row_are_counted(harness: RunHarness) -> None:
    harness.run(chat("One", "Two", "Three"), limit=1)
    exported = export(harness)
    assert (exported.rows, exported.failed, exported.missing) == (1, 0, 2)
    assert exported.exit_status == 0


def test_a_run_that_has_no_row_yet_gives_an_empty_export(harness: RunHarness) -> None:
    harness.run(chat("One"), limit=0)
    for to in EXPORTERS:
        assert export(harness, to).rows == 0


def test_failed_items_are_counted_and_taken_along_when_asked_for(harness: RunHarness) -> None:
    models = chat("One", "Two").replace('model: "sim/chat"', 'models: [sim/a, "sim/b#bad-model-id"]')
    harness.run(models)
    without = export(harness)
    assert [row["model"] for row in rows(without)] == ["sim/a", "sim/a"]
    assert (without.failed, without.missing, without.failures_included) == (2, 0, False)
    taken = rows(export(harness, failures=True))
    assert [(row["index"], "error" in row) for row in taken] == [(1, False), (2, True), (3, False), (4, True)]
    (status,) = {line["status"] for line in table(harness) if line["error.class"]}
    assert status == "failed"


def table(harness: RunHarness) -> list[dict[str, str]]:
    exported = export(harness, "csv", failures=True)
    assert exported.path is not None
    return list(csv.DictReader(io.StringIO(Path(exported.path).read_text("utf-8"), newline="")))


def test_a_failure_that_was_repaired_since_is_not_in_it(harness: RunHarness) -> None:
    job = chat("One", "Two", model="sim/chat#5xx:3", more="retry: {attempts: 2}")
    harness.run(job)
    failures = (harness.out / "failures.jsonl").read_bytes()
    assert failures.count(b"\n") == 2
    harness.run(job, retry_failed=True)
    (harness.out / "failures.jsonl").write_bytes(failures)  # as while that run was still at work
    exported = export(harness, failures=True)
    assert ["error" in row for row in rows(exported)] == [False, False]
    assert exported.failed == 0


def test_of_an_item_that_failed_again_only_the_last_row_counts(harness: RunHarness) -> None:
    harness.run(chat("One", model="sim/chat#bad-model-id"))
    path = harness.out / "failures.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"attempts":1', b'"attempts":0') + path.read_bytes())
    (row,) = rows(export(harness, failures=True))
    assert row["attempts"] == 1


def test_rows_of_items_that_the_job_has_no_more_are_reported(harness: RunHarness) -> None:
    harness.run(chat("One", "Two", "Three"))
    line = (harness.out / "results.jsonl").read_bytes().splitlines()[0]
    row = json.loads(line)  # with its own id: of two answers to one item, the later is given
    other = line.replace(row["key"].encode(), b"0" * 32).replace(json.dumps(row["id"]).encode(), b'"another"', 1)
    with (harness.out / "results.jsonl").open("ab") as file:
        file.write(other + b"\n")
    exported = export(harness)
    assert (exported.rows, exported.vanished, exported.missing) == (4, 1, 0)


def test_a_row_that_stands_there_twice_is_given_once(harness: RunHarness) -> None:
    harness.run(chat("One", "Two"))
    path = harness.out / "results.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    assert len(rows(export(harness))) == 2


# -- damage


def test_a_torn_end_is_no_damage_and_not_in_it(harness: RunHarness) -> None:
    harness.run(chat("One", "Two"))
    with (harness.out / "results.jsonl").open("ab") as file:
        file.write(b'no row\n{"id":"half')
    exported = export(harness)
    assert (exported.rows, exported.damaged, exported.exit_status) == (2, 0, 0)


@pytest.mark.parametrize("damage", [b"\x00", b"\xff", b'"', b"\\ud800"])
def test_a_recorded_line_that_cannot_be_read_is_reported_and_the_others_are_exported(
    harness: RunHarness, damage: bytes
) -> None:
    harness.run(chat("One", "Two", "Three"))
    path = harness.out / "results.jsonl"
    content = bytearray(path.read_bytes())
    place = content.index(b'"id":"') + 6
    content[place : place + len(damage)] = damage
    path.write_bytes(bytes(content))
    exported = export(harness)
    assert (exported.rows, exported.damaged, exported.exit_status) == (2, 1, 4)
    assert exported.missing == 1


@pytest.mark.parametrize("happens", ["gone", "changed", "a link"])
def test_a_picture_that_is_not_as_recorded_is_reported_and_not_in_it(harness: RunHarness, happens: str) -> None:
    harness.run(image("A boat", "A barn"))
    picture = min((harness.out / "images").iterdir())
    content = picture.read_bytes()
    picture.unlink()
    if happens == "changed":
        picture.write_bytes(content[:-1])
    elif happens == "a link":
        (harness.folder / "elsewhere").write_bytes(content)
        picture.symlink_to(harness.folder / "elsewhere")
    exported = export(harness, "webdataset")
    assert (exported.rows, exported.pictures_missing, exported.exit_status) == (2, 1, 4)
    assert exported.path is not None
    with tarfile.open(exported.path) as tar:
        assert sorted(name.partition(".")[2] for name in tar.getnames()) == ["json", "json", "png", "txt"]


def test_a_picture_outside_of_the_run_is_never_read(harness: RunHarness) -> None:
    harness.run(image("A boat"))
    path = harness.out / "results.jsonl"
    (harness.folder / "secret").write_bytes(b"secret")
    (picture,) = json.loads(path.read_bytes())["output"]["images"]
    path.write_bytes(path.read_bytes().replace(picture["path"].encode(), b"../secret"))
    stream = io.BytesIO()
    assert export(harness, "webdataset", out=stream).pictures_missing == 1
    assert stream.getvalue().count(b"secret") == 1  # the row's own word


def test_a_damaged_ledger_is_an_error_in_words(harness: RunHarness) -> None:
    harness.run(chat("One"))
    (segment,) = (harness.out / "ledger").glob("*.jsonl")
    content = bytearray(segment.read_bytes())
    content[200] ^= 1
    segment.write_bytes(bytes(content))
    with pytest.raises(batchrunner.BatchrunnerError) as caught:
        export(harness)
    assert caught.value.exit_status == 4


# -- beside a run


def test_a_run_at_work_is_not_disturbed(harness: RunHarness) -> None:
    harness.run(chat("One", "Two", "Three"), limit=2)
    with RunLock(harness.out):
        exported = export(harness)
    assert (exported.state, exported.rows, exported.missing) == ("running", 2, 1)
    assert harness.run(chat("One", "Two", "Three")).exit_status == 0


def test_an_export_is_nothing_that_an_audit_wonders_at(harness: RunHarness) -> None:
    harness.run(image("A boat"))
    for to in EXPORTERS:
        export(harness, to)
    assert [finding.kind for finding in batchrunner.verify(str(harness.out)).findings] == []


def test_it_may_be_called_from_a_coroutine(harness: RunHarness) -> None:
    harness.run(chat("One"))

    async def exported() -> Exported:
        return await asyncio.to_thread(export, harness)

    assert asyncio.run(exported()).rows == 1


# -- memory


@pytest.mark.parametrize("to", EXPORTERS)
def test_memory_does_not_grow_with_the_answers(harness: RunHarness, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    monkeypatch.setattr(arrow_tables, "_GROUP_BYTES", 1 << 19)  # what is collected before it is written
    harness.run(chat("One"))
    path = harness.out / "results.jsonl"
    row = json.loads(path.read_bytes())
    row["output"]["text"] = "x" * 30_000
    export(harness, to)  # loads the format's libraries, whose memory is not the answers'
    peaks = []
    for count in (60, 240):
        with path.open("wb") as file:
            for number in range(1, count + 1):
                file.write(json.dumps({**row, "index": number, "id": f"i{number}", "key": f"{number:032x}"}).encode())
                file.write(b"\n")
        tracemalloc.start()
        exported = export(harness, to)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert exported.rows in (0, count)  # there are no pictures and no verdicts
    assert peaks[1] < peaks[0] + 1_500_000, "the 180 rows more have 5.4 million characters"
