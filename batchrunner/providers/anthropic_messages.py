"""The dialect of Anthropic's messages, as Anthropic and ModelScope's second route use it.

Parameters are passed on as they are, unknown ones too. Text alone is sent as a string, for one back end takes no list
there. See docs/providers/anthropic.md#request.
"""

from base64 import b64encode
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from batchrunner.core.classify import family_of
from batchrunner.core.http import Decoder, Ending, Interrupted, Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider, Turn
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision, SendOutcome
from batchrunner.core.sign import Family
from batchrunner.providers.anthropic_accumulator import (
    PARTS,
    Message,
    MessageAccumulator,
    MessageEvent,
    event_with_rest,
    message_with_rest,
)
from batchrunner.providers.chat_media import pictures_in_text, without_thinking
from batchrunner.providers.error_bodies import fault_in, is_blank, message_in, problem_of, reports_error
from batchrunner.providers.json_bodies import KeptBody, NotJson, anthropic_url, at, decode, is_object, whole_number
from batchrunner.providers.known_shapes import message_answer, message_events, plain_answer
from batchrunner.providers.native_shapes import as_chat, chat_as_message, chunk_as_events
from batchrunner.providers.rate_headers import hints_of
from batchrunner.providers.reply_fields import meaning_of
from batchrunner.providers.sse import STRAY, SseEvent, is_done
from batchrunner.providers.stream_decoder import TEXT_CAP_BYTES, StreamedReply
from batchrunner.providers.structured import NAME, AnswerTool, SchemaCheck, SchemaChecks, correction_text

# The reader of an Anthropic messages reply: what its events say, and when they are a whole answer.
#
# Refuses a stream whose beginning is lost: pieces of a block that never began. `message_start` itself may be missing:
# llama.cpp leaves it out when its first token makes no text. An `error` event inside a 200 is classified by its words.
# See docs/providers/anthropic.md#answer-and-stream.

K = ProblemKind

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
        self._draft = MessageAccumulator()
        self._odd = False
        """True once a line came that is no part of a stream, before the answer's end."""

    def _take_event(self, event: SseEvent) -> None:
        if not event.data or is_done(event.data):  # the end of another dialect; this one has its own
            self._odd = self._odd or event is STRAY
            return
        try:
            said = _EVENTS.decode(event.data)
        except _FAULTS:
            patient = self._tolerantly(event)
            if patient is None:
                return
            said = patient
        name = _name(said.type, event)
        if name == _ERROR or any(not is_blank(error) for error in (said.error, said.errors)):
            self._take_error(event.data)
        elif name in PARTS:
            self._take_part(name, said)
        elif name not in _IGNORED:
            value = decode(event.data)
            if is_object(value) and reports_error(value):
                self._take_error(event.data)
            elif is_object(value) and any(value[key] for key in value.keys() - {"type"}):
                self._draft.take_rest({"other_events": [value]})

    def _take_ordinary(self, data: bytes) -> bool | None:
        events = message_events(data)
        if events is None:
            return None
        draft = self._draft
        taken = draft.take_ordinary(events, begun=self._begun)
        if not taken:
            return None
        self._begun, self._done = True, draft.finished
        if draft.size_bytes > TEXT_CAP_BYTES:
            self._too_long()
        if taken < len(events) and self._problem is None:
            rest = data.replace(b"\r\n", b"\n").split(b"\n\n")[taken:]
            self._take_events(self._fed(b"\n\n".join(rest)))
        return self._done or self._problem is not None

    def _read_grown(self, head: ResponseHead) -> Answer | None:
        draft = self._draft
        if self._tool is not None or not (draft.started and draft.finished) or draft.stop_reason is None:
            return None
        return plain_answer(draft.text, draft.reasoning, draft.stop_reason, draft.usage, head)

    def _read_ordinary(self, body: bytes | bytearray, head: ResponseHead) -> Answer | None:
        return message_answer(body, head) if self._tool is None else None

    def _take_late(self, event: SseEvent) -> None:
        """Some servers send usage after the end."""
        value = decode(event.data)
        self._draft.count(None if isinstance(value, NotJson) else at(value, "usage"))

    @property
    def _is_finished(self) -> bool:
        reason = self._draft.stop_reason
        return self._draft.finished or (reason is not None and meaning_of(reason) != "broken")

    def _holds_an_end(self, body: bytes) -> bool:
        value = decode(body)
        return bool(at(_parsed_message(value), "stop_reason"))

    def _tolerantly(self, event: SseEvent) -> MessageEvent | None:
        """The event in data that the fast reader refused; None for one that is not of an answer, or no event at all."""
        value = decode(event.data)
        if isinstance(value, NotJson):
            if event.name not in _IGNORED:
                self._refuse_event(event.data, is_error=event.name == _ERROR)
            return None
        if (chat := _chat_in(value)) is not None:
            self._take_chunk(chat, event.data)
            return None
        try:
            return msgspec.convert(event_with_rest(value) if is_object(value) else value, MessageEvent)
        except (msgspec.ValidationError, UnicodeError, RecursionError):
            name = _name(at(value, "type"), event)
            if name in {*PARTS, _ERROR, ""} or at(value, "error") or at(value, "errors"):
                self._refuse_event(event.data, is_error=name == _ERROR)
            return None

    def _take_error(self, data: bytes) -> None:
        assert self._head is not None
        value = decode(data)
        if self._is_finished:
            self._late_trouble = True
        elif isinstance(value, NotJson):
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

    def _take_chunk(self, chunk: dict[str, Json], data: bytes) -> None:
        """A chunk of OpenAI's, which some gateways answer with whatever they are asked for."""
        said = chunk_as_events(chunk)
        if said is None:
            self._refuse_event(data, is_error=False)
            return
        for each in said:
            part = msgspec.convert(each, MessageEvent)
            PARTS[str(part.type)](self._draft, part)
        self._take_over()

    def _take_over(self) -> None:
        """What the draft came to."""
        self._begun = True
        self._done = self._draft.finished
        if self._draft.size_bytes > TEXT_CAP_BYTES:
            self._too_long()

    def _take_json(self, body: bytes) -> None:
        value = decode(body)
        try:
            message = msgspec.convert(_parsed_message(value), Message)
        except (msgspec.ValidationError, UnicodeError, RecursionError):
            self._refuse_event(body, is_error=False)
            return
        named = any(not is_blank(error) for error in (message.error, message.errors)) or message.type == _ERROR
        silent = message.content is None and message.stop_reason is None
        if named or (silent and not isinstance(value, NotJson) and message_in(value)):
            self._take_error(body)
            return
        self._draft.take_message(message)
        self._take_over()

    def _verdict(self, head: ResponseHead, ending: Ending) -> Answer | Problem:
        """Complete by `message_stop` or a stop reason, and not empty."""
        draft = self._draft
        self._usage = draft.usage
        reason = draft.stop_reason
        ended = self._done and not self._odd
        if not (ended or self._is_json or reason) or meaning_of(reason) == "broken":
            return self._cut(head, ending, size_bytes=draft.size_bytes, finish_reason=reason)
        if meaning_of(reason) == "filtered":
            return self._failed(K.CONTENT_FILTER, draft.text or "the model's provider refused to answer", head)
        truncated = meaning_of(reason) == "cut"
        text, thought = without_thinking(draft.text, cut=truncated)
        media = draft.media
        media.pictures += pictures_in_text(text)
        thinking = "\n\n".join(found for found in (draft.reasoning, "".join(media.thinking), thought) if found)
        words = text or draft.tool_calls or media.pictures or media.sounds
        if not (words or thinking):
            return self._failed(K.EMPTY_RESPONSE, "the server answered without any content", head)
        answer = Answer(
            text=text,
            reasoning=thinking or None,
            tool_calls=draft.tool_calls,
            finish_reason=reason,
            truncated=truncated,
            usage=self._usage,
            flags=self._flags(ending, reasoning_only=not words and not truncated),
            hints=hints_of(head),
            pictures=tuple(dict.fromkeys(media.pictures)),
            sounds=tuple(media.sounds),
            extras=draft.extras,
        )
        if self._tool is not None:
            answer = self._tool.taken_from(answer)
        return self._held_to_schema(answer, head)

    def _flags(self, ending: Ending, *, reasoning_only: bool) -> tuple[str, ...]:
        odd = {
            "no_message_start": not self._draft.started,
            "no_message_stop": not (self._is_json or self._done),
            "no_finish_reason": self._draft.stop_reason is None,
            "no_block_start": self._draft.missed_a_beginning,
            "cut_after_end": self._is_json and isinstance(ending, Interrupted),
            "reasoning_only": reasoning_only,
            "trouble_after_end": self._late_trouble,
        }
        return tuple(flag for flag, holds in odd.items() if holds)


def _parsed_message(value: Json | NotJson) -> Json:
    """A message as the readers take it, from whatever API's shape it came in."""
    if isinstance(value, NotJson):
        return None
    chat = _chat_in(value)
    value = (chat_as_message(chat) or value) if chat is not None else value
    return message_with_rest(value) if is_object(value) else value


def _chat_in(value: Json) -> dict[str, Json] | None:
    """An answer in another API's shape; None for one in Anthropic's own."""
    if is_object(value) and "choices" in value:
        return value
    kind = at(value, "type")
    own = isinstance(kind, str) and kind in {"message", *PARTS}
    return None if own else as_chat(value)


def _name(said: object, event: SseEvent) -> str:
    """The event's own type; where it has none, the name of its line."""
    return said if isinstance(said, str) and said else event.name


VERSION: Final = "2023-06-01"
MAX_TOKENS: Final = 4096
"""Of an answer, unless the job's parameters say otherwise: the server insists on a figure."""
UNSTREAMED_MAX_TOKENS: Final = 21_333
"""More must be streamed: the whole answer could take longer than ten minutes."""

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_THINKING: Final = ("thinking", "enable_thinking")


class AnthropicMessages:
    """A `Dialect`. Keeps the ready-made check of the job's schema, and what its requests have in common."""

    def __init__(self, provider: Provider) -> None:
        self._url = anthropic_url(provider, "messages")
        self._family = family_of(provider)
        self._checks = SchemaChecks()
        body = _body_to_cache if provider.cache_system else _body
        self._bodies = KeptBody(self._url, body=body, headers=_headers)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<AnthropicMessages {self._url}>"

    def encode(self, item: Item, revision: Revision) -> Request:
        """The POST of one message, streamed unless the item says otherwise."""
        return self._bodies.request(item, revision)

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for its reply."""
        if item.schema is None:
            return MessagesDecoder(self._family, check=None, tool=None)
        return MessagesDecoder(self._family, check=self._checks.of(item.schema), tool=AnswerTool(item.schema))


def _headers(body: dict[str, Json]) -> dict[str, str]:
    accept = "text/event-stream" if body.get("stream") is True else "application/json"
    return {"content-type": "application/json", "accept": accept, "anthropic-version": VERSION}


def _body(item: Item, revision: Revision) -> dict[str, Json]:
    body: dict[str, Json] = {
        "model": item.model,
        "max_tokens": MAX_TOKENS + (whole_number(at(item.params, "thinking", "budget_tokens")) or 0),
        "messages": _messages(item, revision),
        "stream": item.stream,
    }
    system = "\n\n".join(turn.content for turn in item.turns if turn.role in _SYSTEM_ROLES and turn.content)
    if system:
        body["system"] = system
    body.update(item.params)
    if item.schema is not None:
        _force_tool(body, AnswerTool(item.schema))
    if "no_thinking_switch" in revision.adapted:
        for name in _THINKING:
            body.pop(name, None)
    if revision.adapted & {"stream", "no_thinking_switch"} or _takes_long(body):
        body["stream"] = True
    if "no_stream" in revision.adapted:
        body["stream"] = False
    return body


def _body_to_cache(item: Item, revision: Revision) -> dict[str, Json]:
    """A body whose beginning, tools and then the system prompt, the server is asked to keep for the next requests."""
    body = _body(item, revision)
    mark: Json = {"type": "ephemeral"}
    system, tools = body.get("system"), body.get("tools")
    if isinstance(system, str) and system:
        body["system"] = [{"type": "text", "text": system, "cache_control": mark}]
    elif isinstance(tools, list) and tools and is_object(tools[-1]):
        body["tools"] = [*tools[:-1], {**tools[-1], "cache_control": mark}]
    return body


def _takes_long(body: dict[str, Json]) -> bool:
    return (whole_number(body.get("max_tokens")) or 0) > UNSTREAMED_MAX_TOKENS


def _force_tool(body: dict[str, Json], tool: AnswerTool) -> None:
    """Beside the tools that the person offers. A model that thinks may not be forced: it is only offered the tool."""
    given = body.get("tools")
    body["tools"] = [*(given if isinstance(given, list) else []), tool.offer()]
    thinks = at(body, "thinking", "type") in {"enabled", "adaptive"}
    body.setdefault("tool_choice", {"type": "auto"} if thinks else {"type": "tool", "name": NAME})


def _messages(item: Item, revision: Revision) -> list[Json]:
    """The turns without the system's; pictures and files are in the last user turn; a correction comes last."""
    turns = [turn for turn in item.turns if turn.role not in _SYSTEM_ROLES]
    last_user = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=None)
    is_ready = any(turn.raw is not None for turn in turns)  # its pictures stand in its messages
    shown = [] if is_ready else _shown(item)
    messages = [_message(turn, shown if place == last_user else []) for place, turn in enumerate(turns)]
    if last_user is None and (item.pictures or item.files):
        messages.append(_message(Turn(role="user", content=""), _shown(item)))
    if revision.correction is not None:
        if revision.correction.said.strip():  # an empty turn is refused; two of the same role are not
            messages.append({"role": "assistant", "content": revision.correction.said})
        messages.append({"role": "user", "content": correction_text(revision.correction)})
    return messages


def _shown(item: Item) -> list[Json]:
    pictures: list[Json] = [{"type": "image", "source": _source(picture.url)} for picture in item.pictures]
    return pictures + [{"type": "document", "source": _source(file.url)} for file in item.files]


def _message(turn: Turn, shown: list[Json]) -> Json:
    """Pictures and documents come before the text about them; a ready message stays as it stands."""
    if turn.raw is not None:
        return turn.raw
    if not shown:
        return {"role": turn.role, "content": turn.content}
    words: list[Json] = [{"type": "text", "text": turn.content}] if turn.content else []
    return {"role": turn.role, "content": shown + words}


def _source(url: str) -> Json:
    """A picture or document by its URL, or the media type and base64 of a data URL."""
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    described, _, payload = url[5:].partition(",")
    media_type, *options = described.split(";")
    packed = payload if "base64" in options else b64encode(unquote_to_bytes(payload)).decode()
    return {"type": "base64", "media_type": media_type or "image/png", "data": packed}
