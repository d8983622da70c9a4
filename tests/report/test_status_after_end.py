"""`status` says of a run's end what the run itself said."""

import os
import signal
from pathlib import Path

import pytest

from batchrunner import load_job, run_sync, status
from batchrunner.core.errors import JobMistakesError
from batchrunner.report.summary import summary
from batchrunner.stores.run_directory import remember_end
from tests.support.command_line import CommandLine
from tests.support.waiting import PATIENCE_S, has_taken_its_signals, wait_until

JOB = "provider: simulator\nmodel: {model}\nprompts: [a, b, c]\nretry: {{attempts: 1}}\n"


@pytest.mark.parametrize(
    ("more", "limit", "state"),
    [("m", 1, "pending"), ("m", None, "done"), ("m#content-filter", None, "failed"), ("m#auth-bad", None, "refused")],
)
def test_the_words_are_those_of_the_runs_end(tmp_path: Path, more: str, limit: int | None, state: str) -> None:
    (tmp_path / "job.yaml").write_text(JOB.format(model=more))
    ended = run_sync(load_job(str(tmp_path / "job.yaml")), limit=limit, say=lambda _text: None).status
    later = status(str(ended.dir))
    assert (ended.state, later.state) == (state, state)
    assert summary(ended).splitlines()[0] == summary(later).splitlines()[0]


@pytest.mark.parametrize(("ended", "state"), [(None, "paused"), ("in a later program's words", "paused")])
def test_after_a_kill_the_items_state_how_it_stands(tmp_path: Path, ended: str | None, state: str) -> None:
    (tmp_path / "job.yaml").write_text(JOB.format(model="m"))
    folder = run_sync(load_job(str(tmp_path / "job.yaml")), limit=1, say=lambda _text: None).status.dir
    remember_end(Path(str(folder)), None, ended=ended)
    assert status(str(folder)).state == state


def test_an_interrupted_run_is_called_so_later_as_well(batchrunner: CommandLine) -> None:
    job = batchrunner.job("slow", "scenario: 'hang-headers'\nprompts: [a, b, c]\nlimits: {concurrency: 1}\n")
    process = batchrunner.start("run", job)
    assert process.stderr is not None
    process.stderr.readline()
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        wait_until(lambda: has_taken_its_signals(process.pid), "two that wait at once would be one")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert status(str(batchrunner.folder / "outputs/slow.simulated")).state == "interrupted"


def test_a_run_that_a_bad_source_ended_is_reported_later(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\nno json\n')
    (tmp_path / "job.yaml").write_text("provider: simulator\nmodel: m\nprompts: {file: rows.jsonl}\n")
    job = load_job(str(tmp_path / "job.yaml"))
    with pytest.raises(JobMistakesError):
        run_sync(job, say=lambda _text: None)
    later = status(job.output.dir)
    assert later.state == "stopped"
    assert "rows.jsonl:2" in str(later.message)
