"""A disk that fails on purpose: kill -9, power loss, full disks and refused calls, by seed.

Implements `stores.files.Files` in memory. When a process is killed, all that was handed to the system stays; when the
power goes, what was not synced stays in part and out of order (see `durable`).

Refuses to be kinder than POSIX: a file's own fsync saves no name, and a folder's fsync saves no bytes.
"""

import errno
import itertools
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from batchrunner.stores.files import Look
from tests.support.disk_state import PAGES_BYTES, File, Folder, Node

_NUMBERED: Final = re.compile(r"\.[0-9]+-[0-9]+\.tmp")
"""Names of files that are not finished differ from process to process."""

Refusal = Literal["crash", "enospc", "eio", "short"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What befalls the n-th call that changes something, counted from 1."""

    at_call: int
    kind: Refusal


class CrashingDisk:
    """One machine's disk over several lives of a process. `trouble` strikes once; `die` ends a life at any moment."""

    def __init__(self, seed: int = 0, *, capacity_bytes: int | None = None) -> None:
        self.rng = random.Random(seed)
        self.page_bytes = self.rng.choice(PAGES_BYTES)
        self.capacity_bytes = capacity_bytes
        self.trouble: Trouble | None = None
        self.dead = False
        self.calls = 0
        """That change something, in this life."""
        self.on_death: Callable[[], None] = lambda: None
        self.clock: Callable[[], float] = lambda: 0.0
        self.refused_at: float | None = None
        """When, by `clock`, this life was refused something for the first time."""
        self._inodes = itertools.count(2)  # its own: the same seed is to give the same bytes
        self._root = Folder(0o755, number=1)
        self._open: dict[int, tuple[File, Path]] = {}
        self._next_descriptor = 3
        self._used_bytes = 0
        self.trace: list[str] = []
        """Every call that changed something, over all lives."""

    def __repr__(self) -> str:
        state = "dead" if self.dead else "alive"
        return f"<CrashingDisk {state} calls={self.calls} trouble={self.trouble} page={self.page_bytes}>"

    # -- lives

    def die(self) -> None:
        """The process ends here: no further call has any effect."""
        if not self.dead:
            self.dead = True
            self.on_death()

    def wake(self, *, power_was_lost: bool) -> None:
        """The next life finds what the last one left."""
        if power_was_lost:
            self._root.lose_power(self.rng, page_bytes=self.page_bytes)
        self._open.clear()
        self.dead = False
        self.trouble = None
        self.refused_at = None
        self.calls = 0

    # -- refusals

    def _call(self, told: str) -> Refusal | None:
        """Count a call that changes something; what befalls it, if anything."""
        self._alive()
        self.calls += 1
        self.trace.append(_NUMBERED.sub("a new file", told))
        trouble = self.trouble
        if trouble is None or self.calls != trouble.at_call:
            return None
        self.trouble = None
        if trouble.kind == "crash" and self.rng.random() < 0.5:  # before the call has any effect
            self.die()
            self._alive()
        return trouble.kind

    def _refused(self, number: int) -> OSError:
        if self.refused_at is None:
            self.refused_at = self.clock()
        return OSError(number, os.strerror(number))

    def _alive(self) -> None:
        if self.dead:
            raise OSError(errno.EIO, "the machine is gone")

    def _simple(self, told: str, step: Callable[[], None]) -> None:
        """A call that has its effect or not."""
        match self._call(told):
            case "enospc":
                raise self._refused(errno.ENOSPC)
            case "eio":
                raise self._refused(errno.EIO)
            case "crash":
                step()
                self.die()
                self._alive()
            case "short" | None:
                step()

    # -- `stores.files.Files`

    def open_new(self, path: Path, mode: int) -> int:
        """See `Files`."""
        folder = self._folder(path.parent)
        if path.name in folder.seen:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        file = File(mode, number=next(self._inodes))
        self._simple(f"create {path.name}", lambda: folder.change({path.name: file}))
        return self._opened(file, path)

    def open_append(self, path: Path, mode: int) -> int:
        """See `Files`."""
        self._alive()
        node = self._find(path)
        return self.open_new(path, mode) if node is None else self._opened(_as_file(node, path), path)

    def open_read(self, path: Path) -> int:
        """See `Files`."""
        self._alive()
        return self._opened(_as_file(self._find(path), path), path)

    def open_unnamed(self, pieces: Iterable[bytes]) -> int:
        """See `Files`. It lies on another disk, which has no trouble."""
        self._alive()
        return self._opened(File(0, seen=bytearray().join(pieces)), Path("unnamed"))

    def read_at(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        """See `Files`."""
        self._alive()
        return bytes(self._open[descriptor][0].seen[offset : offset + size_bytes])

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """See `Files`."""
        file, path = self._open[descriptor]
        affected = self._call(f"write {len(data)} to {path.name}")
        taken = len(data)
        if affected == "eio":
            raise self._refused(errno.EIO)
        if affected in {"crash", "short", "enospc"}:
            taken = self.rng.randrange(len(data)) if data else 0
        if self.capacity_bytes is not None:
            taken = min(taken, max(0, self.capacity_bytes - self._used_bytes))
        if taken == 0 and data and affected != "crash":
            raise self._refused(errno.ENOSPC)
        self._used_bytes += taken
        file.append(data[:taken])
        if affected == "crash":
            self.die()
            self._alive()
        if affected == "enospc":  # what the system does: a short write first, the reason with the next call
            self.capacity_bytes = self._used_bytes
        return taken

    def truncate(self, descriptor: int, length: int) -> None:
        """See `Files`."""
        file, path = self._open[descriptor]
        self._simple(f"truncate {path.name}", lambda: file.cut(length))

    def fsync(self, descriptor: int) -> None:
        """See `Files`. A refused one saves nothing."""
        file, path = self._open[descriptor]
        self._simple(f"sync {path.name}", file.sync)

    def fsync_folder(self, path: Path) -> None:
        """See `Files`."""
        self._simple(f"sync folder {path.name}", self._folder(path).sync)

    def close(self, descriptor: int) -> None:
        """See `Files`."""
        self._open.pop(descriptor, None)

    def length(self, descriptor: int) -> int:
        """See `Files`."""
        self._alive()
        return len(self._open[descriptor][0].seen)

    def inode(self, descriptor: int) -> int:
        """See `Files`."""
        self._alive()
        file, path = self._open[descriptor]
        return file.number if self._find(path) is file else 0

    def exists(self, path: Path) -> bool:
        """See `Files`."""
        self._alive()
        return self._find(path) is not None

    def rename(self, source: Path, target: Path) -> None:
        """See `Files`. Within one folder, as the stores do it."""
        assert source.parent == target.parent, "an atomic replacement stays in its folder"
        folder = self._folder(source.parent)
        if source.name not in folder.seen:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(source))
        names = {source.name: None, target.name: folder.seen[source.name]}
        self._simple(f"rename to {target.name}", lambda: folder.change(names))

    def unlink(self, path: Path) -> None:
        """See `Files`."""
        folder = self._folder(path.parent)
        node = _as_file(folder.seen.get(path.name), path)

        def remove() -> None:
            folder.change({path.name: None})
            self._used_bytes -= len(node.seen)

        self._simple("unlink", remove)

    def make_folder(self, path: Path, mode: int) -> bool:
        """See `Files`."""
        folder = self._folder(path.parent)
        there = folder.seen.get(path.name)
        if isinstance(there, File):
            raise NotADirectoryError(errno.ENOTDIR, "is not a directory, or is a link to one", str(path))
        if there is None:
            self._simple(
                f"make {path.name}", lambda: folder.change({path.name: Folder(mode, number=next(self._inodes))})
            )
        return there is None

    def names(self, path: Path) -> list[str]:
        """See `Files`."""
        self._alive()
        return list(self._folder(path).seen)

    def look(self, path: Path) -> Look | None:
        """See `InspectedFiles`."""
        self._alive()
        node = self._find(path)
        if node is None:
            return None
        if isinstance(node, Folder):
            return Look(kind="folder", mode=node.mode, size_bytes=0, inode=node.number, mtime_ns=node.changes)
        return Look(kind="file", mode=node.mode, size_bytes=len(node.seen), inode=node.number, mtime_ns=node.changes)

    def folders(self, path: Path) -> list[str]:
        """See `InspectedFiles`."""
        return [name for name, node in self._folder(path).seen.items() if isinstance(node, Folder)]

    def bytes_of(self, path: Path, *, on_the_disk: bool, start: int = 0) -> bytes:
        """A file from `start` on, as the system shows it, or as it would be if the power went and nothing more came."""
        file = _as_file(self._find(path), path)
        return bytes((file.durable if on_the_disk else file.seen)[start:])

    def walk(self) -> Iterator[tuple[Path, Node]]:
        """Everything on the disk, as the system shows it."""
        below: list[tuple[Path, Node]] = [(Path("/"), self._root)]
        while below:
            path, node = below.pop()
            if isinstance(node, Folder):
                below += [(path / name, child) for name, child in node.seen.items()]
            yield path, node

    # -- pieces

    def _opened(self, file: File, path: Path) -> int:
        descriptor = self._next_descriptor
        self._next_descriptor += 1
        self._open[descriptor] = file, path
        return descriptor

    def _find(self, path: Path) -> Node | None:
        node: Node | None = self._root
        for part in path.parts[1:]:
            if not isinstance(node, Folder):
                return None
            node = node.seen.get(part)
        return node

    def _folder(self, path: Path) -> Folder:
        self._alive()
        node = self._find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path))
        return node

    @property
    def open_descriptors(self) -> tuple[str, ...]:
        """Names of the files that somebody has not closed."""
        return tuple(path.name for _, path in self._open.values())


def _as_file(node: Node | None, path: Path) -> File:
    if node is None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
    if isinstance(node, Folder):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    return node
