"""Answers in the shape of another API than the one that was asked: gateways pass them on, and they are paid for.

Each rule knows a shape by names that no other has, and gives the same answer as a chunk of OpenAI's chat. Refuses what
it does not know for sure: a shape that may be an error, or a task, is left to those who read errors.
"""

from collections.abc import Callable
from typing import Final

from batchrunner.core.job import Json
from batchrunner.providers.json_bodies import at, is_object

_Object = dict[str, Json]


def as_chat(value: Json) -> _Object | None:
    """The answer as one with `choices`; None when its shape is none of those that are known."""
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if not is_object(value) or "choices" in value:
        return None
    return next((found for rule in _RULES if (found := rule(value)) is not None), None)


def _gemini(value: _Object) -> _Object | None:
    """`candidates` with `content.parts`; Vertex and others wrap it in `response`."""
    inner = value.get("response")
    if is_object(inner) and "candidates" in inner:
        value = inner
    candidates = value.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        return None
    choices: list[Json] = []
    for candidate in candidates:
        if not is_object(candidate):
            return None
        parts = at(candidate, "content", "parts")
        listed = parts if isinstance(parts, list) else []
        calls = [
            _call(None, at(part, "functionCall", "name"), at(part, "functionCall", "args"))
            for part in listed
            if at(part, "functionCall")
        ]
        piece: _Object = {"content": [part for part in listed if not at(part, "functionCall")]}
        reason = candidate.get("finishReason") or candidate.get("finish_reason")
        rest = {name: said for name, said in candidate.items() if name not in {"content", "finishReason"}}
        choices.append({**rest, **_assistant_message(piece, calls), "finish_reason": reason})
    return _answered(value, choices, without=("candidates",))


def _messages(value: _Object) -> _Object | None:
    """Anthropic's message, whole or as events of its stream."""
    kind = value.get("type")
    if kind == "message" and isinstance(value.get("content"), list | str):
        content = value["content"]
        blocks: list[Json] = content if isinstance(content, list) else [{"type": "text", "text": content}]
        calls = [
            _call(at(block, "id"), at(block, "name"), at(block, "input"))
            for block in blocks
            if at(block, "type") == "tool_use"
        ]
        piece: _Object = {"content": [block for block in blocks if at(block, "type") != "tool_use"]}
        choice: _Object = {**_assistant_message(piece, calls), "finish_reason": value.get("stop_reason")}
        return _answered(value, [choice], without=("content", "stop_reason", "type"))
    if kind == "content_block_delta" and is_object(value.get("delta")):
        text, thought = at(value, "delta", "text"), at(value, "delta", "thinking")
        return {"choices": [{"delta": {"content": text, "reasoning_content": thought}}]}
    if kind == "message_delta":
        return {
            "choices": [{"delta": {}, "finish_reason": at(value, "delta", "stop_reason")}],
            "usage": value.get("usage"),
        }
    return None


def _responses(value: _Object) -> _Object | None:
    """OpenAI's responses, whole or as events of their stream."""
    kind = value.get("type")
    if kind == "response.output_text.delta" and isinstance(value.get("delta"), str):
        return {"choices": [{"delta": {"content": value["delta"]}}]}
    whole = value.get("response")
    if (
        isinstance(kind, str)
        and kind in {"response.completed", "response.incomplete"}
        and is_object(whole)
        and "response" not in whole
    ):
        return _responses(whole)
    output = value.get("output")
    if (
        value.get("object") != "response"
        or not isinstance(output, list)
        or str(value.get("status")) in {"failed", "queued", "in_progress", "cancelled"}
    ):
        return None
    parts: list[Json] = []
    thoughts: list[Json] = []
    calls: list[Json] = []
    for item in output:
        match at(item, "type"):
            case "message":
                content = at(item, "content")
                parts += content if isinstance(content, list) else [content]
            case "reasoning":
                thoughts.append(at(item, "summary") or at(item, "content"))
            case "function_call":
                calls.append(_call(at(item, "call_id"), at(item, "name"), at(item, "arguments")))
            case _:
                parts.append(item)
    cut = value.get("status") == "incomplete"
    piece: _Object = {
        "content": parts,
        "reasoning": [
            thought for some in thoughts for thought in (some if isinstance(some, list) else [some]) if thought
        ],
    }
    reason = (at(value, "incomplete_details", "reason") or "incomplete") if cut else "stop"
    return _answered(
        value, [{**_assistant_message(piece, calls), "finish_reason": reason}], without=("output", "status", "object")
    )


def _ollama(value: _Object) -> _Object | None:
    if not isinstance(value.get("done"), bool):
        return None
    message = value.get("message")
    if not is_object(message):
        if not isinstance(value.get("response"), str):
            return None
        message = {"content": value["response"], "thinking": value.get("thinking")}
    reason = value.get("done_reason") or ("stop" if value["done"] else None)
    return _answered(value, [{"delta": message, "finish_reason": reason}], without=("message", "response", "thinking"))


def _cohere(value: _Object) -> _Object | None:
    """`message.content` of the second version; `text` of the first."""
    reason = value.get("finish_reason")
    message = value.get("message")
    if is_object(message) and reason and isinstance(message.get("content"), list):
        return _answered(value, [{"message": message, "finish_reason": reason}], without=("message", "finish_reason"))
    if isinstance(value.get("text"), str) and (reason or "generation_id" in value):
        piece: _Object = {"content": value["text"], "citations": value.get("citations")}
        return _answered(
            value,
            [{"message": piece, "finish_reason": reason}],
            without=("text", "finish_reason", "citations", "chat_history"),
        )
    return None


def _one_text(value: _Object) -> _Object | None:
    """One text under a name of its own: DashScope, Qianfan, TGI, Workers AI, llama.cpp."""
    for path, reason_at, without in _TEXTS:
        text = at(value, *path)
        if isinstance(text, str):
            reason = at(value, *reason_at) if reason_at else None
            if reason is None and value.get("stop") is True:
                reason = "stop"
            reason = None if reason == "null" else reason
            return _answered(value, [{"message": {"content": text}, "finish_reason": reason}], without=without)
    return None


_TEXTS: Final[tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...]] = (
    (("output", "text"), ("output", "finish_reason"), ("output",)),
    (("result", "response"), (), ("result", "success")),
    (("generated_text",), ("details", "finish_reason"), ("generated_text",)),
)
"""Where the text stands, where its end is named, and what is not kept besides."""


def _by_a_name_that_needs_another(value: _Object) -> _Object | None:
    """`result` beside Qianfan's own fields, `content` beside llama.cpp's: alone they may mean anything."""
    if isinstance(value.get("result"), str) and ("need_clear_history" in value or "is_truncated" in value):
        reason: Json = "length" if value.get("is_truncated") is True else value.get("finish_reason")
        if reason is None and value.get("is_end") is True:
            reason = "stop"
        return _answered(value, [{"delta": {"content": value["result"]}, "finish_reason": reason}], without=("result",))
    if isinstance(value.get("content"), str) and isinstance(value.get("stop"), bool):
        cut = value.get("stopped_limit") is True or value.get("truncated") is True
        reason = ("length" if cut else "stop") if value["stop"] else None
        return _answered(
            value, [{"delta": {"content": value["content"]}, "finish_reason": reason}], without=("content", "stop")
        )
    return None


_RULES: Final[tuple[Callable[[_Object], _Object | None], ...]] = (
    _gemini,
    _messages,
    _responses,
    _ollama,
    _cohere,
    _one_text,
    _by_a_name_that_needs_another,
)


def _assistant_message(piece: _Object, calls: list[Json]) -> _Object:
    return {"message": {**piece, "tool_calls": calls} if calls else piece}


def _call(identifier: Json, name: Json, arguments: Json) -> Json:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def _answered(value: _Object, choices: list[Json], *, without: tuple[str, ...]) -> _Object:
    return {**{name: said for name, said in value.items() if name not in without}, "choices": choices}


def chat_as_message(chat: _Object) -> _Object | None:
    """The first choice of a whole chat answer, as Anthropic would have written it; None where there is none."""
    choices = chat.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = at(first, "message") or at(first, "delta")
    if not is_object(message):
        return None
    content = message.get("content")
    blocks: list[Json] = list(content) if isinstance(content, list) else []
    if isinstance(content, str) and content:
        blocks.append({"type": "text", "text": content})
    if isinstance(thought := message.get("reasoning_content") or message.get("reasoning"), str) and thought:
        blocks.insert(0, {"type": "thinking", "thinking": thought})
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = at(call, "function")
        blocks.append(
            {"type": "tool_use", "id": at(call, "id"), "name": at(function, "name"), "input": at(function, "arguments")}
        )
    rest = {name: said for name, said in chat.items() if name not in {"choices", "object", "created"}}
    more = {name: said for name, said in message.items() if name not in _OF_A_MESSAGE}
    return {
        **rest,
        **more,
        "content": [_block(block) for block in blocks],
        "stop_reason": at(first, "finish_reason") or at(first, "finishReason"),
    }


def chunk_as_events(chunk: _Object) -> list[_Object] | None:
    """A chunk of a chat stream, as events of Anthropic's; None where it says what these cannot."""
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return None
    events: list[_Object] = []
    for choice in choices:
        piece = at(choice, "delta") or at(choice, "message")
        if at(piece, "tool_calls") or (at(choice, "index") or 0) != 0:
            return None
        content = at(piece, "content")
        texts: list[Json] = content if isinstance(content, list) else [{"type": "text", "text": content}]
        thought = at(piece, "reasoning_content") or at(piece, "reasoning")
        if isinstance(thought, str) and thought:
            events.append(_piece(0, {"type": "thinking_delta", "thinking": thought}))
        events += [
            _piece(1, {"type": "text_delta", "text": text})
            for part in texts
            if isinstance(text := at(part, "text"), str) and text
        ]
        if reason := at(choice, "finish_reason") or at(choice, "finishReason"):
            events.append({"type": "message_delta", "delta": {"stop_reason": reason}})
    if is_object(usage := chunk.get("usage")):
        events.append({"type": "message_delta", "usage": usage})
    return events


_OF_A_MESSAGE: Final = frozenset({"role", "content", "reasoning_content", "reasoning", "tool_calls", "refusal"})


def _piece(index: int, delta: Json) -> _Object:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _block(part: Json) -> Json:
    """A part of a content as a block: text by its name, the rest as it is."""
    if is_object(part) and isinstance(part.get("text"), str):
        return (
            {**part, "type": "thinking", "thinking": part["text"]} if part.get("thought") else {**part, "type": "text"}
        )
    return part
