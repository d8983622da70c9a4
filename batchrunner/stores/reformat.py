"""`run --reformat`: the pictures of a run in another format, without sending anything.

The steps, each safe to be repeated after a crash: every picture is checked, converted and written durably beside its
original · a `reformatted` record for each item, durable · results.jsonl is replaced atomically by one that names the
new files · the `rewritten` record · only then the originals are removed. Until the last step they all stand. A picture
that is damaged, or that cannot be converted, stays as it is and is named.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from batchrunner.core.events import Reformatted, Rewritten, recorded_files
from batchrunner.core.job import Json, PictureFormat
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.outcome import Problem
from batchrunner.core.ports import Ledger
from batchrunner.core.row import PictureOrigin
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field
from batchrunner.stores.artifacts import Artifacts
from batchrunner.stores.files import DISK, RESULTS, SHARED_FILE, InspectedFiles, broken, write_pieces
from batchrunner.stores.images import FOLDER, MAX_PIXELS, prepare
from batchrunner.stores.row_codec import UNREADABLE, with_pictures
from batchrunner.stores.row_forms import read_lines

_FORMATS: dict[PictureFormat, str] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF"}
_MOST_NAMED = 20
_MOST_GONE = 100
"""Originals that a record names, so that it fits its line; further ones are removed all the same, but for a crash."""


class _PictureFile(msgspec.Struct):
    path: str
    sha256: str
    width: int | None
    height: int | None
    format: str
    bytes: int


class _AudioFile(msgspec.Struct):
    path: str
    sha256: str
    bytes: int


class _MediaOutput(msgspec.Struct):
    images: tuple[_PictureFile, ...] = ()
    audio: tuple[_AudioFile, ...] = ()


class _Row(msgspec.Struct):
    id: str
    key: str
    prompt: str = ""
    model: str = ""
    params: dict[str, Json] = msgspec.field(default_factory=dict)
    output: _MediaOutput = msgspec.field(default_factory=_MediaOutput)


_decode = msgspec.json.Decoder(_Row).decode


@dataclass(slots=True, kw_only=True)
class Reformatting:
    """What came of it."""

    pictures: int = 0
    """Converted now."""
    left: list[str] = field(default_factory=list)
    """The first pictures that stay as they are, each with the reason."""
    left_count: int = 0

    def leave(self, words: str) -> None:
        """Name a picture that stays."""
        self.left_count += 1
        if len(self.left) < _MOST_NAMED:
            self.left.append(words)


def other_formats(folder: Path, wanted: PictureFormat | None, *, files: InspectedFiles = DISK) -> int:
    """How many pictures of a run's rows are in another format than `wanted`. Blocks. Raises StoreBrokenError."""
    if wanted is None or not files.exists(folder / RESULTS):
        return 0
    try:
        found = {
            picture.path for row in _rows(files, folder) for picture in row.output.images if _is_other(picture, wanted)
        }
    except OSError as error:
        raise broken(folder / RESULTS, error, sending=False) from error
    return len(found)


async def reformat(
    folder: Path,
    wanted: PictureFormat,
    *,
    ledger: Ledger,
    state: LedgerState,
    files: InspectedFiles,
    leftovers: Callable[[], Iterator[str]],
) -> Reformatting:
    """Convert what is in another format; for the holder of the lock, with a ledger that is open.

    Args:
        folder: the run's directory.
        wanted: the format to convert to.
        ledger: takes the records.
        state: where the items stand; of those that are not done nothing is touched.
        files: the file system.
        leftovers: originals that an earlier conversion named and may have left behind.

    Raises:
        StoreBrokenError: the disk refused; every picture is still there in one form or the other.
    """
    report = Reformatting()
    artifacts = Artifacts(folder, files=files)
    converter = _Converter(folder=folder, wanted=wanted, files=files, artifacts=artifacts, report=report)
    try:
        rows = await asyncio.to_thread(lambda: [r for r in _rows(files, folder) if _concerns(r, wanted, state)])
        recorded = set[str]()
        for row in rows:
            new = [await converter.converted(picture, row) for picture in row.output.images]
            kept: tuple[_PictureFile | _AudioFile, ...] = (*new, *row.output.audio)
            named = tuple((file.path, file.bytes, file.sha256) for file in kept)
            gone = tuple(old.path for old, now in zip(row.output.images, new, strict=True) if old.path != now.path)
            if gone and row.key not in recorded:  # identical items share pictures, and have a row each
                recorded.add(row.key)
                event = Reformatted(i=row.id, k=row.key, files=recorded_files(named), gone=gone[:_MOST_GONE])
                await ledger.commit(event)
        if made := converter.made:
            length = await asyncio.to_thread(_replace_rows, files, folder, made)
            replaced = Rewritten(length=length, labels="")
            await ledger.commit(replaced)
            state.apply(replaced, at=0.0)
        await asyncio.to_thread(_remove, files, folder, {*converter.made, *leftovers()})
    except OSError as error:
        raise broken(folder / RESULTS, error, sending=False) from error
    finally:
        artifacts.close()
    return report


def _rows(files: InspectedFiles, folder: Path) -> Iterator[_Row]:
    for line in read_lines(files, folder / RESULTS):
        try:
            row = _decode(line.text) if line.whole else None
        except UNREADABLE:
            continue  # chat rows have no pictures, and invalid rows are reported elsewhere
        if row is not None and row.output.images:
            yield row


def _is_other(picture: _PictureFile, wanted: PictureFormat) -> bool:
    return picture.format in _FORMATS.values() and picture.format != _FORMATS[wanted]


def _concerns(row: _Row, wanted: PictureFormat, state: LedgerState) -> bool:
    is_done = state.item_state(bytes.fromhex(row.key)) is ItemState.DONE
    return is_done and any(_is_other(picture, wanted) for picture in row.output.images)


@dataclass(slots=True, kw_only=True)
class _Converter:
    """Converts pictures, each once however many rows name it."""

    folder: Path
    wanted: PictureFormat
    files: InspectedFiles
    artifacts: Artifacts
    report: Reformatting
    made: dict[str, _PictureFile] = field(default_factory=dict)
    """By the original's path."""

    async def converted(self, picture: _PictureFile, row: _Row) -> _PictureFile:
        """The new picture; the old one where it stays."""
        if not _is_other(picture, self.wanted):
            return picture
        if picture.path not in self.made:
            data = await asyncio.to_thread(self._convert_audio, picture)
            if isinstance(data, str):
                self.report.leave(f"{picture.path}: {data}")
                return picture
            origin = PictureOrigin(prompt=row.prompt, model=row.model, id=row.id, key=row.key, params=row.params)
            ready = await asyncio.to_thread(prepare, data, into=self.wanted, max_pixels=MAX_PIXELS, origin=origin)
            if isinstance(ready, Problem):
                self.report.leave(f"{picture.path}: {ready.message}")
                return picture
            name = f"{FOLDER}/{PurePosixPath(picture.path).stem}.{ready.ending}"
            path = await self.artifacts.write_once(name, ready.data)
            self.report.pictures += 1
            self.made[picture.path] = _PictureFile(
                path=path,
                sha256=ready.sha256,
                width=ready.width,
                height=ready.height,
                format=ready.format,
                bytes=len(ready.data),
            )
        return self.made[picture.path]

    def _convert_audio(self, picture: _PictureFile) -> bytes | str:
        """Its bytes, or why it stays as it is."""
        parts = PurePosixPath(picture.path).parts
        if parts[:1] != (FOLDER,) or ".." in parts:
            return "is outside the run's images directory"
        try:
            descriptor = self.files.open_read(self.folder / picture.path)
        except FileNotFoundError:
            return "is missing"
        try:
            data = self.files.read_at(descriptor, picture.bytes + 1, 0)
        finally:
            self.files.close(descriptor)
        return data if hashlib.sha256(data).hexdigest() == picture.sha256 else "is damaged: its sha256 differs"


def _replace_rows(files: InspectedFiles, folder: Path, made: dict[str, _PictureFile]) -> int:
    """Put rows with the new pictures in the place of results.jsonl, atomically; its length."""
    return write_pieces(files, folder / RESULTS, _with_new_pictures(files, folder, made), SHARED_FILE)


def _with_new_pictures(files: InspectedFiles, folder: Path, made: dict[str, _PictureFile]) -> Iterator[bytes]:
    for line in read_lines(files, folder / RESULTS):
        text = with_pictures(line.text, {old: msgspec.json.encode(new) for old, new in _named(line.text, made)})
        yield text + b"\n" * line.whole


def _named(text: bytes, made: dict[str, _PictureFile]) -> Iterator[tuple[str, _PictureFile]]:
    try:
        row = _decode(text)
    except UNREADABLE:
        return
    for picture in row.output.images:
        if picture.path in made:
            yield picture.path, made[picture.path]


def _remove(files: InspectedFiles, folder: Path, originals: set[str]) -> None:
    """Originals that no row names any more."""
    kept = {picture.path for row in _rows(files, folder) for picture in row.output.images}
    for path in sorted(originals - kept):
        parts = PurePosixPath(path).parts
        if parts[:1] == (FOLDER,) and ".." not in parts and files.exists(folder / path):
            files.unlink(folder / path)
