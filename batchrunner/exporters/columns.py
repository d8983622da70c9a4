"""Rows as flat cells, for formats that are tables: which columns there are, and in which order.

`vars`, `params`, `output`, `usage`, `error`, `score` and `verdict` are spread (`params.seed`); what is nested deeper
becomes JSON text.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeAlias

from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Json

# Values of a row that may come from another version or a text editor: types are checked, never assumed.

_encode = json.JSONEncoder(ensure_ascii=False).encode
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""What some readers of lines take for a newline."""


def mapping(value: Json) -> dict[str, Json]:
    """The mapping, or an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Json) -> list[dict[str, Json]]:
    """The mappings in a list; none when it is no list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def text(value: Json) -> str:
    """The text; anything else as JSON, null as nothing."""
    if isinstance(value, str):
        return value
    return "" if value is None else json_text(value)


def json_text(value: Json) -> str:
    """The value as JSON on one line; a placeholder if it is nested deeper than the stack."""
    try:
        return _encode(value).translate(_LINE_ENDS)
    except RecursionError:
        return '"nested too deep"'


Cell: TypeAlias = str | int | float | bool | None
Kind = Literal["text", "integer", "number", "truth"]
"""What a column holds."""

_ALWAYS: Final[dict[str, Kind]] = {
    "id": "text",
    "prompt_id": "text",
    "index": "integer",
    "status": "text",
    "model": "text",
    "prompt": "text",
    "system": "text",
    "usage.input_tokens": "integer",
    "usage.output_tokens": "integer",
    "task_id": "text",
    "attempts": "integer",
    "ambiguous": "integer",
    "recovered": "truth",
    "started_at": "text",
    "seconds": "number",
    "key": "text",
}
"""Columns that every export has, whatever the rows hold, so that two exports can be laid together."""

_SPREAD: Final = ("vars", "params", "output", "usage", "error", "score", "verdict")
_ORDER: Final = (
    *("id", "prompt_id", "index", "status", "model", "prompt", "system", "messages"),
    *("schema_sha256", "images", "files", "vars", "params"),
    *(
        "replica",
        "shared_with",
        "fallback_of",
        "fallback_keys",
        "reused",
        "output.text",
        "output.images",
        "output",
        "error",
        "pass",
        "score",
        "verdict",
        "usage",
    ),
    *("task_id", "attempts", "ambiguous", "recovered", "started_at", "seconds", "failed_at"),
)
"""A name, or the group before its dot. What is not named here, `key` aside, comes before `key`, as first seen."""
INTEGERS: Final = range(-(2**63), 2**63)


def _paths(value: Json) -> Cell:
    return ";".join(text(picture.get("path")) for picture in mappings(value))


def _as_json(value: Json) -> Cell:
    return None if value is None else json_text(value)


_SHOWN: Final[dict[str, Callable[[Json], Cell]]] = {"output.images": _paths, "output.parsed": _as_json}
"""Columns that are not shown in the usual way: paths are enough, and a parsed text must not look like a number."""


def cells_of(row: ExportRow) -> dict[str, Cell]:
    """The row's cells by column."""
    return dict(_cells(row))


def _cells(row: ExportRow) -> Iterator[tuple[str, Cell]]:
    yield "status", row.outcome
    for name, value in row.fields.items():
        if name not in _SPREAD:
            yield name, _cell(name, value)
        elif isinstance(value, dict):
            for inner, leaf in value.items():
                column = f"{name}.{inner}"
                yield column, _cell(column, leaf)


def _cell(column: str, value: Json) -> Cell:
    if column in _SHOWN:
        return _SHOWN[column](value)
    return json_text(value) if isinstance(value, dict | list) else value


def columns_of(rows: Iterable[ExportRow]) -> dict[str, Kind]:
    """Every column of the rows, in order, and what it holds: text where kinds are mixed."""
    kinds: dict[str, Kind | None] = dict.fromkeys(_ALWAYS)
    for row in rows:
        for name, value in cells_of(row).items():
            known, now = kinds.get(name), _kind(value)
            kinds[name] = now if known is None else known if now is None else _both(known, now)
    return {name: kinds[name] or _ALWAYS.get(name, "text") for name in sorted(kinds, key=_place)}


def _kind(value: Cell) -> Kind | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int):
        return "integer" if value in INTEGERS else "text"
    return "number" if isinstance(value, float) else "text"


def _both(known: Kind, now: Kind) -> Kind:
    if known == now:
        return known
    return "number" if {known, now} == {"integer", "number"} else "text"


def _place(column: str) -> int:
    group = column.partition(".")[0]
    last = len(_ORDER) + 1
    return next(
        (_ORDER.index(name) for name in (column, group) if name in _ORDER), last if column == "key" else last - 1
    )
