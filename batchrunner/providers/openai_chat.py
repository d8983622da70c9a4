"""The dialect of OpenAI's chat completions, as ModelScope, vLLM and many others use it: requests, and their replies.

Parameters are passed on as they are, unknown ones too; nothing is dropped or renamed but what a revision asks for. An
answer is complete by what it says, not by the connection's end: see `_verdict`. Once it is, whatever follows takes
nothing back. See docs/providers/openai.md#request and docs/providers/openai.md#when-an-answer-is-complete.
"""

from typing import Final

import msgspec

from batchrunner.core.classify import family_of
from batchrunner.core.http import Decoder, Ending, Interrupted, Request, ResponseHead
from batchrunner.core.item import InputFile, InputPicture, Item
from batchrunner.core.job import Json, Provider, Turn
from batchrunner.core.outcome import Alternative, Answer, Problem, ProblemKind, Revision, SendOutcome, ToolCall, Usage
from batchrunner.core.sign import Family
from batchrunner.core.values import dataclass, replace
from batchrunner.providers.chat_media import pictures_in_text, without_thinking
from batchrunner.providers.error_bodies import fault_in, has_words, is_blank, problem_of, reports_error
from batchrunner.providers.json_bodies import KeptBody, NotJson, at, decode, is_object, openai_url
from batchrunner.providers.known_shapes import chat_answer, chat_counts, chat_events, plain_answer
from batchrunner.providers.openai_accumulator import EXTRAS_OF_CHUNK, KNOWN, ChatAccumulator, Choice, Chunk, grow
from batchrunner.providers.rate_headers import hints_of
from batchrunner.providers.reply_fields import added_up, keep, meaning_of, repeated_usage, split, unwrapped, usage_of
from batchrunner.providers.sse import STRAY, SseEvent, is_done
from batchrunner.providers.stream_decoder import TEXT_CAP_BYTES, StreamedReply
from batchrunner.providers.structured import (
    Fits,
    SchemaCheck,
    SchemaChecks,
    correction_text,
    refuses_schema,
    schema_in_words,
)

_THINKING: Final = "enable_thinking"
_FORMAT: Final = "response_format"


class OpenAiChat:
    """A `Dialect`. Keeps the ready-made check of the job's schema, and what its requests have in common."""

    def __init__(self, provider: Provider) -> None:
        self._url = openai_url(provider, "chat/completions")
        self._family = family_of(provider)
        self._checks = SchemaChecks()
        self._bodies = KeptBody(self._url, body=_body, headers=_headers)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<OpenAiChat {self._url}>"

    def encode(self, item: Item, revision: Revision) -> Request:
        """The POST of one chat, streamed unless the item says otherwise."""
        return self._bodies.request(item, revision)

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for its reply."""
        check = None if item.schema is None else self._checks.of(item.schema)
        return ChatDecoder(self._family, check=check, sends_schema=_sends_schema(item))


def _headers(body: dict[str, Json]) -> dict[str, str]:
    accept = "text/event-stream" if body.get("stream") is True else "application/json"
    return {"content-type": "application/json", "accept": accept}


def _body(item: Item, revision: Revision) -> dict[str, Json]:
    body: dict[str, Json] = {"model": item.model, "messages": _messages(item, revision), "stream": item.stream}
    if item.schema is not None and (form := _form_of(item.schema, revision)) is not None:
        body[_FORMAT] = form
    body.update(item.params)
    if "no_thinking_switch" in revision.adapted:
        _drop_thinking_switch(body)
    if revision.adapted & {"stream", "no_thinking_switch"}:
        body["stream"] = True
    if "no_stream" in revision.adapted:
        body["stream"] = False
        body.pop("stream_options", None)
    if body["stream"] is True and "stream_options" not in body:
        body["stream_options"] = {"include_usage": True}
    if "no_stream_options" in revision.adapted:
        body.pop("stream_options", None)
    return body


def _sends_schema(item: Item) -> bool:
    """False without a schema, and where the person wrote the format: that is sent as it is, whatever comes of it."""
    return item.schema is not None and _FORMAT not in item.params


def _form_of(schema: dict[str, Json], revision: Revision) -> Json:
    """How the request carries the schema; where a server takes none, `json_object` promises an object and no more."""
    if "json_object" not in revision.adapted:
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {"type": "json_object"} if schema.get("type") == "object" else None


def _drop_thinking_switch(body: dict[str, Json]) -> None:
    """For a model that only thinks: any switch is refused, so both places where one can stand are cleared."""
    body.pop(_THINKING, None)
    options = body.get("chat_template_kwargs")
    if is_object(options):
        body["chat_template_kwargs"] = {name: value for name, value in options.items() if name != _THINKING}


def _messages(item: Item, revision: Revision) -> list[Json]:
    """The turns; pictures, files and a schema in words are in the last user turn; a correction comes last."""
    words = _schema_in_words(item, revision)
    last_user = max((place for place, turn in enumerate(item.turns) if turn.role == "user"), default=None)
    is_ready = any(turn.raw is not None for turn in item.turns)  # its pictures stand in its messages
    messages: list[Json] = [
        _message(_with(turn, words), None if is_ready else item) if place == last_user else _message(turn, None)
        for place, turn in enumerate(item.turns)
    ]
    if last_user is None and (item.pictures or item.files or words):
        messages.append(_message(Turn(role="user", content=words), item))
    if revision.correction is not None:
        messages.append({"role": "assistant", "content": revision.correction.said})
        messages.append({"role": "user", "content": correction_text(revision.correction)})
    return messages


def _schema_in_words(item: Item, revision: Revision) -> str:
    """Where the format cannot carry it, the conversation does; empty where it can."""
    needs_words = "json_object" in revision.adapted and _sends_schema(item)
    return schema_in_words(item.schema) if needs_words and item.schema is not None else ""


def _with(turn: Turn, words: str) -> Turn:
    if words and turn.raw is not None:
        content = turn.raw.get("content")
        more: Json = [*content, {"type": "text", "text": words}] if isinstance(content, list) else None
        return replace(turn, raw={**turn.raw, "content": more or f"{turn.content}\n\n{words}"})
    return replace(turn, content="\n\n".join(filter(None, (turn.content, words)))) if words else turn


def _message(turn: Turn, pictured: Item | None) -> Json:
    if turn.raw is not None:
        return turn.raw
    if pictured is None or not (pictured.pictures or pictured.files):
        return {"role": turn.role, "content": turn.content}
    # before the text about them, as ModelScope's own example has it
    text: list[Json] = [{"type": "text", "text": turn.content}] if turn.content else []
    pictures: list[Json] = [{"type": "image_url", "image_url": _shown(picture)} for picture in pictured.pictures]
    return {"role": turn.role, "content": pictures + [_attached(file) for file in pictured.files] + text}


def _attached(file: InputFile) -> Json:
    """A PDF as a data URL with a name, which is required; sound as bare base64 with its format."""
    if file.kind == "pdf":
        return {
            "type": "file",
            "file": {"filename": file.name.rpartition("/")[2] or "file.pdf", "file_data": file.url},
        }
    return {"type": "input_audio", "input_audio": {"data": file.url.partition(",")[2], "format": file.kind}}


def _shown(picture: InputPicture) -> Json:
    return {"url": picture.url} if picture.detail is None else {"url": picture.url, "detail": picture.detail}


# What the chunks of a reply say, and when they are a whole answer.

K = ProblemKind

_PERHAPS_THE_SCHEMA: Final = (
    "; models without support for response_format json_schema may do this when the job has a `schema`"
)

_SHOWN_OF_FILTERED: Final = 4_000
"""Characters of an answer that was cut off by a filter, for the failure's row: they were paid for."""

_CHUNKS: Final = msgspec.json.Decoder(Chunk)
_FAULTS: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A choice as it will be kept."""

    draft: ChatAccumulator
    text: str
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...]
    truncated: bool

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.tool_calls or self.reasoning or self.draft.pictures or self.draft.all_audio())


class ChatDecoder(StreamedReply):
    """A `Decoder[SendOutcome]` for one reply."""

    def __init__(self, family: Family, *, check: SchemaCheck | None, sends_schema: bool = False) -> None:
        super().__init__(family, check=check)
        self._sends_schema = sends_schema
        self._drafts: dict[int, ChatAccumulator] = {}
        self._counts: dict[str, Json] | None = None
        self._extras: dict[str, Json] = {}
        self._odd = False
        """True once the stream said something that is not part of an answer, before the answer's end."""

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
        if is_done(event.data):
            self._done = True
        elif event.data:
            self._take(event.data, is_error=event.name == "error")
        elif event is STRAY:
            self._odd = True

    def _take_ordinary(self, data: bytes) -> bool | None:
        found = chat_events(data)
        if found is None or not (found[0] or self._begun):
            return None
        events, self._done = found
        texts: list[str] = []
        thoughts: list[str] = []
        reason, has_choice = None, False
        for said in events:
            if said.usage is not None:
                self._counts = repeated_usage(self._counts, said.usage)
            for choice in said.choices:
                has_choice = True
                delta = choice.delta
                if delta.content:
                    texts.append(delta.content)
                if delta.reasoning_content:
                    thoughts.append(delta.reasoning_content)
                reason = choice.finish_reason or reason
        if has_choice:
            draft = self._drafts.get(0)
            if draft is None:
                draft = self._drafts[0] = ChatAccumulator()
            draft.take_ordinary("".join(texts), "".join(thoughts), reason)
            if draft.size_bytes > TEXT_CAP_BYTES:
                self._too_long()
        self._begun = True
        return self._done or self._problem is not None

    def _read_grown(self, head: ResponseHead) -> Answer | None:
        draft = self._drafts.get(0)
        if draft is None or len(self._drafts) != 1 or not self._done or draft.finish_reason is None:
            return None
        usage = chat_counts(self._counts) or usage_of(self._counts)
        return plain_answer(draft.text, draft.reasoning, draft.finish_reason, usage, head)

    def _read_ordinary(self, body: bytes | bytearray, head: ResponseHead) -> Answer | None:
        return chat_answer(body, head)

    def _take_late(self, event: SseEvent) -> None:
        """Some servers send usage after `[DONE]`."""
        chunk = self._chunk_of(event.data)
        if chunk is not None:
            self._count(chunk)

    def _take_json(self, body: bytes) -> None:
        self._take(body, is_error=False)

    @property
    def _is_finished(self) -> bool:
        return bool(self._drafts) and all(
            draft.finish_reason is not None and draft.error is None and meaning_of(draft.finish_reason) != "broken"
            for draft in self._drafts.values()
        )

    def _holds_an_end(self, body: bytes) -> bool:
        value = decode(body)
        choices = None if isinstance(value, NotJson) else at(unwrapped(value), "choices")
        return (
            isinstance(choices, list)
            and bool(choices)
            and all(at(choice, "finish_reason") or at(choice, "finishReason") for choice in choices)
        )

    def _take(self, data: bytes, *, is_error: bool) -> None:
        """One chunk. An error among chunks is classified like an HTTP error."""
        chunk = self._chunk_of(data)
        if chunk is None:
            self._refuse_event(data, is_error=is_error)
            return
        if chunk.error or chunk.errors or is_error or (not chunk.choices):
            self._take_odd(chunk, data, is_error=is_error)
            if self._problem is not None:
                return
        self._begun = True
        if chunk.usage is not None or chunk.timings is not None or chunk.x_groq is not None:
            self._count(chunk)
        for position, choice in enumerate(chunk.choices or ()):
            self._grow(choice, position)
        if chunk.citations or chunk.search_results or chunk.references or chunk.web_search or chunk.prompt_logprobs:
            for name in EXTRAS_OF_CHUNK:
                grow(self._extras, name, getattr(chunk, name) or None)

    def _count(self, chunk: Chunk) -> None:
        for said in (chunk.timings, at(chunk.x_groq, "usage") if is_object(chunk.x_groq) else None, chunk.usage):
            if said is not None:
                self._counts = repeated_usage(self._counts, said)

    def _chunk_of(self, data: bytes) -> Chunk | None:
        """The chunk in these bytes, if there is one; fields that its reader does not know are set aside."""
        try:
            return _CHUNKS.decode(data)
        except _FAULTS:
            pass
        value = decode(data)
        value = value if isinstance(value, NotJson) else unwrapped(value)
        if isinstance(value, NotJson) or not is_object(value):
            return None
        known, beside = split(value, KNOWN)
        try:
            chunk = msgspec.convert(known, Chunk)
        except (msgspec.ValidationError, UnicodeError, RecursionError):
            return None
        if chunk.choices is not None:
            keep(self._extras, beside)
        return chunk

    def _take_odd(self, chunk: Chunk, data: bytes, *, is_error: bool) -> None:
        """A chunk with an error, with neither choices nor usage, or none at all."""
        assert self._head is not None
        value = decode(data)
        if isinstance(value, NotJson) or not is_object(value):
            return
        named = any(not is_blank(error) for error in (chunk.error, chunk.errors)) or value.get("object") == "error"
        if not (named or is_error or (not chunk.choices and reports_error(value))):
            bare = chunk.choices is None and chunk.usage is None
            self._odd = self._odd or (bare and has_words(value))
            return
        if self._is_finished:
            self._late_trouble = True
        else:
            self._problem = problem_of(
                self._family, self._head, fault_in(value), status=None, under_way=self._has_content()
            )

    def _has_content(self) -> bool:
        return any(draft.has_content for draft in self._drafts.values())

    def _grow(self, choice: Choice, position: int) -> None:
        place = choice.index if isinstance(choice.index, int) else position
        if self._is_json and place in self._drafts:  # numbered badly: in one piece of JSON each is one of its own
            place = max(self._drafts) + 1
        draft = self._drafts.get(place)
        if draft is None:
            draft = self._drafts[place] = ChatAccumulator()
        draft.take(choice)
        if draft.size_bytes > TEXT_CAP_BYTES:
            self._too_long()

    def _verdict(self, head: ResponseHead, ending: Ending) -> Answer | Problem:
        """Complete by `[DONE]` or a finish reason, and not empty.

        Of several choices the first that is sound is the answer, and all of them are kept.
        """
        self._usage = self._all_counts()
        places = sorted(self._drafts)
        problems: list[Problem] = []
        read: dict[int, _Read] = {}
        for place in places:
            draft = self._drafts[place]
            problem = self._fault_of(draft, head, ending)
            if problem is None:
                read[place] = _read(draft)
                problem = self._fault_of_read(read[place], head)
            if problem is not None:
                problems.append(problem)
                read.pop(place, None)
        if not read:
            return problems[0] if problems else self._nothing(head, ending)
        answer = self._answer(read, self._best(read), ending, broken=bool(problems))
        held = self._held_to_schema(answer, head)
        if isinstance(held, Problem) and not answer.text and answer.reasoning:
            # some servers take a structured answer for thinking
            elsewhere = self._held_to_schema(replace(answer, text=answer.reasoning), head)
            held = replace(elsewhere, text="") if isinstance(elsewhere, Answer) else held
        return held

    def _nothing(self, head: ResponseHead, ending: Ending) -> Problem:
        """There is no choice at all."""
        if not (self._done or self._is_json):
            return self._cut(head, ending, size_bytes=0, finish_reason=None)
        return self._failed(K.EMPTY_RESPONSE, "the server answered without any content", head)

    def _fault_of(self, draft: ChatAccumulator, head: ResponseHead, ending: Ending) -> Problem | None:
        """Why a choice is not whole."""
        if draft.error is not None:
            fault = fault_in({"error": draft.error})  # type: ignore[dict-item]  # JSON, by its maker
            return replace(
                problem_of(self._family, head, fault, status=None, under_way=draft.has_content), usage=self._usage
            )
        reason = draft.finish_reason
        ended = self._done and not self._odd  # `[DONE]` after an error ends no answer
        if not (ended or self._is_json or reason) or meaning_of(reason) == "broken":
            return self._cut(head, ending, size_bytes=draft.size_bytes, finish_reason=reason)
        refused = draft.refusal
        if meaning_of(reason) == "filtered" or (refused and not draft.text):
            message = refused or "the answer was withheld by the server's content filter"
            if draft.text:
                message = f"{message}; before that it had sent:  {draft.text[:_SHOWN_OF_FILTERED]}"
            return self._failed(K.CONTENT_FILTER, message, head)
        return None

    def _fault_of_read(self, read: _Read, head: ResponseHead) -> Problem | None:
        if read.is_empty:
            return self._failed(K.EMPTY_RESPONSE, "the server answered without any content", head)
        return None

    def _best(self, read: dict[int, _Read]) -> int:
        """The first choice, or the first that fits the schema where there is one."""
        if self._check is None or len(read) == 1:
            return min(read)
        fitting = [place for place, choice in read.items() if isinstance(self._check.look(choice.text), Fits)]
        return min(fitting or read)

    def _answer(self, read: dict[int, _Read], best: int, ending: Ending, *, broken: bool) -> Answer:
        main = read[best]
        return Answer(
            text=main.text,
            reasoning=main.reasoning,
            tool_calls=main.tool_calls,
            finish_reason=main.draft.finish_reason,
            truncated=main.truncated,
            usage=self._usage,
            flags=self._flags(ending, main, broken=broken),
            hints=hints_of(self._head) if self._head is not None else None,
            pictures=tuple(dict.fromkeys(found for choice in read.values() for found in choice.draft.pictures)),
            sounds=tuple(found for choice in read.values() for found in choice.draft.all_audio()),
            choices=tuple(self._alternative(place, choice) for place, choice in read.items()) if len(read) > 1 else (),
            extras={**main.draft.all_extras, **self._extras},
        )

    def _alternative(self, place: int, read: _Read) -> Alternative:
        look = self._check.look(read.text) if self._check is not None else None
        return Alternative(
            index=place,
            text=read.text,
            reasoning=read.reasoning,
            tool_calls=read.tool_calls,
            finish_reason=read.draft.finish_reason,
            truncated=read.truncated,
            parsed=look.value if isinstance(look, Fits) else None,
            extras=read.draft.all_extras,
        )

    def _all_counts(self) -> Usage | None:
        usage = usage_of(self._counts)
        if usage is not None:
            return usage
        return added_up(found for draft in self._drafts.values() if (found := usage_of(draft.usage)) is not None)

    def _flags(self, ending: Ending, main: _Read, *, broken: bool) -> tuple[str, ...]:
        words = main.text or main.tool_calls or main.draft.pictures or main.draft.all_audio()
        odd = {
            "no_done": not (self._is_json or self._done),
            "no_finish_reason": main.draft.finish_reason is None,
            "cut_after_end": self._is_json and isinstance(ending, Interrupted),
            "more_choices": len(self._drafts) > 1,
            "broken_choice": broken,
            "reasoning_only": not words and not main.truncated,
            "trouble_after_end": self._late_trouble,
        }
        return tuple(flag for flag, holds in odd.items() if holds)


def _read(draft: ChatAccumulator) -> _Read:
    truncated = meaning_of(draft.finish_reason) == "cut"
    text, thought = without_thinking(draft.text, cut=truncated)
    for picture in pictures_in_text(text):
        draft.pictures.setdefault(picture)
    thinking = [found for found in (draft.reasoning, thought) if found]
    if not text:
        text = next((said.transcript for said in draft.all_audio() if said.transcript), "")
    return _Read(
        draft=draft,
        text=text,
        reasoning="\n\n".join(thinking) or None,
        tool_calls=draft.tool_calls,
        truncated=truncated,
    )
