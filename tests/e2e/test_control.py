"""Commands to a real process: that they are followed at 1,000 in flight, and what a kill leaves of them."""

import json
import signal
from pathlib import Path

import pytest

import batchrunner
from tests.e2e.jobs import chat_job
from tests.e2e.judging import write_prompts
from tests.e2e.lives import Life, life, run
from tests.e2e.runs import simulator

pytestmark = pytest.mark.real
AT_ONCE = 1_000


def in_flight(living: Life, dir: Path, number: int) -> None:  # noqa: A002 - as in the product
    """Wait until the ledger has so many intents."""
    ledger = dir / "ledger"
    assert living.watch(
        until=lambda: sum(path.read_text().count('"intent"') for path in ledger.glob("*.jsonl")) >= number
    )


def job_of(tmp_path: Path, base_url: str, *, at_once: int, items: int) -> tuple[Path, Path]:
    write_prompts(tmp_path / "prompts.jsonl", items=items)
    job = chat_job(tmp_path, base_url)
    job.write_text(job.read_text().replace("concurrency: 64", f"concurrency: {at_once}"))
    return job, tmp_path / "outputs" / "answers"


def test_a_command_is_followed_at_a_thousand_in_flight(tmp_path: Path) -> None:
    """Before any of them ends. How soon, two seconds at most, is measured by `benchmarks/terminal.py`."""
    with simulator(tmp_path, "--latency", "first=600") as server:
        job, out = job_of(tmp_path, server.base_url, at_once=AT_ONCE, items=2 * AT_ONCE)
        with run(job) as living:
            in_flight(living, out, AT_ONCE)
            said: list[str] = []
            for action in ("pause", "resume", "pause"):
                told = batchrunner.control(str(out), action, wait_s=60)
                said.append(told.message)
                assert told.acknowledged
            assert said[-1] == f"paused: {AT_ONCE:,} in flight are awaited"
            status = batchrunner.status(str(out))
            assert (status.state, status.control.paused) == ("running", True)
            assert living.send(signal.SIGKILL)


def test_a_kill_between_a_command_and_its_answer_loses_nothing(tmp_path: Path) -> None:
    with simulator(tmp_path, "--latency", "first=0.2") as server:
        job, out = job_of(tmp_path, server.base_url, at_once=50, items=100)
        with server.silent(), run(job) as living:
            in_flight(living, out, 50)
            living.send(signal.SIGSTOP)
            told = batchrunner.control(str(out), "set", settings={"limits.concurrency": 3}, wait_s=0.2)
            assert (told.acknowledged, told.running, told.exit_status) == (False, True, 4)
            assert not batchrunner.control(str(out), "pause", wait_s=0.0).acknowledged
            living.kill()
        control = batchrunner.status(str(out)).control
        assert (control.paused, control.settings, control.noted) == (True, {"limits.concurrency": 3}, 2)
        with run(job) as held:
            ended = held.end()
        assert ended.status == 3
        assert "resume" in json.loads(ended.stdout)["next_command"]
        assert batchrunner.control(str(out), "resume").message == "no process works on this run; noted for the next"
        with run(job) as last:
            assert last.end().status == 0
        control = batchrunner.status(str(out)).control
        assert (control.paused, control.settings, control.noted) == (False, {"limits.concurrency": 3}, 0)
        rows = [json.loads(line)["id"] for line in (out / "results.jsonl").read_text().splitlines()]
        assert len(rows) == len(set(rows)) == 100


def test_stop_ends_the_process_with_143_and_the_commands_state_what_came_of_them(tmp_path: Path) -> None:
    with simulator(tmp_path, "--latency", "first=2") as server:
        job, out = job_of(tmp_path, server.base_url, at_once=20, items=2_000)
        with run(job) as living:
            in_flight(living, out, 20)
            with life(tmp_path, "skip", str(out), "--lane", "nobody") as wrong:
                ended = wrong.end()
            assert (ended.status, "no lane sends to" in ended.stderr) == (2, True)
            with life(tmp_path, "stop", str(out), "--json") as stop:
                told = json.loads(stop.end().stdout)
            assert (told["acknowledged"], told["ok"]) == (True, True)
            assert living.end().status == 143
        with life(tmp_path, "stop", str(out)) as again:
            ended = again.end()
        assert (ended.status, ended.stderr.strip()) == (0, "no process works on this run; nothing to stop")
        with life(tmp_path, "pause", str(tmp_path / "nothing")) as nowhere:
            assert nowhere.end().status == 2
