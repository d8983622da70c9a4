"""Pictures that nothing here can look into, damaged ones and very many: kept, or failed with their bytes, never dropped."""

import base64
import json
import struct
import zlib
from typing import Any, Final

import pytest

from batchrunner import api
from tests.field.runs import Field, Ran
from tests.field.server import Answer, Asked, Script, http, json_reply

AVIF: Final = b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(range(256))
SVG: Final = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
JXL: Final = b"\xff\x0a" + bytes(range(200))
TIFF: Final = b"II*\0" + bytes(200)
BMP: Final = b"BM" + bytes(200)
HEIC: Final = b"\0\0\0\x18ftypheic" + bytes(200)
FORMATS: Final = {"avif": AVIF, "svg": SVG, "jxl": JXL, "tiff": TIFF, "bmp": BMP, "heic": HEIC}


def png(width: int, height: int, *, text: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * ((width + 7) // 8)) * height, 9)
    words = chunk(b"tEXt", b"workflow\0" + text) if text else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + words + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def by_b64(*pictures: bytes) -> Script:
    data = [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures]
    return lambda _: json_reply({"created": 1, "data": data})


def by_url(answer: Answer, *, count: int = 1) -> Script:
    def script(asked: Asked) -> Answer:
        if asked.path.startswith("/p"):
            return answer
        return json_reply({"data": [{"url": f"{asked.base}/p{number}.png"} for number in range(count)]})

    return script


def drawn(field: Field, script: Script, **more: Any) -> Ran:
    return field.run(script, {"kind": "image", **more})


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("way", ["b64", "url"])
@pytest.mark.parametrize("into", [None, "webp"])
def test_a_picture_of_another_format_is_kept_as_it_came(field: Field, ending: str, way: str, into: str | None) -> None:
    data = FORMATS[ending]
    script = by_b64(data) if way == "b64" else by_url(http(data, kind="image/png"))
    ran = drawn(field, script, **({"output": {"format": into}} if into else {}))
    assert (ran.exit_status, len(ran.server.requests("POST")), len(ran.server.requests("GET"))) == (
        0,
        1,
        0 if way == "b64" else 1,
    )
    (picture,) = ran.output()["images"]
    assert ran.output()["flags"] == ["unchecked"]
    assert (picture["path"].rpartition(".")[2], picture["width"], picture["bytes"]) == (ending, None, len(data))
    assert (ran.out / picture["path"]).read_bytes() == data
    assert api.verify(str(ran.out)).sound
    assert drawn(field, script).asked == []


@pytest.mark.parametrize(
    ("data", "flags", "width"),
    [(png(8000, 4800), ["unchecked"], None), (png(64, 64, text=b'{"node": 1}' * 120_000), None, 64)],
    ids=["38 megapixels", "a megabyte of workflow"],
)
def test_a_picture_that_readers_give_up_on_is_kept(
    field: Field, data: bytes, flags: list[str] | None, width: int | None
) -> None:
    ran = drawn(field, by_b64(data))
    assert (ran.exit_status, ran.output().get("flags")) == (0, flags)
    assert (ran.output()["images"][0]["format"], ran.output()["images"][0]["width"]) == ("PNG", width)
    assert api.verify(str(ran.out)).sound


@pytest.mark.parametrize("coding", ["gzip", "br", "utf-8", "deflate"])
def test_a_picture_under_a_wrong_content_coding_is_a_picture(field: Field, coding: str) -> None:
    ran = drawn(field, by_url(http(png(8, 8), kind="image/png", headers={"Content-Encoding": coding})))
    assert ran.output()["images"][0]["format"] == "PNG"


@pytest.mark.parametrize("way", ["b64", "url"])
def test_a_damaged_picture_fails_with_its_bytes_kept(field: Field, way: str) -> None:
    data = png(64, 64)[:-30]
    script = by_b64(data) if way == "b64" else by_url(http(data, kind="image/png"))
    ran = drawn(field, script)
    assert (ran.exit_status, len(ran.server.requests("POST"))) == (1, 1)
    assert len(ran.server.requests("GET")) == (0 if way == "b64" else 4)
    (kept,) = (ran.out / "images/damaged").iterdir()
    assert kept.read_bytes() == data
    assert f"images/damaged/{kept.name}" in ran.failures[0]["error"]["message"]
    assert drawn(field, script).asked == []


@pytest.mark.parametrize("way", ["b64", "url"])
def test_a_thousand_pictures_for_one_request_are_an_answer(field: Field, way: str) -> None:
    data = png(8, 8)
    script = by_b64(*[data] * 1000) if way == "b64" else by_url(http(data, kind="image/png"), count=1000)
    ran = drawn(field, script)
    assert (ran.exit_status, len(ran.output()["images"]), len(ran.server.requests("POST"))) == (0, 1000, 1)
    for segment in (ran.out / "ledger").glob("*.jsonl"):
        assert max(map(len, segment.read_bytes().splitlines())) <= 64 * 1024
    assert api.verify(str(ran.out)).sound
    assert drawn(field, script).asked == []


def test_many_addresses_are_known_to_the_next_run(field: Field) -> None:
    gone = by_url(http(b"later", status=503), count=700)
    assert drawn(field, gone).exit_status == 3
    addresses = [url for event in field.runs[0].events("ready") for url in event["urls"]]
    assert len(addresses) == 700
    assert len(json.dumps(addresses)) > 20_000
