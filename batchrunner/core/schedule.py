"""When a run may send: windows and deadlines as arithmetic on a clock and a zone that are given. Reads neither.

A zone is a function from an instant (seconds since 1970) to its offset (seconds east of UTC). Where clocks change, a
time of day that occurs twice means the first of the two, and one that is skipped means the moment of the jump.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from batchrunner.core.values import dataclass

OffsetAt: TypeAlias = Callable[[float], float]
"""Instant in seconds since 1970 -> seconds east of UTC of the zone at that instant."""

_MINUTE_S: Final = 60.0
_DAY_S: Final = 86_400.0
_AHEAD_DAYS: Final = 4
"""How far a time of day is looked for: a day may be skipped."""
_WEEK_BACK: Final = -8
_WEEKS_AHEAD: Final = 17
"""Days around today in which openings are looked for: one may be almost a week long, and the only one of a week may
fall into a skipped hour."""
_EPOCH_WEEKDAY: Final = 3
"""1970-01-01 was a Thursday."""

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY: Final = (0, 1, 2, 3, 4, 5, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Hours in which a run sends, in minutes after midnight; they may end on the day after they began.

    With `others` it is all of them together: hours that touch or overlap are one opening.
    """

    opens_minute: int
    closes_minute: int
    """Up to 1440, which is the midnight that ends the day."""
    shown: str
    """As people read it and may write it: `22:00-07:00`, `mon-fri 22:00-07:00; sat,sun 00:00-24:00`."""
    days: tuple[int, ...] = EVERY_DAY
    """On which the hours begin; Monday is 0."""
    others: "tuple[Window, ...]" = ()

    @property
    def parts(self) -> "tuple[Window, ...]":
        """The hours of this one and of the others."""
        return (self, *self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A time in which a window is open, as instants: from the first until just before the second."""

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
    # Openings of parts that touch are one, so that a run does not pause at a midnight between two of them.
    found: Opening | None = None
    for each in sorted(_openings(window, int(today), offset_at), key=lambda each: each.opens_at):
        if found is None or each.opens_at > found.closes_at:
            if found is not None and wall < found.closes_at:
                return found
            found = each
        elif each.closes_at > found.closes_at:
            found = Opening(opens_at=found.opens_at, closes_at=each.closes_at)
    if found is None or wall >= found.closes_at:  # no zone leaves out the same hour for weeks
        raise AssertionError(f"the window {window.shown} never opens")
    return found


def _openings(window: Window, today: int, offset_at: OffsetAt) -> list[Opening]:
    """Of all parts on the days around `today`, which is counted from 1970."""
    found = [
        _opening_on(part, day * _DAY_S, offset_at)
        for day in range(today + _WEEK_BACK, today + _WEEKS_AHEAD)
        for part in window.parts
        if (day + _EPOCH_WEEKDAY) % 7 in part.days
    ]
    return [each for each in found if each.opens_at < each.closes_at]


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
