"""`service_tier: flex` where there is no room: nothing was paid, no attempt is charged, and it is tried again."""

import pytest

from batchrunner.simulator.refusals import REFUSALS, Refusal
from tests.support.engine import RunHarness, World, chat

FLEX = "params: {service_tier: flex}\nretry: {attempts: 2}\nlimits: {concurrency: 1}"


def test_no_capacity_for_flex_is_an_overload_that_passes(harness: RunHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Refusal(status=429, shape="C", message="Resource unavailable", code="resource_unavailable")
    monkeypatch.setitem(REFUSALS, "T1", refusal)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody-at-all")
    harness.world, harness.simulate = World(scenario="throttle:3"), False
    job = chat("one", model="gpt-5-mini", more=FLEX).replace("provider: simulator", "provider: openai")
    status = harness.run(job).status
    assert (status.items.done, status.sends.total, status.sends.refused) == (1, 4, 3)
    assert status.sends.possible_duplicates == 0
    assert [event["kind"] for event in harness.events("refused")] == ["overloaded"] * 3
    (row,) = harness.rows()
    assert (row["attempts"], row["params"]) == (1, {"service_tier": "flex"})
