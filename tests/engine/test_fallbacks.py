"""Models that are asked one after another: who answers, what is recorded, and what a later run makes of it."""

import json
from collections import Counter
from typing import Any

import pytest

from batchrunner.core.errors import ExitStatus, JobMistakesError
from batchrunner.core.events import FALLBACK_VERSION
from batchrunner.core.part import PartOptions
from batchrunner.report.audit import audit
from tests.support.engine import RunHarness, World, chat

HOUR_S = 3600.0
TEN = tuple(f"question {number}" for number in range(10))
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def job(*prompts: str, first: str, then: Any = "sim/second", more: str = "", **keys: Any) -> str:
    """A chat job whose second model is asked where the first gives no answer."""
    models = json.dumps({"first": first, "then": then, **keys})
    return chat(*prompts, more=more).replace('model: "sim/chat"', f"models: {models}")


def intents(harness: RunHarness) -> Counter[str]:
    """Sends by model, as the ledger has them."""
    return Counter(event["model"].partition("#")[0] for event in harness.events("intent"))


def judged(harness: RunHarness, prompts: int) -> None:
    """Every prompt has one row, every replacement one item of the other model, and the server saw no other send."""
    rows, replaced = harness.rows(), harness.events("replaced")
    assert len({row["prompt_id"] for row in rows}) == len(rows) == prompts
    assert len({event["k"] for event in replaced}) == len({event["by"] for event in replaced}) == len(replaced)
    by_key = {row["key"]: row for row in rows}
    for event in replaced:
        if (row := by_key.get(event["by"])) is not None:
            assert row["fallback_of"] == row["prompt_id"], "the first model's item has its prompt's name"
            assert row["fallback_keys"][-1] == event["k"]
    assert harness.stats.sends == intents(harness).total()
    assert not [finding for finding in audit(harness.out).findings if finding.level != "note"]


REASONS = {
    "content_filter": ("sim/first#content-filter", "", 10),
    "schema_miss": ("sim/first#schema-miss", "", 0),
    "overloaded": ("sim/first#bare-503", "", 0),
    "quota": ("sim/first#quota-model:4", "limits: {concurrency: 1}", 4),
}


@pytest.mark.parametrize("reason", ["content_filter", "overloaded", "quota"])
def test_each_reason_sends_a_prompt_to_the_next_model_and_to_no_other(harness: RunHarness, reason: str) -> None:
    first, more, _ = REASONS[reason]
    began = harness.began
    report = harness.run(job(*TEN, first=first, on=[reason], more=more))
    assert report.exit_status is ExitStatus.DONE
    judged(harness, 10)
    rows = harness.rows()
    others = [row for row in rows if row["model"] == "sim/second"]
    assert len(others) == (6 if reason == "quota" else 10)
    assert all(row["fallback_of"] == row["prompt_id"] != row["id"] for row in others)
    assert {event["kind"] for event in harness.events("replaced")} == {{"quota": "quota_model"}.get(reason, reason)}
    waited = harness.began - began
    assert (waited >= 600.0) == (reason != "content_filter"), "`after` is about models that stand still"
    assert waited < 12 * HOUR_S, "nobody waits for the first model's midnight"


def test_answers_that_miss_the_schema_send_the_prompt_on_once_the_attempts_are_used_up(harness: RunHarness) -> None:
    text = job(*TEN, first="sim/first#schema-miss", on=["schema_miss"], more=f"schema: {json.dumps(SCHEMA)}")
    report = harness.run(text)
    assert report.exit_status is ExitStatus.DONE
    judged(harness, 10)
    assert {event["kind"] for event in harness.events("replaced")} == {"schema_miss"}
    assert intents(harness) == {"sim/first": 50, "sim/second": 10}
    assert {row["attempts"] for row in harness.rows()} == {1}, "the other model's item begins anew"
    usage, paid = report.status.usage, harness.stats
    assert usage.input_tokens == sum(row["usage"]["input_tokens"] for row in harness.rows())
    assert usage.unanswered_input_tokens > 4 * (usage.input_tokens or 0), "of fifty replies that were no answer"
    tokens = harness.events("retry") + harness.events("replaced")
    assert usage.unanswered_output_tokens == sum(event["output_tokens"] for event in tokens) > 0
    assert paid.sends == 60


@pytest.mark.parametrize("reason", ["content_filter", "overloaded", "quota", "schema_miss"])
def test_a_reason_that_is_not_named_sends_nothing_on(harness: RunHarness, reason: str) -> None:
    named = [name for name in REASONS if name != reason]
    first, more, _ = REASONS[reason]
    more += f"\nschema: {json.dumps(SCHEMA)}"
    harness.run(job("one", "two", first=first, on=named, more=f"{more}\ndeadline: 3h"))
    assert harness.events("replaced") == []
    assert "sim/second" not in intents(harness)


def test_the_limit_of_a_day_is_a_quota_too(harness: RunHarness) -> None:
    began = harness.began
    report = harness.run(job(*TEN, first="sim/a", on=["quota"], more="limits: {requests_per_day: 5}"))
    assert report.exit_status is ExitStatus.DONE
    judged(harness, 10)
    assert intents(harness) == {"sim/a": 5, "sim/second": 5}
    assert 600.0 <= harness.began - began < HOUR_S


def test_a_model_that_answers_again_gets_what_is_left(harness: RunHarness) -> None:
    many = tuple(f"question {number}" for number in range(100))
    limits = "limits: {concurrency: 2, requests_per_minute: 6}"
    report = harness.run(job(*many, first="sim/a#bare-503:8", then="sim/b", after="5s", more=limits))
    assert report.exit_status is ExitStatus.DONE
    judged(harness, 100)
    assert {row["model"] for row in harness.rows()} == {"sim/a#bare-503:8", "sim/b"}


def test_a_next_model_that_stands_still_gets_nothing(harness: RunHarness) -> None:
    first, then = "sim/a#quota-account:2", "sim/b#quota-account:2"
    report = harness.run(job("one", "two", "three", first=first, then=then, more="deadline: 3h"))
    assert report.exit_status is ExitStatus.PAUSED
    assert len(harness.rows()) == 2
    assert report.status.items.pending == 1


def test_a_chain_of_models_is_gone_through_in_order(harness: RunHarness) -> None:
    report = harness.run(job(*TEN, first="sim/a#content-filter", then=["sim/b#content-filter", "sim/c"]))
    assert report.exit_status is ExitStatus.DONE
    judged(harness, 10)
    assert intents(harness) == {"sim/a": 10, "sim/b": 10, "sim/c": 10}
    for row in harness.rows():
        assert len(row["fallback_keys"]) == 2
        assert row["fallback_of"] == row["prompt_id"]
    assert [(each.model, each.items, each.answered) for each in report.status.fallbacks] == [
        ("sim/b#content-filter", 10, 0),
        ("sim/c", 10, 10),
    ]


def test_however_many_items_in_a_row_are_sent_on_their_lane_goes_on(harness: RunHarness) -> None:
    many = tuple(f"question {number}" for number in range(70))
    report = harness.run(job(*many, first="sim/a#content-filter", more="breaker: 5"))
    assert report.exit_status is ExitStatus.DONE
    assert intents(harness) == {"sim/a": 70, "sim/second": 70}
    assert harness.events("parked") == []


def test_the_last_model_of_a_chain_fails_as_any_other(harness: RunHarness) -> None:
    report = harness.run(job("one", first="sim/a#content-filter", then="sim/b#content-filter"))
    assert report.exit_status is ExitStatus.FAILED
    (failure,) = harness.rows("failures.jsonl")
    assert failure["model"] == "sim/b#content-filter"
    assert failure["fallback_of"] == failure["prompt_id"]


def test_a_finished_job_sends_nothing_again(harness: RunHarness) -> None:
    text = job(*TEN, first="sim/a#content-filter")
    harness.run(text)
    sends = harness.stats.sends
    report = harness.run(text)
    assert (report.exit_status, harness.stats.sends) == (ExitStatus.DONE, sends)
    judged(harness, 10)


def test_identical_prompts_are_sent_on_once_and_each_has_its_row(harness: RunHarness) -> None:
    report = harness.run(job("same", "same", "other", first="sim/a#content-filter"))
    assert report.exit_status is ExitStatus.DONE
    assert intents(harness) == {"sim/a": 2, "sim/second": 2}
    assert report.status.items.done == 3
    assert len(harness.rows()) == 3
    assert all(row["fallback_of"] for row in harness.rows())


def test_retry_failed_asks_the_last_model_again_and_not_those_before_it(harness: RunHarness) -> None:
    text = job("one", "two", first="sim/a#content-filter", then="sim/b")
    harness.world = World(scenario="content-filter")
    assert harness.run(text).exit_status is ExitStatus.FAILED
    before = intents(harness)
    harness.world = World()
    report = harness.run(text, retry_failed=True)
    assert report.exit_status is ExitStatus.DONE
    assert intents(harness) - before == {"sim/b": 2}
    assert harness.rows("failures.jsonl") == []


def test_without_its_fallback_a_job_asks_the_first_model_again(harness: RunHarness) -> None:
    first = "sim/a#quota-model:0"
    harness.run(job("one", "two", first=first, on=["quota"]))
    assert {row["model"] for row in harness.rows()} == {"sim/second"}
    before = intents(harness)
    harness.world = World()
    harness.began += 24 * HOUR_S
    report = harness.run(chat("one", "two", model=first, more="on_quota: stop"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.pending == 2
    assert intents(harness) - before == {"sim/a": 2}
    assert len(harness.events("requeued")) == 2


def test_a_fallback_that_was_answered_by_an_earlier_version_of_the_job_is_not_paid_again(harness: RunHarness) -> None:
    harness.run(chat("one", "two", model="sim/second"))
    report = harness.run(job("one", "two", first="sim/a#content-filter"))
    assert report.exit_status is ExitStatus.DONE
    assert intents(harness) == {"sim/second": 2, "sim/a": 2}
    assert (report.status.items.total, report.status.items.done) == (2, 2)
    assert [row["fallback_of"] for row in harness.rows()] == [row["prompt_id"] for row in harness.rows()]
    judged_rows = {row["id"] for row in harness.rows()}
    assert harness.run(job("one", "two", first="sim/a#content-filter")).status.items.done == 2
    assert {row["id"] for row in harness.rows()} == judged_rows


def test_an_older_program_refuses_what_it_would_send_again(harness: RunHarness) -> None:
    harness.run(job("one", first="sim/a"))
    assert [event["version"] for event in harness.events("open")] == [FALLBACK_VERSION]
    assert FALLBACK_VERSION > 4


def test_what_cannot_ask_models_one_after_another_reports_it(harness: RunHarness) -> None:
    with pytest.raises(JobMistakesError, match="which `batch:` cannot do"):
        harness.run(job("one", first="sim/a", more="batch: {use: auto}"))
    with pytest.raises(JobMistakesError, match="cannot be compared"):
        harness.run(job("one", first="sim/a", more="kind: embedding"))
    with pytest.raises(JobMistakesError, match=r"is the same as models\.first"):
        harness.run(job("one", first="sim/a", then="sim/a"))
    with pytest.raises(JobMistakesError, match="a duration like 10m"):
        harness.run(job("one", first="sim/a", after="soon"))


def test_a_budget_counts_both_models(harness: RunHarness) -> None:
    text = job(*TEN, first="sim/a#content-filter", more="limits: {concurrency: 1}\nbudget: {calls: 7}")
    report = harness.run(text)
    assert report.exit_status is ExitStatus.PAUSED
    assert intents(harness).total() == 7
    assert harness.stats.sends == 7


def test_rows_alone_state_what_was_sent_on_when_the_ledger_is_gone(harness: RunHarness) -> None:
    text = job("one", "two", first="sim/a#content-filter", then=["sim/b#content-filter", "sim/c"])
    harness.run(text)
    sends = harness.stats.sends
    for path in (harness.out / "ledger").iterdir():
        path.unlink()
    report = harness.run(text, adopt_rows=True)
    assert harness.stats.sends == sends
    assert (report.exit_status, report.status.items.done) == (ExitStatus.DONE, 2)
    assert len(harness.rows()) == 2
    assert harness.run(text).status.items.done == 2
    assert harness.stats.sends == sends


def test_a_part_of_a_job_follows_its_prompts_to_the_next_model(harness: RunHarness) -> None:
    text = job(*TEN, first="sim/a#content-filter")
    harness.run(text, limit=3)
    assert len(harness.rows()) == 3
    ids = [row["fallback_of"] for row in harness.rows()]
    sends = harness.stats.sends
    report = harness.run(text, part=PartOptions(only=(ids[0],)))
    assert (report.exit_status, harness.stats.sends) == (ExitStatus.DONE, sends)
    report = harness.run(text)
    judged(harness, 10)


def test_more_than_a_queue_holds_find_their_way_by_the_source(
    harness: RunHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrunner.engine.work_queue.READ_AHEAD_MOST", 4)
    many = tuple(f"question {number}" for number in range(60))
    world = World(scenario=None)
    harness.world = world
    report = harness.run(job(*many, first="sim/a#content-filter", then="sim/b#retry-after:200"))
    assert report.exit_status is ExitStatus.DONE
    judged(harness, 60)
    assert intents(harness)["sim/a"] == 60


def test_an_item_of_a_next_model_whose_turn_has_not_come_is_named_as_such(harness: RunHarness) -> None:
    models = "models: {first: 'sim/a#content-filter', then: sim/b}"
    prompts = "prompts: [{prompt: one, id: p1}, {prompt: two, id: p2}]"
    text = f"name: job\nprovider: simulator\n{models}\n{prompts}\n"
    harness.run(text, limit=1)
    (row,) = harness.rows()
    assert harness.run(text, part=PartOptions(only=(row["id"],))).exit_status is ExitStatus.DONE
    with pytest.raises(
        JobMistakesError, match=f"`{row['id'].replace('p1', 'p2')}` is asked only if the model before it"
    ):
        harness.run(text, part=PartOptions(only=(row["id"].replace("p1", "p2"),)))
    assert harness.stats.sends == 2
    assert (
        harness.run(text, part=PartOptions(only=(row["fallback_of"].replace("p1", "p2"),))).exit_status
        is ExitStatus.DONE
    )
    assert harness.stats.sends == 4
