"""An exported folder: streamed, whole or absent, and put in place of an earlier export only.

It is made beside its place under a hidden name that is locked while its process lives, so that the next export can
remove what a killed one left. A list of its files, `.batchrunner-export`, is what an earlier export is recognised by:
a folder with other files in it, or with one that was edited, is not replaced.
"""

import fcntl
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.exports import ExportPart
from batchrunner.stores.files import syncs_folder

LIST: Final = ".batchrunner-export"
"""A line for each file: size in bytes, time of change in nanoseconds, its path as JSON."""
_PREVIOUS: Final = ".previous"
"""Ends the name that an earlier export has while it is replaced."""
_UNFINISHED: Final = re.compile(r"\.[0-9]+-[0-9]+\.unfinished")
_numbers = itertools.count(1)


class OutgoingFolder:
    """Writes one new folder; a context manager. What was not `finish`ed leaves nothing behind."""

    def __init__(self, path: Path, *, replaces: bool) -> None:
        """Write to `path`; `replaces` allows an earlier export, which is kept until the new one is complete."""
        self._path = path
        self._replaces = replaces
        self._beside: Path | None = None
        self._lock: int | None = None
        self._open: dict[str, BinaryIO] = {}
        self._done: list[str] = []

    def __repr__(self) -> str:
        return f"<OutgoingFolder {self._path} files={len(self._done)} open={len(self._open)}>"

    @property
    def files(self) -> int:
        """How many files it has."""
        return len(self._done) + len(self._open)

    def __enter__(self) -> Self:
        """Raises JobMistakesError when the place is taken or there is no such folder, StoreBrokenError."""
        self._require_free()
        parent = self._path.parent
        try:
            _remove_leftovers(parent)
            beside = parent / f".{os.getpid()}-{next(_numbers)}.unfinished"
            beside.mkdir()
            self._beside = beside
            self._lock = os.open(beside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):
            raise _mistake(parent, "no such directory", "create it, or choose another path") from None
        except OSError as error:
            self.__exit__()
            raise self._refused(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            with suppress(OSError):  # it is removed anyway
                file.close()
        self._open.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._beside is not None:
            shutil.rmtree(self._beside, ignore_errors=True)
            self._beside = None

    def write(self, part: ExportPart) -> None:
        """Append to the file of the part. Raises StoreBrokenError."""
        try:
            file = self._open.get(part.path)
            if file is None:
                file = self._opened(part.path)
            file.write(part.content)
            if not part.more:
                del self._open[part.path]
                self._close(part.path, file)
        except OSError as error:
            raise self._refused(error) from error

    def _opened(self, path: str) -> BinaryIO:
        assert self._beside is not None, "write is called inside of the context"
        place = self._beside / path
        if place.parent != self._beside:
            place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("xb")
        self._open[path] = file
        return file

    def _close(self, path: str, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._done.append(path)

    def finish(self) -> None:
        """Give the folder its name; durable when this returns. Raises JobMistakesError and StoreBrokenError."""
        assert self._beside is not None, "finish is called inside of the context, and once"
        try:
            for path, file in self._open.items():
                self._close(path, file)
            self._open.clear()
            self._write_list()
            for folder in {self._beside, *((self._beside / path).parent for path in self._done)}:
                syncs_folder(folder)
            self._require_free()
            self._take_place()
            syncs_folder(self._path.parent)
        except OSError as error:
            raise self._refused(error) from error

    def _write_list(self) -> None:
        assert self._beside is not None, "it is called by finish"
        with (self._beside / LIST).open("xb") as file:
            for path in sorted(self._done):
                found = (self._beside / path).stat()
                file.write(f"{found.st_size} {found.st_mtime_ns} {json.dumps(path)}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def _take_place(self) -> None:
        """An earlier export stands under another name between the two steps, and goes back if the second one fails."""
        assert self._beside is not None, "it is called by finish"
        previous = self._path.with_name(self._path.name + _PREVIOUS)
        if not os.path.lexists(self._path):
            self._beside.rename(self._path)
        else:
            if os.path.lexists(previous):
                self._require_ours(previous)
                shutil.rmtree(previous)
            self._path.rename(previous)
            try:
                self._beside.rename(self._path)
            except OSError:
                previous.rename(self._path)
                raise
            shutil.rmtree(previous, ignore_errors=True)
        self._beside = None

    def _require_free(self) -> None:
        if not os.path.lexists(self._path):
            return
        if not self._replaces:
            raise _mistake(self._path, "already exists", "choose another path; nothing is overwritten")
        self._require_ours(self._path)

    def _require_ours(self, path: Path) -> None:
        """It is an earlier export, as it was left: its files, and no others."""
        hint = "move it away, or choose another path with --out; nothing is overwritten"
        if path.is_symlink() or not path.is_dir() or not (path / LIST).is_file():
            raise _mistake(path, "is not an earlier export", hint)
        try:
            listed = dict(_listed(path / LIST))
            for name, size_bytes, mtime_ns in _files_below(path):
                if listed.pop(name, None) != (size_bytes, mtime_ns):
                    raise _mistake(path / name, "was added or changed since the earlier export was made", hint)
        except OSError as error:
            raise self._refused(error) from error
        except ValueError:
            raise _mistake(path / LIST, "is not the list of an earlier export", hint) from None

    def _refused(self, error: OSError) -> StoreBrokenError:
        said = error.strerror or error
        return StoreBrokenError(f"{self._path}: {said}; nothing was exported, and the run directory is unchanged")


def _listed(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    with path.open("rb") as file:
        for line in file:
            size_bytes, mtime_ns, name = line.decode().split(" ", 2)
            yield json.loads(name), (int(size_bytes), int(mtime_ns))


def _files_below(folder: Path, below: str = "") -> Iterator[tuple[str, int, int]]:
    """(path relative to the folder, size, time of change) of everything that is no folder, but the list."""
    with os.scandir(folder / below) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(folder, f"{name}/")
            elif name != LIST:
                found = entry.stat(follow_symlinks=False)
                yield name, found.st_size, found.st_mtime_ns


def _remove_leftovers(parent: Path) -> None:
    """Remove unfinished folders whose process is gone."""
    for name in os.listdir(parent):  # noqa: PTH208 - names are wanted, not paths
        if _UNFINISHED.fullmatch(name) is None:
            continue
        with suppress(OSError):  # somebody else removes it, or it is locked: its process lives
            lock = os.open(parent / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(parent / name, ignore_errors=True)
            finally:
                os.close(lock)


def _mistake(path: Path, problem: str, hint: str) -> JobMistakesError:
    return JobMistakesError((Mistake(file=str(path), problem=problem, hint=hint),))
