"""Anthropic messages as a server writes them, whole or streamed, and what such a server rejects.

The words are those that the chat endpoint would say to the same conversation. The framings and the scenarios of chat
that mean something here are honoured; the rest of them change nothing.
"""

from dataclasses import dataclass, replace

from batchrunner.core.job import Json
from batchrunner.simulator.answers import count_tokens, prompt_tokens, reasoning_for, text_for
from batchrunner.simulator.envelopes import enveloped
from batchrunner.simulator.messages_shapes import Event, stream_pieces
from batchrunner.simulator.order import Order
from batchrunner.simulator.pacing import paced, whole
from batchrunner.simulator.refusals import Refusal
from batchrunner.simulator.schema_answers import input_for
from batchrunner.simulator.script import SSE_TYPE, Script, as_list, as_object, as_text, encode_json

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
class _Reply:
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
    pieces, exact = stream_pieces(_events(reply), scenarios=tuple(order.chosen))
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


def _reply(order: Order) -> _Reply:
    conversation = _conversation(order.body)
    seed = order.dice.seed
    thought = "an-thinking" in order.chosen or "ok-reasoning" in order.chosen or _thinks(order.body)
    reasoning = reasoning_for(conversation, seed=seed) if thought else ""
    called = _called(order, conversation)
    text, stop_reason = ("", "tool_use") if called else _text(order, conversation)
    blocks: list[dict[str, Json]] = []
    if reasoning:
        blocks.append({"type": "thinking", "thinking": reasoning, "signature": f"sig-{order.dice.content:016x}"})
    if text:
        blocks.append({"type": "text", "text": text})
    if called:
        blocks.append(called)
    spoken = reasoning + text + (encode_json(called["input"]).decode() if called else "")
    name = f"msg_{order.dice.content:016x}_{order.nth}"
    return _Reply(
        head={"id": name, "type": "message", "role": "assistant", "model": order.model},
        blocks=tuple(blocks),
        stop_reason=stop_reason,
        asked=prompt_tokens(conversation),
        said=order.said_tokens(count_tokens(spoken)),
    )


def _text(order: Order, conversation: dict[str, Json]) -> tuple[str, str]:
    if "an-refusal" in order.chosen or "content-filter" in order.chosen:
        return "", "refusal"
    text = text_for(conversation, seed=order.dice.seed)
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
    text = text_for(conversation, seed=order.dice.seed)
    name = as_text(named.get("name"))
    given = input_for(as_object(named.get("input_schema")), _if_forced(order), text=text)
    if given is None:
        return None
    return {"type": "tool_use", "id": f"toolu_{order.dice.content:016x}", "name": name, "input": given}


def _if_forced(order: Order) -> Order:
    """Only a tool that must be called is a request for structured output; others are the person's own."""
    return order if misses_schema(order) else replace(order, breaks_schema=False)


def _answers_a_tool(body: dict[str, Json]) -> bool:
    turns = as_list(body.get("messages"))
    parts = as_list(as_object(turns[-1]).get("content")) if turns else []
    return any(as_object(part).get("type") == "tool_result" for part in parts)


def _whole_body(reply: _Reply) -> dict[str, Json]:
    end: dict[str, Json] = {"stop_reason": reply.stop_reason, "stop_sequence": None, "usage": reply.usage}
    return {**reply.head, "content": list(reply.blocks), **end}


def _events(reply: _Reply) -> list[Event]:
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
