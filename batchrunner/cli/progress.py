"""What people see while a run goes on: a live display on a terminal, otherwise a plain line now and then.

Follows snapshots, never the items themselves: the cost does not grow with the size of the job. Refuses to be the reason
for a run's end: a display whose terminal went away falls silent.
"""

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

from batchrunner.cli.output import say
from batchrunner.cli.pace import Pace
from batchrunner.cli.progress_words import Snapshot, counts_line, finished, pace_words, waits
from batchrunner.core.status import Status
from batchrunner.report.wording import printable

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
    """`follow` of a display, whose own faults are told and end it, never the run."""

    async def follow(snapshot: Snapshot) -> None:
        try:
            await shown.follow(snapshot)
        except Exception as error:  # noqa: BLE001 - answers are being paid for: a drawing must not cost one
            say(f"the progress display has ended by a fault of its own: {error!r}")

    return follow


class LineDisplay:
    """A line at the start and whenever the counts have changed, at most every `every_s` seconds.

    Each wait is told at its beginning, and again every `remind_s` seconds while it lasts.
    """

    def __init__(
        self,
        *,
        write: Callable[[str], None] = say,
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
        clock, pace = asyncio.get_running_loop().time, Pace()
        shown, told_at_s = "", dict[str, float]()
        while True:
            status, now_s = snapshot(), clock()
            pace.note(now_s=now_s, finished=finished(status))
            counts, name = counts_line(status), printable(status.job)
            if counts != shown:
                self._write(f"{name}: {counts}{pace_words(status, pace)}")
                shown = counts
            for wait in self._untold(status, told_at_s, now_s):
                self._write(f"{name}: {wait}")
            await asyncio.sleep(self._every_s)

    def _untold(self, status: Status, told_at_s: dict[str, float], now_s: float) -> tuple[str, ...]:
        """Lanes flicker between waiting and open many times a minute: what was told lately is not news."""
        news = tuple(w for w in waits(status) if now_s - told_at_s.get(w, -math.inf) >= self._remind_s)
        for old in [wait for wait, at_s in told_at_s.items() if now_s - at_s >= self._remind_s]:
            del told_at_s[old]
        told_at_s.update(dict.fromkeys(news, now_s))
        return news
