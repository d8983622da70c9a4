"""`errors.log`: tracebacks of faults of this program, for whoever mends it. Private, without keys, of bounded size.

Refuses to be a reason for a run's end: where it cannot be written, the error's one line has to do.
"""

import asyncio
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from batchrunner.stores.atomic import write_all
from batchrunner.stores.files import DISK, PRIVATE_FILE, Files

ERROR_LOG: Final = "errors.log"
LOG_BYTES_MAX: Final = 1_000_000
"""Nothing is added beyond it: the first faults tell more than the last ones."""
ENTRY_CHARS_MAX: Final = 20_000
_LINE_CHARS_MAX: Final = 400


class ErrorLog:
    """Implements `core.ports.NoteFault` in a run's directory; `mask` takes keys out of a text."""

    def __init__(
        self, folder: Path, *, mask: Callable[[str], str], wall: Callable[[], float], files: Files = DISK
    ) -> None:
        self._path = folder / ERROR_LOG
        self._mask = mask
        self._wall = wall
        self._files = files

    def __repr__(self) -> str:
        return f"<ErrorLog {self._path}>"

    async def __call__(self, what: str, error: BaseException) -> str:
        """See `core.ports.NoteFault`."""
        line = self._mask(" ".join(f"{type(error).__name__}: {error}".split()))[:_LINE_CHARS_MAX]
        told = self._mask("".join(traceback.format_exception(error)))
        if len(told) > ENTRY_CHARS_MAX:
            told = f"{told[: ENTRY_CHARS_MAX // 2]}\n[…]\n{told[-ENTRY_CHARS_MAX // 2 :]}"
        at = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds")
        entry = f"{at} {self._mask(' '.join(what.split()))}\n{told}\n"
        try:
            await asyncio.to_thread(self._add, entry.encode("utf-8", "replace"))
        except OSError as refused:
            return f"{line} ({ERROR_LOG} could not be written: {refused.strerror or refused})"
        return line

    def _add(self, entry: bytes) -> None:
        descriptor = self._files.open_append(self._path, PRIVATE_FILE)
        try:
            if self._files.length(descriptor) + len(entry) <= LOG_BYTES_MAX:
                write_all(self._files, descriptor, entry)
        finally:
            self._files.close(descriptor)
