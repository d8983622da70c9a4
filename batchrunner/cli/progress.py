"""Progress of a run: a live display on a terminal, otherwise plain lines from time to time.

Reads snapshots, never the items themselves, so the cost does not grow with the size of the job. A display that fails
never ends a run.
"""

import asyncio
import math
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from batchrunner.cli.output import print_message
from batchrunner.core.status import Status
from batchrunner.report.summary import budget_line, items_line, lane_line, usage_line, wait_line
from batchrunner.report.wording import duration, printable

# How fast a run goes and when it may end, from snapshots alone: the arithmetic behind the progress display. Pure.

_WINDOW_S = 60.0
_LEAST_S = 1.0
"""Below this much time a rate would be noise."""


class ProgressRate:
    """The finished items of the last minute. `note` is called with a clock that never goes back."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def __repr__(self) -> str:
        return f"<ProgressRate: {len(self._samples)} samples, {self.per_s()} a second>"

    def note(self, *, now_s: float, finished: int) -> None:
        """So many items are finished (done or failed) at this moment."""
        self._samples.append((now_s, finished))
        while len(self._samples) > 1 and now_s - self._samples[1][0] >= _WINDOW_S:
            self._samples.popleft()

    def per_s(self) -> float | None:
        """Items a second over the last minute; None while it is unknown."""
        if not self._samples:
            return None
        (first_s, before), (last_s, after) = self._samples[0], self._samples[-1]
        if last_s - first_s < _LEAST_S:
            return None
        return max(0, after - before) / (last_s - first_s)

    def eta_s(self, *, left: int) -> float | None:
        """Seconds until `left` items are finished at this pace; None when nothing finishes or it is unknown."""
        rate = self.per_s()
        return left / rate if rate else None


# What both displays show of a snapshot: counts, rate, and what waits and why.

Snapshot = Callable[[], Status]


def finished(status: Status) -> int:
    """Items that need nothing more."""
    return status.items.done + status.items.failed


def counts_line(status: Status) -> str:
    """Counts of items, requests in flight, and usage so far."""
    flying = sum(lane.in_flight or 0 for lane in status.lanes)
    parts = [items_line(status.items), f"{flying:,} in flight" if flying else "", usage_line(status.usage)]
    parts += [budget_line(replace(line, in_flight=0.0)) for line in status.budget]
    return ", ".join(part for part in parts if part)


def pace_words(status: Status, pace: ProgressRate) -> str:
    """`; 3.2 items/s, about 2 min left`, as far as it is known; starts with the separator."""
    rate = pace.per_s()
    if not rate:
        return ""
    eta_s = pace.eta_s(left=status.items.total - finished(status))
    shown = f"; {rate:,.1f} items/s" if rate >= 1 else f"; {rate * 60:,.1f} items/min"
    return f"{shown}, about {duration(eta_s)} left" if eta_s else shown


def waits(status: Status) -> tuple[str, ...]:
    """One line if the whole run waits, else one for each lane that waits or has stopped: until when, and why."""
    if status.waiting is not None:
        return (f"waiting {wait_line(status.waiting)}",)
    return tuple(lane_line(lane) for lane in status.lanes if lane.state != "open")


LINE_EVERY_S = 10.0
REMIND_EVERY_S = 1800.0


class Display(Protocol):
    """One for all jobs of a command."""

    async def follow(self, snapshot: Snapshot) -> None:
        """Show one job until cancelled; never returns by itself."""


def display() -> Display:
    """The live display where stderr is a terminal that can show one, else plain lines."""
    if not sys.stderr.isatty():
        return LineDisplay()
    from batchrunner.cli.live import LiveDisplay, can_be_live  # noqa: PLC0415 - Rich is loaded for terminals only

    return LiveDisplay() if can_be_live() else LineDisplay()


def harmless(shown: Display) -> Callable[[Snapshot], Awaitable[None]]:
    """`follow` of a display; an exception in it is reported and ends the display, not the run."""

    async def follow(snapshot: Snapshot) -> None:
        try:
            await shown.follow(snapshot)
        except Exception as error:  # noqa: BLE001 - answers are being paid for: the display must not lose one
            print_message(f"progress display stopped by an internal error: {error!r}; the run continues")

    return follow


class LineDisplay:
    """A line at the start and whenever the counts have changed, at most every `every_s` seconds.

    Each wait is shown when it begins, and again every `remind_s` seconds while it lasts.
    """

    def __init__(
        self,
        *,
        write: Callable[[str], None] = print_message,
        every_s: float = LINE_EVERY_S,
        remind_s: float = REMIND_EVERY_S,
    ) -> None:
        self._write = write
        self._every_s = every_s
        self._remind_s = remind_s

    def __repr__(self) -> str:
        return f"<LineDisplay: a line every {self._every_s} s>"

    async def follow(self, snapshot: Snapshot) -> None:
        """Write lines until cancelled."""
        clock, pace = asyncio.get_running_loop().time, ProgressRate()
        shown, shown_at_s = "", dict[str, float]()
        while True:
            status, now_s = snapshot(), clock()
            pace.note(now_s=now_s, finished=finished(status))
            counts, name = counts_line(status), printable(status.job)
            if counts != shown:
                self._write(f"{name}: {counts}{pace_words(status, pace)}")
                shown = counts
            for wait in self._not_shown(status, shown_at_s, now_s):
                self._write(f"{name}: {wait}")
            await asyncio.sleep(self._every_s)

    def _not_shown(self, status: Status, shown_at_s: dict[str, float], now_s: float) -> tuple[str, ...]:
        """Lanes switch between waiting and open many times a minute: recently shown waits are not repeated."""
        news = tuple(w for w in waits(status) if now_s - shown_at_s.get(w, -math.inf) >= self._remind_s)
        for old in [wait for wait, at_s in shown_at_s.items() if now_s - at_s >= self._remind_s]:
            del shown_at_s[old]
        shown_at_s.update(dict.fromkeys(news, now_s))
        return news
