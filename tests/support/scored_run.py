"""A run's directory with rows and scores that the test gives, as far as `compare` and exports read it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchrunner.stores.run_file import RunFile, write_run_file


def row(index: int, *, text: str | None = "the answer", model: str = "m", **fields: Any) -> dict[str, Any]:
    """A row of an answer; of a failed item without a text."""
    ended = {"output": {"text": text, "truncated": False}} if text is not None else {"error": {"class": "timeout"}}
    made = {"id": f"q{index}", "prompt_id": f"q{index}", "index": index, "model": model, "prompt": f"question {index}"}
    return {**made, "vars": {}, "params": {}, **ended, "seconds": 1.5, "key": f"{index:032x}", **fields}


def scores_of(row: Mapping[str, Any], verdict: str | None, **score: Any) -> dict[str, Any]:
    """The line of a row with one check, `number`; `verdict` None for one whose check does not apply."""
    passed = {"pass": True, "fail": False}.get(verdict or "")
    named = {name: row[name] for name in ("id", "prompt_id", "index", "model", "key")}
    return {**named, "pass": passed, "scores": {"number": {"verdict": verdict or "none", **score}}, "checks": "0" * 12}


def write_run(
    folder: Path, rows: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]] | None, **job: Any
) -> Path:
    """The directory, made anew; without scores for None."""
    folder.mkdir(parents=True)
    run = RunFile(
        job_name=folder.name, simulated=False, digest="", program="0", created="2026-01-01T00:00:00Z", job=job
    )
    write_run_file(folder, run)
    for name, lines in (
        ("results.jsonl", [one for one in rows if "output" in one]),
        ("failures.jsonl", [one for one in rows if "error" in one]),
        ("scores.jsonl", scores),
    ):
        if lines is not None:
            (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
