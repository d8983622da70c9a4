"""One writer at a time: `flock` on the run's `lock` file, freed by the system when its holder dies, however it dies.

The file is never removed: a lock on a removed file would lock nothing. Its content only says who holds it. Refuses:
believing the content (the lock itself is the truth), locking a file that another one has replaced.

Where the file system has no `flock` (ENOLCK and the like on some network disks), a file `.lock` that is created
exclusively takes its place: `stores.lock`.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from batchrunner.core.errors import LockHeldError
from batchrunner.core.values import asdict, dataclass
from batchrunner.stores.files import DISK, NOT_OFFERED, PRIVATE_FILE, broken, plain

# The second best lock, for file systems without `flock`: a file that is created exclusively and names its holder.
#
# It keeps out every process of this machine, and those of other machines as long as they see the file. What it cannot
# do
# is free itself when its holder dies: on the same machine a dead process is recognised by its number and the moment of
# its start, and its file is set aside; on another machine the user has to remove it, and the error says so.

LOCK_FILE = ".lock"
NO_LOCKS = NOT_OFFERED | {errno.ENOLCK}
"""Errors of file systems that cannot lock."""
_SETTLE_S = 0.05
_LOCK_FILE_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock; zero and empty where the lock file does not say."""

    pid: int = 0
    host: str = ""
    since: str = ""
    """UTC, RFC 3339."""

    def __str__(self) -> str:
        if not self.pid:
            return "already running"
        host = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"already running (pid {self.pid}{host}, started {self.since})"


class LockFile:
    """The file `.lock` in a run's directory. One object, one use."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self._mark = ""

    def __repr__(self) -> str:
        return f"<LockFile {self.path} {'held' if self._mark else 'free'}>"

    def acquire(self, own: Holder) -> Holder | None:
        """Create the file; None when it is this process's now, else who has it. Blocks shortly. Raises OSError."""
        mark = secrets.token_hex(8)
        said = json.dumps({**asdict(own), "started": _started(own.pid), "mark": mark}).encode() + b"\n"
        for _ in range(_LOCK_FILE_TRIES):
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
            except FileExistsError:
                if (other := self._holder(own)) is not None:
                    return other
                self._set_aside()
                continue
            try:
                os.write(descriptor, said)
            finally:
                os.close(descriptor)
            # Two processes that found the same dead one's file may both have set it aside: the later file stays.
            time.sleep(_SETTLE_S)
            if self._read().get("mark") == mark:
                self._mark = mark
                return None
        return self.holder() or Holder()

    def release(self) -> None:
        """Remove the file if it is still this process's."""
        if self._mark and self._read().get("mark") == self._mark:
            with contextlib.suppress(OSError):  # the next run sees that its holder is gone
                self.path.unlink()
        self._mark = ""

    def holder(self) -> Holder | None:
        """Who has the file now; None if it is free, or held by a process of this machine that has ended."""
        return self._holder(Holder(host=os.uname().nodename))

    def _holder(self, own: Holder) -> Holder | None:
        said = self._read()
        if not said:
            return Holder() if os.path.lexists(self.path) else None
        try:
            there = Holder(pid=int(str(said["pid"])), host=str(said["host"]), since=str(said["since"]))
        except (KeyError, ValueError):
            return Holder()
        is_gone = there.host == own.host and _started(there.pid) != said.get("started")
        return None if is_gone else there

    def _set_aside(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def _read(self) -> dict[str, object]:
        try:
            said = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}


def _started(pid: int) -> str:
    """When the process began, in the system's own ticks; which distinguishes it from a later one with the same number.

    Empty when there is no such process, `?` if the system does not say.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except (PermissionError, OverflowError):
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "?"


LOCK = "lock"
_TRIES = 4
_PAUSE_S = 0.05
"""Whoever only looks (`holder_of`) has the lock for an instant; a run that starts then must not be turned away."""


class RunLock:
    """The lock of one run's directory; a context manager. One object, one use."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None
        self._instead: LockFile | None = None

    @property
    def is_second_best(self) -> bool:
        """True if the file system cannot lock and a file is used instead."""
        return self._instead is not None

    def __repr__(self) -> str:
        return f"<RunLock {self._path} {'free' if self._descriptor is None else 'held'}>"

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, or raise with who has it. The directory must exist.

        Raises:
            LockHeldError: another process writes here.
            StoreBrokenError: the file system cannot lock, or refused the file.
        """
        assert self._descriptor is None, "this lock is held already"
        try:
            try:
                descriptor = _locked(self._path)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                self._instead = LockFile(self._path.parent)
                if (other := self._instead.acquire(_own())) is not None:
                    raise _held(self._path, other, remove=self._instead.path) from None
                return
            try:
                _write_holder(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise broken(self._path, error, sending=False) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._instead is not None:
            self._instead.release()
            self._instead = None
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # its content no longer matters; closing frees it
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


class Quiet:
    """Keeps every writer out of a run's directory without writing a byte there: for audits. A context manager.

    Where no run has ever been there is no lock file, and nothing to wait for.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<Quiet {self._path} {'free' if self._descriptor is None else 'held'}>"

    def __enter__(self) -> Self:
        """Raises LockHeldError while another process writes here, StoreBrokenError if the file system cannot lock."""
        try:
            self._descriptor = DISK.open_read(self._path)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return self
        except BlockingIOError:
            assert self._descriptor is not None, "it was opened before it was refused"
            holder = _read_holder(self._descriptor)
            self.__exit__()
            raise _held(self._path, holder) from None
        except OSError as error:
            self.__exit__()
            if error.errno not in NO_LOCKS:
                raise broken(self._path, error, sending=False) from error
            if (other := LockFile(self._path.parent).holder()) is not None:
                raise _held(self._path, other) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder_of(folder: Path) -> Holder | None:
    """Who holds the lock of this directory now, or None. Changes nothing."""
    try:
        descriptor = DISK.open_read(folder / LOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(descriptor)
    except OSError as error:
        return LockFile(folder).holder() if error.errno in NO_LOCKS else None
    else:
        return None
    finally:
        os.close(descriptor)


def dead_holder_of(folder: Path) -> Holder | None:
    """The process of this machine that had the lock of this directory and ended without giving it back. Blocks."""
    try:
        descriptor = DISK.open_read(folder / LOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or without locks: then a claim expires
        return None
    else:
        holder = _read_holder(descriptor)  # whoever gives it back empties the file
        return holder if holder.host == socket.gethostname() else None
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock on the file which has this name now."""
    tries = 0
    while True:
        descriptor = plain(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE), path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(descriptor, path):
                return descriptor
        except BlockingIOError:
            tries += 1
            if tries == _TRIES:
                raise _held(path, _read_holder(descriptor)) from None
            time.sleep(_PAUSE_S)
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _held(path: Path, holder: Holder, *, remove: Path | None = None) -> LockHeldError:
    left = f". This disk does not support file locks: if that process is gone, remove {remove}" if remove else ""
    return LockHeldError(f"{path.parent}: {holder}; wait for it, stop it, or choose another directory with --out{left}")


def _is_named(descriptor: int, path: Path) -> bool:
    mine = os.fstat(descriptor)
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(_own())).encode() + b"\n", 0)


def _own() -> Holder:
    since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Holder(pid=os.getpid(), host=socket.gethostname(), since=since)


def _read_holder(descriptor: int) -> Holder:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(pid=int(said["pid"]), host=str(said["host"]), since=str(said["since"]))
    except (ValueError, KeyError, TypeError, OSError):
        return Holder()
