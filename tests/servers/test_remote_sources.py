"""Jobs whose source lies in an object store (moto's S3): what is read, what is said, and what is not read again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import each_item_ended_once, no_byte_holds, run_job
from tests.servers.llama import free_port
from tests.servers.moto import ACCESS_KEY, SECRET_KEY, guard, moto, needs_moto, store_of
from tests.support.task_server import png_of as png

pytestmark = [pytest.mark.servers, needs_moto]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with moto(tmp_path_factory.mktemp("moto"), port=free_port()) as env:
        store_of(env).mkdir("prompts")
        yield env


@pytest.fixture
def store(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return store_of(environment)


def write_job(folder: Path, file: str, **keys: Any) -> Path:
    job = folder / "job.yaml"
    prompts = {"file": file, **keys.pop("prompts", {})}
    whole = {"provider": "simulator", "kind": "chat", "model": "sim/talker", "prompts": prompts, **keys}
    job.write_text(json.dumps(whole))
    return job


def out_of(job: Path) -> Path:
    return job.parent / "outputs/job.simulated"


def test_a_job_is_run_over_a_file_in_a_store_and_then_there_is_nothing_to_do(store: Any, tmp_path: Path) -> None:
    store.pipe("prompts/a/rows.jsonl", b"".join(b'{"prompt": "question %d"}\n' % n for n in range(300)))
    job = write_job(tmp_path, "s3://prompts/a/rows.jsonl")
    assert run_job(job).status == 0
    rows = each_item_ended_once(out_of(job), items=300)
    assert {row["prompt"] for row in rows} == {f"question {n}" for n in range(300)}
    again = run_job(job)
    assert (again.status, again.report["sends"]["total"]) == (0, 300)
    store.pipe("prompts/a/rows.jsonl", b"".join(b'{"prompt": "question %d"}\n' % n for n in range(301)))
    more = run_job(job)
    assert (more.status, more.report["sends"]["total"]) == (0, 301)
    for secret in (ACCESS_KEY, SECRET_KEY):
        no_byte_holds(tmp_path, secret)


def test_a_folder_of_texts_and_pictures_in_a_store_is_a_source(store: Any, tmp_path: Path) -> None:
    for number in (10, 2, 1):
        store.pipe(f"prompts/texts/{number}.txt", b"text %d" % number)
    store.pipe("prompts/texts/.hidden.txt", b"hidden")
    store.pipe("prompts/texts/deeper/x.txt", b"deeper")
    job = write_job(tmp_path, "s3://prompts/texts")
    assert run_job(job).status == 0
    rows = sorted(each_item_ended_once(out_of(job), items=3), key=lambda row: row["index"])
    assert [row["prompt"] for row in rows] == ["text 1", "text 2", "text 10"]


def test_pictures_of_a_folder_in_a_store_are_sent_by_their_bytes(store: Any, tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        store.pipe(f"prompts/pictures/{colour}.png", png(colour))
    job = write_job(tmp_path, "s3://prompts/pictures/", prompts={"template": "What is it?", "images": ["{{ file }}"]})
    assert run_job(job).status == 0
    each_item_ended_once(out_of(job), items=2)
    store.pipe("prompts/pictures/red.png", png("green"))
    assert run_job(job).report["sends"]["total"] == 3


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("s3://no-such-bucket/a.jsonl", "bucket does not exist"),
        ("s3://prompts/no-such-key.jsonl", "`prompts` has nothing of this name"),
        ("s3://prompts/no-such-folder/", "nothing of this name"),
    ],
)
def test_what_is_missing_is_reported_before_anything_is_sent(store: Any, tmp_path: Path, file: str, said: str) -> None:
    ended = run_job(write_job(tmp_path, file))
    assert ended.status == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_store_without_a_right_to_read_reports_it_and_shows_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto(tmp_path, port=free_port()) as env:
        store_of(env).mkdir("guarded")
        store_of(env).pipe("guarded/a.jsonl", b'{"prompt": "hi"}\n')
        guard(env)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        ended = run_job(write_job(tmp_path, "s3://guarded/a.jsonl"))
    assert ended.status == 2
    assert "may not be read" in ended.stderr
    assert ACCESS_KEY not in ended.stderr
    assert SECRET_KEY not in ended.stderr


def test_a_job_without_credentials_learns_which_variables_are_missing(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = run_job(write_job(tmp_path, "s3://prompts/a/rows.jsonl"))
    assert ended.status == 2
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in ended.stderr
