"""Gemini through its OpenAI face: its reasons for an end, its counts and its thought signatures, whole and streamed."""

import json
from typing import Any

import pytest

from batchrunner.core.job import Json
from batchrunner.core.outcome import Answer, Problem, ProblemKind, ToolCall, Usage
from batchrunner.providers.error_bodies import refusal
from batchrunner.providers.openai_chat import OpenAiChat
from tests.providers.reading import EVENTS, head, item, provider, read_every_way

K = ProblemKind
DIALECT = OpenAiChat(provider("gemini"))
SIGNED: Json = {"google": {"thought_signature": "c2ln"}}
COUNTS: dict[str, Json] = {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 541}


def outcome(message: dict[str, Json], *, ends: str = "stop", usage: Json = None, streamed: bool = False) -> Any:
    part = "delta" if streamed else "message"
    reply: dict[str, Json] = {"choices": [{"index": 0, part: message, "finish_reason": ends}], "model": "m"}
    if usage is not None:
        reply["usage"] = usage
    body = json.dumps(reply).encode()
    if streamed:
        body = b"data: " + body + b"\n\ndata: [DONE]\n\n"
    return read_every_way(lambda: DIALECT.decoder(item()), head(200, EVENTS if streamed else "application/json"), body)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("text", ["", "some words"])
@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("content_filter: SAFETY", K.CONTENT_FILTER),
        ("content_filter: PROHIBITED_CONTENT", K.CONTENT_FILTER),
        ("content_filter: OTHER", K.CONTENT_FILTER),
        ("RECITATION", K.CONTENT_FILTER),
        ("function_call_filter: MALFORMED_FUNCTION_CALL", K.STREAM_CUT),
        ("function_call_filter: UNEXPECTED_TOOL_CALL", K.STREAM_CUT),
    ],
)
def test_a_reason_of_geminis_means_what_its_parts_mean(reason: str, kind: K, text: str, *, streamed: bool) -> None:
    problem = outcome({"role": "assistant", "content": text}, ends=reason, usage=COUNTS, streamed=streamed)
    assert isinstance(problem, Problem)
    assert problem.kind is kind


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("usage", "wrote"),
    [
        (COUNTS, 533),
        ({"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17}, 9),
        ({"prompt_tokens": 8, "completion_tokens": 9}, 9),
        ({"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 3}, 9),
        ({**COUNTS, "completion_tokens_details": {"reasoning_tokens": 524}}, 533),
        ({**COUNTS, "prompt_tokens_details": {"cached_tokens": 500}}, 9),
    ],
)
def test_thinking_that_only_the_total_counts_is_output(usage: dict[str, Json], wrote: int, *, streamed: bool) -> None:
    answer = outcome({"role": "assistant", "content": "51"}, usage=usage, streamed=streamed)
    assert isinstance(answer, Answer)
    assert answer.usage == Usage(
        input_tokens=8, output_tokens=wrote, cache_read_tokens=500 if "prompt_tokens_details" in usage else None
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_thought_signatures_are_kept_of_words_and_of_calls(*, streamed: bool) -> None:
    said = outcome({"role": "assistant", "content": "51", "extra_content": SIGNED}, usage=COUNTS, streamed=streamed)
    assert said.extras["extra_content"] == SIGNED
    call: Json = {"index": 0, "id": "f1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert isinstance(call, dict)
    called = outcome({"role": "assistant", "tool_calls": [{**call, "extra_content": SIGNED}]}, streamed=streamed)
    assert called.tool_calls == (ToolCall(id="f1", name="f", arguments="{}"),)
    assert called.extras["tool_call_details"] == [{"id": "f1", "extra_content": SIGNED}]


def test_the_wait_stands_in_the_details_of_a_list() -> None:
    error = {"code": 429, "message": "Resource has been exhausted.", "status": "RESOURCE_EXHAUSTED"}
    body = json.dumps([{"error": {**error, "details": [{"@type": "t/RetryInfo", "retryDelay": "37s"}]}}]).encode()
    problem = refusal("openai", head(429), body)
    assert (problem.kind, problem.wait_s) == (K.THROTTLE, 37.0)
