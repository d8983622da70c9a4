"""`.parquet`: a row for each row, read batch by batch; the only file that imports pyarrow, an extra.

Values become what JSON has: dates and times as ISO text, decimals as text in full, spans as seconds, maps as objects,
NaN as null, for that is how tables write what is missing. Columns of bytes, like pictures packed into a data set, are
left out and not even read: no prompt can hold them. Refuses infinity and rows that are too long.
"""

import json
import math
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO, TypeAlias
from uuid import UUID

from batchrunner.core.job import Json
from batchrunner.prompts.sources.base import (
    BATCH_ROWS,
    LINE_LIMIT_BYTES,
    PLAIN,
    BadRow,
    BadRowError,
    BadSourceError,
    Batch,
    SourceRow,
    TextForm,
)
from batchrunner.prompts.sources.opening import opened
from batchrunner.prompts.sources.text_files import column_names

_BATCH_BYTES = 2 * 1024 * 1024
_BATCH_ROWS = 256
_READ_BYTES = 256 * 1024

_Made: TypeAlias = "list[dict[str, Json] | BadRowError]"
"""Rows, each its values or what is wrong with it."""


def read_parquet(path: str, _form: TextForm = PLAIN) -> Iterator[Batch]:
    """The rows of every row group in turn."""
    number = 0
    with opened(path) as file:
        for batch in _opened(file):
            for begin in range(0, len(batch), BATCH_ROWS):
                some = batch[begin : begin + BATCH_ROWS]
                yield [_placed(made, place) for place, made in enumerate(some, number + 1)]
                number += len(some)


def _placed(made: "dict[str, Json] | BadRowError", number: int) -> SourceRow | BadRow:
    where = f", row {number}"
    if isinstance(made, BadRowError):
        return BadRow(number=number, line=None, where=where, problem=str(made))
    return SourceRow(number, None, made, where)


def _opened(opened_file: BinaryIO) -> Iterator[_Made]:
    """The file's batches; nothing of them is read yet."""
    try:
        # Imported here: not everyone has it, and it is slow to load.
        import pyarrow as arrow  # type: ignore[import-untyped] # noqa: ICN001, PLC0415 -- it ships no types
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped] # noqa: PLC0415 -- it ships no types
    except ImportError as error:
        raise BadSourceError("cannot be read without pyarrow", hint="install it with: pip install pyarrow") from error
    try:
        file = ParquetFile(opened_file, buffer_size=_READ_BYTES, pre_buffer=False)
    except (arrow.ArrowException, OSError) as error:
        problem = f"is not a readable Parquet file: {_first_line(error)}"
        raise BadSourceError(problem, hint="it is damaged, or of another kind") from error
    return _batches(arrow, file)


def _batches(arrow: Any, file: Any) -> Iterator[_Made]:
    schema = file.schema_arrow
    names = column_names(list(schema.names))
    wanted = [place for place, field in enumerate(schema) if not _has_bytes(arrow.types, field.type)]
    if names and not wanted:
        raise BadSourceError("has only binary columns, which cannot be used in prompts")
    read = [schema.names[place] for place in wanted]
    try:
        for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), columns=read, use_threads=False):
            columns = {names[place]: _column(arrow, batch, schema.names[place]) for place in wanted}
            yield _rows(columns, may_be_long=batch.nbytes > LINE_LIMIT_BYTES)
    except (arrow.ArrowException, OSError) as error:
        raise BadSourceError(f"cannot be read to its end: {_first_line(error)}", hint="the file is damaged") from error


def _batch_rows(metadata: Any) -> int:
    """As many rows as fit into a batch on average: rows of a line and rows of a book are both streamed."""
    size_bytes: int = sum(metadata.row_group(place).total_byte_size for place in range(metadata.num_row_groups))
    rows: int = metadata.num_rows
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(size_bytes, 1)))


def _has_bytes(types: Any, kind: Any) -> bool:
    if getattr(kind, "extension_name", None) == "arrow.uuid":
        return False
    if types.is_struct(kind):
        return any(_has_bytes(types, field.type) for field in kind)
    inner = [getattr(kind, name, None) for name in ("value_type", "key_type", "item_type", "storage_type")]
    plain = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(is_it(kind) for is_it in plain) or any(_has_bytes(types, part) for part in inner if part is not None)


def _rows(columns: dict[str, list[Json | BadRowError]], *, may_be_long: bool) -> _Made:
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if not may_be_long and not any(type(cell) is BadRowError for cells in columns.values() for cell in cells):
        return rows  # type: ignore[return-value]  # none of the cells is an error
    return [_row(cells, may_be_long=may_be_long) for cells in rows]


def _row(cells: dict[str, Json | BadRowError], *, may_be_long: bool) -> dict[str, Json] | BadRowError:
    values: dict[str, Json] = {}
    for name, cell in cells.items():
        if isinstance(cell, BadRowError):
            return BadRowError(f"`{name}` {cell}")
        values[name] = cell
    if may_be_long and len(json.dumps(values, ensure_ascii=False)) > LINE_LIMIT_BYTES:
        return BadRowError(f"the row is longer than {LINE_LIMIT_BYTES >> 20} MiB")
    return values


def _column(arrow: Any, batch: Any, name: str) -> list[Json | BadRowError]:
    column = batch.column(name)
    kind = column.type
    if (finer := _finer(arrow, kind)) is not None:
        column = column.cast(finer, safe=False)
    try:
        values = column.to_pylist(maps_as_pydicts="strict")
    except (ValueError, OverflowError, LookupError):
        return [_cell(scalar) for scalar in column]
    types = arrow.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind) or types.is_boolean(kind):
        return list(values)
    return [_checked(value) for value in values]


def _finer(arrow: Any, kind: Any) -> Any:
    """Microseconds instead of nanoseconds, which Python's own times cannot hold."""
    if getattr(kind, "unit", None) != "ns":
        return None
    if arrow.types.is_timestamp(kind):
        return arrow.timestamp("us", tz=kind.tz)
    return arrow.duration("us") if arrow.types.is_duration(kind) else arrow.time64("us")


def _cell(scalar: Any) -> Json | BadRowError:
    try:
        return _checked(scalar.as_py(maps_as_pydicts="strict"))
    except (ValueError, OverflowError, LookupError) as error:
        return BadRowError(f"cannot be read: {_first_line(error)}")


def _checked(value: object) -> Json | BadRowError:
    try:
        return _json(value)
    except BadRowError as error:
        return error


def _json(value: object) -> Json:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return _number(value)
        case list() | tuple():
            return [_json(part) for part in value]
        case dict():
            return {str(name): _json(part) for name, part in value.items()}
        case _:
            pass
    for kind, write in _WRITTEN:
        if isinstance(value, kind):
            return write(value)
    raise BadRowError(f"holds a {type(value).__name__}, which JSON cannot represent")


def _number(value: float) -> float | None:
    if math.isinf(value):
        raise BadRowError("is infinite, which JSON cannot represent")
    return None if math.isnan(value) else value


_WRITTEN: tuple[tuple[type | tuple[type, ...], Callable[[Any], Json]], ...] = (
    (Decimal, lambda value: format(value, "f")),
    ((date, time), lambda value: str(value.isoformat())),
    (timedelta, timedelta.total_seconds),
    (UUID, str),
)
"""Python's types of values, and how they are written. A date and time is a date, too."""


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]
