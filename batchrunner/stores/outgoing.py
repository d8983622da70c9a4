"""A file that leaves the house: streamed, whole or absent, durable when it is there.

Refuses: taking the place of a file, unless it was told that what stands there is its own.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.stores.atomic import open_beside, write_all
from batchrunner.stores.files import DISK, SHARED_FILE, Files

EXPORTS: Final = "export"
"""The folder in a run's directory in which exports lie. What lies there under an export's name is replaced by it."""
_BUFFER_BYTES: Final = 1 << 20


class OutgoingFile:
    """Writes one new file; a context manager. What was not `finish`ed leaves nothing behind."""

    def __init__(self, path: Path, *, replaces: bool, files: Files = DISK) -> None:
        """Write to `path`; `replaces` allows a file there, which stands until the new one is whole."""
        self._path = path
        self._replaces = replaces
        self._files = files
        self._beside: Path | None = None
        self._descriptor: int | None = None
        self._buffer = bytearray()

    def __repr__(self) -> str:
        return f"<OutgoingFile {self._path} {'open' if self._descriptor is not None else 'closed'}>"

    def __enter__(self) -> Self:
        """Raises JobMistakesError when the place is taken or there is no such folder, StoreBrokenError."""
        self._require_free()
        try:
            self._beside, self._descriptor = open_beside(self._files, self._path.parent, SHARED_FILE)
        except (FileNotFoundError, NotADirectoryError):
            hint = "make it first, or name another place"
            raise _mistake(self._path.parent, "there is no such folder", hint) from None
        except OSError as error:
            raise _refused(self._path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None
        if self._beside is not None:
            with suppress(OSError):  # a run that began meanwhile may have swept it; else the next one does
                self._files.unlink(self._beside)
            self._beside = None

    def write(self, piece: bytes) -> None:
        """Append. Raises StoreBrokenError."""
        self._buffer += piece
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def finish(self) -> None:
        """Give the file its name; durable when this returns. Raises JobMistakesError and StoreBrokenError."""
        self._flush()
        assert self._descriptor is not None, "finish is called inside of the context"
        assert self._beside is not None, "and once"
        try:
            self._files.fsync(self._descriptor)
            self._require_free()
            self._files.rename(self._beside, self._path)
            self._beside = None
            self._files.fsync_folder(self._path.parent)
        except FileNotFoundError:
            raise StoreBrokenError(
                f"{self._path}: a run that began here meanwhile cleared unfinished files away; export again"
            ) from None
        except OSError as error:
            raise _refused(self._path, error) from error

    def _flush(self) -> None:
        assert self._descriptor is not None, "write is called inside of the context"
        try:
            write_all(self._files, self._descriptor, bytes(self._buffer))
        except OSError as error:
            raise _refused(self._path, error) from error
        self._buffer.clear()

    def _require_free(self) -> None:
        if self._files.exists(self._path) and not self._replaces:
            raise _mistake(self._path, "exists already", "name another place: nothing is overwritten")


def _mistake(path: Path, problem: str, hint: str) -> JobMistakesError:
    return JobMistakesError((Mistake(file=str(path), problem=problem, hint=hint),))


def _refused(path: Path, error: OSError) -> StoreBrokenError:
    return StoreBrokenError(f"{path}: {error.strerror or error}; nothing was exported, and the run is as it was")
