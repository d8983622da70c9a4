"""One life of the program after another, watched from outside: how far it came, how large it grew, when it is ended.

A life is a process that works on a job. Its progress is the number of lines in its ledger, read as they come. Knows
nothing of what the lines say; see `judging.py`.
"""

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.runs import Ended, environment, program
from tests.support.waiting import has_taken_its_signals

_PATIENCE_S = 600.0
_LOOK_S = 0.001
_LOOKS_A_MEASURE = 16
_EARLY_SHARE = 0.2
"""Of the kills, those that come some time after the start, whatever was reached: most strike while it takes up work."""
_EARLY_S = (0.05, 2.0)


@dataclass(slots=True)
class Life:
    """A running `batchrunner run`, or another command; everything that it says goes into files beside the job."""

    process: "subprocess.Popen[bytes]"
    said: tuple[Path, Path]
    peak_bytes: int = 0
    """The largest resident size seen, 0 where the system does not tell."""

    def watch(self, *, until: Callable[[], bool]) -> bool:
        """Wait for a moment; False when the process ended first."""
        deadline = time.monotonic() + _PATIENCE_S
        looks = 0
        while self.process.poll() is None:
            if looks % _LOOKS_A_MEASURE == 0:
                self._measure()
            if until():
                return True
            assert time.monotonic() < deadline, f"nothing happened in {_PATIENCE_S:.0f} s: {self.said[1].read_text()}"
            looks += 1
            time.sleep(_LOOK_S)  # a real process is watched in real time
        return False

    def send(self, number: int) -> bool:
        """Send a signal; False when the process had ended before."""
        if self.process.poll() is not None:
            return False
        self.process.send_signal(number)
        return True

    def has_taken_its_signals(self) -> bool:
        return has_taken_its_signals(self.process.pid)

    def kill(self) -> bool:
        """Kill -9; False when it had ended by itself."""
        self.send(signal.SIGKILL)
        return self.process.wait(timeout=_PATIENCE_S) == -signal.SIGKILL

    def end(self) -> Ended:
        """Let it come to its end."""
        self.watch(until=lambda: False)
        out, err = (path.read_text("utf-8") for path in self.said)
        return Ended(self.process.returncode, out, err)

    def _measure(self) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError):  # it may be gone, and not every system has /proc
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            kilobytes = int(status.partition("VmHWM:")[2].split()[0])
            self.peak_bytes = max(self.peak_bytes, kilobytes * 1024)


@contextlib.contextmanager
def life(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> Iterator[Life]:
    """Start `batchrunner ARGUMENTS` in a folder; it does not outlive the block. `before` stands before the command."""
    number = len(list(folder.glob("said-*.out")))
    said = folder / f"said-{number}.out", folder / f"said-{number}.err"
    with said[0].open("wb") as out, said[1].open("wb") as err:
        process = subprocess.Popen(
            [*before, *program(*arguments)], cwd=folder, env=environment(), stdout=out, stderr=err
        )
    try:
        yield Life(process, said)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def run(job: Path, *options: str) -> contextlib.AbstractContextManager[Life]:
    """A life of `batchrunner run JOB`."""
    return life(job.parent, "run", job.name, "--json", *options)


@dataclass(slots=True)
class Progress:
    """Counts the lines of a growing ledger, each byte read once."""

    ledger: Path
    _read: dict[Path, int] = field(default_factory=dict)
    _lines: int = 0

    def lines(self) -> int:
        """Whole lines so far, over all segments."""
        if not self.ledger.exists():
            return 0
        for path in self.ledger.glob("*.jsonl"):
            known = self._read.get(path, 0)
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(known)
                more = file.read()
                self._lines += more.count(b"\n")
                self._read[path] = known + len(more)
        return self._lines


@dataclass(slots=True)
class Kills:
    """What a row of kills came to."""

    hit: int = 0
    early: int = 0
    """Of these, the ones that came by the clock."""
    peak_bytes: int = 0


def kill_again_and_again(
    job: Path,
    out: Path,
    *,
    kills: int,
    lines: int,
    seed: int,
    after_each: Callable[[], None],
    or_when: Callable[[], bool] = lambda: False,
) -> Kills:
    """Kill a job at random moments, spread over the first part of the `lines` that its ledger has at least at its end.

    The rest is for a machine that keeps whoever watches from looking: the last kill is to find the job at work.

    `after_each` looks at what a kill has left. A kill strikes at once when `or_when` says so.
    """
    random_source = random.Random(seed)
    progress = Progress(out / "ledger")
    told = Kills()
    for number in range(1, kills + 1):
        with run(job) as living:
            early = random_source.random() < _EARLY_SHARE
            goal = int(lines * (number - random_source.random()) / (kills + 3))
            goal = max(goal, progress.lines() + random_source.randrange(1, 60))
            when = time.monotonic() + random_source.uniform(*_EARLY_S)
            living.watch(
                until=lambda: or_when() or (time.monotonic() >= when if early else progress.lines() >= goal)  # noqa: B023 - called within this round
            )
            hit = living.kill()
        told.hit += hit
        told.early += hit and early
        told.peak_bytes = max(told.peak_bytes, living.peak_bytes)
        after_each()
    return told
