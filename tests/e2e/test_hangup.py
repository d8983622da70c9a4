"""A terminal that is closed: what is under way is awaited and kept, once or twice told; under nohup nothing happens."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.judging import ledger_records
from tests.e2e.runs import KEY_NAME, Simulator, environment, program, simulator
from tests.support.json_lines import json_lines, json_lines_so_far
from tests.support.waiting import PATIENCE_S, has_taken_its_signals, wait_until

pytestmark = pytest.mark.real
PROMPTS = 60


def job_of(folder: Path, server: Simulator, *, prompts: int = PROMPTS) -> Path:
    path = folder / "night.yaml"
    path.write_text(f"""
name: night
provider: {{preset: openai, base_url: "{server.base_url}", api_key_env: {KEY_NAME}}}
model: sim/chat
prompts: {json.dumps([f"question {number}" for number in range(prompts)])}
limits: {{concurrency: 2}}
output: {{dir: {folder / "out"}}}
""")
    return path


def in_the_middle(folder: Path, server: Simulator) -> None:
    """Answers are there, and two more are under way."""
    out = folder / "out"
    wait_until(lambda: len(json_lines_so_far(out / "results.jsonl")) >= 2, "two answers are there")
    wait_until(lambda: server.stats()["in_flight"] == 2, "two are under way")


def every_paid_answer_is_kept(folder: Path, server: Simulator) -> None:
    out = folder / "out"
    assert len(json_lines(out / "results.jsonl")) == server.stats()["sends"] < PROMPTS
    assert ledger_records(out)[-1]["e"] == "close"


@pytest.mark.parametrize("times", [1, 2])
def test_a_hangup_drains_and_states_how_to_go_on(tmp_path: Path, times: int) -> None:
    with simulator(tmp_path, "--latency", "first=2,spread=0") as server:
        job = job_of(tmp_path, server)
        run = subprocess.Popen(program("run", str(job)), env=environment(), stderr=subprocess.PIPE, text=True)
        in_the_middle(tmp_path, server)
        for _ in range(times):
            run.send_signal(signal.SIGHUP)
            wait_until(lambda: has_taken_its_signals(run.pid), "two that wait at once would be one")
        _, told = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 143, told
        assert told.rstrip().splitlines()[-1].startswith("next: ")
        every_paid_answer_is_kept(tmp_path, server)


def test_a_terminal_that_is_closed_loses_no_answer(tmp_path: Path) -> None:
    with simulator(tmp_path, "--latency", "first=2,spread=0") as server:
        job = job_of(tmp_path, server)
        ours, theirs = pty.openpty()
        pid = os.fork()
        if pid == 0:  # a session leader whose terminal this is: the system itself sends the signal
            os.close(ours)
            os.login_tty(theirs)
            os.execve(program()[0], program("run", str(job)), environment())
        os.close(theirs)
        in_the_middle(tmp_path, server)
        os.close(ours)
        _, ended = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(ended) == 143
        every_paid_answer_is_kept(tmp_path, server)


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    with simulator(tmp_path, "--latency", "first=1,spread=0") as server:
        job = job_of(tmp_path, server, prompts=8)
        quietly = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
        run = subprocess.Popen(
            [*quietly, *program("run", str(job))], env=environment(), stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: json_lines_so_far(tmp_path / "out" / "results.jsonl"), "an answer is there", process=run)
        run.send_signal(signal.SIGHUP)
        _, told = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 0, told
        assert len(json_lines(tmp_path / "out" / "results.jsonl")) == server.stats()["sends"] == 8
