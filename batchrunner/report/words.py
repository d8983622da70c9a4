"""Figures and instants as people say them. Pure; the present instant is always given."""

from datetime import datetime, timedelta

_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def count(number: int, singular: str, plural: str | None = None) -> str:
    """`1 item`, `1,200 items`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


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
