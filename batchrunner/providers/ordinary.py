"""Ordinary answers, read in one typed step. Anything that is not quite so is None.

The types here are as narrow as they can be: what fits them means the same to the careful readers, which look at every
field for what servers put there besides, and which read whatever does not fit. So there is one set of rules, theirs;
a test holds both ways against each other. Pieces of answers: see `ordinary_events`.
"""

from typing import Annotated, Final, Literal

import msgspec

from batchrunner.core.http import ResponseHead
from batchrunner.core.outcome import Answer, Usage
from batchrunner.providers.finish_reasons import meaning_of
from batchrunner.providers.hints import hints_of

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
        details = self.prompt_tokens_details
        return Usage(
            input_tokens=self.prompt_tokens,
            output_tokens=self.completion_tokens,
            cache_read_tokens=(details.cached_tokens or None) if details is not None else None,
        )


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
    """An answer that nobody has to look at twice; None for one that has to be read with care."""
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
