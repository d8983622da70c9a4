"""A chat answer while it grows: chunks of an OpenAI stream in, in order; a whole JSON answer is one chunk.

Every field of a chunk may be null, missing, or not of its documented type; what cannot be read is refused by `Shape`,
what is empty adds nothing. See docs/providers/openai.md#stream.
"""

from typing import Final

import msgspec

from batchrunner.core.job import Json
from batchrunner.core.outcome import AudioBytes, PictureBytes, PictureUrl, ToolCall
from batchrunner.core.text import without_lone_surrogates
from batchrunner.providers.chat_media import media_in, parts_of, words_in
from batchrunner.providers.error_bodies import is_blank
from batchrunner.providers.json_bodies import NotJson, decode, encode, is_object
from batchrunner.providers.reply_fields import REST, Known, keep, repeated_usage
from batchrunner.providers.result_pictures import picture_from_base64

_SCHEME_BYTES: Final = 10
_DETAIL_TEXT: Final = ("text", "summary", "data")


class FunctionPiece(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A piece of a call's name and arguments."""

    name: object = None
    arguments: object = None


class ToolPiece(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A piece of a tool call."""

    index: object = None
    id: object = None
    type: object = None
    function: FunctionPiece | None = None
    custom: object = None


class Piece(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A delta, or a whole message."""

    role: object = None
    content: object = None
    reasoning_content: object = None
    reasoning: object = None
    reasoning_details: object = None
    thinking: object = None
    thinking_blocks: object = None
    refusal: object = None
    tool_calls: list[ToolPiece] | None = None
    function_call: FunctionPiece | None = None
    images: object = None
    image: object = None
    image_url: object = None
    audio: object = None
    annotations: object = None
    citations: object = None
    context: object = None
    usage: object = None


class Choice(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """One of the answers in a chunk, usually the only one."""

    index: object = None
    delta: Piece | None = None
    message: Piece | None = None
    text: object = None
    finish_reason: object = None
    native_finish_reason: object = None
    stop_reason: object = None
    finishReason: object = None  # noqa: N815 - as Gemini's gateways write it
    finish_details: object = None
    logprobs: object = None
    error: object = None
    usage: object = None
    rest: dict[str, Json] | None = None
    """What no other field here is for."""


class Chunk(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A chunk of a stream, or a whole answer; `errors` and `error` are seen in place of both."""

    choices: list[Choice] | None = None
    id: object = None
    kind: object = msgspec.field(name="object", default=None)
    created: object = None
    model: object = None
    system_fingerprint: object = None
    service_tier: object = None
    obfuscation: object = None
    provider: object = None
    usage: object = None
    error: object = None
    errors: object = None
    x_groq: object = None
    timings: object = None
    citations: object = None
    search_results: object = None
    references: object = None
    web_search: object = None
    prompt_logprobs: object = None


KNOWN: Final = Known(
    chunk=Chunk.__struct_encode_fields__,
    choice=[name for name in Choice.__struct_fields__ if name != REST],
    piece=Piece.__struct_fields__,
    tool=ToolPiece.__struct_fields__,
    function=FunctionPiece.__struct_fields__,
)
"""What these readers know, for those who set the rest aside."""
EXTRAS_OF_CHUNK: Final = ("citations", "search_results", "references", "web_search", "prompt_logprobs")
"""Fields next to the choices that belong to the answer."""
_EXTRAS_OF_PIECE: Final = ("annotations", "citations", "context", "thinking_blocks")


class _Call:
    """A tool call while it grows."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name = ""
        self.arguments: list[str] = []


class ChatAccumulator:
    """One choice while it grows."""

    __slots__ = (
        "_audio_parts",
        "_by_key",
        "_calls",
        "_details",
        "_in_deltas",
        "_reasoning",
        "_refusal",
        "_text",
        "error",
        "extras",
        "finish_reason",
        "pictures",
        "size_bytes",
        "sounds",
        "usage",
    )

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_Call] = []
        self._by_key: dict[tuple[str, int | str], _Call] = {}
        self._details: list[Json] = []
        self._in_deltas = False
        self._audio_parts: dict[str, list[str]] = {}
        self.finish_reason: str | None = None
        self.error: object = None
        """What the server says went wrong with this very choice."""
        self.usage: dict[str, Json] | None = None
        self.pictures: dict[PictureUrl | PictureBytes, None] = {}
        """In order; servers say the same picture again in their last chunk."""
        self.sounds: list[AudioBytes] = []
        self.extras: dict[str, Json] = {}
        self.size_bytes = 0

    def __repr__(self) -> str:
        """Where it stands."""
        return f"<ChatAccumulator {self.size_bytes} B, {len(self._calls)} calls, finish_reason={self.finish_reason}>"

    def take(self, choice: Choice) -> None:
        """Append first, close after: content may ride in the chunk that ends the answer."""
        self._take_words(choice)
        if choice.rest:
            for picture in keep(self.extras, choice.rest):
                self._take_picture(picture)
        if reason := choice.finish_reason or choice.finishReason or choice.finish_details or choice.stop_reason:
            reason = reason.get("type") if is_object(reason) else reason
            self.finish_reason = reason if reason and isinstance(reason, str) else self.finish_reason
        if choice.logprobs and isinstance(choice.logprobs, dict | list):
            grow(self.extras, "logprobs", choice.logprobs)
        if choice.error is not None and not is_blank(choice.error):
            self.error = choice.error
        if choice.usage is not None:
            self.usage = repeated_usage(self.usage, choice.usage)

    def take_ordinary(self, text: str, thinking: str, reason: str | None) -> None:
        """What `take` does with choices that have deltas of text and thinking, a reason to end, and nothing else."""
        if text:
            self._text.append(text)
            self.size_bytes += len(text) if text.isascii() else len(text.encode())
        if thinking:
            self._reasoning.append(thinking)
            self.size_bytes += len(thinking) if thinking.isascii() else len(thinking.encode())
        self.finish_reason = reason or self.finish_reason
        if not self._in_deltas:
            self._in_deltas = bool(text or thinking) or self.has_content

    def _take_words(self, choice: Choice) -> None:
        """The delta, the message, or the bare text."""
        if choice.delta is not None:
            self._take_piece(choice.delta)
            self._in_deltas = self._in_deltas or self.has_content
        if choice.message is not None:
            if self._in_deltas:
                self._take_once_more(choice.message)
            else:
                self._take_piece(choice.message, whole=choice.delta is None)
        elif choice.delta is None and isinstance(choice.text, str):
            self._add(self._text, choice.text)

    @property
    def has_content(self) -> bool:
        """Whether anything came that a person would want."""
        return bool(self._text or self._calls or self._reasoning or self.pictures or self.sounds or self._audio_parts)

    @property
    def text(self) -> str:
        """The answer so far, as it came."""
        return without_lone_surrogates("".join(self._text))

    @property
    def reasoning(self) -> str | None:
        """The thinking so far; None when there was none."""
        return without_lone_surrogates("".join(self._reasoning)) or None

    @property
    def refusal(self) -> str:
        """The model's own words of refusal, usually empty."""
        return without_lone_surrogates("".join(self._refusal))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, in the order in which they began."""
        return tuple(
            ToolCall(id=call.id, name=call.name, arguments=without_lone_surrogates("".join(call.arguments)))
            for call in self._calls
        )

    @property
    def all_extras(self) -> dict[str, Json]:
        """What came besides, with the details of its thinking."""
        return self.extras | ({"reasoning_details": self._details} if self._details else {})

    def all_audio(self) -> tuple[AudioBytes, ...]:
        """Whole ones, and the one that came in pieces."""
        data = b"".join(
            found.data
            for packed in self._audio_parts.get("data", ())
            if (found := picture_from_base64(packed)) is not None
        )
        said = without_lone_surrogates("".join(self._audio_parts.get("transcript", ()))) or None
        if not data and said is None:
            return tuple(self.sounds)
        formats = self._audio_parts.get("format")
        return (*self.sounds, AudioBytes(data=data, format=formats[-1] if formats else None, transcript=said))

    def _take_once_more(self, piece: Piece) -> None:
        """A message that repeats what the deltas said: only what they left out is new."""
        new = ChatAccumulator()
        new._take_piece(piece, whole=True)
        self._text = self._text or new._text
        self._reasoning = self._reasoning or new._reasoning
        self._calls = self._calls or new._calls
        self._audio_parts = self._audio_parts or new._audio_parts
        self._details = self._details or new._details
        self._refusal = self._refusal or new._refusal
        self.sounds = self.sounds or new.sounds
        self.pictures |= new.pictures
        self.usage = repeated_usage(self.usage, new.usage)
        for name, said in new.extras.items():
            self.extras.setdefault(name, said)

    def _take_piece(self, piece: Piece, *, whole: bool = False) -> None:
        """`whole`: every tool call in it is one of its own."""
        if piece.content:
            self._take_content(piece.content)
        # one of them: some servers send the same thinking under several names
        thinking = piece.reasoning_content or piece.reasoning or piece.thinking
        if thinking:
            self._add(self._reasoning, words_in(thinking))
        if piece.reasoning_details:
            self._take_details(piece.reasoning_details, has_text=bool(thinking))
        if piece.refusal:
            self._add(self._refusal, words_in(piece.refusal))
        if piece.tool_calls:
            for position, tool in enumerate(piece.tool_calls):
                if whole:
                    self._by_key.clear()
                self._take_tool(tool, position)
        if piece.function_call is not None:
            self._take_tool(ToolPiece(index="function_call", function=piece.function_call), 0)
        self._take_rest(piece)

    def _take_rest(self, piece: Piece) -> None:
        """What is not text: pictures, sound, counts and what is kept as it is."""
        if piece.images or piece.image or piece.image_url:
            for found in media_in([piece.images, piece.image, piece.image_url]):
                self._take_picture(found)
            for packed in piece.images if isinstance(piece.images, list) else ():
                if isinstance(packed, str) and "://" not in packed and (raw := picture_from_base64(packed)) is not None:
                    self._take_picture(raw)
        if piece.audio:
            self._take_audio(piece.audio)
        if piece.usage is not None:
            self.usage = repeated_usage(self.usage, piece.usage)
        if piece.annotations or piece.citations or piece.context or piece.thinking_blocks:
            for name in _EXTRAS_OF_PIECE:
                grow(self.extras, name, getattr(piece, name) or None)

    def _take_content(self, content: object) -> None:
        if isinstance(content, str | int | float):
            self._add(self._text, content if isinstance(content, str) else str(content))
            return
        parts = parts_of(content)
        self._add(self._text, "".join(parts.text))
        self._add(self._reasoning, "".join(parts.thinking))
        self._add(self._refusal, "".join(parts.refusal))
        for picture in parts.pictures:
            self._take_picture(picture)
        self.sounds += parts.sounds
        if parts.others:
            grow(self.extras, "content_parts", parts.others)

    def _take_picture(self, picture: PictureUrl | PictureBytes) -> None:
        self.pictures.setdefault(picture)

    def _take_audio(self, said: object) -> None:
        """OpenAI's `audio` comes whole, or in pieces of base64 and of its transcript."""
        if isinstance(said, str):
            said = {"url" if "://" in said[:_SCHEME_BYTES] else "data": said}
        if not is_object(said):
            return
        for name in ("data", "transcript", "format"):
            piece = said.get(name)
            if isinstance(piece, str) and piece:
                self._audio_parts.setdefault(name, []).append(piece)
        if (identifier := said.get("id")) is not None:
            self.extras.setdefault("audio_id", identifier)
        if isinstance(url := said.get("url"), str) and url:
            grow(self.extras, "audio_urls", [url])

    def _take_details(self, details: object, *, has_text: bool) -> None:
        """OpenRouter's: pieces of one detail carry its index. Their text is the thinking where no other name has it."""
        for detail in details if isinstance(details, list) else [details]:
            if not is_object(detail):
                continue
            if not has_text:
                self._add(self._reasoning, "".join(_strings(detail, ("text", "summary"))))
            last = self._details[-1] if self._details else None
            if is_object(last) and all(last.get(name) == detail.get(name) for name in ("type", "index")):
                pieces = {name: str(last.get(name) or "") + "".join(_strings(detail, (name,))) for name in _DETAIL_TEXT}
                self._details[-1] = {
                    **last,
                    **{name: value for name, value in detail.items() if value is not None},
                    **{name: text for name, text in pieces.items() if text},
                }
            else:
                self._details.append(detail)

    def _take_tool(self, tool: ToolPiece, position: int) -> None:
        call = self._call_of(tool, position)
        if call.id is None and isinstance(tool.id, str) and tool.id:
            call.id = without_lone_surrogates(tool.id)
        name, arguments = _called(tool)
        if not call.name and isinstance(name, str):
            call.name = without_lone_surrogates(name)
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
        if call is None or _is_another(call, tool):
            call = _Call()
            self._calls.append(call)
        for key in keys:
            self._by_key[key] = call
        return call

    def _add(self, parts: list[str], text: str) -> None:
        if not text:
            return
        parts.append(text)
        self.size_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def grow(extras: dict[str, Json], name: str, said: object) -> None:
    """Add what a chunk says to what earlier ones said: lists are extended, objects merged, others replaced."""
    known = extras.get(name)
    if isinstance(known, list) and isinstance(said, list):
        known.extend(entry for entry in said if name == "logprobs" or entry not in known)
    elif is_object(known) and is_object(said):
        for inner, value in said.items():
            before = known.get(inner)
            if isinstance(before, list) and isinstance(value, list):
                before.extend(value)
            elif value is not None:
                known[inner] = value
    elif said is not None:
        extras[name] = list(said) if isinstance(said, list) else said  # type: ignore[assignment]  # JSON, by its maker


def _is_another(call: _Call, tool: ToolPiece) -> bool:
    """Whether a piece at a call's place begins another call: servers number badly, and call every one 0."""
    function = tool.function
    name = function.name if function is not None and isinstance(function.name, str) else ""
    given = tool.id if isinstance(tool.id, str) and tool.id else None
    if given is not None and call.id is not None and given != call.id:
        return bool(name) or _is_whole(call)  # a new id for every piece of one call has been seen, too
    if given is not None and given == call.id:
        return False
    arguments = function.arguments if function is not None else None
    return bool(name and call.name and arguments) and _is_whole(call)


def _called(tool: ToolPiece) -> tuple[object, object]:
    """(name, arguments) of a function, or of a tool that takes free text."""
    if tool.function is not None:
        return tool.function.name, tool.function.arguments
    return (tool.custom.get("name"), tool.custom.get("input")) if is_object(tool.custom) else (None, None)


def _is_whole(call: _Call) -> bool:
    return not isinstance(decode("".join(call.arguments).encode("utf-8", "replace")), NotJson)


def _strings(detail: dict[str, Json], names: tuple[str, ...]) -> list[str]:
    return [text for name in names if isinstance(text := detail.get(name), str)]
