"""The second best lock, for file systems without `flock`: a file that is created exclusively and names its holder.

It keeps out every process of this machine, and those of other machines as long as they see the file. What it cannot do
is free itself when its holder dies: on the same machine a dead process is recognised by its number and the moment of
its start, and its file is set aside; on another machine a person has to remove it, and the refusal says so.
"""

import contextlib
import errno
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from batchrunner.stores.files import NOT_OFFERED, PRIVATE_FILE

LOCK_FILE = ".lock"
NO_LOCKS = NOT_OFFERED | {errno.ENOLCK}
"""How a file system says that it cannot lock."""
_SETTLE_S = 0.05
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock, in its own words; zero and empty when it has not said."""

    pid: int = 0
    host: str = ""
    since: str = ""
    """UTC, RFC 3339."""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        return f"process {self.pid} on {self.host} since {self.since}"


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
        for _ in range(_TRIES):
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
            with contextlib.suppress(OSError):  # the next run recognises that its holder is gone
                self.path.unlink()
        self._mark = ""

    def holder(self) -> Holder | None:
        """Who has the file now; None when nobody does, or a process of this machine that is gone."""
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
    """When the process began, in the system's own ticks; what tells it from a later one with the same number.

    Empty when there is no such process, `?` where the system does not tell.
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
