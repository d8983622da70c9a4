"""Videos, sounds and files of any type: from the network to the disk piece by piece, kept under `media/`.

A type comes from the first bytes; file name and content type are ignored. Bytes come from strangers, and are paid for:
what is not known is kept as it came. Refuses, as DOWNLOAD_FAILED problems, after which the file is fetched again: pages
and other words, an empty file, and a file whose own format says that its end is missing.
"""

from typing import Final

from batchrunner.core.item import safe_stem
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.ports import Fill
from batchrunner.core.row import UNKNOWN_FORMAT, MediaFile
from batchrunner.core.values import dataclass
from batchrunner.stores.artifacts import Artifacts, Received
from batchrunner.stores.picture_formats import foreign_content, format_of, other_format

FOLDER = "media"
_TYPES: Final[dict[str, str]] = {
    "MP4": "video/mp4",
    "MOV": "video/quicktime",
    "WEBM": "video/webm",
    "MKV": "video/x-matroska",
    "AVI": "video/x-msvideo",
    "FLV": "video/x-flv",
    "MPEG": "video/mpeg",
    "M4A": "audio/mp4",
    "MP3": "audio/mpeg",
    "AAC": "audio/aac",
    "OGG": "audio/ogg",
    "FLAC": "audio/flac",
    "WAV": "audio/wav",
    "AIFF": "audio/aiff",
    "MIDI": "audio/midi",
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
    "HEIF": "image/heif",
    "SVG": "image/svg+xml",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "PDF": "application/pdf",
    "ZIP": "application/zip",
    "GZIP": "application/gzip",
    "GLB": "model/gltf-binary",
}
_ENDINGS: Final = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif"}
_MORE: Final[tuple[tuple[int, bytes, str, str], ...]] = (
    (8, b"AVI ", "AVI", "avi"),
    (0, b"FLV\1", "FLV", "flv"),
    (0, b"\0\0\1\xba", "MPEG", "mpg"),
    (0, b"\0\0\1\xb3", "MPEG", "mpg"),
    (8, b"AIFF", "AIFF", "aiff"),
    (0, b"MThd", "MIDI", "mid"),
)
"""(where, bytes there, name, ending) of what no chat and no picture model sends."""
_UNKNOWN_LENGTH: Final = 0xFFFF_FFF0
_MATROSKA_BYTES: Final = 64
_BOX_HEAD: Final = 8
_LONG_BOX_HEAD: Final = 16
_MOST_BOXES: Final = 100_000


@dataclass(frozen=True, slots=True)
class MediaFiles:
    """Implements `core.ports.MediaStore` below a run's directory."""

    artifacts: Artifacts

    async def save(self, fill: Fill, *, stem: str) -> MediaFile | Problem:
        """See `core.ports.MediaStore`.

        Raises:
            StoreBrokenError: the disk refused.
        """
        async with self.artifacts.receiving(FOLDER) as received:
            problem = await fill(received.write)
            if problem is not None:
                return problem
            await received.complete()
            kind = media_format(received.head)
            if kind is None:
                sent = foreign_content(received.head) if received.length else "an empty body (0 bytes)"
                return _problem(f"the server sent {sent} instead of a file")
            name, ending = kind
            if (fault := await received.look(_fault, name)) is not None:
                return _problem(f"the server sent {fault}")
            path = await received.keep(f"{FOLDER}/{safe_stem(stem)}.{ending}")
        return MediaFile(
            path=path,
            sha256=received.sha256,
            type=type_of(name),
            format=name,
            bytes=received.length,
        )


def media_format(head: bytes) -> tuple[str, str] | None:
    """(name, ending) of a file by its first bytes; None for pages, JSON and other words, and for nearly nothing."""
    if (shape := format_of(head)) is not None:
        return shape, _ENDINGS[shape]
    for place, magic, name, ending in _MORE:
        if head[place : place + len(magic)] == magic and (place == 0 or head[:4] in {b"RIFF", b"FORM"}):
            return name, ending
    found = other_format(head)
    if found == ("WEBM", "webm") and b"matroska" in head[:_MATROSKA_BYTES]:
        return "MKV", "mkv"
    return found


def type_of(name: str) -> str:
    """The MIME type of a format."""
    return _TYPES.get(name, "application/octet-stream")


def _problem(message: str) -> Problem:
    return Problem(kind=ProblemKind.DOWNLOAD_FAILED, message=message)


def _fault(received: Received, name: str) -> str | None:
    """What shows that the end of a file is missing; None where nothing does. Blocks. Raises OSError."""
    if name in {"MP4", "MOV", "M4A"}:
        return _box_fault(received, name)
    if name in {"WAV", "AVI", "WEBP"}:
        promised = 8 + int.from_bytes(received.head[4:8], "little")
        # a length of nothing, or of everything, is what is written where the end was not known yet
        if received.length < promised < _UNKNOWN_LENGTH and promised > _BOX_HEAD:
            return f"{name} of {received.length} bytes whose header says {promised}"
    return None


def _box_fault(received: Received, name: str) -> str | None:
    """Boxes follow each other to the end; one of them has the index, without which no player shows a frame."""
    at, kinds = 0, set[bytes]()
    for _ in range(_MOST_BOXES):
        if at >= received.length:
            break
        head = received.read_at(_LONG_BOX_HEAD, at)
        if len(head) < _BOX_HEAD:
            return f"a {name} truncated in the head of a box"
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        kinds.add(head[4:8])
        if size == 0:  # to the end of the file
            break
        if size < _BOX_HEAD:
            return None  # no boxes after all: nothing can be said
        at += size
    if at > received.length:
        return f"a {name} of {received.length} bytes whose boxes need {at}"
    return None if kinds & {b"moov", b"moof"} or not kinds & {b"mdat"} else f"a {name} without its index"


assert UNKNOWN_FORMAT == "BIN", "what `other_format` calls bytes that nobody knows"
