"""How many calls run into a wall before the lane stands still: the figures of the promise, in virtual time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import Status
from tests.support.engine import Latency, RunHarness, World, chat

MANY = tuple(f"question {number}" for number in range(300))
SLOTS = 8


def fixed(more: str = "") -> str:
    return f"limits: {{concurrency: {SLOTS}}}\n{more}"


def refused_before_the_first_park_ended(harness: RunHarness) -> int:
    """Refusals from the first one until somebody was let through again, or the end."""
    count = 0
    for event in harness.events("refused", "resumed", "retry"):
        if event["e"] == "resumed":
            break
        count += 1
    return count


@pytest.mark.parametrize(
    ("scenario", "spare"), [("quota-model:50", 2), ("quota-account:50", 2), ("quota-noheader", 12)]
)
def test_a_spent_quota_costs_no_more_calls_than_there_are_slots_and_fails_nothing(
    harness: RunHarness, scenario: str, spare: int
) -> None:
    report = harness.run(chat(*MANY, model=f"sim/chat#{scenario}", more=fixed("on_quota: stop")))
    assert report.status.items.failed == 0
    assert refused_before_the_first_park_ended(harness) <= SLOTS + spare


@pytest.mark.parametrize("scenario", ["auth-bad", "auth-unbound"])
def test_a_dead_key_costs_no_more_calls_than_there_are_slots(harness: RunHarness, scenario: str) -> None:
    report = harness.run(chat(*MANY, model=f"sim/chat#{scenario}", more=fixed()))
    assert report.exit_status is ExitStatus.REFUSED
    assert harness.stats.sends <= SLOTS


def test_an_unpaid_account_costs_no_more_calls_than_there_are_slots_and_goes_on_when_paid(tmp_path: Path) -> None:
    """`insufficient_quota` as OpenAI means it: money, not time."""
    openai = "provider: {preset: openai, base_url: 'http://127.0.0.1:1/v1', api_key_env: [], auth: none}"
    job = chat(*MANY, model="sim/chat#unpaid:50", more=fixed()).replace("provider: simulator", openai)
    harness = RunHarness(tmp_path, simulate=False)
    report = harness.run(job)
    assert report.exit_status is ExitStatus.REFUSED
    assert "check your plan and billing details" in (report.status.message or "")
    assert (report.status.items.done, report.status.items.failed) == (50, 0)
    assert harness.stats.sends <= 50 + SLOTS
    paid = harness.stats.paid
    for _ in range(5):
        harness.world = World()  # fifty more calls are paid for
        report = harness.run(job)
        paid += harness.stats.paid
    assert report.exit_status is ExitStatus.DONE
    assert paid == len(harness.rows()) == len(MANY)


def test_a_spent_quota_is_waited_for_and_everything_is_done_once(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=0.5)))
    report = harness.run(chat(*MANY, model="sim/chat#quota-model:150", more=fixed()))
    assert report.exit_status is ExitStatus.DONE
    assert len(harness.rows()) == len(MANY)
    assert harness.stats.paid == len(MANY)
    assert harness.events("done")[-1]["t"] - harness.events("intent")[0]["t"] > 3600.0


@pytest.mark.parametrize("more", ["", "limits: {concurrency: 16}"])
@pytest.mark.parametrize("scenario", ["5xx", "hang-headers", "reset-before-headers"])
def test_a_server_that_is_down_costs_sixty_calls_at_most_before_the_lane_waits(
    harness: RunHarness, scenario: str, more: str
) -> None:
    job = chat(*MANY, model=f"sim/chat#{scenario}", more=more)
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    first_park = next(event for event in harness.events() if event["e"] == "parked")
    before = [event for event in harness.events("intent") if event["t"] <= first_park["t"]]
    assert len(before) <= 60
    assert report.status.items.failed == 0, "items paid for an outage of the server"


def test_a_server_that_comes_back_is_noticed_and_everything_ends(harness: RunHarness) -> None:
    job = chat(*MANY, model="sim/chat#retired:40", more=fixed())
    report = harness.run(job)
    assert report.exit_status in {ExitStatus.DONE, ExitStatus.FAILED}


def test_a_poison_item_has_its_own_attempts_and_delays_nobody(harness: RunHarness) -> None:
    model = 'models: ["sim/well", "sim/poison#5xx"]'
    job = chat(*MANY[:20], more=f"{model}\nbreaker: 1000\nretry: {{attempts: 3}}").replace('model: "sim/chat"\n', "")
    report = harness.run(job)
    assert report.exit_status is ExitStatus.FAILED
    assert report.status.items.done == 20
    assert {row["attempts"] for row in harness.rows("failures.jsonl")} == {3}


def test_the_next_run_begins_with_what_last_worked(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=0.5)))
    harness.run(chat(*MANY, model="sim/chat#burst:5"))
    widths: list[int | None] = []

    async def look(snapshot: Callable[[], Status]) -> None:
        widths.append(snapshot().lanes[0].concurrency)

    found = harness.run(chat(*MANY, "one more", model="sim/chat#burst:5"), progress=look).status.lanes[0].concurrency
    assert widths == [found]
    assert found is not None
    assert found <= 6, "the simulator takes five at once"


def test_a_server_that_is_overloaded_for_long_has_no_quota(harness: RunHarness) -> None:
    job = chat(*MANY[:30], model="sim/chat#an-529:30").replace(
        "provider: simulator", "provider: {preset: simulator, dialect: anthropic-messages}"
    )
    assert harness.run(job).exit_status is ExitStatus.DONE
    parks = harness.events("parked")
    assert parks[-1]["t"] - parks[0]["t"] > 900.0, "long enough that a throttle would be taken for a quota"
    assert {park["kind"] for park in parks} == {"overloaded"}
