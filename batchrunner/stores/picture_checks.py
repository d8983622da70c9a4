"""What checks ask of a picture: whether it is blank, and what it looks like in 64 bits. Decodes with Pillow."""

import io
from typing import TYPE_CHECKING, Final, cast

from batchrunner.core.values import dataclass

if TYPE_CHECKING:
    from PIL import Image

_FLAT_RANGE: Final = 16
"""The most that a channel of a blank picture varies, of 255."""
_FLAT_SPREAD: Final = 1.0
"""The standard deviation that a blank picture's small grey copy stays below."""
_COPY_SIDE: Final = 64
_HASH_SIZE: Final = (9, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLook:
    """What a picture looks like."""

    blank: bool
    """One colour all over, but for noise: what providers send in place of a filtered picture."""
    hash64: int
    """Difference hash: two versions of one picture differ in few bits, two pictures in many."""


def look_of(data: bytes) -> PictureLook | None:
    """None for bytes that cannot be decoded."""
    from PIL import Image, ImageStat  # noqa: PLC0415 - Pillow is loaded for jobs with pictures only

    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.draft("RGB", (_COPY_SIDE * 4, _COPY_SIDE * 4))
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    extremes = cast("tuple[tuple[int, int], ...]", picture.getextrema())
    flat = all(high - low <= _FLAT_RANGE for low, high in extremes)
    grey = picture.convert("L")
    if flat:
        flat = ImageStat.Stat(grey.resize((_COPY_SIDE, _COPY_SIDE), Image.Resampling.BOX)).stddev[0] < _FLAT_SPREAD
    return PictureLook(blank=flat, hash64=_difference_hash(grey))


def _difference_hash(grey: "Image.Image") -> int:
    width, height = _HASH_SIZE
    pixels = grey.resize(_HASH_SIZE).tobytes()
    found = 0
    for row in range(height):
        for place in range(row * width, row * width + width - 1):
            found = found << 1 | (pixels[place] > pixels[place + 1])
    return found
