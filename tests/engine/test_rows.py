"""What was asked stands in the row: the system prompt, the conversation, the schema, for answers and for failures."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchrunner import export, load_job, results, run_sync

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"const": "ü"}}}


def rows_of(folder: Path, tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a simulated run, answers first."""
    path = folder / "job.yaml"
    path.write_text(json.dumps({"provider": "simulator", "model": "sim-model", **tree}))
    run_sync(load_job(str(path), out=str(folder / "out")), say=lambda _text: None)
    yield from results(str(folder / "out"))
    failures = folder / "out" / "failures.jsonl"
    yield from map(json.loads, failures.read_text().splitlines() if failures.exists() else ())


@pytest.mark.parametrize(
    ("tree", "system"),
    [
        ({"system": "Be {{ mood }}.", "prompts": [{"prompt": "Hi", "vars": {"mood": "brief"}}]}, "Be brief."),
        ({"prompts": ["Hi"]}, None),
        ({"prompts": ["Hi"], "messages": [{"role": "user", "content": "{{ prompt }}?"}]}, None),
        (
            {
                "prompts": ["Hi"],
                "messages": [
                    {"role": "system", "content": "One."},
                    {"role": "system", "content": "Two."},
                    {"role": "user", "content": "{{ prompt }}?"},
                ],
            },
            "One.\n\nTwo.",
        ),
        ({"kind": "image", "prompts": ["A cat"], "params": {"size": "64x64"}}, None),
        ({"system": "{{ mood }}", "prompts": [{"prompt": "Hi", "vars": {"mood": "a\nb"}}]}, "a\nb"),
    ],
    ids=["template", "none", "messages without", "messages with two", "picture", "lines"],
)
def test_a_row_has_the_system_prompt_as_it_was_sent_or_null(
    tmp_path: Path, tree: dict[str, Any], system: str | None
) -> None:
    (row,) = rows_of(tmp_path, tree)
    assert "system" in row
    assert row["system"] == system
    assert row["prompt"] in {"Hi", "Hi?", "A cat"}
    assert [turn["role"] for turn in row.get("messages", [])] == [turn["role"] for turn in tree.get("messages", [])]


def test_a_failure_has_them_as_well(tmp_path: Path) -> None:
    tree = {
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "{{ prompt }}"}],
        "schema": SCHEMA,
        "prompts": ["Hi"],
        "scenario": "content-filter",
    }
    (row,) = rows_of(tmp_path, tree)
    assert "error" in row
    assert (row["system"], row["messages"][-1]) == ("Be brief.", {"role": "user", "content": "Hi"})
    assert len(row["schema_sha256"]) == 64


def test_the_schemas_hash_is_that_of_its_canonical_json(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"schema": SCHEMA, "prompts": ["Hi"]})
    canonical = json.dumps(SCHEMA, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert row["schema_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    (tmp_path / "b").mkdir()
    (other,) = rows_of(tmp_path / "b", {"prompts": ["Hi"]})
    assert "schema_sha256" not in other


@pytest.mark.parametrize("to", ["csv", "markdown", "jsonl"])
def test_exports_have_the_system_prompt(tmp_path: Path, to: str) -> None:
    list(rows_of(tmp_path, {"system": "Be brief, always.", "prompts": ["Hi"]}))
    export(str(tmp_path / "out"), to=to, out=str(tmp_path / "made"))
    assert "Be brief, always." in (tmp_path / "made").read_text()
