"""Structured output: reads an answer's text as JSON and holds it against the job's schema.

Refuses to fetch anything: a `$ref` to another document is a mistake of the schema, not a reason to open a connection.
"""

import re
from collections.abc import Iterator
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.json_schema import JsonSchema, SchemaFault, prepare
from batchrunner.core.outcome import Answer, Correction
from batchrunner.core.text import without_lone_surrogates
from batchrunner.core.values import dataclass, replace
from batchrunner.providers.json_bodies import NotJson, decode, encode, is_object

_FAULT_CHARS: Final = 500
_FENCES: Final = ("```", "~~~")
_FENCED: Final = re.compile(
    r"(?P<fence>`{3,}|~{3,})[ \t]*(?:json5?|jsonc|javascript|js|text)?[ \t]*\r?\n?(?P<block>.*?)(?:(?P=fence)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
"""A block in a Markdown fence, of which the end may be missing."""
_REFUSALS: Final = (
    ("json_schema",),
    ("invalid schema for response_format",),
    ("response_format", "unavailable"),
    ("response_format", "not support"),
    ("structured output", "not support"),
)
"""All the words of a row: a server that takes no schema, or not this one, in `response_format`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """The answer's value."""

    value: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """Why the answer does not fit, in the validator's words: the model can correct it."""

    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """Why the schema itself cannot be used: only the user can correct it."""

    fault: str


class SchemaCheck:
    """One schema, made ready once."""

    __slots__ = ("_ready", "schema")

    def __init__(self, schema: dict[str, Json]) -> None:
        self.schema = schema
        self._ready: JsonSchema | SchemaFault | None = None

    def __repr__(self) -> str:
        """Which schema."""
        return f"<SchemaCheck of {len(self.schema)} keys>"

    def look(self, text: str) -> Fits | Misses | Unusable:
        """The value of an answer's text. A code fence, prose around it and leaked thinking are read over."""
        problem = ""
        for reading in _readings(text):
            value = decode(reading.encode("utf-8", "replace"))
            if not isinstance(value, NotJson):
                return self._hold(value, chars=len(text))
            problem = problem or value.problem
        return Misses(fault=f"the answer is not JSON: {problem}"[:_FAULT_CHARS])

    def _hold(self, value: Json, *, chars: int) -> Fits | Misses | Unusable:
        if self._ready is None:
            self._ready = prepare(self.schema)
        if isinstance(self._ready, SchemaFault):
            return Unusable(fault=f"the schema cannot be used: {self._ready.problem}"[:_FAULT_CHARS])
        fault = self._ready.miss(value, chars=chars)
        return Fits(value=value) if fault is None else Misses(fault=without_lone_surrogates(fault)[:_FAULT_CHARS])


class SchemaChecks:
    """The check of the schema asked for last: a job has one, and making it ready costs more than using it."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: SchemaCheck | None = None

    def __repr__(self) -> str:
        """The check at hand."""
        return f"<SchemaChecks {self._last}>"

    def of(self, schema: dict[str, Json]) -> SchemaCheck:
        """The check of a schema."""
        if self._last is None or self._last.schema is not schema:
            self._last = SchemaCheck(schema)
        return self._last


def refuses_schema(message: str) -> bool:
    """Whether a 400 says that the server, or this model, takes no schema in `response_format`."""
    text = message.lower()
    return any(all(word in text for word in words) for words in _REFUSALS)


def schema_in_words(schema: dict[str, Json]) -> str:
    """The instruction for a model if the request itself cannot carry the schema."""
    shown = encode(schema).decode("utf-8", "replace")
    return f"Answer with JSON that fits this JSON Schema, and with nothing else:\n{shown}"


def correction_text(correction: Correction) -> str:
    """The correction for a model whose answer did not match the schema."""
    return (
        f"Your answer does not fit the required JSON schema: {correction.fault}\n"
        "Answer again, with the complete corrected JSON and nothing else."
    )


def _readings(text: str) -> Iterator[str]:
    """The text without `<think>…</think>` before it; then, for one that is not JSON, the one block that it fences."""
    bare = text.rpartition("</think>")[2].strip()
    yield bare
    blocks = [found["block"].strip() for found in _FENCED.finditer(bare)]
    if len(blocks) > 1:
        blocks = [block for block in blocks if not isinstance(decode(block.encode("utf-8", "replace")), NotJson)]
    if len(blocks) == 1:
        yield blocks[0]
    if bare.startswith(_FENCES) and "\n" in bare:  # its own text may hold a fence
        yield bare.partition("\n")[2].rstrip().removesuffix("```").removesuffix("~~~")


# Structured output where a server has no format for it: the model must call a tool whose input is the answer.
#
# A tool's input is always an object, so a schema of anything else is wrapped in one and the answer taken out again.
# See docs/providers/anthropic.md#structured-output.

NAME: Final = "structured_answer"
_VALUE: Final = "value"
_DEFINITIONS: Final = ("$defs", "definitions", "$schema")
"""What references in a schema point to stays at the root, whatever is wrapped."""


class AnswerTool:
    """The tool for one schema."""

    __slots__ = ("_schema", "_wraps")

    def __init__(self, schema: dict[str, Json]) -> None:
        self._schema = schema
        self._wraps = schema.get("type") != "object"

    def __repr__(self) -> str:
        """What becomes of the schema."""
        return f"<AnswerTool wraps={self._wraps}>"

    def offer(self) -> dict[str, Json]:
        """The tool as a request offers it."""
        return {"name": NAME, "description": "Gives the answer.", "input_schema": self._input_schema()}

    def taken_from(self, answer: Answer) -> Answer:
        """The answer with the tool's input for its text, and without the call. One that did not call it stays."""
        call = next((call for call in answer.tool_calls if call.name == NAME), None)
        if call is None:
            return answer
        others = tuple(other for other in answer.tool_calls if other.name != NAME)
        return replace(answer, text=self._unwrapped(call.arguments), tool_calls=others)

    def _input_schema(self) -> dict[str, Json]:
        if not self._wraps:
            return self._schema
        inner = {name: part for name, part in self._schema.items() if name not in _DEFINITIONS}
        shared = {name: part for name, part in self._schema.items() if name in _DEFINITIONS}
        return {**shared, "type": "object", "properties": {_VALUE: inner}, "required": [_VALUE]}

    def _unwrapped(self, arguments: str) -> str:
        """The value's own JSON; arguments without one stay as they are, so that the schema's check reports them."""
        if not self._wraps:
            return arguments
        value = decode(arguments.encode("utf-8", "replace"))
        if isinstance(value, NotJson) or not is_object(value) or _VALUE not in value:
            return arguments
        return encode(value[_VALUE]).decode("utf-8", "replace")
