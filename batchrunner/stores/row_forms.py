"""Files of rows that an editor or another tool saved in another form: UTF-16 or UTF-32, lone carriage returns.

Such a file is read through an unnamed copy in the form in which it was written, so that every reader's offsets hold,
and the next run puts it right by one atomic replacement. A byte order mark before UTF-8 and CRLF need no copy: readers
take them as they are. Refuses to guess at 8-bit code pages: they cannot be distinguished.
"""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from batchrunner.core.text import MARKED_ENCODINGS
from batchrunner.core.values import dataclass
from batchrunner.stores.files import SHARED_FILE, Files, write_pieces

# Lines of a file as a stream, with their offsets, in bounded memory.
#
# Refuses to guess about an unfinished last line.

_READ_BYTES = 1 << 20


class FileLine(NamedTuple):
    """A line of a file."""

    offset: int
    """Of its first byte."""
    text: bytes
    """Without its newline."""
    whole: bool
    """False for the end of a file that has no newline, and for a piece of a line longer than allowed."""


def read_lines(files: Files, path: Path, *, start: int = 0, longest_bytes: int | None = None) -> Iterator[FileLine]:
    """The lines from `start` on, which must be the beginning of one. Nothing for a file that is not there.

    A line longer than `longest_bytes` comes in pieces that are not `whole`, its last piece apart: whatever a
    power loss left behind, memory stays bounded. Without that bound it is a file of rows, which may have been saved in
    another form (`row_forms`). Raises OSError.
    """
    if not files.exists(path):
        return
    descriptor = open_rows(files, path) if longest_bytes is None else files.open_read(path)
    try:
        yield from lines_of(files, descriptor, start=start, longest_bytes=longest_bytes)
    finally:
        files.close(descriptor)


def lines_of(files: Files, descriptor: int, *, start: int = 0, longest_bytes: int | None = None) -> Iterator[FileLine]:
    """The same for a file that is open, and stays so. Raises OSError."""
    for piece in _pieces(files, descriptor, start, longest_bytes, _READ_BYTES):
        yield from piece.lines()


@dataclass(frozen=True, slots=True)
class FileLines:
    """Lines that follow each other."""

    offset: int
    """Of the first one's first byte."""
    texts: list[bytes]
    whole: bool
    """As of `FileLine`, of each of them."""

    def lines(self) -> Iterator[FileLine]:
        """One by one."""
        offset = self.offset
        for text in self.texts:
            yield FileLine(offset, text, self.whole)
            offset += len(text) + 1


def read_pieces(files: Files, path: Path, *, size_bytes: int) -> Iterator[FileLines]:
    """The lines of a file of rows as in `read_lines`, those of about `size_bytes` at a time. Raises OSError."""
    if not files.exists(path):
        return
    descriptor = open_rows(files, path)
    try:
        yield from _pieces(files, descriptor, 0, None, size_bytes)
    finally:
        files.close(descriptor)


def _pieces(
    files: Files, descriptor: int, start: int, longest_bytes: int | None, size_bytes: int
) -> Iterator[FileLines]:
    offset = read_to = start
    rest: list[bytes] = []
    rest_bytes = 0
    while chunk := files.read_at(descriptor, size_bytes, read_to):
        read_to += len(chunk)
        texts = chunk.split(b"\n")
        rest.append(texts[0])
        rest_bytes += len(texts[0])
        if len(texts) > 1:
            texts[0] = b"".join(rest)
            last = texts.pop()
            yield FileLines(offset, texts, whole=True)
            rest, rest_bytes = [last], len(last)
            offset = read_to - rest_bytes
        if longest_bytes is not None and rest_bytes > longest_bytes:
            yield FileLines(offset, [b"".join(rest)], whole=False)
            offset += rest_bytes
            rest, rest_bytes = [], 0
    if rest_bytes:
        yield FileLines(offset, [b"".join(rest)], whole=False)


_CHUNK_BYTES: Final = 1 << 20
_UTF8: Final = "utf-8"
_BEGINNINGS: Final = (
    *MARKED_ENCODINGS,
    ('{"'.encode("utf-32-le"), "utf-32-le"),
    ('{"'.encode("utf-32-be"), "utf-32-be"),
    ('{"'.encode("utf-16-le"), "utf-16-le"),
    ('{"'.encode("utf-16-be"), "utf-16-be"),
)
"""How a file of JSON objects begins; in UTF-8 none of them can."""


@dataclass(frozen=True, slots=True)
class FileForm:
    """What a file of rows was saved as."""

    encoding: str

    def __str__(self) -> str:
        return "with lone carriage returns" if self.encoding == _UTF8 else f"as {self.encoding.upper()[:6]}"


def form_of(files: Files, descriptor: int) -> FileForm | None:
    """None if the rows are as they were written, or in a form that readers accept. Raises OSError."""
    chunk = files.read_at(descriptor, _CHUNK_BYTES, 0)
    for beginning, encoding in _BEGINNINGS:
        if chunk.startswith(beginning):
            return FileForm(encoding)
    offset = 0
    while chunk:
        end = chunk.find(b"\r")
        if b"\n" in (chunk if end < 0 else chunk[:end]):
            return None
        if end >= 0:
            return None if files.read_at(descriptor, 1, offset + end + 1) == b"\n" else FileForm(_UTF8)
        offset += len(chunk)
        chunk = files.read_at(descriptor, _CHUNK_BYTES, offset)
    return None


def form_at(files: Files, path: Path) -> FileForm | None:
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


def put_right(files: Files, path: Path) -> FileForm | None:
    """Replace a file of rows by one in the form in which it was written; what it was saved as. Raises OSError."""
    if not files.exists(path):
        return None
    old = files.open_read(path)
    try:
        form = form_of(files, old)
        if form is None:
            return None
        write_pieces(files, path, _as_written(files, old, form), SHARED_FILE)
    finally:
        files.close(old)
    return form


def _as_written(files: Files, descriptor: int, form: FileForm) -> Iterator[bytes]:
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
