"""`webdataset`: a tar of samples for training, `000001.png` (or `000001.txt`) beside `000001.json`, the row.

Samples are numbered in the job's order. An item's further pictures are `000001.1.png` and so on. The same rows give the
same bytes: members have no times and no owners.
"""

import tarfile
from collections.abc import Iterator
from typing import Final

from batchrunner.core.status import ExportRow, Shapable
from batchrunner.exporters.values import mapping, mappings, text

_LEAST_DIGITS: Final = 6
_MODE: Final = 0o644
_ENDINGS: Final = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif"}
"""By the format that a row names."""


def webdataset(run: Shapable) -> Iterator[bytes]:
    """A tar, its members one after the other; a picture is in memory as long as it is written."""
    digits = max(_LEAST_DIGITS, len(str(run.count)))
    written = 0
    for number, row in enumerate(run.rows(), 1):
        for ending, content in _members(run, row):
            for piece in _member(f"{number:0{digits}}.{ending}", content):
                written += len(piece)
                yield piece
    end = bytes(2 * tarfile.BLOCKSIZE)
    yield end + bytes(-(written + len(end)) % tarfile.RECORDSIZE)


def _members(run: Shapable, row: ExportRow) -> Iterator[tuple[str, bytes]]:
    """(ending, content); the row last, when all that it speaks of is there."""
    output = mapping(row.fields.get("output"))
    for place, picture in enumerate(mappings(output.get("images"))):
        path = text(picture.get("path"))
        content = run.picture(path, text(picture.get("sha256")))
        if content is not None:
            ending = _ENDINGS.get(text(picture.get("format")), "bin")
            yield f"{place}.{ending}" if place else ending, content
    if isinstance(output.get("text"), str):
        yield "txt", text(output["text"]).encode()
    yield "json", row.line


def _member(name: str, content: bytes) -> Iterator[bytes]:
    head = tarfile.TarInfo(name)
    head.size = len(content)
    head.mode = _MODE
    yield head.tobuf(tarfile.USTAR_FORMAT)
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)
