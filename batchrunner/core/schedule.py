"""When a run may send: windows and deadlines as arithmetic on a clock and a zone that are given. Reads neither.

A zone is a function from an instant (seconds since 1970) to its offset (seconds east of UTC). Where clocks change, a
time of day that occurs twice means the first of the two, and one that is skipped means the moment of the jump.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

OffsetAt: TypeAlias = Callable[[float], float]
"""Instant in seconds since 1970 -> seconds east of UTC of the zone at that instant."""

_MINUTE_S: Final = 60.0
_DAY_S: Final = 86_400.0
_AHEAD_DAYS: Final = 4
"""How far a window that opens every day is looked for: a day may be skipped, or a window fall into a skipped hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The part of each day in which a run sends, in minutes after midnight; it may end on the next day."""

    opens_minute: int
    closes_minute: int
    """Up to 1440, which is the midnight that ends the day."""
    shown: str
    """As people read it: `22:00-07:00`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A window on one day, as instants; open from the first until just before the second."""

    opens_at: float
    closes_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AtDate:
    """A deadline on a date. Without an offset of its own it is a time of the job's zone."""

    local_s: float
    """Seconds from 1970-01-01T00:00 to it on the calendar of its zone."""
    offset_s: float | None
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AtTimeOfDay:
    """The next such moment after the run began."""

    minute: int
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterDuration:
    """So many seconds after the run began."""

    seconds: float
    shown: str


Deadline: TypeAlias = AtDate | AtTimeOfDay | AfterDuration


def instant_of(local_s: float, offset_at: OffsetAt) -> float:
    """The instant at which the zone's calendar shows `local_s`, see the module for twice and never."""
    before, after = offset_at(local_s - offset_at(local_s) - _DAY_S), offset_at(local_s - offset_at(local_s) + _DAY_S)
    first, second = sorted((local_s - before, local_s - after))
    for candidate in (first, second):
        if offset_at(candidate) == local_s - candidate:
            return candidate
    return _jump_between(first, second, offset_at)


def _jump_between(low: float, high: float, offset_at: OffsetAt) -> float:
    """The first whole second in (low, high] that has the offset of `high`."""
    there = offset_at(high)
    while high - low > 1.0:
        middle = (low + high) // 2.0
        if offset_at(middle) == there:
            high = middle
        else:
            low = middle
    return high


def opening(window: Window, *, wall: float, offset_at: OffsetAt) -> Opening:
    """The opening that `wall` lies in, or else the next one."""
    today = (wall + offset_at(wall)) // _DAY_S
    for day in range(-1, _AHEAD_DAYS):
        found = _opening_on(window, (today + day) * _DAY_S, offset_at)
        if found.opens_at < found.closes_at and wall < found.closes_at:
            return found
    raise AssertionError(f"the window {window.shown} never opens")  # no zone leaves out the same hour for days


def _opening_on(window: Window, midnight_s: float, offset_at: OffsetAt) -> Opening:
    closes_s = midnight_s + window.closes_minute * _MINUTE_S
    if window.closes_minute <= window.opens_minute:
        closes_s += _DAY_S
    opens_at = instant_of(midnight_s + window.opens_minute * _MINUTE_S, offset_at)
    return Opening(opens_at=opens_at, closes_at=instant_of(closes_s, offset_at))


def deadline_at(deadline: Deadline, *, began: float, offset_at: OffsetAt) -> float:
    """The deadline's instant for a run that began at `began`; it may lie in the past only if it has a date."""
    match deadline:
        case AtDate():
            if deadline.offset_s is not None:
                return deadline.local_s - deadline.offset_s
            return instant_of(deadline.local_s, offset_at)
        case AfterDuration():
            return began + deadline.seconds
        case AtTimeOfDay():
            return _next_time_of_day(deadline, began, offset_at)


def _next_time_of_day(deadline: AtTimeOfDay, began: float, offset_at: OffsetAt) -> float:
    today = (began + offset_at(began)) // _DAY_S
    moments = (
        instant_of((today + day) * _DAY_S + deadline.minute * _MINUTE_S, offset_at) for day in range(_AHEAD_DAYS)
    )
    return next(moment for moment in moments if moment > began)
