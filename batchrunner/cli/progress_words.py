"""What both displays say of a snapshot: where the items stand, how fast it goes, what waits and why."""

from collections.abc import Callable
from dataclasses import replace

from batchrunner.cli.pace import Pace
from batchrunner.core.status import Status
from batchrunner.report.summary import budget_line, items_line, lane_line, usage_line, wait_line
from batchrunner.report.wording import duration

Snapshot = Callable[[], Status]


def finished(status: Status) -> int:
    """Items that need nothing more."""
    return status.items.done + status.items.failed


def counts_line(status: Status) -> str:
    """Where the items stand, what is in flight, and what was got so far."""
    flying = sum(lane.in_flight or 0 for lane in status.lanes)
    parts = [items_line(status.items), f"{flying:,} in flight" if flying else "", usage_line(status.usage)]
    parts += [budget_line(replace(line, in_flight=0.0)) for line in status.budget]
    return ", ".join(part for part in parts if part)


def pace_words(status: Status, pace: Pace) -> str:
    """`; 3.2 a second, about 2 min left`, as far as it is known; starts with the separator."""
    rate = pace.per_s()
    if not rate:
        return ""
    eta_s = pace.eta_s(left=status.items.total - finished(status))
    shown = f"; {rate:,.1f} a second" if rate >= 1 else f"; {rate * 60:,.1f} a minute"
    return f"{shown}, about {duration(eta_s)} left" if eta_s else shown


def waits(status: Status) -> tuple[str, ...]:
    """A line for the run when all of it waits, else one for each lane that does not go on: why, until when."""
    if status.waiting is not None:
        return (f"waiting {wait_line(status.waiting)}",)
    return tuple(lane_line(lane) for lane in status.lanes if lane.state != "open")
