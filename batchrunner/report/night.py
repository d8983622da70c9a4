"""The night in people's words: in which zone a window is meant, and what a balance of points says."""

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from batchrunner.core.budget import figure
from batchrunner.core.job import Job
from batchrunner.report.plain import printable
from batchrunner.stores.zones import offset_of_zone

if TYPE_CHECKING:
    from batchrunner.core.plan import PointBalance


def night_notes(job: Job, *, wall: float) -> tuple[str, ...]:
    """What a person should know before a window or a deadline counts: that the machine's own zone is meant."""
    keys = [name for name, given in (("window", job.window), ("deadline", job.deadline)) if given is not None]
    if not keys or job.timezone is not None:
        return ()
    zone = timezone(timedelta(seconds=offset_of_zone(None)(wall)))
    meant = datetime.fromtimestamp(wall, UTC).astimezone(zone).strftime("%z")
    words = " and ".join(f"`{key}`" for key in keys)
    return (f"{words} in this machine's local time, UTC{meant[:3]}:{meant[3:5]}; write `timezone` to mean another",)


def balance_line(balance: "PointBalance") -> str:
    """What an account has, or that it is not known."""
    if balance.available is None:
        return f"{balance.account}: the balance of points is not known ({printable(balance.why or 'no reason given')})"
    frozen = f", {figure(balance.frozen)} more reserved by running tasks" if balance.frozen else ""
    return f"{balance.account}: {figure(balance.available)} points{frozen}"
