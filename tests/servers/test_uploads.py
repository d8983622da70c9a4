"""Runs whose source and copies lie in moto's S3: what is there at the end, after a store that was away, after kills."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from tests.e2e.runs import each_item_ended_once, kill_often, no_byte_holds, run_job, size
from tests.servers.llama import free_port
from tests.servers.moto import ACCESS_KEY, SECRET_KEY, moto, needs_moto, store_of
from tests.support.json_lines import json_lines

pytestmark = [pytest.mark.servers, needs_moto]
ITEMS = 120
NOT_COPIED = {"uploads.json", "lock", "run.lock", "errors.log"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with moto(tmp_path_factory.mktemp("moto"), port=free_port()) as env:
        store_of(env).mkdir("runs")
        rows = b"".join(b'{"prompt": "picture %d"}\n' % number for number in range(ITEMS))
        store_of(env).pipe("runs/rows.jsonl", rows)
        yield env


@pytest.fixture
def store(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return store_of(environment)


def write_job(folder: Path, name: str, upload: str, **keys: Any) -> Path:
    job = folder / f"{name}.yaml"
    whole = {
        "provider": "simulator",
        "kind": "image",
        "model": "sim/painter",
        "prompts": {"file": "s3://runs/rows.jsonl", "template": "{{ prompt }}"},
        "output": {"upload": upload},
        **keys,
    }
    job.write_text(json.dumps(whole))
    return job


def out_of(job: Path) -> Path:
    return job.parent / f"outputs/{job.stem}.simulated"


def assert_copied(store: Any, out: Path, place: str) -> None:
    """Every finished file of the run is there, byte for byte."""
    there = {path.removeprefix(f"{place}/"): path for path in store.find(place)}
    here = {
        path.relative_to(out).as_posix(): path
        for path in out.rglob("*")
        if path.is_file() and path.name not in NOT_COPIED and "control" not in path.parts
    }
    assert there.keys() == here.keys()
    for name, path in there.items():
        assert store.cat_file(path) == here[name].read_bytes(), name


def times_of(store: Any, place: str) -> dict[str, Any]:
    return {path: info["LastModified"] for path, info in store.find(place, detail=True).items()}


def test_source_and_copies_of_a_run_lie_in_a_store(store: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path, "whole", "s3://runs/copies/whole")
    ended = run_job(job)
    assert ended.status == 0, ended.stderr
    each_item_ended_once(out_of(job), items=ITEMS)
    assert_copied(store, out_of(job), "runs/copies/whole.simulated")
    uploaded = [event for event in json_lines(out_of(job) / "ledger/000001.jsonl") if event["e"] == "uploaded"]
    assert len({event["path"] for event in uploaded if event["path"].startswith("images/")}) == ITEMS
    assert any("uploads: " in note for note in batchrunner.status(str(out_of(job))).notes)
    assert batchrunner.verify(str(out_of(job))).sound
    for secret in (ACCESS_KEY, SECRET_KEY):
        no_byte_holds(tmp_path, secret)
    before = times_of(store, "runs/copies/whole.simulated")
    assert run_job(job).status == 0
    assert times_of(store, "runs/copies/whole.simulated") == before, "a run with nothing to do puts nothing there"
    copied = tmp_path / "copy"
    store.get("runs/copies/whole.simulated/", str(copied), recursive=True)
    assert batchrunner.verify(str(copied)).sound


def test_a_store_that_fails_stops_no_run_and_the_next_run_uploads(store: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path, "away", "s3://not-there-yet/away")
    ended = run_job(job)
    assert ended.status == 3
    each_item_ended_once(out_of(job), items=ITEMS)
    assert "the run goes on" in ended.stderr
    assert any("are not yet" in note for note in ended.report["notes"])
    store.mkdir("not-there-yet")
    again = run_job(job)
    assert again.status == 0, again.stderr
    assert again.report["sends"]["total"] == ended.report["sends"]["total"]
    assert_copied(store, out_of(job), "not-there-yet/away.simulated")


def test_kills_lose_no_copy_and_pay_nothing_unseen(store: Any, tmp_path: Path) -> None:
    slow = {"params": {}, "limits": {"concurrency": 4}}
    job = write_job(tmp_path, "killed", "s3://runs/copies/killed", **slow)
    plain = write_job(tmp_path, "plain", "s3://runs/copies/plain", **slow)
    assert run_job(plain).status == 0
    killed = kill_often(job, out_of(job), kills=4, whole_bytes=size(out_of(plain) / "ledger"), seed=1)
    assert killed
    assert run_job(job).status == 0
    each_item_ended_once(out_of(job), items=ITEMS)
    assert batchrunner.verify(str(out_of(job))).sound
    assert_copied(store, out_of(job), "runs/copies/killed.simulated")
    copied = tmp_path / "copy"
    store.get("runs/copies/killed.simulated/", str(copied), recursive=True)
    assert batchrunner.verify(str(copied)).sound
    shutil.rmtree(out_of(job))
    shutil.copytree(copied, out_of(job))
    sent = batchrunner.status(str(copied)).sends.total
    assert run_job(job).report["sends"]["total"] == sent, "a fresh machine goes on from the copy and sends nothing"
