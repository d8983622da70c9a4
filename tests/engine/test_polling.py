"""Tasks are asked when it is worth it, never faster than the account may be asked, the longest due first."""

import itertools
import math
import random
import statistics
from collections.abc import Callable

import pytest

from batchrunner.core.errors import ExitStatus
from batchrunner.core.outcome import Pictures
from batchrunner.engine.task_poller import StillRunning
from tests.engine.polled_tasks import Polled, Remote, watch
from tests.support.engine import FaultRates, Latency, RunHarness, World, image


def bell(seed: int, count: int, *, sigma: float, every_s: float = 0.75) -> list[Remote]:
    """Tasks accepted one after the other, log-normal around 15 s."""
    random_source = random.Random(seed)
    starts = [number * every_s for number in range(count)]
    return [Remote(accepted=at, ends=at + 15.0 * math.exp(random_source.gauss(0.0, sigma))) for at in starts]


def most_in(polls: list[Polled], window_s: float) -> int:
    """Most polls in any window of that length."""
    times = [poll.at for poll in polls]
    return max(sum(at <= other < at + window_s for other in times[place:]) for place, at in enumerate(times))


def test_what_was_learned_costs_three_polls_a_task_and_a_second() -> None:
    tasks = bell(3, 600, sigma=0.2)
    seen = watch(tasks)
    late = sorted(at - task.ends for at, task in zip(seen.noticed, tasks, strict=True))
    assert len(seen.polls) / len(tasks) <= 3.0
    assert statistics.median(late) <= 1.0


def test_widely_spread_run_times_cost_no_more_polls() -> None:
    tasks = bell(4, 600, sigma=0.5)
    assert len(watch(tasks).polls) / len(tasks) <= 3.0


def test_each_model_has_run_times_of_its_own() -> None:
    quick = [Remote(accepted=2.0 * number, ends=2.0 * number + 4.0, model="quick") for number in range(200)]
    slow = [Remote(accepted=2.0 * number, ends=2.0 * number + 40.0, model="slow") for number in range(200)]
    seen = watch([*quick, *slow])
    late = [at - task.ends for at, task in zip(seen.noticed, [*quick, *slow], strict=True)]
    assert statistics.median(late[100:200]) <= 1.0
    assert statistics.median(late[300:400]) <= 1.0
    last_slow = [poll for poll in seen.polls if poll.task >= 350]
    assert len(last_slow) / 50 <= 4.0


def test_a_server_that_becomes_quicker_is_followed() -> None:
    before = [Remote(accepted=1.0 * number, ends=1.0 * number + 30.0) for number in range(300)]
    after = [Remote(accepted=1.0 * number, ends=1.0 * number + 6.0) for number in range(300, 1500)]
    tasks = [*before, *after]
    seen = watch(tasks)
    late = [at - task.ends for at, task in zip(seen.noticed, tasks, strict=True)]
    assert statistics.median(late[-200:]) <= 2.0


def test_polls_of_an_account_stay_within_its_rate() -> None:
    tasks = [Remote(accepted=0.0, ends=20.0) for _ in range(300)]
    seen = watch(tasks, poll_per_second=10.0)
    assert most_in(seen.polls, 1.0) <= 10 + 5 + 1
    assert most_in(seen.polls, 10.0) <= 100 + 5 + 1
    assert all(isinstance(end, Pictures) for end in seen.ends)


def test_each_account_has_a_rate_of_its_own_and_none_waits_for_another() -> None:
    crowd = [Remote(accepted=0.0, ends=600.0, account="crowd") for _ in range(500)]
    alone = [Remote(accepted=5.0, ends=9.0, account="alone")]
    seen = watch([*crowd, *alone], poll_per_second=2.0)
    assert seen.noticed[-1] - 9.0 <= 10.0


def test_of_many_overdue_tasks_the_one_that_waits_longest_is_asked_next() -> None:
    tasks = [Remote(accepted=0.0, ends=900.0) for _ in range(400)]
    asked: dict[int, list[float]] = {}
    for poll in watch(tasks, poll_per_second=10.0).polls:
        if poll.at < 900.0:
            asked.setdefault(poll.task, []).append(poll.at)
    counts = [len(times) for times in asked.values()]
    assert len(asked) == 400
    assert max(counts) - min(counts) <= 4
    gaps = [later - sooner for times in asked.values() for sooner, later in itertools.pairwise(times)]
    assert max(gaps) <= 60.0


def test_first_polls_of_resumed_tasks_are_spread_out() -> None:
    tasks = [Remote(accepted=-500.0, ends=-100.0, resumed=True) for _ in range(60)]
    seen = watch(tasks, poll_per_second=1000.0)
    assert len(seen.polls) == 60
    assert max(poll.at for poll in seen.polls) <= 3.5
    assert most_in(seen.polls, 0.5) <= 30


def test_a_resumed_task_that_goes_on_for_long_is_asked_twice_a_minute() -> None:
    seen = watch([Remote(accepted=-1000.0, ends=1000.0, resumed=True)])
    assert 30 <= len(seen.polls) <= 50


def test_refused_polls_slow_the_account_and_fail_no_task() -> None:
    tasks = [Remote(accepted=0.0, ends=30.0) for _ in range(200)]
    seen = watch(tasks, poll_per_second=20.0, refuses=lambda at, _: 10.0 <= at < 130.0)
    assert all(isinstance(end, Pictures) for end in seen.ends)
    refused = [poll for poll in seen.polls if poll.refused]
    assert len(refused) <= 200, "an account that refuses every poll was asked at its full rate"
    assert max(seen.noticed) <= 130.0 + 120.0


def test_an_account_that_refuses_does_not_slow_another() -> None:
    tasks = [Remote(accepted=0.0, ends=30.0, account=account) for account in ("good", "bad") for _ in range(50)]
    seen = watch(tasks, refuses=lambda at, account: account == "bad" and at < 300.0)
    assert max(seen.noticed[:50]) <= 60.0
    assert all(isinstance(end, Pictures) for end in seen.ends)


def test_a_server_that_refuses_every_poll_leaves_its_tasks_open_at_their_deadline() -> None:
    seen = watch([Remote(accepted=0.0, ends=30.0)] * 20, task_s=300.0, refuses=lambda _at, _account: True)
    assert [end.why for end in seen.left_open] == ["timed_out"] * 20


@pytest.mark.parametrize(
    ("says", "kept"),
    [
        (lambda at: ("fertig", f"https://files.invalid/0.png?sign={at}"), True),
        (lambda at: ("ENTWURF", f"https://files.invalid/preview-{at}.png"), False),
        (lambda at: ("fertig", "https://files.invalid/0.png" if at > 270.0 else ""), False),
        (lambda at: ("RUNNING", "https://files.invalid/preview.png"), False),
        (lambda at: ("fertig", ""), False),
    ],
    ids=["the same", "another each time", "for a moment only", "of a task that runs", "none"],
)
def test_results_beside_an_unknown_word_are_kept_at_the_deadline_if_they_stayed_the_same(
    says: Callable[[float], tuple[str, str]], *, kept: bool
) -> None:
    (end,) = watch([Remote(accepted=0.0, ends=0.0, says=says)], task_s=300.0).ends
    if kept:
        assert isinstance(end, Pictures)
        assert (len(end.refs), end.flags) == (1, ("unknown_state",))
    else:
        assert isinstance(end, StillRunning)


def test_the_same_seed_ask_at_the_same_moments() -> None:
    tasks = bell(5, 100, sigma=0.4)
    assert watch(tasks, seed=7).polls == watch(tasks, seed=7).polls


def test_a_whole_run_of_pictures_asks_seldom_even_under_poll_faults(harness: RunHarness) -> None:
    harness.world = World(5, faults=FaultRates.parse("poll-429=0.1"), latency=Latency(task_s=15.0, spread=0.3))
    report = harness.run(image(*(f"picture {number}" for number in range(120))))
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.sends == 120
    assert harness.stats.polls / 120 <= 4.5
