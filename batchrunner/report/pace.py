"""How fast a run goes and when it may end, from snapshots alone. Pure.

Only time in which a lane could work counts for its rate. What a lane is told to wait for, and what a day allows, stand
in the estimate: it is never earlier than the first moment at which a lane with items may go on.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

from batchrunner.core.status import LaneStatus, Status
from batchrunner.core.values import dataclass
from batchrunner.report.waits import about, left_until, until, zone_of
from batchrunner.report.wording import duration, printable

_WINDOW_S: Final = 60.0
_SAMPLES: Final = 120
_LEAST_S: Final = 1.0
"""Below this much time a rate would be noise."""
_LANE_WINDOW_S: Final = 900.0
"""Of a lane's work that its rate is taken from."""
_SHORT_PARK_S: Final = 90.0
"""Parks as short as this belong to a lane's pace: a throttled lane has one after the other."""
_DAY_S: Final = 86_400.0
_MOST_DAYS: Final = 400
_AT_ONCE: Final = 1e9


class ProgressRate:
    """The finished items of the last minute. `note` is called with a clock that never goes back."""

    def __init__(self, *, window_s: float = _WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()

    def __repr__(self) -> str:
        return f"<ProgressRate: {len(self._samples)} samples, {self.per_s()} a second>"

    def note(self, *, now_s: float, finished: int) -> None:
        """So many items are finished (done or failed) at this moment."""
        samples = self._samples
        if len(samples) > 1 and now_s - samples[-2][0] < self._window_s / _SAMPLES:
            samples.pop()  # so many are enough, and the last one is always the newest
        samples.append((now_s, finished))
        while len(samples) > 1 and now_s - samples[1][0] >= self._window_s:
            samples.popleft()

    def per_s(self) -> float | None:
        """Items a second over the window; None while it is unknown."""
        if not self._samples:
            return None
        (first_s, before), (last_s, after) = self._samples[0], self._samples[-1]
        if last_s - first_s < _LEAST_S:
            return None
        return max(0, after - before) / (last_s - first_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """When it may end. Seconds count from the snapshot."""

    ready: int = 0
    """Items that lanes work on now, or within a moment, and can go on with."""
    ready_s: float | None = None
    """Until these are finished; None while no rate is known."""
    stretched: int = 0
    """Items that lanes work on now, and that a limit a day stretches over days."""
    stretched_s: float | None = None
    """Until these are finished."""
    waiting: int = 0
    """Items whose lanes are all parked."""
    until: str | None = None
    """When the first lane of those goes on, RFC 3339."""
    stuck: int = 0
    """Items whose lanes are all closed: this run leaves them."""
    ends_s: float | None = None
    """Until the last item that can be sent is finished; None while it is unknown."""


@dataclass(frozen=True, slots=True)
class _Shift:
    """From when on a lane may send, and how many."""

    start_s: float
    most: float


class RunPace:
    """The rates of the run and of its models. `note` every snapshot; then ask."""

    def __init__(self) -> None:
        self.run = ProgressRate()
        self._models: defaultdict[str, ProgressRate] = defaultdict(lambda: ProgressRate(window_s=_LANE_WINDOW_S))
        self._worked_s: defaultdict[str, float] = defaultdict(float)
        """By model: seconds in which its lanes could work, added up."""
        self._noted_s: float | None = None
        self._slots_s: dict[tuple[str, str], float] = {}
        self._mean: dict[tuple[str, str], float] = {}

    def __repr__(self) -> str:
        return f"<RunPace: {self.run!r}, {len(self._models)} models>"

    def note(self, status: Status, *, now_s: float, now: datetime) -> None:
        """How it stands at this moment; `now_s` is a clock that never goes back."""
        self.run.note(now_s=now_s, finished=finished(status))
        passed_s = now_s - self._noted_s if self._noted_s is not None else 0.0
        self._noted_s = now_s
        done = dict[str, int]()
        for lane in status.lanes:
            if lane.total is None or lane.left is None:
                continue
            if _could_work(lane, now):
                self._worked_s[lane.model] += passed_s
            done[lane.model] = lane.total - lane.left
            self._note_in_flight(lane, passed_s)
        for model, count in done.items():
            self._models[model].note(now_s=self._worked_s[model], finished=count)

    def in_flight(self, lane: LaneStatus) -> float | None:
        """The mean number of its requests in flight between the last two snapshots; None where nothing is known."""
        return self._mean.get((lane.account, lane.model), lane.in_flight)

    def _note_in_flight(self, lane: LaneStatus, passed_s: float) -> None:
        if lane.in_flight_s is None:
            return
        key = lane.account, lane.model
        before = self._slots_s.get(key)
        self._slots_s[key] = lane.in_flight_s
        if before is not None and passed_s > 0:
            self._mean[key] = max(0.0, lane.in_flight_s - before) / passed_s

    def eta(self, status: Status, *, now: datetime) -> Eta:
        """When the run may end, as far as this can be told."""
        ready = stretched = waiting = stuck = 0
        ready_ends: list[float | None] = []
        stretched_ends: list[float | None] = []
        ends: list[float | None] = []
        begins: list[tuple[float, str]] = []
        held_up_s = left_until(status.waiting.until, now=now) if status.waiting is not None else None
        for lanes in _by_model(status.lanes):
            left = lanes[0].left or 0
            going = [lane for lane in lanes if lane.activity in {"working", "retrying"}]
            parked = [lane for lane in lanes if lane.activity == "parked" and lane.until is not None]
            if not left or any(lane.activity == "paused" for lane in lanes):
                continue  # nobody knows when a person lets it go on
            if not going and not parked:
                # an item that is held for a person is left in a lane that is done
                stuck += left if any(lane.activity == "closed" for lane in lanes) else 0
                continue
            end_s = self._ends_s(left, [*going, *parked], now=now, not_before_s=held_up_s or 0.0)
            ends.append(end_s)
            soon = parked and min(map(_until_s(now), parked)) < _SHORT_PARK_S
            turns_s = max((left_until(lane.day_turns or "", now=now) or 0.0 for lane in lanes), default=0.0)
            if (going or soon) and not held_up_s and end_s is not None and end_s > turns_s > 0:
                stretched += left
                stretched_ends.append(end_s)
            elif (going or soon) and not held_up_s:
                ready += left
                ready_ends.append(end_s)
            elif status.waiting is not None and held_up_s:
                waiting += left
                begins.append((held_up_s, status.waiting.until))
            else:
                waiting += left
                begins += [(_until_s(now)(lane), lane.until or "") for lane in parked]
        return Eta(
            ready=ready,
            ready_s=_latest(ready_ends),
            stretched=stretched,
            stretched_s=_latest(stretched_ends),
            waiting=waiting,
            until=min(begins)[1] if begins else None,
            stuck=stuck,
            ends_s=_latest(ends),
        )

    def _ends_s(self, left: int, lanes: Sequence[LaneStatus], *, now: datetime, not_before_s: float) -> float | None:
        """Seconds until these lanes of one model have finished `left` items; None while nobody knows how fast."""
        rate = self._models[lanes[0].model].per_s()
        shifts = [list(_shifts(lane, left, now=now, not_before_s=not_before_s)) for lane in lanes]
        if not rate:
            # nothing is known of its pace: not before a lane may go on, and nothing at all while one is at work
            first_s = min(shift.start_s for of_lane in shifts for shift in of_lane[:1])
            return _finish_s(left, shifts, _AT_ONCE) if first_s > 0 else None
        return _finish_s(left, shifts, rate)


def finished(status: Status) -> int:
    """Items that need nothing more."""
    return status.items.done + status.items.failed


def _could_work(lane: LaneStatus, now: datetime) -> bool:
    if lane.activity == "parked" and lane.until is not None:
        return _until_s(now)(lane) < _SHORT_PARK_S
    return lane.activity in {"working", "retrying"}


def _until_s(now: datetime) -> Callable[[LaneStatus], float]:
    return lambda lane: left_until(lane.until or "", now=now) or 0.0


def _by_model(lanes: Sequence[LaneStatus]) -> Iterator[list[LaneStatus]]:
    by_model = defaultdict[str, list[LaneStatus]](list)
    for lane in lanes:
        if lane.left is not None:
            by_model[lane.model].append(lane)
    yield from by_model.values()


def _latest(ends: Sequence[float | None]) -> float | None:
    """The latest; None where one of them is unknown."""
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def _shifts(lane: LaneStatus, left: int, *, now: datetime, not_before_s: float) -> Iterator[_Shift]:
    """The times at which a lane may send, one after the other; a day's limit makes a shift of each day."""
    parked_s = left_until(lane.until, now=now) if lane.until is not None and lane.activity == "parked" else None
    start_s = max(parked_s or 0.0, not_before_s)
    if not lane.per_day or lane.day_turns is None:
        yield _Shift(start_s, math.inf)
        return
    turn_s = left_until(lane.day_turns, now=now) or 0.0
    opens = parked_s is not None and not lane.left_today  # what was spent is expected back when the park ends
    if start_s < turn_s - 1.0 and not opens:
        today = lane.left_today if lane.left_today is not None else lane.per_day
        yield _Shift(start_s, max(0, today))
        start_s = turn_s
    for day in range(min(_MOST_DAYS, left // lane.per_day + 2)):
        yield _Shift(start_s + day * _DAY_S, lane.per_day)


def _finish_s(left: int, lanes: Sequence[Sequence[_Shift]], rate: float) -> float | None:
    """When `left` items are finished by lanes that do `rate` a second each while a shift lasts; None: never."""
    changes: list[tuple[float, float]] = []
    for shifts in lanes:
        for shift in shifts:
            changes.append((shift.start_s, rate))
            if shift.most / rate < _DAY_S:
                changes.append((shift.start_s + shift.most / rate, -rate))
    changes.sort()
    at_s, speed, open_items = 0.0, 0.0, float(left)
    for change_s, by in changes:
        if speed > rate / 2 and (change_s - at_s) * speed >= open_items - 1e-6:
            return at_s + open_items / speed
        open_items -= (change_s - at_s) * speed
        at_s, speed = change_s, speed + by
    return at_s + open_items / speed if speed > rate / 2 else None


# The same in words.


def eta_words(eta: Eta, *, now: datetime, status: Status) -> list[str]:
    """`260 more in ~2 min`, `110 wait until Fri 16:05 (17 h)`; empty while nothing is known."""
    parts: list[str] = []
    if eta.ready and eta.ready_s is not None:
        parts.append(f"{eta.ready:,} more in ~{duration(eta.ready_s)}")
    if eta.stretched and eta.stretched_s is not None:
        parts.append(f"{eta.stretched:,} over ~{about(eta.stretched_s)} (limit a day)")
    if eta.waiting and eta.until is not None:
        parts.append(
            f"{eta.waiting:,} wait until {printable(until(eta.until, now=now, zone=zone_of(status)), most=40)}"
        )
        last = eta.ends_s is not None and _ends_later(eta, now=now)
        parts += [f"ends in ~{about(eta.ends_s)}"] if last and eta.ends_s is not None else []
    if eta.stuck:
        parts.append(f"{eta.stuck:,} cannot be sent")
    return parts


def _ends_later(eta: Eta, *, now: datetime) -> bool:
    """Whether the end is noticeably later than the moment at which waiting items go on."""
    begins_s = left_until(eta.until or "", now=now) or 0.0
    return eta.ends_s is not None and eta.ends_s - begins_s > max(120.0, 0.02 * begins_s)


def rate_words(per_s: float | None) -> str:
    """`4.7/s`, `12.0/min`; empty for none."""
    if not per_s:
        return ""
    return f"{per_s:,.1f}/s" if per_s >= 1 else f"{per_s * 60:,.1f}/min"
