"""A world lets through as much as its limits say, each lane by itself, and says 429 to the rest."""

import pytest

from batchrunner.core.errors import JobMistakesError
from batchrunner.simulator.profiles import FaultRates, Latency
from batchrunner.simulator.quotas import Quota, RateLimits
from batchrunner.simulator.script import Delay, Script
from batchrunner.simulator.world import World
from tests.simulator.calls import NOW, ask, ask_and_stay, submit


def through(world: World, *, every_s: float, until_s: float, since_s: float = 0.0) -> int:
    """Calls that are let in when one comes every so many seconds."""
    count = round((until_s - since_s) / every_s)
    return sum(ask(world, now=NOW + since_s + at * every_s).status == 200 for at in range(count))


def test_so_many_calls_a_minute_are_let_in_however_many_come() -> None:
    world = World(limits=RateLimits(per_minute=60.0, burst=1.0))
    assert through(world, every_s=0.1, until_s=600.0) == pytest.approx(600, abs=1)


def test_who_comes_exactly_in_time_is_never_refused() -> None:
    world = World(limits=RateLimits(per_minute=90.0, burst=1.0))
    assert through(world, every_s=60.0 / 90.0, until_s=600.0) == 900


def test_after_a_pause_a_burst_is_let_in_and_no_more() -> None:
    world = World(limits=RateLimits(per_minute=60.0, burst=10.0))
    assert [ask(world).status for _ in range(12)] == [200] * 10 + [429] * 2
    assert [ask(world, now=NOW + 3600.0).status for _ in range(12)] == [200] * 10 + [429] * 2


def test_without_a_word_on_bursts_a_tenth_of_a_minute_is_one() -> None:
    world = World(limits=RateLimits(per_minute=60.0))
    assert sum(ask(world).status == 200 for _ in range(60)) == 6


def test_only_so_many_calls_are_under_way_and_a_refused_one_takes_no_place() -> None:
    world = World(limits=RateLimits(concurrent=2))
    first, second = ask_and_stay(world), ask_and_stay(world)
    refused = [ask_and_stay(world) for _ in range(3)]
    assert [script.status for script in (first, second, *refused)] == [200, 200, 429, 429, 429]
    for script in refused:
        world.leave(script)
    assert ask_and_stay(world).status == 429
    world.leave(first)
    assert ask_and_stay(world).status == 200
    assert ask_and_stay(world).status == 429


def test_a_call_that_fails_gives_its_place_back() -> None:
    world = World(limits=RateLimits(concurrent=1), faults=FaultRates(server_error=1.0))
    assert [ask(world).status for _ in range(3)] == [500, 500, 500]


def test_a_schedule_changes_both_limits_as_time_goes_on() -> None:
    world = World(limits=RateLimits(per_minute=600.0, burst=1.0, schedule=[(60.0, 0.5), (120.0, 2.0)]))
    assert through(world, every_s=0.01, until_s=60.0) == pytest.approx(600, abs=2)
    assert through(world, every_s=0.01, since_s=60.0, until_s=120.0) == pytest.approx(300, abs=2)
    assert through(world, every_s=0.01, since_s=120.0, until_s=180.0) == pytest.approx(1200, abs=2)
    slots = World(limits=RateLimits(concurrent=4, schedule=[(60.0, 0.5)]))
    assert [ask_and_stay(slots).status for _ in range(4)] == [200] * 4
    assert ask_and_stay(World(limits=RateLimits(concurrent=1, schedule=[(0.0, 0.1)]))).status == 200


def test_time_that_nobody_called_in_counts_by_its_own_rates() -> None:
    world = World(limits=RateLimits(per_minute=60.0, burst=100.0, schedule=[(10.0, 2.0)]))
    assert through(world, every_s=0.001, until_s=0.1) == 100
    assert sum(ask(world, now=NOW + 20.0).status == 200 for _ in range(100)) == 30


def test_each_account_and_model_has_limits_of_its_own() -> None:
    world = World(limits=RateLimits(concurrent=1))
    lanes = [("a", "Qwen/Qwen3-8B"), ("a", "Qwen/Other"), ("b", "Qwen/Qwen3-8B")]
    assert [ask_and_stay(world, token=token, model=model).status for token, model in lanes] == [200] * 3


def test_a_hint_states_when_the_next_call_is_let_in() -> None:
    world = World(limits=RateLimits(per_minute=6.0, burst=1.0, hint=True))
    ask(world)
    refused = ask(world, now=NOW + 2.5)
    assert refused.headers["retry-after"] == "8"
    assert ask(world, now=NOW + 2.5 + 8.0).status == 200
    silent = World(limits=RateLimits(per_minute=6.0, burst=1.0))
    ask(silent)
    assert "retry-after" not in ask(silent).headers


def test_tasks_take_a_place_until_their_submit_is_answered() -> None:
    world = World(limits=RateLimits(concurrent=1))
    assert [submit(world, prompt=f"cat {number}").status for number in range(3)] == [200] * 3


@pytest.mark.parametrize(
    "limits",
    [
        {"per_minute": 0.0},
        {"burst": -1.0},
        {"concurrent": 0},
        {"schedule": [(60.0, 1.0), (10.0, 1.0)]},
        {"schedule": [(60.0, 0.0)]},
    ],
)
def test_limits_that_let_nothing_through_are_mistakes(limits: dict[str, float]) -> None:
    with pytest.raises(JobMistakesError):
        RateLimits(**limits)  # type: ignore[arg-type] # figures by name


def test_a_refusal_takes_its_time() -> None:
    world = World(limits=RateLimits(per_minute=60.0, burst=1.0), latency=Latency(refusal_s=0.25))
    assert waited(ask(world)) == 0.0
    assert waited(ask(world)) == 0.25


def waited(script: Script) -> float:
    return sum(step.seconds for step in script.early if isinstance(step, Delay))


def test_calls_of_today_that_came_before_count_towards_the_quota() -> None:
    world = World(quota=Quota(model_per_day=5, account_per_day=None))
    world.remember(token="t", model="Qwen/Qwen3-8B", calls=4, now=NOW)
    assert [ask(world, token="t").status for _ in range(2)] == [200, 429]
    assert ask(world, token="t", now=NOW + 86_400.0).status == 200
