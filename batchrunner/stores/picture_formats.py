"""What is known of a picture without decoding it: its format, whether its end is there, and a PNG's text chunks.

Pure. `whole_fault` exists because decoders are lenient: `verify()` passes half a JPEG, `load()` a PNG without its end.
Of other formats than PNG, JPEG, WEBP and GIF it tells the name and no more.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_IHDR = b"\0\0\0\x0dIHDR"
_IHDR_END = 33
_MAX_TEXT_CHARACTERS = 1 << 18
_MAX_KEYWORD = 79
_STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_MARKER = 0xFF
_START_OF_SCAN = 0xDA
_HTML = re.compile(rb"\s*(?:<!doctype html|<html|<head|<body|<\?xml|<!--)", re.IGNORECASE)


def format_of(data: bytes) -> Format | None:
    """The format from the first bytes; file name and content type are ignored."""
    if data.startswith(_PNG_MAGIC):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return None


_BRANDS: tuple[tuple[bytes, str, str], ...] = (
    (b"avi", "AVIF", "avif"),
    (b"hei", "HEIC", "heic"),
    (b"hev", "HEIC", "heic"),
    (b"mif1", "HEIF", "heif"),
    (b"msf1", "HEIF", "heif"),
    (b"qt", "MOV", "mov"),
    (b"M4A", "M4A", "m4a"),
    (b"", "MP4", "mp4"),
)
"""Of files that begin with an `ftyp` box, by the beginning of the brand."""
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"BM", "BMP", "bmp"),
    (b"II*\0", "TIFF", "tiff"),
    (b"MM\0*", "TIFF", "tiff"),
    (b"II+\0", "TIFF", "tiff"),
    (b"\xff\x0a", "JXL", "jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL", "jxl"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2", "jp2"),
    (b"\xff\x4f\xff\x51", "J2K", "j2k"),
    (b"8BPS", "PSD", "psd"),
    (b"\0\0\1\0", "ICO", "ico"),
    (b"qoif", "QOI", "qoi"),
    (b"DDS ", "DDS", "dds"),
    (b"v/1\1", "EXR", "exr"),
    (b"#?RADIANCE", "HDR", "hdr"),
    (b"P4\n", "PBM", "pbm"),
    (b"P5\n", "PGM", "pgm"),
    (b"P6\n", "PPM", "ppm"),
    (b"%PDF-", "PDF", "pdf"),
    (b"\x1a\x45\xdf\xa3", "WEBM", "webm"),
    (b"glTF", "GLB", "glb"),
    (b"PK\3\4", "ZIP", "zip"),
    (b"\x1f\x8b", "GZIP", "gz"),
)
_AUDIO: tuple[tuple[bytes, str, str], ...] = (
    (b"ID3", "MP3", "mp3"),
    (b"\xff\xfb", "MP3", "mp3"),
    (b"\xff\xf3", "MP3", "mp3"),
    (b"\xff\xf2", "MP3", "mp3"),
    (b"\xff\xf1", "AAC", "aac"),
    (b"\xff\xf9", "AAC", "aac"),
    (b"OggS", "OGG", "ogg"),
    (b"fLaC", "FLAC", "flac"),
)
_SVG = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg[\s>]", re.IGNORECASE | re.DOTALL
)
_TEXT_BYTES = 512
_SHORTEST_BYTES = 64
"""Fewer are the beginning of something, and no picture."""


def other_format(data: bytes) -> tuple[str, str] | None:
    """(name, ending) of what is kept although nothing here can look into it; None for pages, JSON and other text."""
    if data[4:8] == b"ftyp":
        return next((name, ending) for brand, name, ending in _BRANDS if data[8:12].startswith(brand))
    for magic, name, ending in _MAGICS:
        if data.startswith(magic):
            return name, ending
    if (audio := audio_format(data)) is not None:
        return audio
    if _SVG.match(data[:65536].removeprefix(b"\xef\xbb\xbf")):
        return "SVG", "svg"
    return None if _is_text(data) or len(data) < _SHORTEST_BYTES else ("BIN", "bin")


def audio_format(data: bytes) -> tuple[str, str] | None:
    """(name, ending) of a audio by its first bytes."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "WAV", "wav"
    return next(((name, ending) for magic, name, ending in _AUDIO if data.startswith(magic)), None)


def _is_text(data: bytes) -> bool:
    """Whether the bytes are text, so probably an error message and not a picture."""
    start = data[:_TEXT_BYTES]
    if not start or b"\0" in start:
        return not start
    try:
        words = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:
            return False
        words = start[: error.start].decode()
    return all(char.isprintable() or char.isspace() for char in words)


def without_png_text(data: bytes) -> bytes:
    """A PNG without its text chunks, for a reader that gives up on long ones."""
    kept = [_PNG_MAGIC]
    at = len(_PNG_MAGIC)
    for name, end in _png_chunks(data):
        if name not in _TEXTS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def has_long_png_text(data: bytes) -> bool:
    """Whether text chunks of a PNG are longer than readers take."""
    at, size = len(_PNG_MAGIC), 0
    for name, end in _png_chunks(data):
        size += end - at if name in _TEXTS else 0
        at = end
    return size > _LONG_TEXT_BYTES


_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_LONG_TEXT_BYTES = 1000
"""Packed text may be a thousand times as long, and Pillow takes a megabyte."""


def foreign_content(data: bytes) -> str:
    """What bytes that are no picture seem to be, for a message."""
    if not data:
        return "an empty body (0 bytes)"
    if _HTML.match(data.removeprefix(b"\xef\xbb\xbf")):
        title = re.search(rb"<title[^>]*>([^<]{1,200})", data[:65536], re.IGNORECASE)
        named = "" if title is None else f" titled {title[1].decode('utf-8', 'replace').strip()!r}"
        return f"an HTML page{named}"
    if data.lstrip()[:1] in {b"{", b"["}:
        return f"JSON: {data[:200].decode('utf-8', 'replace')!r}"
    return f"{len(data)} bytes in no known picture format, starting with {data[:8].hex(' ')}"


def whole_fault(data: bytes, shape: Format) -> str | None:
    """What shows that the end is missing; None when the end is there."""
    return _FAULTS[shape](data)


def with_png_text(data: bytes, text: Mapping[str, str]) -> bytes:
    """A PNG with iTXt chunks after its header; every other byte stays as it was."""
    if data[len(_PNG_MAGIC) : 16] != _IHDR:
        return data
    chunks = b"".join(_itxt(keyword, value) for keyword, value in text.items())
    return data[:_IHDR_END] + chunks + data[_IHDR_END:] if chunks else data


def _itxt(keyword: str, text: str) -> bytes:
    name = re.sub(r" {2,}", " ", re.sub(r"[^\x20-\x7e]", "-", keyword)).strip()[:_MAX_KEYWORD].strip() or "text"
    value = text[:_MAX_TEXT_CHARACTERS].replace("\0", "\ufffd").encode("utf-8", "replace")
    body = b"iTXt" + name.encode("ascii") + b"\0\0\0\0\0" + value
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def _png_fault(data: bytes) -> str | None:
    for name, end in _png_chunks(data):
        if end > len(data):
            return f"a PNG truncated in its {name.decode('latin-1')} chunk"
        if name == b"IEND":
            return None
    return "a PNG without its IEND chunk"


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(name, end) of each chunk; the last may end beyond the data."""
    at = len(_PNG_MAGIC)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], end
        at = end


def _jpeg_fault(data: bytes) -> str | None:
    """Segments are stepped over by their lengths: a thumbnail inside one has an end marker of its own."""
    at = 2
    while at + 4 <= len(data) and data[at] == _MARKER:
        marker = data[at + 1]
        if marker == _START_OF_SCAN:
            return None if data.find(b"\xff\xd9", at) >= 0 else "a JPEG truncated before its end marker"
        if marker == _MARKER:
            at += 1
        elif marker in _STANDALONE_MARKERS:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return "a JPEG truncated before its pixel data"


def _webp_fault(data: bytes) -> str | None:
    promised = 8 + int.from_bytes(data[4:8], "little")
    return None if len(data) >= promised else f"a WEBP of {len(data)} bytes whose header says {promised}"


def _gif_fault(data: bytes) -> str | None:
    return None if data.rstrip(b"\0").endswith(b";") else "a GIF truncated before its trailer"


_FAULTS: dict[Format, Callable[[bytes], str | None]] = {
    "PNG": _png_fault,
    "JPEG": _jpeg_fault,
    "WEBP": _webp_fault,
    "GIF": _gif_fault,
}
