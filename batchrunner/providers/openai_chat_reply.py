"""The reader of an OpenAI chat reply: what its chunks say, and when they are a whole answer.

An answer is complete by what it says, not by the connection's end: see `_verdict`.
Source: PROTOCOL 3.6, 4.1 to 4.5.
"""

from dataclasses import replace
from typing import Final

import msgspec

from batchrunner.core.classify import Family
from batchrunner.core.outcome import Answer, Problem, ProblemKind
from batchrunner.core.wire import Broken, Ending, Head
from batchrunner.providers.chat_draft import Choice, Chunk, Draft, usage_of
from batchrunner.providers.hints import hints_of
from batchrunner.providers.json_text import NotJson, decode, decode_patiently, is_object
from batchrunner.providers.replies import fault_in, problem_of
from batchrunner.providers.sse import DONE, SseEvent
from batchrunner.providers.streamed_reply import ABORTED, TEXT_CAP_BYTES, StreamedReply
from batchrunner.providers.structured import SchemaCheck, refuses_schema

K = ProblemKind

_FILTERED: Final = frozenset({"content_filter", "sensitive"})
_TRUNCATED: Final = frozenset({"length", "max_tokens"})

_PERHAPS_THE_SCHEMA: Final = "; some models answer a `schema` so, because they take no response_format json_schema"

_CHUNKS: Final = msgspec.json.Decoder(Chunk)


class ChatDecoder(StreamedReply):
    """A `Decoder[SendOutcome]` for one reply."""

    def __init__(self, family: Family, *, check: SchemaCheck | None, sends_schema: bool = False) -> None:
        super().__init__(family, check=check)
        self._sends_schema = sends_schema
        self._drafts: dict[int, Draft] = {}

    def end(self, ending: Ending) -> Answer | Problem:
        """What it all came to. A server that takes no schema says so with a 400, or with an empty answer."""
        outcome = super().end(ending)
        if not self._sends_schema or isinstance(outcome, Answer):
            return outcome
        if outcome.kind is K.BAD_REQUEST and refuses_schema(outcome.message):
            return replace(outcome, kind=K.ADAPTABLE, adaptation="json_object")
        if outcome.kind is K.EMPTY_RESPONSE:
            return replace(outcome, message=f"{outcome.message}{_PERHAPS_THE_SCHEMA}", adaptation="json_object")
        return outcome

    def _take_event(self, event: SseEvent) -> None:
        if event.data.startswith(DONE):
            self._done = True
        elif event.data:
            self._take(event.data, is_error=event.name == "error")

    def _take_json(self, body: bytes) -> None:
        self._take(body, is_error=False)

    def _take(self, data: bytes, *, is_error: bool) -> None:
        """One chunk. An error among chunks is classified like an HTTP error."""
        try:
            chunk = _CHUNKS.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            patient = self._patiently(data)
            if patient is None:
                self._refuse_event(data, is_error=is_error)
                return
            chunk = patient
        if chunk.error or chunk.errors or is_error or (chunk.choices is None and chunk.usage is None):
            self._take_odd(chunk, data, is_error=is_error)
            if self._problem is not None:
                return
        self._begun = True
        if chunk.usage is not None:
            self._usage = usage_of(chunk.usage) or self._usage
        for choice in chunk.choices or ():
            self._grow(choice)

    def _patiently(self, data: bytes) -> Chunk | None:
        """The chunk in bytes that the fast reader refused, if there is one."""
        value = decode_patiently(data)
        try:
            return None if isinstance(value, NotJson) else msgspec.convert(value, Chunk)
        except (msgspec.ValidationError, UnicodeError, RecursionError):
            return None

    def _take_odd(self, chunk: Chunk, data: bytes, *, is_error: bool) -> None:
        """A chunk with an error, with neither choices nor usage, or none at all."""
        assert self._head is not None
        value = decode(data)
        if isinstance(value, NotJson) or not is_object(value):
            return
        named = chunk.error or chunk.errors or is_error or value.get("object") == "error"
        if named or ("message" in value and "code" in value):
            self._problem = problem_of(
                self._family, self._head, fault_in(value), status=None, under_way=self._has_content()
            )

    def _has_content(self) -> bool:
        return any(draft.size_bytes for draft in self._drafts.values())

    def _grow(self, choice: Choice) -> None:
        place = choice.index if isinstance(choice.index, int) else 0
        draft = self._drafts.get(place)
        if draft is None:
            draft = self._drafts[place] = Draft()
        draft.take(choice)
        if draft.size_bytes > TEXT_CAP_BYTES:
            self._too_long()

    def _verdict(self, head: Head, ending: Ending) -> Answer | Problem:
        """The table of PROTOCOL 4.5: complete by `[DONE]` or a finish reason, and not empty."""
        draft = self._drafts[min(self._drafts)] if self._drafts else Draft()
        if not (self._done or self._is_json or draft.finish_reason) or draft.finish_reason in ABORTED:
            return self._cut(head, ending, size_bytes=draft.size_bytes, finish_reason=draft.finish_reason)
        refused = draft.refusal
        if draft.finish_reason in _FILTERED or (refused and not draft.text):
            message = refused or "the answer was withheld by the server's content filter"
            return self._failed(K.CONTENT_FILTER, message, head)
        truncated = draft.finish_reason in _TRUNCATED
        if not (draft.text or draft.tool_calls or (truncated and draft.reasoning)):
            return self._failed(K.EMPTY_RESPONSE, "the server answered without any content", head)
        answer = Answer(
            text=draft.text,
            reasoning=draft.reasoning,
            tool_calls=draft.tool_calls,
            finish_reason=draft.finish_reason,
            truncated=truncated,
            usage=self._usage,
            flags=self._flags(ending, draft),
            hints=hints_of(head),
        )
        return self._held_to_schema(answer, head)

    def _flags(self, ending: Ending, draft: Draft) -> tuple[str, ...]:
        odd = {
            "no_done": not (self._is_json or self._done),
            "no_finish_reason": draft.finish_reason is None,
            "cut_after_end": self._is_json and isinstance(ending, Broken),
            "more_choices": len(self._drafts) > 1,
        }
        return tuple(flag for flag, holds in odd.items() if holds)
