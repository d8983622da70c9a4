"""The ledger of a run in moto's S3: kills, two writers, a machine that is gone, and a writer that was thought dead."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from tests.e2e.runs import (
    Simulator,
    each_item_ended_once,
    environment,
    kill_often,
    no_byte_holds,
    program,
    run_job,
    simulator,
)
from tests.servers.llama import free_port
from tests.servers.moto import ACCESS_KEY, SECRET_KEY, moto, needs_moto, store_of
from tests.support.json_lines import json_lines
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.servers, needs_moto]
ITEMS = 100


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Simulator]]:
    folder = tmp_path_factory.mktemp("moto")
    with moto(folder, port=free_port()) as env, simulator(folder) as provider:
        store_of(env).mkdir("runs")
        yield env, provider


@pytest.fixture
def store(served: tuple[dict[str, str], Simulator], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in served[0].items():
        monkeypatch.setenv(name, value)
    return store_of(served[0])


def write_job(folder: Path, served: tuple[dict[str, str], Simulator], name: str, **keys: Any) -> Path:
    folder.mkdir(exist_ok=True)
    job = folder / f"{name}.yaml"
    whole = {
        "provider": {"base_url": served[1].base_url, "dialect": "openai-chat", "api_key_env": []},
        "model": "sim/talker",
        "prompts": [f"{name}, question {number}" for number in range(ITEMS)],
        "limits": {"concurrency": 4},
        "output": {"ledger": f"s3://runs/{name}", "report": False},
        **keys,
    }
    job.write_text(json.dumps(whole))
    return job


def out_of(job: Path) -> Path:
    return job.parent / "outputs" / job.stem


def test_kills_and_a_machine_that_is_gone_pay_nothing_twice_unseen(
    store: Any, served: tuple[dict[str, str], Simulator], tmp_path: Path
) -> None:
    plain = write_job(tmp_path, served, "plain")
    assert run_job(plain).status == 0
    before = served[1].stats()["paid_twice"]
    job = write_job(tmp_path, served, "killed")
    size = sum(path.stat().st_size for path in (out_of(plain) / "ledger").iterdir())
    assert kill_often(job, out_of(job), kills=5, whole_bytes=size, seed=3)
    shutil.rmtree(out_of(job))
    assert run_job(job).status == 0
    each_item_ended_once(out_of(job), items=ITEMS)
    assert batchrunner.verify(str(out_of(job))).sound
    status = batchrunner.status(str(out_of(job)))
    assert served[1].stats()["paid_twice"] - before <= status.sends.possible_duplicates
    for secret in (ACCESS_KEY, SECRET_KEY):
        no_byte_holds(tmp_path, secret)


def test_of_two_that_begin_at_once_one_runs_and_the_other_sends_nothing(
    store: Any, served: tuple[dict[str, str], Simulator], tmp_path: Path
) -> None:
    jobs = [write_job(tmp_path / name, served, "raced") for name in ("one", "two")]
    with served[1].silent():  # until one has lost: else the winner might have ended before the other began
        racers = [
            subprocess.Popen(
                program("run", job.name), cwd=job.parent, env=environment(), stderr=subprocess.PIPE, text=True
            )
            for job in jobs
        ]
        wait_until(lambda: any(racer.poll() is not None for racer in racers), "one of them has ended")
    said = [racer.communicate(timeout=300)[1] for racer in racers]
    assert sorted(racer.returncode for racer in racers) == [0, 4], said
    loser = [racer.returncode for racer in racers].index(4)
    assert "another process" in said[loser]
    segments = (out_of(jobs[loser]) / "ledger").glob("*.jsonl")
    assert not [event for path in segments for event in json_lines(path) if event["e"] == "intent"]
    each_item_ended_once(out_of(jobs[1 - loser]), items=ITEMS)
    assert batchrunner.verify(str(out_of(jobs[1 - loser]))).sound
