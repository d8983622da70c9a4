"""`run --processes 2` beside one process: how much quicker, and what it costs in CPU, on this machine.

Both run the same job from nothing to its end, start-up, merge and all, in alternating rounds against nginx, which
answers from its configuration. No process is pinned. The CPU is of all processes of a run together. The server's own is
printed too: where there is no third core for it, it takes its part of the two.
Run: python benchmarks/processes.py [--items N] [--rounds N] [--processes N] [--concurrency N]
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

from bench_runs import KEYS, PROGRAM, CannotMeasureError, OwnJob, Took, compiled, run_process, span_of
from bench_servers import servers

HOME = Path(__file__).resolve().parents[1] / ".bench"


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a living process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(job: OwnJob, processes: int) -> Took:
    """From nothing; every item must be done, whoever did it."""
    job.__post_init__()
    spread = ["--processes", str(processes)] if processes > 1 else []
    took = run_process([sys.executable, *PROGRAM, "run", "job.yaml", *spread], cwd=job.folder, core=None, env=KEYS)
    took.span_s, done = span_of(job.folder / "out/ledger")
    with (job.folder / "out/results.jsonl").open("rb") as rows:
        if done != job.count or sum(1 for _ in rows) != job.count:
            raise CannotMeasureError(f"{done} of {job.count} items are done")
    return took


def shown(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=64)
    asked = parser.parse_args()
    HOME.mkdir(exist_ok=True)
    compiled()
    one, all_of, served = list[Took](), list[Took](), {1: list[float](), asked.processes: list[float]()}
    with servers(HOME, core=None) as addresses:
        nginx = int((HOME / "server/nginx.pid").read_text())
        job = OwnJob(home=HOME, url=addresses["nginx"], count=asked.items, concurrency=asked.concurrency)
        for number in range(asked.rounds):
            for processes, tooks in ((1, one), (asked.processes, all_of)):
                before = cpu_of(nginx)
                tooks.append(took := run(job, processes))
                served[processes].append(cpu_of(nginx) - before)
                print(
                    f"round {number + 1}, {processes} process{'es' * (processes > 1)}: {took.wall_s:.2f} s, "
                    f"{1e6 * took.cpu_s / asked.items:.0f} µs of CPU an item, server "
                    f"{1e6 * served[processes][-1] / asked.items:.0f} µs an item",
                    flush=True,
                )
    print(
        f"{asked.items:,} items, {asked.concurrency} in flight, {asked.rounds} alternating rounds, "
        f"load {os.getloadavg()[1]:.1f}"
    )
    print(
        "  as fast as one process      ", shown([a.wall_s / b.wall_s for a, b in zip(one, all_of, strict=True)], " x")
    )
    print("  CPU an item to one process's", shown([b.cpu_s / a.cpu_s for a, b in zip(one, all_of, strict=True)], " x"))
    print(
        "  cores of the machine in use ",
        shown(
            [(took.cpu_s + server) / took.wall_s for took, server in zip(all_of, served[asked.processes], strict=True)]
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
