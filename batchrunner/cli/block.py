"""The block of lines that shows one job: totals, when it may end, one line a lane, and what went wrong. Pure.

Every line is narrower than the terminal and there are never more lines than it has room for. Widths are those of
terminal cells: CJK letters and emoji take two. What does not fit goes in this order: the hint, the server's words,
usage, lanes (with how many are left out); within a line the reason, then the bar, then the name.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, Literal, TextIO

from rich.cells import cell_len, set_cell_size

from batchrunner.core.status import LaneActivity, LaneStatus, Status
from batchrunner.core.values import dataclass, replace
from batchrunner.report.pace import RunPace, eta_words, finished, rate_words
from batchrunner.report.summary import budget_line, lane_name, usage_line
from batchrunner.report.waits import in_order, until, why, zone_of
from batchrunner.report.wording import count, duration, printable

Style = Literal["", "bold", "dim", "green", "yellow", "red"]
Line = tuple[tuple[str, Style], ...]
"""Pieces of text, each in its style."""

WIDE: Final = 80
_NAME: Final = (14, 24)
_BAR: Final = 24
_STATE: Final = 20
_LEAST_WIDTH: Final = 12
_LEAST_LANES: Final = 8
"""So many are worth more than the hint, the server's words and the usage."""
_MINUTE_S: Final = 60
_LETTERS: Final = 0x1F1E6
"""The first of 26 signs that make flags, two each."""
_ALIKE: Final = {
    **dict.fromkeys(map(ord, "\u200c\u200d\ufe0e\ufe0f")),
    **dict.fromkeys(range(0x1F3FB, 0x1F400)),
    **{_LETTERS + number: chr(ord("A") + number) for number in range(26)},
}
"""Joiners, variation selectors, skin tones and flags: terminals do not agree on the width of what they make."""
_STYLES: Final[dict[LaneActivity, Style]] = {
    "working": "green",
    "retrying": "yellow",
    "paused": "yellow",
    "parked": "yellow",
    "closed": "red",
    "done": "dim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """The signs of a block."""

    lanes: dict[LaneActivity, str]
    failed: str
    warning: str
    full: str
    empty: str
    dot: str
    more: str
    """Stands for what was cut off."""


UNICODE: Final = Glyphs(
    lanes={"working": "▶", "retrying": "↻", "paused": "⏸", "parked": "⏸", "closed": "✕", "done": "✓"},
    failed="✕",
    warning="⚠",
    full="▇",
    empty="░",
    dot="·",
    more="…",
)
ASCII: Final = Glyphs(
    lanes={"working": ">", "retrying": "~", "paused": "=", "parked": "=", "closed": "x", "done": "+"},
    failed="x",
    warning="!",
    full="#",
    empty=".",
    dot="-",
    more="~",
)


def glyphs_of(stream: TextIO) -> Glyphs:
    """ASCII for a terminal that calls itself dumb and for a stream that is not UTF-8."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    return UNICODE if encoding == "utf8" and os.environ.get("TERM") != "dumb" else ASCII


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How large a block may be, and what it is made of."""

    width: int
    """Columns of the terminal; lines stay one below it, so that none wraps."""
    height: int
    """The most lines."""
    glyphs: Glyphs = UNICODE
    hint: str = ""
    """The last line, if there is room."""


def block(status: Status, pace: RunPace, *, now: datetime, elapsed_s: float | None, view: View) -> list[Line]:
    """The lines of one job, each narrower than the view's width, at most as many as its height.

    `elapsed_s`: since the run began; None where nobody knows.
    """
    painter = _Painter(status, pace, now, view)
    return painter.lines(elapsed_s)


def short(status: Status, *, now: datetime, columns: int = 40, glyphs: Glyphs = UNICODE) -> list[str]:
    """How it stands in six lines at most, for a phone: totals, what failed, what waits until when."""
    painter = _Painter(status, RunPace(), now, View(width=columns + 1, height=_SHORT_LINES, glyphs=glyphs))
    return ["".join(text for text, _ in line) for line in painter.short_lines()]


_SHORT_LINES: Final = 6


class _Painter:
    """One status, one view."""

    def __init__(self, status: Status, pace: RunPace, now: datetime, view: View) -> None:
        self._status = status
        self._pace = pace
        self._now = now
        self._view = replace(view, width=max(_LEAST_WIDTH, view.width))
        self._room = self._view.width - 1
        self._wide = view.width >= WIDE
        self._glyphs = view.glyphs
        self._zone = zone_of(status)

    def lines(self, elapsed_s: float | None) -> list[Line]:
        head = [*self._head(elapsed_s), *self._whole_run()]
        trouble = list(self._trouble())
        lanes = in_order(self._status.lanes)
        optional = [self._usage(), self._words(lanes), self._hint()]  # the last goes first
        room = max(1, self._view.height - len(head) - len(trouble))
        least = min(len(lanes), _LEAST_LANES)
        while optional and sum(line is not None for line in optional) + least > room:
            optional[_last_there(optional)] = None
            if not any(optional):
                break
        usage, words, hint = optional
        taken = sum(line is not None for line in optional)
        made = [*head, *_there(usage), *self._lanes(lanes, room - taken), *trouble, *_there(words), *_there(hint)]
        return made[: max(1, self._view.height)]

    def short_lines(self) -> list[Line]:
        status, items = self._status, self._status.items
        share = f" {finished(status):,}/{items.total:,} {100 * finished(status) // max(1, items.total)} %"
        words = f"{printable(status.job).translate(_ALIKE)}: "
        room = self._room - len(share) - len(status.state)
        name = self._fit(words, min(room, cell_len(words)))
        lines = [self._line((name, "bold"), (f"{status.state}{share}", "")), *self._whole_run(), *self._trouble()]
        names = self._names(status.lanes)
        waiting = [lane for lane in in_order(status.lanes) if lane.activity in {"parked", "closed"}]
        room = _SHORT_LINES - len(lines)
        for lane in waiting if len(waiting) <= room else waiting[: max(0, room - 1)]:
            state, name = self._state(lane), names[lane.account, lane.model]
            width = max(4, self._room - cell_len(state) - 1)
            lines.append(self._line((self._fit(name, min(width, cell_len(name))), ""), (f" {state}", "yellow")))
        if len(waiting) > room > 0:
            lines.append(self._line((f"and {len(waiting) - room + 1:,} more wait", "")))
        return lines[:_SHORT_LINES]

    # -- the run

    def _head(self, elapsed_s: float | None) -> Iterator[Line]:
        status, items = self._status, self._status.items
        name = printable(status.job, most=40).translate(_ALIKE) + (" (simulated)" if status.simulated else "")
        share = f"{finished(status):,}/{items.total:,} {100 * finished(status) // max(1, items.total)} %"
        clock = _elapsed(elapsed_s) if elapsed_s is not None else ""
        rate = rate_words(self._pace.run.per_s())
        eta = eta_words(self._pace.eta(status, now=self._now), now=self._now, status=status)
        if self._wide:
            name_width = min(cell_len(name), 36)
            bar = self._bar(min(_BAR, self._room - name_width - len(share) - len(clock) - 7))
            yield self._line(
                (self._fit(name, name_width), "bold"), ("  ", ""), *bar, (f"  {share}", ""), (f"   {clock}", "")
            )
            told = [f"{rate} now"] if rate else []
            while eta and cell_len(self._joined([*told, ", then ".join(eta)])) > self._room:
                eta.pop()  # the end is left out before what is at work
            yield self._line((self._joined([*told, ", then ".join(eta)]) or " ", ""))
            return
        rest = self._room - len(share) - len(clock) - 3
        yield self._line((self._fit(name, max(4, min(rest, cell_len(name)))), "bold"), (f" {share}  {clock}", ""))
        tail = f"  {rate}" if rate else ""
        yield self._line(*self._bar(min(_BAR, self._room - len(tail))), (tail, ""))
        for words in eta or [" "]:
            yield self._line((words, ""))

    def _bar(self, width: int) -> tuple[tuple[str, Style], ...]:
        width = max(0, width)
        full = width * finished(self._status) // max(1, self._status.items.total)
        return (self._glyphs.full * full, "green"), (self._glyphs.empty * (width - full), "dim")

    def _whole_run(self) -> Iterator[Line]:
        """What the whole run waits for, or what will pause it."""
        status = self._status
        if status.control.paused or any(lane.activity == "paused" for lane in status.lanes):
            flying = sum(lane.in_flight or 0 for lane in status.lanes)
            awaited = f", {flying:,} in flight are awaited" if flying else ""
            there = f"batchrunner resume {printable(status.dir)}" if status.dir else "batchrunner resume DIR"
            yield self._line((f"paused by command{awaited} {self._glyphs.dot} {there}", "yellow"))
        elif status.waiting is not None:
            end = until(status.waiting.until, now=self._now, zone=self._zone)
            yield self._line(
                (f"waiting until {printable(end)}: {printable(status.waiting.reason, most=120)}", "yellow")
            )
        elif status.ends is not None:
            end = until(status.ends.until, now=self._now, zone=self._zone)
            yield self._line((f"pauses at {printable(end)}: {printable(status.ends.reason, most=120)}", "dim"))

    def _usage(self) -> Line | None:
        parts = [usage_line(self._status.usage)]
        parts += [budget_line(replace(line, in_flight=0.0)) for line in self._status.budget]
        words = self._joined(parts)
        return self._line((words, "")) if words else None

    def _joined(self, parts: Sequence[str]) -> str:
        return f" {self._glyphs.dot} ".join(part for part in parts if part)

    def _trouble(self) -> Iterator[Line]:
        """What failed and why, what waits for a person, and what may be paid for twice."""
        status, glyphs = self._status, self._glyphs
        if status.items.failed:
            kinds = Counter[str]()
            for group in status.failures:
                kinds[group.kind] += group.count
            causes = ", ".join(f"{number:,} × {printable(kind)}" for kind, number in kinds.most_common(4))
            yield self._line((f"{glyphs.failed} {status.items.failed:,} failed{': ' if causes else ''}{causes}", "red"))
        if status.items.held:
            yield self._line((f"{glyphs.warning} {status.items.held:,} wait for you (--resend-held)", "yellow"))
        if doubtful := status.sends.possible_duplicates:
            long = f"{glyphs.warning} {count(doubtful, 'request')} may have been billed without a usable answer"
            short = f"{glyphs.warning} {doubtful:,} may be paid for nothing"
            yield self._line((long if cell_len(long) <= self._room else short, "yellow"))

    def _words(self, lanes: Sequence[LaneStatus]) -> Line | None:
        """What the server said, for the one lane that waits longest."""
        waiting = [lane for lane in lanes if lane.activity == "parked" and lane.words]
        if not waiting:
            return None
        lane = waiting[-1]
        words = printable(lane.words or "", most=300).translate(_ALIKE)
        return self._line((f"{lane_name(lane)}: ".translate(_ALIKE), "dim"), (words, "dim"))

    def _hint(self) -> Line | None:
        return self._line((self._view.hint, "dim")) if self._view.hint else None

    # -- the lanes

    def _lanes(self, lanes: Sequence[LaneStatus], room: int) -> Iterator[Line]:
        shown = list(lanes) if len(lanes) <= room else list(lanes[: max(0, room - 1)])
        names = self._names(lanes)
        states = [self._state(lane) for lane in shown]
        counts = [self._count(lane) for lane in shown]
        reasons = [why(lane) for lane in shown]
        name_width = max((cell_len(names[lane.account, lane.model]) for lane in shown), default=0)
        count_width = max(map(len, counts), default=0)
        state_width = min(max(map(cell_len, states), default=0), 24 if self._wide else _STATE)
        fixed = count_width + 6
        name_width = max(_NAME[0], min(name_width, _NAME[1], self._room - fixed - state_width))
        name_width = max(4, min(name_width, self._room - fixed - 4))
        state_width = max(0, min(state_width, self._room - fixed - name_width))
        for lane, state, number, reason in zip(shown, states, counts, reasons, strict=True):
            style = _STYLES[lane.activity]
            yield self._line(
                (f"{self._glyphs.lanes[lane.activity]} ", style),
                (self._fit(names[lane.account, lane.model], name_width), ""),
                (f" {number:>{count_width}}  ", ""),
                (self._fit(state, state_width), style),
                (f" {reason}", "red" if lane.activity == "closed" else ""),
            )
        if len(shown) < len(lanes):
            yield self._line((f"and {len(lanes) - len(shown):,} more", "dim"))

    def _names(self, lanes: Sequence[LaneStatus]) -> dict[tuple[str, str], str]:
        """The models' names; the accounts', too, where a run has several."""
        several = len({lane.account for lane in lanes}) > 1
        return {
            (lane.account, lane.model): (
                lane_name(lane) if several else lane_name(replace(lane, account="")) if lane.model else lane_name(lane)
            ).translate(_ALIKE)
            for lane in lanes
        }

    def _state(self, lane: LaneStatus) -> str:
        match lane.activity:
            case "working":
                flying = self._pace.in_flight(lane)
                parts = [f"{_mean(flying)} in flight"] if flying is not None and (flying or not lane.open_tasks) else []
                parts += [count(lane.open_tasks, "task")] if lane.open_tasks else []
                return ", ".join(parts) or "working"
            case "retrying":
                soon = f", next {duration(lane.retry_in_s)}" if lane.retry_in_s is not None else ""
                return f"retrying {lane.retrying:,}{soon}"
            case "parked":
                if lane.until is None:
                    return "parked"
                return f"until {printable(until(lane.until, now=self._now, zone=self._zone), most=30)}"
            case "paused" | "closed" | "done":
                return lane.activity

    def _count(self, lane: LaneStatus) -> str:
        if lane.total is None or lane.left is None:
            return ""
        return f"{max(0, lane.total - lane.left - lane.failed):,}/{lane.total:,}"

    # -- pieces

    def _line(self, *pieces: tuple[str, Style]) -> Line:
        """Cut to the room there is."""
        made: list[tuple[str, Style]] = []
        room = self._room
        for text, style in pieces:
            cut = self._fit(text, min(room, cell_len(text)))
            room -= cell_len(cut)
            if cut:
                made.append((cut, style))
            if cut != text:
                break
        while made and not made[-1][0].rstrip():
            made.pop()
        return tuple(made)

    def _fit(self, text: str, cells: int) -> str:
        """Exactly so many cells: filled with blanks, or cut with a sign for what is gone."""
        if cells <= 0:
            return ""
        if cell_len(text) <= cells:
            return set_cell_size(text, cells)
        return set_cell_size(text, cells - 1) + self._glyphs.more


def _there(line: Line | None) -> list[Line]:
    return [line] if line is not None else []


def _last_there(lines: Sequence[Line | None]) -> int:
    return max(index for index, line in enumerate(lines) if line is not None)


def _mean(flying: float) -> str:
    return f"{flying:,.1f}".removesuffix(".0")


def _elapsed(seconds: float) -> str:
    """`8 s`, `1 min 02 s`, `3 h 12 min`: seconds as long as they say something."""
    minutes, rest = divmod(max(0, int(seconds)), _MINUTE_S)
    if minutes >= _MINUTE_S:
        return duration(seconds)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
