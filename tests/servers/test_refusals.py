"""llama.cpp's server refuses: while it loads, with a wrong key, and what is too long for its context."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.runs import CANARY, each_item_ended_once, environment, no_byte_holds, program, run_job
from tests.servers.llama import Options, free_port, llama
from tests.servers.model import write_model
from tests.servers.runs import (
    DIALECTS,
    answers,
    audit,
    failures,
    intents,
    ledger,
    needs_llama,
    outputs,
    refusals,
    write_job,
)

pytestmark = [pytest.mark.servers, needs_llama]
_MORE_WORDS = 200_000
"""A vocabulary that takes a server a second or two to load."""
_PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("small") / "random.gguf"))


@contextlib.contextmanager
def running(job: Path) -> Iterator["subprocess.Popen[str]"]:
    """The program at work on a job, in a process of its own."""
    process = subprocess.Popen(
        program("run", job.name, "--json"),
        cwd=job.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(state: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait until the job's ledger shows this state."""
    deadline = time.monotonic() + _PATIENCE_S
    while not state():
        assert time.monotonic() < deadline, "the ledger never came to that"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)  # a real process is watched in real time


def test_a_server_that_is_not_there_and_then_loads_costs_no_attempt(tmp_path: Path) -> None:
    model = write_model(tmp_path / "slow.gguf", more_words=_MORE_WORDS)
    options = Options(model=str(model), port=free_port(), slots=4, context_tokens=512)
    job = write_job(tmp_path, f"http://127.0.0.1:{options.port}", items=8, params="max_tokens: 4")
    with running(job) as process:
        wait_for(lambda: refusals(job)["connect"] > 0, process)
        with llama(options, tmp_path) as server:
            server.wait_until(503)
            with server.paused():
                wait_for(lambda: intents(job) > refusals(job).total(), process)
            stdout, stderr = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, stderr
    seen = refusals(job)
    assert seen["overloaded"] > 0, "the server was never asked while it loaded"
    assert set(seen) == {"connect", "overloaded"}
    results = each_item_ended_once(outputs(job), items=8)
    assert {(row["attempts"], row["ambiguous"]) for row in results} == {(1, 0)}
    sends = json.loads(stdout)["sends"]
    assert (sends["total"], sends["refused"], sends["possible_duplicates"]) == (8 + seen.total(), seen.total(), 0)
    audit(job)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_wrong_key_stops_the_run_in_the_servers_words_and_the_right_one_finishes(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    options = Options(model=small, port=free_port(), api_key="the-right-key-of-this-server")
    concurrency = 3
    with llama(options, tmp_path) as server:
        server.wait_until(200)
        rest = f"limits: {{concurrency: {concurrency}}}"
        job = write_job(tmp_path, server.root, dialect=dialect, items=20, params="max_tokens: 8", rest=rest)
        ended = run_job(job)
        assert ended.status == 5, ended.stderr
        assert "Invalid API Key" in ended.stderr
        assert 1 <= intents(job) <= concurrency
        assert refusals(job) == {"auth": intents(job)}
        assert (answers(job), failures(job)) == ([], [])
        no_byte_holds(outputs(job), CANARY)
        refused = intents(job)
        job.write_text(job.read_text().replace("BATCHRUNNER_TEST_KEY", "BATCHRUNNER_RIGHT_KEY"))
        assert options.api_key is not None
        monkeypatch.setenv("BATCHRUNNER_RIGHT_KEY", options.api_key)
        ended = run_job(job)
    assert ended.status == 0, ended.stderr
    results = each_item_ended_once(outputs(job), items=20)
    assert {row["attempts"] for row in results} == {1}
    assert intents(job) == 20 + refused
    no_byte_holds(outputs(job), options.api_key)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_too_long_for_the_context_fails_once_and_the_rest_is_answered(
    small: str, tmp_path: Path, dialect: str
) -> None:
    options = Options(model=small, port=free_port(), slots=4, context_tokens=256)
    with llama(options, tmp_path) as server:
        server.wait_until(200)
        job = write_job(tmp_path, server.root, dialect=dialect, items=60, params="max_tokens: 8")
        ended = run_job(job)
    assert ended.status == 1, ended.stderr
    each_item_ended_once(outputs(job), items=60)
    failed = failures(job)
    assert 5 <= len(failed) <= 55
    for row in failed:
        assert row["error"]["class"] == "bad_request"
        assert "exceeds the available context size (256 tokens)" in row["error"]["message"]
        assert row["attempts"] == 1
    assert min(len(row["prompt"]) for row in failed) > 200
    assert {row["attempts"] for row in answers(job)} == {1}
    assert intents(job) == 60
    assert [record["kind"] for record in ledger(job) if record["e"] == "retry"] == []
    audit(job)
