"""Ordinary events of growing answers, all that stand in a piece of a stream read in one typed step.

As in `ordinary`, the types are so narrow that what fits them means the same to the careful readers; anything else is
None, and read by them. Events that came together are decoded as one list: behind each of them stands a line end, which
no text of JSON may hold, so none can be taken for a part of another.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec

from batchrunner.providers.ordinary import FAULTS, Count, Envelope, Nothing, Plain, Strict
from batchrunner.providers.sse import CAP_BYTES

Counts = dict[str, Any]
"""As the server wrote them, for `usage_counts`."""
_None = Annotated[list[None], msgspec.Meta(max_length=0)]

_DATA: Final = b"data: {"
_DATA_AT_ONCE: Final = b"data:{"
_NEXT_DATA: Final = b"}\n\n" + _DATA
_NEXT_DATA_AT_ONCE: Final = b"}\n\n" + _DATA_AT_ONCE
_DONE: Final = b"data: [DONE]\n\n"
_NAMED: Final = re.compile(rb"(?:event: [a-z_]+\n)?data: (?=\{)")
_NEXT_NAMED: Final = re.compile(rb"\}\n\n(?:event: [a-z_]+\n)?data: \{")
_BETWEEN: Final = b"}\n,\n{"
"""Two line ends for each event but the last, and any other means that a line ended within one."""
_END: Final = b"}\n\n"


# -- OpenAI's chat completions


class _Delta(Strict):
    content: str | None = None
    reasoning_content: str | None = None
    role: Plain = None
    refusal: None = None
    tool_calls: Nothing = None
    function_call: None = None


class _DeltaChoice(Strict):
    delta: _Delta
    index: Literal[0]
    finish_reason: str | None = None
    logprobs: None = None
    stop_reason: None = None
    native_finish_reason: Plain = None


class ChatEvent(Envelope, kw_only=True):
    """What an event adds to the first choice: text, thinking and a reason to end; or counts, or all of it."""

    choices: Annotated[list[_DeltaChoice], msgspec.Meta(max_length=1)]
    kind: Literal["chat.completion.chunk", "chat.completion", ""] | None = msgspec.field(name="object", default=None)
    """Where nothing is chosen, this is how some servers say that something went wrong."""
    usage: Counts | None = None
    obfuscation: Plain = None


# -- Anthropic's messages


class TextDelta(Strict, tag="text_delta", tag_field="type"):
    """A piece of a text."""

    text: str


class ThinkingDelta(Strict, tag="thinking_delta", tag_field="type"):
    """A piece of the thinking."""

    thinking: str


class BlockDelta(Strict, tag="content_block_delta", tag_field="type"):
    """A piece of a block."""

    index: Count
    delta: TextDelta | ThinkingDelta


class TextStart(Strict, tag="text", tag_field="type"):
    """A text as it begins."""

    text: str
    citations: None = None


class ThinkingStart(Strict, tag="thinking", tag_field="type"):
    """Thinking as it begins."""

    thinking: str
    signature: Literal[""] | None = None


class BlockStart(Strict, tag="content_block_start", tag_field="type"):
    """A block begins."""

    index: Count
    content_block: TextStart | ThinkingStart


class BlockStop(Strict, tag="content_block_stop", tag_field="type"):
    """A block ends: nothing follows from it."""

    index: Plain = None


class _MessageStarted(Strict):
    content: _None
    type: Plain = None
    id: Plain = None
    role: Plain = None
    model: Plain = None
    stop_reason: None = None
    stop_sequence: None = None
    container: None = None
    usage: Counts | None = None


class MessageStart(Strict, tag="message_start", tag_field="type"):
    """A message begins."""

    message: _MessageStarted


class _Change(Strict):
    stop_reason: str | None = None
    stop_sequence: None = None
    container: None = None


class MessageChange(Strict, tag="message_delta", tag_field="type"):
    """Why the message ends, and its counts."""

    delta: _Change
    usage: Counts | None = None
    context_management: None = None


class MessageStop(Strict, tag="message_stop", tag_field="type"):
    """The message is at its end."""


class Ping(Strict, tag="ping", tag_field="type"):
    """A sign of life."""


MessagesEvent = BlockDelta | BlockStart | BlockStop | MessageStart | MessageChange | MessageStop | Ping

_CHAT: Final = msgspec.json.Decoder(list[ChatEvent])
_MESSAGES: Final = msgspec.json.Decoder(list[MessagesEvent])


def chat_events(data: bytes) -> tuple[list[ChatEvent], bool] | None:
    """Whole events, and whether the closing word stands behind them; None if one of them is not ordinary."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    is_done = data.endswith(_DONE)
    if is_done:
        data = data[: -len(_DONE)]
        if not data:
            return [], True
    if data.startswith(_DATA):
        between, start = _NEXT_DATA, len(_DATA) - 1
    elif data.startswith(_DATA_AT_ONCE):
        between, start = _NEXT_DATA_AT_ONCE, len(_DATA_AT_ONCE) - 1
    else:
        return None
    if not data.endswith(_END) or len(data) > CAP_BYTES:
        return None
    listed = b"[%b]" % data[start:-2].replace(between, _BETWEEN)
    try:
        found = _CHAT.decode(listed)
    except FAULTS:
        return None
    return (found, is_done) if listed.count(b"\n") == 2 * len(found) - 2 and b"\r" not in listed else None


def message_events(data: bytes) -> list[MessagesEvent] | None:
    """Whole events; None if one of them is not ordinary."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    start = _NAMED.match(data)
    if start is None or not data.endswith(_END) or len(data) > CAP_BYTES:
        return None
    listed = b"[%b]" % _NEXT_NAMED.sub(_BETWEEN, data[start.end() : -2])
    try:
        found = _MESSAGES.decode(listed)
    except FAULTS:
        return None
    return found if listed.count(b"\n") == 2 * len(found) - 2 and b"\r" not in listed else None
