"""The reader of an Anthropic messages reply: what its events say, and when they are a whole answer.

Refuses a stream whose beginning is lost: pieces of a block that never began. `message_start` itself may be missing:
llama.cpp leaves it out when its first token makes no text. An `error` event inside a 200 is classified by its words.
Source: PROTOCOL 5.2 to 5.4.
"""

from typing import Final

import msgspec

from batchrunner.core.classify import Family
from batchrunner.core.outcome import Answer, Problem, ProblemKind
from batchrunner.core.wire import Broken, Ending, Head
from batchrunner.providers.answer_tool import AnswerTool
from batchrunner.providers.hints import hints_of
from batchrunner.providers.json_text import NotJson, at, decode, decode_patiently
from batchrunner.providers.messages_draft import PARTS, Message, MessageDraft, MessageEvent
from batchrunner.providers.replies import fault_in, message_in, problem_of
from batchrunner.providers.sse import DONE, SseEvent
from batchrunner.providers.streamed_reply import ABORTED, TEXT_CAP_BYTES, StreamedReply
from batchrunner.providers.structured import SchemaCheck

K = ProblemKind

_FILTERED: Final = frozenset({"refusal", "content_filter", "sensitive"})
_TRUNCATED: Final = frozenset({"max_tokens", "model_context_window_exceeded", "pause_turn", "length"})
"""Stop reasons that leave an answer unfinished; the last one is how servers of another house say it."""
_ERROR: Final = "error"
_IGNORED: Final = frozenset({"ping"})
_STARTS: Final = frozenset({"message_start", "message_delta"})
"""Events before which nothing of an answer can have been lost; the start of its first block is the third."""
_FIRST_BLOCK: Final = "content_block_start"

_EVENTS: Final = msgspec.json.Decoder(MessageEvent)
_FAULTS: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


class MessagesDecoder(StreamedReply):
    """A `Decoder[SendOutcome]` for one reply. `tool` is the one that carries a structured answer, if one was forced."""

    def __init__(self, family: Family, *, check: SchemaCheck | None, tool: AnswerTool | None) -> None:
        super().__init__(family, check=check)
        self._tool = tool
        self._draft = MessageDraft()

    def _take_event(self, event: SseEvent) -> None:
        if not event.data or event.data.startswith(DONE):  # another house's end; this one has its own
            return
        try:
            said = _EVENTS.decode(event.data)
        except _FAULTS:
            patient = self._patiently(event)
            if patient is None:
                return
            said = patient
        name = _name(said.type, event)
        if name == _ERROR or said.error or said.errors:
            self._take_error(event.data)
        elif name in PARTS:
            self._take_part(name, said)

    def _patiently(self, event: SseEvent) -> MessageEvent | None:
        """The event in data that the fast reader refused; None for one that is not of an answer, or no event at all."""
        value = decode_patiently(event.data)
        if isinstance(value, NotJson):
            if event.name not in _IGNORED:
                self._refuse_event(event.data, is_error=event.name == _ERROR)
            return None
        try:
            return msgspec.convert(value, MessageEvent)
        except (msgspec.ValidationError, UnicodeError, RecursionError):
            name = _name(at(value, "type"), event)
            if name in {*PARTS, _ERROR, ""} or at(value, "error") or at(value, "errors"):
                self._refuse_event(event.data, is_error=name == _ERROR)
            return None

    def _take_error(self, data: bytes) -> None:
        assert self._head is not None
        value = decode(data)
        if isinstance(value, NotJson):
            self._refuse_event(data, is_error=True)
        else:
            self._problem = problem_of(
                self._family, self._head, fault_in(value), status=None, under_way=self._has_content()
            )

    def _take_part(self, name: str, said: MessageEvent) -> None:
        if not (self._begun or name in _STARTS or (name == _FIRST_BLOCK and said.index in (0, None))):
            self._stop(K.STREAM_CORRUPT, f"the stream has a {name} before any message_start")
            return
        fault = PARTS[name](self._draft, said)
        if fault is not None:
            self._stop(K.STREAM_CORRUPT, fault)
        self._take_over()

    def _take_over(self) -> None:
        """What the draft came to."""
        self._begun = True
        self._done = self._draft.finished
        self._usage = self._draft.usage
        if self._draft.size_bytes > TEXT_CAP_BYTES:
            self._too_long()

    def _take_json(self, body: bytes) -> None:
        value = decode(body)
        try:
            message = msgspec.convert(value, Message)
        except (msgspec.ValidationError, UnicodeError, RecursionError):
            self._refuse_event(body, is_error=False)
            return
        named = message.error or message.errors or message.type == _ERROR
        silent = message.content is None and message.stop_reason is None
        if named or (silent and not isinstance(value, NotJson) and message_in(value)):
            self._take_error(body)
            return
        self._draft.take_message(message)
        self._take_over()

    def _verdict(self, head: Head, ending: Ending) -> Answer | Problem:
        """Complete by `message_stop` or a stop reason, and not empty."""
        draft = self._draft
        reason = draft.stop_reason
        if not (self._done or self._is_json or reason) or reason in ABORTED:
            return self._cut(head, ending, size_bytes=draft.size_bytes, finish_reason=reason)
        if reason in _FILTERED:
            return self._failed(K.CONTENT_FILTER, draft.text or "the model's provider refused to answer", head)
        truncated = reason in _TRUNCATED
        if not (draft.text or draft.tool_calls or (truncated and draft.reasoning)):
            return self._failed(K.EMPTY_RESPONSE, "the server answered without any content", head)
        answer = Answer(
            text=draft.text,
            reasoning=draft.reasoning,
            tool_calls=draft.tool_calls,
            finish_reason=reason,
            truncated=truncated,
            usage=self._usage,
            flags=self._flags(ending),
            hints=hints_of(head),
        )
        if self._tool is not None:
            answer = self._tool.taken_from(answer)
        return self._held_to_schema(answer, head)

    def _flags(self, ending: Ending) -> tuple[str, ...]:
        odd = {
            "no_message_start": not self._draft.started,
            "no_message_stop": not (self._is_json or self._done),
            "no_finish_reason": self._draft.stop_reason is None,
            "no_block_start": self._draft.missed_a_beginning,
            "cut_after_end": self._is_json and isinstance(ending, Broken),
        }
        return tuple(flag for flag, holds in odd.items() if holds)


def _name(said: object, event: SseEvent) -> str:
    """The event's own type; where it has none, the name of its line."""
    return said if isinstance(said, str) and said else event.name
