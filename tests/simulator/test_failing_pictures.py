"""Scenarios in which pictures fail mean the same to a model whose pictures stand in the reply, as they do to tasks."""

import json

import pytest

from batchrunner.simulator.script import Call
from batchrunner.simulator.world import World


def ordered(model: str, world: World | None = None) -> tuple[int, str]:
    body = json.dumps({"model": model, "prompt": "a cat"}).encode()
    call = Call(method="POST", path="/v1/images/generations", headers={"authorization": "Bearer k"}, body=body)
    script = (world or World()).answer(call, 1e9)
    return script.status, script.body.decode()


@pytest.mark.parametrize(
    ("scenario", "status", "words"),
    [
        ("img-fail-nsfw", 400, "moderation_blocked"),
        ("img-fail", 500, "out of memory"),
        ("img-fail-cuda", 500, "CUDA error"),
        ("img-fail-provider", 500, "dall-e-3 has no provider"),
    ],
)
def test_a_failure_is_refused_at_once_and_no_address_leads_nowhere(scenario: str, status: int, words: str) -> None:
    answered, body = ordered(f"dall-e-3#{scenario}")
    assert answered == status
    assert words in body
    assert "url" not in body


def test_a_failure_of_the_first_orders_ends_with_them() -> None:
    world = World()
    assert [ordered("dall-e-3#img-fail-nsfw:2", world)[0] for _ in range(3)] == [400, 400, 200]
