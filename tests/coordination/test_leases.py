"""What all workers may send together: pace, concurrency, quota, budget, parks. In virtual time."""

import random
from collections import deque
from pathlib import Path

import pytest

from batchrunner.core.coordination import Coordinator
from batchrunner.core.coordination_messages import Beat, Counts, End, Granted, LaneParked, Lease, Outcome, Spent
from tests.coordination.test_claims import job

LANE = " × m"
HEARD: dict[str, int] = {}
"""By worker: the number of the last reply that came to it."""


def coordinator(tmp_path: Path, extra: str, *, workers: int, now: float = 0.0) -> Coordinator:
    HEARD.clear()
    one = Coordinator(job(tmp_path, extra), digest="d", shards=workers, now=now)
    for number in range(workers):
        assert one.claim(f"w{number}", now=now).shard == number
    return one


def lease(one: Coordinator, worker: str, now: float, *, is_lost: bool = False, **fields: object) -> Granted:
    """The reply, which the worker hears unless it is lost."""
    for shard in one.shards:  # beats are other tests' matter
        if shard.held_until is not None:
            shard.held_until = now + 100.0
    held = {"worker": worker, "lane": LANE, "heard": HEARD.get(worker, 0), **fields}
    reply = one.answer(Lease(**held), now=now, wall=now)  # type: ignore[arg-type]
    assert isinstance(reply, Granted)
    if not is_lost:
        HEARD[worker] = reply.number
    return reply


def sends(one: Coordinator, *, workers: int, seconds: float, want: int = 50, seed: int = 0) -> list[float]:
    """When requests leave, of workers who always want more and send each at the moment that was granted."""
    chance, left, now = random.Random(seed), [], 0.0
    due = {f"w{number}": chance.random() * 0.1 for number in range(workers)}
    queues: dict[str, deque[float]] = {name: deque() for name in due}
    while now < seconds:
        name = min(due, key=lambda each: due[each])
        now = due[name]
        gone = [at for at in queues[name] if at <= now]
        left += gone
        for _ in gone:
            queues[name].popleft()
        granted = lease(one, name, now, want=want, used=len(gone), accepted=len(gone), in_flight=0)
        queues[name].extend(now + granted.first_s + n * granted.every_s for n in range(granted.requests))
        due[name] = now + granted.again_s * (1.0 + 0.5 * chance.random())
    return sorted(left)


def most_in(times: list[float], window_s: float) -> int:
    window: deque[float] = deque()
    most = 0
    for at in times:
        window.append(at)
        while window[0] <= at - window_s:
            window.popleft()
        most = max(most, len(window))
    return most


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
@pytest.mark.parametrize("per_s", [2, 20, 200])
def test_all_workers_together_keep_the_pace_and_use_it(tmp_path: Path, workers: int, per_s: int) -> None:
    limits = f"limits: {{requests_per_minute: {per_s * 60}, concurrency: 100}}"
    times = sends(coordinator(tmp_path, limits, workers=workers), workers=workers, seconds=20.0)
    assert len(times) >= 0.95 * per_s * 19.5 - 1
    assert most_in(times, 1.0) <= 1.06 * per_s + 1
    assert most_in(times, 0.1) <= 0.1 * per_s + 0.06 * per_s + 1


def test_a_worker_with_little_to_send_leaves_its_share_to_the_others(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {requests_per_minute: 1200, concurrency: 100}", workers=2)
    got, now, many = {"w0": 0, "w1": 0}, 0.5, 0
    while now < 10.5:
        got["w1"] += (few := lease(one, "w1", now, want=1, used=1 if got["w1"] else 0).requests)
        assert few <= 1
        for _ in range(4):
            got["w0"] += (many := lease(one, "w0", now, want=50, used=many, accepted=many).requests)
        now += 0.25
    assert got["w0"] + got["w1"] >= 190
    assert got["w0"] > 3 * got["w1"]


def test_a_new_coordinator_begins_with_nothing(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {requests_per_minute: 12000, concurrency: 100}", workers=1)
    granted = lease(one, "w0", 0.0, want=50)
    assert granted.requests == 0 or granted.first_s >= 0.5


def test_who_holds_no_shard_is_granted_nothing(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {concurrency: 4}", workers=1)
    granted = lease(one, "stranger", 1.0, want=5)
    assert (granted.requests, granted.concurrency) == (0, 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_concurrency_is_divided_and_never_adds_up_to_more(tmp_path: Path, workers: int) -> None:
    one = coordinator(tmp_path, "limits: {concurrency: 5}", workers=workers)
    in_flight = dict.fromkeys((f"w{number}" for number in range(workers)), 0)
    told = dict.fromkeys(in_flight, 0)
    chance, most, now = random.Random(workers), 0, 1.0
    for _ in range(600):
        name = chance.choice(list(in_flight))
        now += 0.02
        done = chance.randint(0, in_flight[name])
        in_flight[name] -= done
        granted = lease(one, name, now, want=9, in_flight=in_flight[name], accepted=done)
        told[name] = granted.concurrency
        room = max(0, told[name] - in_flight[name])
        in_flight[name] += min(room, granted.requests)
        sent = min(room, granted.requests)
        lease(one, name, now, in_flight=in_flight[name], used=sent, unused=granted.requests - sent)
        most = max(most, sum(in_flight.values()))
        assert sum(in_flight.values()) <= 5
    assert most == 5


def test_the_limiter_is_the_coordinators_and_counts_refusals_of_all(tmp_path: Path) -> None:
    """A server of 50 a second with a strict bucket, its limit unknown: the rate is found by all workers together."""
    one = coordinator(tmp_path, "limits: {concurrency: 64}", workers=4)
    queues: dict[str, list[float]] = {f"w{number}": [] for number in range(4)}
    told = {name: [0, 0] for name in queues}
    level, at, sums, now = 5.0, 0.0, [0, 0], 0.0
    for step in range(4000):
        now += 0.025
        for moment, name in sorted((each, name) for name, queue in queues.items() for each in queue if each <= now):
            level, at = min(5.0, level + 50.0 * (moment - at)), moment
            is_refused = level < 1.0
            level -= not is_refused
            told[name][is_refused] += 1
            sums[is_refused] += now > 20.0
        for name, queue in queues.items():
            queues[name] = [each for each in queue if each > now]
        name = f"w{step % 4}"
        accepted, refused = told[name]
        told[name] = [0, 0]
        granted = lease(one, name, now, want=16, used=accepted + refused, accepted=accepted, refused=refused)
        queues[name] += [now + granted.first_s + n * granted.every_s for n in range(min(16, granted.requests))]
    assert sums[0] > 0.5 * 50 * 80
    assert sums[1] < 0.12 * sums[0]


def test_the_requests_of_a_day_are_those_of_all_and_unused_ones_come_back(tmp_path: Path) -> None:
    limits = "limits: {requests_per_day: 10, concurrency: 100}"
    one = Coordinator(job(tmp_path, limits), digest="d", shards=2, now=0.0, sent_today={LANE: 3})
    assert [one.claim(name, now=0.0).shard for name in ("w0", "w1")] == [0, 1]
    first = lease(one, "w0", 1.0, want=5)
    second = lease(one, "w1", 1.0, want=5)
    assert (first.requests, second.requests, second.day_left) == (5, 2, 0)
    assert lease(one, "w1", 1.1, want=5, used=2).requests == 0
    assert lease(one, "w0", 1.2, want=5, used=2, unused=3).requests == 3
    assert lease(one, "w0", 86_400.0 + 5.0, want=50).requests == 10


def test_tokens_a_minute_are_those_of_all(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {tokens_per_minute: 60000, concurrency: 100}", workers=2)
    tokens, now = 0, 0.0
    while now < 30.0:
        now += 0.05
        for name in ("w0", "w1"):
            granted = lease(one, name, now, want=4, tokens=2000)
            assert granted.tokens >= 500 * granted.requests
            tokens += 500 * granted.requests
            lease(one, name, now, used=granted.requests, accepted=granted.requests)
    assert 0.9 * 30_000 <= tokens <= 1.05 * 30_000


def test_a_park_is_everybodys_and_one_request_finds_out_whether_it_is_over(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {concurrency: 8}", workers=2)
    assert lease(one, "w0", 1.0, want=2).requests == 2
    park = LaneParked(reason="daily quota used up", kind="quota", until=50.0)
    assert lease(one, "w0", 2.0, want=2, used=2, refused=2, parked=park).parked == park
    assert lease(one, "w1", 2.0, want=2).parked == park
    assert lease(one, "w1", 2.0, want=2).requests == 0
    probe = lease(one, "w1", 51.0, want=9)
    assert (probe.requests, probe.probe) == (1, True)
    assert lease(one, "w0", 51.0, want=9).requests == 0
    assert lease(one, "w1", 52.0, want=9, used=1, accepted=1).parked is None
    assert lease(one, "w0", 53.0, want=9).requests > 0


def test_a_probe_whose_worker_died_is_another_ones(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {concurrency: 8}", workers=2)
    lease(one, "w0", 1.0, parked=LaneParked(reason="overloaded", until=2.0))
    assert lease(one, "w0", 3.0, want=1).probe
    assert not lease(one, "w1", 3.0, want=1).probe
    one.died("w0", now=3.1)
    assert lease(one, "w1", 3.1, want=1).probe


@pytest.mark.parametrize("seed", range(5))
def test_no_budget_is_exceeded_and_all_of_it_is_used(tmp_path: Path, seed: int) -> None:
    """Workers spend what they were told at any time after, and hear of changes late."""
    one = coordinator(tmp_path, "budget: {calls: 100}\nlimits: {concurrency: 50}", workers=4)
    chance, now, stops = random.Random(seed), 1.0, 0
    spent, left = dict.fromkeys(("w0", "w1", "w2", "w3"), 0.0), dict.fromkeys(("w0", "w1", "w2", "w3"), 0.0)
    for _ in range(3000):
        now += 0.01
        name = chance.choice(list(spent))
        if chance.random() < 0.5:
            use = min(chance.randint(0, 4), int(left[name]))
            spent[name], left[name] = spent[name] + use, left[name] - use
        need = None if left[name] >= 1.0 else Spent(calls=1)
        granted = lease(one, name, now, want=5, spent=Spent(calls=spent[name]), need=need)
        assert granted.budget_left is not None
        assert granted.budget_left.calls is not None
        left[name] = granted.budget_left.calls
        assert sum(spent.values()) <= 100
        stops += granted.stop == "budget"
        if stops:
            break
    assert stops
    assert sum(spent.values()) == 100


def test_what_a_worker_might_have_spent_is_free_once_it_has_put_its_shard_down(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "budget: {calls: 10}\nlimits: {concurrency: 50}", workers=2)
    first = lease(one, "w0", 1.0, want=5, spent=Spent(calls=1)).budget_left
    assert first is not None
    assert first.calls == 9
    second = lease(one, "w1", 1.0, want=5, spent=Spent()).budget_left
    assert second is not None
    assert second.calls == 0
    one.answer(
        End(worker="w0", shard=0, epoch=1, outcome="finished", counts=Counts(done=2, paid_calls=2)), now=1.5, wall=1.5
    )
    third = lease(one, "w1", 3.0, want=5, spent=Spent()).budget_left
    assert third is not None
    assert third.calls == 8


@pytest.mark.parametrize("outcome", ["finished", "paused", "lost"])
def test_a_worker_that_has_put_its_shard_down_keeps_nothing_of_the_concurrency(
    tmp_path: Path, outcome: Outcome
) -> None:
    one = coordinator(tmp_path, "limits: {requests_per_minute: 6000, concurrency: 4}", workers=2)
    lease(one, "w0", 0.6, want=4)
    lease(one, "w0", 0.7, want=0, used=4, in_flight=4)  # the last that is heard of it
    assert lease(one, "w1", 0.7, want=4).concurrency == 0
    one.answer(End(worker="w0", shard=0, epoch=1, outcome=outcome, counts=Counts()), now=0.8, wall=0.8)
    granted = lease(one, "w1", 0.9, want=4)
    assert (granted.concurrency, granted.requests > 0) == (4, True)


def test_a_worker_that_asks_for_a_shard_again_begins_with_nothing(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {concurrency: 4}", workers=2)
    lease(one, "w0", 0.6, want=4)
    lease(one, "w0", 0.7, want=0, used=4, in_flight=4)
    one.answer(Beat(worker="w0", shard=0, epoch=1, counts=Counts()), now=0.7, wall=0.7)
    one.claim("w0", now=0.8)
    assert lease(one, "w1", 0.9, want=4).concurrency == 4


def test_where_no_call_of_the_budget_is_left_at_the_beginning_everybody_learns_it(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "budget: {calls: 50}", workers=2)
    one.lanes.spent.update({0: Spent(calls=30.0), 1: Spent(calls=20.0)})
    assert lease(one, "w0", 0.6, want=0, spent=Spent(calls=30.0)).stop is None
    assert lease(one, "w0", 0.6, want=1, spent=Spent(calls=30.0)).stop == "budget"


def test_the_last_call_of_a_budget_goes_to_one_of_several_workers(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "budget: {calls: 1}", workers=3)
    aside = {f"w{number}": 0.0 for number in range(3)}
    for time in range(20):
        for worker, calls in aside.items():
            granted = lease(one, worker, 0.6 + 0.01 * time, want=5, spent=Spent(), set_aside=Spent(calls=calls))
            aside[worker] = max(calls, float(granted.requests))
    assert sum(aside.values()) == 1.0


def test_a_part_that_gets_smaller_is_free_only_when_its_worker_has_learned_of_it(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "budget: {calls: 20}", workers=2)
    first = lease(one, "w0", 0.6, want=5, spent=Spent(), set_aside=Spent())
    assert first.budget_left is not None
    assert first.budget_left.calls == 20
    lease(one, "w1", 0.7, want=5, spent=Spent(), set_aside=Spent())
    smaller = lease(one, "w0", 0.8, want=5, spent=Spent(), set_aside=Spent())  # meanwhile it set all of it aside
    assert smaller.budget_left is not None
    assert smaller.budget_left.calls == 0
    other = lease(one, "w1", 0.9, want=5, spent=Spent(), set_aside=Spent()).budget_left
    assert other is not None
    assert other.calls == 0


@pytest.mark.parametrize("lost", [1, 3, 30])
def test_a_part_is_not_given_to_others_while_the_replies_that_made_it_smaller_were_lost(
    tmp_path: Path, lost: int
) -> None:
    one = coordinator(tmp_path, "budget: {calls: 20}", workers=2)
    first = lease(one, "w0", 0.6, want=5, spent=Spent(), set_aside=Spent()).budget_left
    assert first is not None
    assert first.calls == 20
    for each in range(lost):
        lease(one, "w1", 0.7 + each, want=5, spent=Spent(), set_aside=Spent())
        lease(one, "w0", 0.8 + each, want=5, spent=Spent(), set_aside=Spent(), is_lost=True)
        other = lease(one, "w1", 0.9 + each, want=5, spent=Spent(), set_aside=Spent()).budget_left
        assert other is not None
        assert other.calls == 0
    for later in (1.0, 1.1):  # now they come
        lease(one, "w0", lost + later, want=5, spent=Spent(), set_aside=Spent())
    other = lease(one, "w1", lost + 1.2, want=5, spent=Spent(), set_aside=Spent()).budget_left
    assert other is not None
    assert other.calls == 10


def test_what_a_worker_had_in_flight_at_its_last_lease_is_free_once_it_has_put_its_shard_down(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {concurrency: 8}", workers=2)
    assert lease(one, "w0", 1.0, want=8).concurrency == 8
    lease(one, "w0", 1.1, want=8, used=8, in_flight=8)
    assert lease(one, "w1", 1.2, want=8).concurrency == 0
    one.answer(End(worker="w0", shard=0, epoch=1, outcome="finished", counts=Counts(done=8)), now=1.3, wall=1.3)
    assert lease(one, "w1", 1.4, want=1).concurrency == 8


def test_a_worker_that_has_no_part_yet_gets_one_though_it_wants_nothing_in_between(tmp_path: Path) -> None:
    one = coordinator(tmp_path, "limits: {concurrency: 8}", workers=2)
    assert lease(one, "w0", 1.0, want=8).concurrency == 8
    lease(one, "w1", 1.1, want=1)
    lease(one, "w1", 1.2, want=0)
    assert lease(one, "w0", 1.3, want=8, in_flight=4).concurrency == 4
    assert lease(one, "w1", 1.4, want=1).concurrency == 4
