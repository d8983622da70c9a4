"""`csv`: a table for spreadsheets and for everything else (RFC 4180, UTF-8 without a mark in front).

Text that a spreadsheet would take for a formula gets an apostrophe in front (threat 12), numbers
stay numbers. Nothing is lost by it: `unguarded` removes it. Null is an empty cell.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Final

from batchrunner.core.exports import Shapable
from batchrunner.exporters.columns import Cell, cells_of, columns_of, json_text

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r\n]")
"""Apostrophes before it count, so that text that begins with both differs from guarded text."""
_MARK: Final = b"\xef\xbb\xbf"
"""In front of UTF-8 it keeps Excel from taking the text for a code page of the system."""
_GUARDED: Final = re.compile(r"'+[=+\-@\t\r\n]")


def comma_separated(run: Shapable) -> Iterator[bytes]:
    """A header, then a line for each row."""
    columns = columns_of(run.all_rows())
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(guarded(name) for name in columns)
    yield (_MARK if run.options.excel else b"") + _taken(buffer)
    for row in run.rows():
        cells = cells_of(row)
        writer.writerow(_shown(cells.get(name)) for name in columns)
        yield _taken(buffer)


def guarded(content: str) -> str:
    """The text, with an apostrophe in front if a spreadsheet might run it."""
    return f"'{content}" if _FORMULA.match(content) else content


def unguarded(content: str) -> str:
    """What `guarded` was given."""
    return content[1:] if _GUARDED.match(content) else content


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    return guarded(cell) if isinstance(cell, str) else json_text(cell)


def _taken(buffer: io.StringIO) -> bytes:
    content = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return content.encode()
