"""Batches of responses and of embeddings: what they answer is what the ordinary way answers, and is paid for once."""

import json
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus
from tests.support.engine import RunHarness, World, harness

__all__ = ["harness"]
KINDS = {
    "openai-responses": "provider: {preset: simulator, dialect: openai-responses}\n",
    "openai-embeddings": "provider: simulator\nkind: embedding\nparams: {dimensions: 4}\n",
}
ITEMS = 40


def job(dialect: str, use: str) -> str:
    batch = {"use": use, "max_items": 20}
    prompts = json.dumps([f"text {number}" for number in range(ITEMS)])
    return f"name: job\nmodel: sim/one\n{KINDS[dialect]}prompts: {prompts}\nbatch: {json.dumps(batch)}\n"


@pytest.mark.parametrize("dialect", KINDS)
def test_a_batch_answers_what_the_ordinary_way_answers(tmp_path: Path, dialect: str) -> None:
    ordinary, batched = RunHarness(tmp_path / "a"), RunHarness(tmp_path / "b")
    for each, use in ((ordinary, "never"), (batched, "auto")):
        each.folder.mkdir()
        assert each.run(job(dialect, use)).exit_status is ExitStatus.DONE
    said = [
        {row["key"]: (row["output"].get("text"), row["output"].get("embedding")) for row in each.rows()}
        for each in (ordinary, batched)
    ]
    assert said[0] == said[1]
    assert len(said[1]) == ITEMS
    assert (batched.stats.batches, batched.stats.paid, batched.stats.paid_twice) == (2, ITEMS, 0)
    assert not {"response", "embedding"} & batched.stats.requests.keys()


@pytest.mark.parametrize("dialect", KINDS)
def test_what_a_batch_gives_back_is_sent_again_and_failures_are_reported(harness: RunHarness, dialect: str) -> None:
    harness.world = World(scenario="batch-expires:60")
    assert harness.run(job(dialect, "always")).exit_status is ExitStatus.DONE
    assert len(harness.rows()) == ITEMS
    assert (harness.stats.paid, harness.stats.paid_twice) == (ITEMS, 0)
