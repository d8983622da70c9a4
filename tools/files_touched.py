"""Which files one item touches between its slot and its row: `python -m tools.files_touched` lists them.

In one process, against the simulator in another: for each kind a run of one item, which imports what it needs, then one
of 30 and one of 90 under `sys.setprofile` on every thread. A file is touched by an item if the larger run made at least
half a call more in it for each item more. What reads the prompts ahead of the slots (`prompts/`), the commands' own
display (`cli/`), the thread that looks for commands once a second (`stores/control_folder.py`) and the page that is
written after the last row are left out: they are not on the way from the slot to the row.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Final

HOME: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = HOME / "batchrunner"
SIZES: Final = 1, 30, 90
_AHEAD: Final = ("prompts/", "cli/", "stores/control_folder.py")
KINDS: Final[dict[str, dict[str, object]]] = {
    "chat item": {"kind": "chat", "model": "sim/talker", "stream": False},
    "chat item, streamed": {"kind": "chat", "model": "sim/talker", "stream": True},
    "image task": {"kind": "image", "model": "sim/painter"},
}
_COUNTER: Final = """
import collections, json, sys, threading
calls = collections.Counter()
def count(frame, event, called):
    if event == "call":
        calls[frame.f_code.co_filename] += 1
threading.setprofile(count)
sys.setprofile(count)
import batchrunner
found = []
for job in sys.argv[1:]:
    calls.clear()
    batchrunner.run_sync(batchrunner.load_job(job))
    found.append(dict(calls))
sys.setprofile(None)
with open("calls.json", "w") as out:
    json.dump(found, out)
"""


def files_touched() -> dict[str, list[str]]:
    """The files of the package, as paths below it, that an item of each kind of `KINDS` touches.

    Raises:
        CalledProcessError: a run failed; its output is on stderr.
    """
    items = SIZES[2] - SIZES[1]
    with _simulator() as url:
        calls = _calls(url)
    return {
        kind: sorted(
            name
            for name, count in large.items()
            if 2 * (count - small.get(name, 0)) >= items and not name.startswith(_AHEAD)
        )
        for kind, (small, large) in zip(KINDS, zip(calls[1::3], calls[2::3], strict=True), strict=True)
    }


def _calls(url: str) -> list[dict[str, int]]:
    """Calls by file, of a run of each kind and each size."""
    provider = {"preset": "modelscope", "base_url": url, "api_key_env": "TOUCHED_KEY"}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        jobs = [f"job-{number}.yaml" for number in range(len(KINDS) * len(SIZES))]
        for path, (kind, size) in zip(jobs, product(KINDS, SIZES), strict=True):
            job = {
                "provider": provider,
                "limits": {"concurrency": 4},
                "prompts": {"file": f"{size}.txt"},
                "output": {"report": False},
                **KINDS[kind],
            }
            (folder / path).write_text(json.dumps(job), "utf-8")
        for size in SIZES:
            (folder / f"{size}.txt").write_text("".join(f"Describe picture {n}.\n" for n in range(size)), "utf-8")
        subprocess.run(  # noqa: S603 - this interpreter, and words of this file
            [sys.executable, "-c", _COUNTER, *jobs],
            cwd=folder,
            env={"PYTHONPATH": str(HOME), "TOUCHED_KEY": "touched-0123456789", "PATH": ""},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found: list[dict[str, int]] = json.loads((folder / "calls.json").read_text("utf-8"))
    return [
        {
            Path(name).relative_to(PACKAGE).as_posix(): count
            for name, count in calls.items()
            if Path(name).is_relative_to(PACKAGE)
        }
        for calls in found
    ]


@contextmanager
def _simulator() -> Iterator[str]:
    """The simulator's address, of a process that ends with the context."""
    words = ["-m", "batchrunner", "simulate", "--port", "0", "--latency", "0.01", "--json"]
    with subprocess.Popen(  # noqa: S603 - as above
        [sys.executable, *words], cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None, "a pipe was asked for"
            yield json.loads(server.stdout.readline())["base_url"]
        finally:
            server.terminate()


def main() -> None:
    """Print the files of an item of each kind."""
    for kind, found in files_touched().items():
        print(f"{len(found)} files: {kind}")  # noqa: T201 - a tool that prints
        print("".join(f"  {name}\n" for name in found))  # noqa: T201 - as above


if __name__ == "__main__":
    main()
