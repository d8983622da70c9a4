"""How fast the program is, beside a bare aiohttp loop and its peers, on this machine: `make bench`.

Sets itself up below `.bench/` (nginx from Debian's package, an environment for each peer), runs every row in
alternating rounds, the client on one core and the servers on another, and prints medians of ratios with their spread.
What cannot be measured here is left out with the reason.

    python benchmarks/bench.py                     every row, in full (an hour or more)
    python benchmarks/bench.py --quick             the same in small (some minutes; peers apart)
    python benchmarks/bench.py chat-key full       only these rows
    python benchmarks/bench.py --list              what rows there are

Results are kept in `.bench/results.json` (or `--json FILE`); `--docs` writes docs/benchmarks.md from what is there.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from bench_report import Figure, document, notes, table
from bench_rows import ROWS, Bench
from bench_runs import CannotMeasureError, compiled, cores
from bench_servers import servers

HOME = Path(__file__).resolve().parents[1] / ".bench"


def asked() -> argparse.Namespace:
    shape = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape.add_argument("rows", nargs="*", metavar="ROW", help="rows by name; default: all")
    shape.add_argument("--quick", action="store_true", help="small sizes")
    shape.add_argument("--rounds", type=int, default=0, help="alternating rounds of each row; default: 5, or 3")
    shape.add_argument("--json", type=Path, default=HOME / "results.json", help="where the figures are kept")
    shape.add_argument("--docs", action="store_true", help="write docs/benchmarks.md from the figures that are kept")
    shape.add_argument("--list", action="store_true", help="the rows, and leave")
    given = shape.parse_args()
    if unknown := set(given.rows) - ROWS.keys():
        shape.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return given


def main() -> int:
    given = asked()
    if given.list:
        for row in ROWS.values():
            print(f"{row.name:18} {row.title}")
        return 0
    HOME.mkdir(exist_ok=True)
    compiled()
    kept: dict[str, Figure] = {}
    if given.json.exists():
        kept = {name: Figure(**fields) for name, fields in json.loads(given.json.read_text()).items()}
    client, server = cores()
    wanted = [ROWS[name] for name in given.rows] or [row for row in ROWS.values() if not (given.quick and row.slow)]
    with servers(HOME, core=server) as addresses:
        bench = Bench(
            home=HOME,
            nginx=addresses["nginx"],
            stub=addresses["stub"],
            files=Path(addresses["files"]),
            core=client,
            quick=given.quick,
            rounds=given.rounds or (3 if given.quick else 5),
        )
        for row in wanted:
            print(f"== {row.name}: {row.title}", flush=True)
            began = time.perf_counter()
            try:
                figures = row.measure(bench)
            except CannotMeasureError as error:
                figures = [Figure(name=row.name, title=row.title, left_out=str(error))]
            for figure in figures:
                figure.quick, figure.at = given.quick, time.strftime("%Y-%m-%d")
                figure.load = os.getloadavg()[1]
                kept[figure.name] = figure
                print(f"   {figure.line()}", flush=True)
            print(f"   ({time.perf_counter() - began:.0f} s)", flush=True)
            given.json.write_text(json.dumps({name: vars(figure) for name, figure in kept.items()}, indent=1))
    ordered = [kept[name] for name in sorted(kept, key=_place)]
    print("\n" + table(ordered))
    if given.docs:
        page = HOME.parent / "docs" / "benchmarks.md"
        _, heading, rest = page.read_text("utf-8").partition("\n## The page\n")  # `make bench-page` wrote it
        page.write_text(document(ordered, notes()) + heading + rest)
        print(f"written: {page}")
    return 0


def _place(name: str) -> tuple[int, str]:
    order = list(ROWS)
    row = name.split(":", 1)[0]
    return (order.index(row) if row in order else len(order), name)


if __name__ == "__main__":
    sys.exit(main())
