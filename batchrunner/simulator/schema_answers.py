"""Answers to requests for structured output: JSON that fits the schema, or surely does not when that is the trouble.

A schema may stand in `response_format` or, where a server is asked for JSON of no stated shape, in the conversation
itself: whatever there looks like a JSON Schema is one, as a model would take it.
"""

import json
from collections.abc import Callable, Iterator, Mapping

from batchrunner.core.job import Json
from batchrunner.simulator.answers import content_text
from batchrunner.simulator.made_to_schema import value_for
from batchrunner.simulator.order import Order
from batchrunner.simulator.script import as_list, as_object, as_text, encode_json

_SCHEMA_KEYS = frozenset({"type", "properties", "$ref", "enum", "const", "anyOf", "oneOf", "allOf"})
_MOST_BRACES = 100
_LONGEST = 200_000
_decoder = json.JSONDecoder()


def asks_for_json_schema(body: Mapping[str, Json]) -> bool:
    """True when `response_format` has a schema in it."""
    return as_object(body.get("response_format")).get("type") == "json_schema"


def schema_of_format(body: Mapping[str, Json]) -> dict[str, Json] | None:
    """The schema that a chat request wants its answer to fit; None when any text will do."""
    form = as_object(body.get("response_format"))
    if form.get("type") == "json_schema":
        return as_object(as_object(form.get("json_schema")).get("schema"))
    return _schema_in_words(body) if form.get("type") == "json_object" else None


def json_for(schema: Mapping[str, Json], order: Order, *, text: str) -> str:
    """The answer's JSON, or what it is instead when this answer is to break its schema."""
    value = value_for(schema, grain=order.dice.content, text=text)
    if not order.breaks_schema:
        return encode_json(value).decode()
    broken = [said for way in _WAYS if (said := way(value, schema)) is not None]
    return [text, *broken][int(order.dice.roll("way to break") * (1 + len(broken)))]


def input_for(schema: Mapping[str, Json], order: Order, *, text: str) -> dict[str, Json] | None:
    """The input of a tool; None where the model is to answer in words instead, which is how it breaks the schema."""
    value = value_for(schema, grain=order.dice.content, text=text)
    if not order.breaks_schema:
        return as_object(value)
    broken = [said for way in (_without_a_key, _with_a_wrong_type) if (said := way(value, schema)) is not None]
    chosen = int(order.dice.roll("way to break") * (1 + len(broken)))
    return as_object(json.loads(broken[chosen - 1])) if chosen else None


def _schema_in_words(body: Mapping[str, Json]) -> dict[str, Json] | None:
    """The last schema that somebody wrote into the conversation."""
    turns = [as_object(turn) for turn in as_list(body.get("messages"))]
    for turn in reversed([turn for turn in turns if turn.get("role") != "assistant"]):
        found = next(_schemas_in(content_text(turn.get("content"))[:_LONGEST]), None)
        if found is not None:
            return found
    return None


def _schemas_in(text: str) -> Iterator[dict[str, Json]]:
    at = text.find("{")
    for _ in range(_MOST_BRACES):
        if at < 0:
            return
        try:
            value, end = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            if not _SCHEMA_KEYS.isdisjoint(as_object(value)):
                yield as_object(value)
        at = text.find("{", end)


# -- ways to miss a schema for sure


def _half(value: Json, _schema: Mapping[str, Json]) -> str | None:
    """JSON that stops in its middle. Half a number would be a number."""
    whole = encode_json(value).decode()
    return whole[: len(whole) // 2] if isinstance(value, dict | list) and len(whole) > 2 else None


def _without_a_key(value: Json, schema: Mapping[str, Json]) -> str | None:
    needed = [name for name in as_list(schema.get("required")) if name in as_object(value)]
    if not needed:
        return None
    return encode_json({name: part for name, part in as_object(value).items() if name != needed[-1]}).decode()


def _with_a_wrong_type(value: Json, schema: Mapping[str, Json]) -> str | None:
    for name in as_object(value):
        kind = as_object(as_object(schema.get("properties")).get(name)).get("type")
        if as_text(kind) in _OTHERS:
            return encode_json({**as_object(value), name: _OTHERS[as_text(kind)]}).decode()
    return None


_OTHERS: dict[str, Json] = {
    "string": 7,
    "number": "seven",
    "integer": "seven",
    "boolean": "yes",
    "array": "none",
    "object": "none",
    "null": "none",
}
"""Type to a value that is not of it."""

_WAYS: tuple[Callable[[Json, Mapping[str, Json]], str | None], ...] = (_half, _without_a_key, _with_a_wrong_type)
