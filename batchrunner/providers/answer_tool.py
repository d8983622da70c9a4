"""Structured output where a server has no format for it: the model must call a tool whose input is the answer.

A tool's input is always an object, so a schema of anything else is wrapped in one and the answer taken out again.
See docs/providers/anthropic.md#structured-output.
"""

from dataclasses import replace
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.outcome import Answer
from batchrunner.providers.json_text import NotJson, decode, encode, is_object

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
        """The value's own JSON; arguments that do not hold one stay, for the schema's check to speak of them."""
        if not self._wraps:
            return arguments
        value = decode(arguments.encode("utf-8", "replace"))
        if isinstance(value, NotJson) or not is_object(value) or _VALUE not in value:
            return arguments
        return encode(value[_VALUE]).decode("utf-8", "replace")
