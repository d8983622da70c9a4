"""What the page of a run costs in a browser: `make bench-page`, or `python benchmarks/page.py --help`.

Three runs on the simulator: GSM8K by three models, PartiPrompts by four seeds, and 100,000 answers. The first two need
the data sets: `--data FOLDER`, or BATCHRUNNER_BENCH_DATA, with gsm8k_test.jsonl and parti_prompts.tsv; they are skipped
without. Runs that are in `--work` already are not made again.

CPU is that of the page's main thread, by Chromium's own `Performance.getMetrics` with `timeDomain: threadTicks`.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import batchrunner
from tools.browser import opened, started, why_not

HEADING = "\n## The page\n"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Subject:
    name: str
    job: dict[str, Any]
    word: str
    bytes: int
    cpu_ms: int
    nodes: int | None = None
    heap_mb: int | None = None


def subjects(data: Path | None) -> list[Subject]:
    found = []
    if data is not None:
        chat = {"file": str(data / "gsm8k_test.jsonl"), "template": "{{ question }}"}
        models = ["sim/large", "sim/medium", "sim/small"]
        found.append(Subject("gsm8k", {"models": models, "prompts": chat}, "ducks", 4_000_000, 300, nodes=600))
        drawn = {"file": str(data / "parti_prompts.tsv"), "template": "{{ Prompt }}"}
        seeds = {
            "kind": "image",
            "model": "sim/painter",
            "matrix": {"seed": [1, 2, 3, 4]},
            "params": {"size": "256x256"},
        }
        found.append(Subject("parti", {**seeds, "prompts": drawn}, "robot", 3_000_000, 300, nodes=600))
    many = {"model": "sim/talker", "prompts": [f"Question {n}: why is it so?" for n in range(1000)], "replicas": 100}
    found.append(Subject("many", many, "question 77", 0, 800, heap_mb=60))
    return found


TITLES = {
    "gsm8k": "GSM8K, 1,319 questions x 3 models",
    "parti": "PartiPrompts, 1,632 prompts x 4 seeds",
    "many": "100,000 answers",
}


def run_of(subject: Subject, work: Path) -> Path:
    folder = work / subject.name
    out = folder / "out"
    if not (out / "report.html").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.yaml").write_text(json.dumps({"name": subject.name, "provider": "simulator", **subject.job}))
        batchrunner.run_sync(batchrunner.load_job(str(folder / "job.yaml"), out=str(out)))
    return out


def written(out: Path) -> tuple[float, int, int]:
    """(CPU of the writer in microseconds a row, rows, bytes)."""
    batchrunner.write_page(str(out))  # modules are loaded, thumbnails are there
    before = resource.getrusage(resource.RUSAGE_SELF)
    page = batchrunner.write_page(str(out))
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    beside = sum(path.stat().st_size for path in out.glob("report/*.js"))
    return 1e6 * spent / page.rows, page.rows, page.bytes + beside


SCROLL = """async () => {
  const scroller = document.querySelector(".scroller");
  const reach = scroller.scrollHeight - scroller.clientHeight;
  let longest = 0, nodes = 0, blank = 0;
  const since = new Map(); // rows whose answers are not there yet, and since when they show
  const watcher = new PerformanceObserver((list) => {
    for (const task of list.getEntries()) longest = Math.max(longest, task.duration);
  });
  watcher.observe({ entryTypes: ["longtask"] });
  const began = performance.now();
  for (;;) {
    const now = performance.now();
    const part = Math.min(1, (now - began) / 3000);
    scroller.scrollTop = reach * part;
    await new Promise((done) => requestAnimationFrame(done));
    nodes = Math.max(nodes, document.querySelectorAll("*").length);
    for (const row of document.querySelectorAll(".row")) {
      if (!row.querySelector(".skeleton")) since.delete(row.dataset.entry);
      else if (!since.has(row.dataset.entry)) since.set(row.dataset.entry, now);
      else blank = Math.max(blank, performance.now() - since.get(row.dataset.entry));
    }
    for (const entry of since.keys()) if (!document.querySelector(`[data-entry="${entry}"]`)) since.delete(entry);
    if (part === 1) break;
  }
  await new Promise((done) => setTimeout(done, 200));
  watcher.disconnect();
  return { longest, nodes, blank };
}"""


def measured(browser: Any, out: Path, word: str) -> dict[str, float]:
    with opened(browser, out / "report.html") as seen:
        client = seen.page.context.new_cdp_session(seen.page)
        client.send("Performance.enable", {"timeDomain": "threadTicks"})

        def metric(name: str) -> float:
            told = client.send("Performance.getMetrics")["metrics"]
            return next(each["value"] for each in told if each["name"] == name)

        before = metric("TaskDuration")
        seen.page.reload()
        seen.ready()
        seen.settle()
        found = {"cpu_ms": 1000 * (metric("TaskDuration") - before)}
        found["nodes"] = seen.count("*")
        found["requests"] = len([address for address in seen.requests if "/thumbs/" in address])
        client.send("HeapProfiler.collectGarbage")
        found["heap_mb"] = metric("JSHeapUsedSize") / 1e6
        for turn in ("search_ms", "again_ms"):
            before = metric("TaskDuration")
            seen.view(f"#results?q={word}{'' if turn == 'search_ms' else '%20e'}")
            seen.page.wait_for_selector(".active:has-text('item')", timeout=60_000)
            seen.settle()
            found[turn] = 1000 * (metric("TaskDuration") - before)
        seen.view("#results")
        seen.page.wait_for_timeout(300)
        tries = [seen.page.evaluate(SCROLL) for _ in range(3)]  # of a busy machine the quietest one
        found |= {f"scroll_{name}": value for name, value in min(tries, key=lambda each: each["longest"]).items()}
        found["complaints"] = len(seen.complaints)
        return found


def rows_of(subject: Subject, out: Path, browser: Any) -> list[str]:
    each_us, rows, size = written(out)
    found = measured(browser, out, subject.word)
    title = TITLES[subject.name]

    def row(what: str, value: str, ceiling: str = "") -> str:
        return f"| {title} | {what} | {value} | {ceiling} |"

    lines = [
        row(
            "bytes of the page, with what lies beside it but pictures",
            f"{size / 1e6:.2f} MB",
            f"{subject.bytes / 1e6:.0f} MB" if subject.bytes else "",
        ),
        row("CPU of the writer, a row", f"{each_us:.0f} µs", "100 µs"),
        row("CPU until usable", f"{found['cpu_ms']:.0f} ms", f"{subject.cpu_ms} ms"),
        row("elements", f"{found['nodes']:.0f}", f"{subject.nodes or 600}"),
        row(
            "JavaScript heap at rest", f"{found['heap_mb']:.1f} MB", f"{subject.heap_mb} MB" if subject.heap_mb else ""
        ),
        row(
            "search, CPU, the first time",
            f"{found['search_ms']:.0f} ms",
            "250 ms at 10,000 items" if rows < 20_000 else "",
        ),
        row("search, CPU, again", f"{found['again_ms']:.0f} ms", "30 ms at 10,000 items" if rows < 20_000 else ""),
        row("scrolling through all in 3 s: longest task", f"{found['scroll_longest']:.0f} ms", "50 ms"),
        row("scrolling: most elements", f"{found['scroll_nodes']:.0f}", "600"),
        row("scrolling: longest time with a row not there", f"{found['scroll_blank']:.0f} ms", "150 ms"),
    ]
    if subject.name == "parti":
        lines.append(row("thumbnails asked for before scrolling", f"{found['requests']:.0f}", "60"))
    return lines


def section(lines: list[str]) -> str:
    text = """
Written by `make bench-page`: `report.html` from disk, in headless Chromium. CPU is that of the page's main thread
(`Performance.getMetrics`, `timeDomain: threadTicks`); times of scrolling are by the wall clock, the
best of three, on a machine that does other things meanwhile.

| run | measured | | ceiling |
|---|---|---|---|
"""
    peers = """

For comparison, the same 3,957 GSM8K answers, measured in the same way on the same machine when the page was designed:

| page | bytes | CPU until usable | elements | from disk |
|---|---|---|---|---|
| promptfoo's HTML output | 15.8 MB | 4,900 to 5,196 ms | 427,638 | yes |
| inspect view's bundle, one model of the three | 15 MB in 36 files | 1,155 to 1,172 ms | 1,237 to 1,499 | blank |
"""
    return HEADING + text + "\n".join(lines) + peers


def main() -> int:
    shape = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape.add_argument(
        "--data", type=Path, default=os.environ.get("BATCHRUNNER_BENCH_DATA"), help="folder of the data sets"
    )
    shape.add_argument("--work", type=Path, help="keep the runs here")
    shape.add_argument("--only", help="one of gsm8k, parti, many")
    shape.add_argument("--docs", action="store_true", help="write the section in docs/benchmarks.md")
    given = shape.parse_args()
    if reason := why_not():
        print(f"not measured: {reason}")
        return 0
    data = None if given.data is None else Path(given.data)
    if data is None:
        print("GSM8K and PartiPrompts are skipped: name their folder with --data or BATCHRUNNER_BENCH_DATA")
    with tempfile.TemporaryDirectory() as place:
        work = given.work or Path(place)
        wanted = [subject for subject in subjects(data) if given.only in (None, subject.name)]
        runs = [(subject, run_of(subject, work)) for subject in wanted]  # before the browser's loop is there
        lines = []
        with started() as browser:
            for subject, out in runs:
                began = time.monotonic()
                lines += rows_of(subject, out, browser)
                print("\n".join(lines[-11:]), f"\n({time.monotonic() - began:.0f} s)", flush=True)
    if given.docs:
        DOCS.write_text(DOCS.read_text("utf-8").partition(HEADING)[0] + section(lines), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
