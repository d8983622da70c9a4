"""The live display of a terminal: blocks of lines at the bottom, redrawn in place from snapshots.

Runs on the event loop, without a thread. Only lines that have changed are written, twice a second at most. What else
the program prints to stderr meanwhile appears above the blocks.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, TextIO, cast

from rich.cells import cell_len

from batchrunner.cli.block import Line, Style, View, block, glyphs_of
from batchrunner.cli.output import utc_now
from batchrunner.cli.progress import Snapshot
from batchrunner.report.pace import RunPace

DRAW_EVERY_S: Final = 0.5
_SIZE_IF_UNKNOWN: Final = (80, 24)
_KEPT_FREE: Final = 2
"""Lines of the terminal that the blocks leave alone."""
_CODES: Final[dict[Style, str]] = {"bold": "1", "dim": "2", "green": "32", "yellow": "33", "red": "31"}
_HIDE, _SHOW, _ERASE_LINE, _ERASE_BELOW = "\x1b[?25l", "\x1b[?25h", "\x1b[K", "\x1b[J"


class Screen:
    """The lines at the bottom of a terminal. After each call the cursor stands at the start of the line below them."""

    def __init__(
        self, stream: TextIO, *, colours: bool = True, size: Callable[[], tuple[int, int]] | None = None
    ) -> None:
        self.stream = stream
        self.size = size if size is not None else self._ask_size
        """(columns, lines) of the terminal."""
        self._colours = colours
        self._shown: list[Line] = []
        self._columns = 0

    def __repr__(self) -> str:
        return f"<Screen: {len(self._shown)} lines>"

    def _ask_size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return _SIZE_IF_UNKNOWN
        return (size.columns, size.lines) if size.columns and size.lines else _SIZE_IF_UNKNOWN

    def draw(self, lines: list[Line]) -> None:
        """Bring the terminal to show these: only what differs is written, in one piece."""
        columns = self.size()[0]
        if lines == self._shown and columns == self._columns:
            return
        out: list[str] = []
        if columns != self._columns or not self._shown:
            out += [_HIDE, self._erased(columns)]
        self._columns = columns
        out += self._changes(lines)
        self._shown = lines
        self._write("".join(out))

    def print_above(self, text: str) -> None:
        """Whole lines above the blocks."""
        lines, erased = self._shown, self._erased(self.size()[0])
        self._shown = []
        self._write("".join([erased, text, *self._changes(lines)]))
        self._shown = lines

    def close(self) -> None:
        """Leave nothing behind."""
        erased = self._erased(self.size()[0])
        self._shown = []
        self._write(f"{erased}{_SHOW}")

    def _erased(self, columns: int) -> str:
        """Up to the first line and clean from there. A terminal that became narrower has wrapped its lines."""
        widths = [sum(cell_len(text) for text, _ in line) for line in self._shown]
        rows = sum(max(1, -(-width // max(1, columns))) for width in widths)
        if not rows:
            return ""
        self._shown = []
        return f"\r\x1b[{rows}A{_ERASE_BELOW}"

    def _changes(self, lines: list[Line]) -> list[str]:
        out: list[str] = []
        before = self._shown
        at = len(before)  # the line on which the cursor stands
        for number, line in enumerate(lines):
            if number < len(before) and before[number] == line:
                continue
            out += [_moved(at, number), self._painted(line), _ERASE_LINE, "\n"]
            at = number + 1
        if len(lines) < len(before):
            return [*out, _moved(at, len(lines)), _ERASE_BELOW]
        return [*out, _moved(at, len(lines))]

    def _painted(self, line: Line) -> str:
        if not self._colours:
            return "".join(text for text, _ in line)
        return "".join(f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style else text for text, style in line)

    def _write(self, text: str) -> None:
        if text:
            with suppress(OSError, ValueError):  # the terminal went away; the run continues
                self.stream.write(text)
                self.stream.flush()


def _moved(at: int, to: int) -> str:
    if at == to:
        return ""
    return f"\x1b[{at - to}A" if at > to else f"\x1b[{to - at}B"


class _Above:
    """What stands for `sys.stderr` while blocks are shown: whole lines go above them."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._begun = ""

    def write(self, text: str) -> int:
        """Lines that are not ended yet wait."""
        whole, newline, rest = (self._begun + text).rpartition("\n")
        self._begun = rest
        if newline:
            self._screen.print_above(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Nothing to do: see `write`."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._screen.stream, name)

    def ended(self) -> None:
        """Print what has no end of line yet."""
        if self._begun:
            self.write("\n")


class LiveDisplay:
    """One display for all jobs of the command; appears with the first and leaves with the last."""

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        every_s: float = DRAW_EVERY_S,
        colours: bool = True,
        size: Callable[[], tuple[int, int]] | None = None,
        now: Callable[[], datetime] = utc_now,
        own: bool = True,
    ) -> None:
        """`own`: the run is this process's: it may be ended here, and how long it runs is known."""
        self._screen = Screen(stream if stream is not None else sys.stderr, colours=colours, size=size)
        self._every_s = every_s
        self._now = now
        self._own = own
        self._blocks: dict[int, list[Line]] = {}
        self._above: _Above | None = None
        self._before: TextIO | None = None
        self._glyphs = glyphs_of(self._screen.stream)

    def __repr__(self) -> str:
        return f"<LiveDisplay: {len(self._blocks)} jobs, {'on' if self._above else 'off'}>"

    async def follow(self, snapshot: Snapshot) -> None:
        """Draw until cancelled."""
        clock, pace, place = asyncio.get_running_loop().time, RunPace(), id(snapshot)
        began_s = clock()
        self._blocks[place] = []
        try:
            while True:
                status, now = snapshot(), self._now()
                pace.note(status, now_s=clock(), now=now)
                columns, height = self._screen.size()[0], self._share()
                there = f" {self._glyphs.dot} batchrunner status {status.dir}" if status.dir else ""
                elapsed_s = clock() - began_s if self._own else None
                view = View(
                    width=columns,
                    height=height,
                    glyphs=self._glyphs,
                    hint=f"Ctrl-C ends it well{there}" if self._own else "",
                )
                self._blocks[place] = block(status, pace, now=now, elapsed_s=elapsed_s, view=view)
                self._draw()
                await asyncio.sleep(self._every_s)
        finally:
            self._blocks.pop(place, None)
            self._leave()

    def _draw(self) -> None:
        if self._above is None:
            self._above, self._before = _Above(self._screen), sys.stderr
            sys.stderr = cast("TextIO", self._above)  # it has what the program uses of a stream
        most = self._share()  # a job that has just begun leaves less to the others than they drew for
        self._screen.draw([line for lines in self._blocks.values() for line in lines[:most]])

    def _share(self) -> int:
        """The most lines of each job."""
        return max(1, (self._screen.size()[1] - _KEPT_FREE) // len(self._blocks))

    def _leave(self) -> None:
        if self._blocks or self._above is None:
            return
        if self._before is not None:
            sys.stderr = self._before
        self._screen.close()
        self._above.ended()
        self._above = self._before = None
