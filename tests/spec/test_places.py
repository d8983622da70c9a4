"""Where results go and sources come from: the same for the same job file, wherever the person stands."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.job import Source
from batchrunner.spec import load_job

JOB = "provider: openai\nmodel: m\nprompts: [Hello]\n"
Stand = Callable[[str], None]


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Go to a folder below a project with `jobs/cats.yaml`, `jobs/deep/dogs.yaml` and `birds.yaml`."""
    project = tmp_path / "my project"
    for place in ("jobs/cats.yaml", "jobs/deep/dogs.yaml", "birds.yaml", "jobs/jobs/own.yaml"):
        (project / place).parent.mkdir(parents=True, exist_ok=True)
        (project / place).write_text(JOB)
    (tmp_path / "else" / "where").mkdir(parents=True)

    def go(folder: str) -> None:
        monkeypatch.chdir(tmp_path / folder)

    return go


@pytest.mark.parametrize(
    ("job", "results"),
    [
        ("jobs/cats.yaml", "outputs/cats"),
        ("jobs/deep/dogs.yaml", "jobs/deep/outputs/dogs"),
        ("birds.yaml", "outputs/birds"),
        ("jobs/jobs/own.yaml", "jobs/outputs/own"),
    ],
)
@pytest.mark.parametrize("here", ["my project", "my project/jobs", "my project/jobs/deep", "else/where", "."])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_job_file_has_the_same_results_wherever_one_stands(
    tmp_path: Path, stand: Stand, job: str, results: str, here: str, *, absolute: bool
) -> None:
    stand(here)
    path = tmp_path / "my project" / job
    loaded = load_job(str(path) if absolute else os.path.relpath(path))
    assert os.path.realpath(loaded.output.dir) == str(tmp_path / "my project" / results)


@pytest.mark.parametrize(
    ("here", "shown"),
    [
        ("my project", "outputs/cats"),
        ("my project/jobs", "../outputs/cats"),
        (".", "my project/outputs/cats"),
        ("else/where", "{tmp}/my project/outputs/cats"),
    ],
)
def test_a_results_folder_is_shown_as_it_is_reached_from_here(
    tmp_path: Path, stand: Stand, here: str, shown: str
) -> None:
    stand(here)
    loaded = load_job(os.path.relpath(tmp_path / "my project/jobs/cats.yaml"))
    assert loaded.output.dir == shown.format(tmp=tmp_path)


@pytest.mark.parametrize(
    ("given", "results"),
    [
        ("mine/x/", "my project/mine/x"),
        ("../shared", "shared"),
        ("{tmp}/far", "far"),
        ("./outputs/./y", "my project/outputs/y"),
    ],
)
def test_a_given_folder_is_relative_to_the_project_and_a_set_one_too(
    tmp_path: Path, stand: Stand, given: str, results: str
) -> None:
    stand("else/where")
    given = given.format(tmp=tmp_path)
    path = tmp_path / "my project/jobs/cats.yaml"
    by_option = load_job(str(path), overrides=[f"output.dir={given}"])
    path.write_text(JOB + f"output: {{dir: {given}}}\n")
    for loaded in (by_option, load_job(str(path))):
        assert os.path.realpath(loaded.output.dir) == str(tmp_path / results)


def test_out_is_relative_to_the_working_directory(tmp_path: Path, stand: Stand) -> None:
    stand("else")
    loaded = load_job(str(tmp_path / "my project/jobs/cats.yaml"), out="here")
    assert (loaded.output.dir, loaded.output.former_dirs) == ("here", ())


@pytest.mark.parametrize("link", ["else/night.yaml", "else/jobs/cats.yaml", "link.yaml"])
def test_a_link_to_a_job_file_is_that_job_file(tmp_path: Path, stand: Stand, link: str) -> None:
    stand("else")
    project = tmp_path / "my project"
    (project / "jobs/cats.yaml").write_text("provider: openai\nmodel: m\nprompts: {file: q.txt}\n")
    (project / "jobs/q.txt").write_text("Hello\n")
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(project / "jobs/cats.yaml")
    loaded = load_job(str(tmp_path / link))
    assert isinstance(loaded.prompts, Source)
    assert (loaded.prompts.path, loaded.name) == (str(project / "jobs/q.txt"), "cats")
    assert os.path.realpath(loaded.output.dir) == str(project / "outputs/cats")


def test_a_link_to_the_folder_of_jobs_leads_to_its_project(tmp_path: Path, stand: Stand) -> None:
    stand("else")
    project = tmp_path / "my project"
    (project / "jobs/cats.yaml").write_text("provider: openai\nmodel: m\nprompts: {file: ../q.txt}\n")
    (project / "q.txt").write_text("Hello\n")
    (tmp_path / "else/short").symlink_to(project / "jobs")
    loaded = load_job("short/cats.yaml")
    assert isinstance(loaded.prompts, Source)
    assert (loaded.prompts.path, loaded.name) == (str(project / "q.txt"), "cats")
    assert os.path.realpath(loaded.output.dir) == str(project / "outputs/cats")


def test_a_job_from_a_pipe_belongs_to_the_working_directory(tmp_path: Path, stand: Stand) -> None:
    stand("else")
    reading, writing = os.pipe()
    os.write(writing, JOB.encode())
    os.close(writing)
    try:
        loaded = load_job(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert os.path.realpath(loaded.output.dir) == str(tmp_path / f"else/outputs/{reading}")


@pytest.mark.parametrize("run", [".", "../", "~/runs", "a\\0b", "s3://bucket/x"])
def test_what_is_no_folder_of_a_run_is_a_mistake_at_its_line(tmp_path: Path, run: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f'provider: simulator\nmodel: m\nprompts:\n  run: "{run}"\n  template: x\n')
    with pytest.raises(JobMistakesError) as found:
        load_job(str(path))
    assert [(mistake.line, mistake.key) for mistake in found.value.mistakes] == [(4, "prompts.run")]
