"""Pictures given to a model: a local file becomes a data URL, a web address is passed on as it is.

A row is hostile: only whole regular files that begin like a picture leave this machine, from the folders that the job
names (links are followed first), and no other kind of URL. Data
URLs are taken from ready requests alone, where they are the only form of a picture.
"""

import asyncio
import os
import stat
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import aiofiles
import aiofiles.os

from batchrunner.core.item import InputPicture
from batchrunner.core.job import Job

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


class BadPictureError(Exception):
    """A picture cannot be given to a model."""

    def __init__(self, problem: str, *, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


class PictureCache:
    """Reads the pictures of one pass, off the loop."""

    def __init__(self, job: Job) -> None:
        self._folder = Path(job.folder)
        self._places = (self._folder, *map(Path, job.images_from))
        self._named = (self._folder, *map(Path, job.picture_folders))
        self._allowed: tuple[str, ...] | None = None
        self._recent: dict[str, InputPicture] = {}

    def __repr__(self) -> str:
        return f"<PictureCache of {self._folder}, {len(self._recent)} pictures at hand>"

    async def picture(self, name: str) -> InputPicture:
        """The picture of that path (relative to the job file's folder, or to one of `images_from`) or http(s) address.

        Raises:
            BadPictureError: it is missing, too large, no picture, outside of the job's folders, or a URL of another
                kind.
        """
        known = self._recent.get(name)
        if known is None:
            known = await self._read(name)
            if len(self._recent) >= _KEPT:
                del self._recent[next(iter(self._recent))]
            self._recent[name] = known
        return known

    async def given(self, url: str) -> InputPicture:
        """The picture of a ready request: a data URL, or an http(s) address that is passed on. No file is opened.

        Raises:
            BadPictureError: it is neither, or holds no picture.
        """
        if url[:5].lower() != "data:":
            return _passed_on(url)
        return await asyncio.to_thread(_unpacked, url)

    @staticmethod
    def is_passed_on(name: str) -> bool:
        """True for an address, which is sent as it is: no file is read for it."""
        return "://" in name or name.startswith("data:")

    async def _read(self, name: str) -> InputPicture:
        if self.is_passed_on(name):
            return _passed_on(name)
        try:
            found = await _content(Path(await asyncio.to_thread(self.located, name)))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BadPictureError(f"the picture `{name}` cannot be read: {reason}") from error
        media_type = _media_type(found)
        if media_type is None:
            raise BadPictureError(f"`{name}` is not a PNG, JPEG, WEBP or GIF")
        digest, url = await asyncio.to_thread(_hashed_and_coded, found, media_type)
        return InputPicture(name=name, sha256=digest, url=url)

    def located(self, name: str) -> str:
        """The file itself, links followed. Blocks; raises BadPictureError, ValueError for what cannot name a file."""
        if self._allowed is None:
            self._allowed = tuple(os.path.realpath(folder) for folder in self._named)
        places = self._places if not os.path.isabs(name) else self._places[:1]  # noqa: PTH117 - no Path is made of it
        found = [os.path.realpath(place / name) for place in places]
        inside = [real for real in found if any(_lies_below(real, folder) for folder in self._allowed)]
        if not inside:
            shown = "" if found[0].endswith(name.lstrip("./")) else f" (it is {found[0][:200]})"
            raise BadPictureError(
                f"the picture `{name[:200]}` is outside the folders that this job names{shown}",
                hint=f"move it below {self._allowed[-1] if len(self._allowed) == 1 else self._allowed[1]}, "
                f"or name its folder in `images_from`",
            )
        return next((real for real in inside if os.path.exists(real)), inside[0])  # noqa: PTH110 - as above


def _lies_below(real: str, folder: str) -> bool:
    return real.startswith(folder.rstrip(os.sep) + os.sep)


def _unpacked(url: str) -> InputPicture:
    described, comma, payload = url.partition(",")
    if not comma or not described.lower().endswith(";base64"):
        raise BadPictureError(f"`{url[:40]}…` is not a base64 data URL")
    try:
        found = b64decode(payload, validate=True)
    except ValueError as error:
        raise BadPictureError(f"`{described}` is not base64: {error}") from error
    media_type = _media_type(found)
    if media_type is None:
        raise BadPictureError(f"`{described}` is not a PNG, JPEG, WEBP or GIF")
    if len(found) > PICTURE_LIMIT_BYTES:
        raise BadPictureError(f"`{described}` is larger than {PICTURE_LIMIT_BYTES // 1_000_000} MB")
    digest, rewritten = _hashed_and_coded(found, media_type)
    return InputPicture(name=f"data:{media_type}", sha256=digest, url=rewritten)


def _passed_on(url: str) -> InputPicture:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BadPictureError(f"`{url[:80]}` is not a valid address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise BadPictureError(f"`{url[:80]}` is neither a file nor an http(s) address")
    return InputPicture(name=url, sha256=sha256(url.encode("utf-8", "surrogatepass")).hexdigest(), url=url)


async def _content(path: Path) -> bytes:
    mode = (await aiofiles.os.stat(path)).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is not a regular file", os.fspath(path))
    async with aiofiles.open(path, "rb") as file:
        found = await file.read(PICTURE_LIMIT_BYTES + 1)
    if len(found) > PICTURE_LIMIT_BYTES:
        raise OSError(0, f"it is larger than {PICTURE_LIMIT_BYTES // 1_000_000} MB", os.fspath(path))
    return found


def _media_type(found: bytes) -> str | None:
    for magic, offset, media_type in _MAGIC:
        if found.startswith(magic, offset) and (offset == 0 or found.startswith(b"RIFF")):
            return media_type
    return None


def _hashed_and_coded(found: bytes, media_type: str) -> tuple[str, str]:
    return sha256(found).hexdigest(), f"data:{media_type};base64,{b64encode(found).decode('ascii')}"
