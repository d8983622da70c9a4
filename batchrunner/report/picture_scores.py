"""What checks say of the pictures of a run: blank, of another size than was asked for, like an earlier one.

Pictures are alike by their difference hashes or by their bytes; the first one of several is not a duplicate. A row is
looked at once however many checks ask, so no picture is compared with itself.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Final

from batchrunner.core.checks import Score, Verdict
from batchrunner.core.job import Json
from batchrunner.evaluation.check_kinds import CheckBrokenError
from batchrunner.report.audit_files import read_plain
from batchrunner.stores.files import DISK
from batchrunner.stores.picture_checks import PictureLook, look_of

_MOST_PICTURE_BYTES: Final = 1 << 28
_SAME_BITS: Final = 2
"""The most bits in which the hashes of two versions of a picture differ."""
_PARTS: Final = tuple((shift, (1 << bits) - 1) for shift, bits in ((0, 22), (22, 21), (43, 21)))
"""One more part of a hash than bits that may differ: two hashes that are near are equal in one part at least."""
_SIZE: Final = re.compile(r"(\d+)\s*[x*×]\s*(\d+)")


class _Earlier:
    """The pictures so far, by the places where ones that are like them are looked for."""

    def __init__(self, places: Callable[[str, int], Iterable[Hashable]]) -> None:
        self._places = places
        """Of a prompt and a hash."""
        self._known: defaultdict[Hashable, list[tuple[int, str]]] = defaultdict(list)
        self._digests: dict[str, str] = {}
        self._row: Mapping[str, Json] | None = None
        self._found: str | None = None

    def like(self, row: Mapping[str, Json], pictures: list[dict[str, Json]], looks: list[PictureLook]) -> str | None:
        """The id of a row with a picture like one of this row; the row is kept. Blank pictures are like none."""
        if self._row is row:
            return self._found
        found, prompt, own = None, str(row.get("prompt_id")), str(row.get("id"))
        for picture, look in zip(pictures, looks, strict=True):
            if look.blank:
                continue
            for place in self._places(prompt, look.hash64):
                known = self._known[place]
                near = (name for other, name in known if (look.hash64 ^ other).bit_count() <= _SAME_BITS)
                found = found or next(near, None)
                known.append((look.hash64, own))
            digest = picture.get("sha256")
            if isinstance(digest, str):
                found = found or self._digests.get(digest)
                self._digests.setdefault(digest, own)
        self._row, self._found = row, found
        return found


class PictureScores:
    """The scores of the pictures of one run, whose rows come one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._row: Mapping[str, Json] | None = None
        self._looks: list[PictureLook] = []
        self._earlier: Final[Mapping[str, _Earlier]] = {
            "duplicate": _Earlier(lambda prompt, _: (prompt,)),
            "duplicate_in_run": _Earlier(lambda _, code: ((shift, code >> shift & mask) for shift, mask in _PARTS)),
        }

    def __repr__(self) -> str:
        return f"<PictureScores of {self._folder}>"

    def score(self, name: str, row: Mapping[str, Json]) -> Score:
        """Whether the row's pictures are `blank`, of the `aspect` asked for, `duplicate` or `duplicate_in_run`. Blocks.

        Raises:
            CheckBrokenError: a picture is gone or damaged.
        """
        output = row.get("output")
        listed = output.get("images") if isinstance(output, dict) else None
        pictures = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        if not pictures:
            return Score(verdict="none", reason="the row has no pictures")
        if name == "aspect":
            return _aspect(pictures, row.get("params"))
        if self._row is not row:
            self._looks = [self._look(picture) for picture in pictures]
            self._row = row
        if name == "blank":
            return _property("blank" if any(look.blank for look in self._looks) else None, "not blank")
        like = self._earlier[name].like(row, pictures, self._looks)
        return _property(None if like is None else f"like that of {like}", "like no earlier one")

    def _look(self, picture: Mapping[str, Json]) -> PictureLook:
        path = picture.get("path")
        try:
            data = read_plain(DISK, self._folder, str(path), most_bytes=_MOST_PICTURE_BYTES)
        except (OSError, ValueError):
            data = None
        if not data:
            raise CheckBrokenError(f"the picture {path} is not there")
        look = look_of(data)
        if look is None:
            raise CheckBrokenError(f"the picture {path} cannot be decoded")
        return look


def _property(found: str | None, otherwise: str) -> Score:
    """`pass` where the pictures have the property, which a check may want or not."""
    verdict: Verdict = "fail" if found is None else "pass"
    return Score(verdict=verdict, value=float(found is not None), reason=f"the picture is {found or otherwise}")


def _aspect(pictures: list[dict[str, Json]], params: Json) -> Score:
    """Whether every picture has the size that was asked for."""
    asked = _size_asked(params if isinstance(params, dict) else {})
    if asked is None:
        return Score(verdict="none", reason="no size was asked for")
    sizes = [(picture.get("width"), picture.get("height")) for picture in pictures]
    wrong = [f"{width} × {height}" for width, height in sizes if (width, height) != asked]
    shown = f"{asked[0]} × {asked[1]}"
    reason = f"{wrong[0]} instead of {shown}" if wrong else None
    return Score(verdict="fail" if wrong else "pass", value=float(not wrong), expected=shown, reason=reason)


def _size_asked(params: Mapping[str, Json]) -> tuple[int, int] | None:
    size, width, height = params.get("size"), params.get("width"), params.get("height")
    if isinstance(size, str) and (found := _SIZE.fullmatch(size.strip())):
        return int(found[1]), int(found[2])
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
