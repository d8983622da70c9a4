"""How much of a limit workers use together while they come, go and die, and that they never exceed it: virtual time.

The lanes are the coordinator's, the moments are held as a worker holds them; the requests are only counted.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchrunner.core.coordination import Coordinator
from batchrunner.core.coordination_messages import Claimed, Counts, End
from batchrunner.core.job import Limits
from batchrunner.engine.leased_pace import LeasedPace
from tests.coordination.test_claims import job
from tests.coordination.test_leases import lease

PER_S = 200.0
BURST = 20.0
ANSWER_S = 0.2
START_S = 3.0
STALL_S = 0.4
STEP_S = 0.005
LIMITS = f"limits: {{requests_per_minute: {PER_S * 60:g}, concurrency: 200}}"
DEATH, RESTART, STALL = "death", "restart", "stall"


def burst_of(times: list[float], per_s: float) -> float:
    """The smallest burst with which a bucket of this rate lets all of these through."""
    level, most, at = 0.0, 0.0, times[0]
    for time in times:
        level = max(0.0, level - (time - at) * per_s) + 1.0
        most, at = max(most, level), time
    return most


@dataclass(kw_only=True)
class Worker:
    """Takes a shard, sends its items at the moments that it is granted, waits for the answers, puts it down."""

    name: str
    begins: float
    shard: int | None = None
    left: int = 0
    asks_at: float = 0.0
    most: int = 0
    """Requests in flight, as it was told."""
    pace: LeasedPace = field(default_factory=lambda: LeasedPace(Limits()))
    answers: deque[float] = field(default_factory=deque)
    sent: list[float] = field(default_factory=list)

    def turn(self, one: Coordinator, now: float, items: list[int], *, is_there: bool) -> None:
        if now < self.begins:
            return
        if self.shard is None:
            claimed = one.claim(self.name, now=now) if is_there else Claimed(wait_s=0.1)
            if claimed.shard is None:
                self.begins = now + min(claimed.wait_s or 0.1, 0.5)
                return
            self.shard, self.left, self.asks_at = claimed.shard, items[claimed.shard], now + 0.1  # it opens its files
            self.pace = LeasedPace(Limits())
        while self.left and self.pace.wait_s(now) == 0.0 and len(self.answers) < self.most:
            self.pace.take(now)
            self.sent.append(now)
            self.answers.append(now + ANSWER_S)
            self.left -= 1
            items[self.shard] -= 1
        while self.answers and self.answers[0] <= now:
            self.answers.popleft()
            self.pace.accepted += 1
        if not is_there:
            return
        if not self.left and not self.answers:
            self._end(one, now)
        elif now >= self.asks_at:
            self._ask(one, now)

    def _ask(self, one: Coordinator, now: float) -> None:
        pace = self.pace
        want = pace.wanted(now, free=self.most - len(self.answers), waits=bool(self.left), left=self.left)
        granted = lease(
            one,
            self.name,
            now,
            want=want,
            used=pace.used,
            unused=pace.unused,
            accepted=pace.accepted,
            in_flight=len(self.answers),
        )
        pace.used = pace.unused = pace.accepted = 0
        pace.granted(granted, now)
        self.most = granted.concurrency
        self.asks_at = now + (0.02 if granted.requests else granted.again_s)

    def _end(self, one: Coordinator, now: float) -> None:
        assert self.shard is not None, "it has one"
        self.pace.gives_back()
        self._ask(one, now)
        epoch, counts = one.shards[self.shard].epoch, Counts(done=1)
        end = End(worker=self.name, shard=self.shard, epoch=epoch, outcome="finished", counts=counts)
        one.answer(end, now=now, wall=now)
        self.shard, self.begins = None, now + 0.1


def uneven(items: int, shards: int, chance: random.Random) -> list[int]:
    """Items of shards: by a hash, so that they differ."""
    left = [items // shards + (number < items % shards) for number in range(shards)]
    for _ in range(shards):
        one, other = chance.randrange(shards), chance.randrange(shards)
        moved = chance.randrange(left[one] // 10 + 1)
        left[one] -= moved
        left[other] += moved
    return left


def begun_again(before: Coordinator, limits: Path, now: float) -> Coordinator:
    """Another coordinator, with what the disk and the next beats say."""
    one = Coordinator(
        job(limits, LIMITS),
        digest="d",
        shards=len(before.shards),
        now=now,
        epochs={number: shard.epoch for number, shard in before.counts() if shard.epoch},
        finished=[number for number, shard in before.counts() if shard.outcome == "finished"],
        held=[number for number, shard in before.counts() if shard.is_held],
    )
    for number, shard in before.counts():
        one.shards[number].worker = shard.worker
    return one


def run(
    tmp_path: Path,
    *,
    items: int,
    shards: int,
    workers: int,
    deaths: Sequence[float] = (),
    restarts: Sequence[float] = (),
    stalls: Sequence[float] = (),
) -> tuple[list[float], float]:
    """When requests left, and the seconds from the first to the last. In a stall no worker does anything."""
    chance = random.Random(items)
    left, one = uneven(items, shards, chance), Coordinator(job(tmp_path, LIMITS), digest="d", shards=shards, now=0.0)
    there = [Worker(name=f"w{number}", begins=0.3 * number) for number in range(workers)]
    everybody, ahead = list(there), {DEATH: deque(deaths), RESTART: deque(restarts), STALL: deque(stalls)}
    back_at, now = 0.0, 0.0
    while any(left):
        now += STEP_S
        assert now < 600.0, "items are left that nobody sends"
        for what in [what for what, times in ahead.items() if times and times[0] <= now]:
            ahead[what].popleft()
            if what == DEATH:
                dead = there.pop(chance.randrange(len(there)))
                one.died(dead.name, now=now)
                there.append(Worker(name=f"w{len(everybody)}", begins=now + START_S))
                everybody.append(there[-1])
            elif what == RESTART:
                back_at = now + START_S
                one = begun_again(one, tmp_path, back_at)
            else:
                now += STALL_S
        for worker in there:
            worker.turn(one, now, left, is_there=now >= back_at)
    times = sorted(time for worker in everybody for time in worker.sent)
    return times, times[-1] - times[0]


@pytest.mark.parametrize(("workers", "shards"), [(2, 8), (4, 16), (8, 40)])
def test_shards_that_end_leave_their_part_of_the_limit_to_the_others_at_once(
    tmp_path: Path, workers: int, shards: int
) -> None:
    times, took_s = run(tmp_path, items=4000, shards=shards, workers=workers)
    assert len(times) / took_s >= 0.98 * PER_S
    assert burst_of(times, PER_S) <= BURST


def test_workers_that_die_and_coordinators_that_begin_again_use_the_limit_and_never_exceed_it(tmp_path: Path) -> None:
    deaths, restarts = [5.0 * n for n in range(1, 8)], [12.0, 24.0, 36.0]
    times, took_s = run(tmp_path, items=6000, shards=16, workers=4, deaths=deaths, restarts=restarts)
    assert len(times) / (took_s - len(restarts) * START_S) >= 0.98 * PER_S
    assert burst_of(times, PER_S) <= BURST


def test_what_is_late_after_a_stall_of_the_machine_does_not_overrun_the_servers_burst(tmp_path: Path) -> None:
    stalls = [2.0 + 2.5 * n for n in range(6)]
    times, took_s = run(tmp_path, items=3000, shards=8, workers=4, stalls=stalls)
    assert burst_of(times, PER_S) <= BURST + 1
    assert len(times) / (took_s - len(stalls) * STALL_S) >= 0.98 * PER_S


def test_a_few_refusals_do_not_lower_a_declared_pace_and_many_do(tmp_path: Path) -> None:
    for refused_of, keeps in ((150, True), (4, False)):
        one = Coordinator(job(tmp_path, LIMITS), digest="d", shards=1, now=0.0)
        one.claim("w0", now=0.0)
        now, granted, total = 0.5, 0, 0
        while now < 100.5:
            refused = granted // refused_of + (random.Random(now).random() < granted % refused_of / refused_of)
            counts = {"used": granted, "refused": refused, "accepted": granted - refused}
            granted = lease(one, "w0", now, want=100, **counts).requests  # type: ignore[arg-type]
            total, now = total + granted, now + 0.05
        assert (total >= 0.98 * 100.0 * PER_S) is keeps


def test_what_is_given_back_before_its_moment_is_anothers_at_the_same_moment(tmp_path: Path) -> None:
    one = Coordinator(job(tmp_path, LIMITS), digest="d", shards=2, now=0.0)
    assert [one.claim(name, now=0.0).shard for name in ("w0", "w1")] == [0, 1]
    first = lease(one, "w0", 0.5, want=20)
    second = lease(one, "w1", 0.5, want=20)
    assert second.first_s == pytest.approx(first.first_s + first.requests / PER_S)
    lease(one, "w0", 0.5, used=1, unused=first.requests - 1)
    again = lease(one, "w1", 0.5, want=99)
    assert again.requests == first.requests - 1
    assert again.first_s == pytest.approx(first.first_s + 1 / PER_S)
    assert lease(one, "w1", 0.5, want=99).first_s == pytest.approx(second.first_s + second.requests / PER_S)
