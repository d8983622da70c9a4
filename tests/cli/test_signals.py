"""A signal where no run has handlers of its own: at an import, in the planning pass, in a command that only looks.

The program sends itself the signal at a chosen moment, named by an audit event of the interpreter: the import of a
module or the opening of a file. So every moment is met on every machine, however busy.
"""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine, Ran

_AT = """
import os, signal, sys

moment, numbers = os.environ["SIGNAL_AT"], os.environ["SIGNALS"].split(",")

def hook(event, given):
    if numbers and event in ("import", "open") and moment in str(given[0]):
        for each in tuple(numbers):
            os.kill(os.getpid(), int(each))
        numbers.clear()

sys.addaudithook(hook)
"""
IMPORTS = ("typer", "batchrunner.cli.output", "pydantic", "__pycache__/api.", "batchrunner.engine.runner")
FILES = ("questions.csv", "run.json", ".jsonl", "job.yaml")
JOB = 'prompts: {file: questions.csv, template: "{{ question }}"}\n'


def signalled(
    batchrunner: CommandLine, *arguments: str, at: str, numbers: tuple[int, ...], before: tuple[str, ...] = ()
) -> Ran:
    """The command, which gets these signals at the first event that names `at`; one that never comes to it ends."""
    (batchrunner.folder / "hooks").mkdir(exist_ok=True)
    (batchrunner.folder / "hooks" / "sitecustomize.py").write_text(_AT)
    path = f"{batchrunner.folder / 'hooks'}:{batchrunner.environment['PYTHONPATH']}"
    done = subprocess.run(
        [*before, *batchrunner.argv(*arguments)],
        cwd=batchrunner.folder,
        env=batchrunner.environment
        | {"PYTHONPATH": path, "SIGNAL_AT": at, "SIGNALS": ",".join(str(int(number)) for number in numbers)},
        capture_output=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    return Ran(status=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job over a table, of which one item is done."""
    made = CommandLine(folder=tmp_path_factory.mktemp("begun"))
    (made.folder / "questions.csv").write_text("question\none\ntwo\nthree\n")
    assert made("run", made.job("job", JOB), "--limit", "1").status == 0
    return made.folder


@pytest.fixture
def out(batchrunner: CommandLine, begun: Path) -> Path:
    shutil.copytree(begun, batchrunner.folder, dirs_exist_ok=True)
    return batchrunner.folder / "outputs" / "job.simulated"


def ended_in_words(ran: Ran, status: int) -> None:
    assert ran.status == status, ran.err
    lines = ran.err.splitlines()
    assert "finished results are saved" in lines[-1], ran.err
    assert "Traceback" not in ran.err
    assert not [line for line in lines if line.startswith(("  File", "Exception ignored"))]


ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]


@pytest.mark.parametrize(
    ("at", "number", "status"),
    [(at, *ENDS[place % 3]) for place, at in enumerate([*IMPORTS, *FILES])],
)
def test_a_signal_before_the_run_has_handlers_ends_it_in_one_line(
    batchrunner: CommandLine, out: Path, at: str, number: int, status: int
) -> None:
    ended_in_words(signalled(batchrunner, "run", "job.yaml", at=at, numbers=(number,)), status)
    assert batchrunner("run", "job.yaml").status == 0
    assert len((out / "results.jsonl").read_text().splitlines()) == 3


COMMANDS = [
    ("questions.csv", ("check", "job.yaml")),
    ("questions.csv", ("plan", "job.yaml")),
    ("questions.csv", ("rehearse", "job.yaml")),
    ("run.json", ("status", "outputs/job.simulated")),
    ("run.json", ("verify", "outputs/job.simulated")),
    ("results.jsonl", ("verify", "outputs/job.simulated")),
    ("results.jsonl", ("export", "outputs/job.simulated", "--to", "csv")),
    ("typer", ("init", "new")),
    ("typer", ("status", "outputs/job.simulated")),
    ("scenarios", ("simulate", "--list")),
]


@pytest.mark.parametrize(
    ("at", "command", "number", "status"),
    [(at, command, *ENDS[place % 2]) for place, (at, command) in enumerate(COMMANDS)],
    ids=lambda given: given[0] if isinstance(given, tuple) else str(given),
)
@pytest.mark.usefixtures("out")
def test_every_command_ends_so(
    batchrunner: CommandLine, at: str, command: tuple[str, ...], number: int, status: int
) -> None:
    ended_in_words(signalled(batchrunner, *command, at=at, numbers=(number,)), status)


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
@pytest.mark.parametrize("at", ["typer", "questions.csv"])
@pytest.mark.usefixtures("out")
def test_two_signals_at_once_are_reported_once(batchrunner: CommandLine, at: str, numbers: tuple[int, ...]) -> None:
    ran = signalled(batchrunner, "run", "job.yaml", at=at, numbers=numbers)
    ended_in_words(ran, ran.status)
    assert ran.status in {130, 143}
    assert ran.err.count("finished results are saved") == 1


@pytest.mark.parametrize("at", ["typer", "questions.csv"])
@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.usefixtures("out")
def test_a_hangup_that_was_ignored_stays_ignored(batchrunner: CommandLine, command: str, at: str) -> None:
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    ran = signalled(batchrunner, command, "job.yaml", at=at, numbers=(signal.SIGHUP,), before=nohup)
    assert ran.status == 0, ran.err


@pytest.mark.parametrize("at", ["typer", "questions.csv"])
@pytest.mark.usefixtures("out")
def test_with_json_the_end_is_an_object(batchrunner: CommandLine, at: str) -> None:
    ran = signalled(batchrunner, "run", "job.yaml", "--json", at=at, numbers=(signal.SIGTERM,))
    ended_in_words(ran, 143)
    assert ran.json["error"]["exit_status"] == 143


def test_an_export_that_is_interrupted_leaves_nothing_behind(batchrunner: CommandLine, out: Path) -> None:
    assert batchrunner("export", str(out), "--to", "csv").status == 0
    whole = (out / "export" / "job.csv").read_bytes()
    ran = signalled(batchrunner, "export", str(out), "--to", "csv", at=".tmp", numbers=(signal.SIGTERM,))
    ended_in_words(ran, 143)
    assert sorted(path.name for path in (out / "export").iterdir()) == [".batchrunner-export", "job.csv"]
    assert (out / "export" / "job.csv").read_bytes() == whole


def test_a_signal_after_the_run_has_ended_ends_in_words_too(batchrunner: CommandLine) -> None:
    """The handlers that stood before the run come back, not the system's: here while `notify` is at work."""
    batchrunner.job("job", "prompts: [one]\nnotify: \"sh -c 'kill -TERM $PPID; sleep 5'\"\n")
    ended_in_words(batchrunner("run", "job.yaml"), 143)
    assert batchrunner("status", "outputs/job.simulated").status == 0
