"""Anthropic messages as a server writes them, whole or streamed, and what such a server rejects.

The words are those that the chat endpoint would say to the same conversation. The framings and the scenarios of chat
that mean something here are honoured; the rest of them change nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, replace
from batchrunner.simulator.answers import count_tokens, input_for, prompt_tokens, reasoning_for, text_for
from batchrunner.simulator.chat_replies import enveloped
from batchrunner.simulator.refusals import Refusal
from batchrunner.simulator.requests import Order, paced, whole
from batchrunner.simulator.script import SSE_TYPE, Script, as_list, as_object, as_text, encode_json

# The many ways in which servers write a stream of messages: edits of its events, and framings of its bytes.
#
# An edit turns the list of events into another one; a framing turns the written events into pieces of bytes.

Event = dict[str, Json]
"""What stands in `data:`; its `type` is written as the event's name."""


def stream_pieces(
    events: list[Event], *, scenarios: Sequence[str], edits: Mapping[str, Callable[[list[Event]], list[Event]]]
) -> tuple[list[bytes], bool]:
    """The stream's bytes, a piece for each event unless a framing says otherwise; True when the pieces are exact."""
    for name in scenarios:
        if name in edits:
            events = edits[name](events)
    write = next((WRITINGS[name] for name in scenarios if name in WRITINGS), _plain)
    written = [write(event) for event in events]
    framing = next((FRAMINGS[name] for name in scenarios if name in FRAMINGS), None)
    return (written, False) if framing is None else (framing(written), True)


def _error(kind: str, message: str) -> Event:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _half(events: list[Event]) -> list[Event]:
    return events[: max(1, len(events) // 2)]


def _overloaded_mid(events: list[Event]) -> list[Event]:
    return [*_half(events), _error("overloaded_error", "Overloaded")]


def _error_mid(events: list[Event]) -> list[Event]:
    return [*_half(events), _error("api_error", "The server had an error while answering.")]


def _without(name: str) -> Callable[[list[Event]], list[Event]]:
    return lambda events: [event for event in events if event["type"] != name]


def _unknown(events: list[Event]) -> list[Event]:
    """An event, a delta and a block of unknown types."""
    last: Json = sum(event["type"] == "content_block_start" for event in events)
    odd: list[Event] = [
        {"type": "content_block_start", "index": last, "content_block": {"type": "poem", "verse": "Roses"}},
        {"type": "content_block_delta", "index": last, "delta": {"type": "verse_delta", "verse": "are red"}},
        {"type": "content_block_stop", "index": last},
    ]
    *before, change, stop = events
    return [before[0], {"type": "weather_report", "degrees": 21}, *before[1:], *odd, change, {"type": "mood"}, stop]


def _pings(events: list[Event]) -> list[Event]:
    ping: Event = {"type": "ping"}
    return [part for event in events for part in (ping, event)]


def _usage_late(events: list[Event]) -> list[Event]:
    """The input is counted at the end only, as servers do that pass another house's stream on."""
    message = as_object(events[0].get("message"))
    asked = as_object(message.get("usage")).get("input_tokens")
    first: Event = {**events[0], "message": {**message, "usage": {"input_tokens": 0, "output_tokens": 0}}}
    return [first, *(_with_input(event, asked) if event["type"] == "message_delta" else event for event in events[1:])]


def _with_input(event: Event, asked: Json) -> Event:
    return {**event, "usage": {"input_tokens": asked, **as_object(event.get("usage"))}}


def _one_index(events: list[Event]) -> list[Event]:
    return [{**event, "index": 0} if "index" in event else event for event in events]


def _error_after_end(events: list[Event]) -> list[Event]:
    """An error where the closing event had to come: the answer's own end stands before it."""
    return [*events[:-1], _error("overloaded_error", "Overloaded")]


def _with_blocks(*blocks: dict[str, Json]) -> Callable[[list[Event]], list[Event]]:
    """Whole blocks after those of the answer."""

    def edit(events: list[Event]) -> list[Event]:
        last = sum(event["type"] == "content_block_start" for event in events)
        added: list[Event] = []
        for at, block in enumerate(blocks, start=last):
            added.append({"type": "content_block_start", "index": at, "content_block": dict(block)})
            added.append({"type": "content_block_stop", "index": at})
        *before, change, stop = events
        return [*before, *added, change, stop]

    return edit


def _own_fields(events: list[Event]) -> list[Event]:
    """Newer fields of Anthropic's, and an unknown one."""
    container: Json = {"id": "container_1", "expires_at": "2026-01-01T00:00:00Z"}
    return [
        {**event, "delta": {**as_object(event.get("delta")), "container": container, "lane": "a"}}
        if event["type"] == "message_delta"
        else event
        for event in events
    ]


_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
"""A whole PNG of one pixel."""

EDITS: dict[str, Callable[[list[Event]], list[Event]]] = {
    "an-overloaded-mid": _overloaded_mid,
    "sse-error-mid": _error_mid,
    "sse-cut": _half,
    "an-no-message-stop": _without("message_stop"),
    "an-no-message-start": _without("message_start"),
    "an-no-end": lambda events: events[:-2],
    "an-unknown-event": _unknown,
    "an-ping": _pings,
    "an-usage-late": _usage_late,
    "an-one-index": _one_index,
    "an-error-after-end": _error_after_end,
    "an-own-fields": _own_fields,
    "an-picture": _with_blocks(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PIXEL}}
    ),
    "an-search": _with_blocks(
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "cats"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [{"type": "web_search_result", "url": "https://e.example/a", "encrypted_content": "e"}],
        },
    ),
}


def _plain(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {_data(event)}\n\n".encode()


def _nameless(event: Event) -> bytes:
    return f"data: {_data(event)}\n\n".encode()


def _typeless(event: Event) -> bytes:
    bare = {name: value for name, value in event.items() if name != "type"}
    return f"event: {as_text(event['type'])}\ndata: {_data(bare)}\n\n".encode()


def _no_space(event: Event) -> bytes:
    return f"event:{event['type']}\ndata:{_data(event)}\n\n".encode()


def _data(event: Event) -> str:
    return encode_json(event).decode()


def _one_newline(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {_data(event)}\n".encode()


WRITINGS: dict[str, Callable[[Event], bytes]] = {
    "an-no-event-line": _nameless,
    "an-no-type": _typeless,
    "sse-nospace": _no_space,
    "an-single-newlines": _one_newline,
}


def _one_byte(written: Sequence[bytes]) -> list[bytes]:
    stream = b"".join(written)
    return [stream[at : at + 1] for at in range(len(stream))]


def _split_inside_characters(written: Sequence[bytes]) -> list[bytes]:
    stream = b"".join(written)
    cuts = [at for at in range(1, len(stream)) if stream[at] & 0xC0 == 0x80]
    return [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]


def _with_line_end(end: bytes) -> Callable[[Sequence[bytes]], list[bytes]]:
    return lambda written: [piece.replace(b"\n", end) for piece in written]


FRAMINGS: dict[str, Callable[[Sequence[bytes]], list[bytes]]] = {
    "sse-crlf": _with_line_end(b"\r\n"),
    "sse-cr": _with_line_end(b"\r"),
    "sse-bom": lambda written: [b"\xef\xbb\xbf", *written],
    "sse-comments": lambda written: [part for piece in written for part in (b": ping\n\n", piece)],
    "sse-onebyte": _one_byte,
    "sse-split-utf8": _split_inside_characters,
    "sse-no-final-blank": lambda written: [*written[:-1], written[-1].rstrip(b"\n")],
}


_ROLES = frozenset({"user", "assistant"})
_PARTS = frozenset({"text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"})
_FOR_EVER = float("inf")
_LOOKUP: dict[str, Json] = {
    "name": "lookup",
    "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}
"""What `an-tool` calls when the request brings no tools of its own."""

_OVERLOADED = Refusal(status=529, shape="D", message="Overloaded", type="overloaded_error")
_SPENT = Refusal(
    status=429,
    shape="D",
    message="Your workspace has reached its spend limit.",
    code="enforced_spend_limit_reached",
    type="rate_limit_error",
    quiet=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MessagesReply:
    """An answer before it is written down."""

    head: dict[str, Json]
    blocks: tuple[dict[str, Json], ...]
    stop_reason: str
    asked: int
    said: int

    @property
    def usage(self) -> dict[str, Json]:
        return {"input_tokens": self.asked, "output_tokens": self.said}


def check_messages(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    if "an-529" in order.chosen and order.lane.calls <= order.figure("an-529", _FOR_EVER):
        return _OVERLOADED
    if "an-429-nohint" in order.chosen and order.lane.calls <= order.figure("an-429-nohint", _FOR_EVER):
        return _SPENT
    if "anthropic-version" not in order.headers:
        return _invalid("anthropic-version: header is required")
    limit = order.body.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        return _invalid("max_tokens: Field required" if limit is None else "max_tokens: must be a positive integer")
    turns = as_list(order.body.get("messages"))
    problem = next((said for turn in turns if (said := _turn_problem(as_object(turn)))), None)
    if not turns or problem:
        return _invalid(problem or "messages: at least one message is required")
    if "an-content-array-400" in order.chosen and any(isinstance(as_object(t).get("content"), list) for t in turns):
        return _invalid("JSON parse error: Cannot deserialize value of type `java.lang.String` from Array value")
    return _tools_problem(order.body)


def answer_messages(order: Order) -> Script:
    """The answer, streamed when that was asked for."""
    reply = _reply(order)
    headers = {"request-id": order.request_id}
    if order.body.get("stream") is not True or "sse-json-instead" in order.chosen:
        script = whole(encode_json(_whole_body(reply)), order, pieces=len(_events(reply)))
        return enveloped(Script(headers={**script.headers, **headers}, steps=script.steps), order)
    pieces, exact = stream_pieces(_events(reply), scenarios=tuple(order.chosen), edits=EDITS)
    script = Script(
        headers={"content-type": f"{SSE_TYPE}; charset=utf-8", "cache-control": "no-cache", **headers},
        steps=paced(pieces, order, exact=exact),
    )
    return enveloped(script, order)


def misses_schema(order: Order) -> bool:
    """Whether the answer breaks the schema of the tool that it must call."""
    forced = as_object(order.body.get("tool_choice")).get("type") == "tool"
    return order.breaks_schema and forced and not _answers_a_tool(order.body)


def _invalid(message: str) -> Refusal:
    return Refusal(status=400, shape="D", message=message, type="invalid_request_error")


def _turn_problem(turn: dict[str, Json]) -> str | None:
    if as_text(turn.get("role")) not in _ROLES:
        return "messages: Unexpected role. Use the top-level `system` parameter for the system prompt."
    content = turn.get("content")
    if isinstance(content, str):
        return None if content else "messages: text content blocks must be non-empty"
    if not isinstance(content, list) or not content:
        return "messages: content must be a string or a list of blocks"
    return next((said for part in content if (said := _part_problem(as_object(part)))), None)


def _part_problem(part: dict[str, Json]) -> str | None:
    kind = as_text(part.get("type"))
    if kind not in _PARTS:
        return f"messages: Input tag '{kind}' found using 'type' does not match any of the expected tags"
    if kind == "text" and not as_text(part.get("text")):
        return "messages: text content blocks must be non-empty"
    source = as_object(part.get("source"))
    if kind == "image" and not (as_text(source.get("data")) or as_text(source.get("url"))):
        return "messages: image source must have data or a url"
    if kind == "document" and not (source.keys() & {"data", "url", "content", "file_id"}):
        return "messages: document source must have data or a url"
    return None


def _tools_problem(body: dict[str, Json]) -> Refusal | None:
    tools = [as_object(tool) for tool in as_list(body.get("tools"))]
    if any(as_object(tool.get("input_schema")).get("type") != "object" for tool in tools if "type" not in tool):
        return _invalid("tools: input_schema.type must be 'object'")
    choice = as_object(body.get("tool_choice"))
    if choice.get("type") == "tool" and choice.get("name") not in [tool.get("name") for tool in tools]:
        return _invalid("tool_choice: the tool is not among tools")
    if choice.get("type") in {"tool", "any"} and _thinks(body):
        return _invalid("Thinking may not be enabled when tool_choice forces tool use.")
    return None


def _thinks(body: dict[str, Json]) -> bool:
    return as_object(body.get("thinking")).get("type") in {"enabled", "adaptive"}


def _conversation(body: dict[str, Json]) -> dict[str, Json]:
    """The body as the chat endpoint would have got it."""
    turns = as_list(body.get("messages"))
    system = body.get("system")
    return {**body, "messages": [{"role": "system", "content": system}, *turns]} if system else body


def _reply(order: Order) -> _MessagesReply:
    conversation = _conversation(order.body)
    seed = order.random_source.seed
    thought = "an-thinking" in order.chosen or "ok-reasoning" in order.chosen or _thinks(order.body)
    reasoning = reasoning_for(conversation, seed=seed) if thought else ""
    called = _called(order, conversation)
    text, stop_reason = ("", "tool_use") if called else _text(order, conversation)
    blocks: list[dict[str, Json]] = []
    if reasoning:
        blocks.append(
            {"type": "thinking", "thinking": reasoning, "signature": f"sig-{order.random_source.content:016x}"}
        )
    if text:
        blocks.append({"type": "text", "text": text})
    if called:
        blocks.append(called)
    written = reasoning + text + (encode_json(called["input"]).decode() if called else "")
    name = f"msg_{order.random_source.content:016x}_{order.nth}"
    return _MessagesReply(
        head={"id": name, "type": "message", "role": "assistant", "model": order.model},
        blocks=tuple(blocks),
        stop_reason=stop_reason,
        asked=prompt_tokens(conversation),
        said=order.answer_tokens_of(count_tokens(written)),
    )


def _text(order: Order, conversation: dict[str, Json]) -> tuple[str, str]:
    if "an-refusal" in order.chosen or "content-filter" in order.chosen:
        return "", "refusal"
    text = text_for(conversation, seed=order.random_source.seed)
    limit = order.body.get("max_tokens")
    if "length" in order.chosen:
        limit = max(1, count_tokens(text) // 2)
    if isinstance(limit, int) and count_tokens(text) > limit:
        return text[: 4 * limit], "max_tokens"
    return text, "end_turn"


def _called(order: Order, conversation: dict[str, Json]) -> dict[str, Json] | None:
    """The call of a tool, if one is wanted: forced, or asked for by a scenario, or simply on offer."""
    tools = [as_object(tool) for tool in as_list(order.body.get("tools"))]
    choice = as_object(order.body.get("tool_choice"))
    asked = "an-tool" in order.chosen or "ok-tools" in order.chosen
    if choice.get("type") == "none" or not (tools or asked) or _answers_a_tool(order.body):
        return None
    offered = tools or [_LOOKUP]
    named = next((tool for tool in offered if tool.get("name") == choice.get("name")), offered[0])
    text = text_for(conversation, seed=order.random_source.seed)
    name = as_text(named.get("name"))
    given = input_for(as_object(named.get("input_schema")), _if_forced(order), text=text)
    if given is None:
        return None
    return {"type": "tool_use", "id": f"toolu_{order.random_source.content:016x}", "name": name, "input": given}


def _if_forced(order: Order) -> Order:
    """Only a tool that must be called is a request for structured output; others are the person's own."""
    return order if misses_schema(order) else replace(order, breaks_schema=False)


def _answers_a_tool(body: dict[str, Json]) -> bool:
    turns = as_list(body.get("messages"))
    parts = as_list(as_object(turns[-1]).get("content")) if turns else []
    return any(as_object(part).get("type") == "tool_result" for part in parts)


def _whole_body(reply: _MessagesReply) -> dict[str, Json]:
    end: dict[str, Json] = {"stop_reason": reply.stop_reason, "stop_sequence": None, "usage": reply.usage}
    return {**reply.head, "content": list(reply.blocks), **end}


def _events(reply: _MessagesReply) -> list[Event]:
    usage: Json = {"input_tokens": reply.asked, "output_tokens": 1}
    empty: dict[str, Json] = {**reply.head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    events: list[Event] = [{"type": "message_start", "message": empty}, {"type": "ping"}]
    for at, block in enumerate(reply.blocks):
        events += _block_events(at, block)
    change: Json = {"stop_reason": reply.stop_reason, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": change, "usage": {"output_tokens": reply.said}})
    events.append({"type": "message_stop"})
    return events


def _block_events(at: int, block: dict[str, Json]) -> list[Event]:
    opening, deltas = _TAKEN_APART[as_text(block["type"])](block)
    begin: Event = {"type": "content_block_start", "index": at, "content_block": opening}
    grow: list[Event] = [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
    return [begin, *grow, {"type": "content_block_stop", "index": at}]


def _text_apart(block: dict[str, Json]) -> tuple[Json, list[Json]]:
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in _pieces(as_text(block["text"]))]


def _thinking_apart(block: dict[str, Json]) -> tuple[Json, list[Json]]:
    deltas: list[Json] = [{"type": "thinking_delta", "thinking": p} for p in _pieces(as_text(block["thinking"]))]
    deltas.append({"type": "signature_delta", "signature": block["signature"]})
    return {"type": "thinking", "thinking": "", "signature": ""}, deltas


def _tool_apart(block: dict[str, Json]) -> tuple[Json, list[Json]]:
    pieces = ["", *_pieces(encode_json(block["input"]).decode())]
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


_TAKEN_APART = {"text": _text_apart, "thinking": _thinking_apart, "tool_use": _tool_apart}
"""Type of a block: how it begins, and the pieces that follow."""


def _pieces(text: str) -> list[str]:
    """At most eight pieces; more would only cost time."""
    size = max(12, -(-len(text) // 8))
    return [text[at : at + size] for at in range(0, len(text), size)]
