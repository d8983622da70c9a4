"""Pictures: checked whole, converted if asked, kept under `images/`. The only file here that knows Pillow.

Bytes come from strangers, and are paid for. What cannot be looked into (other formats than PNG, JPEG, WEBP and GIF,
more pixels than are decoded) is kept as it came, without width and height. Refuses, as BAD_PICTURE problems: pages and
other words, half files, and whatever Pillow cannot verify *and* load; damaged ones are kept under `images/damaged/`.
"""

import hashlib
import io
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrunner.core.item import safe_stem
from batchrunner.core.job import PictureFormat
from batchrunner.core.outcome import DAMAGED, AudioBytes, Problem, ProblemKind
from batchrunner.core.row import Audio, Picture, PictureOrigin
from batchrunner.core.values import dataclass, replace
from batchrunner.stores.artifacts import Artifacts
from batchrunner.stores.files import DISK, SHARED_FILE, SHARED_FOLDER, Files, place_whole
from batchrunner.stores.picture_formats import (
    Format,
    audio_format,
    foreign_content,
    format_of,
    has_long_png_text,
    other_format,
    png_pixels_are_whole,
    whole_fault,
    with_metadata,
    without_png_text,
)
from batchrunner.stores.threads import Threads

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_PIXELS = 36_000_000
"""Room for 8K; Pillow takes four bytes for each."""
FOLDER = "images"
DAMAGED_FOLDER = "images/damaged"
AUDIO_FOLDER = "audio"
THUMBNAILS = "thumbs"
"""A cache for the page: may be deleted at any time, stands in no record, and is made again by `report`."""

_THREADS = 2
_BIG_PIXELS = 4_000_000
_BIG_CONVERTED_PIXELS = 20_000_000
"""A conversion may need the pixels three times."""
_ENDINGS: dict[Format, str] = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif"}
_INTO: dict[PictureFormat, Format] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF"}
_MODES: dict[Format, frozenset[str]] = {
    "PNG": frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"}),
    "JPEG": frozenset({"L", "RGB"}),
    "WEBP": frozenset({"RGB", "RGBA"}),
    "GIF": frozenset({"1", "L", "P", "RGB", "RGBA"}),
}
_SAVING: dict[Format, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 95},
    "GIF": {},
}


_THUMBNAIL_SIDE = 256
_THUMBNAIL_SAVING: dict[str, Any] = {"quality": 70, "method": 2}
"""Method 2 takes a third less time than the default, for files of the same size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A picture as it will be kept."""

    data: bytes
    sha256: str
    format: str
    ending: str
    width: int | None
    height: int | None
    thumbnail: bytes | None = None


@cache
def readers() -> "dict[Format, type[ImageFile.ImageFile]]":
    """The reader of exactly the format that the first bytes name: nothing else of Pillow's fifty is ever tried.

    Loads Pillow: when the first picture comes, unless a run that orders pictures asked for it before its first request.
    """
    from PIL import (  # noqa: PLC0415 - a chat mostly needs none
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        WebPImagePlugin,
    )

    return {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
        "GIF": GifImagePlugin.GifImageFile,
    }


class PictureFiles:
    """Implements `core.ports.PictureStore` below a run's directory; `close` it at the end."""

    def __init__(
        self, artifacts: Artifacts, *, max_pixels: int = MAX_PIXELS, thumbnails: Path | None = None, files: Files = DISK
    ) -> None:
        """Keep pictures through `artifacts`; `thumbnails` is the run's directory if thumbnails are wanted there."""
        self._artifacts = artifacts
        self._max_pixels = max_pixels
        self._thumbnails = thumbnails
        self._files = files
        self._threads = Threads("picture", count=_THREADS, yielding=True)
        # One after the other and all by one thread: another would have, and keep, as much memory of its own.
        self._big = Threads("big picture", count=1, yielding=True)

    def __repr__(self) -> str:
        return f"<PictureFiles {self._artifacts!r} max_pixels={self._max_pixels}>"

    async def save(
        self, data: bytes, *, stem: str, into: PictureFormat | None, origin: PictureOrigin | None
    ) -> Picture | Problem:
        """See `core.ports.PictureStore`. `stem` must be unique in the job; the ending follows the format.

        A picture that an earlier version of the job left under this name stays: see `Artifacts.write_once`.

        Raises:
            StoreBrokenError: the disk refused.
        """
        ready = await self._threads.run(self._prepare, data, into, origin, only_small=True)
        if ready is None:
            ready = await self._big.run(self._prepare, data, into, origin, only_small=False)
            assert ready is not None, "only a small picture was asked for in the first step"
        if isinstance(ready, Problem):
            return await self._with_damaged(ready, data, stem) if ready.code == DAMAGED else ready
        path = await self._artifacts.write_once(f"{FOLDER}/{safe_stem(stem)}.{ready.ending}", ready.data)
        return Picture(
            path=path,
            sha256=ready.sha256,
            width=ready.width,
            height=ready.height,
            format=ready.format,
            bytes=len(ready.data),
        )

    def _prepare(
        self, data: bytes, into: PictureFormat | None, origin: PictureOrigin | None, *, only_small: bool
    ) -> _Ready | Problem | None:
        """As `prepare`, and the thumbnail is written; None for a picture that only one thread shall decode."""
        if only_small and _pixels_of(data) > _BIG_PIXELS:
            return None
        ready = prepare(
            data, into=into, origin=origin, max_pixels=self._max_pixels, thumbnail=self._thumbnails is not None
        )
        if self._thumbnails is not None and isinstance(ready, _Ready) and ready.thumbnail is not None:
            write_thumbnail(self._thumbnails, ready.sha256, ready.thumbnail, files=self._files)
        return ready

    async def save_audio(self, audio: AudioBytes, *, stem: str) -> Audio:
        """See `core.ports.PictureStore`. Sounds lie in a folder of their own.

        Raises:
            StoreBrokenError: the disk refused.
        """
        name, ending = audio_format(audio.data) or other_format(audio.data) or ("BIN", "bin")
        if ending == "bin" and audio.format and audio.format.isascii() and audio.format.isalnum():
            name, ending = audio.format.upper()[:8], audio.format.lower()[:8]
        path = await self._artifacts.write_once(f"{AUDIO_FOLDER}/{safe_stem(stem)}.{ending}", audio.data)
        return Audio(
            path=path,
            sha256=hashlib.sha256(audio.data).hexdigest(),
            format=name,
            bytes=len(audio.data),
            transcript=audio.transcript,
        )

    async def _with_damaged(self, problem: Problem, data: bytes, stem: str) -> Problem:
        """The problem with the path of the received bytes: they are paid for and may be repairable."""
        shape = format_of(data)
        ending = _ENDINGS[shape] if shape is not None else "bin"
        path = await self._artifacts.write_once(f"{DAMAGED_FOLDER}/{safe_stem(stem)}.{ending}", data)
        return replace(problem, message=f"{problem.message}; the received bytes are in {path}")

    def close(self) -> None:
        """No further pictures."""
        self._threads.close()
        self._big.close()


def prepare(
    data: bytes,
    *,
    into: PictureFormat | None,
    max_pixels: int,
    origin: PictureOrigin | None = None,
    thumbnail: bool = False,
) -> _Ready | Problem:
    """Check and convert, in a thread: blocks for as long as decoding takes. `thumbnail`: also make one."""
    shape = format_of(data)
    if shape is None:
        other = other_format(data)
        if other is None:
            return _bad(f"the server sent {foreign_content(data)} instead of a picture")
        return _ready(data, *other, size=None)
    if fault := whole_fault(data, shape):
        return _bad(f"the server sent {fault}", code=DAMAGED)
    wanted = shape if into is None else _INTO[into]
    shown = without_png_text(data) if shape == "PNG" and has_long_png_text(data) else data
    try:
        size = _checked_size(shown, shape, max_pixels)
        if size is None:
            return _ready(data, shape, _ENDINGS[shape], size=None)
        if wanted != shape and size[0] * size[1] > _BIG_CONVERTED_PIXELS:
            wanted = shape
        converted, small = None, None
        if wanted != shape or thumbnail or shape != "PNG" or not png_pixels_are_whole(shown):
            converted, small = _decoded(shown, shape, wanted, thumbnail=thumbnail)
    except MemoryError:
        return _ready(data, shape, _ENDINGS[shape], size=None)
    except Exception as error:  # noqa: BLE001 - hostile bytes make Pillow raise anything at all
        return _bad(f"a damaged {shape}: {type(error).__name__}: {error}", code=DAMAGED)
    kept = data if converted is None else converted
    if origin is not None:
        kept = with_metadata(kept, wanted, origin, size=size)
    return _ready(kept, wanted, _ENDINGS[wanted], size=size, thumbnail=small)


def _ready(
    data: bytes, name: str, ending: str, *, size: tuple[int, int] | None, thumbnail: bytes | None = None
) -> _Ready:
    width, height = size or (None, None)
    digest = hashlib.sha256(data).hexdigest()
    return _Ready(data=data, sha256=digest, format=name, ending=ending, width=width, height=height, thumbnail=thumbnail)


def _pixels_of(data: bytes) -> int:
    """Width × height from the header; 0 for what cannot be opened."""
    shape = format_of(data)
    if shape is None or shape == "WEBP":
        return _webp_pixels(data) if shape else 0
    try:
        with readers()[shape](io.BytesIO(data)) as picture:
            return picture.width * picture.height
    except Exception:  # noqa: BLE001 - as in `prepare`, which reports what is wrong
        return 0


def _decoded(
    data: bytes, shape: Format, wanted: Format, *, thumbnail: bool = False
) -> tuple[bytes | None, bytes | None]:
    """(the converted bytes, None if they stay as they are; the thumbnail), after every pixel was read."""
    with readers()[shape](io.BytesIO(data)) as picture:
        picture.load()
        small = _thumbnail_of(picture) if thumbnail else None
        return None if wanted == shape else _encoded(picture, wanted), small


def thumbnail_path(sha256: str) -> str:
    """Where a picture's thumbnail lies below the run's directory; named by the picture's content."""
    return f"{THUMBNAILS}/{sha256[:2]}/{sha256[:16]}.webp"


def make_thumbnail(data: bytes, *, max_pixels: int = MAX_PIXELS) -> bytes | None:
    """A WEBP of at most 256 pixels on its longer side; None for what cannot be decoded.

    Blocks: about 30 ms of CPU for a megapixel, and four bytes of memory for each pixel.
    """
    ready = prepare(data, into=None, max_pixels=max_pixels, thumbnail=True)
    return ready.thumbnail if isinstance(ready, _Ready) else None


def write_thumbnail(folder: Path, sha256: str, thumbnail: bytes, *, files: Files = DISK) -> None:
    """Put it into its place below the run's directory `folder`, whole but not synced; does nothing if it cannot."""
    path = folder / thumbnail_path(sha256)
    with suppress(OSError):  # a cache: the page shows the picture itself where there is no thumbnail
        if not files.exists(path.parent):
            files.make_folder(path.parent.parent, SHARED_FOLDER)
            files.make_folder(path.parent, SHARED_FOLDER)
        place_whole(files, path, thumbnail, SHARED_FILE, durable=False)


def _thumbnail_of(picture: "Image.Image") -> bytes | None:
    """Of decoded pixels, turned as viewers turn them; None if it cannot be made."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - as above

    try:
        scale = _THUMBNAIL_SIDE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        shown = picture
        if picture.width * picture.height > _BIG_PIXELS:  # what follows would copy all pixels of some modes
            shown = picture.resize((4 * size[0], 4 * size[1]), Image.Resampling.NEAREST)
        if shown.mode not in {"RGB", "RGBA", "L"}:
            shown = _as_colours(shown)
        if scale < 1:
            shown = shown.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        out = io.BytesIO()
        ImageOps.exif_transpose(shown).save(out, "WEBP", **_THUMBNAIL_SAVING)
    except Exception:  # noqa: BLE001 - as in `prepare`; it also stands for a MemoryError
        return None
    return out.getvalue()


def _as_colours(picture: "Image.Image") -> "Image.Image":
    """Pixels of any mode as RGB or RGBA."""
    if picture.mode.startswith("I;16"):
        return picture.convert("I").point(lambda value: value / 256).convert("L")
    return picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")


def picture_fault(data: bytes, *, max_pixels: int = MAX_PIXELS) -> str | None:
    """Why these bytes are no whole picture; None when they are one. Blocks; for audits."""
    ready = prepare(data, into=None, max_pixels=max_pixels)
    return ready.message if isinstance(ready, Problem) else None


def _checked_size(data: bytes, shape: Format, max_pixels: int) -> tuple[int, int] | None:
    """Width and height from the header, and Pillow's own verification, which leaves its object unusable.

    None for more pixels than are decoded.
    """
    if shape == "WEBP" and _webp_pixels(data) > max_pixels:
        return None  # Pillow allocates the whole canvas when it opens one
    with readers()[shape](io.BytesIO(data)) as picture:
        width, height = picture.size
        if width * height > max_pixels:
            return None
        picture.verify()
    return width, height


def _webp_pixels(data: bytes) -> int:
    """Width × height of a WEBP's canvas from its first chunk; 0 if unknown."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        return (1 + int.from_bytes(body[4:7], "little")) * (1 + int.from_bytes(body[7:10], "little"))
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (1 + (bits & 0x3FFF)) * (1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        return (int.from_bytes(body[6:8], "little") & 0x3FFF) * (int.from_bytes(body[8:10], "little") & 0x3FFF)
    return 0


def _encoded(picture: "Image.Image", wanted: Format) -> bytes:
    """The first frame in another format."""
    from PIL import Image  # noqa: PLC0415 - as above

    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    shown = picture
    if (picture.mode.startswith("I;16") and wanted != "PNG") or has_alpha:
        shown = _as_colours(picture)
    if has_alpha and wanted == "JPEG":
        white = Image.new("RGB", shown.size, "white")
        white.paste(shown, mask=shown.getchannel("A"))
        shown = white
    if shown.mode not in _MODES[wanted]:
        shown = shown.convert("RGB")
    saving = dict(_SAVING[wanted])
    if picture.mode not in {"CMYK", "L", "I;16"} and (profile := picture.info.get("icc_profile")):
        saving["icc_profile"] = profile
    out = io.BytesIO()
    shown.save(out, wanted, **saving)
    return out.getvalue()


def _bad(message: str, *, code: str | None = None) -> Problem:
    return Problem(kind=ProblemKind.BAD_PICTURE, message=message, code=code)
