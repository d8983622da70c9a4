"""A Tab in bash, `explain` and `ls`: what helps at a prompt and in an editor."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wcwidth import wcswidth

from batchrunner.cli.completion import FORMATS
from batchrunner.cli.editor_commands import ls
from batchrunner.exporters import EXPORTERS
from tests.support.command_line import CommandLine

TAB = """
source ./batchrunner.bash
COMP_WORDS=({words} "$1"); COMP_CWORD={place}
compopt() {{ :; }}
_batchrunner
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
SHELL = shutil.which("bash")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A folder with a job, two runs of which one is deeper, and things that are neither."""
    made = CommandLine(folder=tmp_path_factory.mktemp("shell"))
    for name in ("cats", "owls"):
        made.job(name, "prompts: [one]\n")
        assert made("run", f"{name}.yaml", "--out", f"outputs/{name}").status == 0
    (made.folder / "outputs" / "deep").mkdir()
    (made.folder / "outputs" / "owls").rename(made.folder / "outputs" / "deep" / "owls with spaces")
    (made.folder / "cats.txt").write_text("")
    (made.folder / "batchrunner.bash").write_text(made("completion", "bash").out)
    return made


def tabbed(place: CommandLine, *words: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """A Tab after these words; the last one is being typed."""
    script = TAB.format(words=" ".join(("batchrunner", *words[:-1])), place=len(words))
    return subprocess.run(
        [str(SHELL), "--norc", *options, "-c", script, "bash", words[-1]],
        cwd=place.folder,
        env={"PATH": "/nowhere"},  # no program is started: the script is the shell's own
        capture_output=True,
        text=True,
        check=True,
    )


def tab(place: CommandLine, *words: str) -> list[str]:
    """What it offers."""
    done = tabbed(place, *words)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.skipif(SHELL is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("re",), ["rehearse", "resume", "retry", "report"]),
        (("run", ""), ["cats.yaml", "outputs/", "owls.yaml"]),
        (("run", "cats.yaml", "--sim"), ["--simulate"]),
        (("status", ""), ["outputs/", "outputs/cats", "outputs/deep/"]),
        (("status", "outputs/"), ["outputs/cats", "outputs/deep/"]),
        (("pause", "outputs/deep/"), ["outputs/deep/owls with spaces"]),
        (("set", "outputs/cats", "limits.conc"), ["limits.concurrency="]),
        (("export", "outputs/cats", "--to", "c"), ["csv", "captions"]),
        (("explain", "retry.a"), ["retry.attempts"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("ls", "out"), ["outputs"]),
    ],
)
def test_a_tab_offers_what_can_follow(place: CommandLine, words: tuple[str, ...], offered: list[str]) -> None:
    assert tab(place, *words) == offered


@pytest.mark.skipif(SHELL is None, reason="there is no bash")
def test_a_tab_starts_no_program_and_runs_few_commands_of_the_shell(place: CommandLine) -> None:
    """What that takes in ms is measured by `benchmarks/terminal.py`."""
    trace = tabbed(place, "status", "outputs/", options=("-x",)).stderr
    assert "not found" not in trace
    commands = [line.lstrip("+ ") for line in trace.splitlines() if line.startswith("+")]
    assert "_batchrunner" in commands
    assert len(commands) <= 40
    assert not [command for command in commands if "/" in command.partition(" ")[0].partition("=")[0]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_every_command_and_option(place: CommandLine, shell: str) -> None:
    script = place("completion", shell).out
    for word in ("rehearse", "resume", "watch", "dry-run", "resend-held", "salvage"):
        assert word in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, capture_output=True)


def test_a_shell_that_is_not_known_is_reported(place: CommandLine) -> None:
    ran = place("completion", "tcsh")
    assert (ran.status, "unknown shell 'tcsh'" in ran.err) == (2, True)


def test_explain_states_what_a_key_is(place: CommandLine) -> None:
    assert place("explain", "limits.concurrency").out.splitlines() == [
        "limits.concurrency",
        "  Requests in flight: `auto` (default) finds the limit by itself, a number caps it. See limits.",
        "  type      auto or whole number ≥ 1",
        "  default   auto",
        "  example   limits: {concurrency: 8}",
        "  set       batchrunner set DIR limits.concurrency=VALUE, while it runs",
    ]
    assert place("explain", "prompts[].id", "--json").json["example"] == "prompts: [{id: blue}]"
    assert "limits.concurrency" in place("explain", "limits").out
    assert {line.split()[0] for line in place("explain").out.splitlines()} >= {"provider", "prompts", "notify"}


@pytest.mark.parametrize(("key", "meant"), [("concurency", "limits.concurrency"), ("attempts", "retry.attempts")])
def test_explain_knows_what_was_meant(place: CommandLine, key: str, meant: str) -> None:
    ran = place("explain", key)
    assert (ran.status, f"did you mean `{meant}`?" in ran.err) == (2, True)


def test_ls_lists_the_runs_below_a_folder_and_how_they_stand(place: CommandLine) -> None:
    lines = place("ls").out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["outputs/cats", "outputs/deep/owls with spaces"]
    assert all(line.endswith("1 of 1 done") for line in lines)
    damaged = place.folder / "outputs" / "damaged"
    damaged.mkdir()
    (damaged / "run.json").write_text("{")
    runs = place("ls", "outputs", "--json").json["runs"]
    shutil.rmtree(damaged)
    assert [(Path(run["dir"]).name, run["state"]) for run in runs] == [
        ("cats", "done"),
        ("damaged", None),
        ("owls with spaces", "done"),
    ]
    assert json.loads(json.dumps(runs[0]["items"]))["done"] == 1


def test_ls_shows_every_run_although_the_control_files_of_one_are_damaged(place: CommandLine) -> None:
    state = place.folder / "outputs" / "cats" / "control" / "state.json"
    state.parent.mkdir(exist_ok=True)
    state.write_text("[" * 100_000)
    lines = place("ls").out.splitlines()
    told = place("status", "outputs/cats")
    state.unlink()
    assert [line.split()[1] for line in lines] == ["unreadable", "with"]
    assert (told.status, "state.json: cannot be read" in told.err) == (4, True)


def test_ls_reports_folders_that_cannot_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def walk(top: Path, *, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        for number in range(7):
            onerror(PermissionError(13, "Permission denied", f"{top}/closed{number}"))
        yield str(top), [], []

    monkeypatch.setattr("os.walk", walk)
    assert ls(folder=str(tmp_path), as_json=True) == 0
    told = capsys.readouterr()
    assert f"{tmp_path}/closed0: cannot be read: Permission denied" in told.err
    assert "and 2 more folders" in told.err
    assert json.loads(told.out)["unreadable"][6] == f"{tmp_path}/closed6"


def test_ls_keeps_its_columns_below_names_that_are_wider_than_their_letters(place: CommandLine) -> None:
    shutil.copytree(place.folder / "outputs" / "cats", place.folder / "outputs" / "图像-猫")
    lines = place("ls").out.splitlines()
    shutil.rmtree(place.folder / "outputs" / "图像-猫")
    assert len(lines) == 3
    assert len({wcswidth(line.partition("done ")[0]) for line in lines}) == 1


def test_ls_shows_a_paused_run(place: CommandLine) -> None:
    assert place("pause", "outputs/cats").status == 0
    assert " paused " in place("ls").out
    assert place("resume", "outputs/cats").status == 0
    assert " paused " not in place("ls").out


def test_ls_of_what_is_no_folder_is_a_mistake(place: CommandLine) -> None:
    assert place("ls", "nowhere").status == 2
    (place.folder / "empty").mkdir(exist_ok=True)
    assert "no runs below empty" in place("ls", "empty").err


def test_what_is_in_force_is_reported_by_status_and_plan(place: CommandLine) -> None:
    run = "outputs/cats"
    assert place("set", run, "limits.requests_per_day=2", "window=22:00-07:00").status == 0
    told = place("status", run).err
    assert "set: limits.requests_per_day=2, window=22:00-07:00; `batchrunner set DIR KEY --reset`" in told
    assert "noted for the next run" in told
    planned = place("plan", "cats.yaml", "--out", run)
    assert "note: set: limits.requests_per_day=2" in planned.err
    assert place("pause", run, "--json").json["control"]["paused"]
    assert "paused by " in place("status", run).err
    assert place("resume", run).status == place("set", run, "limits.requests_per_day", "window", "--reset").status == 0
    assert "set: " not in place("status", run).err
    for left in (place.folder / run / "control").iterdir():
        left.unlink()


def test_a_dry_run_states_what_would_be_done_and_leaves_nothing(place: CommandLine) -> None:
    ran = place("pause", "outputs/deep/owls with spaces", "--dry-run", "--json")
    assert (ran.status, ran.json["id"], ran.json["dry_run"]) == (0, None, True)
    assert "would be noted for the next" in ran.json["message"]
    assert not (place.folder / "outputs" / "deep" / "owls with spaces" / "control").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("set", "outputs/cats", "model=x"), "'model' cannot be set while a run works"),
        (("set", "outputs/cats", "limits.concurrency"), "has no value"),
        (("set", "outputs/cats", "limits.concurrency=2", "--reset"), "leave out the value"),
        (("set", "outputs/cats", "retry.attempts=0"), "retry.attempts: is 0"),
        (("set", "outputs/cats", "limits.concurrency=null"), "limits.concurrency is null; expected a number or text"),
        (("set", "outputs/cats", "limits.concurrency="), "limits.concurrency is null"),
        (("set", "outputs/cats", "window='22:00"), 'window: is "\'22:00"; expected'),
        (("set", "outputs/cats", "limits.concurrency=true"), "limits.concurrency is true"),
        (("set", "outputs/cats", "window=banana"), 'window: is "banana"; expected two times of day'),
        (("set", "outputs/cats", "window=00:00-24:00"), "is the whole day"),
        (("set", "outputs/cats", "deadline=99999999999h"), 'deadline: is "99999999999h"'),
        (("retry", "outputs/cats", *(f"{'x' * 100_000}{number}" for number in range(11))), "in several commands"),
        (("pause", "nowhere"), "not a run directory"),
        (("skip", "outputs/cats"), "Missing option '--lane'"),
        (
            ("skip", "outputs/cats", "--lane", "sim/a", "--lane", "sim/b"),
            "takes one --lane, and 2 were given: sim/a, sim/b",
        ),
        (("retry", "outputs/cats"), "Missing argument"),
    ],
)
def test_a_wrong_command_is_a_mistake_in_words(place: CommandLine, words: tuple[str, ...], problem: str) -> None:
    ran = place(*words)
    assert (ran.status, problem in ran.err) == (2, True), ran.err
    if "cats" in words[1]:
        assert place("status", "outputs/cats", "--json").json["control"]["noted"] == 0


def test_every_format_of_an_export_is_completed() -> None:
    assert tuple(EXPORTERS) == FORMATS
