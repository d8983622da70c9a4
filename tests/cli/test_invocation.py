"""The command that goes on is shown exactly."""

import shlex
import sys
from pathlib import Path

import pytest

from batchrunner.cli.options import program, run_command


def test_a_program_on_the_path_is_named_shortly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "batchrunner"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(script), "run"])
    assert program() == "batchrunner"


def test_a_program_elsewhere_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/my bin/batchrunner", "run"])
    assert program() == "'.venv/my bin/batchrunner'"


def test_a_module_is_named_with_its_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["/somewhere/batchrunner/__main__.py"])
    assert program() == f"{shlex.quote(sys.executable)} -m batchrunner"


def test_the_command_keeps_what_shapes_the_job_and_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["./batchrunner"])
    command = run_command(
        "my jobs/cats.yaml", overrides=("params.size=1 x 1", "retry.attempts=2"), simulate=True, out="o"
    )
    assert shlex.split(command) == [
        *("./batchrunner", "run", "my jobs/cats.yaml", "--set", "params.size=1 x 1"),
        *("--set", "retry.attempts=2", "--simulate", "--out", "o"),
    ]


def test_a_file_that_looks_like_an_option_stays_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["./batchrunner"])
    assert run_command("-x.yaml", overrides=(), simulate=False, out=None).endswith("run ./-x.yaml")


def test_a_command_for_anywhere_needs_no_folder_but_the_jobs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, jobs = tmp_path / "here", tmp_path / "jobs"
    for folder in (here, jobs):
        folder.mkdir()
    (tmp_path / "linked").symlink_to(jobs / "deep", target_is_directory=True)
    (jobs / "deep").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", ["./batchrunner"])
    plain = run_command("../jobs/a.yaml", overrides=(), simulate=False, out="../out", anywhere=True)
    assert shlex.split(plain)[2:] == [str(jobs / "a.yaml"), "--out", str(tmp_path / "out")]
    linked = run_command("../linked/../a.yaml", overrides=(), simulate=False, out=None, anywhere=True)
    assert Path(shlex.split(linked)[2]).resolve() == jobs / "a.yaml"
