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
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.events import Uploaded
from batchrunner.stores.files import DISK, SHARED_FILE, is_left_over, write_whole
from batchrunner.stores.ledger_line import LEDGER, SEGMENT_NAME
from batchrunner.stores.lock import LOCK, LOCK_FILE

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
_ANSWER_S: Final = 60.0
_RETRIES: Final = 2
_PIECE_BYTES: Final = 1 << 20
_SHOWN_CHARS: Final = 200
_DURATION: Final = re.compile(
    r" in [0-9.]+[mµn]?s\b(?:, after [0-9]+ retries, max_retries: [0-9]+, retry_timeout: [0-9]+s)?"
)


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
            if self._store is None:
                self._store = await asyncio.to_thread(open_store, self._to)
            found = await asyncio.to_thread(lambda: list(_files(self._folder, is_whole=note is None)))
            await self._upload(found, self._known, note)
        except Exception as error:  # noqa: BLE001 - each store raises exceptions of its own, and none may end a run
            self._report(problem=words_of(error))
        await self._keep()

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
            return words_of(error)
        except Exception as error:  # noqa: BLE001 - each store raises exceptions of its own, and none may end a run
            return words_of(error)
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


def _files(folder: Path, *, is_whole: bool) -> Iterator[_File]:
    """The finished files of a run's directory; while the run works, those that come whole. No links."""
    newest = max((name for name in _names(folder / LEDGER) if SEGMENT_NAME.fullmatch(name)), default="")
    for place, folders, names in os.walk(folder):
        is_top = Path(place) == folder
        folders[:] = sorted(name for name in folders if not (is_top and name in _NOT_MIRRORED))
        below = "" if is_top else f"{Path(place).relative_to(folder).as_posix()}/"
        for name in sorted(names):
            is_growing = is_top or (below == f"{LEDGER}/" and name >= newest)
            if is_left_over(name) or (is_top and name in _NOT_MIRRORED) or (is_growing and not is_whole):
                continue
            with suppress(OSError):
                found = os.lstat(Path(place, name))
                if os.path.isfile(Path(place, name)) and not os.path.islink(Path(place, name)):  # noqa: PTH113, PTH114 - of thousands
                    yield _File(path=f"{below}{name}", size=found.st_size, mtime=found.st_mtime_ns)


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


def open_store(to: str) -> Any:
    """The store of an address, with credentials from the environment. Blocks; raises what obstore raises."""
    from obstore.store import from_url  # noqa: PLC0415 - as above

    endpoint = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", ""))
    return from_url(
        to,
        client_options={"timeout": timedelta(seconds=_ANSWER_S), "allow_http": endpoint.startswith("http://")},
        retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_ANSWER_S)},
    )


def _md5_of(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def words_of(error: BaseException) -> str:
    """What a store says, without the document it sends along, in which names of keys may stand."""
    line = str(error).partition("\n")[0].partition("<")[0].strip() or type(error).__name__
    line = _DURATION.sub("", line)
    return line[:_SHOWN_CHARS].rstrip(" :")
