"""Output helpers: human-readable text to stderr, one JSON object to stdout.

A closed pipe or terminal never ends a run: later output is discarded.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from batchrunner.core.errors import BatchrunnerError, ExitStatus, JobMistakesError, Mistake, NoRunError
from batchrunner.report.summary import jsonable
from batchrunner.report.wording import printable

MOST_SHOWN = 200
"""The most errors that are printed, a line each; then comes the number of the others."""


def print_message(text: str) -> None:
    """Print one or more lines to stderr; control characters are escaped."""
    _write(sys.stderr, "\n".join(printable(line) for line in text.split("\n")) + "\n")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def utc_stamp(now: datetime | None = None) -> str:
    """`2026-11-26T22:50:12Z`."""
    return (now or utc_now()).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_stamped(text: str) -> None:
    """The same as `print_message`; without a terminal the first line begins with the time, for logs."""
    print_message(text if sys.stderr.isatty() else f"{utc_stamp()} {text}")


def reading(file: str) -> Callable[[int], None]:
    """A callback that prints how many items a long pass over the prompts has read."""
    return lambda items: print_message(f"{file}: {items:,} items read so far")


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


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Point the stream's descriptor at nothing, so that neither later lines nor the interpreter's exit raise errors."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        return
