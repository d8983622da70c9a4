"""What is known of a picture without decoding it: its format, whether its end is there, and what it says of itself.

Pure. `whole_fault` exists because decoders are lenient: `verify()` passes half a JPEG, `load()` a PNG without its end.
Of other formats than PNG, JPEG, WEBP and GIF it knows only the name.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Literal

from batchrunner.core import VERSION
from batchrunner.core.job import Json
from batchrunner.core.row import PictureOrigin
from batchrunner.core.text import late_pattern

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
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


def png_pixels_are_whole(data: bytes) -> bool:
    """Whether an ordinary PNG's pixels are all there and in order; False: only a decoder can decide.

    Unpacks them a piece at a time and looks at the byte in front of each row: a third of the time that it takes to
    make them into pixels, and no memory for them. For a PNG whose header and chunks a reader has verified.
    """
    width, height, depth, colours, *other = struct.unpack_from(">IIBBBBB", data, 16)
    if depth != _BYTE or colours not in _PNG_CHANNELS or any(other):
        return False
    row_bytes = 1 + width * _PNG_CHANNELS[colours]
    inflater = zlib.decompressobj()
    done = 0
    try:
        for packed in _png_pixel_data(data):
            left: bytes | memoryview = packed
            while left and done <= height * row_bytes:
                rows = inflater.decompress(left, _INFLATED_AT_ONCE)
                if max(rows[-done % row_bytes :: row_bytes], default=0) > _LAST_PNG_FILTER:
                    return False
                done += len(rows)
                left = inflater.unconsumed_tail
    except zlib.error:
        return False
    return inflater.eof and not inflater.unused_data and done == height * row_bytes


def _png_pixel_data(data: bytes) -> Iterator[memoryview]:
    """The pieces of a PNG's packed pixels; none if it is animated or has more after them than its end."""
    spans, at, last = [], len(_PNG_MAGIC), b""
    for name, end in _png_chunks(data):
        if name == b"IDAT":
            spans.append((at + 8, end - 4))
        elif last == b"IDAT" or name in _ANIMATED:
            spans = spans if name == b"IEND" else []
            break
        at, last = end, name
    view = memoryview(data)
    for start, end in spans:
        for piece in range(start, end, _INFLATED_AT_ONCE):
            yield view[piece : min(end, piece + _INFLATED_AT_ONCE)]


_BYTE: Final = 8
_PNG_CHANNELS: Final = {0: 1, 2: 3, 4: 2, 6: 4}
"""Of each pixel, a byte each, by the header's colour type."""
_LAST_PNG_FILTER: Final = 4
_ANIMATED: Final = frozenset({b"acTL", b"fcTL"})
_INFLATED_AT_ONCE: Final = 1 << 16


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


# What a picture says about itself: where it comes from, put into its file for other programs to read.
#
# PNG: a text chunk `parameters` in the form of AUTOMATIC1111's web UI, which most tools read, and a chunk `batchrunner`
# with all of it as JSON. Never a chunk `prompt`: ComfyUI's loaders take one for a graph. JPEG and WEBP: the text of
# `parameters` in the EXIF tag UserComment. GIF has no place that anybody reads. Every byte of the picture itself stays;
# a JPEG or WEBP with EXIF of its own stays as it came.

_PROMPT_CHARS: Final = 200_000
"""Longer ones are cut, with an ellipsis; their row has the whole."""
_NAMES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Steps", ("steps", "num_inference_steps")),
    ("Sampler", ("sampler", "sampler_name")),
    ("Schedule type", ("schedule_type",)),
    ("CFG scale", ("cfg_scale", "guidance", "guidance_scale")),
    ("Seed", ("seed",)),
)
"""A1111's names, in its order, and the parameters of providers that mean the same."""
_ALWAYS: Final = frozenset({"Sampler", "Schedule type"})
"""Readers look for three names of these to tell this line from a prompt's: the server's own choice is `default`."""
_ELSEWHERE: Final = frozenset(
    {"negative_prompt", "size", "width", "height", *(n for _, names in _NAMES for n in names)}
)
_READABLE_NAME: Final = late_pattern(r"[A-Za-z_][\w \-/]{1,60}")
_PNG_HEADER_END: Final = 33
_PNG_HEADER_START: Final = b"\0\0\0\x0dIHDR"
_PNG_HEADER_START_END: Final = 16
_APP0, _APP1, _APP15 = 0xE0, 0xE1, 0xEF
_SEGMENT_BYTES_MAX: Final = 0xFFFF - 2
_EXIF: Final = b"Exif\0\0"
_USER_COMMENT: Final = 0x9286
_EXIF_FOLDER: Final = 0x8769
_LONG, _UNDEFINED = 4, 7
_FLAG_EXIF, _FLAG_ALPHA = 0x08, 0x10
_COMMENT_AT: Final = 44
"""Where the comment begins: header, and two folders of one entry each."""


def with_metadata(data: bytes, shape: Format, origin: PictureOrigin, *, size: tuple[int, int]) -> bytes:
    """The whole picture `data` of `size` pixels with its origin inside."""
    match shape:
        case "PNG":
            if data[8:_PNG_HEADER_START_END] != _PNG_HEADER_START:
                return data
            texts = {"parameters": parameters_text(origin, size=size), "batchrunner": _as_json(origin)}
            chunks = b"".join(_itxt(keyword, text) for keyword, text in texts.items())
            return data[:_PNG_HEADER_END] + chunks + data[_PNG_HEADER_END:]
        case "JPEG":
            return _with_jpeg_exif(data, origin, size)
        case "WEBP":
            return _with_webp_exif(data, origin, size)
        case "GIF":
            return data


def parameters_text(origin: PictureOrigin, *, size: tuple[int, int], bytes_max: int | None = None) -> str:
    """Prompt, negative prompt and one line of parameters, as A1111's web UI writes them.

    Where it would have more than `bytes_max` bytes as UTF-16 the prompts are cut.
    """
    line = _parameters_line(origin, size)
    room = _PROMPT_CHARS if bytes_max is None else max(0, bytes_max // 2 - len(line) - 40) // 2
    # a character may take two units of UTF-16, so the prompts get half of what is left
    prompt, negative = origin.prompt, origin.params.get("negative_prompt")
    lines = [_cut(prompt, room)]
    if isinstance(negative, str) and negative:
        lines.append(f"Negative prompt: {_cut(negative, max(0, room - len(prompt)))}")
    return _writable("\n".join([*lines, line]))


def _parameters_line(origin: PictureOrigin, size: tuple[int, int]) -> str:
    params = origin.params
    settings: dict[str, Json] = {}
    for name, known in _NAMES:
        value = next((params[key] for key in known if params.get(key) is not None), None)
        if value is not None or name in _ALWAYS:
            settings[name] = "default" if value is None else value
    settings |= {"Size": f"{size[0]}x{size[1]}", "Model": origin.model}
    settings |= {
        name: value for name, value in params.items() if name not in _ELSEWHERE and _READABLE_NAME.fullmatch(name)
    }
    settings["Version"] = f"batchrunner {VERSION}"
    return ", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items())


def _quoted(value: Json) -> str:
    """A value that cannot be taken for the next name, nor begin a line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _cut(text, 1000)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n\r]', text) else text


def _as_json(origin: PictureOrigin) -> str:
    origin_fields = {
        "prompt": _cut(origin.prompt, _PROMPT_CHARS),
        "model": origin.model,
        "params": origin.params,
        "id": origin.id,
        "key": origin.key,
        "program": f"batchrunner {VERSION}",
    }
    return _writable(json.dumps(origin_fields, ensure_ascii=False))


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: max(0, chars - 1)] + "…"


def _writable(text: str) -> str:
    """Without what ends a text chunk, and without halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _itxt(keyword: str, text: str) -> bytes:
    body = b"iTXt" + keyword.encode("ascii") + b"\0\0\0\0\0" + text.encode()
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def _exif(text: str) -> bytes:
    """A TIFF structure with this UserComment, and nothing else."""
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    first = struct.pack(">HHHLLL", 1, _EXIF_FOLDER, _LONG, 1, 26, 0)
    second = struct.pack(">HHHLLL", 1, _USER_COMMENT, _UNDEFINED, len(comment), _COMMENT_AT, 0)
    return b"MM\0*\0\0\0\x08" + first + second + comment


def _with_jpeg_exif(data: bytes, origin: PictureOrigin, size: tuple[int, int]) -> bytes:
    """An APP1 segment after the JFIF header, where there is one: both want to be first, and readers agree on this."""
    place = first = 2
    for marker, start, end in _jpeg_segments(data):
        if marker == _APP1 and data[start:end].startswith(_EXIF):
            return data
        if marker == _APP0 and place == first:
            place = end
    room = _SEGMENT_BYTES_MAX - len(_EXIF) - _COMMENT_AT - 8
    body = _EXIF + _exif(parameters_text(origin, size=size, bytes_max=room))
    if len(body) > _SEGMENT_BYTES_MAX:  # parameters of 60 kB
        return data
    return data[:place] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[place:]


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start of its content, end) of the application segments in front."""
    at = 2
    while data[at : at + 1] == b"\xff" and _APP0 <= data[at + 1] <= _APP15:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at + 4, end
        at = end


def _with_webp_exif(data: bytes, origin: PictureOrigin, size: tuple[int, int]) -> bytes:
    """An EXIF chunk at the end, and the extended header that announces it."""
    end = 8 + int.from_bytes(data[4:8], "little")
    chunks, rest = data[12:end], data[end:]
    if len(chunks) % 2:
        chunks += b"\0"
    if chunks[:4] == b"VP8X":
        flags = chunks[8]
        if flags & _FLAG_EXIF:
            return data
        chunks = chunks[:8] + bytes((flags | _FLAG_EXIF,)) + chunks[9:]
    else:
        flags = _FLAG_EXIF
        if chunks[:4] == b"VP8L" and chunks[12] & _FLAG_ALPHA:
            flags |= _FLAG_ALPHA
        sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
        chunks = _riff_chunk(b"VP8X", bytes((flags, 0, 0, 0)) + sides) + chunks
    chunks += _riff_chunk(b"EXIF", _exif(parameters_text(origin, size=size)))
    return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks + rest


def _riff_chunk(name: bytes, body: bytes) -> bytes:
    return name + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)
