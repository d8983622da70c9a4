"""A ground of its own for every run of the whole program: where it may write, its key, and what was written anywhere.

The key is a canary: it may be sent to the job's server and must stand in no byte that is written, nor half of it.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from batchrunner.cli.main import main

HOME: Final = Path(__file__).resolve().parents[2]
KEY_NAME: Final = "CANARY_KEY"
CANARY: Final = "ms-canary-7b1e94c2d05f-never-write-me"
HALVES: Final = (CANARY[:22].encode(), CANARY[-22:].encode())
_OURS: Final = frozenset({"stdout", "stderr", "peak"})
LIMIT_BYTES: Final = 256 * 1024 * 1024
PATIENCE_S: Final = 90
_RUN: Final = """
import os, pathlib, resource, runpy, sys
sys.argv[0] = "batchrunner"
if most := int(os.environ.pop("FILE_LIMIT_BYTES", "0")):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    runpy.run_module("batchrunner", run_name="__main__", alter_sys=True)
finally:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    pathlib.Path("../peak").write_text(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""
"""The program, and its own peak afterwards: what the system tells a parent counts what the parent was before `exec`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a run of the program left besides files."""

    status: int
    out: bytes
    err: bytes
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Ground:
    """`work` is where the program runs; `home` and `temporary` are what it may take for granted."""

    root: Path
    known: set[str] = field(default_factory=set)
    """Files below the root that the test made itself."""

    def __post_init__(self) -> None:
        for folder in (self.work, self.home, self.temporary):
            folder.mkdir()

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(HOME), "LANG": "C.UTF-8", "HOME": str(self.home),
            "TMPDIR": str(self.temporary), KEY_NAME: CANARY, "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def write(self, name: str, text: str) -> str:
        """A file of the test's own in `work`."""
        (self.work / name).write_text(text, "utf-8")
        self.known.add(f"work/{name}")
        return name

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> Ended:
        """The program in a process of its own, to its end."""
        return self.finish(self.start(*arguments, environment=environment))

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
        (self.root / "peak").write_text("0")
        with (self.root / "stdout").open("wb") as out, (self.root / "stderr").open("wb") as err:
            return subprocess.Popen(
                (sys.executable, "-W", "error", "-c", _RUN, *arguments),
                cwd=self.work,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def finish(self, process: "subprocess.Popen[bytes]") -> Ended:
        """Wait for it, with its peak of memory; one that hangs is killed and shows as -9."""
        killer = threading.Timer(PATIENCE_S, process.kill)
        killer.start()
        process.wait()
        killer.cancel()
        out, err, peak = ((self.root / name).read_bytes() for name in ("stdout", "stderr", "peak"))
        return Ended(status=process.returncode, out=out, err=err, peak_bytes=int(peak or 0) * 1024)


def run_here(ground: Ground, capfd: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    """The program in this process: the same entry point, half a second sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ground.work)
        patch.setattr("tempfile.tempdir", str(ground.temporary))
        for name, value in ground.environment.items():
            patch.setenv(name, value)
        capfd.readouterr()
        status = main(arguments)
        said = capfd.readouterr()
    out, err = (text.encode("utf-8", "surrogateescape") for text in said)
    return Ended(status=status, out=out, err=err, peak_bytes=0)


def assert_harmless(ground: Ground, ended: Ended, *, statuses: frozenset[int], idle_bytes: int | None = None) -> None:
    """Threat 2 and invariants 18 and 19: a typed status, no traceback, no key, no file outside, no heap of memory."""
    assert ended.status in statuses, (ended.status, ended.err[-3000:])
    assert b"Traceback" not in ended.err, ended.err[-3000:]
    assert b"bug" not in ended.err.lower(), ended.err[-3000:]
    assert not set(ended.err) & {*range(9), *range(11, 32), 127}, "a control character reached the terminal"
    no_byte_holds_the_key(ground, ended)
    nothing_outside(ground)
    if idle_bytes is not None:
        above = ended.peak_bytes - idle_bytes
        assert above < LIMIT_BYTES, f"{above:,} bytes above an idle process"


def no_byte_holds_the_key(ground: Ground, ended: Ended) -> None:
    for name, text in (("stdout", ended.out), ("stderr", ended.err), *written(ground)):
        for half in HALVES:
            assert half not in text, f"{name} holds the key: {text[max(0, text.find(half) - 300) :][:400]!r}"


def written(ground: Ground) -> Iterator[tuple[str, bytes]]:
    """Every file below the ground, with its name among the bytes."""
    for path in sorted(ground.root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = str(path.relative_to(ground.root))
            if name not in ground.known:
                yield name, name.encode() + b"\0" + path.read_bytes()


def nothing_outside(ground: Ground) -> None:
    """Files stand in the run's directory only, and nowhere do links."""
    for path in sorted(ground.root.rglob("*")):
        name = path.relative_to(ground.root)
        assert not path.is_symlink(), f"{name} is a link"
        if path.is_file() and str(name) not in ground.known and name.parts[0] not in _OURS:
            assert name.parts[:2] == ("work", "outputs"), f"{name} was written outside of the run's directory"
