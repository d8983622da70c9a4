"""The command line as people use it: a real process in a folder of its own, without a terminal."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HOME = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-W", "error")


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
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(HOME), "LANG": "C.UTF-8", "HOME": str(self.folder)}

    def argv(self, *arguments: str) -> Sequence[str]:
        return (*PYTHON, "-m", "batchrunner", *arguments)

    def __call__(self, *arguments: str) -> Ran:
        done = subprocess.run(
            self.argv(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        ran = Ran(status=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())
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


@pytest.fixture
def batchrunner(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(folder=tmp_path)
    yield command_line
    for process in command_line.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
