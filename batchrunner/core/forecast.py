"""About when a run would end, by arithmetic: calls, how long each takes, and the limits on them. Pure.

A rule of thumb for `plan`, which answers at once; `rehearse` plays the job through and knows refusals, windows,
retries and waits. Refuses nothing; what is not known limits nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The end of a run as `plan` supposes it, told as an estimate."""

    at: str
    """RFC 3339, in the zone where the provider's day turns."""
    seconds: float
    """From now on."""
    quota_days: int
    """Days on which calls are made: one, and one more for each time that a daily limit is waited out."""
    supposed: str
    """What it supposes of the provider, in the words of `rehearse --profile`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLoad:
    """What one lane would have to do, and what holds it back."""

    calls: int
    call_s: float
    """From sending a call to having all of it."""
    at_once: int
    per_minute: float | None
    per_day: int | None
    sent_today: int = 0


def end_of(lanes: Iterable[LaneLoad], *, now: float, offset_s: float) -> tuple[float, int]:
    """(wall clock of the last lane's end, the most days on which a lane makes calls)."""
    ends = [_end_of_lane(lane, now=now, offset_s=offset_s) for lane in lanes if lane.calls > 0]
    return max(ends, default=(now, 0))


def _end_of_lane(lane: LaneLoad, *, now: float, offset_s: float) -> tuple[float, int]:
    if lane.per_day is None:
        return now + _work_s(lane, lane.calls), 1
    left_today = max(0, lane.per_day - lane.sent_today)
    if lane.calls <= left_today:
        return now + _work_s(lane, lane.calls), 1
    later = lane.calls - left_today
    midnights = math.ceil(later / max(1, lane.per_day))
    last_day = later - (midnights - 1) * lane.per_day
    today = math.floor((now + offset_s) / _DAY_S) * _DAY_S - offset_s
    return today + midnights * _DAY_S + _work_s(lane, last_day), midnights + (left_today > 0)


def _work_s(lane: LaneLoad, calls: int) -> float:
    """Seconds for so many calls in a row of `at_once`, no faster than `per_minute`."""
    rounds = math.ceil(calls / max(1, lane.at_once)) * lane.call_s
    spaced = (calls - 1) * 60.0 / lane.per_minute + lane.call_s if lane.per_minute else 0.0
    return max(rounds, spaced)
