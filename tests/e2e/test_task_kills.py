"""kill -9 of the real program in front of task servers that tables describe; the server counts by itself.

Three kinds: an address of its own for each task, a result that needs a second request, an id that the client chooses.
"""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.lives import run
from tests.e2e.runs import CANARY, KEY_NAME, no_byte_holds
from tests.providers.task_servers import MODEL, PROMPT, SEED, SERVERS
from tests.support.json_lines import json_lines
from tests.support.task_server import Played, played
from tests.support.torture import at_size

pytestmark = pytest.mark.real
KILLS = at_size(3, 20)
ITEMS = at_size(24, 400)


def job_in(folder: Path, name: str, base_url: str) -> Path:
    graph = SERVERS[name].graph
    provider = {"dialect": "task", "task": name, "base_url": base_url}
    provider |= {"api_key_env": KEY_NAME} if graph is None else {"body_file": "graph.json"}
    (folder / "graph.json").write_text(json.dumps(graph).replace(PROMPT, "{{ prompt }}"))
    job = {
        "provider": provider,
        "kind": "image",
        "model": MODEL,
        "prompts": [f"a cat number {number}" for number in range(ITEMS)],
        "params": {"seed": SEED} if graph is None else {},
        "limits": {"concurrency": 8, "in_flight_tasks": 30, "poll_per_second": 100},
        "output": {"dir": "out", "report": False},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def kill_at(state: Played, job: Path, *, orders: int, random_source: random.Random) -> bool:
    """Kill a run once the server has so many orders, some milliseconds later; False when it ended before."""
    with run(job) as life:
        if not life.watch(until=lambda: len(state.orders) >= orders):
            return False
        time.sleep(random_source.random() * 0.2)  # a moment that nothing else decides
        return life.kill()


@pytest.mark.parametrize("name", ["bfl", "horde", "comfyui"])
def test_kills_lose_nothing_and_order_no_known_task_twice(name: str, tmp_path: Path) -> None:
    random_source = random.Random(7)
    with played(SERVERS[name], key=CANARY, order_s=0.05) as state:
        job = job_in(tmp_path, name, state.base_url)
        hit = 0
        for number in range(KILLS):
            after = ITEMS * (number + random_source.random()) / (KILLS + 1)
            hit += kill_at(state, job, orders=max(int(after), len(state.orders) + 1), random_source=random_source)
        with run(job) as last:
            ended = last.end()
        orders = Counter(state.orders)
        with run(job) as again:
            unchanged = again.end()
    out = tmp_path / "out"
    rows = json_lines(out / "results.jsonl")
    assert (ended.status, unchanged.status, state.wrong) == (0, 0, []), ended.stderr
    assert hit >= KILLS // 2
    assert sorted(row["prompt"] for row in rows) == sorted(f"a cat number {number}" for number in range(ITEMS))
    assert sum(orders.values()) == len(state.orders), "nothing was ordered by a run with nothing left"
    told = {row["prompt"]: row["ambiguous"] for row in rows}
    twice = {prompt: count - 1 for prompt, count in orders.items() if count > 1}
    if name == "comfyui":
        assert twice == {}
        assert set(told.values()) == {0}
    assert all(told[prompt] >= more for prompt, more in twice.items()), "ordered again without a word"
    lines = [line for path in (out / "ledger").glob("*.jsonl") for line in json_lines(path)]
    accepted = Counter(line["k"] for line in lines if line["e"] == "accepted")
    assert max(accepted.values()) == 1, "a task that was accepted was ordered again"
    assert {row["task_id"] for row in rows} <= state.tasks.keys()
    no_byte_holds(tmp_path, CANARY)
