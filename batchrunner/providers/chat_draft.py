"""A chat answer while it grows: chunks of an OpenAI stream in, in order; a whole JSON answer is one chunk.

Every field of a chunk may be null, missing, or not of its documented type; what cannot be read is refused by `Shape`,
what is empty adds nothing. Source: PROTOCOL 4.1 to 4.3.
"""

import msgspec

from batchrunner.core.outcome import ToolCall, Usage
from batchrunner.providers.json_text import encode, is_object, sound, whole_number


class FunctionPiece(msgspec.Struct, gc=False):
    """A piece of a call's name and arguments."""

    name: object = None
    arguments: object = None


class ToolPiece(msgspec.Struct, gc=False):
    """A piece of a tool call."""

    index: object = None
    id: object = None
    function: FunctionPiece | None = None


class Piece(msgspec.Struct, gc=False):
    """A delta, or a whole message."""

    content: object = None
    reasoning_content: object = None
    reasoning: object = None
    refusal: object = None
    tool_calls: list[ToolPiece] | None = None
    function_call: FunctionPiece | None = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers in a chunk, usually the only one."""

    index: object = None
    delta: Piece | None = None
    message: Piece | None = None
    finish_reason: object = None


class Chunk(msgspec.Struct, gc=False):
    """A chunk of a stream, or a whole answer; `errors` and `error` are seen in place of both."""

    choices: list[Choice] | None = None
    usage: object = None
    error: object = None
    errors: object = None


class _Call:
    """A tool call while it grows."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name = ""
        self.arguments: list[str] = []


class Draft:
    """One choice while it grows."""

    __slots__ = ("_by_key", "_calls", "_reasoning", "_refusal", "_text", "finish_reason", "size_bytes")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_Call] = []
        self._by_key: dict[tuple[str, int | str], _Call] = {}
        self.finish_reason: str | None = None
        self.size_bytes = 0

    def __repr__(self) -> str:
        """Where it stands."""
        return f"<Draft {self.size_bytes} B, {len(self._calls)} calls, finish_reason={self.finish_reason}>"

    def take(self, choice: Choice) -> None:
        """Append first, close after: content may ride in the chunk that ends the answer."""
        piece = choice.delta or choice.message
        if piece is not None:
            self._take_piece(piece)
        if choice.finish_reason and isinstance(choice.finish_reason, str):
            self.finish_reason = choice.finish_reason

    @property
    def text(self) -> str:
        """The answer so far."""
        return sound("".join(self._text))

    @property
    def reasoning(self) -> str | None:
        """The thinking so far; None when there was none."""
        return sound("".join(self._reasoning)) or None

    @property
    def refusal(self) -> str:
        """The model's own words of refusal, usually empty."""
        return sound("".join(self._refusal))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, in the order in which they began."""
        return tuple(
            ToolCall(id=call.id, name=call.name, arguments=sound("".join(call.arguments))) for call in self._calls
        )

    def _take_piece(self, piece: Piece) -> None:
        if piece.content:
            self._add(self._text, _text_of(piece.content))
        # one of the two: some servers send the same thinking under both names
        thinking = piece.reasoning_content or piece.reasoning
        if thinking:
            self._add(self._reasoning, _text_of(thinking))
        if piece.refusal:
            self._add(self._refusal, _text_of(piece.refusal))
        for position, tool in enumerate(piece.tool_calls or ()):
            self._take_tool(tool, position)
        if piece.function_call is not None:
            self._take_tool(ToolPiece(index="function_call", function=piece.function_call), 0)

    def _take_tool(self, tool: ToolPiece, position: int) -> None:
        call = self._call_of(tool, position)
        if call.id is None and isinstance(tool.id, str) and tool.id:
            call.id = sound(tool.id)
        if tool.function is None:
            return
        if not call.name and isinstance(tool.function.name, str):
            call.name = sound(tool.function.name)
        arguments = tool.function.arguments
        if isinstance(arguments, str):
            self._add(call.arguments, arguments)
        elif arguments is not None:
            self._add(call.arguments, encode(arguments).decode())

    def _call_of(self, tool: ToolPiece, position: int) -> _Call:
        """By index; without one by id; without either, the call that last stood at this position."""
        if isinstance(tool.index, int | str):
            keys: list[tuple[str, int | str]] = [("index", tool.index)]
        elif isinstance(tool.id, str) and tool.id:
            keys = [("id", tool.id), ("position", position)]
        else:
            keys = [("position", position)]
        call = self._by_key.get(keys[0])
        if call is None:
            call = _Call()
            self._calls.append(call)
        for key in keys:
            self._by_key[key] = call
        return call

    def _add(self, parts: list[str], text: str) -> None:
        parts.append(text)
        self.size_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def usage_of(value: object) -> Usage | None:
    """`usage` as OpenAI counts it; None when it is not there."""
    if not is_object(value):
        return None
    usage = Usage(
        input_tokens=whole_number(value.get("prompt_tokens")),
        output_tokens=whole_number(value.get("completion_tokens")),
    )
    return None if usage == Usage() else usage


def _text_of(content: object) -> str:
    """A string, or the `text` of the parts of a list."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(text for part in content if isinstance(text := part.get("text") if is_object(part) else part, str))
