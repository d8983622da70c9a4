"""Validation agrees with another library, always ends, fetches nothing, and never raises."""

import math
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.job import Json
from batchrunner.core.json_schema import BACKTRACKING_CHARS_MAX, DEPTH_MAX, JsonSchema, SchemaFault, prepare
from tests.support.growth import assert_linear

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
EVIL = "a" * 60 + "!"
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
)
TYPES = st.sampled_from(["string", "number", "integer", "object", "array", "boolean", "null"])


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    leaf = st.one_of(
        st.builds(lambda kind: {"type": kind}, TYPES),
        st.builds(lambda value: {"const": value}, SCALARS),
        st.builds(lambda values: {"enum": values}, st.lists(SCALARS, min_size=1, max_size=3)),
        st.builds(lambda least: {"minimum": least, "maxLength": 2}, st.integers(-3, 3)),
        st.just({"pattern": "^(a+)+$"}),
        st.just({"pattern": "^(?!b)"}),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(lambda each: {"items": each}, inner),
            st.builds(lambda each: {"properties": {"x": each}, "required": ["y"]}, inner),
            st.builds(lambda each: {"additionalProperties": each, "maxProperties": 2}, inner),
            st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda some: {"oneOf": some}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda each: {"not": each}, inner),
        ),
        max_leaves=6,
    )


def ready(schema: dict[str, Any]) -> JsonSchema:
    made = prepare(schema)
    assert isinstance(made, JsonSchema), made
    return made


def refused(schema: dict[str, Any]) -> SchemaFault:
    made = prepare(schema)
    assert isinstance(made, SchemaFault), made
    return made


def miss(schema: dict[str, Any], value: Json, *, chars: int = 0) -> str | None:
    return ready(schema).miss(value, chars=chars)


@settings(max_examples=100, deadline=None)
@given(schemas(), VALUES)
def test_it_agrees_with_another_implementation_about_what_fits(schema: dict[str, Any], value: Json) -> None:
    assert (miss(schema, value) is None) == jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", "^([a-z]+)*$", "(.*)*x$"])
def test_a_pattern_without_look_around_is_matched_in_time_that_grows_with_the_answer(pattern: str) -> None:
    """Another implementation would take 2^60 steps for the first text already."""
    check = ready({"type": "object", "properties": {"it": {"pattern": pattern}}})
    assert str(check.miss({"it": EVIL}, chars=len(EVIL))).endswith(f'does not match "{pattern}"')

    def missed(size: int) -> Callable[[], object]:
        value: Json = {"it": "a" * size + "!"}
        return lambda: check.miss(value, chars=size)

    assert_linear(missed, 60_000)


STEPS, LONG, UNLIKE = "needs more than 50000 backtracking steps", "backreferences is 65536", "does not match"


@pytest.mark.parametrize(
    ("pattern", "reasons"),
    [
        (r"^(a|aa)+(?!b)$", (STEPS, STEPS, LONG)),
        (r"^(a+)+\1$", (UNLIKE, STEPS, LONG)),
        ("^(?=(a+)+$)", (UNLIKE, UNLIKE, LONG)),
        ("^((?!foo).)*$", ("None", STEPS, LONG)),
    ],
)
def test_a_pattern_with_look_around_takes_a_number_of_steps_at_most(pattern: str, reasons: tuple[str, ...]) -> None:
    check = ready({"type": "object", "properties": {"it": {"pattern": pattern}}})
    for size, reason in zip((60, 60_000, 2_000_000), reasons, strict=True):
        assert reason in str(check.miss({"it": "a" * size + "!"}, chars=size))


def test_what_exceeds_a_bound_of_look_around_patterns_is_a_miss_with_that_reason() -> None:
    schema = {"pattern": "^(a|aa)+(?!b)$"}
    assert miss(schema, "aaa") is None
    assert "needs more than 50000 backtracking steps" in str(miss(schema, EVIL))
    assert "backreferences is 65536" in str(miss(schema, "a", chars=BACKTRACKING_CHARS_MAX + 1))
    assert miss({"pattern": "^(a|aa)+$"}, "a", chars=BACKTRACKING_CHARS_MAX + 1) is None, "linear: any length"


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        ("http://127.0.0.1:9/schema", "$ref"),
        ("https://x.invalid/schema#/$defs/a", "$ref"),
        ("file:///etc/hostname", "$ref"),
        ("other.json", "$ref"),
        ("data:application/json,{}", "$ref"),
    ],
)
def test_nothing_is_fetched(reference: str, key: str) -> None:
    for schema in (
        {key: reference},
        {"$defs": {"never used": {key: reference}}},
        {"anyOf": [{"items": {key: reference}}]},
    ):
        assert "cannot be used" in refused(schema).problem


def test_a_bad_schema_is_refused_with_the_place_of_what_is_wrong() -> None:
    assert refused({"properties": {"a": {"type": "objekt"}}}).path == ("properties", "a", "type")
    fault = refused({"properties": {"a": {"pattern": "("}}})
    assert fault.path == ("properties", "a", "pattern")
    assert "not a valid ECMA 262 regular expression" in fault.problem
    assert refused({"$schema": "http://json-schema.org/draft-03/schema#"}).path == ("$schema",)
    assert "Dict key" in refused({"const": {1: 2}}).problem
    assert "surrogates" in refused({"const": "\ud800"}).problem
    nested: Any = {}
    for _ in range(400):
        nested = {"items": nested}
    assert "nests deeper" in refused(nested).problem


@pytest.mark.parametrize("draft", ["04", "06", "07"])
def test_formats_and_encodings_are_notes(draft: str) -> None:
    schema = {
        "$schema": f"http://json-schema.org/draft-{draft}/schema#",
        "format": "email",
        "contentMediaType": "application/json",
        "contentEncoding": "base64",
    }
    assert miss(schema, "no address, no JSON, no base64") is None


def test_drafts_are_distinguished_and_an_unknown_one_counts_as_the_newest() -> None:
    tuples = {"items": [{"type": "string"}]}
    assert miss({"$schema": DRAFT_7, **tuples}, [3]) is not None
    assert "not valid JSON Schema" in refused({"$schema": "https://x.invalid/mine", **tuples}).problem
    assert miss({"$schema": "https://x.invalid/mine", "type": "string"}, 3) is not None


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"required": ["a"]}, {}, '$: "a" is a required property'),
        ({"properties": {"a": {"items": {"type": "number"}}}}, {"a": [1, "x"]}, '$.a[1]: "x" is not of type "number"'),
        ({"anyOf": [{"type": "string"}, {"required": ["a"], "type": "object"}]}, {}, '$: "a" is a required property'),
        ({"required": ["a"], "properties": {"b": {"type": "number"}}}, {"b": "x"}, '$: "a" is a required property'),
    ],
)
def test_the_words_name_the_place_and_what_is_wrong_there(schema: dict[str, Any], value: Json, words: str) -> None:
    assert miss(schema, value) == words


def test_a_long_value_does_not_hide_what_is_wrong_with_it() -> None:
    words = str(miss({"maxLength": 3}, "word " * 10_000))
    assert len(words) < 500
    assert "longer than 3" in words


def nest(levels: int) -> Json:
    value: Json = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"items": {"$ref": "#"}}, nest(DEPTH_MAX + 1)),
        ({"enum": [1]}, nest(300)),
        ({"type": "string"}, math.nan),
        ({"maximum": 5}, math.inf),
        ({}, {"a": [math.nan]}),
        ({"maximum": 5}, 10**400),
        ({"type": "string"}, 10**4000),
        ({"const": "x"}, "\ud800"),
        ({"additionalProperties": {"const": "x"}}, {"\ud800": "\udfff"}),
    ],
)
def test_odd_values_are_misses_in_words_and_never_raise(schema: dict[str, Any], value: Json) -> None:
    words = miss(schema, value)
    assert words is not None
    words.encode()


def test_odd_values_that_fit_fit() -> None:
    assert miss({"const": 10**30}, 10**30) is None
    assert miss({"const": 10**30}, 10**30 + 1) is not None
    assert miss({"type": "string", "maxLength": 1}, "\ud800") is None
    assert miss({"items": {"$ref": "#"}}, nest(DEPTH_MAX)) is None


def test_a_panic_of_the_library_is_a_miss_and_what_ends_a_process_ends_it() -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    class Breaks:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def is_valid(self, _: object) -> bool:
            raise self.error

    def check_of(error: BaseException) -> JsonSchema:
        return JsonSchema(Breaks(error), backtracks=False, schema_depth=1)  # type: ignore[arg-type]  # a double

    assert "cannot be validated: index out of bounds" in str(check_of(panic("index out of bounds")).miss(1, chars=1))
    with pytest.raises(KeyboardInterrupt):
        check_of(KeyboardInterrupt()).miss(1, chars=1)
