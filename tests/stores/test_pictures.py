"""Pictures from strangers: what is kept, how, and what is refused."""

import asyncio
import hashlib
import io
import os
import random
import struct
import sys
import threading
import zlib
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from batchrunner.core.job import PictureFormat
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.row import Picture, PictureOrigin
from batchrunner.stores.artifacts import Artifacts
from batchrunner.stores.files import DISK, Files
from batchrunner.stores.images import PictureFiles, make_thumbnail, picture_fault, prepare, thumbnail_path
from batchrunner.stores.picture_formats import png_pixels_are_whole

BLUE = (10, 20, 200)
ORIGIN = PictureOrigin(prompt="a blue cat", model="sim/painter", id="blue", key="0" * 32, params={"seed": 7})


def drawn(shape: str, *, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    picture = Image.linear_gradient("L").resize(size).convert(mode)
    out = io.BytesIO()
    picture.save(out, shape)
    return out.getvalue()


def save(
    root: Path,
    data: bytes,
    *,
    stem: str = "blue",
    into: PictureFormat | None = None,
    origin: PictureOrigin | None = None,
    max_pixels: int = 10_000_000,
    thumbnails: bool = False,
    files: Files = DISK,
) -> Picture | Problem:
    async def run() -> Picture | Problem:
        artifacts = Artifacts(root, files=files)
        pictures = PictureFiles(artifacts, max_pixels=max_pixels, thumbnails=root if thumbnails else None, files=files)
        try:
            return await pictures.save(data, stem=stem, into=into, origin=origin)
        finally:
            pictures.close()
            artifacts.close()

    return asyncio.run(run())


def kept(root: Path, data: bytes, **options: object) -> tuple[Picture, bytes]:
    picture = save(root, data, **options)  # type: ignore[arg-type]  # the tests' own shorthand
    assert isinstance(picture, Picture), picture
    return picture, (root / picture.path).read_bytes()


def refused(root: Path, data: bytes, **options: object) -> str:
    problem = save(root, data, **options)  # type: ignore[arg-type]  # the tests' own shorthand
    assert isinstance(problem, Problem), problem
    assert problem.kind is ProblemKind.BAD_PICTURE
    assert [path for path in root.rglob("*") if path.is_file() and path.parent.name != "damaged"] == []
    return problem.message


@pytest.mark.parametrize(("shape", "ending"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif")])
def test_a_whole_picture_is_kept_byte_for_byte_under_its_true_ending(tmp_path: Path, shape: str, ending: str) -> None:
    data = drawn(shape)
    picture, there = kept(tmp_path, data)
    assert there == data
    assert picture == Picture(
        path=f"images/blue.{ending}",
        sha256=hashlib.sha256(data).hexdigest(),
        width=40,
        height=30,
        format=shape,
        bytes=len(data),
    )


FORMATS: tuple[PictureFormat, ...] = ("png", "jpeg", "webp", "gif")
SOURCES = [
    *((shape, "RGB") for shape in ("PNG", "JPEG", "WEBP", "GIF")),
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
    *(("JPEG", mode) for mode in ("L", "CMYK")),
]


@pytest.mark.parametrize("into", FORMATS)
@pytest.mark.parametrize(("shape", "mode"), SOURCES)
def test_every_picture_can_become_every_format(tmp_path: Path, into: PictureFormat, shape: str, mode: str) -> None:
    if mode == "I;16":
        out = io.BytesIO()
        Image.new("I;16", (40, 30), 40_000).save(out, "PNG")
        data = out.getvalue()
    else:
        data = drawn(shape, mode=mode)
    picture, there = kept(tmp_path, data, into=into)
    assert (picture.format, picture.width, picture.height) == (into.upper(), 40, 30)
    assert picture_fault(there) is None


def test_what_was_transparent_becomes_white_in_a_jpeg(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    clear.paste((*BLUE, 255), (0, 0, 10, 20))
    out = io.BytesIO()
    clear.save(out, "PNG")
    _, there = kept(tmp_path, out.getvalue(), into="jpeg")
    with Image.open(io.BytesIO(there)) as read:
        pixel, other = read.getpixel((17, 10)), read.getpixel((3, 10))
    assert isinstance(pixel, tuple)
    assert isinstance(other, tuple)
    assert min(pixel) > 250
    assert other[2] > 150 > other[0]


def test_a_page_instead_of_a_picture_is_called_a_page(tmp_path: Path) -> None:
    page = b"\n<!DOCTYPE html><html><head><title>Hotlinking is not allowed</title></head></html>"
    assert "an HTML page titled 'Hotlinking is not allowed'" in refused(tmp_path, page)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "an empty body"),
        (b'{"error": "gone"}', "JSON"),
        (b"<!DOCTYPE html><title>Sign in</title>", "HTML page titled 'Sign in'"),
        (b"upstream connect error", "no known picture format"),
        (b"\x00\x01\x02", "no known picture format"),
        (b"\x89PNG\r\n\x1a\n", "without its IEND chunk"),
        (b"\xff\xd8\xff", "before its pixel data"),
        (b"RIFF\xff\x00\x00\x00WEBPVP8 ", "header says"),
        (b"GIF89a", "trailer"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_it_seems_to_be(tmp_path: Path, data: bytes, said: str) -> None:
    assert said in refused(tmp_path, data)


@pytest.mark.parametrize("shape", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_cut_anywhere_is_refused(shape: str) -> None:
    """Threat 6: halves of every format."""
    data = drawn(shape, size=(24, 24))
    for cut in range(len(data)):
        assert picture_fault(data[:cut]) is not None, cut


def test_half_a_jpeg_with_a_whole_thumbnail_inside_is_refused() -> None:
    thumbnail = drawn("JPEG", size=(8, 8))
    body = drawn("JPEG", size=(64, 64))
    segment = b"Exif\0\0" + thumbnail
    data = body[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + body[2:]
    assert picture_fault(data) is None
    assert picture_fault(data[:-40]) == "the server sent a JPEG truncated before its end marker"


def test_a_png_without_its_end_is_refused() -> None:
    """Threat 6."""
    assert picture_fault(drawn("PNG")[:-12]) == "the server sent a PNG without its IEND chunk"


def test_a_flipped_bit_in_a_pngs_pixels_is_refused() -> None:
    data = bytearray(drawn("PNG"))
    data[len(data) // 2] ^= 1
    fault = picture_fault(bytes(data))
    assert fault is not None
    assert fault.startswith("a damaged PNG")


def test_a_png_whose_checksums_are_wrong_is_refused_though_its_pixels_load() -> None:
    data = bytearray(drawn("PNG"))
    data[data.index(b"IEND") - 5] ^= 1
    with Image.open(io.BytesIO(bytes(data))) as lenient:
        lenient.load()
    fault = picture_fault(bytes(data))
    assert fault is not None
    assert fault.startswith("a damaged PNG")


def test_junk_after_the_end_does_no_harm(tmp_path: Path) -> None:
    for shape in ("PNG", "JPEG", "WEBP"):
        kept(tmp_path, drawn(shape) + b"\0\0junk", stem=shape)


def unread(root: Path, data: bytes, *, max_pixels: int = 10_000_000) -> str:
    """The format of a picture that is kept as it came, unchecked."""
    picture, written = kept(root, data, stem=f"unread-{len(data)}", into="webp", max_pixels=max_pixels)
    assert (picture.width, picture.height, written) == (None, None, data)
    return picture.format


OTHERS = {
    "AVIF": b"\0\0\0\x20ftypavif" + bytes(60),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(60),
    "BMP": b"BM" + bytes(60),
    "TIFF": b"II*\0" + bytes(60),
    "JXL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60),
    "SVG": b"<?xml version='1.0'?>\n<!-- made --><svg xmlns='http://www.w3.org/2000/svg'/>",
    "PSD": b"8BPS\0\1" + bytes(60),
    "ICO": b"\0\0\1\0" + bytes(60),
    "JP2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
    "MP4": b"\0\0\0\x18ftypisom" + bytes(60),
    "BIN": bytes(range(200, 256)) * 3,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_looked_into_is_kept_as_it_came_with_the_ending_of_its_bytes(tmp_path: Path, name: str) -> None:
    assert unread(tmp_path, OTHERS[name]) == name
    (path,) = (tmp_path / "images").iterdir()
    assert path.suffix == f".{name.lower()}"
    assert picture_fault(OTHERS[name]) is None


@pytest.mark.parametrize("text_bytes", [100, 1_200_000])
@pytest.mark.parametrize("packed", [True, False])
def test_a_png_with_a_long_text_is_a_picture(tmp_path: Path, text_bytes: int, *, packed: bool) -> None:
    """Workflows of image tools stand in a chunk of a megabyte and more."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", '{"node": 1}' * (text_bytes // 11), zip=packed)
    out = io.BytesIO()
    Image.new("RGB", (50, 40)).save(out, "PNG", pnginfo=info)
    picture, _ = kept(tmp_path, out.getvalue())
    assert (picture.format, picture.width, picture.height) == ("PNG", 50, 40)
    converted, _ = kept(tmp_path, out.getvalue(), stem="as-webp", into="webp")
    assert converted.format == "WEBP"


def bomb(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_bomb_is_kept_unread_by_its_header_alone(tmp_path: Path) -> None:
    """Threat 6."""
    assert unread(tmp_path, bomb(50_000, 50_000)) == "PNG"


def test_a_webp_canvas_is_measured_before_memory_is_allocated_for_it(tmp_path: Path) -> None:
    canvas = struct.pack("<I", 16_000)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + canvas
    assert unread(tmp_path, b"RIFF" + struct.pack("<I", len(body)) + body) == "WEBP"
    for lossless in (True, False):
        out = io.BytesIO()
        Image.new("RGB", (50, 40)).save(out, "WEBP", lossless=lossless)
        assert unread(tmp_path, out.getvalue(), max_pixels=100) == "WEBP"


def test_a_stem_never_leads_out_of_the_pictures_folder(tmp_path: Path) -> None:
    picture, _ = kept(tmp_path, drawn("PNG"), stem="../../evil")
    assert picture.path == "images/evil.png"


def test_several_pictures_are_saved_at_the_same_time(tmp_path: Path) -> None:
    async def run() -> None:
        artifacts = Artifacts(tmp_path)
        pictures = PictureFiles(artifacts)
        data = drawn("PNG")
        saved = await asyncio.gather(
            *(pictures.save(data, stem=f"s-{number}", into=None, origin=ORIGIN) for number in range(20))
        )
        assert {picture.path for picture in saved if isinstance(picture, Picture)} == {
            f"images/s-{number}.png" for number in range(20)
        }
        pictures.close()
        artifacts.close()

    asyncio.run(run())
    assert len(list((tmp_path / "images").iterdir())) == 20


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]), st.data())
@settings(max_examples=150)
def test_no_bytes_make_it_crash(shape: str, data: st.DataObject) -> None:
    """Threat 6."""
    mangled = bytearray(drawn(shape, size=(9, 9)))
    for _ in range(data.draw(st.integers(1, 4))):
        mangled[data.draw(st.integers(0, len(mangled) - 1))] = data.draw(st.integers(0, 255))
    for into in (None, *FORMATS):
        prepare(bytes(mangled), into=into, origin=ORIGIN, max_pixels=1_000_000)


def thumbnail_of(root: Path, picture: Picture) -> Image.Image:
    with Image.open(root / thumbnail_path(picture.sha256)) as read:
        assert read.format == "WEBP"
        read.load()
        return read


@pytest.mark.parametrize(("shape", "mode"), SOURCES)
def test_a_thumbnail_is_made_of_every_picture_and_named_by_the_bytes_that_are_kept(
    tmp_path: Path, shape: str, mode: str
) -> None:
    if mode == "I;16":
        out = io.BytesIO()
        Image.new("I;16", (600, 300), 40_000).save(out, "PNG")
        data = out.getvalue()
    else:
        data = drawn(shape, mode=mode, size=(600, 300))
    picture, there = kept(tmp_path, data, origin=ORIGIN, thumbnails=True)
    digest = hashlib.sha256(there).hexdigest()
    assert thumbnail_path(picture.sha256) == f"thumbs/{digest[:2]}/{digest[:16]}.webp"
    small = thumbnail_of(tmp_path, picture)
    assert small.size == (256, 128)
    assert make_thumbnail(there) == (tmp_path / thumbnail_path(digest)).read_bytes()


def test_a_thumbnail_is_not_larger_than_its_picture_and_stands_as_the_picture_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    out = io.BytesIO()
    Image.new("RGB", (100, 40), BLUE).save(out, "JPEG", exif=exif)
    picture, _ = kept(tmp_path, out.getvalue(), thumbnails=True)
    assert thumbnail_of(tmp_path, picture).size == (40, 100)


def test_no_thumbnail_is_made_where_none_is_wanted_nor_of_what_cannot_be_decoded(tmp_path: Path) -> None:
    assert refused(tmp_path, drawn("PNG")[:-40], thumbnails=True)
    kept(tmp_path, drawn("PNG"))
    kept(tmp_path, OTHERS["AVIF"], stem="unchecked", thumbnails=True)
    assert not (tmp_path / "thumbs").exists()
    assert make_thumbnail(OTHERS["AVIF"]) is None
    assert make_thumbnail(drawn("PNG")[:-40]) is None
    assert make_thumbnail(bomb(50_000, 50_000)) is None


def test_a_picture_is_kept_whether_its_thumbnail_can_be_written_or_not(tmp_path: Path) -> None:
    (tmp_path / "thumbs").write_text("a file in the way")
    picture, there = kept(tmp_path, drawn("PNG"), thumbnails=True)
    assert there == drawn("PNG")
    assert (tmp_path / picture.path).exists()
    assert (tmp_path / "thumbs").read_text() == "a file in the way"


def work_on_pixels(data: bytes, shape: str) -> list[tuple[str, tuple[int, int]]]:
    """What Pillow's C code does to make the thumbnail: the operation, and the size of the picture that it goes over."""
    seen: list[tuple[str, tuple[int, int]]] = []

    def note(frame: FrameType, event: str, called: object) -> None:
        name = getattr(called, "__name__", "")
        if event != "c_call":
            return
        of: Any = getattr(called, "__self__", None)
        if type(of).__name__ == "ImagingDecoder" and name == "cleanup":
            seen.append(("decoded", (0, 0)))
        elif name == "WebPEncode":
            seen.append((f"encode with method {frame.f_locals['method']}", frame.f_locals["im"].size))
        elif type(of).__name__ == "ImagingCore" and name != "pixel_access":
            seen.append((name, of.size))

    was = sys.getprofile()
    sys.setprofile(note)
    try:
        ready = prepare(data, into=None, max_pixels=10_000_000, thumbnail=True)
    finally:
        sys.setprofile(was)
    assert not isinstance(ready, Problem), shape
    assert ready.thumbnail is not None
    return seen


@pytest.mark.parametrize("shape", ["PNG", "JPEG", "WEBP"])
def test_a_thumbnail_takes_one_decoding_and_one_pass_over_all_pixels(shape: str) -> None:
    """What that costs in ms is measured by `make bench-page`."""
    seen = work_on_pixels(drawn(shape, size=(1024, 1024)), shape)
    assert [name for name, _ in seen].count("decoded") == 1
    assert [name for name, size in seen if max(size) > 512] == ["reduce"]
    assert ("resize", (512, 512)) in seen
    assert [work for work in seen if work[0].startswith("encode")] == [("encode with method 2", (256, 256))]


# An ordinary PNG is checked without a decoder: whatever this check takes, the decoder takes.


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def odd_png(chance: random.Random) -> bytes:
    """A PNG that has, by chance, too many or too few rows, unknown filters, flipped bits, odd chunks."""
    width, height, colours = chance.randint(1, 30), chance.randint(1, 30), chance.choice([0, 2, 3, 4, 6])
    row = width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    filters = [0, 1, 2, 3, 4] if chance.random() < 0.7 else [0, 4, 5]
    rows = height + chance.choice([0, 0, 0, 0, -1, 1])
    packed = bytearray(
        zlib.compress(b"".join(bytes([chance.choice(filters)]) + chance.randbytes(row) for _ in range(rows)))
    )
    if chance.random() < 0.2:
        packed[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.1:
        del packed[-chance.randint(1, 6) :]
    if chance.random() < 0.1:
        packed += b"more"
    cut = chance.randrange(len(packed))
    header = struct.pack(
        ">IIBBBBB", width, height, chance.choice([8, 8, 8, 16]), colours, 0, 0, chance.choice([0, 0, 1])
    )
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"acTL", struct.pack(">II", 1, 0)) if chance.random() < 0.1 else b""
    data += chunk(b"IDAT", bytes(packed[:cut])) + chunk(b"IDAT", bytes(packed[cut:]))
    data += chunk(chance.choice([b"tEXt", b"IDAT", b"fdAT"]), b"a\0b") if chance.random() < 0.2 else b""
    return data + chunk(b"IEND", b"")


def test_a_png_that_passes_without_a_decoder_passes_with_one() -> None:
    chance = random.Random(11)
    passed = 0
    for _ in range(600):
        data = odd_png(chance)
        if png_pixels_are_whole(data):
            passed += 1
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
    assert passed > 50


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_an_ordinary_png_needs_no_decoder(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((1, 1), (37, 41), (700, 300)):
        out = io.BytesIO()
        Image.new(mode, size).save(out, "PNG")
        monkeypatch.setattr("batchrunner.stores.images._decoded", None)
        assert picture_fault(out.getvalue()) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a niceness is the whole process's")
@pytest.mark.parametrize("of_the_process", [0, 9, 19])
def test_threads_that_decode_are_nicer_than_their_process_and_no_other_thread_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_the_process: int
) -> None:
    asked: dict[str, int] = {}
    monkeypatch.setattr(os, "getpriority", lambda *_: of_the_process)
    monkeypatch.setattr(
        os, "setpriority", lambda _which, _thread, to: asked.update({threading.current_thread().name: to})
    )
    kept(tmp_path, drawn("PNG"), thumbnails=True)
    assert {name.rsplit("_", 1)[0] for name in asked} == {"picture"}
    assert set(asked.values()) == {min(of_the_process + 5, 19)}
