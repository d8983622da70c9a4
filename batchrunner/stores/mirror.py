"""`output.upload`: the finished files of a run's directory, copied to an object store. The one module with obstore.

A mirror looks through the directory again and again and uploads what it does not know yet. While the run works these
are files that come whole under their names: pictures, media, answers in files of their own, segments of earlier
processes. At its end, when nothing writes any more, the rest follows: rows, the page, `run.json`, the last segment.

What was uploaded while the run worked stands in its ledger (`uploaded`), with size and time, so that the next process
asks nobody. Of the rest the store is asked: a file with the same size and MD5 stays. Nothing here stops a run, and
nothing is removed from the store.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from batchrunner.core.errors import BatchrunnerError, JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.events import Uploaded
from batchrunner.core.values import dataclass
from batchrunner.stores.files import DISK, SHARED_FILE, is_left_over, write_whole
from batchrunner.stores.ledger_line import LEDGER, SEGMENT_NAME, segment_path
from batchrunner.stores.lock import LOCK, LOCK_FILE
from batchrunner.stores.object_store import open_store, require_reachable, words_of
from batchrunner.stores.run_file import RUN_FILE, RunFile, read_run_file

UPLOADS: Final = "uploads.json"
"""In the run's directory: how far the mirror is, for `status`."""
_NOT_MIRRORED: Final = frozenset({UPLOADS, LOCK, LOCK_FILE, "errors.log", "control", "shards", "judge", "export"})
"""At the top of a run's directory: of this machine, of other runs, or made from the rest."""
_EVERY_S: Final = 10.0
"""Between two looks through the directory while the run works; after a long look, longer."""
_REST: Final = 20
"""A look takes at most this part of the time."""
_AT_ONCE: Final = 8
_FAILURES: Final = 3
"""So many uploads that fail one after another end a look: the store is away."""
_PIECE_BYTES: Final = 1 << 20
_QUIET: Final = re.compile(rb'^[^e]*"e":"(?:open|uploaded|close)"')


class UploadCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What `uploads.json` says."""

    to: str
    files: int = 0
    """Files that are there."""
    bytes: int = 0
    left: int = 0
    """Files that are not there yet."""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: str
    """Below the run's directory, with slashes."""
    size: int
    mtime: int
    """Nanoseconds."""

    def mark(self, to: str) -> int:
        """64 bits that are another number for another content, name or place."""
        text = f"{to}\0{self.path}\0{self.size}\0{self.mtime}".encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


class Mirror:
    """Copies one run's directory to one place."""

    def __init__(self, folder: Path, to: str, *, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._to = to.rstrip("/")
        self._say = say
        self._store: Any = None
        self._known: set[int] | None = None
        self.progress = UploadCounts(to=self._to)
        """After the last look."""

    def __repr__(self) -> str:
        return f"<Mirror {self._folder} -> {self._to}>"

    async def follow(self, note: Callable[[Uploaded], None]) -> None:
        """Upload what is finished until the task is cancelled. `note` puts an event into the ledger."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self.look(note)
            await asyncio.sleep(max(_EVERY_S, _REST * (loop.time() - began)))

    async def look(self, note: Callable[[Uploaded], None] | None) -> None:
        """Look through the directory once. Without `note` nothing writes there any more, and everything is taken."""
        try:
            if self._known is None:
                self._known = await asyncio.to_thread(_marks_of, self._folder, self._to)
            quiet = await asyncio.to_thread(_quiet_segments, self._folder / LEDGER)
            found = await asyncio.to_thread(lambda: list(_files(self._folder, is_whole=note is None, without=quiet)))
            self._count(found, self._known)
            if self._store is None:
                await asyncio.to_thread(require_reachable, self._to)
                self._store = await asyncio.to_thread(open_store, self._to)
            if quiet and note is None:
                found = await self._with_quiet(found, self._known)
            await self._upload(found, self._known, note)
        except Exception as error:  # noqa: BLE001 - each store raises exceptions of its own, and none may end a run
            self._report(problem=words_of(error, self._to))
        if self.progress.problem:
            self._store = None  # the next look asks first whether it is there: else each file would wait for it
        await self._keep()

    async def _with_quiet(self, found: list[_File], known: set[int]) -> list[_File]:
        """Those files where run.json says nothing new, either; all of them otherwise, for it names the last segment."""
        import obstore  # noqa: PLC0415 - as below

        with suppress(FileNotFoundError):
            content = bytes(await (await obstore.get_async(self._store, RUN_FILE)).bytes_async())
            if await asyncio.to_thread(_is_same_run, content, self._folder):
                known.update(file.mark(self._to) for file in found if file.path == RUN_FILE)
                return found
        return await asyncio.to_thread(lambda: list(_files(self._folder, is_whole=True)))

    def _count(self, found: list[_File], known: set[int]) -> None:
        """What is there and what is not, before anything is uploaded."""
        there = [file for file in found if file.mark(self._to) in known]
        self.progress = UploadCounts(
            to=self._to,
            files=len(there),
            bytes=sum(file.size for file in there),
            left=len(found) - len(there),
            problem=self.progress.problem,
        )

    async def _upload(self, found: list[_File], known: set[int], note: Callable[[Uploaded], None] | None) -> None:
        waiting = [file for file in found if file.mark(self._to) not in known]
        files, size = len(found) - len(waiting), sum(file.size for file in found) - sum(file.size for file in waiting)
        problem, failed, left = "", 0, 0
        loop = asyncio.get_running_loop()
        kept = loop.time()
        for begin in range(0, len(waiting), _AT_ONCE):
            some = waiting[begin : begin + _AT_ONCE]
            if failed >= _FAILURES:
                left += len(waiting) - begin
                break
            faults = await asyncio.gather(*(self._put(file) for file in some))
            for file, fault in zip(some, faults, strict=True):
                if fault is not None:
                    problem, failed, left = fault, failed + 1, left + 1
                    continue
                failed, files, size = 0, files + 1, size + file.size
                known.add(file.mark(self._to))
                if note is not None:
                    note(Uploaded(path=file.path, size=file.size, mtime=file.mtime, to=self._to))
            if loop.time() > kept + _EVERY_S:
                kept, behind = loop.time(), len(waiting) - begin - len(some)
                self.progress = UploadCounts(
                    to=self._to, files=files, bytes=size, left=left + behind, problem=self.progress.problem
                )
                await self._keep()
        before = self.progress.problem
        self.progress = UploadCounts(to=self._to, files=files, bytes=size, left=left, problem=before)
        self._report(problem=problem)

    async def _keep(self) -> None:
        """For `status`; where the disk refuses it, nothing is lost."""
        text = msgspec.json.encode(self.progress) + b"\n"
        with suppress(OSError, StoreBrokenError):
            await asyncio.to_thread(write_whole, DISK, self._folder / UPLOADS, text, SHARED_FILE)

    async def _put(self, file: _File) -> str | None:
        """None when it is there; else why not."""
        import obstore  # noqa: PLC0415 - an extra, for jobs with `upload` only

        place = self._folder / file.path
        try:
            if await self._is_there(file, place):
                return None
            await obstore.put_async(self._store, file.path, place)
        except FileNotFoundError as error:
            if not await asyncio.to_thread(place.exists):  # it was replaced or removed meanwhile
                return None
            return words_of(error, self._to)
        except Exception as error:  # noqa: BLE001 - each store raises exceptions of its own, and none may end a run
            return words_of(error, self._to)
        return None

    async def _is_there(self, file: _File, place: Path) -> bool:
        import obstore  # noqa: PLC0415 - as above

        try:
            there = await obstore.head_async(self._store, file.path)
        except FileNotFoundError:
            return False
        if there["size"] != file.size:
            return False
        return str(there.get("e_tag") or "").strip('"') == await asyncio.to_thread(_md5_of, place)

    def _report(self, *, problem: str) -> None:
        is_new = bool(problem) and not self.progress.problem
        self.progress = msgspec.structs.replace(self.progress, problem=problem)
        if is_new:
            self._say(f"upload to {self._to}: {problem}; the run goes on, and this is tried again")


def upload_place(to: str, folder: Path, *, simulated: bool, shard: str | None) -> str:
    """Where the files of this run go: simulated ones and each shard's below names of their own."""
    place = to.rstrip("/") + (".simulated" if simulated else "")
    return place if shard is None else f"{place}/shards/{shard}/{folder.name}"


def require_store(to: str, key: str) -> None:
    """Refuse to begin where the library is missing: at the end of a run it would be too late.

    Raises:
        JobMistakesError: it is.
    """
    try:
        import obstore  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        hint = "install it with: pip install 'batchrunner[remote]'"
        mistake = Mistake(problem=f"{to} cannot be written without obstore", key=key, hint=hint)
        raise JobMistakesError((mistake,)) from error


def progress_of(folder: Path) -> UploadCounts | None:
    """How far the mirror of a run's directory is; None where there is none, or it cannot be read. Blocks."""
    try:
        return msgspec.json.decode((folder / UPLOADS).read_bytes(), type=UploadCounts)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None


def progress_words(progress: UploadCounts) -> str:
    """One line about it."""
    words = f"uploads: {progress.files:,} files, {progress.bytes / 1e6:,.1f} MB, are at {progress.to}"
    if progress.left:
        words += f"; {progress.left:,} are not yet"
    if progress.problem:
        words += f": {progress.problem}"
    return words


def _files(folder: Path, *, is_whole: bool, without: frozenset[str] = frozenset()) -> Iterator[_File]:
    """The finished files of a run's directory; while the run works, those that come whole. No links.

    `without` are names of segments.
    """
    newest = max((name for name in _names(folder / LEDGER) if SEGMENT_NAME.fullmatch(name)), default="")
    for place, folders, names in os.walk(folder):
        is_top = Path(place) == folder
        folders[:] = sorted(name for name in folders if not (is_top and name in _NOT_MIRRORED))
        below = "" if is_top else f"{Path(place).relative_to(folder).as_posix()}/"
        for name in sorted(names):
            is_growing = is_top or (below == f"{LEDGER}/" and name >= newest)
            is_quiet = below == f"{LEDGER}/" and name in without
            if is_left_over(name) or (is_top and name in _NOT_MIRRORED) or (is_growing and not is_whole) or is_quiet:
                continue
            with suppress(OSError):
                found = os.lstat(Path(place, name))
                if os.path.isfile(Path(place, name)) and not os.path.islink(Path(place, name)):  # noqa: PTH113, PTH114 - of thousands
                    yield _File(path=f"{below}{name}", size=found.st_size, mtime=found.st_mtime_ns)


def _is_same_run(content: bytes, folder: Path) -> bool:
    """Whether another run.json says what this folder's does, the number of its last segment aside. Blocks."""
    try:
        there, here = msgspec.json.decode(content, type=RunFile), read_run_file(folder)
    except (msgspec.MsgspecError, UnicodeError, BatchrunnerError):
        return False
    return here is not None and there.with_another_ledger() == here.with_another_ledger()


def _quiet_segments(ledger: Path) -> frozenset[str]:
    """The newest segments that say only that a process began, copied and ended: of runs with nothing to do. Blocks.

    They are not copied, so that such runs add nothing to the store. Once a later one says more, they are: a ledger has
    no gaps.
    """
    quiet: set[str] = set()
    for name in sorted((name for name in _names(ledger) if SEGMENT_NAME.fullmatch(name)), reverse=True):
        with suppress(OSError), (ledger / name).open("rb") as lines:
            said = [bool(_QUIET.search(line)) for line in lines.readlines(_PIECE_BYTES)]
            if said and all(said) and not lines.read(1) and name != segment_path(ledger, 1).name:
                quiet.add(name)
                continue
        break
    return frozenset(quiet)


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _marks_of(folder: Path, to: str) -> set[int]:
    """What the ledger says is there already. A line that cannot be read costs an upload and nothing else."""
    marks: set[int] = set()
    for name in _names(folder / LEDGER):
        if SEGMENT_NAME.fullmatch(name):
            with suppress(OSError), (folder / LEDGER / name).open("rb") as lines:
                for line in lines:
                    if b'"e":"uploaded"' in line:
                        with suppress(msgspec.MsgspecError, UnicodeError):
                            event = msgspec.json.decode(line, type=Uploaded)
                            file = _File(path=event.path, size=event.size, mtime=event.mtime)
                            marks.update({file.mark(to)} if event.to == to else ())
    return marks


def _md5_of(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
