"""What one item costs in calls: every Python and C function that a run calls for an item, most often called first.

A real run of the program against the servers of the benchmark, at two sizes under `sys.setprofile`, on every thread;
what the larger run called more, divided by the items between them. Start-up, connections and the first batch cancel
out, and the figures do not depend on how busy the machine is: of each line one can ask why it is there.

    python benchmarks/calls.py                                            whole answers from nginx, an API key set
    python benchmarks/calls.py --job '{"stream": true}' --server flushed  streamed answers from the stub
    python benchmarks/calls.py --job '{"dialect": "anthropic-messages", "more": {"params": {"max_tokens": 100}}}'
    python benchmarks/calls.py --job '{"key": false}' --sizes 500 2500    without a key, other sizes
    python benchmarks/calls.py --job '{"kind": "image", "dialect": "openai-images", "concurrency": 8}' --sizes 40 120
    python benchmarks/calls.py rehearse                                   `rehearse` of the same job: no server
    python benchmarks/calls.py rehearse --job '{"kind": "image", "dialect": "openai-images"}'
    python benchmarks/calls.py floor --job '{"stream": true}' --server flushed    without the engine: `bench_floor`

`--job` takes the fields of `bench_runs.OwnJob` as JSON. Profiling makes the run some five times slower, so that waiting
functions (locks, syncs) share more among fewer calls than they would: compare counts of work, not of waits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench_rows import make_picture
from bench_runs import HERE, KEYS, PROGRAM, CannotMeasureError, OwnJob, compiled, cores, environment
from bench_servers import servers

HOME: Final = Path(__file__).resolve().parents[1] / ".bench" / "calls"
LEAST_SHOWN: Final = 0.05
_SERVERS: Final = "what answers: nginx, the stub in flushed chunks, the stub 200 ms later; default: nginx"
_COUNTER: Final = """
import atexit, collections, json, sys, threading
counted = collections.Counter()
def count(frame, event, called):
    code = frame.f_code
    if event == "call":
        counted[f"py {code.co_filename}:{code.co_firstlineno} {code.co_name}"] += 1
    elif event == "c_call":
        counted[f"c  {code.co_filename}:{code.co_name} -> {getattr(called, '__qualname__', called)}"] += 1
def tell():
    sys.setprofile(None)
    with open(OUT, "w") as out:
        json.dump(counted, out)
threading.setprofile(count)
sys.setprofile(count)
atexit.register(tell)
"""


_FLOOR: Final = "import sys; sys.path.insert(0, HERE); import bench_floor; bench_floor.main()"


def counted(words: list[str], folder: Path, core: int | None, program: str = PROGRAM[1]) -> dict[str, int]:
    """Calls by function of a program, the one itself by default, with these arguments. Raises CannotMeasureError."""
    pin = [] if core is None else ["taskset", "-c", str(core)]
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "calls.json"
        code = _COUNTER.replace("OUT", repr(str(out))) + program
        ran = subprocess.run(
            [*pin, sys.executable, "-c", code, *words],
            cwd=folder,
            env=environment(KEYS),
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise CannotMeasureError(f"the run ended with {ran.returncode}: {ran.stderr.strip()[-1000:]}")
        found: dict[str, int] = json.loads(out.read_text())
    return found


def per_item(small: dict[str, int], large: dict[str, int], items: int) -> dict[str, float]:
    """What each of so many more items added, by function."""
    return {name: (large.get(name, 0) - small.get(name, 0)) / items for name in {*small, *large}}


def table(each: dict[str, float], *, most: int) -> list[str]:
    lines = []
    for kind, words in (("py ", "Python functions"), ("c  ", "C functions")):
        of_kind = {name: calls for name, calls in each.items() if name.startswith(kind)}
        lines.append(f"{sum(of_kind.values()):.0f} calls of {words} an item")
        lines += [
            f"{calls:8.2f}  {name[3:].replace(str(Path.cwd()) + '/', '')}"
            for name, calls in sorted(of_kind.items(), key=lambda pair: -abs(pair[1]))[:most]
            if abs(calls) >= LEAST_SHOWN
        ]
    return lines


def main() -> int:
    shape = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape.add_argument("command", nargs="?", choices=("run", "rehearse", "floor"), default="run")
    shape.add_argument("--job", type=json.loads, default={}, metavar="JSON", help="fields of OwnJob")
    shape.add_argument("--server", choices=("nginx", "flushed", "later"), default="nginx", help=_SERVERS)
    shape.add_argument("--sizes", nargs=2, type=int, default=(400, 1600), metavar=("SMALL", "LARGE"))
    shape.add_argument("--top", type=int, default=140, help="lines of each kind; default: 140")
    shape.add_argument("--home", type=Path, default=HOME, help="where the runs are made; default: .bench/calls")
    given = shape.parse_args()
    given.home.mkdir(parents=True, exist_ok=True)
    compiled()
    client, server = cores()
    small, large = given.sizes
    found = []
    with ExitStack() as stack:
        url = "http://127.0.0.1:9"
        if given.command != "rehearse":
            addresses = stack.enter_context(servers(given.home, core=server))
            ways = {
                "nginx": addresses["nginx"],
                "flushed": f"{addresses['stub']}/flushed",
                "later": f"{addresses['stub']}/later/200",
            }
            url = ways[given.server]
            if given.job.get("kind") == "image":
                make_picture(Path(addresses["files"]) / "picture.png")
        for number in (small, large):
            job = OwnJob(home=given.home, url=url, count=number, **given.job)
            if given.command == "floor":
                words = ["stream", "job.yaml", str(job.concurrency)]
                found.append(counted(words, job.folder, client, _FLOOR.replace("HERE", repr(str(HERE)))))
            else:
                found.append(counted([given.command, "job.yaml"], job.folder, client))
    print("\n".join(table(per_item(*found, large - small), most=given.top)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
