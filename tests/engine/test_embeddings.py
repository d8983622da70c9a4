"""A run of embeddings: every text gets its vector, what was spoiled is asked for again, and nothing else is."""

import re
from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.errors import ExitStatus
from tests.support.engine import RunHarness, World


def job(*texts: str, more: str = "", model: str = "sim/vectors") -> str:
    """A job of these texts."""
    listed = "\n".join(f"  - {text}" for text in texts)
    head = f'name: job\nprovider: simulator\nkind: embedding\nmodel: "{model}"\nparams: {{dimensions: 4}}\n'
    return f"{head}prompts:\n{listed}\n{more}\n"


TEXTS = tuple(f"text number {number}" for number in range(1, 8))


def vectors(harness: RunHarness) -> dict[str, Any]:
    return {row["prompt"]: row["output"]["embedding"] for row in harness.rows()}


def test_each_text_has_its_own_vector_whatever_happens_on_the_way(tmp_path: Path) -> None:
    plain = RunHarness(tmp_path / "plain")
    plain.folder.mkdir()
    assert plain.run(job(*TEXTS)).exit_status is ExitStatus.DONE
    right = vectors(plain)
    assert len(right) == len({tuple(vector) for vector in right.values()}) == 7
    assert {row["output"]["dimensions"] for row in plain.rows()} == {4}
    for scenario in ("emb-base64", "emb-shuffled", "emb-no-index", "emb-missing:1", "emb-twice:1", "emb-extra",
                     "emb-nan:1", "emb-null:1", "5xx:1", "throttle:2"):  # fmt: skip
        harness = RunHarness(tmp_path / re.sub(r"\W", "-", scenario), world=World(scenario=scenario))
        harness.folder.mkdir()
        assert harness.run(job(*TEXTS)).exit_status is ExitStatus.DONE, scenario
        assert vectors(harness) == right, scenario


def test_a_text_that_is_too_long_fails_with_the_server_s_words_and_no_other_does(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="emb-too-long:40"))
    report = harness.run(job(*TEXTS, "x" * 41))
    assert report.exit_status is ExitStatus.FAILED
    assert (len(harness.rows()), harness.stats.paid, harness.stats.paid_twice) == (7, 7, 0)
    (failure,) = harness.rows("failures.jsonl")
    assert "is too long" in failure["error"]["message"]


def test_a_server_that_ignores_dimensions_is_asked_once_for_each_text(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="emb-short"))
    report = harness.run(job("one text"))
    assert report.exit_status is ExitStatus.FAILED
    assert harness.stats.paid == 1
    assert "`params.dimensions` asks for 4" in harness.rows("failures.jsonl")[0]["error"]["message"]


@pytest.mark.parametrize("named", ["report.html"])
def test_the_page_shows_the_beginning_of_a_vector_only(tmp_path: Path, named: str) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job("one text").replace("dimensions: 4", "dimensions: 300"))
    (row,) = harness.rows()
    content = (harness.out / named).read_text()
    assert "300 numbers: " in content
    assert repr(row["output"]["embedding"][20]) not in content
