"""kill -9 of the real program while it orders and reads batches: nothing lost, nothing paid twice."""

from pathlib import Path

import pytest

from tests.e2e.batch_gate import gate, kill_ordering_runs, write_job
from tests.e2e.judging import is_intact
from tests.e2e.runs import simulator
from tests.support.json_lines import json_lines
from tests.support.torture import Tried, at_size

pytestmark = pytest.mark.real
KILLS = at_size(2, 20)
KEPT = frozenset({2, 4})
"""Orders that are taken, and whose client is killed before it has the reply."""
ITEMS, IN_A_BATCH = 1_000, 300
NEEDED = 4


def test_batches_survive_kills_and_each_is_ordered_once(tmp_path: Path, tried: Tried) -> None:
    with simulator(tmp_path, "--latency", "task=1.0") as server, gate(server.base_url, kept=KEPT) as between:
        job, out = write_job(tmp_path, between.base_url, items=ITEMS, in_a_batch=IN_A_BATCH)
        kills, ended = kill_ordering_runs(job, out, between, kills=KILLS, items=ITEMS, seed=5)
        stats = server.stats()
    rows = json_lines(out / "results.jsonl")
    tried("kills: batches", kills.hit, lost=ITEMS - len(rows))
    tried("kills: batches: between order and record", between.between)
    tried("kills: batches: paid twice", stats["paid_twice"])
    assert ended.status == 0, ended.stderr
    assert kills.hit >= KILLS
    assert between.between == len(KEPT)
    assert (stats["batches"], stats["paid"], stats["paid_twice"], stats["sends"]) == (NEEDED, ITEMS, 0, 0)
    assert len({row["id"] for row in rows}) == len(rows) == ITEMS
    is_intact(out)
