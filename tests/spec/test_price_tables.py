"""`budget.prices: litellm | FILE`: what is taken from a table of prices, what is said, and what is a mistake."""

import asyncio
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.budget import Price
from batchrunner.core.errors import JobMistakesError
from batchrunner.core.job import Job
from batchrunner.core.values import replace
from batchrunner.report.summary import schedule_notes
from batchrunner.spec.settings import with_settings

Tree = dict[str, Any]
TABLE: Tree = {
    "sample_spec": {"input_cost_per_token": 0.0, "mode": "one of: chat, embedding"},
    "small": {
        "litellm_provider": "openai",
        "input_cost_per_token": 2e-7,
        "output_cost_per_token": 8e-7,
        "input_cost_per_token_batches": 1e-7,
        "output_cost_per_token_batches": 2e-7,
        "input_cost_per_token_flex": 5e-8,
        "output_cost_per_token_flex": 4e-7,
        "cache_read_input_token_cost": 2e-8,
        "cache_creation_input_token_cost": 3e-7,
    },
    "large": {"litellm_provider": "openai", "input_cost_per_token": 3e-6, "output_cost_per_token": 1e-5},
    "azure/large": {"litellm_provider": "azure", "input_cost_per_token": 4e-6, "output_cost_per_token": 1e-5},
    "painter": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_image": 0.04},
    "empty": {"input_cost_per_token": None, "output_cost_per_token": None},
}
DAY_S = 1_790_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(TABLE))
    os.utime(path, (DAY_S, DAY_S))
    return tmp_path


def load(folder: Path, budget: Tree | str, *, models: tuple[str, ...] = ("small",), **more: Any) -> Job:
    tree = {"name": "job", "provider": "simulator", "models": list(models), "prompts": ["a"], **more}
    (folder / "job.yaml").write_text(json.dumps(tree | {"budget": budget}))
    return api.load_job(str(folder / "job.yaml"))


def prices_of(job: Job) -> dict[str, Price]:
    assert job.budget is not None
    return dict(job.budget.prices)


def notes_of(job: Job) -> tuple[str, ...]:
    return schedule_notes(job, wall=0.0)


def test_prices_of_a_token_become_prices_of_a_million_and_those_in_batches_shares(folder: Path) -> None:
    job = load(folder, {"prices": "prices.json"}, models=("small", "large"))
    small, large = prices_of(job)["small"], prices_of(job)["large"]
    assert (small.input_per_million, small.output_per_million) == pytest.approx((0.2, 0.8))
    batched = small.in_batches()
    assert (batched.input_per_million, batched.output_per_million) == pytest.approx((0.1, 0.2))
    assert large.in_batches() == replace(large, batch=1.0), "without a price of batches the full one counts"


def test_prices_of_caches_are_taken_and_missing_ones_are_none(folder: Path) -> None:
    small, large = prices_of(load(folder, {"prices": "prices.json"}, models=("small", "large"))).values()
    assert (small.cache_read_per_million, small.cache_write_per_million) == pytest.approx((0.02, 0.3))
    assert (large.cache_read_per_million, large.cache_write_per_million) == (None, None)


def test_the_table_is_named_with_its_date_and_its_currency(folder: Path) -> None:
    job = load(folder, {"prices": "prices.json"})
    assert job.budget is not None
    assert (job.budget.source, job.budget.currency) == ("prices.json (of 2026-09-21)", "USD")
    assert notes_of(job) == ()


def test_a_model_that_the_table_does_not_know_is_named(folder: Path) -> None:
    job = load(folder, {"prices": "prices.json"}, models=("small", "empty", "gone"))
    assert list(prices_of(job)) == ["small"]
    (note,) = notes_of(job)
    assert "prices.json (of 2026-09-21) does not know empty, gone" in note


@pytest.mark.parametrize(
    "key", ["input_cost_per_token", "cache_read_input_token_cost", "output_cost_per_token_batches"]
)
@pytest.mark.parametrize("value", ["2e-7", True, -1, [1], 1e300])
def test_a_price_of_another_type_is_a_mistake_and_no_price_is_none(folder: Path, key: str, value: object) -> None:
    (folder / "other.json").write_text(json.dumps({"small": {**TABLE["small"], key: value}}))
    with pytest.raises(JobMistakesError, match=f"`{key}` is .* of small: no price"):
        load(folder, {"prices": "other.json"})
    (folder / "other.json").write_text(json.dumps({"small": {**TABLE["small"], "cache_read_input_token_cost": None}}))
    assert prices_of(load(folder, {"prices": "other.json"}))["small"].cache_read_per_million is None


@pytest.mark.parametrize(("has", "lacks"), [("input", "output"), ("output", "input")])
def test_half_a_price_is_reported_and_a_limit_of_money_does_not_stand_on_it(folder: Path, has: str, lacks: str) -> None:
    entry: Tree = {f"{has}_cost_per_token": 1e-6}
    (folder / "half.json").write_text(json.dumps({"small": entry}))
    (note,) = (note for note in notes_of(load(folder, {"prices": "half.json"})) if "no price" in note)
    assert f"no price of {lacks} for small: it is counted as 0" in note
    with pytest.raises(JobMistakesError, match=f"no price of {lacks} for small, and `money` needs it"):
        load(folder, {"prices": "half.json", "money": 5})
    (folder / "half.json").write_text(json.dumps({"small": {**entry, f"{lacks}_cost_per_token": 0}}))
    assert not [note for note in notes_of(load(folder, {"prices": "half.json", "money": 5})) if "no price" in note]
    (folder / "half.json").write_text(json.dumps({"small": {"input_cost_per_token": 1e-6, "mode": "embedding"}}))
    load(folder, {"prices": "half.json", "money": 5}, kind="embedding")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"input_cost_per_token_above_128k_tokens": 5e-7}, "requests of more than 128,000 tokens"),
        (
            {"output_cost_per_token_above_272k_tokens": 5e-7, "input_cost_per_token_above_200k_tokens": 5e-7},
            "requests of more than 200,000 tokens",
        ),
        ({"tiered_pricing": [{"range": [0, 9]}, {"range": [9, 99]}]}, "steps by the length of a request"),
        ({"search_context_cost_per_query": {"search_context_size_low": 0.01}}, "searches"),
        ({"google_maps_grounding_cost_per_query": 0.025}, "searches"),
        ({"output_cost_per_reasoning_token": 4e-6}, "tokens of reasoning"),
        ({"output_cost_per_reasoning_token": 8e-7}, ""),
        ({"input_cost_per_audio_token": 3e-5}, "sound"),
        ({"off_peak_pricing": {"input_cost_per_token": 1e-7}}, "hours at other prices"),
        ({"input_cost_per_token_above_128k_tokens": 0}, ""),
        ({"max_input_tokens": 128000, "supports_web_search": True}, ""),
    ],
)
def test_what_a_model_costs_besides_is_named_in_the_plan(folder: Path, more: Tree, words: str) -> None:
    (folder / "more.json").write_text(json.dumps({"small": {**TABLE["small"], **more}}))
    found = [note for note in notes_of(load(folder, {"prices": "more.json"})) if "not counted" in note]
    assert [note.rpartition("not counted: ")[2] for note in found] == ([words] if words else [])


def test_a_model_with_steps_only_is_counted_by_the_first(folder: Path) -> None:
    steps = [
        {"input_cost_per_token": 5e-8, "output_cost_per_token": 4e-7, "range": [0, 256000.0]},
        {"input_cost_per_token": 2.5e-7, "output_cost_per_token": 2e-6, "range": [256000.0, 1000000.0]},
    ]
    (folder / "steps.json").write_text(json.dumps({"small": {"tiered_pricing": steps}}))
    price = prices_of(load(folder, {"prices": "steps.json", "money": 5}))["small"]
    assert (price.input_per_million, price.output_per_million) == pytest.approx((0.05, 0.4))


def test_prices_of_the_job_win(folder: Path) -> None:
    job = load(folder, {"prices": {"small": {"input": 7}}, "prices_from": "prices.json"}, models=("small", "large"))
    assert prices_of(job)["small"] == Price(input_per_million=7)
    assert prices_of(job)["large"].input_per_million == pytest.approx(3)


def test_a_tier_has_its_own_price_or_it_is_reported(folder: Path) -> None:
    job = load(folder, {"prices": "prices.json"}, models=("small", "large"), params={"service_tier": "flex"})
    assert prices_of(job)["small"].input_per_million == pytest.approx(0.05)
    assert prices_of(job)["small"].output_per_million == pytest.approx(0.4)
    (note,) = notes_of(job)
    assert "has no price of `service_tier: flex` for large; the usual one counts" in note


def test_pictures_have_a_price(folder: Path) -> None:
    job = load(folder, {"prices": "prices.json"}, models=("painter",), kind="image")
    assert prices_of(job) == {"painter": Price(per_picture=0.04, batch=1.0)}


def test_a_known_host_has_the_prices_of_its_provider_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "of nobody")
    azure = {"preset": "openai", "base_url": "https://us.openai.azure.com/openai/v1", "api_key_env": "KEY"}
    job = load(folder, {"prices": "prices.json"}, models=("large", "small"), provider=azure)
    assert {name: price.input_per_million for name, price in prices_of(job).items()} == {"large": pytest.approx(4)}
    assert notes_of(job)[0].startswith("prices: large is counted as azure/large of prices.json")
    assert any("does not know small at azure" in note for note in notes_of(job))


def test_money_needs_a_price_of_each_model_from_either(folder: Path) -> None:
    load(folder, {"money": 5, "prices": "prices.json"})
    with pytest.raises(JobMistakesError, match=r'no price for "gone", which `money` needs, nor has prices.json \(of'):
        load(folder, {"money": 5, "prices": "prices.json"}, models=("small", "gone"))
    load(folder, {"money": 5, "prices": {"gone": {"call": 1}}, "prices_from": "prices.json"}, models=("small", "gone"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "names a table that cannot be read: .*gone.json: No such file"),
        ("{", "which is not JSON: line 1"),
        ("[" * 100_000, "which is not JSON"),
        ("[1]", "which is no table of prices"),
        ('{"a": 1}', "which is no table of prices"),
        ("\xff\xfe", "which is not JSON|which is no table"),
    ],
)
def test_a_file_that_is_no_table_is_a_mistake_with_its_key(folder: Path, text: str | None, words: str) -> None:
    if text is not None:
        (folder / "gone.json").write_text(text, encoding="latin-1")
    with pytest.raises(JobMistakesError, match=words) as told:
        load(folder, {"prices": "gone.json"})
    assert [mistake.key for mistake in told.value.mistakes] == ["budget.prices"]


def test_two_tables_are_one_too_many(folder: Path) -> None:
    with pytest.raises(JobMistakesError, match="is a table, and so is `prices_from`"):
        load(folder, {"prices": "prices.json", "prices_from": "litellm"})


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name, which must not be imported."""
    there = folder / "site" / "litellm"
    there.mkdir(parents=True)
    (there / "__init__.py").write_text("raise SystemExit('imported')")
    (there / "model_prices_and_context_window_backup.json").write_text(json.dumps(TABLE))
    monkeypatch.syspath_prepend(str(there.parent))
    monkeypatch.delitem(__import__("sys").modules, "litellm", raising=False)
    return there


def test_the_table_of_the_installed_package_is_read_without_importing_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(folder, monkeypatch)
    job = load(folder, {"prices": "litellm"})
    assert job.budget is not None
    assert job.budget.source.startswith("litellm")
    assert prices_of(job)["small"].input_per_million == pytest.approx(0.2)


def test_another_currency_than_the_table_s_is_a_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(folder, monkeypatch)
    with pytest.raises(JobMistakesError, match="has prices in US dollars, and `currency` is 'CNY'"):
        load(folder, {"prices": "litellm", "currency": "CNY"})


@pytest.mark.skipif(importlib.util.find_spec("litellm") is not None, reason="litellm is installed here")
def test_without_the_package_the_mistake_states_what_to_do(folder: Path) -> None:
    with pytest.raises(JobMistakesError, match=r"needs litellm's table of prices.*pip install litellm"):
        load(folder, {"prices": "litellm"})


@pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="litellm is not installed here")
def test_the_real_table_knows_models_of_openai_and_anthropic(folder: Path) -> None:
    job = load(folder, {"prices": "litellm"}, models=("gpt-5-mini", "claude-sonnet-4-5"))
    assert all(price.input_per_million > 0 and price.output_per_million > 0 for price in prices_of(job).values())
    assert len(prices_of(job)) == 2


def test_a_budget_that_is_changed_while_it_runs_keeps_its_prices(folder: Path) -> None:
    job = load(folder, {"money": 5, "prices": "prices.json"})
    changed = with_settings(job, {"budget.money": 9})
    assert job.budget is not None
    assert changed.budget == replace(job.budget, money=9)


def test_plan_states_what_the_simulator_then_counts_and_whose_prices_these_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    job = load(folder, {"prices": "prices.json"}, params={"max_tokens": 20}, output={"dir": "out"})
    planned = asyncio.run(api.plan(job))
    assert planned.cost is not None
    assert (planned.cost.currency, planned.cost.source) == ("USD", "prices.json (of 2026-09-21)")
    status = api.run_sync(job, say=lambda _: None).status
    (line,) = [line for line in status.budget if line.unit == "money"]
    used = (status.usage.input_tokens or 0) * 2e-7 + (status.usage.output_tokens or 0) * 8e-7
    assert line.currency == "USD"
    assert line.spent == pytest.approx(used, abs=1e-6)
    assert used > 0


THOUSAND = [
    f"Question {number}: what is the capital of country {number}?{'!' * (number % 37)}" for number in range(1000)
]


@pytest.mark.parametrize("use", ["never", "always"])
@pytest.mark.parametrize(
    "more",
    [
        {"params": {"max_tokens": 20}, "system": "You are a careful assistant."},
        {"kind": "embedding"},
    ],
    ids=["chat", "embedding"],
)
def test_a_plan_of_a_thousand_items_is_within_a_hundredth_of_what_is_then_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, use: str, more: Tree
) -> None:
    monkeypatch.chdir(folder)
    batch = {"use": use, "look_every": "1s"}
    tree = {"output": {"dir": "out", "report": False}, **more, **({"batch": batch} if use == "always" else {})}
    job = load(folder, {"prices": "prices.json"}, prompts=THOUSAND, **tree)
    cost = asyncio.run(api.plan(job)).cost
    assert cost is not None
    assert cost.batch is not None
    (line,) = [line for line in api.run_sync(job, say=lambda _: None).status.budget if line.unit == "money"]
    online, batched = (found.least if found.expected is None else found.expected for found in (cost, cost.batch))
    assert line.spent == pytest.approx(batched if use == "always" else online, rel=0.01)
    assert 0 < batched < 0.6 * online
