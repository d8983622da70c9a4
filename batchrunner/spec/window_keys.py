"""The key `window`: the hours in which a run sends, as one text or as a list with days of the week.

The text has every form: `22:00-07:00`, and parts like `mon-fri 22:00-07:00; sat,sun` as a list becomes. So what a run
has in force can be shown and set as text. Hours belong to the day on which they begin.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final, TypeAlias

from pydantic import Field, Tag

from batchrunner.core.schedule import DAYS, EVERY_DAY, Window
from batchrunner.core.values import replace
from batchrunner.spec.job_errors import KeyPath, SpecError, short
from batchrunner.spec.parts import Part, Text, WhenGiven, one_of

MINUTES_A_DAY: Final = 24 * 60
_MINUTES_A_WEEK: Final = 7 * MINUTES_A_DAY
TIME: Final = r"([01]?\d|2[0-3]):([0-5]\d)"
_HOURS = re.compile(rf"{TIME}\s*[-–]\s*(?:{TIME}|(24):(00))")
_PART = re.compile(r"([^\W\d][^\d:]*?)?\s*(\d.*)?", re.DOTALL)
_DAY_NAMES: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WHOLE_DAY: Final = "00:00-24:00"
_DAYS_EXPECTED: Final = "days like mon-fri, or sat,sun, or a list of them"
_HOURS_EXPECTED: Final = "two times of day, like 22:00-07:00"
_TEXT_EXPECTED: Final = (
    "two times of day, like 22:00-07:00, after days where it is not every day: mon-fri 22:00-07:00; sat,sun"
)


class WindowSpec(Part):
    """Hours on some days of the week."""

    days: (
        Annotated[
            Annotated[Text, Tag("<text>")] | Annotated[list[Text], Field(min_length=1), Tag("<list>")],
            one_of(_DAYS_EXPECTED),
        ]
        | None
    ) = Field(
        default=None,
        description="The days on which these hours begin: `mon-fri`, `sat,sun`, or a list of them. Default: every day.",
    )
    hours: Text | None = Field(
        default=None,
        description="From when to when, for example 22:00-07:00, which ends on the day after. Default: the whole day.",
    )


_Hours: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[WindowSpec, WhenGiven(), Tag("<mapping>")],
    one_of("hours like 22:00-07:00, or a mapping with `days` and `hours`"),
]
WindowKey: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[_Hours], Field(min_length=1), Tag("<list>")],
    one_of('two times of day, like 22:00-07:00, or a list like [{days: mon-fri, hours: "00:00-07:00"}]'),
]


def window_from(given: WindowKey | None) -> Window | None:
    """The window of a draft without faults."""
    if given is None:
        return None
    parts = _parts_of_text(given) if isinstance(given, str) else [_part(each) for each in given]
    known = [part for part in parts if part is not None]
    if not known:
        return None
    shown = "; ".join(part.shown for part in known)
    return replace(known[0], shown=shown, others=tuple(known[1:]))


def _parts_of_text(text: str) -> list[Window | None]:
    return [_part_of_text(part) for part in text.split(";") if part.strip()] or [None]


def _part(given: str | WindowSpec) -> Window | None:
    if isinstance(given, str):
        return _part_of_text(given)
    return _made(_days(given.days), given.hours or _WHOLE_DAY)


def _part_of_text(text: str) -> Window | None:
    found = _PART.fullmatch(text.strip())
    if found is None:
        return None
    days, hours = found.groups()
    return _made(_days(days), hours or _WHOLE_DAY) if days or hours else None


def _made(days: tuple[int, ...] | None, hours: str) -> Window | None:
    found = _HOURS.fullmatch(hours.strip())
    if found is None or days is None:
        return None
    opens, closes = found.group(1, 2), found.group(3, 4) if found[3] else found.group(5, 6)
    shown = f"{opens[0]:0>2}:{opens[1]}-{closes[0]:0>2}:{closes[1]}"
    return Window(
        opens_minute=int(opens[0]) * 60 + int(opens[1]),
        closes_minute=int(closes[0]) * 60 + int(closes[1]),
        shown=shown if days == EVERY_DAY else f"{_shown_days(days)} {shown}",
        days=days,
    )


def _days(given: str | list[str] | None) -> tuple[int, ...] | None:
    """Numbers of days, Monday is 0; None where one is unknown."""
    if given is None:
        return EVERY_DAY
    names = [name for each in ([given] if isinstance(given, str) else given) for name in each.split(",")]
    known = [_day_range(name.strip()) for name in names]
    return tuple(sorted({day for days in known if days is not None for day in days})) if all(known) else None


def _day_range(name: str) -> tuple[int, ...] | None:
    """`fri-mon` goes over the end of the week."""
    ends = [_day(end.strip()) for end in re.split(r"[-–]", name)]
    match ends:
        case [int(day)]:
            return (day,)
        case [int(first), int(last)]:
            return tuple((first + step) % 7 for step in range((last - first) % 7 + 1))
        case _:
            return None


def _day(name: str) -> int | None:
    known = (day for day, full in enumerate(_DAY_NAMES) if name.lower() in {full, full[:3]})
    return next(known, None)


def _shown_days(days: tuple[int, ...]) -> str:
    """`mon-fri`, `sat,sun`."""
    runs: list[list[int]] = []
    for day in days:
        if runs and day == runs[-1][-1] + 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    longer = 2
    return ",".join(
        f"{DAYS[run[0]]}-{DAYS[run[-1]]}" if len(run) > longer else ",".join(DAYS[day] for day in run) for run in runs
    )


def window_faults(given: WindowKey | None, *, is_whole: bool) -> Iterator[SpecError]:
    """Everything that is wrong with it beyond its types. `is_whole`: nothing of it was wrong and left out."""
    if given is None:
        return
    entries: list[tuple[KeyPath, str | WindowSpec]] = (
        [(("window",), given)]
        if isinstance(given, str)
        else [(("window", place), each) for place, each in enumerate(given)]
    )
    found = [fault for path, each in entries for fault in _entry_faults(path, each)]
    yield from found
    window = window_from(given)
    if is_whole and not found and window is not None and _open_minutes(window) == _MINUTES_A_WEEK:
        days = "the whole week" if window.others or isinstance(given, list) else "the whole day"
        yield SpecError(path=("window",), problem=f"is {days}", hint="leave it out to send at any time")


def _entry_faults(path: KeyPath, given: str | WindowSpec) -> Iterator[SpecError]:
    parts: list[Window | None] = []
    if isinstance(given, WindowSpec):
        if given.days is not None and _days(given.days) is None:
            unknown = given.days if isinstance(given.days, str) else ", ".join(given.days)
            yield SpecError(path=(*path, "days"), problem=f"is {short(unknown)}", expected=_DAYS_EXPECTED)
        if given.hours is not None and _HOURS.fullmatch(given.hours.strip()) is None:
            yield SpecError(path=(*path, "hours"), problem=f"is {short(given.hours)}", expected=_HOURS_EXPECTED)
        parts, path = [_part(given)], (*path, "hours") if given.hours else path
    else:
        parts = _parts_of_text(given)
        if None in parts:
            yield SpecError(path=path, problem=f"is {short(given)}", expected=_TEXT_EXPECTED)
    for part in parts:
        if part is not None and part.opens_minute == part.closes_minute:
            problem, hint = "opens and closes at the same time", "leave it out to send at any time"
            yield SpecError(path=path, problem=problem, hint=hint)


def _open_minutes(window: Window) -> int:
    """Of a week on a calendar without jumps."""
    is_open = bytearray(_MINUTES_A_WEEK)
    for part in window.parts:
        length = (part.closes_minute - part.opens_minute) % MINUTES_A_DAY or MINUTES_A_DAY
        for day in part.days:
            begin = day * MINUTES_A_DAY + part.opens_minute
            for minute in range(begin, begin + length):
                is_open[minute % _MINUTES_A_WEEK] = 1
    return sum(is_open)
