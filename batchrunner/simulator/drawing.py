"""Pictures really drawn: colours and shapes from a hash of the prompt, its words on top. The only user of Pillow."""

import random
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING

from batchrunner.core.job import Json
from batchrunner.simulator.refusals import REFUSALS, Refusal, invalid
from batchrunner.simulator.requests import Order
from batchrunner.simulator.script import as_text, digest_of

# What the image API rejects before it accepts a task: see docs/providers/modelscope.md#parameters.

DEFAULT_SIZE = (512, 512)
_LONGEST_PROMPT = 2000
_MOST_LORAS = 6
_SIDES = (("qwen-image", 64, 1664), ("z-image", 512, 2048), ("flux", 64, 1024), ("", 64, 2048))
"""(part of the model's name, least side, greatest side); the first that fits counts."""
_RANGES = (("seed", 0, 2**31 - 1, True), ("steps", 1, 100, True), ("guidance", 1.5, 20, False))
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def check_image(order: Order) -> Refusal | None:
    """The first rule that the request breaks."""
    if order.headers.get("x-modelscope-async-mode", "").lower() != "true" and "img-sync-result" not in order.chosen:
        return REFUSALS["needs-async"]
    problem = (
        _prompt_problem(order.body)
        or _size_problem(order.body.get("size"), order.base_model)
        or _range_problem(order.body, order.base_model)
        or _loras_problem(order.body.get("loras"))
        or _given_problem(order.body.get("image_url"))
    )
    return invalid(problem, shape="A-outside") if problem else None


def picture_size(body: Mapping[str, Json]) -> tuple[int, int]:
    """Width and height that a checked request asks for."""
    found = _SIZE.fullmatch(as_text(body.get("size")))
    return (int(found[1]), int(found[2])) if found else DEFAULT_SIZE


def _prompt_problem(body: Mapping[str, Json]) -> str | None:
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        return "prompt is required and must be a non-empty string"
    for name in ("prompt", "negative_prompt"):
        said = body.get(name)
        if said is not None and not isinstance(said, str):
            return f"{name} must be a string"
        if isinstance(said, str) and len(said) >= _LONGEST_PROMPT:
            return f"{name} must be shorter than {_LONGEST_PROMPT} characters"
    return None


def _size_problem(size: Json, model: str) -> str | None:
    if size is None:
        return None
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        return "size must look like 1024x1024"
    _, least, greatest = next(rule for rule in _SIDES if rule[0] in model.lower())
    if all(least <= int(side) <= greatest for side in found.groups()):
        return None
    return f"size out of range for {model}: each side must be between {least} and {greatest}"


def _range_problem(body: Mapping[str, Json], model: str) -> str | None:
    for name, least, greatest, whole in _RANGES:
        said = body.get(name)
        # Distilled models are documented elsewhere as wanting guidance 0
        if said is None or (name == "guidance" and "turbo" in model.lower()):
            continue
        kinds = int if whole else (int, float)
        if isinstance(said, bool) or not isinstance(said, kinds) or not least <= said <= greatest:
            return f"{name} must be {'an integer' if whole else 'a number'} between {least} and {greatest}"
    return None


def _given_problem(given: Json) -> str | None:
    """A picture to edit, or several: each by its URL, or as a data URL in a list."""
    if given is None:
        return None
    urls = given if isinstance(given, list) else [given]
    if not urls or not all(as_text(url).startswith(("http://", "https://", "data:image/")) for url in urls):
        return "image_url must be a URL or a list of URLs"
    return None


def _loras_problem(loras: Json) -> str | None:
    if loras is None or (isinstance(loras, str) and loras):
        return None
    if not isinstance(loras, dict) or not loras:
        return "loras must be a repository id or an object of weights"
    if len(loras) > _MOST_LORAS:
        return f"at most {_MOST_LORAS} loras are supported"
    weights = [float(w) for w in loras.values() if isinstance(w, int | float) and not isinstance(w, bool)]
    if len(weights) != len(loras) or not abs(sum(weights) - 1.0) <= 1e-3:
        return "the weights of loras must sum to 1.0"
    return None


if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]
Paint = Callable[[str, tuple[int, int], int], bytes]
"""From a prompt, a size and a seed to a picture's bytes."""

_SHAPES = 9
_LINES = 6


@lru_cache(maxsize=64)
def draw(prompt: str, size: tuple[int, int], seed: int) -> bytes:
    """A PNG of `size` (width, height) pixels; the same for the same arguments and the same Pillow."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - for pictures only: a chat needs none

    width, height = size
    chance = random.Random(digest_of(f"{seed}", prompt))
    picture = Image.new("RGB", size, _colour(chance, low=150, high=240))
    brush = ImageDraw.Draw(picture)
    _bands(brush, width, height, chance)
    for _ in range(_SHAPES):
        _shape(brush, width, height, chance)
    _words(brush, prompt.encode("utf-8", "replace").decode(), width, height)
    out = BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _colour(chance: random.Random, *, low: int, high: int) -> Colour:
    return (chance.randint(low, high), chance.randint(low, high), chance.randint(low, high))


def _bands(brush: "ImageDraw.ImageDraw", width: int, height: int, chance: random.Random) -> None:
    """A sky of flat bands: flat colours are cheap to compress."""
    first, last = _colour(chance, low=120, high=230), _colour(chance, low=120, high=230)
    count = 24
    for band in range(count):
        share = band / (count - 1)
        mixed = tuple(round(a + (b - a) * share) for a, b in zip(first, last, strict=True))
        brush.rectangle((0, height * band // count, width, height * (band + 1) // count), fill=mixed)


def _shape(brush: "ImageDraw.ImageDraw", width: int, height: int, chance: random.Random) -> None:
    middle = (chance.uniform(0, width), chance.uniform(0, height))
    reach = max(2.0, chance.uniform(0.05, 0.25) * min(width, height))
    box = (middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach)
    fill = _colour(chance, low=40, high=230)
    corners = chance.randrange(5)
    if corners < 3:
        brush.ellipse(box, fill=fill)
    else:
        brush.regular_polygon((middle, reach), corners + chance.randrange(4), rotation=chance.randrange(90), fill=fill)


def _words(brush: "ImageDraw.ImageDraw", prompt: str, width: int, height: int) -> None:
    points = max(8, min(width, height) // 22)
    lines = wrap(prompt, max(4, int(width * 1.6 / points)))[:_LINES]
    if not lines:
        return
    top = height - (len(lines) + 1) * int(points * 1.3)
    brush.rectangle((0, top - points // 2, width, height), fill=(20, 22, 30))
    brush.multiline_text((points, top), "\n".join(lines), fill=(245, 245, 240), font=_font(points))


@lru_cache(maxsize=16)
def _font(points: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont  # noqa: PLC0415 - as above

    return ImageFont.load_default(points)
