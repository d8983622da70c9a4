"""Output helpers: human-readable text to stderr, one JSON object to stdout.

A closed pipe or terminal never ends a run: later output is discarded. A disk that has no room for stdout does not end
it either, but is an error, since a program may read what is missing.
"""

import errno
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self, TextIO

from batchrunner.core.errors import BatchrunnerError, ExitStatus, JobMistakesError, Mistake, NoRunError
from batchrunner.report.wording import jsonable, printable

MOST_SHOWN = 200
"""The most errors that are printed, a line each; then comes the number of the others."""


def print_message(text: str) -> None:
    """Print one or more lines to stderr; control characters are escaped. A JSON object each with `run --log-json`."""
    if _as_json:
        _as_json[-1](text)
        return
    _write(sys.stderr, "\n".join(printable(line) for line in text.split("\n")) + "\n")


_as_json: list[Callable[[str], None]] = []
"""What makes a line of JSON of a message, once that is wanted."""


def messages_as_json(write: Callable[[str], None]) -> None:
    """From now on, everything for stderr goes to `write`, which may use `print_json_line`."""
    _as_json.append(write)


def messages_as_text() -> None:
    """Undo `messages_as_json`."""
    _as_json.clear()


def print_json_line(line: str) -> None:
    """A line of JSON, for stderr."""
    _write(sys.stderr, line + "\n")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def utc_stamp(now: datetime | None = None) -> str:
    """`2026-11-26T22:50:12Z`."""
    return (now or utc_now()).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_stamped(text: str) -> None:
    """As `print_message`: wrapped for a terminal, else the first line begins with the time, for logs."""
    if _as_json:
        print_message(text)
        return
    print_message(fitted(text) if sys.stderr.isatty() else f"{utc_stamp()} {text}")


_LEAST_WIDTH = 40
_CUT = "  lane "
_LABEL = re.compile(r"\s{1,4}\S(?:\S| (?! )){0,24}\s{2,}")
_INDENTED = re.compile(r"\s*")


def fitted(text: str) -> str:
    """Lines wrapped at words to the terminal's width, further ones below the text of the first; else as they are.

    What is to be copied stays on one line: paths and the command after `next:`.
    """
    if not sys.stderr.isatty():
        return text
    columns = max(_LEAST_WIDTH, shutil.get_terminal_size().columns)
    wrapped: list[str] = []
    for line in text.split("\n"):
        if len(line) < columns or line.startswith("next: "):
            wrapped.append(line)
            continue
        if line.startswith(_CUT):  # one line a lane: what is cut off are the server's words
            wrapped.append(line[: columns - 2] + "…")
            continue
        label = _LABEL.match(line) or _INDENTED.match(line)
        indent = " " * len(label[0] if label else "")
        wrapped += textwrap.wrap(
            line, columns - 1, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(wrapped)


class StatusLine:
    """One line of a terminal that is written over, for what takes longer than a second. Nothing without a terminal."""

    def __init__(self, *, after_s: float = 1.0, every_s: float = 0.25) -> None:
        self._every_s = every_s
        self._due_s = time.monotonic() + after_s
        self._shown = False

    def __repr__(self) -> str:
        return f"<StatusLine: {'shown' if self._shown else 'empty'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        if self._shown:
            _write(sys.stderr, "\r\x1b[K")

    def show(self, text: str) -> None:
        """Write over what stood there; as often as this is called, four times a second at most."""
        now_s = time.monotonic()
        if _as_json or now_s < self._due_s or not sys.stderr.isatty() or is_dumb():
            return
        from rich.cells import set_cell_size  # noqa: PLC0415 - for terminals only, and for what takes long

        self._due_s, self._shown = now_s + self._every_s, True
        room = shutil.get_terminal_size().columns - 1
        _write(sys.stderr, f"\r{set_cell_size(printable(text), room).rstrip()}\x1b[K")


def is_dumb() -> bool:
    """Whether the terminal moves no cursor: `TERM` says so, is empty or not set."""
    return (os.environ.get("TERM") or "dumb") == "dumb"


def emit(value: object) -> None:
    """The command's JSON object, on a line of its own."""
    emit_text(json.dumps(jsonable(value), allow_nan=False))


def emit_text(text: str) -> None:
    """JSON that is already text."""
    _write(sys.stdout, text + "\n")


def print_mistakes(mistakes: tuple[Mistake, ...], *, as_json: bool) -> ExitStatus:
    """Print every error as text, and with `as_json` also as `{"mistakes": […]}`."""
    if as_json:
        emit({"mistakes": mistakes})
    for mistake in mistakes[:MOST_SHOWN]:
        print_message(f"error: {mistake}".replace("\n", " "))
    if len(mistakes) > MOST_SHOWN:
        left_out = len(mistakes) - MOST_SHOWN
        print_message(f"error: and {left_out:,} more errors, {len(mistakes):,} in all; `--json` lists all of them")
    return ExitStatus.MISTAKE


def print_error(error: BatchrunnerError, *, as_json: bool) -> ExitStatus:
    """Print an error without a traceback; returns the exit status of the command."""
    if isinstance(error, JobMistakesError) and not isinstance(error, NoRunError):
        return print_mistakes(error.mistakes, as_json=as_json)
    if as_json:
        emit(error_object(error) | ({"mistakes": error.mistakes} if isinstance(error, NoRunError) else {}))
    print_message(f"error: {error}")
    return error.exit_status


def error_object(error: BatchrunnerError) -> dict[str, object]:
    """`{"error": {"message": …, "exit_status": n}}`."""
    return {"error": {"message": str(error), "exit_status": error.exit_status}}


def reader_is_gone() -> None:
    """Discard everything that is written to stdout from now on."""
    _silence(sys.stdout)


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_not_written: list[str] = []
"""Why the disk did not take what was printed to stdout."""


def status_with_output(status: int) -> int:
    """The exit status of a command that came to `status`: of a good end only if all of its output was written."""
    return ExitStatus.STOPPED if _not_written and status == ExitStatus.DONE else status


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        _silence(stream)
        if stream is sys.stdout and isinstance(error, OSError) and error.errno in _NO_ROOM:
            _not_written.append(str(error))
            print_message(f"error: stdout could not be written: {error.strerror}; what was written is incomplete")


def _silence(stream: TextIO) -> None:
    """Point the stream's descriptor at nothing, so that neither later lines nor the interpreter's exit raise errors."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        return
