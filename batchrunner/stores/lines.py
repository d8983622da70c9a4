"""Lines of a file as a stream, with their offsets, in bounded memory.

Refuses to guess about an unfinished last line.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from batchrunner.stores.files import Files
from batchrunner.stores.row_forms import open_rows

_CHUNK_BYTES = 1 << 20


class Line(NamedTuple):
    """A line of a file."""

    offset: int
    """Of its first byte."""
    text: bytes
    """Without its newline."""
    whole: bool
    """False for the end of a file that has no newline, and for a piece of a line longer than allowed."""


def read_lines(files: Files, path: Path, *, start: int = 0, longest_bytes: int | None = None) -> Iterator[Line]:
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


def lines_of(files: Files, descriptor: int, *, start: int = 0, longest_bytes: int | None = None) -> Iterator[Line]:
    """The same for a file that is open, and stays so. Raises OSError."""
    offset = read_to = start
    rest: list[bytes] = []
    rest_bytes = 0
    while chunk := files.read_at(descriptor, _CHUNK_BYTES, read_to):
        read_to += len(chunk)
        first, *others = chunk.split(b"\n")
        rest.append(first)
        rest_bytes += len(first)
        if others:
            text = b"".join(rest)
            yield Line(offset, text, True)  # noqa: FBT003 - a million of these; keywords cost
            offset += len(text) + 1
            last = others.pop()
            for text in others:
                yield Line(offset, text, True)  # noqa: FBT003 - as above
                offset += len(text) + 1
            rest, rest_bytes = [last], len(last)
        if longest_bytes is not None and rest_bytes > longest_bytes:
            text = b"".join(rest)
            yield Line(offset, text, whole=False)
            offset += len(text)
            rest, rest_bytes = [], 0
    if rest_bytes:
        yield Line(offset, b"".join(rest), whole=False)
