"""`csv`: a table for spreadsheets and for everything else (RFC 4180, UTF-8 without a mark in front).

Text that a spreadsheet would take for a formula gets an apostrophe in front (threat 12), numbers
stay numbers. Nothing is lost by it: `unguarded` removes it. Null is an empty cell.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any, Final

from batchrunner.core.exports import Shapable
from batchrunner.exporters.columns import Cell, Kind, cells_of, columns_of, json_text

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r\n]")
"""Apostrophes before it count, so that text that begins with both differs from guarded text."""
_GUARDED: Final = re.compile(r"'+[=+\-@\t\r\n]")


def comma_separated(run: Shapable) -> Iterator[bytes]:
    """A header, then a line for each row."""
    columns = columns_of(run)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(guarded(name) for name in columns)
    yield _taken(buffer)
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


# `parquet`: the same columns as in a CSV file, typed; the only exporter that knows pyarrow, an extra.
#
# A column holds one type: whole numbers, numbers, truth values, or text where they are mixed.

_GROUP_BYTES: Final = 8 << 20
_GROUP_ROWS: Final = 10_000
"""A group of rows is written when it has so many, or so many bytes as JSON: memory does not grow with the run."""


class _Pieces(io.RawIOBase):
    """A file that hands on what is written to it."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def __repr__(self) -> str:
        return f"<_Pieces {len(self._written)} waiting>"

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        taken = bytes(piece)
        self._written.append(taken)
        return len(taken)

    def taken(self) -> bytes:
        """What was written since the last time."""
        content = b"".join(self._written)
        self._written.clear()
        return content


def parquet(run: Shapable) -> Iterator[bytes]:
    """A Parquet file, its rows in groups. Raises ImportError without pyarrow."""
    # Imported here: not everyone has it, and it is slow to load.
    import pyarrow as arrow  # type: ignore[import-untyped] # noqa: ICN001, PLC0415 -- it ships no types
    from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped] # noqa: PLC0415 -- it ships no types

    types = {"text": arrow.string(), "integer": arrow.int64(), "number": arrow.float64(), "truth": arrow.bool_()}
    columns = columns_of(run)
    schema = arrow.schema([arrow.field(name, types[kind]) for name, kind in columns.items()])
    pieces = _Pieces()
    with ParquetWriter(pieces, schema) as writer:
        for group in _groups(run, columns):
            writer.write_table(arrow.table(group, schema=schema))
            yield pieces.taken()
    yield pieces.taken()


def _groups(run: Shapable, columns: dict[str, Kind]) -> Iterator[dict[str, list[Cell]]]:
    """Columns of the next rows."""
    group: dict[str, list[Cell]] = {name: [] for name in columns}
    rows = size_bytes = 0
    for row in run.rows():
        cells = cells_of(row)
        for name, kind in columns.items():
            group[name].append(_cell_text(cells.get(name), kind))
        rows += 1
        size_bytes += len(row.line)
        if rows == _GROUP_ROWS or size_bytes >= _GROUP_BYTES:
            yield group
            group = {name: [] for name in columns}
            rows = size_bytes = 0
    if rows:
        yield group


def _cell_text(cell: Cell, kind: Kind) -> Cell:
    if kind == "number" and isinstance(cell, int):
        return float(cell)  # pyarrow refuses whole numbers that a float can only come near to
    return cell if kind != "text" or cell is None or isinstance(cell, str) else json_text(cell)
