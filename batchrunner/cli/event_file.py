"""`run --events FILE`: what happens, as one JSON object a line, for programs that watch a run.

Each has `event` (`started`, `lane`, `progress`, `failed`, `paused`, `ended`), `time` (RFC 3339, UTC) and `job`. Lines
are appended: a run that is continued goes on in the same file. A file that cannot be written is told once. A program
that reads them from a pipe, and is behind or not there yet, does not hold up the run: what it has not read waits, up to
a megabyte.
"""

import asyncio
import errno
import json
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TextIO

from batchrunner.cli.output import print_message, utc_now, utc_stamp
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.status import LaneStatus, Status
from batchrunner.report.wording import jsonable

if TYPE_CHECKING:
    from batchrunner.report.pace import RunPace

LOOK_EVERY_S: Final = 1.0
PROGRESS_EVERY_S: Final = 10.0
STDOUT: Final = "-"
_MOST_WAITING: Final = 1 << 20
_LONGEST_EVENT: Final = 1 << 24
_NAMES_OF_A_RUN: Final = frozenset({"results.jsonl", "failures.jsonl", "scores.jsonl", "metadata.jsonl", "run.json"})
"""Files that a run makes itself, perhaps after the events were opened."""
_LAST_WAIT_S: Final = 5.0
"""How long a reader that is behind is waited for at the end."""
_LOOK_FOR_READER_S: Final = 0.05
"""How often a named pipe is tried at the end; by then no loop runs that a sleep would hold up."""


class EventFile:
    """One for all jobs of the command."""

    def __init__(
        self, stream: TextIO | None, *, now: Callable[[], datetime] = utc_now, every_s: float = LOOK_EVERY_S
    ) -> None:
        self._stream = stream
        self._unread_pipe: Path | None = None
        """A named pipe without a reader: `open` would wait for one."""
        self._waiting = ""
        self._now = now
        self._every_s = every_s

    def __repr__(self) -> str:
        return f"<EventFile: {'open' if self._stream else 'closed'}>"

    @classmethod
    def opened(cls, path: str) -> "EventFile":
        """Appends to that file; `-` is stdout.

        Raises:
            JobMistakesError: it cannot be written, or something else stands there.
        """
        if path == STDOUT:
            return cls(sys.stdout)
        if Path(path).name in _NAMES_OF_A_RUN or _holds_something_else(Path(path)):
            problem = f"{path} is not an events file; nothing is appended to it"
            hint = "choose another path"
            raise JobMistakesError((Mistake(file="--events", problem=problem, hint=hint),))
        try:
            if Path(path).is_fifo():
                file = cls(None)
                file._unread_pipe = Path(path)
                return file
            return cls(Path(path).open("a", encoding="utf-8"))
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}"
            raise JobMistakesError((Mistake(file="--events", problem=f"{path} {problem}"),)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; stdout stays open."""
        until_s = time.monotonic() + _LAST_WAIT_S
        while self._waiting and (left_s := until_s - time.monotonic()) > 0:
            self._send(wait_s=left_s)
            if self._unread_pipe is not None:
                time.sleep(_LOOK_FOR_READER_S)
        if self._waiting:
            print_message("--events: the last events are lost: nobody reads them")
        if self._stream is not None and self._stream is not sys.stdout:
            with suppress(OSError):
                self._stream.close()
        self._stream = self._unread_pipe = None

    async def follow(self, snapshot: Callable[[], Status]) -> None:
        """Write until cancelled."""
        from batchrunner.report.pace import RunPace  # noqa: PLC0415 - loaded when a run begins, not for `--help`

        clock, pace = asyncio.get_running_loop().time, RunPace()
        told = _EventState()
        while True:
            status, now = snapshot(), self._now()
            pace.note(status, now_s=clock(), now=now)
            for event, fields in told.news(status, pace, now_s=clock(), now=now):
                self._write(event, status.job, fields, now=now)
            self._send()
            await asyncio.sleep(self._every_s)

    def ended(
        self, job: str, exit_status: ExitStatus, *, status: Status | None = None, error: str | None = None
    ) -> None:
        """A job has come to its end: with its closing status, or with an error."""
        self._write("ended", job, {"exit_status": exit_status, "status": status, "error": error}, now=self._now())

    def _write(self, event: str, job: str, fields: dict[str, object], *, now: datetime) -> None:
        if self._stream is None and self._unread_pipe is None:
            return
        line = jsonable({"event": event, "time": utc_stamp(now), "job": job, **fields})
        self._waiting += json.dumps(line, allow_nan=False) + "\n"
        self._send()

    def _send(self, *, wait_s: float = 0.0) -> None:
        """Write what the stream takes now. `wait_s`: how long may be waited for a reader."""
        try:
            if self._unread_pipe is not None:
                self._open_pipe(self._unread_pipe)
            while self._stream is not None and self._waiting and (most := _writable(self._stream, wait_s=wait_s)):
                piece, self._waiting = self._waiting[:most], self._waiting[most:]
                self._stream.write(piece)
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._write_no_more(str(error))
        if len(self._waiting) > _MOST_WAITING:
            self._write_no_more("nobody reads them")

    def _open_pipe(self, path: Path) -> None:
        """If somebody reads it by now. Raises OSError."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        os.set_blocking(descriptor, True)
        self._stream, self._unread_pipe = os.fdopen(descriptor, "w", encoding="utf-8"), None

    def _write_no_more(self, why: str) -> None:
        self._stream = self._unread_pipe = None
        self._waiting = ""
        print_message(f"--events: no more events are written: {why}; the run continues")


def _holds_something_else(path: Path) -> bool:
    """Whether it is a file whose first line is no event. What is no ordinary file may be written to."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            first = file.readline(_LONGEST_EVENT)
        event = json.loads(first) if first else {"event": None}
        return not isinstance(event, dict) or "event" not in event
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, RecursionError):
        return True


def _writable(stream: TextIO, *, wait_s: float) -> int:
    """How many ASCII characters can be written without waiting for whoever reads them."""
    try:
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return _MOST_WAITING
        ready = select.select([], [stream], [], wait_s)[1]
    except (OSError, ValueError):
        return _MOST_WAITING  # no descriptor, or one that cannot be asked; a closed one is told by `write`
    return select.PIPE_BUF if ready else 0


class _EventState:
    """What has been written of one job."""

    def __init__(self) -> None:
        self._started = False
        self._lanes: dict[tuple[str, str], tuple[object, ...]] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._counts: object = None
        self._progress_s = 0.0
        self._paused: object = None

    def news(
        self, status: Status, pace: "RunPace", *, now_s: float, now: datetime
    ) -> list[tuple[str, dict[str, object]]]:
        """(event, fields) of what is new."""
        found: list[tuple[str, dict[str, object]]] = []
        if not self._started:
            self._started = True
            found.append(("started", {"dir": status.dir, "simulated": status.simulated, "items": status.items}))
        found += [("lane", {"lane": lane}) for lane in status.lanes if self._is_new(lane)]
        for group in status.failures:
            if self._failures.get((group.kind, group.message)) != group.count:
                self._failures[group.kind, group.message] = group.count
                found.append(("failed", {"failure": group}))
        if (paused := _paused(status)) != self._paused:
            self._paused = paused
            found += [("paused", paused)] if paused else []
        counts = status.items, status.sends
        if counts != self._counts and (self._counts is None or now_s - self._progress_s >= PROGRESS_EVERY_S):
            self._counts, self._progress_s = counts, now_s
            fields: dict[str, object] = {"items": status.items, "sends": status.sends, "usage": status.usage}
            rate, eta = pace.run.per_s(), pace.eta(status, now=now)
            fields |= {"per_s": rate and round(rate, 3), "eta_s": eta.ends_s and round(eta.ends_s, 1)}
            found.append(("progress", {**fields, "ready": eta.ready, "waiting": eta.waiting, "until": eta.until}))
        return found

    def _is_new(self, lane: LaneStatus) -> bool:
        state = lane.activity, lane.kind, lane.until
        key = lane.account, lane.model
        before, self._lanes[key] = self._lanes.get(key), state
        return before != state


def _paused(status: Status) -> dict[str, object]:
    """Why nothing can be sent for now, and until when; empty while something can."""
    if status.waiting is not None:
        return {"reason": status.waiting.reason, "until": status.waiting.until}
    at_work = {"working", "retrying"} & {lane.activity for lane in status.lanes}
    if at_work:
        return {}
    if any(lane.activity == "paused" for lane in status.lanes):
        return {"reason": "command", "until": None}
    parked = [lane for lane in status.lanes if lane.activity == "parked" and lane.until is not None]
    if not parked:
        return {}
    first = min(parked, key=lambda lane: datetime.fromisoformat(lane.until or ""))
    return {"reason": "all_parked", "until": first.until}
