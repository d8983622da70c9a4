"""What the page costs a run while it works, and how soon `watch` shows what has landed: part of `make bench-page`.

Rounds alternate. By CPU of the processes and by the ledger's stamps; the machine does other things meanwhile, so each
ratio is of neighbouring rounds, and the median of them is the figure.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image

from batchrunner.stores.images import make_thumbnail
from tools.browser import started as browser_started
from tools.browser import why_not

PROGRAM = [sys.executable, "-m", "batchrunner"]
CHAT_ITEMS = 3_000
PICTURES = 1_000
PER_SECOND = 20
FEW_PICTURES = 40
FEW_PER_SECOND = 4
ROUNDS = 7
LOOK_S = 0.01
_CALLS_COUNTED = """
import sys, threading
from collections import Counter
counts = Counter()
import batchrunner.cli, batchrunner.page.report_file
from batchrunner.__main__ import main
batchrunner.page.report_file._page_if_due = lambda folder, status: None
told = sys.argv.pop(1)
def note(frame, what, _):
    counts[what] += 1
threading.setprofile(note)
sys.setprofile(note)
try:
    main()
finally:
    sys.setprofile(None)
    open(told, "w").write(str(counts["call"] + counts["c_call"]))
"""
_NO_PAGE_AT_END = """
import sys
import batchrunner.page.report_file
from batchrunner.__main__ import main
batchrunner.page.report_file._page_if_due = lambda folder, status: None
main()
"""


def chat(items: int, *, report: bool) -> dict[str, Any]:
    prompts = [f"Question {number}: why is it so?" for number in range(items)]
    return {"model": "sim/talker", "prompts": prompts, "output": {"report": report}, "limits": {"concurrency": 16}}


def pictures(items: int, *, report: bool, per_second: int) -> dict[str, Any]:
    prompts = [f"Picture {number} of a boat" for number in range(items)]
    limits = {"concurrency": 64, "in_flight_tasks": 200, "requests_per_minute": 60 * per_second}
    shape = {"kind": "image", "model": "sim/painter", "params": {"size": "512x512"}}
    return {**shape, "prompts": prompts, "output": {"report": report}, "limits": limits}


def job_in(folder: Path, job: dict[str, Any]) -> list[str]:
    """The words of `batchrunner run` for it; its run directory is `out`."""
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(json.dumps({"name": "live", "provider": "simulator", **job}))
    return ["run", str(folder / "job.yaml"), "--out", str(folder / "out"), "--quiet", "--progress", "none"]


@contextmanager
def watching(out: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """`batchrunner watch` of a run, once it exists; its address."""
    while not (out / "run.json").exists() or not any((out / "ledger").glob("*.jsonl")):
        time.sleep(LOOK_S)
    with subprocess.Popen([*PROGRAM, "watch", str(out), "--json"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def span_of(out: Path) -> float:
    """Seconds from the first intent to the last `done`, by the ledger."""
    stamps: dict[str, list[float]] = {"intent": [], "done": []}
    for path in sorted((out / "ledger").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            stamps.setdefault(event["e"], []).append(event["t"])
    return max(stamps["done"]) - min(stamps["intent"])


def spent(folder: Path, job: dict[str, Any], *, watched: bool = False) -> float:
    """CPU seconds of a run of the job whose page is not written at the end, with or without `watch` beside it."""
    words = job_in(folder, job)
    with subprocess.Popen([sys.executable, "-c", _NO_PAGE_AT_END, *words], stderr=subprocess.DEVNULL) as run:
        if watched:
            with watching(folder / "out"):
                usage = _ended(run)
        else:
            usage = _ended(run)
    return usage


def calls(folder: Path, job: dict[str, Any], *, watched: bool = False) -> float:
    """Calls of Python and C functions, in all threads of the run's process, with or without `watch` beside it."""
    words, told = job_in(folder, job), folder / "calls"
    command = [sys.executable, "-c", _CALLS_COUNTED, str(told), *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
        if watched:
            with watching(folder / "out"):
                run.wait()
        else:
            run.wait()
    return float(told.read_text())


def _ended(run: "subprocess.Popen[bytes]") -> float:
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def ratio_of(
    work: Path,
    one: dict[str, Any],
    other: dict[str, Any],
    *,
    watched: bool,
    measure: Callable[..., float] = spent,
    places: int = 3,
) -> str:
    """CPU, or `measure`, of the first kind of run to the second: the median of alternating rounds, and their spread."""
    ratios = []
    for turn in range(ROUNDS):
        first, second = (work / f"{measure.__name__}{turn}{watched}{side}" for side in "ab")
        if turn % 2:
            base = measure(second, other)
            ratios.append(measure(first, one, watched=watched) / base)
        else:
            told = measure(first, one, watched=watched)
            ratios.append(told / measure(second, other))
    return f"{statistics.median(ratios):.{places}f} ({min(ratios):.{places}f} to {max(ratios):.{places}f})"


def thumbnail_ms(work: Path) -> float:
    """CPU of a thumbnail of a decoded picture of 1024 x 1024, in ms: with decoding, less decoding alone."""
    path = work / "picture.png"
    noise = Image.effect_noise((1024, 1024), 60).convert("RGB")
    noise.save(path)
    data = path.read_bytes()

    def taken(act: Any) -> float:
        before = time.process_time()
        for _ in range(20):
            act()
        return 1000 * (time.process_time() - before) / 20

    return min(taken(lambda: make_thumbnail(data)) - taken(lambda: Image.open(path).load()) for _ in range(3))


def spans(work: Path, *, watched: bool) -> float:
    """Pictures at 4 a second: the median of alternating rounds, of one span to the other by the ledger.

    With page and thumbnails to without; if `watched`, with `watch` beside the run to without.
    """
    ratios = []
    for turn in range(3):
        by_kind = {}
        for kind in (True, False) if turn % 2 else (False, True):
            folder = work / f"span{turn}{kind}{watched}"
            words = job_in(folder, pictures(FEW_PICTURES, report=kind or watched, per_second=FEW_PER_SECOND))
            with subprocess.Popen([*PROGRAM, *words], stderr=subprocess.DEVNULL) as run:
                if kind and watched:
                    with watching(folder / "out"):
                        run.wait()
            by_kind[kind] = span_of(folder / "out")
        ratios.append(by_kind[True] / by_kind[False])
    return statistics.median(ratios)


SEEN = """() => {
  window.seenRows = [];
  const note = () => window.seenRows.push([Date.now() / 1000, Number(document.documentElement.dataset.rows)]);
  new MutationObserver(note).observe(document.documentElement, { attributes: true, attributeFilter: ["data-rows"] });
  note();
}"""


def landing(work: Path) -> dict[str, float]:
    """1,000 pictures at 20 a second: seconds from a row on disk to its row in the page, and what the server takes."""
    folder = work / "landing"
    words = job_in(folder, pictures(PICTURES, report=True, per_second=PER_SECOND))
    landed: list[float] = []
    ended = threading.Event()

    def look() -> None:
        rows = folder / "out" / "results.jsonl"
        while not ended.wait(LOOK_S):
            if rows.exists():
                landed.extend([time.time()] * (rows.read_bytes().count(b"\n") - len(landed)))

    looking = threading.Thread(target=look)
    with subprocess.Popen([*PROGRAM, *words], stderr=subprocess.DEVNULL) as run, browser_started() as browser:
        looking.start()
        with watching(folder / "out") as (server, address):
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector("html[data-ready]", timeout=30_000)
            page.evaluate(SEEN)
            before, began = cpu_of(server.pid), time.time()
            while run.poll() is None:
                page.wait_for_timeout(200)
            took = time.time() - began
            used, peak = cpu_of(server.pid) - before, peak_mb(server.pid)
            page.wait_for_timeout(1500)
            seen = page.evaluate("window.seenRows")
    ended.set()
    looking.join()
    late = []
    for number, at in enumerate(landed, start=1):
        shown = next((when for when, rows in seen if rows >= number), None)
        if at >= began and shown is not None:
            late.append(shown - at)
    late.sort()
    at_p95 = late[int(0.95 * len(late))]
    return {"rows": len(late), "p50": statistics.median(late), "p95": at_p95, "cpu": used / took, "rss": peak}


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def rows() -> list[str]:
    """Rows of the table in docs/benchmarks.md; what cannot be measured here is said."""
    found = []

    def row(what: str, value: str, ceiling: str) -> None:
        found.append(f"| {what} | {value} | {ceiling} |")
        print(found[-1], flush=True)

    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        row("thumbnail of a decoded 1024² picture, CPU", f"{thumbnail_ms(work):.1f} ms", "15 ms")
        on, off = chat(CHAT_ITEMS, report=True), chat(CHAT_ITEMS, report=False)
        row("chat up to the last `done`: CPU with the page on, to off", ratio_of(work, on, off, watched=False), "1.01")
        row("chat: CPU of the run with `watch` beside it, to without", ratio_of(work, on, on, watched=True), "")
        row(
            "chat: calls of functions in the run's process with `watch` beside it, to without",
            ratio_of(work, on, on, watched=True, measure=calls, places=4),
            "1.01",
        )
        ratio = spans(work, watched=False)
        row(f"pictures at {FEW_PER_SECOND} a second: span with page and thumbnails, to without", f"{ratio:.3f}", "1.01")
        ratio = spans(work, watched=True)
        row(
            f"pictures at {FEW_PER_SECOND} a second: span with `watch` beside the run, to without",
            f"{ratio:.3f}",
            "1.01",
        )
        if reason := why_not():
            print(f"watch is not measured: {reason}")
        else:
            seen = landing(work)
            row(
                f"`watch`: {seen['rows']:,} pictures at {PER_SECOND} a second, from disk to the page, p50 / p95",
                f"{1000 * seen['p50']:.0f} / {1000 * seen['p95']:.0f} ms",
                "p95 1 s",
            )
            row("`watch`: CPU of its process meanwhile", f"{100 * seen['cpu']:.1f} % of a core", "2 %")
            row("`watch`: peak memory of its process", f"{seen['rss']:.0f} MB", "80 MB")
    return found


if __name__ == "__main__":
    rows()
