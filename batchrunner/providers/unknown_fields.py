"""Fields of a chat answer that no reader here knows: set aside as the server named them, for they were paid for.

Every server has fields of its own. What only describes the envelope is left out; what stands in a choice, in its
message or delta, or beside the choices is given back. Wrappings that gateways put around an answer are taken off.
"""

from collections.abc import Collection
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.outcome import PictureBytes
from batchrunner.providers.chat_media import is_picture, media_in
from batchrunner.providers.json_text import at, encode, is_object
from batchrunner.providers.native_shapes import as_chat
from batchrunner.providers.usage_counts import usage_of

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
    """(what the readers know, what stands beside the choices and is known to none); choices carry theirs in `rest`."""
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
    """Texts and lists of a stream go on, objects are filled; what every chunk repeats stands once."""
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
