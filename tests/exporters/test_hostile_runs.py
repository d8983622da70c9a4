"""Every format of a run whose ids, texts and files mean harm: nothing is written outside, nothing is lost silently."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

import batchrunner
from batchrunner.core.exports import ExportOptions
from batchrunner.exporters import EXPORTERS
from tests.support.engine import RunHarness, chat, image
from tests.support.json_lines import json_lines

NAMES = (
    "../../../escaped",
    "/etc/passwd",
    "a/b/c",
    "line\nbreak",
    "🐈‍⬛",
    "x" * 200,
    "Same",
    "same",
    "same",
    ".",
    "nul\x00",
    "con",
    "=cmd",
)
"""Two of them are equal."""


def renamed(harness: RunHarness, **output: Any) -> list[dict[str, Any]]:
    """The rows of a run, with these names for ids, prompts and texts."""
    path = harness.out / "results.jsonl"
    rows = sorted((json.loads(line) for line in path.read_bytes().splitlines()), key=lambda row: row["index"])
    for row, name in zip(rows, NAMES, strict=True):
        row |= {"id": name, "prompt_id": name, "prompt": f"{name} ?", "vars": {name: name}}
        row["output"] |= {key: value(name) if callable(value) else value for key, value in output.items()}
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return rows


def files_outside(harness: RunHarness) -> set[str]:
    return {str(path) for path in harness.folder.rglob("*") if harness.out / "export" not in (path, *path.parents)}


@pytest.mark.parametrize("to", EXPORTERS)
def test_names_that_mean_harm_lead_nowhere(harness: RunHarness, to: str) -> None:
    harness.run(image(*(f"Picture {number}" for number in range(len(NAMES)))))
    renamed(harness)
    before = files_outside(harness)
    exported = batchrunner.export(str(harness.out), to=to)
    assert files_outside(harness) == before
    assert exported.path is not None
    assert Path(exported.path).parent == harness.out / "export"
    assert exported.rows + sum(exported.left_out.values()) == len(NAMES)
    names = [path.name for path in (harness.out / "export").rglob("*")]
    assert all(name.isascii() and name.isprintable() for name in names)


@pytest.mark.parametrize("to", ["messages", "sharegpt", "alpaca", "jsonl", "openai-batch"])
def test_texts_of_every_kind_come_back_as_they_were(harness: RunHarness, to: str) -> None:
    harness.run(chat(*(f"Question {number}" for number in range(len(NAMES)))))
    rows = renamed(harness, text=lambda name: f"{name}\x00\x85\u2028\ud7ff" + name * 5000)
    exported = batchrunner.export(str(harness.out), to=to)
    assert exported.path is not None
    lines = [json.loads(line) for line in Path(exported.path).read_bytes().decode().split("\n")[:-1]]
    told: dict[str, Callable[[Any], Any]] = {
        "messages": lambda line: line["messages"][-1]["content"],
        "sharegpt": lambda line: line["conversations"][-1]["value"],
        "alpaca": lambda line: line["output"],
        "jsonl": lambda line: line["output"]["text"],
        "openai-batch": lambda line: line["response"]["body"]["choices"][0]["message"]["content"],
    }
    assert [told[to](line) for line in lines] == [row["output"]["text"] for row in rows]


@pytest.mark.parametrize("index", [2**46, 2**63, -1, 10**300])
def test_a_row_whose_index_no_job_has_is_left_out_and_the_others_are_exported(harness: RunHarness, index: int) -> None:
    harness.run(chat("One", "Two", "Three"))
    path = harness.out / "results.jsonl"
    rows = json_lines(path)
    rows[1]["index"] = index
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    exported = batchrunner.export(str(harness.out), to="jsonl")
    assert (exported.rows, exported.damaged) == (2, 1)


def test_values_of_mixed_types_share_a_column_as_text(harness: RunHarness) -> None:
    harness.run(chat(*(f"Question {number}" for number in range(len(NAMES)))))
    values = iter([1, 2.5, "three", True, None, [4], {"five": 5}, 2**70, "", -0.0, "1", [], {}])
    rows = renamed(harness, parsed=lambda _: next(values))
    exported = batchrunner.export(str(harness.out), to="xlsx")
    assert exported.path is not None
    header, *lines = openpyxl.load_workbook(exported.path).active.iter_rows(values_only=True)
    place = header.index("output.parsed")
    shown = [json.loads(line[place]) if line[place] is not None else None for line in lines]
    assert shown == [row["output"]["parsed"] for row in rows]


KILLED = """
import os, sys, time
from batchrunner.stores.export_folder import OutgoingFolder
write = OutgoingFolder.write
def slow(self, part):
    write(self, part)
    print("written", flush=True)
    time.sleep(60)
OutgoingFolder.write = slow
import batchrunner
batchrunner.export(sys.argv[1], to=sys.argv[2])
"""


@pytest.mark.parametrize("to", ["imagefolder", "hf"])
def test_an_export_that_is_killed_leaves_the_earlier_one_and_the_next_one_clears_up(
    harness: RunHarness, to: str
) -> None:
    harness.run(image("A boat", "A barn"))
    earlier = batchrunner.export(str(harness.out), to=to)
    assert earlier.path is not None
    place = Path(earlier.path)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(harness.out), to], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(list(place.parent.iterdir())) == 2
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert harness.run(image("A boat", "A barn")).exit_status == 0
    batchrunner.export(str(harness.out), to=to)
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_a_run_that_goes_on_meanwhile_is_exported_as_it_was_when_the_export_began(harness: RunHarness) -> None:
    harness.run(chat(*(f"Question {number}" for number in range(20))), limit=5)
    first = batchrunner.export(str(harness.out), to="messages", options=ExportOptions(split=(("all", 1.0),)))
    with (harness.out / "results.jsonl").open("ab") as file:
        file.write(b'{"id":"torn')
    again = batchrunner.export(str(harness.out), to="messages", options=ExportOptions(split=(("all", 1.0),)))
    assert (first.rows, again.rows, again.missing, again.damaged) == (5, 5, 15, 0)
