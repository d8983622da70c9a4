"""`notify` tells a person's command how a run ended, without keys, without a shell, in time, and hurts nobody."""

import asyncio
import json
import os
import select
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from batchrunner.core.job import Job
from batchrunner.core.status import ItemCounts, RunState, SendCounts, Status, UsageCounts
from batchrunner.report.summary import notify, run_environment
from batchrunner.spec import load_job

TELL = "import json, os, sys\njson.dump([json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))\n"
Told = Callable[..., str | None]


def ended(state: RunState) -> Status:
    return Status(job="cats", state=state, items=ItemCounts(), sends=SendCounts(), usage=UsageCounts())


@pytest.fixture
def tell(tmp_path: Path) -> Told:
    """Run a Python program as the job's command."""
    path = tmp_path / "job.yaml"
    path.write_text("provider: {preset: openai, api_key_env: [MINE, OTHER]}\nmodel: m\nprompts: [a]\n")
    job: Job = load_job(str(path))

    def told(program: str, *arguments: str, state: RunState = "done", time_limit_s: float = 20.0) -> str | None:
        command = (sys.executable, "-c", program, *arguments)
        return asyncio.run(notify(replace(job, notify=command), ended(state), time_limit_s=time_limit_s))

    return told


@pytest.mark.parametrize("state", ["done", "paused", "failed", "refused", "stopped"])
def test_it_gets_the_closing_json_and_the_state(tell: Told, tmp_path: Path, state: RunState) -> None:
    assert tell(TELL, str(tmp_path / "told"), state=state) is None
    closing, environment = json.loads((tmp_path / "told").read_text())
    assert (closing["job"], closing["state"], environment["BATCHRUNNER_STATE"]) == ("cats", state, state)


def test_a_person_who_interrupts_needs_no_telling(tell: Told, tmp_path: Path) -> None:
    assert tell(TELL, str(tmp_path / "told"), state="interrupted") is None
    assert not (tmp_path / "told").exists()


def test_keys_are_not_in_its_environment() -> None:
    environ = {"MINE": "k", "OTHER": "k", "MODELSCOPE_API_KEY": "k", "OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    told = run_environment({**environ, "PATH": "/bin"}, keys=("MINE", "OTHER"), state="done")
    assert told == {"PATH": "/bin", "BATCHRUNNER_STATE": "done"}


def test_its_failure_is_told_with_its_last_words(tell: Told) -> None:
    trouble = tell("import sys; print('trying'); sys.exit('no \\x1b[31mroute')")
    assert trouble is not None
    assert "exited with status 1: no \\x1b[31mroute" in trouble


def test_what_it_prints_is_no_concern_of_ours(tell: Told, capfd: pytest.CaptureFixture[str]) -> None:
    assert tell("import sys; print('noise'); print('more', file=sys.stderr)") is None
    assert capfd.readouterr() == ("", "")


def test_one_that_reads_nothing_is_no_trouble(tell: Told) -> None:
    assert tell("pass") is None


def test_one_that_does_not_exist_is_told(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("provider: simulator\nmodel: m\nprompts: [a]\nnotify: ./not-there\n")
    trouble = asyncio.run(notify(load_job(str(path)), ended("done")))
    assert trouble == "notify: ./not-there could not be started: No such file or directory"


def test_one_that_hangs_is_ended_with_all_that_it_started(tell: Told, tmp_path: Path) -> None:
    fifo = tmp_path / "line"
    os.mkfifo(fifo)
    child = f"import time; line = open({str(fifo)!r}, 'w'); line.write('here'); line.flush(); time.sleep(60)"
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        trouble = tell(program, time_limit_s=2.0)
        assert os.read(reader, 4) == b"here"
        assert select.select([reader], [], [], 5.0)[0], "what it had started lives on"
        assert os.read(reader, 4) == b""
    finally:
        os.close(reader)
    assert trouble is not None
    assert "was killed after 2 s" in trouble
