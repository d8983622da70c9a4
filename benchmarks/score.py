"""What checks cost: CPU and memory of `batchrunner score` on 100,000 rows. Prints a line; exits 1 beyond the limits.

python benchmarks/score.py [ROWS]
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import batchrunner

ROWS: Final = 100_000
MOST_CPU_US: Final = 200.0
"""Of one row."""
MOST_MEMORY_MB: Final = 80.0
"""Above an interpreter that does nothing."""
JOB: Final = """
name: sums
provider: simulator
model: sim/one
prompts: {file: sums.jsonl, template: "{{ question }}", id: "{{ id }}"}
output: {report: false}
checks:
  - number: "{{ answer.split('####')[1] }}"
  - contains: ["####"]
    counts: false
  - not: {any: ["As an AI", "I cannot"]}
  - length: {words: [1, 400]}
"""


def main() -> int:
    """Make a run of that many rows, score it in a process of its own, and say what it took."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        path = _run(Path(folder), rows)
        idle_mb = _took([sys.executable, "-c", "pass"])[1]
        cpu_s, peak_mb, said = _took([sys.executable, "-m", "batchrunner", "score", str(path), "--json"])
    scored = json.loads(said)
    above_mb = peak_mb - idle_mb
    each_us = 1e6 * cpu_s / rows
    took = f"{cpu_s:.1f} s of CPU ({each_us:.0f} µs a row), {above_mb:.0f} MB above an interpreter"
    print(f"{scored['rows']:,} rows, 4 checks each: {took}")
    is_met = scored["rows"] == rows and each_us <= MOST_CPU_US and above_mb <= MOST_MEMORY_MB
    return 0 if is_met else 1


def _run(folder: Path, rows: int) -> Path:
    """A finished run: three items really run, whose rows are written out as often as it takes."""
    job = folder / "job.yaml"
    job.write_text(JOB)
    questions = (
        {"id": f"q{n}", "question": f"What is {n} + {n}? End with #### and the number.", "answer": f"so #### {2 * n}"}
        for n in range(rows)
    )
    (folder / "sums.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    report = batchrunner.run_sync(batchrunner.load_job(str(job)), limit=3)
    path = Path(report.status.dir or "")
    pattern = json.loads((path / "results.jsonl").read_text().splitlines()[0])
    with (path / "results.jsonl").open("w") as file:
        for n in range(rows):
            pattern |= {"id": f"q{n}", "prompt_id": f"q{n}", "index": n + 1, "key": f"{n:032x}"}
            pattern["vars"] = {"answer": f"so #### {2 * n}"}
            pattern["output"]["text"] = f"{'A sentence of an answer, as models write them. ' * 8}\n#### {2 * n + n % 3}"
            file.write(json.dumps(pattern) + "\n")
    return path


def _took(command: list[str]) -> tuple[float, float, str]:
    """CPU in seconds and peak memory in MB of a process and its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = subprocess.run([sys.executable, "-c", _MEASURE, *command], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, _, said = made.stdout.partition("\n")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, int(peak) / 1024, said


_MEASURE: Final = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.stdout.write(done.stdout.decode())
"""
"""A child's peak counts what its parent had before: so it is started by a small process."""


if __name__ == "__main__":
    sys.exit(main())
