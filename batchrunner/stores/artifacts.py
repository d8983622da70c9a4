"""Outputs as files of their own: whole or absent, and never outside the run's directory.

Refuses: absolute paths, `..`, links on the way down, names that some file system would not take, half a file under a
real name.
"""

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Final, TypeVar

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.item import Item, fold, safe_stem
from batchrunner.core.text import without_lone_surrogates
from batchrunner.stores.files import (
    DISK,
    SHARED_FILE,
    SHARED_FOLDER,
    Files,
    broken,
    open_beside,
    place_whole,
    write_all,
)
from batchrunner.stores.threads import CoalescedCall, Threads

T = TypeVar("T")
_PIECE_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 1 << 16
RESCUED = "rescued"
"""Folder for files that could not be written in their own place: what they hold is paid for."""
_SUFFIX_LIMIT = 16
_MAX_DEPTH = 8


class Artifacts:
    """Writes files below one run's directory.

    `refused` is told at once why a file could not be written in its place; the file is then kept in `rescued/`, if
    that can be written, and `say` is told so. Without `refused` there is no second place.
    """

    def __init__(
        self,
        root: Path,
        *,
        files: Files = DISK,
        refused: Callable[[StoreBrokenError], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._root = root
        self._files = files
        self._refused = refused
        self._say = say
        self._threads = Threads("artifact", count=2)
        self._counting = Lock()
        self._syncs: dict[Path, CoalescedCall] = {}
        self.added = 0
        """Files under new names."""

    def __repr__(self) -> str:
        return f"<Artifacts {self._root} folders={len(self._syncs)}>"

    async def write(self, path: str, data: bytes) -> str:
        """Put `data` under `path`, which `safe_path` made; durable with its name when this returns.

        The value is the path in the end.

        Raises:
            StoreBrokenError: the disk refused, or a link stands in the way.
        """
        return await self._write(path, data, self._place_in_folder)

    async def write_once(self, path: str, data: bytes) -> str:
        """The same for bytes that exist nowhere else, like a picture of an earlier job under the same name.

        Where other bytes stand already they stay, and the newcomer's name gets the beginning of its digest. The same
        bytes again take the same path.
        """
        return await self._write(path, data, self._place_once)

    async def _write(self, path: str, data: bytes, place: Callable[[str, bytes], str]) -> str:
        try:
            return await self._durable(path, data, place)
        except OSError as error:
            refused = broken(self._root / path, error)
            if self._refused is None:
                raise refused from error
            self._refused(refused)
            try:
                rescued = await self._durable(f"{RESCUED}/{path}", data, self._place_once)
            except OSError:
                raise refused from error
            self._say(f"{path}: {error.strerror or error}; this file was kept as {rescued}")
            return rescued

    async def _durable(self, path: str, data: bytes, place: Callable[[str, bytes], str]) -> str:
        path = await self._threads.run(place, path, data)
        await self._sync_of((self._root / path).parent).done()
        return path

    @asynccontextmanager
    async def receiving(self, folder: str) -> "AsyncIterator[Received]":
        """A file of any size that comes piece by piece into `folder`; gone at the end of the block unless it was kept.

        Raises:
            StoreBrokenError: the disk refused. Of a half written file nothing is rescued: it is fetched again.
        """
        received = Received(self, folder)
        try:
            yield received
        finally:
            await asyncio.shield(self._threads.run(received.forget))

    async def in_thread(self, place: str, call: "Callable[..., T]", *given: object) -> T:
        """A call that blocks; what the disk refuses it is told of the file at `place`. Raises StoreBrokenError."""
        try:
            return await self._threads.run(call, *given)
        except OSError as error:
            refused = broken(self._root / place, error)
            if self._refused is not None:
                self._refused(refused)
            raise refused from error

    def open_part(self, folder: str) -> tuple[Path, int]:
        """A new, empty file without a lasting name, and its descriptor. Blocks. Raises OSError."""
        if self._root / folder not in self._syncs:
            self._make_folders(PurePosixPath(folder))
        return open_beside(self._files, self._root / folder, SHARED_FILE)

    async def place_part(self, part: Path, path: str, sha256: str) -> str:
        """Give a whole file that is on the disk its name; durable with it when this returns. Raises StoreBrokenError.

        As with `write_once` another file of that name stays.
        """
        path = await self.in_thread(path, self._named, part, path, sha256)
        await self._sync_of((self._root / path).parent).done()
        return path

    def _named(self, part: Path, path: str, sha256: str) -> str:
        target = self._root / path
        is_new = not self._files.exists(target)
        if not is_new and sha256_of(self._files, target) != sha256:
            stem, _, ending = path.rpartition(".")
            path = f"{stem}-{sha256[:8]}.{ending}"
            target = self._root / path
            is_new = not self._files.exists(target)
        self._files.rename(part, target)
        with self._counting:
            self.added += is_new
        return path

    @property
    def files(self) -> Files:
        """The file system."""
        return self._files

    @property
    def outputs(self) -> set[str]:
        """Folders at the directory's top into which files were put."""
        return {folder.relative_to(self._root).parts[0] for folder in self._syncs if folder != self._root}

    def _place_once(self, path: str, data: bytes) -> str:
        """All that blocks, in one step: each way to a thread and back costs as much as a small write."""
        if _holds_other(self._files, self._root / path, data):
            stem, _, ending = path.rpartition(".")
            path = f"{stem}-{blake2b(data, digest_size=4).hexdigest()}.{ending}"
        return self._place_in_folder(path, data)

    def _place_in_folder(self, path: str, data: bytes) -> str:
        target = self._root / path
        if target.parent not in self._syncs:
            self._make_folders(PurePosixPath(path).parent)
        self._place(target, data)
        return path

    def _place(self, target: Path, data: bytes) -> None:
        is_new = not self._files.exists(target)
        place_whole(self._files, target, data, SHARED_FILE)
        with self._counting:
            self.added += is_new

    def close(self) -> None:
        """No further files."""
        self._threads.close()

    def _sync_of(self, folder: Path) -> CoalescedCall:
        if folder not in self._syncs:
            self._syncs[folder] = CoalescedCall(lambda: self._files.fsync_folder(folder), self._threads)
        return self._syncs[folder]

    def _make_folders(self, folder: PurePosixPath) -> None:
        """Every step down is a real folder whose name is durable, whoever created it."""
        if folder.is_absolute() or ".." in folder.parts:
            raise OSError(errno.EPERM, "is outside the run directory")
        here = self._root
        for part in folder.parts:
            above, here = here, here / part
            self._files.make_folder(here, SHARED_FOLDER)
            self._files.fsync_folder(above)


class Received:
    """A file that is on its way to the disk; see `Artifacts.receiving`. Its memory is a piece of a megabyte."""

    def __init__(self, artifacts: Artifacts, folder: str) -> None:
        self._artifacts = artifacts
        self._folder = folder
        self._part: Path | None = None
        self._descriptor: int | None = None
        self._waiting = bytearray()
        self._digest = hashlib.sha256()
        self.head = b""
        """The first bytes, by which a format is known."""
        self.length = 0

    def __repr__(self) -> str:
        return f"<Received {self.length} bytes>"

    @property
    def sha256(self) -> str:
        """Of all bytes that came."""
        return self._digest.hexdigest()

    async def write(self, data: bytes) -> None:
        """The next bytes. Raises StoreBrokenError."""
        self._waiting += data
        self.length += len(data)
        if len(self._waiting) >= _PIECE_BYTES:
            await self._hand_over()

    async def complete(self) -> None:
        """Nothing follows: all bytes are on the disk when this returns. Raises StoreBrokenError."""
        await self._hand_over()
        await self._artifacts.in_thread(self._folder, self._sync)

    async def look(self, at: "Callable[[Received, str], T]", name: str) -> T:
        """What a function that blocks says of the whole file. Raises StoreBrokenError."""
        return await self._artifacts.in_thread(self._folder, at, self, name)

    def read_at(self, size_bytes: int, offset: int) -> bytes:
        """Bytes of the file, which is complete. Blocks. Raises OSError."""
        assert self._descriptor is not None, "complete"
        return self._artifacts.files.read_at(self._descriptor, size_bytes, offset)

    async def keep(self, path: str) -> str:
        """The path under which it lies in the end. Raises StoreBrokenError."""
        assert self._part is not None, "complete"
        path = await self._artifacts.place_part(self._part, path, self.sha256)
        self._part = None
        return path

    def forget(self) -> None:
        """Close it, and remove it unless it was kept. Blocks; what the disk refuses is left for the next run."""
        descriptor, self._descriptor = self._descriptor, None
        with suppress(OSError):
            if descriptor is not None:
                self._artifacts.files.close(descriptor)
            if self._part is not None:
                self._artifacts.files.unlink(self._part)

    async def _hand_over(self) -> None:
        piece, self._waiting = bytes(self._waiting), bytearray()
        await self._artifacts.in_thread(self._folder, self._append, piece)

    def _append(self, piece: bytes) -> None:
        if self._descriptor is None:
            self._part, self._descriptor = self._artifacts.open_part(self._folder)
        if len(self.head) < _HEAD_BYTES:
            self.head += piece[: _HEAD_BYTES - len(self.head)]
        self._digest.update(piece)
        write_all(self._artifacts.files, self._descriptor, piece)

    def _sync(self) -> None:
        assert self._descriptor is not None, "opened by the first piece"
        self._artifacts.files.fsync(self._descriptor)


def sha256_of(files: Files, path: Path) -> str:
    """Of a file, read in pieces; empty for a link, a folder or a pipe. Blocks. Raises OSError."""
    try:
        descriptor = files.open_read(path)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            return ""
        raise
    digest = hashlib.sha256()
    try:
        for piece in pieces_of(files, descriptor):
            digest.update(piece)
    finally:
        files.close(descriptor)
    return digest.hexdigest()


def pieces_of(files: Files, descriptor: int) -> Iterator[bytes]:
    """An open file from its beginning, a megabyte at a time. Blocks. Raises OSError."""
    at = 0
    while piece := files.read_at(descriptor, _PIECE_BYTES, at):
        yield piece
        at += len(piece)


def _holds_other(files: Files, path: Path, data: bytes) -> bool:
    """Whether the file exists with other content."""
    if not files.exists(path):
        return False
    try:
        descriptor = files.open_read(path)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:  # a link, a folder or a pipe is not ours
            return True
        raise
    try:
        return files.read_at(descriptor, len(data) + 1, 0) != data
    finally:
        files.close(descriptor)


class AnswerFolder:
    """Implements `core.ports.AnswerFiles`: every answer in a file of its own, too."""

    def __init__(self, artifacts: Artifacts, *, path_of: Callable[[Item], str]) -> None:
        """Write through `artifacts`; `path_of` gives the rendered `output.each` of an item, any text at all."""
        self._artifacts = artifacts
        self._path_of = path_of
        self._owners: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"<AnswerFolder written={len(self._owners)}>"

    async def save(self, item: Item, text: str) -> str:
        """See `core.ports.AnswerFiles`. A path that another item took in this process gets the item's key."""
        path = safe_path(self._path_of(item))
        if not self._claim(path, item):
            path = safe_path(self._path_of(item), mark=f"-{item.key[:12]}")
        return await self._artifacts.write(path, without_lone_surrogates(text).encode())

    def _claim(self, path: str, item: Item) -> bool:
        """Whether the path is this item's; eight bytes each are kept, compared as file systems may compare names."""
        name = blake2b(fold(path).encode(), digest_size=8).digest()
        return self._owners.setdefault(name, bytes.fromhex(item.key)[:8]) == bytes.fromhex(item.key)[:8]


def safe_path(text: str, *, mark: str = "") -> str:
    """Any text as a relative path with `/`, each component safe on every usual file system.

    `mark` goes before the ending.
    """
    parts = [part for part in text.replace("\\", "/").split("/") if part.strip(" .")][-_MAX_DEPTH:]
    *folders, name = parts or [""]
    stem, dot, ending = name.rpartition(".")
    plain = ending.isascii() and ending.isalnum() and len(ending) < _SUFFIX_LIMIT
    suffix = f"{mark}.{ending}" if stem and dot and plain else mark
    shown = stem if stem and dot and plain else name
    return "/".join([*(safe_stem(part) for part in folders), safe_stem(shown, suffix=suffix)])
