"""Tokens from a cache: counted apart in status, budgets, the ledger and the page, and priced with their own price."""

import json
from pathlib import Path

import pytest

from batchrunner import api
from tests.support.engine import RunHarness, World, chat

PRICES = "budget: {money: 100, prices: {sim/chat: {input: 1000000, cache_read: 100000}}}"


@pytest.fixture
def cached(harness: RunHarness) -> RunHarness:
    """Each answer says that four of its input tokens came from a cache."""
    harness.world = World(scenario="sse-usage-cached")
    return harness


def test_a_budget_counts_them_at_their_price(cached: RunHarness) -> None:
    status = cached.run(chat("one", "two", more=PRICES)).status
    assert status.usage.cache_read_tokens == 8
    assert status.budget[0].spent == pytest.approx((status.usage.input_tokens or 0) - 8 + 0.8)


def test_without_a_price_they_cost_what_all_input_costs(cached: RunHarness) -> None:
    status = cached.run(chat("one", more=PRICES.replace(", cache_read: 100000", ""))).status
    assert status.budget[0].spent == pytest.approx(status.usage.input_tokens or 0)


@pytest.mark.parametrize("without_checkpoint", [False, True])
def test_a_later_look_counts_the_same(cached: RunHarness, *, without_checkpoint: bool) -> None:
    before = cached.run(chat("one", "two", more=PRICES)).status
    assert [event["cache_read"] for event in cached.events("done")] == [4, 4]
    if without_checkpoint:
        for path in (cached.out / "ledger").glob("*.checkpoint"):
            path.unlink()
    after = api.status(str(cached.out))
    assert (after.usage, after.budget) == (before.usage, before.budget)
    again = cached.run(chat("one", "two", "three", more=PRICES)).status
    assert again.usage.cache_read_tokens == 12


def test_rows_that_are_adopted_bring_theirs(cached: RunHarness) -> None:
    cached.run(chat("one", "two", more=PRICES))
    for path in (cached.out / "ledger").iterdir():
        path.unlink()
    status = cached.run(chat("one", "two", more=PRICES), adopt_rows=True).status
    assert status.usage.cache_read_tokens == 8


def test_a_server_that_reports_no_cache_adds_no_count_of_one(harness: RunHarness) -> None:
    status = harness.run(chat("one")).status
    assert (status.usage.cache_read_tokens, status.usage.cache_write_tokens) == (None, None)
    assert "cache_read" not in harness.events("done")[0]


def notes(tmp_path: Path, **price: float) -> tuple[str, ...]:
    job = {"provider": "anthropic", "model": "m", "prompts": ["a"], "system": "b", "cache": "system"}
    (tmp_path / "job.yaml").write_text(json.dumps(job | {"budget": {"prices": {"m": price}}}))
    loaded = api.load_job(str(tmp_path / "job.yaml"))
    assert loaded.budget is not None
    return loaded.budget.price_notes


def test_a_job_that_asks_for_a_cache_learns_which_of_its_prices_are_missing(tmp_path: Path) -> None:
    assert notes(tmp_path, input=1, cache_read=0.1, cache_write=1.25) == ()
    assert notes(tmp_path, call=1) == ()
    assert notes(tmp_path, input=1, cache_write=2) == (
        "prices: m has no price of `cache_read`: counted at the full price of input",
    )
    assert "no price of `cache_read` and `cache_write`" in notes(tmp_path, input=1)[0]
