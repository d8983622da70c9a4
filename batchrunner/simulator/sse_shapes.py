"""The many ways in which servers write the same stream: edits of its chunks and framings of its bytes.

An edit turns the list of chunks into another one; a framing turns the events' texts into pieces of bytes.
"""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise

from batchrunner.core.job import Json
from batchrunner.simulator.script import as_list, as_object, encode_json

Chunk = dict[str, Json]
DONE = "[DONE]"


def _plain_event(data: str) -> str:
    return f"data: {data}\n\n"


def _framed(datas: Sequence[str]) -> list[bytes]:
    return [_plain_event(data).encode("utf-8", "replace") for data in datas]


def _with_line_end(end: bytes) -> "Framing":
    return lambda datas: [piece.replace(b"\n", end) for piece in _framed(datas)]


def _bom(datas: Sequence[str]) -> list[bytes]:
    return [b"\xef\xbb\xbf", *_framed(datas)]


def _no_space(datas: Sequence[str]) -> list[bytes]:
    return [f"data:{data}\n\n".encode("utf-8", "replace") for data in datas]


def _multiline(datas: Sequence[str]) -> list[bytes]:
    pretty = [data if data == DONE else json.dumps(json.loads(data), ensure_ascii=False, indent=1) for data in datas]
    events = ["".join(f"data: {line}\n" for line in data.split("\n")) + "\n" for data in pretty]
    return [event.encode("utf-8", "replace") for event in events]


def _comments(datas: Sequence[str]) -> list[bytes]:
    return [b": connected\n\n", *(part for piece in _framed(datas) for part in (b": ping\n\n", piece, b":\n\n"))]


def _fields(datas: Sequence[str]) -> list[bytes]:
    """Everything that the standard allows besides data; the official SDK stumbles over the bare `retry`."""
    pieces = [f"id: {at}\nevent: message\nodd\n".encode() + piece for at, piece in enumerate(_framed(datas))]
    return [b"retry: 3000\n\n", *pieces]


def _split_inside_characters(datas: Sequence[str]) -> list[bytes]:
    """Each piece ends within a character of several bytes wherever there is one."""
    whole = b"".join(_framed(datas))
    cuts = [at for at in range(1, len(whole)) if whole[at] & 0xC0 == 0x80]
    edges = [0, *cuts, len(whole)]
    return [whole[start:end] for start, end in pairwise(edges)]


def _one_byte(datas: Sequence[str]) -> list[bytes]:
    whole = b"".join(_framed(datas))
    return [whole[at : at + 1] for at in range(len(whole))]


def _no_final_blank(datas: Sequence[str]) -> list[bytes]:
    pieces = _framed(datas)
    return [*pieces[:-1], pieces[-1].rstrip(b"\n")]


def _quoted_done(datas: Sequence[str]) -> list[bytes]:
    return _framed([f'"{data}"' if data == DONE else data for data in datas])


def _junk_after_finish(datas: Sequence[str]) -> list[bytes]:
    return _framed([*datas[:-1], "{not json", *datas[-1:]])


def _single_newlines(datas: Sequence[str]) -> list[bytes]:
    return [f"data: {data}\n".encode("utf-8", "replace") for data in datas]


def _data_twice(datas: Sequence[str]) -> list[bytes]:
    return _framed([f"data: {data}" for data in datas])


def _two_in_one(datas: Sequence[str]) -> list[bytes]:
    """Two values in each event."""
    pairs = [" ".join(datas[at : at + 2]) for at in range(0, len(datas) - 1, 2)]
    return _framed([*pairs, *datas[len(pairs) * 2 :]])


def _words_mid(datas: Sequence[str]) -> list[bytes]:
    """A proxy's plain words after half of the answer, and then the end as if nothing were amiss."""
    half = max(1, len(datas) // 2)
    return [*_framed(datas[:half]), b"upstream connect error or disconnect/reset before headers\n\n", *_framed([DONE])]


def _usage_after_done(datas: Sequence[str]) -> list[bytes]:
    """The usage follows `[DONE]`."""
    counts = [data for data in datas if '"choices":[]' in data]
    return _framed([*(data for data in datas if data not in counts), *counts])


def _usage_event(datas: Sequence[str]) -> list[bytes]:
    """The counts come in an event of their own name, without anything around them."""
    pieces: list[bytes] = []
    for data in datas:
        value = as_object(json.loads(data)) if data != DONE else {}
        if value.get("choices") == [] and value.get("usage"):
            pieces.append(b"event: usage\ndata: %s\n\n" % encode_json(value["usage"]))
        else:
            pieces += _framed([data])
    return pieces


Framing = Callable[[Sequence[str]], list[bytes]]

FRAMINGS: dict[str, Framing] = {
    "sse-crlf": _with_line_end(b"\r\n"),
    "sse-cr": _with_line_end(b"\r"),
    "sse-bom": _bom,
    "sse-nospace": _no_space,
    "sse-multiline": _multiline,
    "sse-comments": _comments,
    "sse-fields": _fields,
    "sse-split-utf8": _split_inside_characters,
    "sse-onebyte": _one_byte,
    "sse-no-final-blank": _no_final_blank,
    "sse-quoted-done": _quoted_done,
    "sse-junk-after-finish": _junk_after_finish,
    "sse-single-newlines": _single_newlines,
    "sse-data-twice": _data_twice,
    "sse-two-in-one": _two_in_one,
    "sse-words-mid": _words_mid,
    "sse-usage-after-done": _usage_after_done,
    "sse-usage-event": _usage_event,
}


def _without_finish(chunks: list[Chunk]) -> list[Chunk]:
    return [chunk for chunk in chunks if _finish_reason(chunk) is None]


def _empty_finish(chunks: list[Chunk]) -> list[Chunk]:
    return [_with_choice(chunk, {"finish_reason": ""}) if _finish_reason(chunk) is None else chunk for chunk in chunks]


def _null_delta(chunks: list[Chunk]) -> list[Chunk]:
    empty: Chunk = {"delta": None, "finish_reason": None}
    nulls: Chunk = {"delta": {"content": None, "role": None, "tool_calls": None}}
    return [chunks[0], _with_choice(chunks[0], empty), _with_choice(chunks[0], nulls), *chunks[1:]]


def _null_choices(chunks: list[Chunk]) -> list[Chunk]:
    return [{**chunks[0], "choices": None}, *chunks]


def _usage_only(chunks: list[Chunk]) -> list[Chunk]:
    usage: Chunk = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
    return [{**chunks[0], "choices": [], "usage": usage}, *chunks]


def _usage_every_chunk(chunks: list[Chunk]) -> list[Chunk]:
    counted: list[Chunk] = []
    for number, chunk in enumerate(chunks):
        usage: Chunk = {"prompt_tokens": 9, "completion_tokens": number, "total_tokens": 9 + number}
        counted.append(chunk if as_object(chunk.get("usage")) else {**chunk, "usage": usage})
    return counted


def _error_mid(chunks: list[Chunk]) -> list[Chunk]:
    error: Chunk = {"message": "The server had an error while answering.", "type": "server_error", "code": 500}
    return [*_first_half(chunks), {"error": error}]


def _error_after_finish(chunks: list[Chunk]) -> list[Chunk]:
    return [*chunks, {"error": {"message": "upstream reset", "code": 502}}]


def _code_and_message_mid(chunks: list[Chunk]) -> list[Chunk]:
    return [*_first_half(chunks), {"code": "1234", "msg": "network error", "success": False}]


def _ending_with(reason: str) -> Callable[[list[Chunk]], list[Chunk]]:
    def edit(chunks: list[Chunk]) -> list[Chunk]:
        return [_with_choice(chunk, {"finish_reason": reason}) if _finish_reason(chunk) else chunk for chunk in chunks]

    return edit


def _usage_under_x(chunks: list[Chunk]) -> list[Chunk]:
    edited: list[Chunk] = []
    for chunk in chunks:
        usage = chunk.get("usage")
        edited.append({**chunk, "usage": None, "x_groq": {"usage": usage}} if usage else chunk)
    return edited


def _usage_in_choice(chunks: list[Chunk]) -> list[Chunk]:
    usage = next((chunk.get("usage") for chunk in chunks if chunk.get("usage")), None)
    bare: list[Chunk] = [{**chunk, "usage": None} for chunk in chunks]
    return [_with_choice(chunk, {"usage": usage}) if _finish_reason(chunk) else chunk for chunk in bare]


def _only_thinking(chunks: list[Chunk]) -> list[Chunk]:
    return [_with_delta(chunk, _thought) for chunk in chunks]


def _thought(delta: Chunk) -> Chunk:
    return {"reasoning_content" if name == "content" else name: value for name, value in delta.items()}


def _with_picture(chunks: list[Chunk]) -> list[Chunk]:
    picture: Chunk = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PIXEL}"}}
    return [
        _with_delta(chunk, lambda delta: {**delta, "images": [picture]}) if at == 1 else chunk
        for at, chunk in enumerate(chunks)
    ]


def _two_choices(chunks: list[Chunk]) -> list[Chunk]:
    return [
        again
        for chunk in chunks
        for again in (chunk, _with_choice(chunk, {"index": 1}))
        if again is chunk or _choice(chunk)
    ]


def _in_last_chunk(**fields: Json) -> Callable[[list[Chunk]], list[Chunk]]:
    """The delta of the chunk that ends the answer holds these fields, too."""

    def edit(chunks: list[Chunk]) -> list[Chunk]:
        return [
            _with_delta(chunk, lambda delta: {**delta, **fields}) if _finish_reason(chunk) else chunk
            for chunk in chunks
        ]

    return edit


def _with_logprobs(chunks: list[Chunk]) -> list[Chunk]:
    made: list[Chunk] = []
    for chunk in chunks:
        word = as_object(_choice(chunk).get("delta")).get("content")
        entry: Json = {"token": word, "logprob": -0.125, "bytes": None, "top_logprobs": []}
        made.append(_with_choice(chunk, {"logprobs": {"content": [entry]}}) if word else chunk)
    return made


def _thought_in_details(delta: Chunk) -> Chunk:
    thought: Json = {"type": "reasoning.text", "text": "Let me see.", "index": 0}
    return {**delta, "reasoning_details": [thought]}


def _details_first(chunks: list[Chunk]) -> list[Chunk]:
    return [_with_delta(chunks[0], _thought_in_details), *chunks[1:]]


def _content_as_parts(chunks: list[Chunk]) -> list[Chunk]:
    """Thinking and words as parts of the content."""
    thought: Json = [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}]

    def parts(delta: Chunk) -> Chunk:
        word = delta.get("content")
        return {**delta, "content": [{"type": "text", "text": word}]} if word else delta

    return [
        _with_delta(chunks[0], lambda delta: {**delta, "content": thought}),
        *(_with_delta(chunk, parts) for chunk in chunks[1:]),
    ]


def _two_calls_at_one_index(chunks: list[Chunk]) -> list[Chunk]:
    """The same call twice under ids of their own, both called 0."""
    edited: list[Chunk] = []
    again: list[Chunk] = []
    for chunk in chunks:
        calls = as_list(as_object(_choice(chunk).get("delta")).get("tool_calls"))
        if calls:
            first: Json = [{**as_object(call), "index": 0} for call in calls]
            second: Json = [{**as_object(call), "index": 0, "id": f"{as_object(call).get('id')}_b"} for call in calls]
            edited.append(_with_choice(chunk, {"delta": {"tool_calls": first}}))
            again.append(_with_choice(chunk, {"delta": {"tool_calls": second}}))
            continue
        if again and not calls:
            edited += again
            again = []
        edited.append(chunk)
    return edited


def _usage_as_text(chunks: list[Chunk]) -> list[Chunk]:
    return [
        {**chunk, "usage": {name: str(count) for name, count in as_object(chunk["usage"]).items()}}
        if chunk.get("usage")
        else chunk
        for chunk in chunks
    ]


def _usage_from_a_cache(chunks: list[Chunk]) -> list[Chunk]:
    cached: Json = {"cached_tokens": 4}
    return [
        {**chunk, "usage": {**as_object(chunk["usage"]), "prompt_tokens_details": cached}}
        if chunk.get("usage")
        else chunk
        for chunk in chunks
    ]


def _fields_of_its_own(chunks: list[Chunk]) -> list[Chunk]:
    return [{**chunk, "grounding": {"source": "e.example"}} if _finish_reason(chunk) else chunk for chunk in chunks]


_AUDIO = "UklGRiQAAABXQVZFZm10IAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"""The head of a WAV file."""
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
"""A whole PNG of one pixel."""


def _first_half(chunks: list[Chunk]) -> list[Chunk]:
    return chunks[: max(1, len(chunks) // 2)]


def _tools_without_index(chunks: list[Chunk]) -> list[Chunk]:
    return [_with_delta(chunk, _bare_calls) for chunk in chunks]


def _bare_calls(delta: Chunk) -> Chunk:
    calls = as_list(delta.get("tool_calls"))
    if not calls:
        return delta
    bare: list[Json] = [{k: v for k, v in as_object(call).items() if k != "index"} for call in calls]
    return {**delta, "tool_calls": bare}


EDITS: dict[str, Callable[[list[Chunk]], list[Chunk]]] = {
    "sse-no-finish": _without_finish,
    "sse-finish-empty-string": _empty_finish,
    "sse-null-delta": _null_delta,
    "sse-null-choices": _null_choices,
    "sse-usage-only": _usage_only,
    "sse-usage-every-chunk": _usage_every_chunk,
    "sse-error-mid": _error_mid,
    "sse-cut": _first_half,
    "sse-tool-no-index": _tools_without_index,
    "sse-error-after-finish": _error_after_finish,
    "sse-code-msg-mid": _code_and_message_mid,
    "sse-finish-network": _ending_with("network_error"),
    "sse-finish-model-length": _ending_with("model_length"),
    "sse-usage-groq": _usage_under_x,
    "sse-usage-in-choice": _usage_in_choice,
    "sse-only-reasoning": _only_thinking,
    "sse-picture": _with_picture,
    "sse-two-choices": _two_choices,
    "sse-sound": _in_last_chunk(audio={"id": "audio_1", "data": _AUDIO, "transcript": "hello"}),
    "sse-markdown-picture": _in_last_chunk(content=f"\n\n![a pixel](data:image/png;base64,{_PIXEL})"),
    "sse-annotations": _in_last_chunk(
        annotations=[{"type": "url_citation", "url_citation": {"url": "https://e.example/a"}}]
    ),
    "sse-logprobs": _with_logprobs,
    "sse-reasoning-details": _details_first,
    "sse-content-parts": _content_as_parts,
    "sse-tools-same-index": _two_calls_at_one_index,
    "sse-usage-text": _usage_as_text,
    "sse-usage-cached": _usage_from_a_cache,
    "sse-own-fields": _fields_of_its_own,
}

WITHOUT_DONE = frozenset({"sse-no-done", "sse-error-mid", "sse-cut", "sse-code-msg-mid"})
"""Scenarios whose stream has no `[DONE]`."""


def stream_pieces(chunks: list[Chunk], *, scenarios: Sequence[str]) -> list[bytes]:
    """The stream's bytes, a piece for each event unless a framing says otherwise."""
    for name in scenarios:
        if name in EDITS:
            chunks = EDITS[name](chunks)
    datas = [encode_json(chunk).decode() for chunk in chunks]
    if not WITHOUT_DONE.intersection(scenarios):
        datas.append(DONE)
    framing = next((FRAMINGS[name] for name in scenarios if name in FRAMINGS), _framed)
    return framing(datas)


def _choice(chunk: Chunk) -> Chunk:
    choices = as_list(chunk.get("choices"))
    return as_object(choices[0]) if choices else {}


def _finish_reason(chunk: Chunk) -> Json:
    return _choice(chunk).get("finish_reason")


def _with_choice(chunk: Chunk, change: Chunk) -> Chunk:
    choice = _choice(chunk)
    return {**chunk, "choices": [{**choice, **change}]} if choice else chunk


def _with_delta(chunk: Chunk, change: Callable[[Chunk], Chunk]) -> Chunk:
    return _with_choice(chunk, {"delta": change(as_object(_choice(chunk).get("delta")))})
