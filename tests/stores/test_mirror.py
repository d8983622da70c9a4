"""Copies of a run's directory in a store: which files, what is uploaded again, what a store that fails says."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Close, Event, Lost, Open, Uploaded
from batchrunner.stores import object_store
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.mirror import Mirror, progress_of, progress_words, upload_place
from batchrunner.stores.run_file import RunFile, write_run_file
from batchrunner.stores.store_ledger import StoreLedger

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


def segments(out: Path, *events: list[Event]) -> None:
    for number, of_one in enumerate(events, 1):
        lines = [Open(version=1, run="r", segment=number, job="", program=""), *of_one, Close(records=1)]
        coded = (encode_line(event, sequence=n, at=1.0, durable=None) for n, event in enumerate(lines))
        (out / f"ledger/{number:06d}.jsonl").write_bytes(b"".join(coded))


def ran(out: Path, *, segment: int, digest: str = "d") -> None:
    write_run_file(
        out,
        RunFile(
            job_name="j", simulated=False, digest=digest, program="p", created="t", job={}, segment=segment, message="m"
        ),
    )


NEWS = Lost(i="a", k="0" * 32)


def test_a_later_run_with_nothing_to_do_adds_nothing_to_the_store(tmp_path: Path) -> None:
    out = run_folder(tmp_path)
    copied = Uploaded(path="images/a.png", size=1, mtime=1, to="s3://bucket/night")
    segments(out, [NEWS])
    (out / "ledger/000002.jsonl").unlink()
    ran(out, segment=1)
    look(out, ledger=None)
    before, run_file = there(out), (out.parent / "store/run.json").read_bytes()
    segments(out, [NEWS], [copied], [])
    ran(out, segment=3)
    look(out, ledger=[])
    look(out, ledger=None)
    assert there(out) == before
    assert (out.parent / "store/run.json").read_bytes() == run_file != (out / "run.json").read_bytes()
    progress = progress_of(out)
    assert progress is not None
    assert (progress.files, progress.left) == (len(before), 0)


@pytest.mark.parametrize("news", ["ledger", "run.json"])
def test_segments_without_news_are_copied_once_there_is_some(tmp_path: Path, news: str) -> None:
    out = run_folder(tmp_path)
    segments(out, [NEWS])
    (out / "ledger/000002.jsonl").unlink()
    ran(out, segment=1)
    look(out, ledger=None)
    segments(out, [NEWS], [], [NEWS] if news == "ledger" else [])
    ran(out, segment=3, digest="another" if news == "run.json" else "d")
    look(out, ledger=None)
    assert {"ledger/000002.jsonl", "ledger/000003.jsonl"} <= there(out)
    assert (out.parent / "store/run.json").read_bytes() == (out / "run.json").read_bytes()


@pytest.mark.parametrize(
    ("left", "said", "missing"),
    [
        ({}, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment", "AWS_REGION"),
        ({"AWS_ACCESS_KEY_ID": "AKIACANARY"}, "set AWS_SECRET_ACCESS_KEY in the environment", "set AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_store_without_credentials_names_the_variables_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: dict[str, str], said: str, missing: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{NOWHERE}",
        "AWS_METADATA_ENDPOINT": f"http://{NOWHERE}",
        **left,
    }.items():
        monkeypatch.setenv(name, value)
    words = list[str]()
    asyncio.run(Mirror(run_folder(tmp_path), "s3://bucket/night", say=words.append).look(None))
    assert said in words[0]
    assert "there are no credentials for `bucket`" in words[0]
    assert missing not in words[0]


def test_a_store_that_is_silent_is_reported_before_there_is_anything_to_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        object_store, "FIRST_LOOK", object_store.Patience(connect_s=0.2, answer_s=0.2, retries=0, retry_s=0.2)
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "canary")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        said = list[str]()
        (tmp_path / "empty").mkdir()
        asyncio.run(Mirror(tmp_path / "empty", "s3://bucket/night", say=said.append).look(list[Uploaded]().append))
        with pytest.raises(StoreBrokenError, match="the same command begins") as caught:
            StoreLedger(tmp_path / "empty", "s3://bucket/night").take()
    for words in (said[0], str(caught.value)):
        assert (
            f"{host} cannot be reached (no answer) for `bucket`: look at the network and at AWS_ENDPOINT_URL" in words
        )
