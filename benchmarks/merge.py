"""How long `merge` takes, and how large its process grows: shards as runs leave them, with rows in no order.

Makes the shards' directories without the engine, then times `batchrunner merge` as a process of its own.
Run: python benchmarks/merge.py [--rows N] [--shards N] [--folder DIR]
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from batchrunner.core.events import Close, Done, Intent, Open
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.run_file import RunFile, write_run_file

ANSWER = "An answer of the usual length has some words, and then some more of them. " * 5


def row_of(index: int, key: str) -> bytes:
    row = {
        "id": f"row-{index}",
        "prompt_id": f"row-{index}",
        "index": index,
        "key": key,
        "model": "sim/model",
        "prompt": f"What follows from {index}?",
        "vars": {"n": index},
        "params": {},
        "output": {"text": ANSWER, "finish_reason": "stop"},
        "usage": {"input_tokens": 8, "output_tokens": 80},
        "attempts": 1,
    }
    return json.dumps(row).encode()


def make_shard(base: Path, number: int, of: int, items: list[tuple[int, str]]) -> None:
    """A run directory in which every item is done."""
    folder = base / "shards" / f"{number}-of-{of}" / "epoch-1"
    (folder / "ledger").mkdir(parents=True)
    write_run_file(
        folder,
        RunFile(job_name="bench", simulated=True, digest="", program="0", created="2026-01-01T00:00:00Z", job={}),
    )
    opened = Open(version=1, run="1-1", segment=1, job="", program="0", name="bench", simulated=True)
    length, sequence = 0, 1
    with (folder / "results.jsonl").open("wb") as rows, (folder / "ledger" / "000001.jsonl").open("wb") as ledger:
        ledger.write(encode_line(opened, sequence=0, at=1.0, durable=0))
        for index, key in items:
            name, text = f"row-{index}", row_of(index, key)
            rows.write(text + b"\n")
            length += len(text) + 1
            intent = Intent(i=name, k=key, n=1, a=0, model="sim/model", account="")
            done = Done(i=name, k=key, n=1, a=1, crc=f"{zlib.crc32(text):08x}", length=length, output_tokens=80)
            for event in (intent, done):
                ledger.write(encode_line(event, sequence=sequence, at=1.0, durable=None))
                sequence += 1
        ledger.write(encode_line(Close(records=sequence + 1), sequence=sequence, at=1.0, durable=None))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--shards", type=int, default=16)
    arguments.add_argument("--folder", default=None, help="where the directories are made; default: a temporary one")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        base, chance = Path(folder) / "bench", random.Random(1)
        shards: list[list[tuple[int, str]]] = [[] for _ in range(given.shards)]
        for index in range(1, given.rows + 1):
            key = chance.getrandbits(128)
            shards[key % given.shards].append((index, f"{key:032x}"))
        for number, items in enumerate(shards):
            chance.shuffle(items)
            make_shard(base, number, given.shards, items)
        layout = {"version": 1, "job": "bench", "simulated": True, "shards": given.shards}
        (base / "shards" / "layout.json").write_text(json.dumps(layout))
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "batchrunner", "merge", str(base)], check=True)
        seconds = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s, megabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        print(
            f"{given.rows:,} rows of {given.shards} shards: {seconds:.1f} s, {cpu_s:.1f} s of CPU, {megabytes:.0f} MB"
        )
        with (base / "results.jsonl").open("rb") as rows:
            assert all(json.loads(line)["index"] == index for index, line in enumerate(rows, 1)), "in order"


if __name__ == "__main__":
    main()
