"""CPU and memory of exports: `python -m benchmarks.exports [ROWS [FORMAT ...]]`.

A finished run of short answers, its rows and its ledger as a run leaves them. Each export is a process of its own;
memory is its peak above a Python that does nothing, and, beside it, above one that has imported the format's library.
pyarrow loads pandas and numpy where these are installed, another 52 MB, for nothing; here it finds none.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.scale import command, make_source, measured

FORMATS = sys.argv[2:] or (
    "jsonl",
    "csv",
    "parquet",
    "hf",
    "messages",
    "sharegpt",
    "alpaca",
    "openai-batch",
    "webdataset",
    "xlsx",
)
LIBRARY = {"parquet": "pyarrow.parquet", "hf": "pyarrow.parquet", "xlsx": "openpyxl"}
PYARROW_ALONE = """
import sys
class Hidden:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("pandas", "numpy"):
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
"""


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_source(folder, rows)
        measured([str(Path(__file__).with_name("scale_runs.py")), "make"], folder)
        size = (folder / "out/results.jsonl").stat().st_size
        bare = measured(["-c", "pass"], folder)["peak_mb"]
        print(f"{rows:,} rows, {size / 1e6:,.0f} MB; Python alone: {bare:.0f} MB")
        print(f"{'format':14} {'CPU s':>7} {'µs a row':>9} {'MB above Python':>16} {'above its library':>18}")
        for name in FORMATS:
            option, code, *words = command("export", "out", "--to", name, "--out", f"export-{name}")
            taken = measured([option, PYARROW_ALONE + code, *words], folder)
            library = (
                measured(["-c", f"{PYARROW_ALONE}import {LIBRARY[name]}"], folder)["peak_mb"]
                if name in LIBRARY
                else bare
            )
            above, beside = taken["peak_mb"] - bare, taken["peak_mb"] - library
            cpu = taken["cpu_s"]
            print(f"{name:14} {cpu:7.1f} {cpu / rows * 1e6:9.0f} {above:16.0f} {beside:18.0f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
