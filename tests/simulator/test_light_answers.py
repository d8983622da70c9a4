"""Answers that nobody reads take as long, and are counted as much, as those that are composed."""

import json

import pytest

from batchrunner.core.job import Json
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.script import Call, Delay, Script
from batchrunner.simulator.world import World

LATENCY = Latency(first_byte_s=1.0, chunk_s=0.8, spread=0.4)
PROMPTS = ("x", "What is 6 times 7?", "numbers 1 22 333 4444 5 and more " * 9, "语" * 40, 'a "quoted" \\ one')


def answer(body: dict[str, Json], *, unread: bool) -> tuple[list[float], Json]:
    world = World(3, latency=LATENCY, answer_tokens=400, log_size=0 if unread else 1, unread=unread)
    call = Call(method="POST", path="/v1/chat/completions", body=json.dumps(body).encode())
    script: Script = world.answer(call, 1_700_000_000.0)
    said = json.loads(script.body)
    waits = [step.seconds for step in (*script.early, *script.steps) if isinstance(step, Delay)]
    return waits, [script.status, said["usage"], said["choices"][0]["finish_reason"]]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "more", [{}, {"max_tokens": 4}, {"max_tokens": 4000}, {"temperature": 0.1}, {"enable_thinking": True}]
)
def test_times_and_counts_do_not_depend_on_whether_the_words_are_composed(prompt: str, more: dict[str, Json]) -> None:
    turns: list[Json] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    body: dict[str, Json] = {"model": 'odd "model"', "messages": turns, **more}
    assert answer(body, unread=True) == answer(body, unread=False)
