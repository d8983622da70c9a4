"""Pictures and files given to a model: a local one becomes a data URL, a web address is passed on as it is.

A row is hostile: only whole regular files that begin like a picture, a PDF or sound leave this machine, from the
folders that the job names (links are followed first), and no other kind of URL.
Data URLs are taken from ready requests alone, where they are the only form of a picture.
"""

import asyncio
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path, PurePath
from typing import TypeVar
from urllib.parse import urlsplit

import aiofiles
import aiofiles.os

from batchrunner.core.input_files import BY_ADDRESS, FORMS, LARGEST_BYTES, TAKEN, kind_of, not_taken
from batchrunner.core.item import InputFile, InputPicture
from batchrunner.core.job import Job, Source
from batchrunner.core.places import PLACES, is_remote, scheme_of
from batchrunner.prompts.sources import SOURCES
from batchrunner.prompts.sources.base import BadSourceError
from batchrunner.prompts.sources.opening import content_of

PICTURE_LIMIT_BYTES = 20 * 1000 * 1000
_KEPT = 4
"""Pictures remembered in a pass, for the one that every row shows; the cap above bounds what they take."""

_MAGIC: tuple[tuple[bytes, int, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF87a", 0, "image/gif"),
    (b"GIF89a", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
)


_Given = TypeVar("_Given")


class BadPictureError(Exception):
    """A picture or file cannot be given to a model."""

    def __init__(self, problem: str, *, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


class PictureCache:
    """Reads the pictures and files of one pass, off the loop."""

    def __init__(self, job: Job) -> None:
        self._folder = Path(job.folder)
        self._places = (self._folder, *map(Path, job.images_from))
        self._named = (self._folder, *map(Path, job.picture_folders))
        self._remote = _remote_folder(job)
        self._allowed: tuple[str, ...] | None = None
        self._recent: dict[str, InputPicture] = {}
        self._recent_files: dict[str, InputFile] = {}
        self._dialect = job.provider.dialect

    def __repr__(self) -> str:
        return f"<PictureCache of {self._folder}, {len(self._recent)} pictures at hand>"

    async def picture(self, name: str) -> InputPicture:
        """The picture of that path (relative to the job file's folder, or to one of `images_from`) or http(s) address.

        Raises:
            BadPictureError: it is missing, too large, no picture, outside of the job's folders, or a URL of another
                kind.
        """
        return await _remembered(self._recent, name, self._read)

    async def file(self, name: str) -> InputFile:
        """As `picture`, for a document or a sound.

        Raises:
            BadPictureError: as `picture`; and where the dialect has no part for it.
        """
        return await _remembered(self._recent_files, name, self._read_file)

    async def given(self, url: str) -> InputPicture:
        """The picture of a ready request: a data URL, or an http(s) address that is passed on. No file is opened.

        Raises:
            BadPictureError: it is neither, or holds no picture.
        """
        if url[:5].lower() != "data:":
            return _passed_on(url)
        found, described = await asyncio.to_thread(_unpacked, url)
        media_type = _media_type(found)
        if media_type is None:
            raise BadPictureError(f"`{described}` is not a PNG, JPEG, WEBP or GIF")
        digest, rewritten = await asyncio.to_thread(_hashed_and_coded, found, media_type)
        return InputPicture(name=f"data:{media_type}", sha256=digest, url=rewritten)

    async def given_file(self, url: str, name: str) -> InputFile:
        """As `given`, for a document or a sound that its request may call by a name."""
        if url[:5].lower() != "data:":
            return self._file_by_address(url)
        found, described = await asyncio.to_thread(_unpacked, url)
        return await self._file_of(found, name or described)

    def is_passed_on(self, name: str) -> bool:
        """True for an address, which is sent as it is: no file is read for it. Not one beside the source."""
        return not self.is_beside_source(name) and ("://" in name or name.startswith("data:"))

    def is_beside_source(self, name: str) -> bool:
        """True for the address of a file in the remote folder of the job's source."""
        return bool(self._remote) and name.startswith(self._remote) and "/../" not in name

    async def _read(self, name: str) -> InputPicture:
        if self.is_passed_on(name):
            return _passed_on(name)
        found = await self._content_of(name, "picture")
        media_type = _media_type(found)
        if media_type is None:
            raise BadPictureError(f"`{name}` is not a PNG, JPEG, WEBP or GIF")
        digest, url = await asyncio.to_thread(_hashed_and_coded, found, media_type)
        return InputPicture(name=name, sha256=digest, url=url)

    async def _read_file(self, name: str) -> InputFile:
        if self.is_passed_on(name):
            return self._file_by_address(name)
        return await self._file_of(await self._content_of(name, "file"), name)

    async def _content_of(self, name: str, what: str) -> bytes:
        try:
            largest = LARGEST_BYTES.get(self._dialect, PICTURE_LIMIT_BYTES)
            if self.is_beside_source(name):
                return _within(largest, await asyncio.to_thread(content_of, name, largest + 1), name)
            return await _content(Path(await asyncio.to_thread(self.located, name, what)), largest)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BadPictureError(f"the {what} `{name}` cannot be read: {reason}") from error
        except BadSourceError as error:
            raise BadPictureError(f"the {what} `{name}` {error.problem}", hint=error.hint) from error

    async def _file_of(self, found: bytes, name: str) -> InputFile:
        kind = kind_of(found)
        if kind is None:
            taken = TAKEN.get(self._dialect) or tuple(FORMS)
            raise BadPictureError(f"`{name}` is not a {', '.join(FORMS[one].words for one in taken)} file")
        if (problem := not_taken(kind, self._dialect)) is not None:
            raise BadPictureError(f"`{name}` {problem}")
        digest, url = await asyncio.to_thread(_hashed_and_coded, found, FORMS[kind].media_type)
        return InputFile(name=name, kind=kind, sha256=digest, url=url)

    def _file_by_address(self, url: str) -> InputFile:
        passed_on = _passed_on(url)
        kind = BY_ADDRESS.get(self._dialect)
        if kind is None:
            taken = " as a local file" if self._dialect in TAKEN else ""
            raise BadPictureError(
                f"`{url[:80]}` is an address, and the dialect {self._dialect} takes no files by their address",
                hint=f"give it{taken}: download it first" if taken else None,
            )
        return InputFile(name=url, kind=kind, sha256=passed_on.sha256, url=url)

    def located(self, name: str, what: str = "picture") -> str:
        """The file itself, links followed. Blocks; raises BadPictureError, ValueError for what cannot name a file."""
        if self._allowed is None:
            self._allowed = tuple(os.path.realpath(folder) for folder in self._named)
        places = self._places if not os.path.isabs(name) else self._places[:1]  # noqa: PTH117 - no Path is made of it
        found = [os.path.realpath(place / name) for place in places]
        inside = [real for real in found if any(_lies_below(real, folder) for folder in self._allowed)]
        if not inside:
            shown = "" if found[0].endswith(name.lstrip("./")) else f" (it is {found[0][:200]})"
            raise BadPictureError(
                f"the {what} `{name[:200]}` is outside the folders that this job names{shown}",
                hint=f"move it below {self._allowed[-1] if len(self._allowed) == 1 else self._allowed[1]}, "
                f"or name its folder in `images_from`",
            )
        return next((real for real in inside if os.path.exists(real)), inside[0])  # noqa: PTH110 - as above


def _remote_folder(job: Job) -> str:
    """The folder of a source in a store, with its slash; empty where there is none: web addresses are for the model."""
    path = job.prompts.path if isinstance(job.prompts, Source) else ""
    if not is_remote(path) or not PLACES[scheme_of(path)].has_folders:
        return ""
    is_one = PurePath(path).suffix.lower() not in SOURCES
    return f"{path.rstrip('/')}/" if is_one else f"{path.rpartition('/')[0]}/"


def _lies_below(real: str, folder: str) -> bool:
    return real.startswith(folder.rstrip(os.sep) + os.sep)


async def _remembered(recent: dict[str, _Given], name: str, read: Callable[[str], Awaitable[_Given]]) -> _Given:
    known = recent.get(name)
    if known is None:
        known = await read(name)
        if len(recent) >= _KEPT:
            del recent[next(iter(recent))]
        recent[name] = known
    return known


def _unpacked(url: str) -> tuple[bytes, str]:
    """The bytes of a data URL, and how it describes them."""
    described, comma, payload = url.partition(",")
    if not comma or not described.lower().endswith(";base64"):
        raise BadPictureError(f"`{url[:40]}…` is not a base64 data URL")
    try:
        found = b64decode(payload, validate=True)
    except ValueError as error:
        raise BadPictureError(f"`{described}` is not base64: {error}") from error
    if len(found) > PICTURE_LIMIT_BYTES:
        raise BadPictureError(f"`{described}` is larger than {PICTURE_LIMIT_BYTES // 1_000_000} MB")
    return found, described


def _passed_on(url: str) -> InputPicture:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BadPictureError(f"`{url[:80]}` is not a valid address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise BadPictureError(f"`{url[:80]}` is neither a file nor an http(s) address")
    return InputPicture(name=url, sha256=sha256(url.encode("utf-8", "surrogatepass")).hexdigest(), url=url)


async def _content(path: Path, largest: int) -> bytes:
    mode = (await aiofiles.os.stat(path)).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is not a regular file", os.fspath(path))
    async with aiofiles.open(path, "rb") as file:
        found = await file.read(largest + 1)
    return _within(largest, found, os.fspath(path))


def _within(largest: int, found: bytes, name: str) -> bytes:
    if len(found) > largest:
        shown = f"{largest // 1_000_000} MB" if largest % 1_000_000 == 0 else f"{largest >> 20} MiB"
        raise OSError(0, f"it is larger than {shown}", name)
    return found


def _media_type(found: bytes) -> str | None:
    for magic, offset, media_type in _MAGIC:
        if found.startswith(magic, offset) and (offset == 0 or found.startswith(b"RIFF")):
            return media_type
    return None


def _hashed_and_coded(found: bytes, media_type: str) -> tuple[str, str]:
    return sha256(found).hexdigest(), f"data:{media_type};base64,{b64encode(found).decode('ascii')}"
