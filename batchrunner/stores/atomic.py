"""Whole files or none: bytes go into a new file beside their place, to the disk, and then under their name.

Refuses: leaving half a file under a real name, following links, silently short writes.
"""

import errno
import itertools
import os
import re
from pathlib import Path

from batchrunner.stores.files import Files, InspectedFiles

TEMPORARY = ".tmp"
"""Names ending so are left-overs of a process that was killed; whoever holds the run's lock may remove them."""

_LEFT_OVER = re.compile(r"\.[0-9]+-[0-9]+\.tmp")
_numbers = itertools.count(1)


def open_beside(files: Files, folder: Path, mode: int) -> tuple[Path, int]:
    """A new, empty file in `folder` with a name that nobody uses, and its descriptor."""
    while True:
        path = folder / f".{os.getpid()}-{next(_numbers)}{TEMPORARY}"
        try:
            return path, files.open_new(path, mode)
        except FileExistsError:
            continue


def write_all(files: Files, descriptor: int, data: bytes) -> None:
    """Write everything; a short write is continued, so that the system says why (ENOSPC first shows as one).

    Raises:
        OSError: what the system said.
    """
    rest = memoryview(data)
    while rest:
        taken = files.write(descriptor, rest)
        if taken <= 0:
            raise OSError(errno.EIO, "the system took no bytes and gave no reason")
        rest = rest[taken:]


def place_whole(files: Files, path: Path, data: bytes, mode: int) -> None:
    """Put `data` under `path`; its bytes are durable, its name is not before `fsync_folder(path.parent)`.

    Raises:
        OSError: what the system said; nothing is left behind, and what stood under `path` still does.
    """
    beside, descriptor = open_beside(files, path.parent, mode)
    try:
        try:
            write_all(files, descriptor, data)
            files.fsync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(beside, path)
    except OSError:
        files.unlink(beside)
        raise


def write_whole(files: Files, path: Path, data: bytes, mode: int) -> None:
    """Put `data` under `path`, durable with its name when this returns. Raises OSError."""
    place_whole(files, path, data, mode)
    files.fsync_folder(path.parent)


def is_left_over(name: str) -> bool:
    """Whether a file's name says that it was never finished."""
    return _LEFT_OVER.fullmatch(name) is not None


def sweep(files: InspectedFiles, folder: Path) -> int:
    """Remove what killed processes left in `folder` and below; how many files. Only for the holder of the run's lock.

    Raises:
        OSError: what the system said.
    """
    left = [name for name in files.names(folder) if is_left_over(name)]
    for name in left:
        files.unlink(folder / name)
    return len(left) + sum(sweep(files, folder / name) for name in files.folders(folder))
