"""Files of rows that an editor or another tool saved in another form: UTF-16 or UTF-32, lone carriage returns.

Such a file is read through an unnamed copy in the form in which it was written, so that every reader's offsets hold,
and the next run puts it right by one atomic replacement. A byte order mark before UTF-8 and CRLF need no copy: readers
take them as they are. Refuses to guess at 8-bit code pages: their letters could not be told apart.
"""

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchrunner.stores.atomic import open_beside, write_all
from batchrunner.stores.files import SHARED_FILE, Files

_CHUNK_BYTES: Final = 1 << 20
_UTF8: Final = "utf-8"
_BEGINNINGS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    ('{"'.encode("utf-32-le"), "utf-32-le"),
    ('{"'.encode("utf-32-be"), "utf-32-be"),
    ('{"'.encode("utf-16-le"), "utf-16-le"),
    ('{"'.encode("utf-16-be"), "utf-16-be"),
)
"""How a file of JSON objects begins; in UTF-8 none of them can."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a file of rows was saved as."""

    encoding: str

    def __str__(self) -> str:
        return "with lone carriage returns" if self.encoding == _UTF8 else f"as {self.encoding.upper()[:6]}"


def form_of(files: Files, descriptor: int) -> Form | None:
    """None where rows stand as they were written, or as readers take them anyway. Raises OSError."""
    chunk = files.read_at(descriptor, _CHUNK_BYTES, 0)
    for beginning, encoding in _BEGINNINGS:
        if chunk.startswith(beginning):
            return Form(encoding)
    offset = 0
    while chunk:
        end = chunk.find(b"\r")
        if b"\n" in (chunk if end < 0 else chunk[:end]):
            return None
        if end >= 0:
            return None if files.read_at(descriptor, 1, offset + end + 1) == b"\n" else Form(_UTF8)
        offset += len(chunk)
        chunk = files.read_at(descriptor, _CHUNK_BYTES, offset)
    return None


def form_at(files: Files, path: Path) -> Form | None:
    """The same for a file by its name; None where there is none. Raises OSError."""
    if not files.exists(path):
        return None
    descriptor = files.open_read(path)
    try:
        return form_of(files, descriptor)
    finally:
        files.close(descriptor)


def open_rows(files: Files, path: Path) -> int:
    """A descriptor from which the rows can be read as they were written. Raises OSError."""
    descriptor = files.open_read(path)
    try:
        form = form_of(files, descriptor)
        copy = None if form is None else files.open_unnamed(_as_written(files, descriptor, form))
    except OSError:
        files.close(descriptor)
        raise
    if copy is None:
        return descriptor
    files.close(descriptor)
    return copy


def put_right(files: Files, path: Path) -> Form | None:
    """Replace a file of rows by one in the form in which it was written; what it was saved as. Raises OSError."""
    if not files.exists(path):
        return None
    old = files.open_read(path)
    try:
        form = form_of(files, old)
        if form is None:
            return None
        beside, new = open_beside(files, path.parent, SHARED_FILE)
        try:
            for piece in _as_written(files, old, form):
                write_all(files, new, piece)
            files.fsync(new)
            files.rename(beside, path)
        except OSError:
            files.unlink(beside)
            raise
        finally:
            files.close(new)
    finally:
        files.close(old)
    files.fsync_folder(path.parent)
    return form


def _as_written(files: Files, descriptor: int, form: Form) -> Iterator[bytes]:
    """UTF-8 with line feeds, and one at the end: rows hold no bare line ends. Bytes that are no UTF-8 stay."""
    errors = "surrogateescape" if form.encoding == _UTF8 else "replace"
    bytes_in = codecs.getincrementaldecoder(form.encoding)(errors)
    lines = io.IncrementalNewlineDecoder(bytes_in, translate=True)
    offset, last = 0, "\n"
    while True:
        chunk = files.read_at(descriptor, _CHUNK_BYTES, offset)
        text = lines.decode(chunk, final=not chunk)
        if offset == 0:
            text = text.removeprefix("\ufeff")
        offset += len(chunk)
        if text:
            last = text[-1]
            yield text.encode(_UTF8, errors)
        if not chunk:
            break
    if last != "\n":
        yield b"\n"
