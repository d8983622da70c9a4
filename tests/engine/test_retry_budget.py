"""Retries of failures draw on a budget: a lane in trouble does not become a storm (invariant 14)."""

from tests.support.engine import RunHarness, chat


def test_retries_of_failures_stay_within_a_tenth_of_the_sends_and_one_in_five_seconds(harness: RunHarness) -> None:
    many = tuple(f"q{number}" for number in range(200))
    harness.run(chat(*many, model="sim/chat#5xx", more="breaker: 10000\nlimits: {concurrency: 50}"))
    began = harness.events("intent")[0]["t"]
    seen: set[str] = set()
    retries = 0
    for sends, event in enumerate(harness.events("intent"), start=1):
        if event["k"] in seen:
            retries += 1
            assert retries <= 11 + 0.1 * sends + 0.2 * (event["t"] - began), "more retries than the budget has"
        seen.add(event["k"])
    assert retries == 200 * 4
    assert harness.rows() == []


def test_a_retry_that_comes_through_gives_its_whole_share_back(harness: RunHarness) -> None:
    many = tuple(f"q{number}" for number in range(200))
    harness.run(chat(*many, model="sim/chat#5xx:1", more="breaker: 10000\nlimits: {concurrency: 50}"))
    events = harness.events("intent")
    assert len(harness.rows()) == 200
    assert events[-1]["t"] - events[0]["t"] < 60.0, "one in five seconds, although the server was well again"


def test_hinted_refusals_are_outside_the_budget(harness: RunHarness) -> None:
    many = tuple(f"q{number}" for number in range(100))
    began = harness.began
    harness.run(chat(*many, model="sim/chat#retry-after:5", more="limits: {concurrency: 50}"))
    assert harness.began - began < 60.0
