"""When to ask: bounded, never before a hint, learned from what is still open as much as from what has ended."""

import itertools
import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.pacing import (
    EDGES_S,
    ENOUGH_ENDS,
    LONGEST_WAIT_S,
    SHORTEST_WAIT_S,
    PollPace,
    RunTimes,
    first_cadence_s,
    next_poll_s,
    plan,
)

AGES = st.floats(0.0, 5000.0, allow_nan=False)
RANDOM_SOURCE = st.floats(0.0, 1.0, exclude_max=True, allow_nan=False)
SPANS = st.lists(st.tuples(AGES, st.floats(0.0, 500.0, allow_nan=False), st.booleans()), max_size=40)


def learned(spans: list[tuple[float, float, bool]]) -> RunTimes:
    times = RunTimes()
    for since_s, more_s, ended in spans:
        tell = times.ended if ended else times.still_open
        tell(since_s=since_s, age_s=since_s + more_s)
    return times


def all_end_at(age_s: float, *, tasks: int = 200, every_s: float = 0.5) -> RunTimes:
    """Tasks of one run time, each asked every so often."""
    times = RunTimes()
    for _ in range(tasks):
        steps = math.ceil(age_s / every_s)
        times.still_open(since_s=0.0, age_s=(steps - 1) * every_s)
        times.ended(since_s=(steps - 1) * every_s, age_s=steps * every_s)
    return times


@settings(deadline=None)
@given(
    spans=SPANS,
    age_s=AGES,
    polls=st.integers(0, 1000),
    random_source=RANDOM_SOURCE,
    hint_s=st.none() | st.floats(0.0, 1e4),
)
def test_a_poll_never_comes_before_the_hint_nor_later_than_the_longest_wait(
    spans: list[tuple[float, float, bool]], age_s: float, polls: int, random_source: float, hint_s: float | None
) -> None:
    wait_s = next_poll_s(learned(spans), age_s=age_s, polls=polls, hint_s=hint_s, random_source=random_source)
    assert wait_s >= max(SHORTEST_WAIT_S, hint_s or 0.0)
    assert wait_s <= max(LONGEST_WAIT_S * 1.2, hint_s or 0.0)


@settings(deadline=None)
@given(spans=SPANS, age_s=AGES, random_source=RANDOM_SOURCE)
def test_the_same_seed_give_the_same_wait(
    spans: list[tuple[float, float, bool]], age_s: float, random_source: float
) -> None:
    waits = [
        next_poll_s(learned(spans), age_s=age_s, polls=1, hint_s=None, random_source=random_source) for _ in range(2)
    ]
    assert waits[0] == waits[1]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_memory_is_bounded_whatever_was_seen(seed: int) -> None:
    random_source = random.Random(seed)
    times = learned(
        [
            (random_source.uniform(0.0, 30.0), random_source.uniform(0.0, 30.0), random_source.random() < 0.3)
            for _ in range(1500)
        ]
    )
    assert len(times._came) == len(times._ended) == len(EDGES_S) - 1
    assert max(times._came) <= 400.0 + 1e-6
    assert all(0.0 <= times._chance(place) < 1.0 for place in range(len(EDGES_S) - 1))


@settings(max_examples=30, deadline=None)
@given(chances=st.lists(st.floats(0.0, 0.999), min_size=len(EDGES_S) - 1, max_size=len(EDGES_S) - 1))
def test_a_plan_asks_later_than_now_and_within_the_longest_wait(chances: list[float]) -> None:
    for ask_s, (low_s, high_s) in zip(plan(chances), itertools.pairwise(EDGES_S), strict=True):
        assert high_s <= ask_s <= max(low_s + LONGEST_WAIT_S, high_s)


def test_before_anything_is_known_polls_start_at_three_seconds_and_grow_to_ten() -> None:
    waits = [first_cadence_s(age_s=0.0, polls=polls) for polls in range(6)]
    assert waits[0] == 3.0
    assert waits == sorted(waits)
    assert waits[-1] == 10.0
    assert first_cadence_s(age_s=200.0, polls=50) == 30.0
    assert RunTimes().wait_s(0.0) is None


def test_a_few_ends_are_not_believed() -> None:
    times = all_end_at(5.0, tasks=ENOUGH_ENDS - 1)
    assert times.wait_s(0.0) is None
    times.ended(since_s=4.5, age_s=5.0)
    assert times.wait_s(0.0) is not None


def test_tasks_that_always_take_as_long_are_asked_right_after() -> None:
    for age_s in (4.0, 8.0, 20.0):
        wait_s = all_end_at(age_s).wait_s(0.0)
        assert wait_s is not None
        assert age_s - 0.5 <= wait_s <= age_s + 1.0, age_s


def test_slower_tasks_are_asked_later() -> None:
    waits = [all_end_at(age_s).wait_s(0.0) or 0.0 for age_s in (3.0, 6.0, 12.0, 25.0)]
    assert waits == sorted(waits)
    assert len(set(waits)) == len(waits)


def test_open_tasks_count_so_that_the_quick_ones_are_not_taken_for_all() -> None:
    quick_only, all_told = RunTimes(), RunTimes()
    for times in (quick_only, all_told):
        for _ in range(20):
            times.ended(since_s=4.5, age_s=5.0)
    for _ in range(380):
        all_told.still_open(since_s=0.0, age_s=9.0)
    hasty, patient = quick_only.wait_s(0.0), all_told.wait_s(0.0)
    assert hasty is not None
    assert patient is not None
    assert patient > hasty + 2.0


def test_when_an_end_fell_between_two_polls_is_shared_as_believed() -> None:
    times = all_end_at(10.0, tasks=100)
    for _ in range(300):
        times.ended(since_s=0.0, age_s=12.0)
    wait_s = times.wait_s(0.0)
    assert wait_s is not None
    assert 9.5 <= wait_s <= 12.0


def test_a_server_that_changes_its_pace_is_followed() -> None:
    times = all_end_at(30.0, tasks=400)
    for _ in range(600):
        times.still_open(since_s=0.0, age_s=5.5)
        times.ended(since_s=5.5, age_s=6.0)
    wait_s = times.wait_s(0.0)
    assert wait_s is not None
    assert wait_s <= 7.5


def test_an_old_task_is_asked_twice_a_minute() -> None:
    times = all_end_at(10.0)
    for age_s in (700.0, 5000.0):
        assert times.wait_s(age_s) == LONGEST_WAIT_S


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), per_second=st.floats(0.5, 50.0))
def test_polls_in_any_window_stay_within_rate_and_burst(seed: int, per_second: float) -> None:
    random_source = random.Random(seed)
    pace, now, taken = PollPace(per_second=per_second), 0.0, list[float]()
    for _ in range(300):
        now += max(0.0, pace.wait_s(now)) + random_source.choice((0.0, 0.0, 1.0)) * random_source.random()
        pace.take(now)
        taken.append(now)
        if random_source.random() < 0.3:
            pace.refused(now, wait_s=random_source.choice((None, 1.0)))
        else:
            pace.answered(now)
    burst = max(1.0, per_second / 2.0)
    for first in range(0, 300, 7):
        for last in range(first, 300, 11):
            assert last - first + 1 <= per_second * (taken[last] - taken[first]) + burst + 1e-6


def test_one_refused_poll_slows_nothing() -> None:
    pace = PollPace(per_second=10.0)
    pace.refused(0.0, wait_s=60.0)
    assert pace.rate_per_s == 10.0
    assert pace.wait_s(0.0) == 0.0


def test_many_refused_polls_halve_the_pace_once_an_event_and_obey_the_hint() -> None:
    pace = PollPace(per_second=10.0)
    for _ in range(30):
        pace.refused(1.0, wait_s=20.0)
    assert pace.rate_per_s == 5.0
    assert pace.wait_s(1.0) == 20.0


def test_a_pace_never_falls_to_nothing_and_comes_back() -> None:
    pace = PollPace(per_second=10.0)
    for second in range(1000):
        pace.refused(10.0 * second, wait_s=None)
    assert 0.2 <= pace.rate_per_s <= 0.5
    for second in range(100):
        pace.answered(20_000.0 + second)
    assert pace.rate_per_s == 10.0
    assert pace.wait_s(30_000.0) == 0.0


def test_a_pace_that_comes_back_gives_nothing_for_the_time_before() -> None:
    pace = PollPace(per_second=10.0)
    for _ in range(5):
        pace.refused(0.0, wait_s=None)
    for _ in range(25):
        pace.take(0.0)
    for _ in range(60):
        pace.answered(3.0)
    assert pace.rate_per_s == 10.0
    assert math.isclose(pace.wait_s(3.0), 0.6)
