"""What a picture says about itself, read by other programs: Pillow and sd_parsers."""

import io
import json
import struct
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from batchrunner.core import VERSION
from batchrunner.core.job import PictureFormat
from batchrunner.core.outcome import Problem
from batchrunner.core.row import PictureOrigin
from batchrunner.stores.images import picture_fault, prepare
from batchrunner.stores.picture_formats import Format, with_metadata

PARAMS: dict[str, Any] = {
    "negative_prompt": "blur, text: any",
    "steps": 30,
    "seed": 1234567890,
    "guidance": 4.5,
    "size": "640x384",
    "loras": {"a/b": 0.5},
}
SHAPES: tuple[PictureFormat, ...] = ("png", "jpeg", "webp")
PROMPTS = {
    "plain": "A yellow tram climbing a steep street",
    "other scripts": "蓝猫 \U0001f408, קטע, ünïcödé, half \ud800 of a pair",
    "several lines": "A tram\nSteps: 1, Sampler: x, Seed: 2, Size: 1x1\n\n  and a cat\r\nModel: no",
    "100 kB": "word, " * 17_000,
    "10 MB": "蓝" * 3_500_000,
    "empty": "",
    "nul": "a\0b",
}


def origin_of(prompt: str = PROMPTS["plain"], **params: Any) -> PictureOrigin:
    return PictureOrigin(prompt=prompt, model="Qwen/Qwen-Image", id="tram", key="0f" * 16, params=PARAMS | params)


def made(into: PictureFormat, origin: PictureOrigin, *, mode: str = "RGB") -> bytes:
    """A picture of 64 × 48 that came as a PNG and is kept as `into`."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).convert(mode).save(out, "PNG")
    ready = prepare(out.getvalue(), into=into, origin=origin, max_pixels=1_000_000)
    assert not isinstance(ready, Problem)
    assert picture_fault(ready.data) is None
    return ready.data


def parameters_of(data: bytes) -> str:
    """As any program reads it, with Pillow."""
    with Image.open(io.BytesIO(data)) as read:
        read.load()
        if read.format == "PNG":
            return str(read.info["parameters"])
        comment = read.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    return str(comment[8:].decode("utf-16-be"))


@pytest.mark.parametrize("into", SHAPES)
def test_pillow_reads_the_prompt_and_every_parameter(into: PictureFormat) -> None:
    assert parameters_of(made(into, origin_of())) == (
        "A yellow tram climbing a steep street\n"
        "Negative prompt: blur, text: any\n"
        "Steps: 30, Sampler: default, Schedule type: default, CFG scale: 4.5, Seed: 1234567890, Size: 64x48, "
        f'Model: Qwen/Qwen-Image, loras: "{{\\"a/b\\": 0.5}}", Version: batchrunner {VERSION}'
    )


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("into", SHAPES)
def test_any_prompt_leaves_a_whole_picture_with_its_parameters_in_the_last_line(into: PictureFormat, name: str) -> None:
    text = parameters_of(made(into, origin_of(PROMPTS[name])))
    *prompt, last = text.split("\n")
    assert last.startswith("Steps: 30, Sampler: default")
    assert "Seed: 1234567890, Size: 64x48, Model: Qwen/Qwen-Image" in last
    shown = "\n".join(prompt).rpartition("\nNegative prompt: ")[0]
    expected = PROMPTS[name].replace("\ud800", "?").replace("\0", "\ufffd")
    if name == "10 MB" or (name == "100 kB" and into == "jpeg"):
        assert expected.startswith(shown.removesuffix("…"))
        assert len(shown) > 15_000
    else:
        assert shown == expected


@pytest.mark.parametrize("into", SHAPES)
def test_sd_parsers_reads_prompt_seed_steps_size_and_model(into: PictureFormat) -> None:
    sd_parsers = pytest.importorskip("sd_parsers", reason="sd-parsers is not installed: pip install -e '.[dev]'")
    for name, prompt in PROMPTS.items():
        with Image.open(io.BytesIO(made(into, origin_of(prompt)))) as picture:
            found = sd_parsers.ParserManager().parse(picture)
        assert found is not None, name
        assert found.generator.value == "AUTOMATIC1111"
        (sampler,) = found.samplers
        assert (sampler.parameters["seed"], sampler.parameters["steps"]) == ("1234567890", "30")
        assert sampler.parameters["cfg_scale"] == "4.5"
        assert sampler.model.name == "Qwen/Qwen-Image"
        assert found.metadata["Size"] == "64x48"
        if name in {"plain", "several lines"}:
            assert sampler.prompts[0].value == prompt
            assert sampler.negative_prompts[0].value == PARAMS["negative_prompt"]


def test_a_seed_alone_is_enough_for_sd_parsers() -> None:
    sd_parsers = pytest.importorskip("sd_parsers", reason="sd-parsers is not installed: pip install -e '.[dev]'")
    origin = PictureOrigin(prompt="a cat", model="sim/painter", id="cat", key="k", params={"seed": 7})
    with Image.open(io.BytesIO(made("png", origin))) as picture:
        (sampler,) = sd_parsers.ParserManager().parse(picture).samplers
    assert (sampler.prompts[0].value, sampler.parameters["seed"]) == ("a cat", "7")


@pytest.mark.parametrize("name", PROMPTS)
def test_a_png_has_everything_as_json_under_one_keyword_and_none_that_other_programs_take_for_theirs(name: str) -> None:
    with Image.open(io.BytesIO(made("png", origin_of(PROMPTS[name])))) as read:
        read.load()
        info = dict(read.info)
    assert info.keys() == {"parameters", "batchrunner"}
    told = json.loads(info["batchrunner"])
    assert told.keys() == {"prompt", "model", "params", "id", "key", "program"}
    assert (told["model"], told["params"], told["id"], told["key"]) == ("Qwen/Qwen-Image", PARAMS, "tram", "0f" * 16)
    if name not in {"10 MB", "nul", "other scripts"}:
        assert told["prompt"] == PROMPTS[name]


def test_a_text_chunk_of_the_server_stays() -> None:
    out = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "server")
    Image.new("RGB", (4, 4)).save(out, "PNG", pnginfo=text)
    data = with_metadata(out.getvalue(), "PNG", origin_of(), size=(4, 4))
    assert data.endswith(out.getvalue()[33:])
    with Image.open(io.BytesIO(data)) as read:
        read.load()
        assert read.info["Software"] == "server"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_of_each_kind_shows_the_same_pixels_with_its_text(mode: str, *, lossless: bool) -> None:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((65, 47)).convert(mode).save(out, "WEBP", lossless=lossless, exact=True)
    data = with_metadata(out.getvalue(), "WEBP", origin_of(), size=(65, 47))
    with Image.open(io.BytesIO(out.getvalue())) as before, Image.open(io.BytesIO(data)) as after:
        assert (before.mode, before.size, before.tobytes()) == (after.mode, after.size, after.tobytes())
    assert "Seed: 1234567890" in parameters_of(data)


@pytest.mark.parametrize("shape", ["JPEG", "WEBP"])
def test_exif_of_the_server_stays_as_it_came(shape: Format) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (20, 10)).save(out, shape, exif=exif)
    assert with_metadata(out.getvalue(), shape, origin_of(), size=(20, 10)) == out.getvalue()


def test_a_webp_with_an_odd_number_of_bytes_and_junk_behind_it_stays_whole() -> None:
    out = io.BytesIO()
    Image.new("RGB", (20, 10)).save(out, "WEBP", icc_profile=b"x" * 127)
    junk = out.getvalue() + b"junk"
    data = with_metadata(junk, "WEBP", origin_of(), size=(20, 10))
    assert struct.unpack("<I", data[4:8])[0] + 8 + 4 == len(data)
    assert picture_fault(data) is None
    assert "Seed" in parameters_of(data)


def test_a_gif_stays_as_it_is() -> None:
    assert with_metadata(b"GIF89a", "GIF", origin_of(), size=(1, 1)) == b"GIF89a"


def test_parameters_of_any_size_and_name_leave_a_whole_picture() -> None:
    for into in SHAPES:
        odd: dict[str, Any] = {"x" * 70_000: "y" * 70_000, "a\nb": "\n", "ok name": "a: b, c", "none": None}
        assert 'ok name: "a: b, c"' in parameters_of(made(into, origin_of(**odd)))
