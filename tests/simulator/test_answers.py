"""Values made to schemas satisfy them, and the same for ever."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.job import Json
from batchrunner.simulator.answers import content_text, count_tokens, value_for

SCHEMAS: list[dict[str, Json]] = [
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a", "b"]},
    {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False},
    {"type": "array", "items": {"type": "number", "minimum": 2, "maximum": 3}, "minItems": 3, "maxItems": 3},
    {"type": "integer", "minimum": 5, "maximum": 9, "multipleOf": 4},
    {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 7},
    {"type": "string", "minLength": 50, "maxLength": 60},
    {"type": ["null", "boolean"]},
    {"type": "null"},
    {"const": {"fixed": [1, 2]}},
    {"anyOf": [{"type": "string"}, {"type": "boolean"}]},
    {"$ref": "#/$defs/point", "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}}}},
    {
        "allOf": [
            {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "n": {"type": "integer"}},
        "required": ["n"],
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("grain", range(12))
def test_a_value_satisfies_its_schema(schema: dict[str, Json], grain: int) -> None:
    value = value_for(schema, grain=grain, text="some words to cut from")
    jsonschema.validate(value, schema)
    assert value == value_for(schema, grain=grain, text="some words to cut from")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
keywords = st.sampled_from(["type", "properties", "items", "enum", "anyOf", "allOf", "$ref", "minimum", "minLength"])


@given(st.dictionaries(keywords, json_values, max_size=4))
def test_any_schema_gives_some_value(schema: dict[str, Json]) -> None:
    value_for(schema, grain=1, text="words")


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {name: {"$ref": "#"} for name in "abcdefgh"}},
        {"type": "string", "minLength": 10**12},
        {"type": "array", "minItems": 10**12, "items": {"type": "array", "minItems": 10**12}},
        {"type": "integer", "minimum": float("inf"), "maximum": float("nan")},
    ],
)
def test_a_hostile_schema_costs_no_more_than_others(schema: dict[str, Json]) -> None:
    assert len(str(value_for(schema, grain=1, text="words"))) < 200_000


def test_tokens_are_a_quarter_of_the_characters() -> None:
    assert [count_tokens("x" * n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_parts_count_as_their_text_and_a_mark_for_each_picture() -> None:
    parts: Json = [{"type": "text", "text": "Who?"}, {"type": "image_url", "image_url": {"url": "https://a/b.png"}}]
    assert content_text(parts).startswith("Who?\n[picture ")
