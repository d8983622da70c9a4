"""Chat completions as a server writes them, whole or streamed, and what a server rejects."""

from dataclasses import dataclass

from batchrunner.core.job import Json
from batchrunner.simulator.answers import count_tokens, prompt_tokens, reasoning_for, text_for
from batchrunner.simulator.envelopes import enveloped
from batchrunner.simulator.made_to_schema import value_for
from batchrunner.simulator.order import Order
from batchrunner.simulator.pacing import paced, whole
from batchrunner.simulator.refusals import Refusal, invalid
from batchrunner.simulator.schema_answers import json_for, schema_of_format
from batchrunner.simulator.script import SSE_TYPE, Script, as_list, as_object, as_text, encode_json
from batchrunner.simulator.sse_shapes import FRAMINGS, Chunk, stream_pieces

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_PART_TYPES = ("text", "image_url", "video_url", "video")
_FIRST_DAY = 1_760_000_000
"""`created` does not follow the clock: the same seed gives the same bytes."""
_FORCED_TOOLS = frozenset({"ok-tools", "sse-tool-no-index", "sse-tools-same-index"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """An answer before it is written down."""

    id: str
    created: int
    model: str
    text: str
    reasoning: str | None
    calls: tuple[Chunk, ...]
    finish_reason: str
    usage: Chunk

    def chunk(self, choice: Chunk) -> Chunk:
        choices: list[Json] = [{"index": 0, "delta": {}, "finish_reason": None, **choice}]
        return self._chunk(choices)

    def usage_chunk(self) -> Chunk:
        return {**self._chunk([]), "usage": self.usage}

    def _chunk(self, choices: list[Json]) -> Chunk:
        head: Chunk = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return {**head, "choices": choices}


def check_chat(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    turns = order.body.get("messages")
    if not isinstance(turns, list) or not turns:
        return invalid("`messages` must be a non-empty list.")
    for turn in turns:
        if not isinstance(turn, dict) or as_text(turn.get("role")) not in _ROLES:
            return invalid("Each message needs a valid `role`.")
        if (refusal := _check_content(turn.get("content"))) is not None:
            return refusal
    limit = order.body.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        return invalid("Range of max_tokens should be [1, 8192]")
    return None


def shell(order: Order, *, choices: Json) -> Script:
    """The 200 that holds nothing, see docs/providers/modelscope.md#chat."""
    usage: Chunk = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    head: Chunk = {"id": "", "object": "", "created": 0, "model": order.base_model, "system_fingerprint": ""}
    return whole(encode_json({**head, "choices": choices, "usage": usage}), order)


def answer_chat(order: Order) -> Script:
    """The answer, streamed when that was asked for."""
    reply = _reply(order)
    if order.body.get("stream") is not True or "sse-json-instead" in order.chosen:
        count = len(_chunks(reply, include_usage=True)) + 1 if order.latency.chunk_s else None  # `[DONE]` is the last
        return enveloped(whole(encode_json(_whole_body(reply)), order, pieces=count), order)
    options = as_object(order.body.get("stream_options"))
    chunks = _chunks(reply, include_usage=options.get("include_usage") is True)
    pieces = stream_pieces(chunks, scenarios=tuple(order.chosen))
    exact = any(name in FRAMINGS for name in order.chosen)
    script = Script(
        headers={"content-type": f"{SSE_TYPE}; charset=utf-8", "cache-control": "no-cache"},
        steps=paced(pieces, order, exact=exact),
    )
    return enveloped(script, order)


def misses_schema(order: Order) -> bool:
    """Whether the answer is a text that breaks the schema that was asked for."""
    return order.breaks_schema and schema_of_format(order.body) is not None and not _tool_calls(order)


def thinks(body: dict[str, Json]) -> bool | None:
    """What the request says of thinking; None when it says nothing."""
    said = body.get("enable_thinking", as_object(body.get("chat_template_kwargs")).get("enable_thinking"))
    return said if isinstance(said, bool) else None


def _check_content(content: Json) -> Refusal | None:
    if content is None or isinstance(content, str):
        return None
    if not isinstance(content, list):
        return invalid("`content` must be a string or a list of parts.")
    for part in content:
        kind = as_text(as_object(part).get("type"))
        if kind not in _PART_TYPES:
            return invalid(f"Invalid value: {kind}. Supported values are: {', '.join(map(repr, _PART_TYPES))}.")
        url = as_text(as_object(as_object(part).get("image_url")).get("url"))
        if kind == "image_url" and not url.startswith(("http://", "https://", "data:image/")):
            return invalid("Failed to download multimodal content: the image URL is not valid.")
    return None


def _reply(order: Order) -> _Reply:
    reasoning = _reasoning(order)
    calls = _tool_calls(order)
    text, finish_reason = ("", "tool_calls") if calls else _text(order)
    if "ok-think-tags" in order.chosen and not calls:
        text = f"<think>\n{reasoning_for(order.body, seed=order.dice.seed)}\n</think>\n\n{text}"
    if "content-filter" in order.chosen:
        text, finish_reason = "", "content_filter"
    spoken = text + (reasoning or "") + "".join(as_text(as_object(call["function"])["arguments"]) for call in calls)
    asked, said = prompt_tokens(order.body), order.said_tokens(count_tokens(spoken))
    name = f"{order.dice.content:016x}"
    return _Reply(
        id=f"chatcmpl-{name}-{order.nth}",
        created=_FIRST_DAY + order.dice.content % 10_000_000,
        model=order.model,
        text=text,
        reasoning=reasoning,
        calls=calls,
        finish_reason=finish_reason,
        usage={"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    )


def _reasoning(order: Order) -> str | None:
    if "ok-reasoning" not in order.chosen and thinks(order.body) is not True:
        return None
    return reasoning_for(order.body, seed=order.dice.seed)


def _text(order: Order) -> tuple[str, str]:
    text = text_for(order.body, seed=order.dice.seed)
    if (schema := schema_of_format(order.body)) is not None:
        text = json_for(schema, order, text=text)
    elif as_object(order.body.get("response_format")).get("type") == "json_object":
        text = encode_json({"answer": text}).decode()
    limit = order.body.get("max_tokens") or order.body.get("max_completion_tokens")
    if "length" in order.chosen and limit is None:
        limit = max(1, count_tokens(text) // 2)
    if isinstance(limit, int) and count_tokens(text) > limit:
        return text[: 4 * limit], "length"
    return text, "stop"


def _tool_calls(order: Order) -> tuple[Chunk, ...]:
    tools = as_list(order.body.get("tools"))
    turns = as_list(order.body.get("messages"))
    answered = bool(turns) and as_object(turns[-1]).get("role") == "tool"
    choice = order.body.get("tool_choice")
    if choice == "none" or answered or not (tools or _FORCED_TOOLS.intersection(order.chosen)):
        return ()
    functions = [as_object(as_object(tool).get("function")) for tool in tools] or [_LOOKUP]
    wanted = as_text(as_object(as_object(choice).get("function")).get("name"))
    named = next((f for f in functions if f.get("name") == wanted), functions[0])
    text = text_for(order.body, seed=order.dice.seed)
    arguments = value_for(as_object(named.get("parameters")), grain=order.dice.content, text=text)
    called: Chunk = {
        "name": as_text(named.get("name")),
        "arguments": encode_json(arguments if isinstance(arguments, dict) else {}).decode(),
    }
    return ({"id": f"call_{order.dice.content:016x}", "type": "function", "function": called},)


_LOOKUP: Chunk = {
    "name": "lookup",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}
"""What `ok-tools` calls when the request brings no tools of its own."""


def _whole_body(reply: _Reply) -> Chunk:
    calls: Json = [{**call, "index": at} for at, call in enumerate(reply.calls)] if reply.calls else None
    message: Chunk = {
        "role": "assistant",
        "content": None if reply.calls else reply.text,
        "refusal": None,
        "reasoning_content": reply.reasoning,
        "tool_calls": calls,
    }
    choice: Chunk = {"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}
    head: Chunk = {"id": reply.id, "object": "chat.completion", "created": reply.created, "model": reply.model}
    return {**head, "choices": [choice], "usage": reply.usage}


def _chunks(reply: _Reply, *, include_usage: bool) -> list[Chunk]:
    chunks = [reply.chunk({"delta": {"role": "assistant", "content": ""}})]
    chunks += [reply.chunk({"delta": {"reasoning_content": piece}}) for piece in _pieces(reply.reasoning or "")]
    chunks += [reply.chunk({"delta": {"content": piece}}) for piece in _pieces(reply.text)]
    for at, call in enumerate(reply.calls):
        chunks += [reply.chunk({"delta": {"tool_calls": [delta]}}) for delta in _call_deltas(at, call)]
    chunks.append(reply.chunk({"finish_reason": reply.finish_reason}))
    if include_usage:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append(reply.usage_chunk())
    return chunks


def _call_deltas(at: int, call: Chunk) -> list[Json]:
    function = as_object(call["function"])
    opening: Chunk = {**call, "index": at, "function": {**function, "arguments": ""}}
    parts = _pieces(as_text(function["arguments"]))
    deltas: list[Json] = [{"index": at, "id": call["id"], "function": {"arguments": part}} for part in parts]
    return [opening, *deltas]


def _pieces(text: str) -> list[str]:
    """At most eight pieces; more would only cost time."""
    size = max(12, -(-len(text) // 8))
    return [text[at : at + size] for at in range(0, len(text), size)]
