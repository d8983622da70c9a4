"""Progress of a run: a live display on a terminal, otherwise plain lines from time to time, and events for programs.

Reads snapshots, never the items themselves, so the cost does not grow with the size of the job. A display that fails
never ends a run.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, Protocol

from batchrunner.cli.interruption import STATUS_SIGNALS, unheard
from batchrunner.cli.output import is_dumb, print_message, utc_now, utc_stamp
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import LaneStatus, Status
from batchrunner.core.values import replace
from batchrunner.report.summary import budget_line, items_line, lane_name, usage_line
from batchrunner.report.wording import count, printable

if TYPE_CHECKING:
    from batchrunner.report.pace import RunPace

Snapshot = Callable[[], Status]
Mode = Literal["auto", "live", "plain", "none"]
MODES: Final[tuple[Mode, ...]] = ("auto", "live", "plain", "none")


class Display(Protocol):
    """One for all jobs of a command."""

    async def follow(self, snapshot: Snapshot) -> None:
        """Show one job until cancelled; never returns by itself."""


def display(mode: Mode = "auto", *, own: bool = True, every_s: float | None = None) -> Display | None:
    """What shows progress: for `auto` the live display where stderr is a terminal that can show one, else lines.

    In CI (the variable `CI`), lines: its logs keep every frame. `own`: of a run of this process. `every_s`: how often
    it looks, if not as often as it usually does.
    """
    if mode == "none":
        return None
    if mode == "plain" or (mode == "auto" and (not sys.stderr.isatty() or is_dumb() or os.environ.get("CI"))):
        return LineDisplay(every_s=every_s or LOOK_EVERY_S)
    from batchrunner.cli.live import DRAW_EVERY_S, LiveDisplay  # noqa: PLC0415 - Rich is loaded for terminals only

    return LiveDisplay(colours=colours_wanted(sys.stderr.isatty()), own=own, every_s=every_s or DRAW_EVERY_S)


def colours_wanted(is_terminal: bool) -> bool:  # noqa: FBT001 - it is what the name says
    """By `NO_COLOR` and `FORCE_COLOR`, as other programs read them; else on a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR")
    return forced not in {"0", "false"} if forced else is_terminal


def counts_line(status: Status) -> str:
    """Counts of items, with why some failed, and usage so far."""
    causes = Counter[str]()
    for group in status.failures:
        causes[group.kind] += group.count
    named = ", ".join(f"{number:,} × {printable(kind)}" for kind, number in causes.most_common(3))
    doubtful = status.sends.possible_duplicates
    parts = [items_line(status.items), f"failed by cause: {named}" if status.items.failed and named else ""]
    parts += [f"{count(doubtful, 'request')} may have been billed without a usable answer" if doubtful else ""]
    parts += [usage_line(status.usage), *(budget_line(replace(line, in_flight=0.0)) for line in status.budget)]
    return ", ".join(part for part in parts if part)


def lane_words(lane: LaneStatus, status: Status, *, now: datetime) -> str:
    """`NAME parked until Fri 16:05 (17 h): model's daily quota used up`."""
    from batchrunner.report.waits import until, why, zone_of  # noqa: PLC0415 - loads much that `--help` does without

    end = ""
    if lane.until is not None and lane.activity == "parked":
        end = f" until {printable(until(lane.until, now=now, zone=zone_of(status)))}"
    reason = why(lane)
    return f"{lane_name(lane)} {lane.activity}{end}{': ' if reason else ''}{reason}"


# Plain lines.

LOOK_EVERY_S: Final = 5.0
_LASTS_S: Final = 30.0
"""A lane's new state is told once it has lasted this long: lanes switch many times a minute."""
_GAP_S: Final = 60.0
_WIDE_GAP_S: Final = 300.0
"""Between lines, once there were many."""
_MANY: Final = 20
_PROGRESS_EVERY_S: Final = 600.0
_STEPS: Final = 20
"""A line at each twentieth."""
_HEARTBEAT_S: Final = 3600.0
_REPEAT_S: Final = 3600.0
"""The same news of a lane is no news for so long."""
_MOST_LANES: Final = 4


class LineDisplay:
    """A line at the start, at each 5 %, every 10 minutes, and when a lane's state has changed for 30 seconds.

    At most one a minute, later one in five. While all lanes are parked, one an hour.
    """

    def __init__(
        self,
        *,
        write: Callable[[str], None] = print_message,
        now: Callable[[], datetime] = utc_now,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._write = write
        self._now = now
        self._every_s = every_s

    def __repr__(self) -> str:
        return f"<LineDisplay: looks every {self._every_s} s>"

    async def follow(self, snapshot: Snapshot) -> None:
        """Write lines until cancelled."""
        clock, state = asyncio.get_running_loop().time, _LineState()
        while True:
            now = self._now()
            line = state.next_line(snapshot(), now_s=clock(), now=now)
            if line is not None:
                self._write(f"{utc_stamp(now)} {line}")
            await asyncio.sleep(self._every_s)


class _LineState:
    """What has been told of one job, and what is to be told next."""

    def __init__(self) -> None:
        from batchrunner.report.pace import RunPace  # noqa: PLC0415 - loaded when a run begins, not for `--help`

        self._pace: RunPace = RunPace()
        self._lines = 0
        self._told_s = 0.0
        self._counts = ""
        self._step = 0
        self._wait: object = None
        self._since: dict[tuple[str, str], tuple[object, float]] = {}
        """By lane: what it does, and since when."""
        self._known: dict[tuple[str, str], object] = {}
        """By lane: what was told last."""
        self._news: dict[tuple[tuple[str, str], object], float] = {}
        """(lane, state) -> when that was told."""

    def next_line(self, status: Status, *, now_s: float, now: datetime) -> str | None:
        """The line that is due, if one is."""
        self._pace.note(status, now_s=now_s, now=now)
        changed = self._changed(status, now_s)
        counts = counts_line(status)
        total = max(1, status.items.total)
        step = _STEPS * (status.items.done + status.items.failed) // total
        since_s = now_s - self._told_s
        parked = all_parked(status)
        if self._lines:
            if since_s < (_GAP_S if self._lines < _MANY else _WIDE_GAP_S):
                return None
            due = bool(changed) or status.waiting != self._wait or step > self._step
            due = due or (since_s >= _PROGRESS_EVERY_S and counts != self._counts and not parked)
            if not due and not (parked and since_s >= _HEARTBEAT_S):
                return None
        self._lines += 1
        self._told_s, self._counts, self._step, self._wait = now_s, counts, step, status.waiting
        for lane in changed:
            key, state = (lane.account, lane.model), _state(lane)
            self._known[key] = state
            self._news[key, state] = now_s
        return self._line(status, counts, changed, parked=parked, now=now)

    def _line(self, status: Status, counts: str, changed: list[LaneStatus], *, parked: bool, now: datetime) -> str:
        from batchrunner.report.pace import eta_words, rate_words  # noqa: PLC0415 - as above
        from batchrunner.report.waits import until, zone_of  # noqa: PLC0415 - as above

        told = [counts]
        if status.waiting is not None:
            end = printable(until(status.waiting.until, now=now, zone=zone_of(status)))
            told.append(f"waiting until {end}: {printable(status.waiting.reason, most=120)}")
        else:
            rate = rate_words(self._pace.run.per_s())
            words = eta_words(self._pace.eta(status, now=now), now=now, status=status)
            told += ["all parked"] if parked else []
            told += [", then ".join([*([rate] if rate else []), *words])] if rate or words else []
        told += [lane_words(lane, status, now=now) for lane in changed[:_MOST_LANES]]
        told += [f"and {count(len(changed) - _MOST_LANES, 'more lane')}"] if len(changed) > _MOST_LANES else []
        return f"{printable(status.job)}: {'; '.join(told)}"

    def _changed(self, status: Status, now_s: float) -> list[LaneStatus]:
        """Lanes whose state has lasted and was not told, or not for an hour."""
        changed: list[LaneStatus] = []
        for lane in status.lanes:
            key, state = (lane.account, lane.model), _state(lane)
            before, since_s = self._since.get(key, (None, now_s))
            if before != state:
                since_s = now_s
            self._since[key] = state, since_s
            told = self._known.get(key, ("working", None))
            known_s = self._news.get((key, state))
            if state != told and now_s - since_s >= _LASTS_S and (known_s is None or now_s - known_s >= _REPEAT_S):
                changed.append(lane)
        return changed


def _state(lane: LaneStatus) -> tuple[str, object]:
    """What makes news of a lane: at work or retrying is the same, and no reason is news while it is at work."""
    at_work = lane.activity in {"working", "retrying"}
    return ("working", None) if at_work else (lane.activity, lane.kind)


def all_parked(status: Status) -> bool:
    """Whether nothing can be sent for now: at least one lane is parked, and none is at work."""
    activities = {lane.activity for lane in status.lanes}
    return "parked" in activities and not activities & {"working", "retrying"}


# Everything that follows a run.


class Follower(Protocol):
    """What follows all jobs of a command: their events in a file, or figures of them."""

    async def follow(self, snapshot: Snapshot) -> None:
        """Follow one job until cancelled; never returns by itself."""

    def ended(
        self, job: str, exit_status: ExitStatus, *, status: Status | None = None, error: str | None = None
    ) -> None:
        """A job has come to its end: with its closing status, or with an error."""


class Progress:
    """Follows every job of a command: with a display, for programs, and when asked by a signal."""

    def __init__(self, shown: Display | None, followers: Sequence[Follower] = ()) -> None:
        self._shown = shown
        self._followers = followers

    def __repr__(self) -> str:
        return f"<Progress: {self._shown!r}, {self._followers!r}>"

    async def follow(self, snapshot: Snapshot) -> None:
        """Until cancelled. An exception in one of them is reported and ends that one, not the run."""
        following = [self._on_signal, *([self._shown.follow] if self._shown is not None else [])]
        following += [follower.follow for follower in self._followers]
        await asyncio.gather(*(_harmless(follow, snapshot) for follow in following))

    @staticmethod
    def _new_pace() -> "RunPace":
        from batchrunner.report.pace import RunPace  # noqa: PLC0415 - loaded when a run begins, not for `--help`

        return RunPace()

    async def _on_signal(self, snapshot: Snapshot) -> None:
        """SIGUSR1, and SIGINFO where there is one (Ctrl-T on BSD and macOS), print the block once."""
        loop, began_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        asked, pace = asyncio.Event(), self._new_pace()
        _ON_SIGNAL.setdefault(loop, []).append(asked)
        for number in STATUS_SIGNALS:
            with suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread, or not this loop
                loop.add_signal_handler(number, _set_all, _ON_SIGNAL[loop])
        try:
            while True:
                status = snapshot()
                pace.note(status, now_s=loop.time(), now=utc_now())
                if asked.is_set():
                    asked.clear()
                    print_block(status, pace, elapsed_s=loop.time() - began_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_NOTED_EVERY_S):
                        await asked.wait()
        finally:
            _ON_SIGNAL[loop].remove(asked)
            if not _ON_SIGNAL[loop]:
                del _ON_SIGNAL[loop]
                _listen_no_more(loop)


_NOTED_EVERY_S: Final = 10.0
"""How often the rate is looked at for those who ask."""
_ON_SIGNAL: Final[dict[asyncio.AbstractEventLoop, list[asyncio.Event]]] = {}
"""Several jobs share a loop, and a loop has one handler a signal."""


def _set_all(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()


def _listen_no_more(loop: asyncio.AbstractEventLoop) -> None:
    """The loop leaves the default behind, by which whoever asks too late would end the process."""
    for number in STATUS_SIGNALS:
        with suppress(ValueError, RuntimeError, NotImplementedError):
            loop.remove_signal_handler(number)
            signal.signal(number, unheard)


def print_block(status: Status, pace: "RunPace", *, elapsed_s: float) -> None:
    """The block of one job as lines on stderr."""
    from batchrunner.cli.block import View, block, glyphs_of  # noqa: PLC0415 - Rich is loaded when it is needed

    columns = shutil.get_terminal_size().columns if sys.stderr.isatty() else _PRINTED_WIDTH
    view = View(width=columns, height=_PRINTED_LINES, glyphs=glyphs_of(sys.stderr))
    for line in block(status, pace, now=utc_now(), elapsed_s=elapsed_s, view=view):
        print_message("".join(text for text, _ in line))


_PRINTED_WIDTH: Final = 100
_PRINTED_LINES: Final = 60


async def _harmless(follow: "Callable[[Snapshot], Awaitable[None]]", snapshot: Snapshot) -> None:
    """Calls it when its turn has come: a run that ends at once leaves nothing begun and not awaited."""
    try:
        await follow(snapshot)
    except Exception as error:  # noqa: BLE001 - answers are being paid for: the display must not lose one
        print_message(f"progress display stopped by an internal error: {error!r}; the run continues")
