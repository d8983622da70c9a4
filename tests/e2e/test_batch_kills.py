"""kill -9 of the real program while it orders and reads batches: nothing lost, nothing paid twice."""

import json
from pathlib import Path

import pytest

from tests.e2e.judging import is_intact
from tests.e2e.lives import kill_again_and_again, run
from tests.e2e.runs import simulator
from tests.support.json_lines import json_lines
from tests.support.torture import Tried, at_size

pytestmark = pytest.mark.real
KILLS = at_size(4, 20)
ITEMS, IN_A_BATCH = 1_000, 300
NEEDED = 4


def test_batches_survive_kills_and_each_is_ordered_once(tmp_path: Path, tried: Tried) -> None:
    out = tmp_path / "outputs" / "night"
    job = tmp_path / "night.yaml"
    (tmp_path / "questions.jsonl").write_text(
        "".join(json.dumps({"question": f"question number {number}"}) + "\n" for number in range(ITEMS))
    )
    with simulator(tmp_path, "--latency", "task=1.0") as server:
        job.write_text(
            f"name: night\nprovider: {{base_url: {server.base_url}, dialect: openai-chat}}\nmodel: sim/chat\n"
            f"output: {{dir: {out}}}\nprompts: {{file: questions.jsonl, template: '{{{{ question }}}}'}}\n"
            f"batch: {{use: always, max_items: {IN_A_BATCH}, look_every: 1s, max_wait: 10m}}\n"
        )
        kills = kill_again_and_again(job, out, kills=KILLS, lines=2 * ITEMS, seed=5, after_each=lambda: is_intact(out))
        with run(job) as last:
            ended = last.end()
        stats = server.stats()
    rows = json_lines(out / "results.jsonl")
    tried("kills: batches", kills.hit, lost=ITEMS - len(rows))
    tried("kills: batches: paid twice", stats["paid_twice"])
    assert ended.status == 0, ended.stderr
    assert kills.hit == KILLS
    assert (stats["batches"], stats["paid"], stats["paid_twice"], stats["sends"]) == (NEEDED, ITEMS, 0, 0)
    assert len({row["id"] for row in rows}) == len(rows) == ITEMS
    is_intact(out)
