"""`parquet`, and the shards of `hf`: the columns of a CSV file, typed; the only exporters that know pyarrow, an extra.

A column holds one type: whole numbers, numbers, truth values, times, or text where they are mixed. Vectors of one
length are lists of that many 32-bit floats. `output.parsed` is a
struct where the job's schema says so and every answer fits. Pictures are paths, `{bytes, path}`, or left out.
"""

import io
import json
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from batchrunner.core.exports import ExportRow, PicturesAs, Shapable
from batchrunner.core.values import dataclass, replace
from batchrunner.exporters.arrow_types import ArrowType, arrow_type, fits, hub_feature, instant, stored, type_of_schema
from batchrunner.exporters.columns import cells_of, columns_of, mapping, mappings, text

_GROUP_BYTES: Final = 4 << 20
_GROUP_ROWS: Final = 1_000
"""A group of rows is written when it has so many, or so many bytes: memory does not grow with the run."""
_PARSED: Final = "output.parsed"
_PATHS: Final = "output.images"
_VECTOR: Final = "output.embedding"
_TIMES: Final = ("started_at", "failed_at")
_ONE, _MANY = "image", "pictures"
"""The column of pictures, where no row has more than one and where some have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLayout:
    """Columns with their types, and what stands for pictures."""

    columns: dict[str, ArrowType]
    pictures: PicturesAs


def layout_of(run: Shapable, *, pictures: PicturesAs) -> TableLayout:
    """One pass over the rows of all splits."""
    parsed = type_of_schema(run.job.get("schema"))
    keeps = {"parsed": parsed != "json", **dict.fromkeys(_TIMES, True)}
    most_pictures = 0
    lengths = set[int]()

    def seen() -> Iterator[ExportRow]:
        nonlocal most_pictures
        for row in run.all_rows():
            output = mapping(row.fields.get("output"))
            keeps["parsed"] = keeps["parsed"] and fits(parsed, output.get("parsed"))
            for name in _TIMES:
                value = row.fields.get(name)
                keeps[name] = keeps[name] and (value is None or instant(value) is not None)
            most_pictures = max(most_pictures, len(mappings(output.get("images"))))
            lengths.add(len(vector_of(row) or ()))
            yield _without_vector(row)

    columns: dict[str, ArrowType] = {}
    for name, kind in columns_of(seen()).items():
        if name in _TIMES and keeps[name]:
            columns[name] = "time"
        elif name == _PARSED and keeps["parsed"]:
            columns[name] = parsed
        elif name != _PATHS or pictures == "path":
            columns[name] = kind
        elif pictures == "bytes":
            columns |= {_MANY: ("list", "picture")} if most_pictures > 1 else {_ONE: "picture"}
    return TableLayout(columns=columns | _vector_column(lengths - {0}), pictures=pictures)


def _vector_column(lengths: set[int]) -> dict[str, ArrowType]:
    if not lengths:
        return {}
    return {_VECTOR: ("vector", lengths.pop()) if len(lengths) == 1 else ("list", "number")}


class _Pieces(io.RawIOBase):
    """A file that hands on what is written to it."""

    def __init__(self) -> None:
        self._written = deque[bytes]()

    def __repr__(self) -> str:
        return f"<_Pieces {len(self._written)} waiting>"

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        taken = bytes(piece)
        self._written.append(taken)
        return len(taken)

    def taken(self) -> Iterator[bytes]:
        """What was written since the last time, piece by piece: a whole group at once would be in memory twice."""
        while self._written:
            yield self._written.popleft()


def parquet(run: Shapable) -> Iterator[bytes]:
    """A Parquet file, its rows in groups. Raises ImportError without pyarrow."""
    layout = layout_of(run, pictures=run.options.images or "path")
    yield from table_file(run, run.rows(), layout)


def table_file(run: Shapable, rows: Iterable[ExportRow], layout: TableLayout) -> Iterator[bytes]:
    """A Parquet file of these rows. Raises ImportError without pyarrow."""
    # Imported here: not everyone has it, and it is slow to load.
    import pyarrow as arrow  # type: ignore[import-untyped] # noqa: ICN001, PLC0415 -- it ships no types
    from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped] # noqa: PLC0415 -- it ships no types

    features = {name: hub_feature(kind) for name, kind in layout.columns.items()}
    schema = arrow.schema(
        [arrow.field(name, arrow_type(kind)) for name, kind in layout.columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    pieces = _Pieces()
    with ParquetWriter(pieces, schema) as writer:
        for group in _groups(run, rows, layout):
            writer.write_table(arrow.table(group, schema=schema))
            yield from pieces.taken()
    yield from pieces.taken()


def _groups(run: Shapable, given: Iterable[ExportRow], layout: TableLayout) -> Iterator[dict[str, list[Any]]]:
    """Columns of the next rows."""
    group: dict[str, list[Any]] = {name: [] for name in layout.columns}
    rows = size_bytes = 0
    for row in given:
        cells = cells_of(_without_vector(row))
        for name, kind in layout.columns.items():
            if name == _PARSED and kind not in ("text", "json"):
                group[name].append(stored(kind, mapping(row.fields.get("output")).get("parsed")))
            elif name == _VECTOR and isinstance(kind, tuple):
                vector = vector_of(row)
                group[name].append(None if vector is None else stored(kind, list(vector)))
            elif name in (_ONE, _MANY) and layout.pictures == "bytes" and kind not in ("text", "json"):
                pictures = list(_pictures(run, row))
                size_bytes += sum(len(picture["bytes"]) for picture in pictures)
                group[name].append(pictures if name == _MANY else pictures[0] if pictures else None)
            else:
                group[name].append(stored(kind, cells.get(name)))
        rows += 1
        size_bytes += len(row.line)
        if rows == _GROUP_ROWS or size_bytes >= _GROUP_BYTES:
            yield group
            group = {name: [] for name in layout.columns}
            rows = size_bytes = 0
    if rows:
        yield group


def vector_of(row: ExportRow) -> list[float] | None:
    """The numbers of an embedding; None where the row has none, or something else in their place."""
    found = mapping(row.fields.get("output")).get("embedding")
    if not isinstance(found, list) or not found or not _NUMBERS.issuperset(map(type, found)):
        return None
    return [float(number) for number in found if isinstance(number, int | float)]


_NUMBERS: Final = frozenset({int, float})


def _without_vector(row: ExportRow) -> ExportRow:
    """The row with nothing in its place: as a cell of text, numbers by the thousand would be written for nothing."""
    if vector_of(row) is None:
        return row
    output = {**mapping(row.fields.get("output")), "embedding": None}
    return replace(row, fields={**row.fields, "output": output})


def _pictures(run: Shapable, row: ExportRow) -> Iterator[dict[str, Any]]:
    for picture in mappings(mapping(row.fields.get("output")).get("images")):
        path = text(picture.get("path"))
        content = run.picture(path, text(picture.get("sha256")))
        if content is not None:
            yield {"bytes": content, "path": path.rpartition("/")[2]}
