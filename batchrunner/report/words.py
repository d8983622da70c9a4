"""Figures and instants as people say them. Pure; the present instant is always given."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from batchrunner.core.errors import Mistake

_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def count(number: int, singular: str, plural: str | None = None) -> str:
    """`1 item`, `1,200 items`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def skipped_words(number: int, named: Sequence[Mistake], *, most: int = 5) -> tuple[str, ...]:
    """Lines that say how many bad rows `on_bad_row: skip` left out, and which the first ones are."""
    if not number:
        return ()
    shown = tuple(f"skipped {mistake}" for mistake in named[:most])
    more = (f"and {number - len(shown):,} more",) if number > len(shown) else ()
    return (f"{count(number, 'bad row is', 'bad rows are')} skipped", *shown, *more)


def duration(seconds: float) -> str:
    """`8 s`, `4 min`, `3 h 12 min`, `2 d 5 h`; never negative."""
    whole = max(0, round(seconds))
    if whole < 2 * _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return _two(whole // _MINUTE_S, 60, "h", "min")
    return _two(whole // _HOUR_S, 24, "d", "h")


def _two(small: int, per_big: int, big_unit: str, small_unit: str) -> str:
    big, rest = divmod(small, per_big)
    return f"{big} {big_unit} {rest} {small_unit}" if rest else f"{big} {big_unit}"


def instant(rfc3339: str, *, now: datetime | None = None) -> str:
    """`2026-11-23 00:05 +08:00`, and with `now` (aware) also how far away: `… (in 3 h 12 min)`.

    Text that is no instant comes back as it is.
    """
    try:
        moment = datetime.fromisoformat(rfc3339)
    except ValueError:
        return rfc3339
    zone = moment.strftime("%z")
    shown = moment.strftime("%Y-%m-%d %H:%M") + (f" {zone[:3]}:{zone[3:5]}" if zone else "")
    if now is None or moment.tzinfo is None or moment - now < timedelta(0):
        return shown
    return f"{shown} (in {duration((moment - now).total_seconds())})"
