"""What people type out of habit, and what the command line says to it: one line, exit status 2, what there is."""

import json
from pathlib import Path

import pytest

from batchrunner.cli.main import COMMANDS as THERE
from batchrunner.cli.main import main
from batchrunner.cli.options import COMMANDS, OPTIONS


def status_and_errors(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(arguments)
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("run", "cats.yaml", "--dry-run"), "batchrunner plan JOB"),
        (("run", "cats.yaml", "-n"), "--limit N"),
        (("run", "cats.yaml", "--resume"), "continues where it stopped"),
        (("--dry-run", "run", "cats.yaml"), "batchrunner plan JOB"),
        (("run", "cats.yaml", "-j", "8"), "limits.concurrency"),
        (("run", "cats.yaml", "--api-key=x"), "api_key_env"),
        (("run", "cats.yaml", "--output", "x"), "--out DIR"),
        (("version",), "batchrunner --version"),
        (("help",), "batchrunner --help"),
        (("help", "run"), "batchrunner run --help"),
        (("cats.yaml",), "batchrunner run cats.yaml"),
        (("validate", "cats.yaml"), "batchrunner check JOB"),
        (("continue", "cats.yaml"), "continues where it stopped"),
        (("logs", "outputs/cats"), "batchrunner status DIR"),
        (("frobnicate",), "batchrunner --help"),
    ],
)
def test_a_habit_from_elsewhere_is_answered_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], answer: str
) -> None:
    status, words = status_and_errors(capsys, *arguments)
    assert status == 2
    assert answer in words
    assert words.count("\n") == 1


def test_no_habit_hides_what_is_there() -> None:
    assert not set(THERE) & COMMANDS.keys()
    assert not {"--out", "--limit", "--json", "--set", "--quiet", "-q", "-h", "--help", "--version"} & OPTIONS.keys()


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("--version",)) == 0
    assert capsys.readouterr().out.startswith("batchrunner ")


@pytest.mark.parametrize(
    "command", [("status",), ("verify",), ("export", "--to", "csv"), ("verify", "--salvage", "new")], ids=" ".join
)
@pytest.mark.parametrize("place", ["nowhere", "empty", "file.yaml"])
def test_a_folder_without_a_run_has_one_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], place: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.yaml").write_text("")
    arguments = (command[0], str(tmp_path / place), *command[1:])
    status, words = status_and_errors(capsys, *arguments)
    assert status == 2
    assert f"{place}: not a run directory" in words
    assert main((*arguments, "--json")) == 2
    shown = json.loads(capsys.readouterr().out)
    assert (shown["error"]["exit_status"], len(shown["mistakes"])) == (2, 1)
