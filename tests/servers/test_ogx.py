"""Batches of ogx, in OpenAI's and in Anthropic's shape, in front of the simulator, which counts what it is paid for.

Its result files have bodies that are a text of JSON, a file of errors although nothing failed, and an address of
results without a host. A batch of an ogx that was killed says `in_progress` for ever: it has to be given up.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import batchrunner
from tests.e2e.judging import is_intact
from tests.e2e.runs import Ended, Simulator, each_item_ended_once, run_job, simulator
from tests.servers.llama import free_port
from tests.servers.mocks import needs_ogx, ogx

pytestmark = [pytest.mark.servers, needs_ogx]
MODEL = "Qwen/Qwen3-8B"
DIALECTS = {"openai-chat": "/v1", "anthropic-messages": ""}
ITEMS = 60


def write_job(folder: Path, root: str, dialect: str, *, items: int, **batch: str) -> Path:
    job = folder / f"{dialect}.yaml"
    policy = {"use": "always", "look_every": "1s", **batch}
    job.write_text(
        f"provider: {{base_url: {root}{DIALECTS[dialect]}, dialect: {dialect}, api_key_env: []}}\n"
        f"model: vllm/{MODEL}\nparams: {{max_tokens: 100}}\nbatch: {json.dumps(policy)}\n"
        f"prompts: {json.dumps([f'question {number} of {dialect}' for number in range(items)])}\n"
    )
    return job


def out_of(job: Path) -> Path:
    return job.parent / "outputs" / job.stem


def is_held(job: Path, ended: Ended) -> None:
    assert ended.status == 3, ended.stderr
    assert "still `in_progress` long after it should have ended" in ended.stderr
    status = batchrunner.status(str(out_of(job)))
    assert (status.items.held, status.items.done) == (ITEMS, 0)
    (batch,) = status.batches
    assert batch.state == "held"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Simulator, str]]:
    folder = tmp_path_factory.mktemp("ogx")
    with simulator(folder) as upstream, ogx(upstream.base_url, port=free_port(), folder=folder) as root:
        yield upstream, root


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_item_of_a_batch_is_read_and_paid_once(
    served: tuple[Simulator, str], tmp_path: Path, dialect: str
) -> None:
    upstream, root = served
    before = upstream.stats()["paid"]
    job = write_job(tmp_path, root, dialect, items=ITEMS)
    ended = run_job(job)
    assert ended.status == 0, ended.stderr
    rows = each_item_ended_once(out_of(job), items=ITEMS)
    assert len(rows) == ITEMS
    assert all(row["output"]["text"] for row in rows)
    after = upstream.stats()
    assert (after["paid"] - before, after["paid_twice"]) == (ITEMS, 0)
    assert run_job(job).status == 0
    assert upstream.stats()["paid"] == after["paid"], "a second run sent something"
    is_intact(out_of(job))


def test_batches_of_a_killed_server_are_held_and_no_run_waits_for_them_for_ever(tmp_path: Path) -> None:
    port = free_port()
    with simulator(tmp_path, "--latency", "2") as upstream:
        with ExitStack() as until_killed:
            root = until_killed.enter_context(ogx(upstream.base_url, port=port, folder=tmp_path))
            jobs = [
                write_job(tmp_path, root, dialect, items=ITEMS, max_wait="1s", give_up="2s") for dialect in DIALECTS
            ]
            for job in jobs:
                ended = run_job(job)
                assert ended.status == 3, ended.stderr
                assert [batch.state for batch in batchrunner.status(str(out_of(job))).batches] == ["accepted"]
        paid = upstream.stats()["paid"]
        assert paid < 2 * ITEMS
        with ogx(upstream.base_url, port=port, folder=tmp_path):
            for job in jobs:
                is_held(job, run_job(job))
                is_held(job, run_job(job))  # nor does a later run send anything
    for job in jobs:
        is_intact(out_of(job))
