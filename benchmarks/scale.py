"""CPU and peak memory of the commands at 10^3 to 10^6 chat items, each in a process of its own.

A directory of N finished items is written straight through the encoders of the stores (`--first` makes it by a real run
instead, against a network that answers at once, and measures that). Then: a resumption with nothing to do, the same
with the directory touched (a whole look at the rows), the same after a kill (no clean close), `status` with and without
its checkpoint, `plan`, `export`, `verify`; beside them a bare msgspec loop that decodes ledger and source.

Run: python benchmarks/scale.py [--first] [--json FILE] [ITEMS …]       default: 1000 10000 100000
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

JOB: Final = """\
name: scale
kind: chat
provider: {base_url: "http://127.0.0.1:9/v1"}
model: m
prompts: {file: prompts.jsonl, template: "{{ text }}"}
output: {dir: out, report: false}
"""
TEXT: Final = "What is the sum of the first numbers, please? Answer in one sentence. "
RUN: Final = "import sys; from batchrunner.__main__ import main; sys.argv[0] = 'batchrunner'; sys.exit(main())"


TAIL_BYTES: Final = 1 << 20
"""More than a ledger's last two lines."""


def make_source(folder: Path, count: int) -> None:
    """The job and its prompts."""
    (folder / "job.yaml").write_text(JOB)
    with (folder / "prompts.jsonl").open("w") as out:
        for number in range(count):
            out.write(f'{{"text": "{TEXT}{number}"}}\n')


BARE: Final = """
import glob, msgspec
decode = msgspec.json.Decoder().decode
for path in (*sorted(glob.glob("out/ledger/*.jsonl")), "prompts.jsonl"):
    for line in open(path, "rb"):
        decode(line)
"""


def measured(what: list[str], folder: Path) -> dict[str, float]:
    """CPU seconds, seconds and peak megabytes of a process; its words go nowhere."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *what], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(f"    exit {process.returncode}: {said[-300:]}")
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "wall_s": round(time.perf_counter() - began, 2),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def command(*words: str) -> list[str]:
    """The program."""
    return ["-c", RUN, *words]


def without_close(folder: Path) -> None:
    """As a kill leaves it: the newest segment has no `close`, and nobody wrote down how it ended."""
    segment = max((folder / "out/ledger").glob("*.jsonl"))
    with segment.open("r+b") as file:  # only its end is read: a process that is started inherits this one's peak memory
        start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
        file.seek(start)
        tail = file.read()
        file.truncate(start + tail.rindex(b"\n", 0, len(tail) - 1) + 1)
    path = folder / "out/run.json"
    run = json.loads(path.read_text())
    run.update(segment=1, segment_bytes=None, segment_left=None, ended=None)
    path.write_text(json.dumps(run))


def measure(count: int, *, first: bool) -> dict[str, dict[str, float]]:
    """All of it for so many items."""
    told: dict[str, dict[str, float]] = {}
    here = str(Path(__file__).resolve().with_name("scale_runs.py"))
    with tempfile.TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        make_source(folder, count)

        def take(what: str, words: list[str]) -> None:
            told[what] = measured(words, folder)
            print(f"{count:>9,}  {what:<34} {told[what]}", flush=True)

        take("first run" if first else "(making it)", [here, "first" if first else "make"])
        take("bare msgspec loop", ["-c", BARE])
        take("nothing to run (python -c pass)", ["-c", "pass"])
        take("status of a ledger alone", command("status", "out"))
        take("plan", command("plan", "job.yaml"))
        take("resume, nothing to do", command("run", "job.yaml"))
        take("resume again", command("run", "job.yaml"))
        take("status", command("status", "out"))
        take("export", command("export", "out", "--to", "csv"))
        take("verify", command("verify", "out"))
        (folder / "out/results.jsonl").touch()
        take("resume, directory touched", command("run", "job.yaml"))
        for checkpoint in (folder / "out/ledger").glob("*.checkpoint"):
            checkpoint.unlink()
        take("status without a checkpoint", command("status", "out"))
        for other in sorted((folder / "out/ledger").glob("*.jsonl"))[1:]:
            other.unlink()
        without_close(folder)
        take("resume after a kill", command("run", "job.yaml"))
        shutil.rmtree(folder / "out")
    return told


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--first", action="store_true", help="make the directory by a real run, and measure it")
    parser.add_argument("--json", help="write the figures into this file")
    options = parser.parse_args()
    figures = {count: measure(count, first=options.first) for count in options.items}
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
