"""CPU and memory of jobs that read the run of another: `python -m benchmarks.upstream [ROWS]`.

A finished run, its rows and its ledger as a run leaves them; the answers differ in their first word. `plan` of each
job is a process of its own: it reads every row and makes every item. Memory is its peak above a Python that does
nothing.
"""

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.scale import command, make_source, measured

TEMPLATE = "Rate this answer to {{ prompt }}: {{ text }}"
SOURCES: dict[str, dict[str, object]] = {
    "rows": {"template": TEMPLATE},
    "where": {"template": TEMPLATE, "where": "{{ index % 2 and not truncated }}"},
    "sample": {"template": TEMPLATE, "sample": {"n": 1000, "seed": 7}},
    "explode": {
        "template": "{{ item }} of {{ id }}",
        "explode": "{{ text.split()[:2] }}",
        "dedupe": "{{ item }}{{ id }}",
    },
    "group": {"template": "{{ rows | length }}", "group": {"by": "model", "size": 50}},
    "draw": {"template": "{{ tone }}: {{ text }}", "draw": {"tone": ["dry", "warm"]}},
}


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_source(folder, rows)
        measured([str(Path(__file__).with_name("scale_runs.py")), "make"], folder)
        size = (folder / "out/results.jsonl").stat().st_size
        bare = measured(["-c", "pass"], folder)["peak_mb"]
        print(f"{rows:,} rows, {size / 1e6:,.0f} MB; Python alone: {bare:.0f} MB")
        print(f"{'source':10} {'CPU s':>7} {'µs a row':>9} {'MB above Python':>16}")
        for name, keys in SOURCES.items():
            job = {"name": name, "provider": {"base_url": "http://127.0.0.1:9/v1"}, "model": "m"}
            (folder / f"{name}.yaml").write_text(json.dumps({**job, "prompts": {"run": "out", **keys}}))
            taken = measured(command("plan", f"{name}.yaml"), folder)
            cpu = taken["cpu_s"]
            print(f"{name:10} {cpu:7.1f} {cpu / rows * 1e6:9.0f} {taken['peak_mb'] - bare:16.0f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
