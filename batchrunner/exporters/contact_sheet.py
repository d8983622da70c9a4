"""`sheet`: pages of small pictures with labels, the pictures of a prompt side by side; the only exporter with Pillow.

Prompts with one picture each share lines. A page has less than 12 megapixels whatever the pictures are, so any viewer
opens it; one is in memory at a time. A picture that cannot be decoded has an empty place and is counted.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final

from batchrunner.core.exports import ExportPart, ExportRow, Shapable, Split
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass
from batchrunner.exporters.columns import json_text, mapping, mappings, text

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_CELL: Final = 320
_GAP: Final = 12
_LINE: Final = 18
_ACROSS: Final = 4
_WIDTH: Final = _GAP + _ACROSS * (_CELL + _GAP)
_LONGEST: Final = 8_000
_LABEL_LINES: Final = 2
_CELL_HEIGHT: Final = _CELL + _LABEL_LINES * _LINE + _GAP
_HEADING_HEIGHT: Final = 2 * _LINE
_INK, _PAPER, _EMPTY = "#222222", "#ffffff", "#dddddd"
_ALONE: Final = ("", "")
"""Stands for the prompts of a line on which each has one picture."""
_UNREADABLE: Final = "pictures that cannot be decoded"
_NO_PICTURE: Final = "rows without a picture"
_NOT_LATIN: Final = "\u0250"
"""Letters from here on are missing from the font that comes with Pillow."""
_FONTS: Final = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "msyh.ttc", "Arial Unicode.ttf")
"""Tried in this order for labels that are not Latin; without one of them such letters are boxes."""


@dataclass(slots=True, kw_only=True)
class _Page:
    canvas: "Image.Image"
    height: int = _GAP
    """Of what is drawn."""
    across: int = 0
    """Pictures on the last line."""
    heading: tuple[Json, ...] = ()
    """The id of the prompt that the last line belongs to, or `_ALONE`; empty before the first one."""


def contact_sheets(splits: Sequence[Split]) -> Iterator[ExportPart]:
    """`page-001.jpg` and so on, those of a split in its folder."""
    for split in splits:
        folder = "" if split.name is None else f"{split.name}/"
        for number, content in enumerate(_pages(split.run), 1):
            yield ExportPart(path=f"{folder}page-{number:03}.jpg", content=content)


def _pages(run: Shapable) -> Iterator[bytes]:
    page: _Page | None = None
    before: Json = None
    pictures = _pictures(run)
    following = next(pictures, None)
    while following is not None:
        (row, content), following = following, next(pictures, None)
        prompt = row.fields.get("prompt_id")
        alone = prompt != before and (following is None or prompt != following[0].fields.get("prompt_id"))
        before = prompt
        if page is not None and page.height + _HEADING_HEIGHT + 2 * _CELL_HEIGHT > _LONGEST:
            yield _finished(page)
            page = None
        page = page or _new_page()
        _draw(run, page, row, content, alone=alone)
        run.wrote()
    if page is not None:
        yield _finished(page)


def _pictures(run: Shapable) -> Iterator[tuple[ExportRow, bytes]]:
    for row in run.rows():
        pictures = mappings(mapping(row.fields.get("output")).get("images"))
        if not pictures:
            run.leave_out(_NO_PICTURE)
        for picture in pictures:
            content = run.picture(text(picture.get("path")), text(picture.get("sha256")))
            if content is not None:
                yield row, content


def _new_page() -> _Page:
    from PIL import Image  # noqa: PLC0415 - Pillow is loaded for pictures only

    return _Page(canvas=Image.new("RGB", (_WIDTH, _LONGEST), _PAPER))


def _finished(page: _Page) -> bytes:
    height = page.height + (_CELL_HEIGHT if page.across else 0)
    into = io.BytesIO()
    page.canvas.crop((0, 0, _WIDTH, height)).save(into, "JPEG", quality=88)
    return into.getvalue()


def _draw(run: Shapable, page: _Page, row: ExportRow, content: bytes, *, alone: bool) -> None:
    """`alone`: the prompt has no other picture, and shares its line with others of its kind, each below its heading."""
    from PIL import ImageDraw  # noqa: PLC0415 - as above

    draw = ImageDraw.Draw(page.canvas)
    line = _ALONE if alone else (row.fields.get("prompt_id"),)
    heading = run.printable(" ".join(text(row.fields.get("prompt")).split()))
    if line != page.heading or (alone and page.across == _ACROSS):
        page.height += _CELL_HEIGHT if page.across else 0
        page.across, page.heading = 0, line
        if not alone:
            _write(draw, heading, (_GAP, page.height), _WIDTH - 2 * _GAP)
        page.height += _HEADING_HEIGHT
    if page.across == _ACROSS:
        page.height += _CELL_HEIGHT
        page.across = 0
    left, top = _GAP + page.across * (_CELL + _GAP), page.height
    if alone:
        _write(draw, heading, (left, top - _HEADING_HEIGHT), _CELL)
    small = _small(content)
    if small is None:
        run.leave_out(_UNREADABLE)
        draw.rectangle((left, top, left + _CELL, top + _CELL), fill=_EMPTY)
    else:
        page.canvas.paste(small, (left + (_CELL - small.width) // 2, top + (_CELL - small.height) // 2))
    params = {name: value for name, value in mapping(row.fields.get("params")).items() if name != "negative_prompt"}
    labels = (text(row.fields.get("id")), f"{text(row.fields.get('model'))} {json_text(params) if params else ''}")
    for number, label in enumerate(labels):
        _write(draw, run.printable(" ".join(label.split())), (left, top + _CELL + number * _LINE), _CELL)
    page.across += 1


def _small(content: bytes) -> "Image.Image | None":
    from PIL import Image, ImageOps  # noqa: PLC0415 - as above

    try:
        with Image.open(io.BytesIO(content)) as opened:
            small = opened if opened.mode in ("RGB", "RGBA", "L") else opened.convert("RGBA")
            small.thumbnail((_CELL, _CELL))
            shown = ImageOps.exif_transpose(small).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    flat = Image.new("RGB", shown.size, _PAPER)
    flat.paste(shown, mask=shown)
    return flat


def _write(draw: "ImageDraw.ImageDraw", said: str, place: tuple[int, int], width: int) -> None:
    """One line, cut where the room ends."""
    font = _font(is_latin=all(char < _NOT_LATIN for char in said))
    most = width // 4  # no letter is narrower
    shown = said[:most]
    while shown and draw.textlength(f"{shown}…" if len(shown) < len(said) else shown, font=font) > width:
        shown = shown[: -max(1, len(shown) // 10)]
    draw.text(place, f"{shown}…" if len(shown) < len(said) else shown, fill=_INK, font=font)


@cache
def _font(*, is_latin: bool) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont  # noqa: PLC0415 - as above

    for name in () if is_latin else _FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, _LINE - 4)
    return ImageFont.load_default(_LINE - 4)
