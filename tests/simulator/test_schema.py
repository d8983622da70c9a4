"""Structured output and embeddings of the simulated provider: what fits, what breaks by fault, what is refused."""

import json
import math
from typing import Any

import jsonschema
import pytest

from batchrunner.core.job import Json
from batchrunner.simulator.profiles import SETTINGS, FaultRates
from batchrunner.simulator.script import Script
from batchrunner.simulator.world import World
from tests.simulator.calls import CHAT, first, post, reply

MESSAGES = "/v1/messages"
EMBEDDINGS = "/v1/embeddings"
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"n": {"type": "number"}, "why": {"type": "string"}}, "required": ["n", "why"]},
    {"type": "object", "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]}}}, "required": ["tags"]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2},
    {
        "type": "object",
        "properties": {"deep": {"$ref": "#/$defs/d"}},
        "required": ["deep"],
        "$defs": {"d": {"const": 7}},
    },
]


def turns(prompt: str) -> list[Json]:
    return [{"role": "user", "content": prompt}]


def answered(world: World, prompt: str, schema: dict[str, Any], *, more: list[Json] | None = None) -> str:
    """The text of a chat answer."""
    form: Json = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    script = post(world, CHAT, {"model": "M/m", "messages": [*turns(prompt), *(more or [])], "response_format": form})
    return str(first(reply(script), "choices", 0, "message", "content"))


def fits(text: str, schema: dict[str, Any]) -> bool:
    try:
        return jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    except ValueError:
        return False


def again(said: str) -> list[Json]:
    """A re-ask."""
    return [{"role": "assistant", "content": said}, {"role": "user", "content": "That does not fit. Again."}]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_first_answer_breaks_its_schema_for_sure_and_the_next_one_fits(schema: dict[str, Any]) -> None:
    world = World(faults=FaultRates(schema_break=1.0))
    for number in range(40):
        said = answered(world, f"q{number}", schema)
        assert not fits(said, schema)
        assert fits(answered(world, f"q{number}", schema, more=again(said)), schema), "a re-ask"
        assert fits(answered(world, f"q{number}", schema), schema), "the same once more"
    assert world.stats().verdicts == {"answered, schema broken": 40, "answered": 80}


def test_a_share_of_the_first_answers_breaks_whatever_else_goes_wrong() -> None:
    world = World(faults=FaultRates(schema_break=0.3, throttle=0.2))
    for number in range(400):
        for _ in range(3):
            post_script = chat(world, f"q{number}")
            if post_script.status == 200:
                break
    broken = world.stats().verdicts["answered, schema broken"]
    assert 80 <= broken <= 160


def chat(world: World, prompt: str) -> Script:
    form: Json = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMAS[0]}}
    return post(world, CHAT, {"model": "M/m", "messages": turns(prompt), "response_format": form})


def forced(world: World, prompt: str, *, choice: Json) -> Json:
    """The content of a message that may call a tool."""
    tool: Json = {"name": "answer", "input_schema": SCHEMAS[0]}
    body: Json = {"model": "M/m", "messages": turns(prompt), "max_tokens": 500, "tools": [tool], "tool_choice": choice}
    return first(reply(post(world, MESSAGES, body, headers={"anthropic-version": "2023-06-01"})), "content")


def test_a_tool_that_must_be_called_breaks_its_schema_too_and_one_on_offer_does_not() -> None:
    world = World(faults=FaultRates(schema_break=1.0))
    for number in range(30):
        content = forced(world, f"q{number}", choice={"type": "tool", "name": "answer"})
        assert isinstance(content, list)
        (block,) = content
        assert isinstance(block, dict)
        assert block["type"] == "text" or not fits(json.dumps(block["input"]), SCHEMAS[0])
    assert world.stats().verdicts == {"answered, schema broken": 30}
    content = forced(world, "on offer", choice={"type": "auto"})
    assert isinstance(content, list)
    assert isinstance(content[0], dict)
    assert fits(json.dumps(content[0]["input"]), SCHEMAS[0])


def test_the_schema_may_stand_in_the_conversation_where_an_object_is_all_that_is_asked() -> None:
    told = f"Seven? Fit this: {json.dumps(SCHEMAS[0])} and { {'not': 'one'} }"
    script = post(World(), CHAT, {"model": "m", "messages": turns(told), "response_format": {"type": "json_object"}})
    assert fits(str(first(reply(script), "choices", 0, "message", "content")), SCHEMAS[0])


def test_the_fault_has_a_name_on_the_command_line_and_in_profiles() -> None:
    faults = FaultRates.parse("schema-break=0.2,throttle=0.9")
    assert (faults.schema_break, faults.shown()) == (0.2, "throttle=0.9+schema-break=0.2+retry_after=1")
    assert "faults" in SETTINGS


# -- embeddings


def embedded(**more: Json) -> Script:
    return post(World(), EMBEDDINGS, {"model": "Q/Embedding", "input": "a cat", "encoding_format": "float", **more})


def test_an_embedding_is_a_unit_vector_and_the_same_for_the_same_text() -> None:
    vector = first(reply(embedded()), "data", 0, "embedding")
    assert isinstance(vector, list)
    assert math.isclose(sum(float(str(part)) ** 2 for part in vector), 1.0, rel_tol=1e-5)
    assert reply(embedded())["data"] == reply(embedded())["data"]
    assert first(reply(embedded(input=["a cat", "a dog"])), "data", 1, "embedding") != vector
    short = first(reply(embedded(dimensions=3)), "data", 0, "embedding")
    assert isinstance(short, list)
    assert len(short) == 3


@pytest.mark.parametrize(
    "more",
    [{"encoding_format": None}, {"encoding_format": "int8"}, {"input": []}, {"input": ["x"] * 26}, {"dimensions": 0}],
)
def test_an_embedding_is_refused_as_the_real_ones_are(more: dict[str, Json]) -> None:
    assert embedded(**more).status == 400
