"""`.jsonl`: an object per line; blank lines are nothing. Refuses what JSON does not know, like NaN."""

import json
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from batchrunner.core.job import Json
from batchrunner.prompts.sources.lines import rows_by_line, text_of
from batchrunner.prompts.sources.row import PLAIN, BadRowError, Form, Rows

_KINDS: dict[type, str] = {list: "a list", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
_DEEP = 200
"""Brackets in a line from which on it is read with Python's own reader, whose depth is the one that counts."""
_decode_row = msgspec.json.Decoder(dict[str, Json]).decode


def read_json_lines(path: str, form: Form = PLAIN) -> Rows:
    """A row for every line that is not blank."""
    return rows_by_line(path, _Objects(form), form)


class _Objects:
    def __init__(self, form: Form) -> None:
        self._form = form

    def one(self, raw: bytes | None) -> dict[str, Json] | None:
        return _values(text_of(raw, self._form))

    def many(self, lines: Sequence[bytes]) -> list[dict[str, Json]] | None:
        """Read with msgspec, which gives what `json` gives; whatever it refuses is left to `json`, and to its words."""
        whole = b"\n".join(lines)
        if whole.count(b"[") + whole.count(b"{") > _DEEP and any(_is_deep(raw) for raw in lines):
            return None
        try:
            return [_decode_row(raw) for raw in lines]
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None


def _is_deep(raw: bytes) -> bool:
    return raw.count(b"[") + raw.count(b"{") > _DEEP


def _values(text: str) -> dict[str, Json]:
    try:
        value: Json = _decode(text)
    except json.JSONDecodeError as error:
        raise BadRowError(f"the line is not JSON: {error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRowError(f"the line is not usable JSON: {reason}") from error
    if not isinstance(value, dict):
        raise BadRowError(f"the line is {_KINDS.get(type(value), 'null')}, not an object")
    if "\\ud" in text or "\\uD" in text:
        _require_whole_characters(value)
    return value


def _require_whole_characters(values: dict[str, Json]) -> None:
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRowError("the line has half a surrogate pair, which no text can hold") from error


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
