"""The file port: every call to the operating system that a store makes, and nothing smarter.

`Disk` is the real one. A simulated file system implements the same `Files`, so that crashes, power loss and full
disks can be played by seed. Refuses: following a symbolic link at the last step of a path, inheriting descriptors
into children, interpreting errors (an `OSError` leaves as it is; the stores translate it, once, with `broken`).
"""

import errno
import itertools
import os
import re
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Protocol

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Close, FileMark, FolderMark
from batchrunner.core.values import dataclass

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
SHARED_FILE = 0o666
"""Less the umask, like any file that a user creates."""
SHARED_FOLDER = 0o777

NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of file systems that do not support a call."""

_WRONG_KIND = {
    errno.EISDIR: "is a directory; expected a file",
    errno.ENOTDIR: "is a file, or is below one; expected a directory",
    errno.ENXIO: "is a socket or a device; expected a file",
}
"""A path of the run is of the wrong kind."""

_ALWAYS = os.O_CLOEXEC | os.O_NOFOLLOW


class Files(Protocol):
    """What the stores ask of a file system. Every method raises OSError, as `os` does. Descriptors are ints."""

    def open_new(self, path: Path, mode: int) -> int:
        """Create for appending and reading; FileExistsError when the name is taken."""

    def open_append(self, path: Path, mode: int) -> int:
        """Open for appending and reading, created when absent."""

    def open_read(self, path: Path) -> int:
        """Open for reading."""

    def open_unnamed(self, pieces: Iterable[bytes]) -> int:
        """A file without a name, outside of the run's directory, that holds these bytes; open for reading."""

    def read_at(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        """Up to `size_bytes` from `offset`; empty at the end. Works for every descriptor."""

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """One write at the end; how many bytes were taken, which may be fewer than given."""

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file to `length` bytes."""

    def fsync(self, descriptor: int) -> None:
        """Return when the file's bytes are on the disk."""

    def fsync_folder(self, path: Path) -> None:
        """Return when the folder's names are on the disk."""

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""

    def length(self, descriptor: int) -> int:
        """The open file's length in bytes."""

    def inode(self, descriptor: int) -> int:
        """The open file's number; 0 when no name leads to it any more: it was removed while it was open."""

    def exists(self, path: Path) -> bool:
        """Whether the name is taken, by whatever."""

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target`, atomically."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def make_folder(self, path: Path, mode: int) -> bool:
        """True if it was created now, False if it existed; NotADirectoryError for a link or anything else."""

    def names(self, path: Path) -> list[str]:
        """The names in a folder, in no order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a path is, without following links."""

    kind: Literal["file", "folder", "other"]
    mode: int
    """Permission bits."""
    size_bytes: int
    inode: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    """When the name or the bytes were last changed; 0 where that is not known."""


class InspectedFiles(Files, Protocol):
    """What a walk through a run's directory asks beyond that."""

    def look(self, path: Path) -> Look | None:
        """What is at this path; None if nothing is."""

    def folders(self, path: Path) -> list[str]:
        """The names in a folder that are folders themselves, links aside."""


class Disk:
    """The machine's own file system."""

    def open_new(self, path: Path, mode: int) -> int:
        """See `Files`."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | _ALWAYS, mode)

    def open_append(self, path: Path, mode: int) -> int:
        """See `Files`."""
        return plain(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _ALWAYS, mode), path)

    def open_read(self, path: Path) -> int:
        """See `Files`."""
        return plain(os.open(path, os.O_RDONLY | _ALWAYS | os.O_NONBLOCK), path)

    def open_unnamed(self, pieces: Iterable[bytes]) -> int:
        """See `Files`."""
        with tempfile.TemporaryFile() as file:
            file.writelines(pieces)
            file.flush()
            return os.dup(file.fileno())

    def read_at(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        """See `Files`."""
        return os.pread(descriptor, size_bytes, offset)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """See `Files`."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, length: int) -> None:
        """See `Files`."""
        os.ftruncate(descriptor, length)

    def fsync(self, descriptor: int) -> None:
        """See `Files`."""
        os.fsync(descriptor)

    def fsync_folder(self, path: Path) -> None:
        """See `Files`. A file system that has no such call (SMB, VirtualBox, some FUSE) keeps names as it does."""
        syncs_folder(path)

    def close(self, descriptor: int) -> None:
        """See `Files`."""
        os.close(descriptor)

    def length(self, descriptor: int) -> int:
        """See `Files`."""
        return os.fstat(descriptor).st_size

    def inode(self, descriptor: int) -> int:
        """See `Files`."""
        found = os.fstat(descriptor)
        return found.st_ino if found.st_nlink else 0

    def exists(self, path: Path) -> bool:
        """See `Files`."""
        return os.path.lexists(path)

    def rename(self, source: Path, target: Path) -> None:
        """See `Files`."""
        os.rename(source, target)  # noqa: PTH104 - the port is `os`, name for name; a simulated one has no Path methods

    def unlink(self, path: Path) -> None:
        """See `Files`."""
        path.unlink()

    def make_folder(self, path: Path, mode: int) -> bool:
        """See `Files`."""
        try:
            path.mkdir(mode)
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "is not a directory, or is a link to one", str(path)) from None
            return False
        return True

    def names(self, path: Path) -> list[str]:
        """See `Files`."""
        return os.listdir(path)  # noqa: PTH208 - names are wanted, not paths

    def look(self, path: Path) -> Look | None:
        """See `InspectedFiles`."""
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        kind: Literal["file", "folder", "other"] = "other"
        if stat.S_ISREG(found.st_mode):
            kind = "file"
        elif stat.S_ISDIR(found.st_mode):
            kind = "folder"
        return Look(
            kind=kind,
            mode=stat.S_IMODE(found.st_mode),
            size_bytes=found.st_size,
            inode=found.st_ino,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
        )

    def folders(self, path: Path) -> list[str]:
        """See `InspectedFiles`."""
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def plain(descriptor: int, path: Path) -> int:
    """The descriptor, if it is a file's. A folder would refuse without its name, a pipe wait for a writer. OSError."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.ENXIO, "is a pipe, socket or device; expected a regular file", str(path))


def syncs_folder(path: Path) -> bool:
    """Put a folder's names on the disk; False where the file system cannot. Raises OSError for all other trouble."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


DISK = Disk()


def make_durable(files: Files, path: Path) -> None:
    """Sync a file of an earlier process before anything relies on it: that process may not have lived to. OSError."""
    if files.exists(path):
        descriptor = files.open_read(path)
        try:
            files.fsync(descriptor)
        finally:
            files.close(descriptor)


def append_line(files: Files, path: Path, line: bytes) -> None:
    """Append a line; durable when this returns. Blocks. Raises OSError, maybe after half a line."""
    descriptor = files.open_append(path, SHARED_FILE)
    try:
        write_all(files, descriptor, line + b"\n")
        files.fsync(descriptor)
    finally:
        files.close(descriptor)
    files.fsync_folder(path.parent)


def broken(path: Path, error: OSError, *, sending: bool = True) -> StoreBrokenError:
    """An OSError as a StoreBrokenError: which file, the system's message, and that sending stops.

    `sending` is False where that would be untrue: in a command that only looks, or that a run does not follow.
    Where the system names a file below the folder `path`, or beside the file `path`, that one is named.
    """
    named = error.filename2 or error.filename  # of a renamed file, what it should have been called
    if isinstance(named, str) and Path(named).is_relative_to(path.parent) and not named.endswith(TEMPORARY):
        path = Path(named)
    said, way_on = error.strerror or str(error), "fix the disk"
    if error.errno in _WRONG_KIND:
        way_on = "move it away, restore the original"
        plainly = error.strerror == os.strerror(error.errno)  # else the message is already more exact
        said = _WRONG_KIND[error.errno] if plainly else said
    elif error.errno == errno.ELOOP:
        said = "is a symbolic link, which is not followed here; replace it with the file itself"
    way_on = f"stopped sending. {way_on.capitalize()}" if sending else way_on
    return StoreBrokenError(f"{path}: {said}; {way_on}, then rerun the same command")


# Whole files or none: bytes go into a new file beside their place, to the disk, and then under their name.
#
# Refuses: leaving half a file under a real name, following links, silently short writes.

TEMPORARY = ".tmp"
"""Suffix of unfinished files; left-overs of a killed process may be removed by the holder of the run's lock."""

_LEFT_OVER = re.compile(r"\.[0-9]+-[0-9]+\.tmp")
_numbers = itertools.count(1)


def open_beside(files: Files, folder: Path, mode: int) -> tuple[Path, int]:
    """A new, empty file in `folder` with an unused name, and its descriptor."""
    while True:
        path = folder / f".{os.getpid()}-{next(_numbers)}{TEMPORARY}"
        try:
            return path, files.open_new(path, mode)
        except FileExistsError:
            continue


def write_all(files: Files, descriptor: int, data: bytes) -> None:
    """Write everything; a short write is continued, so that the system raises the reason (ENOSPC first shows as one).

    Raises:
        OSError: what the system said.
    """
    rest = memoryview(data)
    while rest:
        taken = files.write(descriptor, rest)
        if taken <= 0:
            raise OSError(errno.EIO, "write() returned 0 bytes")
        rest = rest[taken:]


def place_whole(files: Files, path: Path, data: bytes, mode: int, *, durable: bool = True) -> None:
    """Put `data` under `path`; its bytes are durable, its name is not before `fsync_folder(path.parent)`.

    With `durable=False` the bytes are not synced either: for what can be made again.

    Raises:
        OSError: what the system said; nothing is left behind, and what stood under `path` still does.
    """
    _place(files, path, (data,), mode, durable=durable)


def write_whole(files: Files, path: Path, data: bytes, mode: int) -> None:
    """Put `data` under `path`, durable with its name when this returns. Raises OSError."""
    write_pieces(files, path, (data,), mode)


def write_pieces(files: Files, path: Path, pieces: Iterable[bytes], mode: int) -> int:
    """Put all pieces under `path`, durable with its name when this returns; how many bytes.

    They may be read from the file that stands under `path` now: it is replaced when the last one is durable.

    Raises:
        OSError: what the system said, to `pieces` too; what stood under `path` still does, unless only its folder
            could not be synced.
    """
    length = _place(files, path, pieces, mode)
    files.fsync_folder(path.parent)
    return length


def _place(files: Files, path: Path, pieces: Iterable[bytes], mode: int, *, durable: bool = True) -> int:
    length = 0
    beside, descriptor = open_beside(files, path.parent, mode)
    try:
        try:
            for piece in pieces:
                write_all(files, descriptor, piece)
                length += len(piece)
            if durable:
                files.fsync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(beside, path)
    except BaseException:
        with suppress(OSError):  # the first refusal is the reason; a left-over is removed by the next run
            files.unlink(beside)
        raise
    return length


def is_left_over(name: str) -> bool:
    """Whether the name is that of an unfinished file."""
    return _LEFT_OVER.fullmatch(name) is not None


def remove_temporary_files(files: InspectedFiles, folder: Path) -> int:
    """Remove what killed processes left in `folder` and below; how many files. Only for the holder of the run's lock.

    Raises:
        OSError: what the system said.
    """
    left = [name for name in files.names(folder) if is_left_over(name)]
    for name in left:
        files.unlink(folder / name)
    if left:  # else a power loss brings them back
        files.fsync_folder(folder)
    return len(left) + sum(remove_temporary_files(files, folder / name) for name in files.folders(folder))


# How a clean end left a run directory, and whether it is unchanged.
#
# Of each file of rows its inode, size and time of change are kept, of each folder of outputs its inode, the newest time
# of change of the folders in it and the number of files. What is the same was not changed by hand; what differs, and
# what was copied, is looked at row by row (`inspection`). Makes no mark of what does not fit into one ledger
# record.

RESULTS: Final = "results.jsonl"
FAILURES: Final = "failures.jsonl"
SUPERSEDED: Final = "superseded.jsonl"
SUPERSEDED_FAILURES: Final = "superseded_failures.jsonl"
_MARKED: Final = (RESULTS, FAILURES, SUPERSEDED, SUPERSEDED_FAILURES)
_MOST_FOLDERS: Final = 200
"""So many fit into a record whatever they are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What `Close` keeps."""

    files: tuple[FileMark, ...]
    folders: tuple[FolderMark, ...]


def marks_of(files: InspectedFiles, folder: Path, outputs: Iterable[str]) -> Marks | None:
    """The directory as it is now; `outputs` are its top-level folders with pictures and answers.

    None when there are too many of these for a record. Blocks. Raises StoreBrokenError.
    """
    names = sorted(outputs)
    if len(names) > _MOST_FOLDERS or any(len(name) > _MOST_FOLDERS for name in names):
        return None
    try:
        return Marks(
            files=tuple(mark for name in _MARKED if (mark := _file_mark(files, folder, name)) is not None),
            folders=tuple(mark for name in names if (mark := _folder_mark(files, folder, name)) is not None),
        )
    except OSError as error:
        raise broken(folder, error, sending=False) from error


def stands_as_marked(files: InspectedFiles, folder: Path, marked: Close | None) -> bool:
    """Whether the directory is unchanged since that end. Blocks. Raises StoreBrokenError."""
    if marked is None or marked.files is None:
        return False
    now = marks_of(files, folder, (name for name, *_ in marked.folders))
    return now is not None and now.files == marked.files and now.folders == marked.folders


def size_marked(marked: Close, name: str) -> int:
    """Bytes of a file of rows at that end."""
    return next((size for known, _, size, _ in marked.files or () if known == name), 0)


def count_files(files: InspectedFiles, folder: Path) -> tuple[int, int]:
    """(files in a folder and below, newest time of change of these folders). Raises OSError."""
    found = files.look(folder)
    below = files.folders(folder)
    count, newest = len(files.names(folder)) - len(below), found.mtime_ns if found is not None else 0
    for name in below:
        inner, changed = count_files(files, folder / name)
        count, newest = count + inner, max(newest, changed)
    return count, newest


def _file_mark(files: InspectedFiles, folder: Path, name: str) -> FileMark | None:
    found = files.look(folder / name)
    return None if found is None else (name, found.inode, found.size_bytes, found.mtime_ns)


def _folder_mark(files: InspectedFiles, folder: Path, name: str) -> FolderMark | None:
    found = files.look(folder / name)
    if found is None or found.kind != "folder":
        return None
    count, newest = count_files(files, folder / name)
    return name, found.inode, newest, count
