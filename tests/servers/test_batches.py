"""Batches of a server that no one here wrote: the mock of the npm package @copilotkit/aimock keeps files and batches.

It runs nothing, and answers every request of a batch. What it was ordered stands in its own list and its own files.
"""

import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.batch_gate import gate, kill_ordering_runs, write_job
from tests.e2e.judging import is_intact
from tests.e2e.runs import CANARY, each_item_ended_once, no_byte_holds, run_job
from tests.servers.llama import free_port
from tests.servers.mocks import llmock, needs_llmock
from tests.support.torture import Tried

pytestmark = [pytest.mark.servers, needs_llmock]
KILLS, ITEMS, IN_A_BATCH, NEEDED = 20, 1_000, 300, 4
KEPT = frozenset({1, 2, 4})
"""Orders that are taken, and whose client is killed before it has the reply."""


def seen(root: str, path: str) -> bytes:
    with urllib.request.urlopen(f"{root}/v1/{path}") as reply:
        return bytes(reply.read())


def ordered(root: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The server's batches, and how often each request stands in them."""
    batches = json.loads(seen(root, "batches?limit=100"))["data"]
    files = (seen(root, f"files/{batch['input_file_id']}/content") for batch in batches)
    return batches, Counter(json.loads(line)["custom_id"] for file in files for line in file.splitlines())


@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "openai-embeddings"])
def test_a_batch_of_each_endpoint_is_read(tmp_path: Path, dialect: str) -> None:
    job, out = tmp_path / "night.yaml", tmp_path / "out"
    kind = "embedding" if dialect == "openai-embeddings" else "chat"
    with llmock([], port=free_port(), folder=tmp_path) as root:
        job.write_text(
            f"provider: {{base_url: {root}/v1, dialect: {dialect}, api_key_env: []}}\nkind: {kind}\nmodel: one\n"
            f"output: {{dir: {out}}}\nprompts: {json.dumps([f'text {number}' for number in range(20)])}\n"
            "batch: {use: always, look_every: 1s}\n"
        )
        ended = run_job(job)
        batches, requests = ordered(root)
    assert ended.status == 0, ended.stderr
    assert (len(batches), requests.total()) == (1, 20)
    for row in each_item_ended_once(out, items=20):
        assert row["output"]["embedding"] == [0, 0, 0] if kind == "embedding" else row["output"]["text"]


def test_1000_items_survive_20_kills_and_each_batch_is_ordered_once(tmp_path: Path, tried: Tried) -> None:
    with llmock([], port=free_port(), folder=tmp_path) as root, gate(root, kept=KEPT) as between:
        job, out = write_job(tmp_path, between.base_url, items=ITEMS, in_a_batch=IN_A_BATCH)
        kills, ended = kill_ordering_runs(job, out, between, kills=KILLS, items=ITEMS, seed=11)
        batches, requests = ordered(root)
    assert ended.status == 0, ended.stderr
    rows = each_item_ended_once(out, items=ITEMS)
    tried("kills: batches of aimock", kills.hit, lost=ITEMS - len(rows))
    tried("kills: batches of aimock: between order and record", between.between)
    tried("kills: batches of aimock: paid twice", sum(count - 1 for count in requests.values()))
    assert (len(rows), len(requests), requests.total()) == (ITEMS, ITEMS, ITEMS)
    assert (len(batches), len(between.orders), between.ordinary) == (NEEDED, NEEDED, 0)
    assert kills.hit >= KILLS
    assert between.between == len(KEPT)
    is_intact(out)
    no_byte_holds(out, CANARY)
