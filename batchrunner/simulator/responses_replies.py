"""OpenAI's Responses as a server writes them, whole or streamed, and what such a server rejects.

The words are those that the chat endpoint would say to the same conversation. The framings and the scenarios of chat
that mean something here are honoured; the rest of them change nothing.
"""

from collections.abc import Callable

from batchrunner.core.job import Json
from batchrunner.core.values import replace
from batchrunner.simulator import chat_replies
from batchrunner.simulator.chat_replies import ChatReply, enveloped, reply_of
from batchrunner.simulator.messages_replies import Event, stream_pieces
from batchrunner.simulator.refusals import Refusal, invalid
from batchrunner.simulator.requests import Order, paced, whole
from batchrunner.simulator.script import SSE_TYPE, Script, as_list, as_object, as_text, encode_json

_ROLES = frozenset({"system", "developer", "user", "assistant"})
_ITEMS = frozenset({"", "message", "function_call", "function_call_output", "reasoning", "item_reference"})
_PARTS = frozenset({"input_text", "output_text", "input_image", "input_file", "refusal"})
_OF_CHAT = {"max_tokens": "max_output_tokens", "response_format": "text.format"}
"""Parameters that belong to the other dialect, and what they are called here."""
_FORCED_TOOL = "rs-tool"


def check_responses(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    body = order.body
    for name, instead in _OF_CHAT.items():
        if name in body:
            return invalid(f"Unsupported parameter: '{name}'. In the Responses API it is '{instead}'.")
    said = body.get("input")
    if not said or not isinstance(said, str | list):
        return invalid("Missing required parameter: 'input'.")
    problem = next((found for item in as_list(said) if (found := _item_problem(as_object(item)))), None)
    if problem:
        return invalid(problem)
    limit = body.get("max_output_tokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        return invalid("Invalid 'max_output_tokens': integer below minimum value.")
    tools = [as_object(tool) for tool in as_list(body.get("tools"))]
    if any(tool.get("type") == "function" and not as_text(tool.get("name")) for tool in tools):
        return invalid("Missing required parameter: 'tools[0].name'.")
    form = as_object(as_object(body.get("text")).get("format"))
    if form.get("type") == "json_schema" and not (as_text(form.get("name")) and as_object(form.get("schema"))):
        return invalid("Missing required parameter: 'text.format.name'.")
    return None


def answer_responses(order: Order) -> Script:
    """The answer, streamed when that was asked for."""
    reply = reply_of(as_chat_order(order))
    response = _response(order, reply)
    events = _events(response)
    if order.body.get("stream") is not True or "sse-json-instead" in order.chosen:
        return enveloped(whole(encode_json(_as_whole(response, order)), order, pieces=len(events)), order)
    pieces, exact = stream_pieces(events, scenarios=tuple(order.chosen), edits=EDITS)
    if "rs-done" in order.chosen:
        pieces = [*pieces, b"data: [DONE]\n\n"]
    script = Script(
        headers={"content-type": f"{SSE_TYPE}; charset=utf-8", "cache-control": "no-cache"},
        steps=paced(pieces, order, exact=exact),
    )
    return enveloped(script, order)


def misses_schema(order: Order) -> bool:
    """Whether the answer is a text that breaks the schema that was asked for."""
    return chat_replies.misses_schema(as_chat_order(order))


def as_chat_order(order: Order) -> Order:
    """The order as the chat endpoint would have got it."""
    body = order.body
    said = body.get("input")
    listed: list[Json] = [{"role": "user", "content": said}] if isinstance(said, str) else as_list(said)
    items = [item for item in map(as_object, listed) if item.get("type") not in {"reasoning", "item_reference"}]
    turns: list[Json] = [_turn(item) for item in items]
    if system := as_text(body.get("instructions")):
        turns.insert(0, {"role": "system", "content": system})
    asked: dict[str, Json] = {**body, "messages": turns}
    if "max_output_tokens" in body:
        asked["max_tokens"] = body["max_output_tokens"]
    form = as_object(as_object(body.get("text")).get("format"))
    if form.get("type") == "json_schema":
        asked["response_format"] = {"type": "json_schema", "json_schema": form}
    elif form:
        asked["response_format"] = form
    asked["tools"] = [
        {"type": "function", "function": tool}
        for tool in map(as_object, as_list(body.get("tools")))
        if tool.get("type") == "function"
    ]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        asked["tool_choice"] = {"function": {"name": choice.get("name")}}
    chosen = dict(order.chosen)
    if _FORCED_TOOL in chosen:
        chosen["ok-tools"] = None
    if as_object(body.get("reasoning")).get("summary"):
        chosen["ok-reasoning"] = None
    return replace(order, body=asked, chosen=chosen)


def _item_problem(item: dict[str, Json]) -> str | None:
    kind = as_text(item.get("type"))
    if kind not in _ITEMS:
        return f"Invalid value: '{kind}'. Supported values are: 'message', 'function_call', 'function_call_output'."
    if kind not in {"", "message"}:
        needs_call = kind.startswith("function_call") and not as_text(item.get("call_id"))
        return "Missing required parameter: 'input[0].call_id'." if needs_call else None
    if as_text(item.get("role")) not in _ROLES:
        return f"Invalid value: '{as_text(item.get('role'))}'. Supported values are: 'assistant', 'system', 'user'."
    content = item.get("content")
    if isinstance(content, str):
        return None
    for part in map(as_object, as_list(content)):
        kind = as_text(part.get("type"))
        if kind not in _PARTS:
            return f"Invalid value: '{kind}'. Supported values are: 'input_text', 'input_image', 'output_text'."
        url = as_text(part.get("image_url"))
        is_url = url.startswith(("http://", "https://", "data:image/"))
        if kind == "input_image" and not (is_url or part.get("file_id")):
            return "Invalid 'input[0].content[0].image_url': expected a valid URL."
    return None if content else "Missing required parameter: 'input[0].content'."


def _turn(item: dict[str, Json]) -> dict[str, Json]:
    kind = as_text(item.get("type"))
    if kind == "function_call_output":
        return {"role": "tool", "content": as_text(item.get("output"))}
    if kind == "function_call":
        return {"role": "assistant", "content": as_text(item.get("arguments"))}
    content = item.get("content")
    if isinstance(content, str):
        return {"role": item.get("role"), "content": content}
    return {"role": item.get("role"), "content": [_part(as_object(part)) for part in as_list(content)]}


def _part(part: dict[str, Json]) -> Json:
    if part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    return {"type": "text", "text": as_text(part.get("text"))}


def _response(order: Order, reply: ChatReply) -> dict[str, Json]:
    """The whole response, as its last event carries it."""
    name = reply.id.removeprefix("chatcmpl-")
    refuses = "rs-refusal" in order.chosen
    items: list[Json] = []
    if reply.reasoning:
        summary: Json = [{"type": "summary_text", "text": reply.reasoning}]
        items.append({"type": "reasoning", "id": f"rs_{name}", "summary": summary})
    for at, call in enumerate(reply.calls):
        function = as_object(call["function"])
        items.append(
            {
                "type": "function_call",
                "id": f"fc_{name}_{at}",
                "call_id": call["id"],
                "name": function["name"],
                "arguments": function["arguments"],
                "status": "completed",
            }
        )
    if (reply.text or refuses) and "rs-empty" not in order.chosen:
        part: Json = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        if refuses:
            part = {"type": "refusal", "refusal": "I cannot help with that."}
        items.append(
            {"type": "message", "id": f"msg_{name}", "role": "assistant", "status": "completed", "content": [part]}
        )
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reply.finish_reason)
    asked, said = reply.usage["prompt_tokens"], reply.usage["completion_tokens"]
    thought = len(reply.reasoning or "") // 4
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": reply.created,
        "status": "incomplete" if reason else "completed",
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": order.body.get("instructions"),
        "max_output_tokens": order.body.get("max_output_tokens"),
        "model": order.model,
        "output": items,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": said,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": reply.usage["total_tokens"],
        },
        "metadata": {},
    }


def _as_whole(response: dict[str, Json], order: Order) -> dict[str, Json]:
    """An answer that is not streamed says in its status what a stream says in its last event."""
    failed = next((error for name, error in _FAILED.items() if name in order.chosen), None)
    if failed is not None:
        return {**response, "status": "failed", "error": failed, "output": [], "usage": None}
    return response


_FAILED: dict[str, Json] = {
    "rs-failed": {"code": "server_error", "message": "The server had an error while answering."},
    "rs-failed-limit": {
        "code": "rate_limit_exceeded",
        "message": "Rate limit reached for model on tokens per min (TPM). Please try again in 2s.",
    },
}


def _events(response: dict[str, Json]) -> list[Event]:
    begun: dict[str, Json] = {**response, "status": "in_progress", "incomplete_details": None, "output": []}
    begun["usage"] = None
    events: list[Event] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for at, item in enumerate(map(as_object, as_list(response["output"]))):
        events += _TAKEN_APART[as_text(item["type"])](at, item)
    events.append({"type": f"response.{as_text(response['status'])}", "response": response})
    return _numbered(events)


def _numbered(events: list[Event]) -> list[Event]:
    return [{"type": event["type"], "sequence_number": at, **event} for at, event in enumerate(events)]


def _message_apart(at: int, item: dict[str, Json]) -> list[Event]:
    part = as_object(as_list(item["content"])[0])
    what = "text" if part["type"] == "output_text" else "refusal"
    kind = "output_text" if what == "text" else "refusal"
    empty: dict[str, Json] = {**part, what: ""}
    place: dict[str, Json] = {"item_id": item["id"], "output_index": at, "content_index": 0}
    deltas: list[Event] = [
        {"type": f"response.{kind}.delta", **place, "delta": piece} for piece in _pieces(as_text(part[what]))
    ]
    begun: Json = {**item, "status": "in_progress", "content": []}
    return [
        {"type": "response.output_item.added", "output_index": at, "item": begun},
        {"type": "response.content_part.added", **place, "part": empty},
        *deltas,
        {"type": f"response.{kind}.done", **place, what: part[what]},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": at, "item": item},
    ]


def _reasoning_apart(at: int, item: dict[str, Json]) -> list[Event]:
    part = as_object(as_list(item["summary"])[0])
    place: dict[str, Json] = {"item_id": item["id"], "output_index": at, "summary_index": 0}
    text = as_text(part["text"])
    deltas: list[Event] = [
        {"type": "response.reasoning_summary_text.delta", **place, "delta": piece} for piece in _pieces(text)
    ]
    return [
        {"type": "response.output_item.added", "output_index": at, "item": {**item, "summary": []}},
        {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}},
        *deltas,
        {"type": "response.reasoning_summary_text.done", **place, "text": text},
        {"type": "response.reasoning_summary_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": at, "item": item},
    ]


def _call_apart(at: int, item: dict[str, Json]) -> list[Event]:
    place: dict[str, Json] = {"item_id": item["id"], "output_index": at}
    arguments = as_text(item["arguments"])
    deltas: list[Event] = [
        {"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in _pieces(arguments)
    ]
    begun: Json = {**item, "status": "in_progress", "arguments": ""}
    return [
        {"type": "response.output_item.added", "output_index": at, "item": begun},
        *deltas,
        {"type": "response.function_call_arguments.done", **place, "name": item["name"], "arguments": arguments},
        {"type": "response.output_item.done", "output_index": at, "item": item},
    ]


_TAKEN_APART: dict[str, Callable[[int, dict[str, Json]], list[Event]]] = {
    "message": _message_apart,
    "reasoning": _reasoning_apart,
    "function_call": _call_apart,
}
"""Type of an item: the events that say it."""


def _pieces(text: str) -> list[str]:
    """At most eight pieces; more would only cost time."""
    size = max(12, -(-len(text) // 8))
    return [text[at : at + size] for at in range(0, len(text), size)]


# What servers do to a stream of responses: edits of its events.


def _half(events: list[Event]) -> list[Event]:
    return events[: max(1, len(events) // 2)]


def _error_mid(events: list[Event]) -> list[Event]:
    error: Event = {
        "type": "error",
        "code": "server_error",
        "message": "The server had an error while answering.",
        "param": None,
    }
    return _numbered([*_half(events), error])


def _failing(name: str) -> Callable[[list[Event]], list[Event]]:
    def edit(events: list[Event]) -> list[Event]:
        whole_one = as_object(events[-1].get("response"))
        failed: Json = {**whole_one, "status": "failed", "error": _FAILED[name], "output": [], "usage": None}
        kept = _half(events) if name == "rs-failed" else events[:2]
        return _numbered([*kept, {"type": "response.failed", "response": failed}])

    return edit


def _bare_end(events: list[Event]) -> list[Event]:
    """The last event repeats nothing of the output, as some servers write it."""
    return [*events[:-1], {**events[-1], "response": {**as_object(events[-1].get("response")), "output": []}}]


def _unknown(events: list[Event]) -> list[Event]:
    odd: list[Event] = [{"type": "response.weather_report", "degrees": 21}, {"type": "keepalive"}]
    return _numbered([{k: v for k, v in e.items() if k != "sequence_number"} for e in (*events[:-1], *odd, events[-1])])


EDITS: dict[str, Callable[[list[Event]], list[Event]]] = {
    "sse-error-mid": _error_mid,
    "sse-cut": _half,
    "rs-failed": _failing("rs-failed"),
    "rs-failed-limit": _failing("rs-failed-limit"),
    "rs-no-end": lambda events: events[:-1],
    "rs-bare-end": _bare_end,
    "rs-doubled": lambda events: [again for event in events for again in (event, event)],
    "rs-unknown-event": _unknown,
}
