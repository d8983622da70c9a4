"""Copies of a run's directory in a store: which files, what is uploaded again, what a store that fails says."""

import asyncio
import json
from pathlib import Path

import pytest

from batchrunner.core.events import Event, Open, Uploaded
from batchrunner.stores.ledger_line import encode_line
from batchrunner.stores.mirror import Mirror, progress_of, progress_words, upload_place

LocalStore = pytest.importorskip("obstore.store", reason="obstore is not installed: see the extra `remote`").LocalStore
NOWHERE = "127.0.0.1:9"


def run_folder(folder: Path) -> Path:
    out = folder / "out"
    files = {
        "run.json": "{}",
        "results.jsonl": "{}\n",
        "images/a.png": "a",
        "images/.1-2.tmp": "half",
        "images/deeper/c.png": "c",
        "ledger/000001.jsonl": "",
        "ledger/000002.jsonl": "",
        "control/x.json": "{}",
        "errors.log": "traceback",
        ".lock": "",
        "shards/layout.json": "{}",
    }
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    (out / "images/link.png").symlink_to(folder / "outside.txt")
    (folder / "outside.txt").write_text("outside")
    (folder / "store").mkdir()
    return out


def look(out: Path, *, ledger: list[Uploaded] | None) -> None:
    mirror = Mirror(out, "s3://bucket/night", say=lambda _: None)
    mirror._store = LocalStore(out.parent / "store", mkdir=True)
    asyncio.run(mirror.look(None if ledger is None else ledger.append))


def there(out: Path) -> set[str]:
    place = out.parent / "store"
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_while_a_run_works_whole_files_and_closed_segments_are_copied(tmp_path: Path) -> None:
    out, events = run_folder(tmp_path), list[Uploaded]()
    look(out, ledger=events)
    assert there(out) == {"images/a.png", "images/deeper/c.png", "ledger/000001.jsonl"}
    assert {event.path for event in events} == there(out)


def test_at_the_end_everything_is_copied_that_is_of_the_run_and_not_of_this_machine(tmp_path: Path) -> None:
    out = run_folder(tmp_path)
    look(out, ledger=None)
    grown = {"run.json", "results.jsonl", "ledger/000002.jsonl"}
    assert there(out) == {"images/a.png", "images/deeper/c.png", "ledger/000001.jsonl"} | grown
    progress = progress_of(out)
    assert progress is not None
    assert (progress.files, progress.left, progress.problem) == (len(there(out)), 0, "")


def test_what_the_ledger_names_is_not_uploaded_again_unless_it_changed(tmp_path: Path) -> None:
    out = run_folder(tmp_path)
    events: list[Uploaded] = []
    look(out, ledger=events)
    lines: list[Event] = [Open(version=1, run="r", segment=2, job="", program=""), *events]
    (out / "ledger/000002.jsonl").write_bytes(
        b"".join(encode_line(event, sequence=n, at=1.0, durable=None) for n, event in enumerate(lines))
    )
    for name in there(out):
        (out.parent / "store" / name).unlink()
    (out / "images/a.png").write_text("another")
    look(out, ledger=[])
    assert there(out) == {"images/a.png"}


def test_a_store_that_fails_raises_nothing_and_counts_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": "AKIACANARY",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "AWS_ENDPOINT_URL": f"http://{NOWHERE}",
    }
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    out, said = run_folder(tmp_path), list[str]()
    mirror = Mirror(out, "s3://bucket/night", say=said.append)
    asyncio.run(mirror.look(None))
    assert mirror.progress.left == 6
    assert "6 are not yet" in progress_words(mirror.progress)
    assert len(said) >= 1
    assert not any("canary" in line.lower() for line in said)


def test_a_damaged_progress_file_is_no_progress(tmp_path: Path) -> None:
    (tmp_path / "uploads.json").write_text(json.dumps({"files": 1}))
    assert progress_of(tmp_path) is None
    assert progress_of(tmp_path / "absent") is None


def test_simulated_runs_and_shards_have_places_of_their_own() -> None:
    folder = Path("outputs/night/shards/1-of-4/epoch-2")
    assert upload_place("s3://b/night/", Path("outputs/night"), simulated=False, shard=None) == "s3://b/night"
    assert upload_place("s3://b/night", Path("x"), simulated=True, shard=None) == "s3://b/night.simulated"
    assert upload_place("s3://b/night", folder, simulated=False, shard="1-of-4") == "s3://b/night/shards/1-of-4/epoch-2"
