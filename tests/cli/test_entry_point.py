"""The command's entry point: quick, quiet, and clear about what it does not know."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine

HOME = Path(__file__).resolve().parents[2]
HEAVY = ("aiohttp", "PIL", "pydantic", "jinja2", "uvloop", "rich", "yaml", "tenacity", "jsonschema_rs")
COMMANDS = (
    "init",
    "check",
    "plan",
    "rehearse",
    "run",
    "ls",
    "status",
    "pause",
    "resume",
    "stop",
    "set",
    "skip",
    "retry",
    "coordinate",
    "merge",
    "adopt",
    "cancel",
    "verify",
    "export",
    "score",
    "compare",
    "report",
    "watch",
    "simulate",
    "schema",
    "explain",
    "completion",
)


def loaded_after(code: str) -> list[str]:
    """The heavy libraries that a fresh interpreter has loaded after `code`."""
    report = f"import sys, json; sys.stderr.write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=HOME, capture_output=True, text=True, check=True
    )
    loaded: list[str] = json.loads(done.stderr)
    return loaded


def test_importing_the_package_loads_no_library() -> None:
    assert loaded_after("import batchrunner; dir(batchrunner)") == []


def test_help_loads_no_heavy_library() -> None:
    assert loaded_after("from batchrunner.cli.main import main; assert main(['--help']) == 0") == []


@pytest.mark.parametrize("arguments", [["--version"], ["run", "--help"], ["simulate", "--help"]])
def test_parsing_a_command_line_loads_nothing_but_typers_own_pydantic(arguments: list[str]) -> None:
    loaded = loaded_after(f"from batchrunner.cli.main import main; assert main({arguments!r}) == 0")
    assert set(loaded) <= {"pydantic"}


def test_every_public_name_is_there_and_others_are_not() -> None:
    import batchrunner as package  # noqa: PLC0415 - the fixture of these tests has the package's name

    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018 - that it is missing is the point


def test_the_version_is_the_packages(batchrunner: CommandLine) -> None:
    version = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["version"]
    assert batchrunner("--version").out == batchrunner("-V").out == f"batchrunner {version}\n"


def test_help_lists_every_command_and_no_other(batchrunner: CommandLine) -> None:
    help_text = batchrunner("--help").out
    listed = [line.split()[0] for line in help_text.split("Commands:")[1].splitlines() if line.strip()]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example_and_has_json(batchrunner: CommandLine, command: str) -> None:
    help_text = batchrunner(command, "--help").out
    assert f"\n    batchrunner {command}" in help_text
    assert "--json" in help_text
    assert "\\b" not in help_text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run"], "Missing argument"),
        (["run", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
        (["run", "a.yaml", "--limit", "0"], "limit"),
        (["run", "a.yaml", "--limit", "many"], "limit"),
        (["simulate", "--port", "70000"], "port"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["check", "missing.yaml"], "missing.yaml"),
        (["plan", "missing.yaml"], "missing.yaml"),
        (["run", "one.yaml", "two.yaml", "--out", "x"], "--out"),
    ],
)
def test_a_wrong_command_line_ends_with_2_in_words_and_as_json(
    batchrunner: CommandLine, arguments: list[str], problem: str
) -> None:
    told = batchrunner(*arguments)
    assert told.status == 2
    assert told.out == ""
    assert problem in told.err
    as_json = batchrunner(*arguments, "--json")
    assert as_json.status == 2
    mistakes = as_json.json["mistakes"]
    assert isinstance(mistakes, list)
    assert any(problem in json.dumps(mistake) for mistake in mistakes)
    assert set(mistakes[0]) == {"file", "line", "key", "problem", "expected", "hint"}


def test_no_command_at_all_shows_the_help_and_ends_with_2(batchrunner: CommandLine) -> None:
    told = batchrunner()
    assert told.status == 2
    assert "batchrunner init" in told.err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_run_whose_parent_has_closed_its_streams_comes_to_its_end(tmp_path: Path, closed: str) -> None:
    batchrunner = CommandLine(folder=tmp_path)
    batchrunner.job("few", "prompts: [one, two]\n")
    for number, words in enumerate((["run", "few.yaml", "--json"], ["run", "few.yaml", "--events", "-"])):
        shell = f'exec "$0" "$@" {closed}'
        argv = ["sh", "-c", shell, sys.executable, "-m", "batchrunner", *words, "--out", f"out{number}"]
        ended = subprocess.run(
            argv, cwd=tmp_path, env=batchrunner.environment, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
        assert len((tmp_path / f"out{number}" / "results.jsonl").read_text().splitlines()) == 2


def test_whoever_asks_a_starting_run_how_it_stands_does_not_end_it() -> None:
    code = "from batchrunner.cli.interruption import install; import os, signal; install(); "
    done = subprocess.run([sys.executable, "-c", f"{code} os.kill(os.getpid(), signal.SIGUSR1)"], cwd=HOME, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "words", [["-V"], ["explain"], ["completion", "bash"], ["ls", "--json"], ["check", "--json", "a.yaml"]]
)
def test_output_for_which_the_disk_has_no_space_is_an_error(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "a.yaml").write_text('{provider: simulator, model: sim/one, prompts: ["One?"]}')
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "batchrunner", *words]
        ended = subprocess.run(command, check=False, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert "stdout could not be written: No space left on device" in ended.stderr
    assert ended.returncode == 4
