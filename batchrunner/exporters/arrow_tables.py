"""`parquet`, and the shards of `hf`: the columns of a CSV file, typed; the only exporters that know pyarrow, an extra.

A column holds one type: whole numbers, numbers, truth values, times, or text where they are mixed. Vectors of one
length are lists of that many 32-bit floats. `output.parsed` is a
struct where the job's schema says so and every answer fits. Pictures are paths, `{bytes, path}`, or left out.
"""

import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from batchrunner.core.exports import ExportRow, PicturesAs, Shapable
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, replace
from batchrunner.exporters.columns import INTEGERS, cells_of, columns_of, json_text, mapping, mappings, text

# Types of columns for Parquet: what a JSON Schema says of `parsed`, held against the values that are there.
#
# A type is a name (`text`, `integer`, `number`, `truth`, `time`, `picture`, `json`), `("list", type)`,
# `("struct", {name: type})` or `("vector", n)`: always n 32-bit floats. Values of a part that the schema leaves open
# are kept as JSON text. A schema is believed only if every value of the run fits, so nothing that an answer holds gets
# lost; but a key that is missing reads as null.

ArrowType: TypeAlias = "str | tuple[str, ArrowType] | tuple[str, dict[str, ArrowType]] | tuple[str, int]"

_SIMPLE: Final = {"string": "text", "integer": "integer", "number": "number", "boolean": "truth"}
_DEPTH_MAX: Final = 20
_EXACT: Final = 1 << 53
"""Whole numbers beyond it are not exact as floating point."""
_HF_VALUES: Final = {
    "text": "string",
    "json": "string",
    "integer": "int64",
    "number": "float64",
    "truth": "bool",
    "time": "timestamp[ms, tz=UTC]",
}


def type_of_schema(schema: Json, *, root: Json = None, depth: int = 0) -> ArrowType:
    """The type that a JSON Schema describes; `json` where it leaves that open."""
    root = schema if depth == 0 else root
    if not isinstance(schema, dict) or depth > _DEPTH_MAX:
        return "json"
    if isinstance(schema.get("$ref"), str):
        return type_of_schema(_at(root, str(schema["$ref"])), root=root, depth=depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := schema.get(word), list):
            real = [part for part in parts if not (isinstance(part, dict) and part.get("type") == "null")]
            return type_of_schema(real[0], root=root, depth=depth + 1) if len(real) == 1 else "json"
    kinds = schema.get("type")
    listed = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
    if len(listed) != 1:
        return "json"
    if listed[0] == "array":
        return "list", type_of_schema(schema.get("items"), root=root, depth=depth + 1)
    properties = schema.get("properties")
    if listed[0] == "object" and isinstance(properties, dict) and properties:
        fields = {name: type_of_schema(part, root=root, depth=depth + 1) for name, part in properties.items()}
        return "struct", fields
    return _SIMPLE.get(str(listed[0]), "json")


def _at(root: Json, reference: str) -> Json:
    """What a local reference names; None for all others."""
    found = root
    if not reference.startswith("#/"):
        return None
    for step in reference[2:].split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def fits(kind: ArrowType, value: Json) -> bool:
    """Whether nothing of the value is lost in a column of this type."""
    if value is None or kind == "json":
        return True
    if isinstance(kind, tuple):
        inner = kind[1]
        if isinstance(inner, dict):
            return isinstance(value, dict) and all(
                name in inner and fits(inner[name], entry) for name, entry in value.items()
            )
        if isinstance(inner, int):
            return isinstance(value, list) and len(value) == inner
        return isinstance(value, list) and all(fits(inner, entry) for entry in value)
    if isinstance(value, bool):
        return kind == "truth"
    if isinstance(value, int):
        return value in INTEGERS if kind == "integer" else kind == "number" and abs(value) <= _EXACT
    if isinstance(value, float):
        return kind == "number"
    return isinstance(value, str) and (kind == "text" or (kind == "time" and instant(value) is not None))


def stored(kind: ArrowType, value: Json) -> Any:
    """A value that fits, as pyarrow takes it."""
    if value is None:
        return None
    if isinstance(kind, tuple):
        inner = kind[1]
        if isinstance(inner, dict):
            assert isinstance(value, dict), "it fits"
            return {name: stored(part, value.get(name)) for name, part in inner.items()}
        assert isinstance(value, list), "it fits"
        if isinstance(inner, int):
            return value
        return [stored(inner, entry) for entry in value]
    if kind == "json":
        return json_text(value)
    if kind == "time":
        return instant(value)
    if kind == "number" and isinstance(value, int):
        return float(value)  # pyarrow refuses whole numbers that a float can only come near to
    return value if kind != "text" or isinstance(value, str) else json_text(value)


def instant(value: Json) -> datetime | None:
    """A time with an offset; None for everything else."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


def arrow_type(kind: ArrowType) -> Any:
    """The type in pyarrow's words."""
    import pyarrow as arrow  # type: ignore[import-untyped] # noqa: ICN001, PLC0415 -- it ships no types; not everyone has it

    if isinstance(kind, tuple):
        inner = kind[1]
        if isinstance(inner, dict):
            return arrow.struct([arrow.field(name, arrow_type(part)) for name, part in inner.items()])
        if isinstance(inner, int):
            return arrow.list_(arrow.float32(), inner)
        return arrow.list_(arrow_type(inner))
    simple = {
        "text": arrow.string(),
        "json": arrow.string(),
        "integer": arrow.int64(),
        "number": arrow.float64(),
        "truth": arrow.bool_(),
        "time": arrow.timestamp("ms", tz="UTC"),
        "picture": arrow.struct([arrow.field("bytes", arrow.binary()), arrow.field("path", arrow.string())]),
    }
    return simple[kind]


def hub_feature(kind: ArrowType) -> dict[str, Json]:
    """The type in the words of the key `huggingface` of a Parquet file's schema."""
    if isinstance(kind, tuple):
        inner = kind[1]
        if isinstance(inner, dict):
            return {name: hub_feature(part) for name, part in inner.items()}
        if isinstance(inner, int):
            return {"feature": {"dtype": "float32", "_type": "Value"}, "length": inner, "_type": "List"}
        return {"feature": hub_feature(inner), "_type": "List"}
    return {"_type": "Image"} if kind == "picture" else {"dtype": _HF_VALUES[kind], "_type": "Value"}


def card_feature(kind: ArrowType) -> dict[str, Json]:
    """The type in the words of a dataset card."""
    if isinstance(kind, tuple):
        inner = kind[1]
        if isinstance(inner, dict):
            return {"struct": card_features(inner)}
        if isinstance(inner, int):
            return {"list": "float32", "length": inner}
        below = card_feature(inner)
        return {"list": below["dtype"] if set(below) == {"dtype"} else below}
    return {"dtype": "image" if kind == "picture" else _HF_VALUES[kind]}


def card_features(columns: Mapping[str, ArrowType]) -> list[Json]:
    """The columns in the words of a dataset card."""
    return [{"name": name, **card_feature(kind)} for name, kind in columns.items()]


# The tables.

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
    import pyarrow as arrow  # noqa: ICN001, PLC0415 -- it ships no types
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
