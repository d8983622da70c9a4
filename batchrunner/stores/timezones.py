"""The offsets of a time zone, from the system's time zone database. The machine's own zone when no name is given."""

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo


def offset_of_zone(name: str | None) -> Callable[[float], float]:
    """From an instant (seconds since 1970) to the zone's offset then, in seconds east of UTC.

    Raises:
        LookupError: this machine does not know the zone.
    """
    zone = ZoneInfo(name) if name is not None else None

    def offset_at(wall: float) -> float:
        offset = datetime.fromtimestamp(wall, UTC).astimezone(zone).utcoffset()
        return offset.total_seconds() if offset is not None else 0.0

    return offset_at
