"""What all workers of a job may send together: one pace, one concurrency, one daily quota, one budget. Pure.

Requests of a lane are granted as moments: each may leave at a time of its own, and the times of all workers together
keep the lane's pace, so no burst adds up. What is granted ahead is worth `HORIZON_S`; a new coordinator, which does not
know what the last one granted, begins after that. Concurrency and budget are escrows: the parts that workers have been
told never add up to more than there is, whenever they hear of a change.
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

from batchrunner.core.coordination_messages import Counts, Granted, LaneParked, Lease, Left, Spent, Stop, changed
from batchrunner.core.job import Job
from batchrunner.core.pacing import Bucket, day_of
from batchrunner.core.presets import PRESETS
from batchrunner.core.rate_limiter import AdaptiveLimiter, Ticket
from batchrunner.core.rate_limiter_tuning import CEILING
from batchrunner.core.values import dataclass, field

HORIZON_S: Final = 0.5
"""How far ahead requests are granted."""
CHUNK_S: Final = 0.25
"""A grant is at most the worker's share of so many seconds' worth."""
VALID_S: Final = 1.0
"""How late a granted request may leave: with the horizon, less than 2 s after it was granted."""
LATE_S: Final = 0.1
"""The same where there is a pace, or until the next moment: after a stall all that is late leaves at once, and what is
worth more than that overruns the server's own burst. Shards that divide a limit save up as much.
"""
_CHANCE: Final = 0.01
"""Share of refusals that a declared pace is kept in spite of: requests were late, or the server was. The limiter, which
would lower it, hears of what is beyond that and beyond `LATE_S` worth at once.
"""
_AGAIN_S: Final = 0.1
_ACTIVE_S: Final = 1.5
"""Whoever wanted to send so lately shares in what there is."""
_GRAIN_S: Final = 0.05
"""What is made good where nobody asked in time."""
_UNPACED: Final = 1000
"""Requests of one grant where no pace is known: the concurrency limits those."""
_PROBE_S: Final = 120.0
"""Whoever probes a parked lane and says nothing for so long does not come back."""
_PARKED_AGAIN_S: Final = 1.0
_NOTHING: Final = 1e-9
_UNHEARD: Final = 8
"""Replies that are remembered one by one; of more, the earliest are taken together."""
_UNITS: Final = ("calls", "tokens", "points", "money")


@dataclass(slots=True)
class _Sender:
    """A worker, on one lane."""

    wanted_at: float = -math.inf
    """A worker that was told to have nothing in flight may want nothing in between."""
    in_flight: int = 0
    told: int = 0
    """The concurrency that it was told last."""
    granted: "deque[Ticket]" = field(default_factory=deque)
    """What it may send, or has not said that it sent."""
    sent: "deque[Ticket]" = field(default_factory=deque)


@dataclass(slots=True)
class _Lane:
    """One account and model, for all workers."""

    every_s: float
    """Between two requests; 0 without a limit."""
    next_at: float
    limiter: AdaptiveLimiter
    tokens: Bucket | None
    sent_today: int
    senders: dict[str, _Sender] = field(default_factory=dict)
    chance: float = 0.0
    """Refusals that would not lower the pace now."""
    free: "deque[Ticket]" = field(default_factory=deque)
    """Given back before their moments: others may have them, at the same moments. In order of time."""
    day: int = 0
    park: LaneParked | None = None
    prober: tuple[str, float] | None = None

    @property
    def most_chance(self) -> float:
        """Of `chance`: one, or what is late after a stall; nothing where no pace was declared."""
        return max(1.0, LATE_S / self.every_s) if self.every_s else 0.0

    def active(self, now: float) -> list[str]:
        """Those who want to send."""
        return sorted(name for name, one in self.senders.items() if now - one.wanted_at < _ACTIVE_S)

    def report(self, told: Lease, now: float) -> _Sender:
        """What became of what was granted, which teaches the limiter."""
        sender = self.senders.setdefault(told.worker, _Sender())
        sender.in_flight = max(0, told.in_flight)
        if told.want > 0:
            sender.wanted_at = now
        limiter, granted, sent = self.limiter, sender.granted, sender.sent
        for _ in range(min(told.used, len(granted))):
            sent.append(granted.popleft())
        for _ in range(min(told.unused, len(granted))):
            ticket = granted.popleft()
            if not self.take_back(ticket, now):
                self.sent_today -= 1
                limiter.withdrawn(ticket)
        self.chance = min(self.chance + _CHANCE * told.accepted, self.most_chance)
        for _ in range(min(told.refused, len(sent))):
            self._refused(sent.pop(), now)  # refusals come at once: it was one of the last
        for _ in range(min(told.accepted, len(sent))):
            limiter.accepted(max(now, sent[0].at), sent.popleft())
        for _ in range(min(told.failed, len(sent))):
            limiter.withdrawn(sent.popleft())
            limiter.failed(now)
        if self.tokens is not None and told.tokens_corrected:
            self.tokens.take(now, told.tokens_corrected)
        self._parks(told, now)
        return sender

    def _refused(self, ticket: Ticket, now: float) -> None:
        if self.chance >= 1.0:
            self.chance -= 1.0
            self.limiter.withdrawn(ticket)
        else:
            self.limiter.refused(now, ticket)

    def take_back(self, ticket: Ticket, now: float) -> bool:
        """Let others have what was granted, at the same moment; False where that has passed, or is another day's."""
        if ticket.at <= now or ticket.day != self.day:
            return False
        insort(self.free, ticket, key=_moment_of)
        self.sent_today -= 1
        return True

    def _parks(self, told: Lease, now: float) -> None:
        probes = self.prober is not None and self.prober[0] == told.worker
        if told.parked is not None:
            self.park, self.prober = told.parked, None
        elif self.park is not None and probes and told.accepted:
            self.park = self.prober = None
            self.limiter.start_again(now)
        elif probes and (told.refused or told.failed or told.unused):
            self.prober = None

    def part(self, name: str, now: float) -> int:
        """How many requests of this worker may be in flight; what others were told, or have in flight, is theirs."""
        active = self.active(now)
        if name not in active:
            return min(self.senders[name].told, self.limiter.limit)
        each, more = divmod(self.limiter.limit, len(active))
        fair = each + (active.index(name) < more)
        others = sum(
            max(one.in_flight, one.told if other in active else 0)
            for other, one in self.senders.items()
            if other != name
        )
        return max(0, min(fair, self.limiter.limit - others))

    def moments(self, most: int, *, in_flight: int, now: float) -> Iterator[tuple[float, Ticket]]:
        """When so many requests may leave, as far as the horizon; moments that were given back come alone."""
        while self.free and self.free[0].at < now - _GRAIN_S:
            self.limiter.withdrawn(self.free.popleft())
        if self.free:
            for ticket in [self.free.popleft() for _ in range(min(most, len(self.free)))]:
                yield max(ticket.at, now), ticket
            return
        for _ in range(most):
            at = max(self.next_at, now - _GRAIN_S, self.limiter.next_at)
            if at > now + HORIZON_S:
                return
            in_flight += 1
            ticket = self.limiter.sent(max(at, now), in_flight=min(in_flight, self.limiter.limit), day=self.day)
            self.next_at = at + self.every_s
            yield max(at, now), ticket

    def opens_s(self, now: float) -> float:
        """Seconds until the next moment is within half of the horizon."""
        return max(_AGAIN_S, max(self.next_at, self.limiter.next_at) - now - HORIZON_S / 2.0)


class CoordinatedLanes:
    """The limits of a job, for all of its workers. Times as for the coordinator."""

    def __init__(self, job: Job, *, now: float, sent_today: Mapping[str, int]) -> None:
        self._limits, self._budget = job.limits, job.budget
        self._day_offset_s = PRESETS[job.provider.preset].day_offset_s
        self._first = job.limits.concurrency or PRESETS[job.provider.preset].first_concurrency
        self._sent_before, self._began = sent_today, now
        self._lanes: dict[str, _Lane] = {}
        self.spent: dict[int, Spent] = {}
        """Of the budget, by shard."""
        self._allotted: dict[int, dict[str, list[tuple[int, Spent]]]] = {}
        """What each shard with a worker may come to: by lane, replies from the last one that is known to have come."""
        self._number = int(now * 1000.0)
        """Of the last reply; those of a coordinator that was here before were lower."""
        self._waits: dict[str, int] = {}
        """By unit: the shard whose next send did not fit into its part; the others' parts go to it."""

    def __repr__(self) -> str:
        return f"<CoordinatedLanes: {sorted(self._lanes)}>"

    @property
    def parks(self) -> Mapping[str, LaneParked]:
        """The lanes that are parked."""
        return {name: lane.park for name, lane in self._lanes.items() if lane.park is not None}

    @property
    def in_flight(self) -> Mapping[str, tuple[int, int]]:
        """By lane: requests under way, as workers said last, and how many may be at once."""
        return {
            name: (sum(one.in_flight for one in lane.senders.values()), lane.limiter.limit)
            for name, lane in self._lanes.items()
        }

    def lease(self, told: Lease, *, now: float, wall: float, shard: int | None, stop: Stop | None) -> Granted:
        """What a worker may send; `shard` is the one that it holds, None grants nothing."""
        lane = self._lane(told.lane, wall=wall)
        sender = lane.report(told, now)
        self._number += 1
        left, is_spent = self._part_of_budget(told, shard, active=max(1, len(lane.active(now))))
        stop = stop or ("budget" if is_spent else None)
        day_left = self._day_left(lane)
        concurrency = sender.told = lane.part(told.worker, now) if shard is not None else 0
        nothing = Granted(
            concurrency=concurrency,
            day_left=day_left,
            budget_left=left,
            number=self._number,
            stop=stop,
            valid_s=VALID_S,
            again_s=_AGAIN_S,
            parked=lane.park,
        )
        most = 0 if shard is None or stop is not None else max(0, told.want)
        if left is not None and left.calls is not None:
            most = min(most, int(left.calls))
        if day_left is not None:
            most = min(most, day_left)
        if lane.park is not None:
            return self._probe(lane, told, nothing, most=most, now=now, wall=wall)
        most = min(most, self._chunk(lane, now), max(0, concurrency + _ahead(lane) - sender.in_flight))
        return self._grant(lane, sender, told, nothing, most=most, now=now)

    def forget(self, worker: str, *, now: float) -> None:
        """A worker has no shard any more: what it had in flight is over.

        What it was granted counts as sent where it might have been, and is others' where its moment has not come.
        """
        for lane in self._lanes.values():
            gone = lane.senders.pop(worker, None)
            for ticket in gone.granted if gone is not None else ():
                lane.take_back(ticket, now)
            if lane.prober is not None and lane.prober[0] == worker:
                lane.prober = None

    def put_down(self, shard: int, counts: Counts | None) -> None:
        """Nobody has a shard any more; with counts it was put down in order, and what it might have spent is free.

        What the process of a lost one has spent since its last lease is not known before another reads its ledger.
        """
        self._waits = {unit: waits for unit, waits in self._waits.items() if waits != shard}
        if counts is None:
            return
        if shard in self.spent:
            self.spent[shard] = Spent(
                calls=counts.paid_calls, tokens=counts.tokens, points=counts.points, money=counts.money
            )
        self._allotted.pop(shard, None)

    def _lane(self, name: str, *, wall: float) -> _Lane:
        today = day_of(wall=wall, offset_s=self._day_offset_s)
        lane = self._lanes.get(name)
        if lane is None:
            limits, auto = self._limits, self._limits.concurrency is None
            minute, tokens = limits.requests_per_minute, limits.tokens_per_minute
            limiter = AdaptiveLimiter(
                limit=self._first, ceiling=CEILING if auto else self._first, adaptive=auto, next_at=self._began
            )
            lane = self._lanes[name] = _Lane(
                every_s=60.0 / minute if minute is not None else 0.0,
                next_at=self._began + HORIZON_S if minute is not None else self._began,
                limiter=limiter,
                tokens=_token_bucket(tokens, self._began) if tokens is not None else None,
                sent_today=self._sent_before.get(name, 0),
                day=today,
            )
            lane.chance = lane.most_chance
        elif lane.day != today:
            lane.day, lane.sent_today = today, 0
        return lane

    def _day_left(self, lane: _Lane) -> int | None:
        daily = self._limits.requests_per_day
        return None if daily is None else max(0, daily - lane.sent_today)

    @staticmethod
    def _chunk(lane: _Lane, now: float) -> int:
        """The worker's share of what may leave within `CHUNK_S`, at least one."""
        rates = [1.0 / lane.every_s] if lane.every_s else []
        rates += [lane.limiter.rate_per_s] if lane.limiter.rate_per_s is not None else []
        if not rates:
            return _UNPACED
        return max(1, round(min(rates) * CHUNK_S / max(1, len(lane.active(now)))))

    def _probe(self, lane: _Lane, told: Lease, nothing: Granted, *, most: int, now: float, wall: float) -> Granted:
        """A parked lane: nothing until its time has come, then one request of one worker."""
        park = lane.park
        assert park is not None, "asked for a parked lane"
        left_s = math.inf if park.until is None else park.until - wall
        if left_s > 0.0:
            return changed(nothing, again_s=max(_AGAIN_S, min(left_s, _PARKED_AGAIN_S)))
        is_taken = lane.prober is not None and now - lane.prober[1] < _PROBE_S
        if is_taken or not most:
            return changed(nothing, again_s=_PARKED_AGAIN_S / 2.0)
        sender = lane.senders[told.worker]
        granted = self._grant(lane, sender, told, changed(nothing, concurrency=1), most=1, now=now)
        if granted.requests:
            lane.prober = (told.worker, now)
            return changed(granted, probe=True)
        return granted

    @staticmethod
    def _grant(lane: _Lane, sender: _Sender, told: Lease, nothing: Granted, *, most: int, now: float) -> Granted:
        tokens = told.tokens
        if most and lane.tokens is not None and told.want and tokens > 0:
            each = tokens / told.want
            most = max(1, min(most, int(lane.tokens.burst / each)))
            tokens = math.ceil(most * each)
            if (wait_s := lane.tokens.wait_s(now, tokens)) > 0.0:
                return changed(nothing, again_s=max(_AGAIN_S / 2.0, min(wait_s, 1.0)))
        others = sum(one.in_flight + len(one.granted) for one in lane.senders.values())
        moments = list(lane.moments(most, in_flight=others, now=now))
        if not moments:
            return changed(nothing, again_s=lane.opens_s(now) if most else _AGAIN_S)
        if lane.tokens is not None:
            tokens = math.ceil(tokens * len(moments) / most)
            lane.tokens.take(now, tokens)
        is_before = sender.granted and sender.granted[-1].at > moments[0][0]
        sender.granted.extend(ticket for _, ticket in moments)
        if is_before:
            sender.granted = deque(sorted(sender.granted, key=_moment_of))
        lane.sent_today += len(moments)
        first, last = moments[0][0], moments[-1][0]
        return changed(
            nothing,
            requests=len(moments),
            first_s=first - now,
            every_s=(last - first) / (len(moments) - 1) if len(moments) > 1 else 0.0,
            valid_s=min(VALID_S, max(LATE_S, lane.every_s)) if lane.every_s else VALID_S,
            tokens=tokens,
            day_left=None if nothing.day_left is None else nothing.day_left - len(moments),
        )

    # -- the budget

    def _part_of_budget(self, told: Lease, shard: int | None, *, active: int) -> tuple[Left | None, bool]:
        """What a worker may still spend, and whether the budget is used up."""
        budget = self._budget
        if budget is None or shard is None:
            return None, False
        spent = told.spent or self.spent.get(shard, Spent())
        self.spent[shard] = spent
        allotted = {other: self._may_come_to(other) for other in self.spent}
        parts: dict[str, float | None] = {}
        is_spent = False
        for unit in _UNITS:
            limit = getattr(budget, unit)
            if limit is None:
                parts[unit] = None
                continue
            mine = getattr(spent, unit)
            aside = getattr(told.set_aside, unit) if told.set_aside is not None else 0.0
            need = getattr(told.need, unit) if told.need is not None else 0.0
            if unit == "calls" and told.want:
                need = max(need, 1.0)  # where no call is left nothing is granted, so no send can say what it needs
            all_spent = sum(getattr(one, unit) for one in self.spent.values())
            others = sum(
                max(getattr(one, unit), getattr(allotted[other], unit))
                for other, one in self.spent.items()
                if other != shard
            )
            free = limit - others - mine
            fair = max((limit - all_spent) / active, need + aside)
            if self._waits.get(unit, shard) != shard:
                fair = aside  # parts that are too small for one send each are brought together
            part = parts[unit] = max(0.0, min(free, fair))
            if need and part + _NOTHING < need + aside:
                self._waits.setdefault(unit, shard)
            elif self._waits.get(unit) == shard:
                del self._waits[unit]
            is_spent = is_spent or (need > 0.0 and all_spent + need > limit + _NOTHING)
        allotted_now = Spent(**{unit: getattr(spent, unit) + (part or 0.0) for unit, part in parts.items()})
        self._remember(self._allotted.setdefault(shard, {}).setdefault(told.lane, []), allotted_now, heard=told.heard)
        return Left(**parts), is_spent

    def _remember(self, told_so_far: list[tuple[int, Spent]], allotted: Spent, *, heard: int) -> None:
        """Remember what a lane is told until it is known to have heard a later reply: a reply may be lost."""
        known = [number for number, _ in told_so_far]
        if heard in known:
            del told_so_far[: known.index(heard)]
        told_so_far.append((self._number, allotted))
        if len(told_so_far) > _UNHEARD:
            first, (number, second) = told_so_far[0][1], told_so_far[1]
            told_so_far[:2] = [(number, _greatest([first, second]))]

    def _may_come_to(self, shard: int) -> Spent:
        """What a shard may have spent or set aside, by whichever reply its worker goes."""
        return _greatest([one for each in self._allotted.get(shard, {}).values() for _, one in each])


def _greatest(amounts: list[Spent]) -> Spent:
    return Spent(**{unit: max((getattr(one, unit) for one in amounts), default=0.0) for unit in _UNITS})


def _moment_of(ticket: Ticket) -> float:
    return ticket.at


def _ahead(lane: _Lane) -> int:
    """Requests that may be granted beyond the concurrency: answers come before the next lease."""
    return _UNPACED if not lane.every_s and lane.limiter.rate_per_s is None else lane.limiter.limit


def _token_bucket(per_minute: float, now: float) -> Bucket:
    rate_per_s = per_minute / 60.0
    return Bucket(rate_per_s=rate_per_s, burst=max(1.0, rate_per_s * CHUNK_S), level=0.0, at=now)
