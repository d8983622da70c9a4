"""What the page of a run costs in a browser: `make bench-page`, or `python benchmarks/page.py --help`.

Three runs on the simulator: GSM8K by three models, PartiPrompts by four seeds, and 100,000 answers. The first two need
the data sets: `--data FOLDER`, or BATCHRUNNER_BENCH_DATA, with gsm8k_test.jsonl and parti_prompts.tsv; they are skipped
without. Runs that are in `--work` already are not made again.

CPU is that of the page's main thread, by Chromium's own `Performance.getMetrics` with `timeDomain: threadTicks`; of a
single task, by its trace. `--peers FOLDER`, or BATCHRUNNER_BENCH_PEERS, measures promptfoo's page and inspect view with
the GSM8K answers, too: see `benchmarks/page_peers.py` for what lies in it.
"""

import argparse
import functools
import http.server
import json
import os
import re
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from page_live import rows as live_rows
from page_peers import answers_of, inspect_bundle, promptfoo_page

import batchrunner
from tools.browser import opened, started, why_not

HEADING = "\n## The page\n"
SCROLL_ROUNDS = 3
SEARCHES_AGAIN = 7
QUIET_MS = 10
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


SEARCH = """async (address) => {
  const before = document.querySelector(".row");
  location.hash = address;
  while (before.isConnected) await new Promise((done) => requestAnimationFrame(done));
  for (let frame = 0; frame < 2; frame++) await new Promise((done) => requestAnimationFrame(done));
}"""


IDLE = """async () => {
  let longest = 0;
  const began = performance.now();
  for (let last = began; last - began < 3000; ) {
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  }
  return longest;
}"""


def idle_page(page: Any) -> float:
    """The longest time between two frames of an empty page, in ms: what this machine does to any page meanwhile."""
    return float(page.evaluate(IDLE))


def scrolled(browser: Any, page: Any) -> dict[str, float]:
    """One round of SCROLL, with `cpu`: the most that one task of the main thread took, in ms of its CPU."""
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
    found: dict[str, float] = page.evaluate(SCROLL)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    names = [event for event in events if event.get("name") == "thread_name"]
    main = {(each["pid"], each["tid"]) for each in names if each["args"]["name"] == "CrRendererMain"}
    tasks = [event["tdur"] for event in events if "tdur" in event and (event["pid"], event["tid"]) in main]
    return {**found, "cpu": max(tasks) / 1000}


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
        searches = []
        for turn in range(1 + SEARCHES_AGAIN):
            before = metric("TaskDuration")
            seen.page.evaluate(SEARCH, f"#results?q={word}{'%20e' if turn % 2 else ''}")
            searches.append(1000 * (metric("TaskDuration") - before))
        found["search_ms"], found["again_ms"] = searches[0], statistics.median(searches[1:])
        seen.view("#results")
        seen.page.wait_for_timeout(300)
        rounds = [scrolled(browser, seen.page) for _ in range(SCROLL_ROUNDS)]
        found |= {f"scroll_{name}": max(each[name] for each in rounds) for name in ("cpu", "nodes", "blank")}
        found["scroll_wall"] = min(each["longest"] for each in rounds)  # of a busy machine the quietest one
        seen.page.goto("about:blank")
        idle = [idle_page(seen.page) for _ in range(SCROLL_ROUNDS)]
        found["idle_wall"] = max(idle)
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
        row("CPU of `report`, thumbnails there", f"{each_us * rows / 1e6:.2f} s", "2 s" if rows < 20_000 else ""),
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
        row(
            "search, CPU, again (median of 7)",
            f"{found['again_ms']:.0f} ms",
            "30 ms at 10,000 items" if rows < 20_000 else "",
        ),
        row("scrolling through all in 3 s: longest task, CPU", f"{found['scroll_cpu']:.0f} ms", "50 ms"),
        row("the same by the clock, quietest round", f"{found['scroll_wall']:.0f} ms"),
        row("an empty page meanwhile: longest time between two frames", f"{found['idle_wall']:.0f} ms"),
        row("scrolling: most elements", f"{found['scroll_nodes']:.0f}", "600"),
        row("scrolling: longest time with a row not there", f"{found['scroll_blank']:.0f} ms", "150 ms"),
    ]
    if subject.name == "parti":
        lines.append(row("thumbnails asked for before scrolling", f"{found['requests']:.0f}", "60"))
    return lines


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's address over HTTP, for what does not open from disk."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


def opening(browser: Any, address: str, there: str) -> tuple[float, int]:
    """(CPU in ms until the selector `there` is shown and the page is quiet, elements); elements only if it never is."""
    page = browser.new_page()
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        told = client.send("Performance.getMetrics")["metrics"]
        return 1000 * float(next(each["value"] for each in told if each["name"] == "TaskDuration"))

    before = spent()
    page.goto(address, timeout=120_000)
    try:
        page.wait_for_selector(there, timeout=60_000 if address.startswith("http") or "promptfoo" in address else 8_000)
    except Exception:  # noqa: BLE001 - playwright's own, loaded only where it is there
        return 0.0, int(page.locator("*").count())
    now_ms = spent()
    for _ in range(60):  # until next to nothing happens for half a second
        page.wait_for_timeout(500)
        now_ms, last_ms = spent(), now_ms
        if now_ms - last_ms < QUIET_MS:
            break
    found = now_ms - before, int(page.locator("*").count())
    page.close()
    return found


def peer_rows(browser: Any, promptfoo: Path | None, bundle: Path | None) -> list[str]:
    lines = []
    if promptfoo is not None:
        cpu_ms, nodes = opening(browser, promptfoo.as_uri(), "td")
        size = promptfoo.stat().st_size / 1e6
        lines.append(f"| promptfoo's HTML output | {size:.1f} MB | {cpu_ms:,.0f} ms | {nodes:,} | yes |")
    if bundle is not None:
        files = [path for path in bundle.parent.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1e6
        with served(bundle.parent) as address:
            cpu_ms, nodes = opening(browser, address, "[role=row]")
        blank = opening(browser, bundle.as_uri(), "[role=row]")[0] == 0.0
        lines.append(
            f"| inspect view's bundle, one model of the three | {size:.1f} MB in {len(files)} files | {cpu_ms:,.0f} ms "
            f"| {nodes:,} | {'blank' if blank else 'yes'} |"
        )
    return lines


PEERS_HEAD = """
The same 3,957 GSM8K answers on other pages, made by the peers' own commands and measured in the same minutes:

| page | bytes | CPU until usable | elements | from disk |
|---|---|---|---|---|
"""


LIVE_HEAD = """
While a run works, by `benchmarks/page_live.py`: CPU of whole processes, the median of alternating rounds and their
spread; times by the clock. A busy machine inflates CPU times, too, and makes the spread of two equal runs wide. On one
that has no core to spare, thumbnails cost a run of pictures their share: with 20 a second it was 1.47 times as long.

| measured | | ceiling |
|---|---|---|
"""


def section(lines: list[str], peers: list[str], live: list[str]) -> str:
    text = """
Written by `make bench-page`: `report.html` from disk, in headless Chromium. CPU is that of the page's main thread
(`Performance.getMetrics`, `timeDomain: threadTicks`), of a single task by Chromium's trace: the longest of all tasks in
three rounds. Times by the clock are of a machine that does other things meanwhile, which an empty page shows beside.

| run | measured | | ceiling |
|---|---|---|---|
"""
    found = [HEADING + text + "\n".join(lines)]
    found += ["\n".join([head + one[0], *one[1:]]) for head, one in ((LIVE_HEAD, live), (PEERS_HEAD, peers)) if one]
    return "\n".join(found) + "\n"


def main() -> int:
    shape = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape.add_argument(
        "--data", type=Path, default=os.environ.get("BATCHRUNNER_BENCH_DATA"), help="folder of the data sets"
    )
    shape.add_argument("--work", type=Path, help="keep the runs here")
    shape.add_argument("--only", help="one of gsm8k, parti, many")
    peers_at = os.environ.get("BATCHRUNNER_BENCH_PEERS")
    shape.add_argument(
        "--peers", type=Path, default=peers_at, help="folder with promptfoo and inspect, see page_peers.py"
    )
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
        made = {subject.name: out for subject, out in runs}
        promptfoo = bundle = None
        if given.peers is not None and "gsm8k" in made:
            answers, installed = answers_of(made["gsm8k"]), Path(given.peers).resolve()
            promptfoo = promptfoo_page(answers, installed, work.resolve() / "peers")
            bundle = inspect_bundle(answers, "sim/large", installed, work.resolve() / "peers")
        lines = []
        with started() as browser:
            for subject, out in runs:
                began = time.monotonic()
                lines += rows_of(subject, out, browser)
                print("\n".join(lines[-14:]), f"\n({time.monotonic() - began:.0f} s)", flush=True)
            peers = peer_rows(browser, promptfoo, bundle)
            print("\n".join(peers))
    live = [] if given.only else live_rows()
    if given.docs:
        before, _, after = DOCS.read_text("utf-8").partition(HEADING)
        DOCS.write_text(
            before + section(lines, peers, live) + "".join(re.findall(r"\n## .*", after, re.DOTALL)[:1]), "utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
