"""The reader of a reply in OpenAI's Responses dialect: what its events say, and when they are a whole answer.

The event that ends a stream carries the whole response, so what was said before it is needed only where a server leaves
that out. A stream without its end is cut, whatever came. See docs/providers/openai-responses.md#answer-and-stream.
"""

from typing import Final

from batchrunner.core.http import Ending, Interrupted, ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Answer, Problem, ProblemKind, ToolCall
from batchrunner.core.sign import Family
from batchrunner.core.text import without_lone_surrogates
from batchrunner.core.values import dataclass, field, replace
from batchrunner.providers.chat_media import Parts, parts_of, pictures_in_text, without_thinking, words_in
from batchrunner.providers.error_bodies import fault_in, is_blank, message_in, problem_of, reports_error
from batchrunner.providers.json_bodies import NotJson, at, decode, encode, is_object, whole_number
from batchrunner.providers.native_shapes import as_chat
from batchrunner.providers.openai_chat import ChatDecoder
from batchrunner.providers.rate_headers import hints_of
from batchrunner.providers.reply_fields import meaning_of, usage_of
from batchrunner.providers.sse import STRAY, SseEvent, is_done
from batchrunner.providers.stream_decoder import TEXT_CAP_BYTES, StreamedReply
from batchrunner.providers.structured import SchemaCheck, refuses_schema

K = ProblemKind

_Object = dict[str, Json]

_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_ENDED: Final = frozenset({"completed", "incomplete"})
_BROKEN: Final = frozenset({"failed", "cancelled"})
_WAITING: Final = frozenset({"queued", "in_progress"})
_GROWING: Final[dict[str, tuple[str, str]]] = {
    "response.output_text.delta": ("message", "text"),
    "response.refusal.delta": ("message", "refusal"),
    "response.function_call_arguments.delta": ("function_call", "arguments"),
    "response.custom_tool_call_input.delta": ("custom_tool_call", "input"),
    "response.reasoning_summary_text.delta": ("reasoning", "summary"),
    "response.reasoning_text.delta": ("reasoning", "content"),
}
"""Events that say a piece more: the type of the item that grows, and what of it."""
_SHOWN_OF_FILTERED: Final = 4_000
_PERHAPS_THE_SCHEMA: Final = (
    "; models without support for text.format json_schema may do this when the job has a `schema`"
)


@dataclass(slots=True)
class _GrowingItem:
    """An item of the output while it grows."""

    kind: str
    begun: _Object
    pieces: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    """(what of it, which part of that) to its pieces."""
    whole: bool = False

    def item(self) -> _Object:
        """The item as far as it is known."""
        if self.whole:
            return self.begun
        said = {key: "".join(parts) for key, parts in self.pieces.items()}
        item: _Object = {**self.begun, "type": self.kind}
        if self.kind == "message":
            item["content"] = [
                {"type": "output_text", "text": text} if name == "text" else {"type": "refusal", "refusal": text}
                for (name, _), text in said.items()
            ]
        elif self.kind == "reasoning":
            item["summary"] = [{"type": "summary_text", "text": text} for (n, _), text in said.items() if n[0] == "s"]
            item["content"] = [{"type": "reasoning_text", "text": text} for (n, _), text in said.items() if n[0] == "c"]
        else:
            item |= {name: text for (name, _), text in said.items()}
        return item


@dataclass(slots=True)
class _OutputRead:
    """What the items of an output say."""

    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    media: Parts = field(default_factory=Parts)
    annotations: list[Json] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    others: list[Json] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        media = self.media
        return not (any(self.text) or any(self.thinking) or self.refusal or self.calls or media.pictures or self.others)


class ResponsesDecoder(StreamedReply):
    """A `Decoder[SendOutcome]` for one reply."""

    def __init__(self, family: Family, *, check: SchemaCheck | None, sends_schema: bool = False) -> None:
        super().__init__(family, check=check)
        self._sends_schema = sends_schema
        self._growing: dict[int, _GrowingItem] = {}
        self._size_bytes = 0
        self._last = b""
        self._response: _Object = {}
        """The response that the end carries, or the whole answer in JSON."""
        self._status: str | None = None
        self._foreign: Answer | Problem | None = None
        """What an answer in another API's shape came to."""
        self._odd = False

    def end(self, ending: Ending) -> Answer | Problem:
        """What it all came to. A server that takes no schema says so with a 400, or with an empty answer."""
        outcome = super().end(ending)
        if not self._sends_schema or isinstance(outcome, Answer):
            return outcome
        if outcome.kind is K.BAD_REQUEST and (
            refuses_schema(outcome.message) or "text.format" in outcome.message.lower()
        ):
            return replace(outcome, kind=K.ADAPTABLE, adaptation="json_object")
        if outcome.kind is K.EMPTY_RESPONSE:
            return replace(outcome, message=f"{outcome.message}{_PERHAPS_THE_SCHEMA}", adaptation="json_object")
        return outcome

    def _take_event(self, event: SseEvent) -> None:
        if is_done(event.data):
            self._done = self._begun  # before anything has begun it ends nothing, and what follows is read on
            return
        if not event.data:
            self._odd = self._odd or event is STRAY
            return
        value = decode(event.data)
        if isinstance(value, NotJson):
            if event.name not in {"ping", "keepalive"}:
                self._refuse_event(event.data, is_error=event.name == "error")
            return
        if not is_object(value):
            self._refuse_event(event.data, is_error=False)
            return
        if event.data == self._last and "sequence_number" in value:
            return  # the same event once more: each has a number of its own
        self._last = event.data
        said = value.get("type")
        self._take(said if isinstance(said, str) and said else event.name, value, event.data)

    def _take(self, name: str, value: _Object, data: bytes) -> None:
        if name == "error" or (not name.startswith("response.") and not is_blank(value.get("error"))):
            self._take_error(value)
        elif name in _ENDS:
            inner = value.get("response")
            status = name.removeprefix("response.")
            self._take_response(inner if is_object(inner) else {}, status=status)
            self._done = self._problem is None
        elif name in _GROWING:
            self._begun = True
            self._grow(name, value)
        elif name in {"response.output_item.added", "response.output_item.done"}:
            self._begun = True
            self._take_item(value, is_whole=name.endswith("done"))
        elif name.startswith("response."):
            self._begun = True
        elif value.get("object") == "response":
            self._take_response(value, status=None)
        elif reports_error(value):
            self._take_error(value)
        elif not self._begun and "choices" in value:
            self._refuse_event(data, is_error=False)

    def _take_error(self, value: _Object) -> None:
        assert self._head is not None
        self._problem = problem_of(
            self._family, self._head, fault_in(value), status=None, under_way=self._has_content()
        )

    def _take_item(self, value: _Object, *, is_whole: bool) -> None:
        item = value.get("item")
        if not is_object(item):
            return
        place = _place(value, "output_index", len(self._growing))
        kind = item.get("type")
        grown = self._growing.get(place)
        if grown is None or is_whole:
            words = encode(item) if is_whole else b""
            self._growing[place] = _GrowingItem(kind if isinstance(kind, str) else "", item, whole=is_whole)
            self._count(len(words) if grown is None else 0)

    def _grow(self, name: str, value: _Object) -> None:
        kind, what = _GROWING[name]
        piece = value.get("delta")
        if not isinstance(piece, str):
            return
        place = _place(value, "output_index", 0)
        grown = self._growing.get(place)
        if grown is None:
            grown = self._growing[place] = _GrowingItem(kind, {})
        if grown.whole or grown.kind != kind:
            return
        part = _place(value, "summary_index" if what == "summary" else "content_index", 0)
        grown.pieces.setdefault((what, part), []).append(piece)
        self._count(len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass")))

    def _count(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > TEXT_CAP_BYTES:
            self._too_long()

    def _take_response(self, response: _Object, *, status: str | None) -> None:
        """A response at its end; `status` is what its event says, the response's own word counts more."""
        said = response.get("status")
        status = said if isinstance(said, str) and said and said not in _WAITING else status
        self._begun = True
        self._response, self._status = response, status
        if status in _BROKEN or not is_blank(response.get("error")):
            assert self._head is not None
            usage = usage_of(response.get("usage"))
            if is_blank(response.get("error")):
                problem = self._failed(K.SERVER_ERROR, f"the response ended with the status {status!r}", self._head)
            else:
                fault = fault_in({"error": response["error"]})
                problem = problem_of(self._family, self._head, fault, status=None, under_way=self._has_content())
            self._problem = replace(problem, usage=usage)

    def _take_ordinary(self, data: bytes) -> bool | None:  # noqa: ARG002 - the port's; all events are read with care
        return None

    def _read_grown(self, head: ResponseHead) -> Answer | None:  # noqa: ARG002
        return None

    def _read_ordinary(self, body: bytes | bytearray, head: ResponseHead) -> Answer | None:  # noqa: ARG002
        return None

    def _take_late(self, event: SseEvent) -> None:
        """Nothing is told after the end."""

    @property
    def _is_finished(self) -> bool:
        return self._status in _ENDED

    def _has_content(self) -> bool:
        return any(grown.pieces or grown.whole for grown in self._growing.values())

    def _holds_an_end(self, body: bytes) -> bool:
        """Its status stands before the output, so that alone tells nothing: something has to follow the output."""
        value = decode(body)
        if isinstance(value, NotJson) or not is_object(value) or "output" not in value:
            return False
        return value.get("status") in _ENDED and list(value)[-1] != "output"

    def _take_json(self, body: bytes) -> None:
        value = decode(body)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        inner = at(value, "response") if not isinstance(value, NotJson) else None
        if is_object(inner) and inner.get("object") == "response":
            value = inner
        if isinstance(value, NotJson) or not is_object(value):
            self._refuse_event(body, is_error=False)
            return
        is_own = value.get("object") == "response" or isinstance(value.get("output"), list)
        if not is_own and ("choices" in value or as_chat(value) is not None):
            assert self._head is not None
            self._foreign = ChatDecoder(self._family, check=self._check).whole(self._head, body)
            return
        if not is_own and (not is_blank(value.get("error")) or reports_error(value) or message_in(value)):
            self._take_error(value)
        elif not is_own:
            self._refuse_event(body, is_error=False)
        elif value.get("status") in _WAITING:
            self._begun = True
            self._stop(
                K.CONFIGURATION,
                f"the server took the response as {str(value.get('id'))[:80]} and answers later (`background`), "
                "which is not followed; remove it from `params`",
            )
        else:
            self._take_response(value, status=None)

    def _verdict(self, head: ResponseHead, ending: Ending) -> Answer | Problem:
        """Complete by the event of its end, or, at `[DONE]`, by items that are all whole; and not empty."""
        if self._foreign is not None:
            return self._foreign
        self._usage = usage_of(self._response.get("usage"))
        grown: list[Json] = [self._growing[place].item() for place in sorted(self._growing)]
        all_whole = bool(grown) and all(item.whole for item in self._growing.values())
        if not (self._is_json or self._status in _ENDED or (self._done and all_whole and not self._odd)):
            return self._cut(head, ending, size_bytes=self._size_bytes, finish_reason=self._status)
        output = self._response.get("output")
        read = _read(_listed(output))
        if read.is_empty:
            read = _read(grown)
        reason = self._reason()
        text = without_lone_surrogates("".join(read.text))
        refused = without_lone_surrogates("".join(read.refusal))
        if meaning_of(reason) == "filtered" or (refused and not text):
            message = refused or "the answer was withheld by the server's content filter"
            message += f"; before that it had sent:  {text[:_SHOWN_OF_FILTERED]}" if text else ""
            return self._failed(K.CONTENT_FILTER, message, head)
        if meaning_of(reason) == "broken":
            return self._cut(head, ending, size_bytes=self._size_bytes, finish_reason=reason)
        if read.is_empty:
            return self._failed(K.EMPTY_RESPONSE, "the server answered without any content", head)
        return self._held_to_schema(self._answer(read, text, reason, ending), head)

    def _answer(self, read: _OutputRead, text: str, reason: str | None, ending: Ending) -> Answer:
        truncated = meaning_of(reason) == "cut"
        text, thought = without_thinking(text, cut=truncated)
        thinking = [found for found in (*read.thinking, thought or "") if found]
        pictures = (*read.media.pictures, *pictures_in_text(text))
        words = text or read.calls or pictures or read.media.sounds
        odd = {
            "no_finish_reason": reason is None,
            "cut_after_end": self._is_json and isinstance(ending, Interrupted),
            "reasoning_only": not words and not truncated,
            "trouble_after_end": self._late_trouble,
        }
        return Answer(
            text=text,
            reasoning=without_lone_surrogates("\n\n".join(thinking)) or None,
            tool_calls=tuple(read.calls),
            finish_reason=reason,
            truncated=truncated,
            usage=self._usage,
            flags=tuple(flag for flag, holds in odd.items() if holds),
            hints=hints_of(self._head) if self._head is not None else None,
            pictures=tuple(dict.fromkeys(pictures)),
            sounds=tuple(read.media.sounds),
            extras=_extras(read, self._response),
        )

    def _reason(self) -> str | None:
        """Why the answer ends: `completed`, or why it is incomplete."""
        if self._status != "incomplete":
            return self._status
        said = at(self._response, "incomplete_details", "reason")
        return without_lone_surrogates(said) if isinstance(said, str) and said else "incomplete"


def _place(value: _Object, name: str, otherwise: int) -> int:
    found = whole_number(value.get(name))
    return otherwise if found is None else found


def _extras(read: _OutputRead, response: _Object) -> _Object:
    """What was paid for besides, under the server's own names."""
    details = at(response, "usage", "output_tokens_details")
    counted = is_object(details) and any(details.values())
    named: _Object = {
        "annotations": read.annotations,
        "logprobs": read.logprobs,
        "output_items": read.others,
        "output_tokens_details": details if counted else None,
    }
    return {name: value for name, value in named.items() if value}


def _read(items: list[Json]) -> _OutputRead:
    """What the items say, in their order."""
    read = _OutputRead()
    for item in items:
        match at(item, "type"):
            case "message":
                _read_message(at(item, "content"), read)
            case "reasoning" if is_object(item):
                _read_reasoning(item, read)
            case "function_call" | "custom_tool_call":
                read.calls.append(_call(item))
            case _:
                _sort(parts_of(item), read)
    return read


def _read_message(content: Json, read: _OutputRead) -> None:
    for part in content if isinstance(content, list) else [content]:
        text = at(part, "text")
        if at(part, "type") == "output_text" and isinstance(text, str):
            read.text.append(text)
            read.annotations += _listed(at(part, "annotations"))
            read.logprobs += _listed(at(part, "logprobs"))
        elif part is not None:
            _sort(parts_of(part), read)


def _listed(said: Json) -> list[Json]:
    return said if isinstance(said, list) else []


def _read_reasoning(item: _Object, read: _OutputRead) -> None:
    """Its summary, or the thinking itself where that is told; what is encrypted is kept as it came."""
    told = [item.get("content"), item.get("summary")]
    thoughts = next((said for said in told if isinstance(said, list) and said), [])
    read.thinking += [words for thought in thoughts if (words := words_in(thought))]
    if item.get("encrypted_content"):
        read.others.append(item)


def _call(item: Json) -> ToolCall:
    name, said = at(item, "name"), at(item, "arguments") or at(item, "input")
    arguments = said if isinstance(said, str) else encode(said).decode("utf-8", "replace") if said else ""
    identifier = at(item, "call_id") or at(item, "id")
    return ToolCall(
        id=without_lone_surrogates(identifier) if isinstance(identifier, str) else None,
        name=without_lone_surrogates(name) if isinstance(name, str) else "",
        arguments=without_lone_surrogates(arguments),
    )


def _sort(parts: Parts, read: _OutputRead) -> None:
    read.text += parts.text
    read.thinking += [thought for thought in parts.thinking if thought]
    read.refusal += parts.refusal
    read.media.pictures += parts.pictures
    read.media.sounds += parts.sounds
    read.others += parts.others
