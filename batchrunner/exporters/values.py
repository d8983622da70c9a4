"""Values of a row that may have been written by another version, or by a person: asked for, never assumed."""

import json

from batchrunner.core.job import Json

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
    """The value as JSON on one line; a few words in its place when it is nested deeper than the stack."""
    try:
        return _encode(value).translate(_LINE_ENDS)
    except RecursionError:
        return '"nested too deep"'
