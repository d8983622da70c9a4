"""The command line as people use it: a process in a folder of its own, without a terminal.

Calling it forks a process that has imported the program already, which costs a tenth of a new interpreter; `start`
and `argv` are for tests in which the start, a signal or the interpreter itself is the point.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batchrunner.__main__ import main
from tests.support.waiting import PATIENCE_S

HOME = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-W", "error")

_FORKS = multiprocessing.get_context("forkserver")
_MODULES = (path.relative_to(HOME).with_suffix("") for path in sorted((HOME / "batchrunner").rglob("*.py")))
_FORKS.set_forkserver_preload([__name__, *(".".join(path.parts) for path in _MODULES if path.stem != "__init__")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a finished command left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def last_line(self) -> str:
        return self.err.rstrip("\n").splitlines()[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """Runs `batchrunner …` in `folder`."""

    folder: Path
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(HOME),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "HOME": str(self.folder),
        }

    def argv(self, *arguments: str) -> Sequence[str]:
        return (*PYTHON, "-m", "batchrunner", *arguments)

    def __call__(self, *arguments: str) -> Ran:
        out, err = (self.folder.with_name(f"{self.folder.name}.{stream}") for stream in ("stdout", "stderr"))
        process = _FORKS.Process(target=_run, args=(arguments, self.folder, self.environment, out, err))
        process.start()
        process.join(PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{arguments} did not end within {PATIENCE_S} s")
        ran = Ran(status=process.exitcode, out=out.read_bytes().decode(), err=err.read_bytes().decode())
        assert "Traceback" not in ran.err, ran.err
        assert "\x1b" not in ran.out + ran.err
        return ran

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            self.argv(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.started.append(process)
        return process

    def job(self, name: str, text: str) -> str:
        """A job file for the simulator; the value is its path below the folder."""
        (self.folder / f"{name}.yaml").write_text(f"provider: simulator\nmodel: sim-model\n{text}", encoding="utf-8")
        return f"{name}.yaml"


def _run(arguments: Sequence[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    """In the forked process, whose standard input is empty: what `python -W error -m batchrunner …` does."""
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    warnings.simplefilter("error")
    sys.argv = [str(HOME / "batchrunner" / "__main__.py"), *arguments]
    sys.exit(main())


@pytest.fixture
def batchrunner(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(folder=tmp_path)
    yield command_line
    for process in command_line.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
