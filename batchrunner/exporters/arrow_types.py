"""Types of columns for Parquet: what a JSON Schema says of `parsed`, held against the values that are there.

A type is a name (`text`, `integer`, `number`, `truth`, `time`, `picture`, `json`), `("list", type)`,
`("struct", {name: type})` or `("vector", n)`: always n 32-bit floats. Values of a part that the schema leaves open are
kept as JSON text. A schema is believed only if every value of the run fits, so nothing that an answer holds gets lost;
but a key that is missing reads as null.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from batchrunner.core.job import Json
from batchrunner.exporters.columns import INTEGERS, json_text

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
