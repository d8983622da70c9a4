"""Chat completions as a server writes them, whole or streamed, and what a server rejects."""

import base64
import gzip
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, replace
from batchrunner.simulator.answers import (
    content_text,
    count_tokens,
    json_for,
    prompt_tokens,
    reasoning_for,
    schema_of_format,
    text_for,
    value_for,
)
from batchrunner.simulator.refusals import Refusal, invalid
from batchrunner.simulator.requests import Order, paced, whole
from batchrunner.simulator.script import (
    JSON_TYPE,
    SSE_TYPE,
    Hang,
    Script,
    Send,
    Step,
    as_list,
    as_object,
    as_text,
    encode_json,
)
from batchrunner.simulator.sse_shapes import FRAMINGS, Chunk, stream_pieces

# What servers and gateways do to a whole reply, whatever it says: faulty heads, content codings, odd bytes around it.
#
# Seen in the field, and no reason to buy an answer twice. Each takes the finished script of an answer.

Envelope = Callable[[Script, Order], Script]


def enveloped(script: Script, order: Order) -> Script:
    """The script as the scenarios want it sent."""
    for name, change in ENVELOPES.items():
        if name in order.chosen:
            script = change(script, order)
    return script


def _with_headers(**headers: str) -> Envelope:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda script, _: replace(script, headers={**script.headers, **named})


def _many_headers(script: Script, _order: Order) -> Script:
    return replace(script, headers={**script.headers, **{f"x-hop-{at}": f"edge-{at}" for at in range(300)}})


def _in_one_piece(script: Script, body: bytes, *behind: Step, **headers: str) -> Script:
    """The waits as they were, and then these bytes at once."""
    waits = tuple(step for step in script.steps if not isinstance(step, Send))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(script, headers={**script.headers, **named}, steps=(*waits, Send(piece=body), *behind))


def _gzip(script: Script, _order: Order) -> Script:
    return _in_one_piece(script, gzip.compress(script.body, mtime=0), content_encoding="gzip")


def _gzip_wrong_sum(script: Script, _order: Order) -> Script:
    coded = gzip.compress(script.body, mtime=0)
    return _in_one_piece(script, coded[:-8] + bytes(8), content_encoding="gzip")


def _raw_control(script: Script, _order: Order) -> Script:
    """A tab as it is, which JSON forbids, before the first words."""
    return _in_one_piece(script, _before_the_words(script.body, b"\t"))


def _bytes_behind(script: Script, _order: Order) -> Script:
    return _in_one_piece(script, script.body + b"\n\n<!-- served by edge-7 -->\n")


def _utf_16(script: Script, _order: Order) -> Script:
    return _in_one_piece(script, script.body.decode("utf-8", "replace").encode("utf-16"))


def _behind_comments(script: Script, _order: Order) -> Script:
    """Keep-alives of a stream before an answer that is none."""
    kind = SSE_TYPE if script.body[:1] == b"{" else script.headers.get("content-type", JSON_TYPE)
    return _in_one_piece(script, b": PROCESSING\n\n: PROCESSING\n\n" + script.body, content_type=kind)


def _stays_open(script: Script, _order: Order) -> Script:
    """More is announced than comes, and the connection is left open."""
    return _in_one_piece(script, script.body, Hang(), content_length=str(len(script.body) + 10))


def _empty_error(script: Script, _order: Order) -> Script:
    blank = b'{"error":{"message":"","code":0,"type":null},'
    return _in_one_piece(script, script.body.replace(b'{"', blank + b'"', 1))


def _gemini(script: Script, _order: Order) -> Script:
    """The same answer in Gemini's own shape; a stream, or anything else, as it was."""
    try:
        body: Json = json.loads(script.body)
    except ValueError:
        return script
    choices = [as_object(choice) for choice in as_list(as_object(body).get("choices"))]
    if not choices:
        return script
    usage = as_object(as_object(body).get("usage"))
    candidates: list[Json] = [
        {
            "content": {"role": "model", "parts": [{"text": as_object(choice.get("message")).get("content")}]},
            "finishReason": "STOP",
        }
        for choice in choices
    ]
    counts: Json = {
        "promptTokenCount": usage.get("prompt_tokens"),
        "candidatesTokenCount": usage.get("completion_tokens"),
    }
    said: Json = {"candidates": candidates, "usageMetadata": counts}
    return _in_one_piece(script, json.dumps(said).encode())


def _echo_key(script: Script, order: Order) -> Script:
    """The caller's key stands in the answer, encoded in three ways."""
    key = order.headers.get("authorization", "").removeprefix("Bearer ") or order.headers.get("x-api-key", "")
    forms = (quote(key, safe=""), base64.b64encode(key.encode()).decode(), key.replace("/", "\\/"))
    return _in_one_piece(script, _before_the_words(script.body, (" ".join(forms) + " ").encode()))


def _before_the_words(body: bytes, prefix: bytes) -> bytes:
    """With these bytes at the beginning of the answer's text, wherever a stream says the text again as a whole."""
    says_it_again = body.startswith(b"event: response.")
    return _WORDS.sub(lambda found: found[0] + prefix, body, count=0 if says_it_again else 1)


_WORDS = re.compile(rb'"(?:content|text)":\s*"')


ENVELOPES: dict[str, Envelope] = {
    "body-gemini": _gemini,
    "body-empty-error": _empty_error,
    "body-raw-control": _raw_control,
    "body-echo-key": _echo_key,
    "body-comments-before": _behind_comments,
    "body-bytes-behind": _bytes_behind,
    "body-utf-16": _utf_16,
    "body-stays-open": _stays_open,
    "coding-not-there": _with_headers(content_encoding="gzip"),
    "coding-unknown": _with_headers(content_encoding="utf-8"),
    "coding-gzip": _gzip,
    "coding-gzip-wrong-sum": _gzip_wrong_sum,
    "head-many": _many_headers,
    "head-long": _with_headers(x_policy="x" * 32_768),
}
"""By scenario, in the order in which they are applied."""


_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_PART_TYPES = ("text", "image_url", "video_url", "video", "input_audio", "file")
_FIRST_DAY = 1_760_000_000
"""`created` does not follow the clock: the same seed gives the same bytes."""
_FORCED_TOOLS = frozenset({"ok-tools", "sse-tool-no-index", "sse-tools-same-index"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
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
        """A chunk of its stream."""
        choices: list[Json] = [{"index": 0, "delta": {}, "finish_reason": None, **choice}]
        return self._chunk(choices)

    def usage_chunk(self) -> Chunk:
        """The chunk that counts."""
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
    reply = reply_of(order)
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
        if (problem := _file_problem(as_object(part))) is not None:
            return invalid(problem)
    return None


def _file_problem(part: Chunk) -> str | None:
    """What OpenAI refuses in a part with sound or a document."""
    sound, file = as_object(part.get("input_audio")), as_object(part.get("file"))
    if part.get("type") == "input_audio" and (
        as_text(sound.get("format")) not in {"wav", "mp3"} or not _holds_bytes(as_text(sound.get("data")))
    ):
        return "Invalid value for input_audio: expected base64 `data` and a `format` of 'wav' or 'mp3'."
    if part.get("type") == "file" and not as_text(file.get("file_id")):
        packed = as_text(file.get("file_data")).removeprefix("data:application/pdf;base64,")
        if not as_text(file.get("filename")) or not _holds_bytes(packed):
            return "Missing required parameter: 'file.filename', or 'file.file_data' is no base64 data URL of a PDF."
    return None


def _holds_bytes(packed: str) -> bool:
    try:
        return bool(base64.b64decode(packed, validate=True))
    except ValueError:
        return False


def reply_of(order: Order) -> ChatReply:
    """What the model says to a chat, before it is written down."""
    reasoning = _reasoning(order)
    calls = _tool_calls(order)
    text, finish_reason = ("", "tool_calls") if calls else _text(order)
    if "ok-think-tags" in order.chosen and not calls:
        text = f"<think>\n{reasoning_for(order.body, seed=order.random_source.seed)}\n</think>\n\n{text}"
    if "content-filter" in order.chosen:
        text, finish_reason = "", "content_filter"
    written = text + (reasoning or "") + "".join(as_text(as_object(call["function"])["arguments"]) for call in calls)
    asked, said = prompt_tokens(order.body), order.answer_tokens_of(count_tokens(written))
    name = f"{order.random_source.content:016x}"
    return ChatReply(
        id=f"chatcmpl-{name}-{order.nth}",
        created=_FIRST_DAY + order.random_source.content % 10_000_000,
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
    return reasoning_for(order.body, seed=order.random_source.seed)


def _text(order: Order) -> tuple[str, str]:
    text = text_for(order.body, seed=order.random_source.seed)
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
    text = text_for(order.body, seed=order.random_source.seed)
    arguments = value_for(as_object(named.get("parameters")), grain=order.random_source.content, text=text)
    called: Chunk = {
        "name": as_text(named.get("name")),
        "arguments": encode_json(arguments if isinstance(arguments, dict) else {}).decode(),
    }
    return ({"id": f"call_{order.random_source.content:016x}", "type": "function", "function": called},)


_LOOKUP: Chunk = {
    "name": "lookup",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}
"""What `ok-tools` calls when the request brings no tools of its own."""


def _whole_body(reply: ChatReply) -> Chunk:
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


def _chunks(reply: ChatReply, *, include_usage: bool) -> list[Chunk]:
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


# Answers of a rehearsal, where the text is not used: the same counts, at the same times, without the text.
#
# An ordinary answer is cut into eight pieces whatever it says, because the shortest text is long enough for that, and
# its tokens are what the profile supposes; so how long it takes and what it is counted as is known without composing
# it.
# Refuses (None) whatever depends on the text: scenarios, streams, schemas, tools, thinking, limits near its length, and
# tokens that are counted instead of supposed.

_PIECES_CHAT: Final = 12
"""The role, eight of text, the end, the usage, and `[DONE]`."""
_LONGEST_TOKENS: Final = 128
"""Of a text, besides the numbers that it repeats from its prompt."""
_SHAPING: Final = frozenset({"tools", "tool_choice", "response_format", "enable_thinking", "chat_template_kwargs"})
_REHEARSED: Final = "(rehearsed)"


def light_chat(order: Order) -> Script | None:
    """The answer to a chat completion, or None where it has to be composed."""
    body = order.body
    if order.chosen or order.answer_tokens is None or body.get("stream") is True or not _SHAPING.isdisjoint(body):
        return None
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    if isinstance(limit, int) and limit < _LONGEST_TOKENS + _longest_prompt(order):
        return None
    asked, said = prompt_tokens(body), order.answer_tokens_of(0)
    name = _quoted(order.model)
    reply = (
        f'{{"id": "chatcmpl-{order.random_source.content:016x}-{order.nth}",'
        f' "object": "chat.completion", "created": 1760000000,'
        f' "model": {name}, "choices": [{{"index": 0, "message": {{"role": "assistant", "content": "{_REHEARSED}"}},'
        f' "finish_reason": "stop"}}], "usage": {{"prompt_tokens": {asked}, "completion_tokens": {said},'
        f' "total_tokens": {asked + said}}}}}'
    )
    return whole(reply.encode(), order, pieces=_PIECES_CHAT)


@lru_cache(maxsize=64)
def _quoted(model: str) -> str:
    return json.dumps(model)


def _longest_prompt(order: Order) -> int:
    """Characters of the longest turn, as more than the tokens of the numbers in it."""
    turns: list[Json] = as_list(order.body.get("messages"))
    return max((len(content_text(as_object(turn).get("content"))) for turn in turns), default=0)
