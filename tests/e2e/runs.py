"""Real processes for the tests beside this file: the HTTP simulator, runs of the program, and kills."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.json_lines import json_lines

CANARY = "ms-canary-5f1d7c3e-must-never-be-written"
KEY_NAME = "BATCHRUNNER_TEST_KEY"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FAULTS = "throttle=0.1,5xx=0.05,reset=0.02,cut=0.01,task-fail=0.02,task-slow=0.05,retry_after=1"
_PATIENCE_S = 300.0


def shared_file(name: str) -> Path:
    """A file of real prompts; skips the test where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real prompts are not here: {path.name} is expected in {path.parent}")
    return path


def environment() -> dict[str, str]:
    """For every process that a test starts: one key, the canary, and no colours."""
    return {**os.environ, KEY_NAME: CANARY, "NO_COLOR": "1"}


def program(*arguments: str) -> list[str]:
    """The command line of the program under test."""
    return [sys.executable, "-m", "batchrunner", *arguments]


@dataclass(frozen=True)
class Simulator:
    """A simulator in a process of its own."""

    base_url: str
    process: "subprocess.Popen[bytes]"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + "/_simulator/stats") as reply:
            return dict(json.load(reply))

    def log(self, *, since: int) -> list[dict[str, Any]]:
        """The requests after this number, as far as it remembers them."""
        url = f"{self.base_url.removesuffix('/v1')}/_simulator/log?since={since}"
        with urllib.request.urlopen(url) as reply:
            return list(json.load(reply)["requests"])

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """It answers nothing meanwhile: what is under way stays so, however late the test is."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def simulator(folder: Path, *options: str) -> Iterator[Simulator]:
    """Start it on free ports, end it afterwards."""
    log = folder / "simulator.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            program("simulate", "--port", "0", *options), stdout=out, stderr=out, env=environment()
        )
        try:
            yield Simulator(_address(log, process), process)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.strip().startswith("base_url:"):
                return line.split()[1]
        time.sleep(0.05)  # a real process starts in real time
    raise AssertionError(f"the simulator did not start: {log.read_text()}")


@dataclass(frozen=True)
class Ended:
    """How a run of the program ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        return dict(json.loads(self.stdout))


def run_job(job: Path, *options: str, timeout_s: float = _PATIENCE_S) -> Ended:
    """Run a job to its end in a process of its own, in the job's folder."""
    done = subprocess.run(
        program("run", job.name, "--json", *options),
        cwd=job.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run_and_kill(job: Path, *, when_bytes: int, watched: Path, number: int = signal.SIGKILL) -> bool:
    """Start the job and kill its process once `watched` has grown to so many bytes; False when it ended before."""
    process = subprocess.Popen(
        program("run", job.name),
        cwd=job.parent,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if watched.exists() and size(watched) >= when_bytes:
                process.send_signal(number)
                process.wait(timeout=90)
                return True
            time.sleep(0.002)  # a real process is watched in real time
        return False
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.iterdir())
    return path.stat().st_size


def kill_often(job: Path, out: Path, *, kills: int, whole_bytes: int, seed: int) -> int:
    """Kill the job again and again at random moments of its progress; how often it was really killed."""
    random_source = random.Random(seed)
    killed = 0
    for number in range(1, kills + 1):
        at = int(whole_bytes * (number - random_source.random()) / (kills + 1))
        killed += run_and_kill(
            job, when_bytes=max(at, size(out / "ledger") if out.exists() else 1), watched=out / "ledger"
        )
    return killed


def each_item_ended_once(out: Path, *, items: int) -> list[dict[str, Any]]:
    """Asserts that every item stands once in results or failures; gives the result rows."""
    results, failures = json_lines(out / "results.jsonl"), json_lines(out / "failures.jsonl")
    ids = Counter(row["id"] for row in (*results, *failures))
    assert [name for name, count in ids.items() if count > 1] == []
    assert len(ids) == items
    assert {row["index"] for row in (*results, *failures)} == set(range(1, items + 1))
    return results


def no_byte_holds(folder: Path, secret: str) -> None:
    """Asserts that the secret stands in no file below the folder."""
    needle = secret.encode()
    for path in folder.rglob("*"):
        if path.is_file():
            assert needle not in path.read_bytes(), f"{path} holds the key"
