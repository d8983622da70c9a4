"""The governor finds walls that nobody told it, and does not see walls where there are none."""

import heapq
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.rate_limiter import AdaptiveLimiter, Ticket

REFUSAL_S = 0.05


class Play:
    """A governor against a pretend server, event by event, without a clock of its own."""

    def __init__(
        self,
        limiter: AdaptiveLimiter,
        takes: Callable[[float, int], bool],
        *,
        latency_s: float,
        seed: int = 1,
        way_s: float = 0.0,
    ) -> None:
        self.way_s = way_s
        """How long an answer is on its way back, in the mean: its place at the server is free before it is heard."""
        self.limiter, self.takes, self.latency_s = limiter, takes, latency_s
        self.random_source = random.Random(seed)
        self.done: list[float] = []
        self.refused: list[float] = []
        self.in_flight = self.busy = self.order = 0
        self.most_in_flight = 0
        self.looks_at = 0.0

    def run(self, *, until: float, failing: float = 0.0) -> "Play":
        events: list[tuple[float, int, str, Ticket | None]] = [(0.0, 0, "look", None)]
        while events and events[0][0] < until:
            now, _, what, ticket = heapq.heappop(events)
            self.busy -= what == "freed"
            if ticket is not None:
                self._observe(now, what, ticket)
            self._send(now, events, failing)
        return self

    def _observe(self, now: float, what: str, ticket: Ticket) -> None:
        self.in_flight -= 1
        if what == "refused":
            self.limiter.refused(now, ticket)
            self.refused.append(now)
            return
        self.busy -= not self.way_s
        if what == "failed":
            self.limiter.withdrawn(ticket)
            self.limiter.failed(now)
        else:
            self.limiter.accepted(now, ticket)
            self.done.append(now)

    def _send(self, now: float, events: list[tuple[float, int, str, Ticket | None]], failing: float) -> None:
        while self.in_flight < self.limiter.limit:
            self.order += 1
            wait_s = self.limiter.wait_s(now)
            if wait_s > 1e-9:
                if not now < self.looks_at <= now + wait_s:
                    self.looks_at = now + wait_s
                    heapq.heappush(events, (self.looks_at, self.order, "look", None))
                return
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            ticket = self.limiter.sent(now, in_flight=self.in_flight)
            if not self.takes(now, self.busy):
                heapq.heappush(events, (now + REFUSAL_S, self.order, "refused", ticket))
                continue
            self.busy += 1
            ends = now + self.latency_s * self.random_source.uniform(0.8, 1.2)
            if self.way_s:
                heapq.heappush(events, (ends, self.order, "freed", None))
                ends += self.random_source.expovariate(1.0 / self.way_s)
            heapq.heappush(
                events, (ends, self.order, "failed" if self.random_source.random() < failing else "done", ticket)
            )

    def share_refused(self, since: float) -> float:
        refused = sum(at >= since for at in self.refused)
        return refused / max(1, refused + sum(at >= since for at in self.done))


def auto(start: int = 4) -> AdaptiveLimiter:
    return AdaptiveLimiter(limit=start, ceiling=1024, adaptive=True)


def bucket(per_s: float, burst: float) -> Callable[[float, int], bool]:
    level, last = burst, 0.0

    def takes(now: float, _busy: int) -> bool:
        nonlocal level, last
        level, last = min(burst, level + (now - last) * per_s), now
        if level < 1.0 - 1e-9:
            return False
        level -= 1.0
        return True

    return takes


@pytest.mark.parametrize("count", [4, 16, 64])
def test_a_server_that_counts_what_is_in_flight_is_filled_to_its_last_slot(count: int) -> None:
    play = Play(auto(), lambda _now, busy: busy < count, latency_s=1.0).run(until=160.0)
    assert count <= play.limiter.limit <= count + max(1, count // 10)
    assert play.share_refused(60.0) <= 0.03
    assert len([at for at in play.done if at >= 60.0]) >= 0.95 * 100 * count


@pytest.mark.parametrize("burst", [1.0, 100.0])
def test_a_server_that_counts_the_minute_is_met_at_its_rate_whatever_its_burst(burst: float) -> None:
    play = Play(auto(), bucket(10.0, burst), latency_s=0.5).run(until=600.0)
    assert len([at for at in play.done if at >= 120.0]) >= 0.93 * 10.0 * 480
    assert play.share_refused(120.0) <= 0.03


def test_a_rate_that_halves_is_followed_down() -> None:
    fast, slow = bucket(10.0, 10.0), bucket(5.0, 1.0)
    play = Play(auto(), lambda now, busy: (fast if now < 200 else slow)(now, busy), latency_s=0.5).run(until=500.0)
    assert play.share_refused(260.0) <= 0.05
    assert len([at for at in play.done if at >= 260.0]) >= 0.9 * 5.0 * 240


def test_refusals_by_chance_do_not_make_it_creep() -> None:
    random_source = random.Random(3)
    limiter = AdaptiveLimiter(limit=10, ceiling=10, adaptive=False)
    play = Play(limiter, lambda _now, _busy: random_source.random() >= 0.2, latency_s=0.05).run(until=30.0)
    assert len(play.done) >= 0.7 * 30.0 * 10 / 0.05 * 0.8


def test_five_failures_in_a_hundred_do_not_shrink_the_window() -> None:
    play = Play(auto(16), lambda _now, busy: busy < 16, latency_s=0.5).run(until=200.0, failing=0.05)
    assert play.limiter.limit >= 16


def test_a_server_that_mostly_fails_is_asked_less() -> None:
    play = Play(auto(64), lambda _now, _busy: True, latency_s=0.5).run(until=20.0, failing=0.9)
    assert play.limiter.limit <= 8


def test_growing_stops_where_more_in_flight_brings_no_more_answers() -> None:
    class Queueing(Play):
        """Eight workers and an endless queue: latency grows with what is in flight."""

        def _send(self, now: float, events: list[tuple[float, int, str, Ticket | None]], failing: float) -> None:
            self.latency_s = max(1.0, (self.busy + 1) / 8.0)
            super()._send(now, events, failing)

    play = Queueing(auto(), lambda _now, _busy: True, latency_s=1.0).run(until=150.0)
    assert play.limiter.limit < 200


def test_milliseconds_that_this_program_takes_itself_do_not_hold_the_limit_down() -> None:
    class OwnWork(Play):
        """Each answer costs this program a quarter of a millisecond, one after the other; the server costs 2 ms."""

        def _send(self, now: float, events: list[tuple[float, int, str, Ticket | None]], failing: float) -> None:
            self.latency_s = 0.002 + self.in_flight * 0.00025
            super()._send(now, events, failing)

    play = OwnWork(auto(), lambda _now, _busy: True, latency_s=0.002).run(until=8.0)
    assert 64 < play.limiter.limit < 512


def test_a_fixed_number_is_a_ceiling_and_stays() -> None:
    limiter = AdaptiveLimiter(limit=7, ceiling=7, adaptive=False)
    play = Play(limiter, lambda _now, busy: busy < 3, latency_s=0.2).run(until=60.0)
    assert limiter.limit == 7
    assert play.most_in_flight <= 7


def test_one_event_is_one_decrease() -> None:
    limiter = auto(100)
    tickets = [limiter.sent(0.0, in_flight=number) for number in range(1, 101)]
    for ticket in tickets[:50]:
        limiter.accepted(1.0, ticket)
    for ticket in tickets[50:]:
        limiter.refused(1.0, ticket)
    assert limiter.limit >= 50


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["accepted", "refused", "failed", "withdrawn"]),
            st.floats(min_value=0.0, max_value=10.0),
            st.integers(min_value=1, max_value=50),
        ),
        max_size=200,
    )
)
def test_whatever_happens_it_lets_something_through_at_last(events: list[tuple[str, float, int]]) -> None:
    limiter = auto()
    now = 0.0
    for what, pause, in_flight in events:
        now += pause + limiter.wait_s(now)
        ticket = limiter.sent(now, in_flight=in_flight)
        now += 0.1
        if what == "failed":
            limiter.failed(now)
        elif what == "withdrawn":
            limiter.withdrawn(ticket)
        else:
            getattr(limiter, what)(now, ticket)
        assert 1 <= limiter.limit <= 1024
        assert limiter.wait_s(now) <= 100.0, limiter


def test_a_pace_found_far_too_low_does_not_freeze() -> None:
    limiter = AdaptiveLimiter(limit=4, ceiling=64, adaptive=True, rate_per_s=0.03)
    play = Play(limiter, lambda _now, _busy: True, latency_s=0.5).run(until=300.0)
    assert len([at for at in play.done if at >= 200.0]) >= 100 * 2


def test_a_pace_found_far_too_low_before_a_slow_server_climbs_to_it() -> None:
    limiter = AdaptiveLimiter(limit=3, ceiling=64, adaptive=True, rate_per_s=0.02)
    play = Play(limiter, bucket(0.5, 1.0), latency_s=0.7).run(until=1200.0)
    assert len([at for at in play.done if at >= 600.0]) >= 0.85 * 0.5 * 600


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_slots_stay_slots_where_answers_arrive_a_little_late(seed: int) -> None:
    play = Play(auto(), lambda _now, busy: busy < 8, latency_s=0.5, way_s=0.01, seed=seed).run(until=120.0)
    assert play.limiter.limit in {8, 9}, "the window's wall was taken for one of the pace"
    assert len([at for at in play.done if at >= 30.0]) >= 0.93 * 90 * 8 / 0.5
    assert play.share_refused(30.0) <= 0.04


def test_answers_of_milliseconds_do_not_send_a_dozen_into_the_first_limit() -> None:
    limiter = auto(16)
    limiter.accepted(0.002, limiter.sent(0.0, in_flight=1))
    now, left = 0.002, 0
    while (now := now + limiter.wait_s(now)) < 0.002 + REFUSAL_S:
        limiter.sent(now, in_flight=1)
        left += 1
    assert left <= 9


def test_a_server_that_takes_one_at_a_time_is_not_slowed_down_by_a_pace() -> None:
    play = Play(auto(), lambda _now, busy: busy < 1, latency_s=0.6).run(until=600.0)
    assert len([at for at in play.done if at >= 120.0]) >= 0.9 * 480 / 0.6
    assert play.limiter.limit == 1


def test_what_was_taken_for_chance_and_becomes_the_rule_is_a_limit() -> None:
    random_source = random.Random(3)
    slow = bucket(1.0, 1.0)

    def takes(now: float, busy: int) -> bool:
        return random_source.random() >= 0.2 if now < 20.0 else slow(now, busy)

    play = Play(AdaptiveLimiter(limit=10, ceiling=10, adaptive=False), takes, latency_s=0.05).run(until=120.0)
    assert sum(at >= 30.0 for at in play.refused) <= 60


def test_a_rate_that_doubles_is_followed_up_within_a_minute() -> None:
    slow, fast = bucket(0.5, 1.0), bucket(1.0, 1.0)
    play = Play(auto(), lambda now, busy: (slow if now < 300 else fast)(now, busy), latency_s=0.5).run(until=600.0)
    assert len([at for at in play.done if at >= 360.0]) >= 0.9 * 240


@pytest.mark.parametrize("told", [True, False])
def test_a_server_that_let_nothing_through_states_nothing_about_its_rate(*, told: bool) -> None:
    limiter, now = auto(), 0.0
    for _ in range(6):
        limiter.refused(now + REFUSAL_S, limiter.sent(now, in_flight=1))
        now += 3.0
    if not told:
        limiter.restore_rate(now)
    for number in (1, 2):
        limiter.accepted(now + REFUSAL_S, limiter.sent(now, in_flight=number))
    assert (limiter.wait_s(now) < 1.0) != told
