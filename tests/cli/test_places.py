"""The same job from several folders: what is paid for is found again, and printed commands work where one stands."""

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from batchrunner import check, load_job, plan, run_sync, status
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.stores.run_directory import run_elsewhere
from tests.support.command_line import CommandLine

JOB = "provider: {preset: openai, base_url: 'http://127.0.0.1:9/v1', api_key_env: []}\nmodel: m\nprompts: [Hello]\n"

THIS: dict[str, object] = {"job": {"file": "set ups/cats.yaml"}}


def _old_run(project: Path, *, folder: str = "outputs/cats", changed: dict[str, object]) -> Path:
    """What an earlier version left for `jobs/cats.yaml`, run in `project`."""
    run = {
        "version": 1, "job_name": "cats", "simulated": False, "digest": "d", "program": "0.1.0", "created": "t",
        "job": {"name": "cats", "file": "jobs/cats.yaml"}, **changed,
    }  # fmt: skip
    place = project / folder
    place.mkdir(parents=True)
    (place / "run.json").write_text(json.dumps(run))
    return place


def _refused(job_file: str) -> tuple[Mistake, ...]:
    with pytest.raises(JobMistakesError) as caught:
        run_sync(load_job(job_file), say=lambda _text: None)
    return caught.value.mistakes


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job file outside `jobs`, with the person in the folder above, as earlier versions were used."""
    path = tmp_path / "set ups" / "cats.yaml"
    path.parent.mkdir()
    path.write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.parametrize("given", [None, "mine/it"])
def test_a_run_where_earlier_versions_put_it_is_not_paid_for_again(
    tmp_path: Path, job: Path, given: str | None
) -> None:
    if given:
        job.write_text(JOB + f"output: {{dir: {given}}}\n")
    folder = given or "outputs/cats"
    _old_run(tmp_path, folder=folder, changed=THIS)
    (mistake,) = _refused("set ups/cats.yaml")
    assert folder in mistake.problem
    assert "would send finished items again" in mistake.problem
    assert f"--out {folder}" in str(mistake.hint)
    assert not (job.parent / folder).exists()


def test_moved_as_the_message_advises_the_run_goes_on(tmp_path: Path, job: Path) -> None:
    old = _old_run(tmp_path, changed=THIS)
    (mistake,) = _refused("set ups/cats.yaml")
    move = str(mistake.hint).partition("(")[2].partition("), or")[0]
    subprocess.run(move, shell=True, check=True, cwd=tmp_path)
    assert not old.exists()
    loaded = load_job("set ups/cats.yaml")
    assert (Path(loaded.output.dir) / "run.json").exists()


def test_beside_a_run_in_its_place_nothing_is_to_be_moved_into_that(tmp_path: Path, job: Path) -> None:
    _old_run(tmp_path, changed=THIS)
    _old_run(job.parent, changed=THIS)
    (mistake,) = _refused("set ups/cats.yaml")
    assert "mv " not in str(mistake.hint)
    assert "continue one of the two" in str(mistake.hint)


def test_a_run_that_was_started_in_the_folder_of_jobs_is_found_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/cats.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    _old_run(tmp_path / "jobs", changed={"job": {"file": "cats.yaml"}})
    (mistake,) = _refused("jobs/cats.yaml")
    assert "into jobs/outputs/cats" in mistake.problem


def test_with_out_it_goes_on_where_it_is(tmp_path: Path, job: Path) -> None:
    _old_run(tmp_path, changed=THIS)
    loaded = load_job("set ups/cats.yaml", out="outputs/cats")
    assert loaded.output.former_dirs == ()


def test_plan_and_check_state_it_as_well(tmp_path: Path, job: Path) -> None:
    _old_run(tmp_path, changed=THIS)
    loaded = load_job(str(job))
    with pytest.raises(JobMistakesError, match="would send finished items again"):
        asyncio.run(plan(loaded))
    assert [mistake.key for mistake in asyncio.run(check(loaded)).mistakes] == ["output.dir"]


@pytest.mark.parametrize(
    "changed",
    [
        {"job_name": "dogs"},
        {"simulated": True},
        {"job": {"file": "other/cats.yaml"}},
        {"job_path": "{tmp}/other/cats.yaml"},
        {"version": 7},
    ],
)
def test_what_is_another_jobs_run_stops_nothing(tmp_path: Path, job: Path, changed: dict[str, object]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/cats.yaml").write_text(JOB)
    filled = {key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in changed.items()}
    _old_run(tmp_path, changed={**THIS, **filled})
    assert run_elsewhere(load_job("set ups/cats.yaml")) is None


def test_the_command_that_status_shows_works_from_another_folder(batchrunner: CommandLine) -> None:
    folder = batchrunner.folder / "my jobs"
    folder.mkdir()
    (folder / "cats.yaml").write_text("provider: simulator\nmodel: sim-model\nprompts: [a, b, c]\n")
    ran = batchrunner("run", "my jobs/cats.yaml", "--limit", "1", "--quiet")
    assert ran.status == 0, ran.err
    here = status(str(folder / "outputs/cats.simulated"))
    elsewhere = batchrunner.folder / "far" / "away"
    elsewhere.mkdir(parents=True)
    assert here.next_command is not None
    words = shlex.split(here.next_command)
    done = subprocess.run(words, cwd=elsewhere, env=batchrunner.environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert status(str(folder / "outputs/cats.simulated")).items.done == 3
    assert sys.executable in words or words[0] == "batchrunner"
    assert not any(elsewhere.iterdir())
