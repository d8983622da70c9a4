"""The reader of an OpenAI chat reply: a stream of events, one JSON value, or a refusal, whatever was asked for.

An answer is complete by what it says, not by the connection's end: see `_verdict`. Partial text is never an answer.
Source: PROTOCOL 3.6, 4.1 to 4.5.
"""

from dataclasses import replace
from enum import Enum, auto
from typing import Final

import msgspec

from batchrunner.core.classify import Family
from batchrunner.core.outcome import Answer, Correction, Problem, ProblemKind, Usage
from batchrunner.core.wire import Broken, Ending, Head, Whole
from batchrunner.providers.chat_draft import TEXT_CAP_BYTES, Choice, Chunk, Draft, usage_of
from batchrunner.providers.hints import hints_of
from batchrunner.providers.json_text import NotJson, decode, decode_patiently, is_object
from batchrunner.providers.replies import (
    KEPT_OF_REFUSAL_BYTES,
    broken_problem,
    fault_in,
    plain_problem,
    problem_of,
    read_fault,
    refusal,
    unreadable,
)
from batchrunner.providers.sse import DONE, SseEvent, SseParser
from batchrunner.providers.structured import Fits, Misses, SchemaCheck, Unusable
from batchrunner.providers.whole_reply import Body, is_success, no_reply

K = ProblemKind

_BODY_CAP_BYTES: Final = 4 * TEXT_CAP_BYTES
"""Of a JSON answer: its text may be escaped."""
_SHOWN_BYTES: Final = 500
"""Of a stream that says nothing, for the message."""
_BLANK: Final = b"\xef\xbb\xbf \t\r\n"
"""What may stand before the first sign of either form, and means nothing there."""

_FILTERED: Final = frozenset({"content_filter", "sensitive"})
_TRUNCATED: Final = frozenset({"length", "max_tokens"})
_ABORTED: Final = frozenset({"error", "abort", "aborted", "cancelled"})
"""Finish reasons by which servers say that they did not finish."""

_CHUNKS: Final = msgspec.json.Decoder(Chunk)


class _Form(Enum):
    """What the body is."""

    UNKNOWN = auto()
    EVENTS = auto()
    JSON = auto()
    REFUSAL = auto()


class ChatDecoder:
    """A `Decoder[SendOutcome]` for one reply."""

    def __init__(self, family: Family, *, check: SchemaCheck | None) -> None:
        self._family = family
        self._check = check
        self._head: Head | None = None
        self._form = _Form.UNKNOWN
        self._body = Body(cap_bytes=_BODY_CAP_BYTES)
        """A refusal, a JSON answer, or the first bytes of a stream."""
        self._events = SseParser()
        self._drafts: dict[int, Draft] = {}
        self._usage: Usage | None = None
        self._any_chunk = False
        self._done = False
        self._problem: Problem | None = None

    def __repr__(self) -> str:
        """Where it stands."""
        return f"<ChatDecoder {self._form.name} {self._drafts} done={self._done} problem={self._problem}>"

    def begin(self, head: Head) -> None:
        """The head of the reply."""
        self._head = head
        if not is_success(head):
            self._form = _Form.REFUSAL
            self._body = Body(cap_bytes=KEPT_OF_REFUSAL_BYTES)

    def feed(self, data: bytes) -> bool:
        """A piece of the body; True after `[DONE]`, or once it is clear that no answer comes."""
        if self._done or self._problem is not None:
            return True
        if self._form is _Form.EVENTS:
            if not self._any_chunk:
                self._body.add(data)
            return self._take_events(self._events.feed(data))
        self._body.add(data)
        if self._form is _Form.UNKNOWN:
            return self._recognise(at_end=False)
        return self._body.over

    def end(self, ending: Ending) -> Answer | Problem:
        """What it all came to."""
        head = self._head
        if head is None or (isinstance(ending, Broken) and not ending.sent):
            return no_reply(ending, head=head)
        if self._form is _Form.REFUSAL:
            return refusal(self._family, head, self._body.bytes())
        if self._form is _Form.UNKNOWN:
            self._recognise(at_end=True)
        if self._form is _Form.EVENTS and not self._done and self._problem is None:
            self._take_events(self._events.end())
        elif self._form is _Form.JSON:
            self._take_whole(head, ending)
        return self._problem or self._verdict(head, ending)

    def _recognise(self, *, at_end: bool) -> bool:
        """Tell events from JSON by the first byte that says something, else by the content type."""
        assert self._head is not None
        bare = self._body.bytes().lstrip(_BLANK)
        if not bare and not at_end:
            self._body = Body(cap_bytes=_BODY_CAP_BYTES)
            return False
        kind = self._head.headers.get("content-type", "").lower()
        if bare[:1] in {b"{", b"["} or not (bare[:1] in {b"d", b"e", b"i", b"r", b":"} or "event-stream" in kind):
            self._form = _Form.JSON
            return self._body.over
        self._form = _Form.EVENTS
        self._body = Body(cap_bytes=_SHOWN_BYTES)
        self._body.add(bare)
        return self._take_events(self._events.feed(bare))

    def _take_events(self, events: list[SseEvent]) -> bool:
        for event in events:
            if event.data.startswith(DONE):
                self._done = True
                return True
            if event.data:
                self._take(event.data, is_error=event.name == "error")
            if self._problem is not None:
                return True
        if self._events.overflow is not None:
            cap = self._events.overflow
            self._stop(K.TOO_LARGE, f"the stream has {cap.what} of more than {cap.cap_bytes} bytes")
            return True
        return False

    def _take_whole(self, head: Head, ending: Ending) -> None:
        body = self._body.bytes()
        if self._body.over:
            self._stop(K.TOO_LARGE, f"the answer is larger than {_BODY_CAP_BYTES} bytes")
        elif not isinstance(decode(body), NotJson):
            self._take(body, is_error=False)
        else:
            match ending:
                case Broken():
                    self._problem = broken_problem(ending, head=head)
                case Whole():
                    self._problem = unreadable(self._family, head, body)

    def _take(self, data: bytes, *, is_error: bool) -> None:
        """One chunk. An error among chunks is classified like an HTTP error."""
        try:
            chunk = _CHUNKS.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            patient = self._take_patiently(data, is_error=is_error)
            if patient is None:
                return
            chunk = patient
        if chunk.error or chunk.errors or is_error or (chunk.choices is None and chunk.usage is None):
            self._take_odd(chunk, data, is_error=is_error)
            if self._problem is not None:
                return
        self._any_chunk = True
        if chunk.usage is not None:
            self._usage = usage_of(chunk.usage) or self._usage
        for choice in chunk.choices or ():
            self._grow(choice)

    def _grow(self, choice: Choice) -> None:
        place = choice.index if isinstance(choice.index, int) else 0
        draft = self._drafts.get(place)
        if draft is None:
            draft = self._drafts[place] = Draft()
        draft.take(choice)
        if draft.size_bytes > TEXT_CAP_BYTES:
            self._stop(K.TOO_LARGE, f"the answer is longer than {TEXT_CAP_BYTES} bytes")

    def _take_patiently(self, data: bytes, *, is_error: bool) -> Chunk | None:
        """The chunk in bytes that the fast reader refused; a problem when there is none."""
        value = decode_patiently(data)
        try:
            if not isinstance(value, NotJson):
                return msgspec.convert(value, Chunk)
        except (msgspec.ValidationError, RecursionError):
            pass
        assert self._head is not None
        if is_error or not self._any_chunk:
            self._problem = problem_of(self._family, self._head, read_fault(data), status=None)
        if not is_error and (self._problem is None or self._problem.kind is K.SERVER_ERROR):
            shown = data[:200].decode("utf-8", "replace")
            self._stop(K.STREAM_CORRUPT, f"the stream has an event that is no chunk of an answer: {shown}")
        return None

    def _take_odd(self, chunk: Chunk, data: bytes, *, is_error: bool) -> None:
        """A chunk with an error, with neither choices nor usage, or none at all."""
        assert self._head is not None
        value = decode(data)
        if isinstance(value, NotJson) or not is_object(value):
            return
        named = chunk.error or chunk.errors or is_error or value.get("object") == "error"
        if named or ("message" in value and "code" in value):
            self._problem = problem_of(self._family, self._head, fault_in(value), status=None)

    def _stop(self, kind: ProblemKind, message: str) -> None:
        self._problem = plain_problem(kind, message, head=self._head)

    def _verdict(self, head: Head, ending: Ending) -> Answer | Problem:
        """The table of PROTOCOL 4.5: complete by `[DONE]` or a finish reason, and not empty."""
        draft = self._drafts[min(self._drafts)] if self._drafts else Draft()
        is_json = self._form is _Form.JSON
        if not (self._done or is_json or draft.finish_reason) or draft.finish_reason in _ABORTED:
            return self._cut(head, ending, draft)
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
        is_json = self._form is _Form.JSON
        odd = {
            "no_done": not (is_json or self._done),
            "no_finish_reason": draft.finish_reason is None,
            "cut_after_end": is_json and isinstance(ending, Broken),
            "more_choices": len(self._drafts) > 1,
        }
        return tuple(flag for flag, holds in odd.items() if holds)

    def _cut(self, head: Head, ending: Ending, draft: Draft) -> Problem:
        """The problem of a stream that ended before its answer did."""
        if isinstance(ending, Broken):
            return broken_problem(ending, head=head)
        if self._any_chunk:
            reason = f"finish reason {draft.finish_reason!r}" if draft.finish_reason else "no finish reason"
            message = f"the stream ended after {draft.size_bytes} bytes of answer with {reason}"
            return self._failed(K.STREAM_CUT, message, head)
        lead = self._body.bytes()
        spoken = unreadable(self._family, head, lead)
        if spoken.kind not in {K.STREAM_CORRUPT, K.EMPTY_RESPONSE}:
            return spoken
        shown = lead[:200].decode("utf-8", "replace").strip()
        return self._failed(K.STREAM_CUT, f"the stream ended before any answer: {shown}", head)

    def _held_to_schema(self, answer: Answer, head: Head) -> Answer | Problem:
        """The answer with its value, or what to tell the model. An answer that only calls tools has none."""
        if self._check is None or (answer.tool_calls and not answer.text):
            return answer
        match self._check.look(answer.text):
            case Fits(value=value):
                return replace(answer, parsed=value)
            case Misses(fault=fault):
                fault = f"{fault} (the answer was cut off by the token limit)" if answer.truncated else fault
                problem = self._failed(K.SCHEMA_MISS, f"the answer breaks the schema: {fault}", head)
                return replace(problem, correction=Correction(said=answer.text, fault=fault))
            case Unusable(fault=fault):
                return self._failed(K.CONFIGURATION, fault, head)

    def _failed(self, kind: ProblemKind, message: str, head: Head) -> Problem:
        return replace(plain_problem(kind, message, head=head), usage=self._usage)
