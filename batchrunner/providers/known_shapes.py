"""Ordinary answers, read in one typed step. Anything that is not quite so is None.

The types here are as narrow as they can be: what fits them means the same to the careful readers, which look at every
field for what servers put there besides, and which read whatever does not fit. So there is one set of rules, theirs;
a test holds both ways against each other. Pieces of answers: see `ordinary_events`.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec

from batchrunner.core.http import ResponseHead
from batchrunner.core.outcome import Answer, Usage
from batchrunner.providers.rate_headers import hints_of
from batchrunner.providers.reply_fields import meaning_of
from batchrunner.providers.sse import CAP_BYTES

FAULTS: Final = (msgspec.DecodeError, UnicodeError, RecursionError)

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Nothing = Annotated[list[None], msgspec.Meta(max_length=0)] | None
Plain = str | int | float | None
"""What describes the envelope, and is no part of an answer."""


class Strict(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A field that is not named means that the careful readers are asked."""


# -- OpenAI's chat completions


class _PromptDetails(Strict):
    cached_tokens: Count | None = None
    audio_tokens: Plain = None


class _ChatUsage(Strict):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: dict[str, Plain] | None = None

    def counts(self) -> Usage:
        """The same as `usage_counts.usage_of`."""
        details, wrote = self.prompt_tokens_details, self.completion_tokens
        if details is None and self.total_tokens is not None and self.total_tokens > self.prompt_tokens + wrote:
            wrote = self.total_tokens - self.prompt_tokens
        return Usage(
            input_tokens=self.prompt_tokens,
            output_tokens=wrote,
            cache_read_tokens=(details.cached_tokens or None) if details is not None else None,
        )


def chat_counts(said: object) -> Usage | None:
    """The same as `usage_of` for counts as OpenAI has them, in one step; None: they are to be read with care."""
    try:
        return msgspec.convert(said, _ChatUsage).counts()
    except FAULTS:
        return None


class _ChatMessage(Strict):
    content: str
    role: Plain = None
    reasoning_content: str | None = None
    refusal: None = None
    tool_calls: Nothing = None
    function_call: None = None
    audio: None = None
    annotations: Nothing = None


class _ChatChoice(Strict):
    message: _ChatMessage
    finish_reason: str
    index: Count | None = None
    logprobs: None = None
    stop_reason: Plain = None
    native_finish_reason: Plain = None


class Envelope(Strict, kw_only=True):
    """What stands around the choices, and is no part of an answer."""

    id: Plain = None
    kind: Plain = msgspec.field(name="object", default=None)
    created: Plain = None
    model: Plain = None
    system_fingerprint: Plain = None
    service_tier: Plain = None
    provider: Plain = None


class _ChatAnswer(Envelope, kw_only=True):
    choices: Annotated[list[_ChatChoice], msgspec.Meta(min_length=1, max_length=1)]
    usage: _ChatUsage | None = None
    prompt_logprobs: None = None
    error: None = None


# -- Anthropic's messages


class _MessageUsage(Strict):
    input_tokens: Count
    output_tokens: Count
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation: dict[str, Plain] | None = None
    service_tier: Plain = None
    inference_geo: Plain = None

    def counts(self) -> Usage:
        """The same as `usage_counts.usage_of`."""
        read, written = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        return Usage(
            input_tokens=self.input_tokens + read + written,
            output_tokens=self.output_tokens,
            cache_read_tokens=read or None,
            cache_write_tokens=written or None,
        )


class _TextBlock(Strict):
    type: Literal["text"]
    text: str
    citations: None = None


class _MessageAnswer(Strict):
    type: Literal["message"]
    content: Annotated[list[_TextBlock], msgspec.Meta(min_length=1, max_length=1)]
    stop_reason: str
    id: Plain = None
    role: Plain = None
    model: Plain = None
    stop_sequence: None = None
    container: None = None
    usage: _MessageUsage | None = None


_ANSWERS: Final = msgspec.json.Decoder(_ChatAnswer)
_MESSAGES: Final = msgspec.json.Decoder(_MessageAnswer)


def chat_answer(body: bytes | bytearray, head: ResponseHead) -> Answer | None:
    """A whole answer of one choice with text, and perhaps thinking."""
    try:
        said = _ANSWERS.decode(body)
    except FAULTS:
        return None
    choice = said.choices[0]
    message = choice.message
    usage = None if said.usage is None else said.usage.counts()
    return plain_answer(message.content, message.reasoning_content, choice.finish_reason, usage, head)


def message_answer(body: bytes | bytearray, head: ResponseHead) -> Answer | None:
    """A whole message of one text."""
    try:
        said = _MESSAGES.decode(body)
    except FAULTS:
        return None
    usage = None if said.usage is None else said.usage.counts()
    return plain_answer(said.content[0].text, None, said.stop_reason, usage, head)


def plain_answer(
    text: str, reasoning: str | None, reason: str, usage: Usage | None, head: ResponseHead
) -> Answer | None:
    """An ordinary answer; None for one that the full decoder has to read."""
    if not reason or not _is_plain(text):
        return None
    meaning = meaning_of(reason)
    if meaning not in {"whole", "cut"}:
        return None
    return Answer(
        text=text,
        reasoning=reasoning or None,
        finish_reason=reason,
        truncated=meaning == "cut",
        usage=usage,
        hints=hints_of(head),
    )


def _is_plain(text: str) -> bool:
    """Whether a text can hold neither thinking in tags nor a picture: then nothing is taken out of it."""
    return text.lstrip()[:1] not in _MAY_BEGIN_THINKING and "</" not in text and "data:image/" not in text


_MAY_BEGIN_THINKING: Final = frozenset({"", "<", "[", "◁"})


# Ordinary events of growing answers, all that stand in a piece of a stream read in one typed step.
#
# As in `ordinary`, the types are so narrow that what fits them means the same to the careful readers; anything else is
# None, and read by them. Events that came together are decoded as one list: each of them is followed by a line end,
# which no text of JSON may hold, so none can be taken for a part of another.

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
_MESSAGE_LISTS: Final = msgspec.json.Decoder(list[MessagesEvent])


def chat_events(data: bytes) -> tuple[list[ChatEvent], bool] | None:
    """Whole events, and whether `[DONE]` follows them; None if one of them is not ordinary."""
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
        found = _MESSAGE_LISTS.decode(listed)
    except FAULTS:
        return None
    return found if listed.count(b"\n") == 2 * len(found) - 2 and b"\r" not in listed else None
