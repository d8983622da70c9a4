"""What a power loss leaves in the middle of a file of rows is taken out of it, so that every line is a row again.

Pages reach the disk in any order: whole rows may follow a hole. Refuses to lose either: the hole's bytes go to another
file, durable there before the file without them takes its place, atomically.
"""

from pathlib import Path

from batchrunner.stores.atomic import open_beside, write_all
from batchrunner.stores.files import SHARED_FILE, Files
from batchrunner.stores.rows import name_and_id_of, row_lines

_CHUNK_BYTES = 1 << 20


def take_out_unreadable(files: Files, path: Path, *, start: int, into: Path) -> int:
    """Move whole lines from `start` on that are no rows; how many bytes. Raises OSError, with the old file in place."""
    holes = [
        (line.offset, len(line.text) + 1)
        for line in row_lines(files, path, start=start)
        if line.whole and name_and_id_of(line.text) is None
    ]
    if not holes:
        return 0
    old = files.open_read(path)
    try:
        _keep(files, old, holes, into)
        beside, new = open_beside(files, path.parent, SHARED_FILE)
        try:
            done = 0
            for offset, length in [*holes, (files.length(old), 0)]:
                _copy(files, old, new, start=done, end=offset)
                done = offset + length
            files.fsync(new)
            files.rename(beside, path)
        except OSError:
            files.unlink(beside)
            raise
        finally:
            files.close(new)
    finally:
        files.close(old)
    files.fsync_folder(path.parent)
    return sum(length for _, length in holes)


def _keep(files: Files, old: int, holes: list[tuple[int, int]], into: Path) -> None:
    descriptor = files.open_append(into, SHARED_FILE)
    try:
        for offset, length in holes:
            _copy(files, old, descriptor, start=offset, end=offset + length)
        files.fsync(descriptor)
    finally:
        files.close(descriptor)
    files.fsync_folder(into.parent)


def _copy(files: Files, source: int, target: int, *, start: int, end: int) -> None:
    while start < end:
        data = files.read_at(source, min(_CHUNK_BYTES, end - start), start)
        write_all(files, target, data)
        start += len(data)
