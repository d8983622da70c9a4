"""`xlsx`: the columns of a CSV file in a workbook; the only exporter that knows openpyxl, an extra.

Text is always text: nothing that a model or a server says is a formula. What XML cannot hold is written as Excel writes
it, `_x0000_`. A cell takes 32,767 characters; longer texts are cut there, and counted.
"""

import re
import tempfile
from collections.abc import Iterator
from typing import Final

from batchrunner.core.exports import Shapable
from batchrunner.exporters.columns import Cell, cells_of, columns_of

_CELL_UNITS: Final = 32_767
"""UTF-16 code units."""
_SHEET_ROWS: Final = 1_048_575
"""Below the header."""
_SHEET_COLUMNS: Final = 16_384
_EXACT: Final = 10**15
"""Whole numbers with more digits lose the last ones."""
_PIECE_BYTES: Final = 1 << 20
_ESCAPED: Final = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")
_ESCAPE: Final = re.compile(r"_x[0-9A-F]{4}_|.", re.DOTALL)
_CUT: Final = "cells cut at 32,767 characters, the most that Excel takes"
_BEYOND: Final = "rows beyond 1,048,575, the most that Excel takes"
_COLUMNS_BEYOND: Final = "columns beyond 16,384, the most that Excel takes"


def workbook(run: Shapable) -> Iterator[bytes]:
    """A workbook with one sheet. Raises ImportError without openpyxl, OSError without room for its temporary file."""
    # Imported here: not everyone has it.
    from openpyxl import Workbook  # noqa: PLC0415 -- as above
    from openpyxl.cell import WriteOnlyCell  # noqa: PLC0415 -- as above

    book = Workbook(write_only=True)
    sheet = book.create_sheet("results")
    sheet.freeze_panes = "A2"

    def shown(cell: Cell) -> object:
        if cell is None or isinstance(cell, bool | float) or (isinstance(cell, int) and abs(cell) < _EXACT):
            return cell
        made = WriteOnlyCell(sheet, value=_text(run, str(cell)))
        made.data_type = "s"  # whatever it begins with
        return made

    columns = list(columns_of(run.all_rows()))
    for _ in columns[_SHEET_COLUMNS:]:
        run.leave_out(_COLUMNS_BEYOND)
    columns = columns[:_SHEET_COLUMNS]
    sheet.append([shown(name) for name in columns])
    for number, row in enumerate(run.rows()):
        if number >= _SHEET_ROWS:
            run.leave_out(_BEYOND)
            continue
        cells = cells_of(row)
        sheet.append([shown(cells.get(name)) for name in columns])
        run.wrote()
    with tempfile.TemporaryFile() as file:  # the library cannot hand on a part of a workbook
        book.save(file)
        file.seek(0)
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _text(run: Shapable, said: str) -> str:
    escaped = _ESCAPED.sub(lambda found: f"_x{ord(found[0]):04X}_", said)
    if _units(escaped) <= _CELL_UNITS:
        return escaped
    run.leave_out(_CUT)
    kept: list[str] = []
    room = _CELL_UNITS
    for piece in _ESCAPE.findall(escaped[:_CELL_UNITS]):
        room -= _units(piece)
        if room < 0:
            break
        kept.append(piece)
    return "".join(kept)


def _units(said: str) -> int:
    return len(said) if said.isascii() else len(said.encode("utf-16-le", "surrogatepass")) // 2
