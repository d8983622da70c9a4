"""`batchrunner cancel`: open batches end at the server, what they had finished is read, and nothing is paid twice."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.runs import Ended, Simulator, environment, program, simulator
from tests.support.json_lines import json_lines

ITEMS = 40


def batchrunner(*arguments: str) -> Ended:
    done = subprocess.run(
        program(*arguments), check=False, env=environment(), capture_output=True, text=True, timeout=99
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def job_with_open_batches(folder: Path, server: Simulator) -> tuple[Path, Path]:
    """A job of two batches that are still open when its first run has ended; (job file, run's directory)."""
    job, out = folder / "night.yaml", folder / "out"
    job.write_text(
        f"name: night\nprovider: {{base_url: {server.base_url}, dialect: openai-chat}}\nmodel: sim/chat\n"
        f"output: {{dir: {out}}}\nprompts: {json.dumps([f'question {number}' for number in range(ITEMS)])}\n"
        "batch: {use: always, max_items: 20, look_every: 1s, max_wait: 1s}\n"
    )
    assert batchrunner("run", str(job)).status == 3
    return job, out


def run_cli(*arguments: str, status: int = 0) -> str:
    ended = batchrunner(*arguments)
    assert ended.status == status, ended.stderr
    return ended.stderr


@pytest.mark.real
def test_cancelled_batches_end_and_the_next_run_reads_them(tmp_path: Path) -> None:
    with simulator(tmp_path, "--latency", "task=3600") as server:
        job, out = job_with_open_batches(tmp_path, server)
        ended = batchrunner("cancel", str(out), "2", "--json")
        (one,) = json.loads(ended.stdout)["batches"]
        assert (ended.status, one["batch"], one["items"], one["state"]) == (0, 2, 20, "cancelled")
        said = run_cli("cancel", str(out))
        assert "batch 1" in said
        assert "cancelled before" in said
        run_cli("run", str(job))
        stats = server.stats()
        assert (stats["paid"], stats["paid_twice"], stats["batches"]) == (ITEMS, 0, 2)
        assert len(json_lines(out / "results.jsonl")) == ITEMS
        assert "no batch or task of this directory is open at the server; nothing to cancel" in run_cli(
            "cancel", str(out)
        )
        run_cli("cancel", str(out), "2", status=2)


@pytest.mark.real
def test_a_batch_that_cannot_be_cancelled_is_reported_and_stays_as_it_was(tmp_path: Path) -> None:
    with simulator(tmp_path, "--latency", "task=3600") as server:
        _, out = job_with_open_batches(tmp_path, server)
        ledgers = {path: path.read_bytes() for path in (out / "ledger").iterdir()}
        assert "one of 1 (" in run_cli("cancel", str(out), "batch_of_nobody", status=2)
    assert "not cancelled: " in run_cli("cancel", str(out), status=1)  # the server is gone
    assert {path: path.read_bytes() for path in (out / "ledger").iterdir()} == ledgers
    run_cli("cancel", str(tmp_path), status=2)
