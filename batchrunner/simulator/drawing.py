"""Pictures really drawn: colours and shapes from a hash of the prompt, its words on top. The only user of Pillow."""

import random
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING

from batchrunner.simulator.dice import digest_of

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
