"""The live display of a terminal, drawn with Rich. All text enters as `Text`, so no prompt can be taken for markup.

Draws twice a second from snapshots, on the event loop and without a thread.
"""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchrunner.cli.progress import ProgressRate, Snapshot, counts_line, finished, pace_words
from batchrunner.core.status import LaneState, LaneStatus, Status
from batchrunner.report.summary import LANE_STATES, lane_name
from batchrunner.report.wording import instant, printable

DRAW_EVERY_S: Final = 0.5
_MOST_LANES: Final = 8
_STYLES: dict[LaneState, str] = {"open": "green", "waiting": "yellow", "parked": "yellow", "stopped": "red"}


def can_be_live() -> bool:
    """Whether the terminal can move its cursor: not a `dumb` one."""
    return not Console(file=sys.stderr).is_dumb_terminal


class LiveDisplay:
    """One display for all jobs of the command; appears with the first and leaves with the last."""

    def __init__(self, *, console: Console | None = None, every_s: float = DRAW_EVERY_S) -> None:
        self._console = console if console is not None else Console(stderr=True)
        self._every_s = every_s
        self._blocks: dict[int, RenderableType] = {}
        self._live: Live | None = None

    def __repr__(self) -> str:
        return f"<LiveDisplay: {len(self._blocks)} jobs, {'on' if self._live else 'off'}>"

    async def follow(self, snapshot: Snapshot) -> None:
        """Draw until cancelled."""
        clock, pace, place = asyncio.get_running_loop().time, ProgressRate(), id(snapshot)
        try:
            while True:
                status = snapshot()
                pace.note(now_s=clock(), finished=finished(status))
                self._blocks[place] = block(status, pace, now=datetime.now(UTC))
                self._draw()
                await asyncio.sleep(self._every_s)
        finally:
            self._blocks.pop(place, None)
            self._leave()

    def _draw(self) -> None:
        try:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
                self._live.start()
            self._live.update(Group(*self._blocks.values()), refresh=True)
        except OSError:  # the terminal went away; the run continues
            return

    def _leave(self) -> None:
        if self._blocks or self._live is None:
            return
        try:
            self._live.stop()
        except OSError:  # the terminal went away
            pass
        finally:
            self._live = None


def block(status: Status, pace: ProgressRate, *, now: datetime) -> RenderableType:
    """One job: its bar, its figures, its lanes."""
    head = Table.grid(padding=(0, 1))
    simulated = " (simulated)" if status.simulated else ""
    head.add_row(
        Text(printable(status.job, most=40) + simulated, style="bold"),
        ProgressBar(total=max(1, status.items.total), completed=finished(status), width=30),
        Text(_share(status)),
    )
    figures = Text(f"{counts_line(status)}{pace_words(status, pace)}")
    return Group(head, figures, *_whole_run(status, now), *_lanes(status.lanes, now))


def _whole_run(status: Status, now: datetime) -> list[RenderableType]:
    """What the whole run waits for, or what will pause it."""
    if status.waiting is not None:
        until = printable(instant(status.waiting.until, now=now))
        return [Text(f"waiting until {until}: {printable(status.waiting.reason, most=120)}", style="yellow")]
    if status.ends is not None:
        until = printable(instant(status.ends.until, now=now))
        return [Text(f"pauses at {until}: {printable(status.ends.reason, most=120)}", style="dim")]
    return []


def _share(status: Status) -> str:
    total = status.items.total
    return f"{finished(status):,}/{total:,}  {100 * finished(status) // total}%" if total else "0/0"


def _lanes(lanes: tuple[LaneStatus, ...], now: datetime) -> list[RenderableType]:
    shown = sorted(lanes, key=lambda lane: lane.state == "open")[:_MOST_LANES]
    table = Table.grid(padding=(0, 2))
    for lane in shown:
        table.add_row(
            Text(lane_name(lane), overflow="ellipsis"),
            Text(LANE_STATES[lane.state], style=_STYLES[lane.state]),
            Text(_load(lane)),
            Text(_why(lane, now), overflow="ellipsis"),
        )
    rest = [Text(f"and {len(lanes) - len(shown):,} more lanes")] if len(lanes) > len(shown) else []
    return [table, *rest] if shown else []


def _load(lane: LaneStatus) -> str:
    if lane.in_flight is None:
        return ""
    return f"{lane.in_flight} of {lane.concurrency}" if lane.concurrency is not None else f"{lane.in_flight} in flight"


def _why(lane: LaneStatus, now: datetime) -> str:
    end = f"until {printable(instant(lane.until, now=now))}" if lane.until else ""
    return " · ".join(part for part in (printable(lane.reason or "", most=120), end) if part)
