"""Unknown fields of a chat answer: kept under the server's names, because they were paid for.

Every server has fields of its own. What only describes the envelope is left out; what stands in a choice, in its
message or delta, or beside the choices is given back. Wrappings that gateways put around an answer are taken off.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final, Literal

from batchrunner.core.job import Json
from batchrunner.core.outcome import PictureBytes, Usage
from batchrunner.core.text import late_pattern
from batchrunner.providers.chat_media import is_picture, media_in
from batchrunner.providers.json_bodies import at, encode, is_object, whole_number
from batchrunner.providers.native_shapes import as_chat

# What the words mean with which servers end an answer: compared without case, `-` and spaces read as `_`.

_CAMEL: Final = late_pattern(r"(?<=[a-z])(?=[A-Z])")
Meaning = Literal["whole", "cut", "broken", "filtered"]

_CUT: Final = frozenset(
    {
        *("length", "max_length", "model_length", "token_limit", "max_token_limit", "length_limit", "limit"),
        *("max_tokens", "max_output_tokens", "max_completion_tokens", "max_new_tokens", "max_tokens_reached"),
        *("context_length", "context_length_exceeded", "context_window_exceeded", "model_context_window_exceeded"),
        *(
            "truncated",
            "repetition_truncation",
            "incomplete",
            "pause_turn",
            "error_limit",
            "max_total_tokens",
            "output_limit",
        ),
    }
)
"""The answer is as long as it may be, and not at its end."""
_BROKEN: Final = frozenset(
    {
        *("error", "abort", "aborted", "cancelled", "canceled", "user_cancel", "interrupted", "failed", "failure"),
        *("network_error", "insufficient_system_resource", "insufficient_system_resources", "server_error"),
        *("internal_error", "internal_server_error", "engine_error", "engine_overloaded", "overloaded", "timeout"),
        *("unavailable", "service_unavailable", "connection_error", "upstream_error", "system_error", "unknown_error"),
        *("malformed_function_call", "malformed_response", "unexpected_tool_call", "time_limit"),
        *("cancel", "preempted", "preemption", "evicted", "eviction", "disconnected"),
    }
)
"""The server did not finish, and says so."""
_FILTERED: Final = frozenset(
    {
        *("content_filter", "content_filtered", "sensitive", "safety", "refusal", "recitation", "blocklist", "spii"),
        *("prohibited_content", "image_safety", "image_prohibited_content", "error_toxic", "guardrail_intervened"),
        *("blocked", "moderation", "data_inspection_failed"),
    }
)


@lru_cache(maxsize=64)  # servers have few such words, and every answer ends with one
def meaning_of(reason: str | None) -> Meaning:
    """An unknown word, or none, means nothing bad: new ones appear, and an answer is paid for."""
    if reason is None:
        return "whole"
    word = _CAMEL.sub("_", reason.strip()).lower().replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
    reason_itself, _, detail = word.partition(":")  # Gemini: `content_filter: SAFETY`, `function_call_filter: …`
    words = {reason_itself, detail.strip("_")}
    if words & _CUT:
        return "cut"
    if words & _BROKEN:
        return "broken"
    return "filtered" if words & _FILTERED else "whole"


# Tokens as servers count them, under whatever names and wherever they stand, as one `Usage`.
#
# `input_tokens` is all that was read: OpenAI's `prompt_tokens` include what came from a cache, Anthropic's
# `input_tokens` leave it out. Counts may be text. Of the same count said twice the later stands, unless it is zero:
# servers end a stream with a total of nothing.

_Path = tuple[str, ...]

_READ_IN_ALL: Final[tuple[_Path, ...]] = (
    ("prompt_tokens",),
    ("promptTokenCount",),
    ("prompt_token_count",),
    ("prompt_eval_count",),
    ("prompt_n",),
    ("promptTokens",),
)
_READ: Final[tuple[_Path, ...]] = (("input_tokens",), ("inputTokens",), ("inputTokenCount",))
_WRITTEN: Final[tuple[_Path, ...]] = (
    ("completion_tokens",),
    ("output_tokens",),
    ("outputTokens",),
    ("candidatesTokenCount",),
    ("candidates_token_count",),
    ("generated_tokens",),
    ("eval_count",),
    ("predicted_n",),
    ("completionTokens",),
    ("outputTokenCount",),
)
_TOTAL: Final[tuple[_Path, ...]] = (("total_tokens",), ("totalTokenCount",))
_APART_READ: Final[tuple[_Path, ...]] = (("cache_read_input_tokens",), ("cacheReadInputTokens",))
_APART_WRITTEN: Final[tuple[_Path, ...]] = (("cache_creation_input_tokens",), ("cacheWriteInputTokens",))
"""Anthropic's, which stand beside `input_tokens` and are no part of it."""
_CACHE_READ: Final[tuple[_Path, ...]] = (
    *_APART_READ,
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),
    ("cached_tokens",),
    ("cache_read_tokens",),
    ("cachedContentTokenCount",),
)
_CACHE_WRITTEN: Final[tuple[_Path, ...]] = (
    *_APART_WRITTEN,
    ("prompt_tokens_details", "cache_write_tokens"),
    ("prompt_tokens_details", "cache_creation_tokens"),
    ("prompt_tokens_details", "cache_creation_input_tokens"),
    ("input_tokens_details", "cache_write_tokens"),
    ("cache_write_tokens",),
)


def usage_of(said: object) -> Usage | None:
    """What one `usage` object comes to; None when it counts nothing."""
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not is_object(said):
        return None
    read, wrote = _first(said, _READ_IN_ALL), _first(said, _WRITTEN)
    if read is None and (beside := _first(said, _READ)) is not None:
        read = beside + (_first(said, _APART_READ) or 0) + (_first(said, _APART_WRITTEN) or 0)
    if wrote is not None and (thought := _count(said.get("thoughtsTokenCount"))) is not None:
        wrote += thought  # Gemini counts them beside the answer
    total = _first(said, _TOTAL)
    if total is not None and read is not None and total >= read and (wrote is None or _leaves_out_thoughts(said)):
        wrote = max(total - read, wrote or 0)
    usage = Usage(
        input_tokens=read,
        output_tokens=wrote,
        cache_read_tokens=_first(said, _CACHE_READ) or None,
        cache_write_tokens=_first(said, _CACHE_WRITTEN) or None,
    )
    return None if usage == Usage() else usage


def _leaves_out_thoughts(said: dict[str, Json]) -> bool:
    """Gemini behind OpenAI's names: thinking is billed as output, and counted in the total alone.

    Where anything is said of a cache the rest may be that.
    """
    return "completion_tokens" in said and _first(said, _CACHE_READ) is None and _first(said, _CACHE_WRITTEN) is None


def repeated_usage(known: dict[str, Json] | None, said: object) -> dict[str, Json] | None:
    """A `usage` object over an earlier one of the same reply: what is null, or zero again, takes nothing back."""
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not is_object(said):
        return known
    if known is None:
        return said
    return known | {name: value for name, value in said.items() if value or name not in known}


def added_up(usages: Iterable[Usage]) -> Usage | None:
    """Of the choices of one answer: they read the same prompt, and each wrote for itself."""
    found = list(usages)
    if not found:
        return None
    wrote = [usage.output_tokens for usage in found if usage.output_tokens is not None]
    return Usage(
        input_tokens=max((u.input_tokens for u in found if u.input_tokens is not None), default=None),
        output_tokens=sum(wrote) if wrote else None,
        cache_read_tokens=max((u.cache_read_tokens for u in found if u.cache_read_tokens is not None), default=None),
        cache_write_tokens=max((u.cache_write_tokens for u in found if u.cache_write_tokens is not None), default=None),
    )


def _first(said: dict[str, Json], paths: tuple[_Path, ...]) -> int | None:
    for name, *inner in paths:  # for every reply, and of the many names a server uses few
        found = said.get(name)
        if found is not None and (count := _count(at(found, *inner))) is not None:
            return count
    return None


def _count(value: Json) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < len(str(2**63)) else None
    return whole_number(value)


CAP_BYTES: Final = 1024 * 1024
"""Of all such fields of one answer; what goes beyond is named in `fields_left_out`."""
REST: Final = "rest"
"""Where a choice carries its own."""
_LEFT_OUT: Final = "fields_left_out"
_WRAPPINGS: Final = ("data", "result", "response", "output", "body")
_COUNTS: Final = ("usageMetadata", "usage_metadata", "amazon-bedrock-invocationMetrics", "billing_usage")
_ENVELOPE: Final = frozenset(
    {
        *("code", "msg", "message", "success", "status", "status_code", "error_code", "errcode", "detail", "type"),
        *("request_id", "requestId", "trace_id", "created_at", "createdAt", "sid", "base_resp", "timestamp", "latency"),
        *("p", "seq", "nonce", "region", "done", "done_reason", "total_duration", "load_duration", "eval_duration"),
        *("prompt_eval_count", "prompt_eval_duration", "eval_count", "header", "role", "index", "object", "created"),
    }
)
_TAKEN: Final = frozenset(
    {"text", "reasoning", "tool_calls", "parsed", "finish_reason", "truncated", "images", "audio", "missing", "choices"}
    | {"flags", "path", "extras"}
)
"""Names that mean something in a row."""


def unwrapped(value: Json) -> Json:
    """The answer inside what a gateway put around it; the value itself where there is nothing to take off."""
    if isinstance(value, list) and len(value) == 1 and is_object(value[0]) and "choices" in value[0]:
        return value[0]
    if is_object(value) and "choices" in value:
        return value
    if (answer := as_chat(value)) is not None:
        return answer
    if not is_object(value):
        return value
    for name in _WRAPPINGS:
        inner = value.get(name)
        if is_object(inner) and isinstance(inner.get("choices"), list | dict):
            return {**({"usage": value["usage"]} if "usage" in value else {}), **inner}
        if is_object(inner) and (answer := as_chat(inner)) is not None:
            return {**({"usage": value["usage"]} if "usage" in value else {}), **answer}
    return value


def split(value: dict[str, Json], known: "Known") -> tuple[dict[str, Json], dict[str, Json]]:
    """(known fields, unknown fields next to the choices); choices have their own in `rest`."""
    kept, beside = apart(value, known.chunk)
    choices = kept.get("choices")
    if choices is not None:
        if is_object(choices) and choices.keys() & {"delta", "message", "text"}:
            choices = [choices]
        if isinstance(choices, list):
            choices = [_choice(entry, known) if is_object(entry) else entry for entry in choices]
        kept["choices"] = choices
    if kept.get("usage") is None and (counted := _counts_in(value)) is not None:
        kept["usage"] = counted
    return kept, {name: said for name, said in beside.items() if name not in _COUNTS}


class Known:
    """The names that the readers know, by place."""

    def __init__(
        self,
        *,
        chunk: Collection[str],
        choice: Collection[str],
        piece: Collection[str],
        tool: Collection[str],
        function: Collection[str],
    ) -> None:
        self.chunk = frozenset(chunk)
        self.choice = frozenset(choice)
        self.piece = frozenset(piece)
        self.tool = frozenset(tool)
        self.function = frozenset(function)


def keep(extras: dict[str, Json], said: dict[str, Json]) -> list[PictureBytes]:
    """Add unknown fields to what earlier chunks said under these names; pictures among them are given back instead."""
    pictures: list[PictureBytes] = []
    for given, value in said.items():
        if value in (None, "", [], {}, False):
            continue
        found = [entry for entry in media_in(value) if isinstance(entry, PictureBytes)] if _is_nested(value) else []
        if found and all(is_picture(entry.data) for entry in found):
            pictures += found
            continue
        name = f"{given}_as_sent" if given in _TAKEN else given
        before = extras.get(name)
        if len(encode(value)) + (len(encode(before)) if before is not None else 0) > CAP_BYTES:
            left_out = extras.setdefault(_LEFT_OUT, [])
            if isinstance(left_out, list) and name not in left_out:
                left_out.append(name)
        else:
            extras[name] = grown(before, value)
    return pictures


def _is_nested(value: Json) -> bool:
    return isinstance(value, list | dict)


def grown(before: Json, value: Json) -> Json:
    """Texts and lists of a stream are extended, objects merged; what every chunk repeats is kept once."""
    if before is None or before == value:
        return value
    if isinstance(before, str) and isinstance(value, str):
        return before + value
    if isinstance(before, list) and isinstance(value, list):
        return [*before, *(entry for entry in value if isinstance(entry, int | float) or entry not in before)]
    if is_object(before) and is_object(value):
        return {**before, **{name: grown(before.get(name), inner) for name, inner in value.items()}}
    return value


def apart(value: dict[str, Json], known: frozenset[str]) -> tuple[dict[str, Json], dict[str, Json]]:
    """(fields of these names, the others without those that only describe an envelope)."""
    kept = {name: said for name, said in value.items() if name in known}
    return kept, {name: said for name, said in value.items() if name not in known and name not in _ENVELOPE}


def _choice(value: dict[str, Json], known: Known) -> dict[str, Json]:
    kept, rest = apart(value, known.choice)
    for name in ("delta", "message"):
        piece = kept.get(name)
        if is_object(piece):
            said, more = apart(piece, known.piece)
            rest |= more
            kept[name] = _without_details_of_calls(said, known, rest)
    if rest:
        kept[REST] = rest
    return kept


def _without_details_of_calls(piece: dict[str, Json], known: Known, rest: dict[str, Json]) -> dict[str, Json]:
    calls = piece.get("tool_calls")
    if is_object(calls):
        calls = [calls]
    if not isinstance(calls, list):
        return piece
    bare: list[Json] = []
    details: list[Json] = []
    for call in calls:
        if not is_object(call):
            continue
        kept, more = apart(call, known.tool)
        if is_object(function := kept.get("function")):
            kept["function"], inner = apart(function, known.function)
            more |= inner
        bare.append(kept)
        if any(said not in (None, "", [], {}) for said in more.values()):
            details.append({"id": call.get("id"), **more})
    if details:
        rest["tool_call_details"] = details
    return {**piece, "tool_calls": bare}


def _counts_in(value: dict[str, Json]) -> Json:
    for name in _COUNTS:
        if is_object(value.get(name)):
            return value[name]
    for name in ("tokens", "billed_units"):
        if is_object(found := at(value, "meta", name)):
            return found
    # Ollama's own stand beside the answer; an event that only counts has nothing around its counts
    bare = "choices" not in value and usage_of(value) is not None
    return value if bare or "prompt_eval_count" in value or "eval_count" in value else None
