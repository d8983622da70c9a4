"""An Anthropic message while it grows: blocks begin, take pieces and are joined; in a whole message they are full.

Blocks of other types, such as those of the server's own tools, are kept as they are,
and so is thinking that is signed. See docs/providers/anthropic.md#answer-and-stream.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from batchrunner.core.job import Json
from batchrunner.core.outcome import PictureBytes, ToolCall, Usage
from batchrunner.core.text import without_lone_surrogates
from batchrunner.providers.chat_media import Parts, parts_of
from batchrunner.providers.json_bodies import encode, is_object
from batchrunner.providers.known_shapes import (
    BlockDelta,
    BlockStart,
    MessageChange,
    MessagesEvent,
    MessageStart,
    MessageStop,
    TextDelta,
    TextStart,
)
from batchrunner.providers.reply_fields import apart, grown, keep, repeated_usage, usage_of

_PIECES: Final = {
    "text": "text_delta",
    "thinking": "thinking_delta",
    "tool_use": "input_json_delta",
    "server_tool_use": "input_json_delta",
    "mcp_tool_use": "input_json_delta",
}
"""Types of blocks that count, and the type of the pieces that belong into each."""
_PAYLOADS: Final = ("text", "thinking", "partial_json")
_BESIDES: Final = ("stop_sequence", "container", "context_management")
"""Fields of Anthropic's own that go into the row under their names."""
_BEGUN_BY: Final = {"text_delta": "text", "thinking_delta": "thinking"}
"""Pieces that may come without their block's beginning: it would have said nothing more."""


class Delta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A piece of a block, or what changed in the message."""

    type: object = None
    text: object = None
    thinking: object = None
    partial_json: object = None
    citation: object = None
    signature: object = None
    stop_reason: object = None
    stop_sequence: object = None
    container: object = None
    rest: dict[str, Json] | None = None
    """What no other field here is for."""


class Block(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A block as it begins, or whole."""

    type: object = None
    text: object = None
    thinking: object = None
    signature: object = None
    id: object = None
    name: object = None
    input: object = None
    source: object = None
    content: object = None
    data: object = None
    citations: object = None
    tool_use_id: object = None
    rest: dict[str, Json] | None = None


class Message(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A message: without content in a stream's beginning, whole in an answer in one piece."""

    type: object = None
    id: object = None
    role: object = None
    model: object = None
    content: list[Block] | str | None = None
    stop_reason: object = None
    stop_sequence: object = None
    container: object = None
    context_management: object = None
    usage: object = None
    error: object = None
    errors: object = None
    rest: dict[str, Json] | None = None


class MessageEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An event of a stream."""

    type: object = None
    index: object = None
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: object = None
    context_management: object = None
    error: object = None
    errors: object = None
    rest: dict[str, Json] | None = None


_KNOWN: Final = {
    kind: frozenset(kind.__struct_encode_fields__) - {"rest"} for kind in (Delta, Block, Message, MessageEvent)
}


def event_with_rest(value: dict[str, Json]) -> dict[str, Json]:
    """An event of a stream, with the fields that these readers do not know set aside as `rest`."""
    kept = _with_rest(value, MessageEvent)
    for name, kind in (("delta", Delta), ("content_block", Block)):
        if is_object(inner := kept.get(name)):
            kept[name] = _with_rest(inner, kind)
    if is_object(inner := kept.get("message")):
        kept["message"] = message_with_rest(inner)
    return kept


def message_with_rest(value: dict[str, Json]) -> dict[str, Json]:
    """The same of a message."""
    kept = _with_rest(value, Message)
    if isinstance(blocks := kept.get("content"), list):
        kept["content"] = [_with_rest(block, Block) if is_object(block) else block for block in blocks]
    return kept


def _with_rest(value: dict[str, Json], kind: type[Delta | Block | Message | MessageEvent]) -> dict[str, Json]:
    kept, rest = apart(value, _KNOWN[kind])
    return {**kept, "rest": rest} if rest else kept


class _Grown:
    """A block while it grows."""

    __slots__ = ("block", "id", "input", "kind", "name", "parts", "rest", "signature")

    def __init__(self, kind: str, block: Block) -> None:
        self.kind = kind
        self.block = block
        self.parts: list[str] = []
        self.id: str | None = None
        self.name = ""
        self.input: object = None
        self.signature = block.signature if isinstance(block.signature, str) else ""
        self.rest: dict[str, Json] = dict(block.rest or {})
        """What it says besides, under the server's own names."""


class MessageAccumulator:
    """A message while it grows."""

    __slots__ = (
        "_blocks",
        "_by_index",
        "_citations",
        "_counts",
        "_other_content",
        "_pictures",
        "finished",
        "missed_a_beginning",
        "size_bytes",
        "started",
        "stop_reason",
    )

    def __init__(self) -> None:
        self._blocks: list[_Grown] = []
        self._by_index: dict[int, _Grown] = {}
        self.started = False
        self.finished = False
        self.stop_reason: str | None = None
        self._counts: dict[str, Json] | None = None
        self._citations: list[Json] = []
        self._other_content: dict[str, Json] = {}
        self._pictures: list[PictureBytes] = []
        self.size_bytes = 0
        self.missed_a_beginning = False
        """True once a piece came for a block that had not begun."""

    def __repr__(self) -> str:
        """Where it stands."""
        return f"<MessageAccumulator {self.size_bytes} B, {len(self._blocks)} blocks, stop_reason={self.stop_reason}>"

    def take_message(self, message: Message) -> None:
        """A message as it begins, or whole."""
        self.started = True
        content = message.content
        for block in [Block(type="text", text=content)] if isinstance(content, str) else content or ():
            self._begin(block, index=None)
        self._take_stop_reason(message.stop_reason)
        self.count(message.usage)
        self._take_besides(message, message.rest)

    def start(self, said: MessageEvent) -> None:
        """`message_start`; a second one says nothing new."""
        if not self.started:
            self.take_message(said.message or Message())
        self.take_rest(said.rest)

    def start_block(self, said: MessageEvent) -> None:
        """`content_block_start`; one at an index that is taken follows the other: both were said."""
        if said.content_block is not None:
            self._begin(said.content_block, index=said.index)

    def grow_block(self, said: MessageEvent) -> str | None:
        """`content_block_delta`; what is wrong, if there is no block that it could belong to."""
        delta, kind = said.delta, said.delta.type if said.delta is not None else None
        if delta is not None and delta.citation is not None:
            self._citations.append(delta.citation)  # type: ignore[arg-type]  # JSON, by its maker
        if (
            delta is not None
            and isinstance(delta.signature, str)
            and (signed := self._block_at(said.index)) is not None
        ):
            signed.signature += delta.signature
        if delta is None or not isinstance(kind, str) or kind not in _PIECES.values():
            self._add_unknown(delta, self._block_at(said.index))
            return None
        block = self._block_at(said.index)
        if block is None:
            if kind not in _BEGUN_BY:
                return f"the stream has a delta for content block {str(said.index)[:20]}, which was never started"
            self.missed_a_beginning = True
            block = self._begin(Block(type=_BEGUN_BY[kind]), index=said.index)
        if _PIECES.get(block.kind) == kind:
            pieces = {"text": delta.text, "thinking": delta.thinking}
            self._add(block, pieces.get(block.kind, delta.partial_json))
            self._add_rest(block, delta.rest)
        else:
            self._add_unknown(delta, block)
        return None

    def take_ordinary(self, events: list[MessagesEvent], *, begun: bool) -> int:  # noqa: C901 - a case for each kind
        """What `start` and the others do with such events; how many were taken, from the first on.

        Before the first one that has to be read with care it stops, and after the end of the message.
        """
        texts: list[str] = []
        taken = 0
        for said in events:
            if type(said) is BlockDelta:
                block, delta = self._by_index.get(said.index), said.delta
                kind, text = ("text", delta.text) if isinstance(delta, TextDelta) else ("thinking", delta.thinking)
                if block is None or block.kind != kind:
                    break
                block.parts.append(text)
                texts.append(text)
            elif type(said) is BlockStart:
                if not (begun or taken) and said.index:
                    break
                start = said.content_block
                if isinstance(start, TextStart):
                    self._begin(Block(type="text", text=start.text), index=said.index)
                else:
                    self._begin(Block(type="thinking", thinking=start.thinking), index=said.index)
            elif type(said) is MessageStart:
                if not self.started:
                    self.started = True
                    self.count(said.message.usage)
            elif type(said) is MessageChange:
                self._take_stop_reason(said.delta.stop_reason)
                self.count(said.usage)
            elif not (begun or taken):
                break
            taken += 1
            if type(said) is MessageStop:
                self.finished = True
                break
        grown = "".join(texts)
        self.size_bytes += len(grown) if grown.isascii() else len(grown.encode())
        return taken

    def _add_unknown(self, delta: Delta | None, block: _Grown | None) -> None:
        """A delta of an unknown type, or one that does not belong to its block: kept under its own names."""
        if delta is None or block is None:
            return
        said = {name: value for name in _PAYLOADS if (value := getattr(delta, name)) not in (None, "")}
        for name in said:
            if name not in block.rest and isinstance(begun := getattr(block.block, name, None), str):
                block.rest[name] = begun
        self._add_rest(block, {**said, **(delta.rest or {})})

    def _add_rest(self, block: _Grown, rest: dict[str, Json] | None) -> None:
        for name, value in (rest or {}).items():
            block.rest[name] = grown(block.rest.get(name), value)
            self.size_bytes += len(encode(value))

    def change(self, said: MessageEvent) -> None:
        """`message_delta`."""
        if said.delta is not None:
            self._take_stop_reason(said.delta.stop_reason)
            self._take_besides(said.delta, said.delta.rest)
        self.count(said.usage)
        self._take_besides(said, said.rest)

    def take_rest(self, rest: dict[str, Json] | None) -> None:
        """Unknown fields of an event, or a whole unknown event."""
        if rest:
            self._pictures += keep(self._other_content, rest)

    def _take_besides(self, said: object, rest: dict[str, Json] | None) -> None:
        for name in _BESIDES:
            if (value := getattr(said, name, None)) is not None:
                self.take_rest({name: value})
        self.take_rest(rest)

    def count(self, said: object) -> None:
        """`usage`, whenever it comes; its counts are totals."""
        self._counts = repeated_usage(self._counts, said)

    @property
    def usage(self) -> Usage | None:
        """What was counted so far."""
        return usage_of(self._counts)

    @property
    def media(self) -> Parts:
        """What the blocks hold besides text, thinking and calls: pictures, sound, and what is kept as it is."""
        known = {"text", "thinking", "tool_use"}
        sent = [_as_sent(block) for block in self._blocks if block.kind not in known]
        parts = parts_of([block for block in sent if not isinstance(block.get("text"), str)])
        parts.others += [block for block in sent if isinstance(block.get("text"), str)]
        parts.pictures += self._pictures
        return parts

    @property
    def extras(self) -> dict[str, Json]:
        """Citations, and blocks that are neither text nor thinking nor a call."""
        cited_texts = [{"type": "text", **block.rest} for block in self._blocks if block.kind == "text" and block.rest]
        found: dict[str, Json] = {"citations": self._citations, "content_parts": [*self.media.others, *cited_texts]}
        found["thinking_blocks"] = [
            {
                "type": "thinking",
                "thinking": without_lone_surrogates("".join(block.parts)),
                "signature": without_lone_surrogates(block.signature),
                **block.rest,
            }
            for block in self._blocks
            if block.kind == "thinking" and (block.signature or block.rest)
        ]
        found["tool_call_details"] = [
            {"id": block.id, **block.rest} for block in self._blocks if block.kind == "tool_use" and block.rest
        ]
        return {**{name: value for name, value in found.items() if value}, **self._other_content}

    def finish(self, _stop_words: MessageEvent) -> None:
        """`message_stop`."""
        self.finished = True

    @property
    def text(self) -> str:
        """The answer so far: its blocks joined as they stand, for citations split a text in the middle."""
        return self._joined("text", between="")

    @property
    def reasoning(self) -> str | None:
        """The thinking so far; None when there was none."""
        return self._joined("thinking", between="\n\n") or None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, in the order in which they began. Without any piece, a block's own input counts."""
        return tuple(
            ToolCall(id=block.id, name=block.name, arguments=_arguments(block))
            for block in self._blocks
            if block.kind == "tool_use"
        )

    def _joined(self, kind: str, *, between: str) -> str:
        return without_lone_surrogates(
            between.join(text for block in self._blocks if block.kind == kind and (text := "".join(block.parts)))
        )

    def _begin(self, block: Block, *, index: object) -> _Grown:
        grown = _Grown(block.type if isinstance(block.type, str) else "", block)
        grown.id = without_lone_surrogates(block.id) if isinstance(block.id, str) and block.id else None
        grown.name = without_lone_surrogates(block.name) if isinstance(block.name, str) else ""
        grown.input = block.input
        self._blocks.append(grown)
        self._by_index[index if isinstance(index, int) else len(self._blocks) - 1] = grown
        if isinstance(block.citations, list):
            self._citations += block.citations
        self._add(grown, {"text": block.text, "thinking": block.thinking}.get(grown.kind))
        return grown

    def _block_at(self, index: object) -> _Grown | None:
        """The block at an index; without one, the last that began."""
        if isinstance(index, int):
            return self._by_index.get(index)
        return self._blocks[-1] if self._blocks else None

    def _take_stop_reason(self, said: object) -> None:
        if isinstance(said, str) and said:
            self.stop_reason = without_lone_surrogates(said)

    def _add(self, grown: _Grown, text: object) -> None:
        if isinstance(text, str) and text:
            grown.parts.append(text)
            self.size_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


PARTS: Final[dict[str, Callable[[MessageAccumulator, MessageEvent], str | None]]] = {
    "message_start": MessageAccumulator.start,
    "content_block_start": MessageAccumulator.start_block,
    "content_block_delta": MessageAccumulator.grow_block,
    "content_block_stop": lambda _draft, _stop_words: None,
    "message_delta": MessageAccumulator.change,
    "message_stop": MessageAccumulator.finish,
}
"""Events of a message, and what takes each; it gives what is wrong with the event, if anything is."""


def _as_sent(grown: _Grown) -> dict[str, Json]:
    fields = msgspec.structs.asdict(grown.block)
    block = {name: value for name, value in fields.items() if value is not None and name != "rest"}
    if grown.parts:
        block["input"] = "".join(grown.parts)
    return block | grown.rest


def _arguments(block: _Grown) -> str:
    pieces = "".join(block.parts)
    if pieces or block.input in (None, "", {}):
        return without_lone_surrogates(pieces) or "{}"
    return without_lone_surrogates(block.input) if isinstance(block.input, str) else encode(block.input).decode()
