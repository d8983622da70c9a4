"""A job on a Ray of this machine whose workers and coordinator are killed: what was paid, refused, flagged; how long.

The server is a process of its own with a strict bucket, and counts what it is paid for. Needs `make test-servers`:

    python benchmarks/ray_kills.py [--items 100000] [--workers 4] [--per-second 200] [--burst 20]
        [--kill-every 15] [--kill-coordinator-every 40]

A kill takes one of Ray's actors and, with it, its process; 0 seconds kill nobody. The server stands for another
machine: where that is allowed its process comes before all others. `start` is what it takes from a kill until another
process has the lock of what the killed one had; a death may cost that, 2 s to be noticed, and all together a tenth of
the time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchrunner.stores.lock import holder_of
from tests.clusters.examples import environment, holders, whole, write_job
from tests.support import metered_server

HOME = Path(__file__).resolve().parents[1]
PROGRAM = HOME / ".servers" / "ray" / "bin" / "batchrunner"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--per-second", type=float, default=200.0)
    parser.add_argument("--burst", type=float, default=20.0)
    parser.add_argument("--kill-every", type=float, default=15.0)
    parser.add_argument("--kill-coordinator-every", type=float, default=40.0)
    asked = parser.parse_args(arguments)
    options = [str(asked.per_second), str(asked.burst), "0.2"]
    with tempfile.TemporaryDirectory(prefix="ray-kills-") as scratch:
        server = subprocess.Popen(
            [sys.executable, metered_server.__file__, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, server.pid, -10)
        try:
            assert server.stdout is not None
            measure(Path(scratch), server.stdout.readline().strip(), asked)
        finally:
            server.kill()
            server.wait()


@dataclass
class Deaths:
    """Who was killed, and when another process was there in its place."""

    out: Path
    count: int = 0
    starts_s: list[float] = field(default_factory=list)
    _waits: list[tuple[float, bool]] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def look(self, now: float) -> None:
        """Whoever is there for the first time has come for one that was killed."""
        workers, holder = set(holders(self.out).values()), holder_of(self.out / "shards")
        for pids, is_worker in ((workers, True), ({holder.pid} if holder else set(), False)):
            waits = [each for each in self._waits if each[1] is is_worker]
            if waits and pids - self._seen:
                self.starts_s.append(now - waits[0][0])
                self._waits.remove(waits[0])
            self._seen |= pids

    def kill(self, now: float, *, worker: bool) -> bool:
        """One of the workers in turn, or the coordinator; False where there is none."""
        holder = holder_of(self.out / "shards")
        pids = sorted(holders(self.out).values()) if worker else [holder.pid] if holder else []
        if not pids:
            return False
        kill_actor_of(pids[self.count % len(pids)])
        self.count += 1
        self._waits.append((now, worker))
        return True


def measure(folder: Path, root: str, asked: argparse.Namespace) -> None:
    write_job(folder, root, items=asked.items, per_minute=asked.per_second * 60)
    job = folder / "job.yaml"  # answers take 0.2 s: the rate is to be the limit, not the concurrency
    job.write_text(job.read_text().replace("concurrency: 16", f"concurrency: {max(16, round(asked.per_second))}"))
    began = time.monotonic()
    run = subprocess.Popen(
        [PROGRAM, "run", "job.yaml", "--out", "out", "--ray", "--workers", str(asked.workers), "--json"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    deaths, worker_at, coordinator_at = Deaths(folder / "out"), time.monotonic(), time.monotonic()
    while run.poll() is None:
        time.sleep(0.2)
        now = time.monotonic()
        deaths.look(now)
        if asked.kill_every and now - worker_at >= asked.kill_every and deaths.kill(now, worker=True):
            worker_at = now
        is_time = asked.kill_coordinator_every and now - coordinator_at >= asked.kill_coordinator_every
        if is_time and deaths.kill(now, worker=False):
            coordinator_at = now
    took = time.monotonic() - began
    meter, found = metered_server.read_meter(root), whole(folder / "out")
    flagged = found.status["sends"]["possible_duplicates"]
    print(f"{asked.items:,} items, {asked.workers} workers, limit {asked.per_second:g}/s with burst {asked.burst:g}")
    print(f"  exit status   {run.returncode}; rows {len(found.rows):,}, paid {meter['paid']:,}")
    print(f"  paid twice    {meter['paid'] - meter['prompts']:,}, flagged {flagged:,}; refused {meter['refused']:,}")
    print(f"  rate          {meter['paid'] / max(meter['seconds'], 1e-9) / asked.per_second:.1%} of the limit")
    print(f"  time          {took:.0f} s in all, {meter['seconds']:.0f} s from first to last request")
    ideal_s = asked.items / asked.per_second
    start_s = median(deaths.starts_s) if deaths.starts_s else 0.0
    bound_s = deaths.count * (start_s + 2.0) + 0.1 * ideal_s
    lost_s = meter["seconds"] - ideal_s
    print(f"  lost          {lost_s:.0f} s, the limit alone takes {ideal_s:.0f} s; {deaths.count} deaths:")
    print(f"                at most {deaths.count} x ({start_s:.1f} + 2) s + 10 % = {bound_s:.0f} s")
    print(json.dumps({"verify": found.findings}))


def kill_actor_of(process: int) -> None:
    with suppress(OSError):  # it has just ended
        parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
