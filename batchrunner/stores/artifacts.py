"""Outputs as files of their own: whole or absent, and never outside the run's directory.

Refuses: absolute paths, `..`, links on the way down, names that some file system would not take, half a file under a
real name.
"""

import errno
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from threading import Lock

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.item import Item, fold, safe_stem
from batchrunner.core.text import without_lone_surrogates
from batchrunner.stores.files import DISK, SHARED_FILE, SHARED_FOLDER, Files, broken, place_whole
from batchrunner.stores.threads import CoalescedCall, Threads

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
