"""Who has which shard: claims, beats, epochs, and what a coordinator that begins again knows. In virtual time."""

import random
from pathlib import Path

import pytest

from batchrunner import load_job
from batchrunner.core.coordination import MOST_LOSSES, Coordinator
from batchrunner.core.coordination_messages import Beat, Beaten, Claimed, Counts, Declined, End, Ended, Hello, Outcome
from batchrunner.core.job import Job

T = 6.0


def job(tmp_path: Path, extra: str = "") -> Job:
    path = tmp_path / "job.yaml"
    path.write_text(f"provider: simulator\nmodel: m\nprompts: [a]\n{extra}\n")
    return load_job(str(path))


@pytest.fixture
def desk(tmp_path: Path) -> Coordinator:
    return Coordinator(job(tmp_path), digest="d", shards=3, now=0.0, expires_s=T)


def beat(one: Coordinator, worker: str, claimed: Claimed, now: float, done: int = 0) -> bool:
    assert claimed.shard is not None
    assert claimed.epoch is not None
    said = Beat(worker=worker, shard=claimed.shard, epoch=claimed.epoch, counts=Counts(done=done))
    reply = one.answer(said, now=now, wall=now)
    assert isinstance(reply, Beaten)
    return reply.ok


def end(
    one: Coordinator, worker: str, claimed: Claimed, outcome: Outcome, now: float, *, later: float | None = None
) -> bool:
    assert claimed.shard is not None
    assert claimed.epoch is not None
    said = End(worker=worker, shard=claimed.shard, epoch=claimed.epoch, outcome=outcome, not_before_s=later)
    reply = one.answer(said, now=now, wall=now)
    assert isinstance(reply, Ended)
    return reply.ok


def test_each_worker_gets_a_shard_of_its_own_and_the_next_one_waits(desk: Coordinator) -> None:
    given = [desk.claim(name, now=1.0) for name in "abc"]
    assert sorted((one.shard, one.epoch) for one in given) == [(0, 1), (1, 1), (2, 1)]
    waits = desk.claim("d", now=1.0).wait_s
    assert waits is not None
    assert 0 < waits <= T / 3


def test_a_claim_whose_reply_was_lost_is_answered_with_the_same_shard(desk: Coordinator) -> None:
    first = desk.claim("a", now=1.0)
    assert desk.claim("a", now=2.0) == first


def test_a_shard_without_a_beat_is_given_away_as_its_next_epoch_and_its_old_holder_is_refused(
    desk: Coordinator,
) -> None:
    first = desk.claim("a", now=0.0)
    for name in "bc":
        claimed = desk.claim(name, now=0.0)
        assert beat(desk, name, claimed, 7.0)
    assert desk.claim("d", now=7.0).shard is None, "the grace has not passed"
    second = desk.claim("d", now=8.0)
    assert (second.shard, second.epoch) == (first.shard, 2)
    assert not beat(desk, "a", first, 8.1)
    assert not end(desk, "a", first, "finished", 8.1)
    assert beat(desk, "d", second, 8.1)


def test_beats_keep_a_shard_for_ever(desk: Coordinator) -> None:
    claimed = desk.claim("a", now=0.0)
    assert all(beat(desk, "a", claimed, 2.0 * step) for step in range(100))


def test_a_proven_death_frees_the_shard_at_once(desk: Coordinator) -> None:
    first = desk.claim("a", now=0.0)
    desk.died("a", now=0.0)
    second = desk.claim("b", now=0.0)
    third = desk.claim("c", now=0.0)
    fourth = desk.claim("d", now=0.0)
    assert (first.shard, 2) in {(one.shard, one.epoch) for one in (second, third, fourth)}


def test_a_shard_that_was_put_down_in_order_goes_on_in_the_same_epoch(desk: Coordinator) -> None:
    first = desk.claim("a", now=0.0)
    assert end(desk, "a", first, "paused", 1.0, later=5.0)
    others = [desk.claim(name, now=1.0).shard for name in "bc"]
    assert first.shard not in others
    assert desk.claim("d", now=1.0).wait_s == pytest.approx(T / 3)
    again = desk.claim("d", now=6.0)
    assert (again.shard, again.epoch) == (first.shard, 1)


def test_when_all_are_finished_workers_learn_it(desk: Coordinator) -> None:
    for _ in range(3):
        assert end(desk, "a", desk.claim("a", now=0.0), "finished", 0.5)
    assert desk.is_finished
    assert desk.claim("a", now=1.0) == Claimed(finished=True)


@pytest.mark.parametrize(("outcome", "stop"), [("paused", "paused"), ("failed", "failed")])
def test_what_cannot_go_on_ends_the_workers(desk: Coordinator, outcome: Outcome, stop: str) -> None:
    for _ in range(2):
        assert end(desk, "a", desk.claim("a", now=0.0), "finished", 0.5)
    assert end(desk, "a", desk.claim("a", now=0.0), outcome, 0.5)
    assert desk.claim("a", now=1.0).stop == stop
    assert not desk.is_finished
    assert desk.is_over


def test_a_signal_reaches_everybody_with_the_next_beat(desk: Coordinator) -> None:
    claimed = desk.claim("a", now=0.0)
    assert claimed.shard is not None
    assert claimed.epoch is not None
    desk.drain("signal")
    reply = desk.answer(Beat(worker="a", shard=claimed.shard, epoch=claimed.epoch), now=1.0, wall=1.0)
    assert reply == Beaten(ok=True, stop="signal")
    assert desk.claim("b", now=1.0).stop == "signal"
    assert not desk.is_over
    assert end(desk, "a", claimed, "paused", 2.0)
    assert desk.is_over


def test_a_shard_that_kills_each_of_its_workers_is_given_up_and_one_that_comes_on_is_not(tmp_path: Path) -> None:
    one = Coordinator(job(tmp_path), digest="d", shards=1, now=0.0)
    for step in range(3 * MOST_LOSSES):
        claimed = one.claim(f"w{step}", now=0.0)
        assert claimed.epoch == step + 1
        assert beat(one, f"w{step}", claimed, 0.0, done=step + 1)
        one.died(f"w{step}", now=0.0)
    for step in range(MOST_LOSSES - 1):
        assert one.claim(f"x{step}", now=0.0).shard == 0
        one.died(f"x{step}", now=0.0)
    assert one.claim("y", now=0.0).stop == "failed"


def test_a_new_coordinator_waits_for_the_beats_of_those_whom_the_old_one_knew(tmp_path: Path) -> None:
    one = Coordinator(job(tmp_path), digest="d", shards=2, now=100.0, epochs={0: 3, 1: 1}, held={0, 1})
    assert one.claim("new", now=101.0).wait_s is not None
    old = Claimed(shard=0, epoch=3)
    assert beat(one, "old", old, 102.0)
    assert not beat(one, "stale", Claimed(shard=1, epoch=7), 102.0)
    taken = one.claim("new", now=108.0)
    assert (taken.shard, taken.epoch) == (1, 2)
    assert beat(one, "old", old, 108.0)


def test_a_worker_that_asks_a_new_coordinator_for_a_shard_has_put_its_old_one_down(tmp_path: Path) -> None:
    one = Coordinator(job(tmp_path), digest="d", shards=1, now=0.0, epochs={0: 1}, held={0})
    assert beat(one, "a", Claimed(shard=0, epoch=1), 1.0)
    assert one.claim("a", now=2.0) == Claimed(shard=0, epoch=2)


def test_a_worker_with_another_job_is_refused(desk: Coordinator) -> None:
    reply = desk.answer(Hello(worker="a", pid=1, host="h", job="other", version="1"), now=0.0, wall=0.0)
    assert isinstance(reply, Declined)
    assert reply.kind == "job"
    assert "--set" in reply.error


@pytest.mark.parametrize("seed", range(8))
def test_no_two_workers_who_get_ok_ever_have_one_shard(tmp_path: Path, seed: int) -> None:
    """Workers beat, stall, die, put down; each believes its claim for T after the beat that was answered last."""
    chance, now = random.Random(seed), 0.0
    one = Coordinator(job(tmp_path), digest="d", shards=4, now=0.0, expires_s=T)
    believed: dict[str, tuple[Claimed, float]] = {}
    for step in range(3000):
        now += chance.random() * 2.0
        name = f"w{chance.randrange(6)}"
        believed = {who: it for who, it in believed.items() if it[1] > now}
        if name not in believed:
            claimed = one.claim(f"{name}", now=now)
            if claimed.shard is not None:
                believed[name] = (claimed, now + T)
        elif chance.random() < 0.7:
            claimed, _ = believed[name]
            if beat(one, name, claimed, now, done=step):
                believed[name] = (claimed, now + T)
            else:
                del believed[name]
        elif chance.random() < 0.2:
            one.died(name, now=now)
            del believed[name]
        shards = [claimed.shard for claimed, _ in believed.values()]
        assert len(shards) == len(set(shards))
