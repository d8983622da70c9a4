"""Anthropic answers in one piece, refusals by status, and answers that are held to a schema."""

import json

import pytest

from batchrunner.core.job import Json as JsonValue
from batchrunner.core.outcome import Answer, Hints, Problem, ProblemKind, ToolCall
from batchrunner.core.values import replace
from batchrunner.providers.structured import NAME
from tests.providers.messages import (
    CLOSED,
    FINISHED,
    START,
    STOP,
    USED,
    WHOLE,
    block,
    decoder,
    ended,
    hi,
    outcome_of,
    pieces_of_input,
)
from tests.providers.reading import EVENTS, JSON, head, read_every_way

K = ProblemKind


def finished(**fields: JsonValue) -> bytes:
    return json.dumps({**FINISHED, **fields}).encode()


REPLIES: dict[str, tuple[bytes, Answer | ProblemKind]] = {
    "a normal answer": (finished(), hi()),
    "indented, with a BOM": (b"\xef\xbb\xbf" + json.dumps(FINISHED, indent=2).encode(), hi()),
    "thinking before the text": (
        finished(content=[{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "Hi."}]),
        Answer(
            text="Hi.",
            reasoning="t",
            finish_reason="end_turn",
            usage=USED,
            extras={"thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}]},
        ),
    ),
    "a tool call": (
        finished(
            content=[{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}], stop_reason="tool_use"
        ),
        Answer(
            text="",
            tool_calls=(ToolCall(id="toolu_1", name="f", arguments='{"a":1}'),),
            finish_reason="tool_use",
            usage=USED,
        ),
    ),
    "content as a string": (finished(content="Hi."), hi()),
    "blocks of unknown types": (
        finished(content=[{"type": "poem", "text": "x"}, {"type": "text", "text": "Hi."}]),
        replace(hi(), extras={"content_parts": [{"type": "poem", "text": "x"}]}),
    ),
    "no stop reason": (finished(stop_reason=None), hi("no_finish_reason", finish_reason=None)),
    "no usage": (finished(usage=None), hi(usage=None)),
    "no content": (finished(content=[]), K.EMPTY_RESPONSE),
    "null content": (finished(content=None), K.EMPTY_RESPONSE),
    "an empty text": (finished(content=[{"type": "text", "text": ""}]), K.EMPTY_RESPONSE),
    "an empty object": (b"{}", K.EMPTY_RESPONSE),
    "nothing": (b"", K.EMPTY_RESPONSE),
    "refused": (finished(content=[], stop_reason="refusal"), K.CONTENT_FILTER),
    "an error with 200": (
        b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}',
        K.OVERLOADED,
    ),
    "errors with 200": (b'{"errors": {"message": "the spend limit is reached"}}', K.BILLING),
    "a message with 200": (b'{"message": "no", "code": 401}', K.AUTH),
    "content of another shape": (finished(content={"a": 1}), K.STREAM_CORRUPT),
    "half an object": (finished()[:-20], K.STREAM_CORRUPT),
    "a list": (b"[]", K.STREAM_CORRUPT),
    "HTML": (b"<html>Welcome</html>", K.NOT_REACHED),
}


@pytest.mark.parametrize(("body", "expected"), REPLIES.values(), ids=REPLIES.keys())
def test_json_is_read_whatever_was_asked_for(body: bytes, expected: Answer | ProblemKind) -> None:
    found = outcome_of(body, content_type=JSON)
    if isinstance(found, Problem):
        assert found.kind is expected
    else:
        assert found == expected
        assert outcome_of(body, content_type=EVENTS) == expected


REFUSALS = [
    (400, "invalid_request_error", "messages: bad", K.BAD_REQUEST),
    (400, "invalid_request_error", "You have reached your specified API usage limits.", K.BILLING),
    (401, "authentication_error", "invalid x-api-key", K.AUTH),
    (402, "billing_error", "pay", K.BILLING),
    (403, "permission_error", "no", K.FORBIDDEN_MODEL),
    (404, "not_found_error", "model: x", K.MODEL_NOT_FOUND),
    (409, "conflict_error", "twice", K.SERVER_ERROR),
    (413, "request_too_large", "too large", K.BAD_REQUEST),
    (429, "rate_limit_error", "slow down", K.THROTTLE),
    (500, "api_error", "oops", K.SERVER_ERROR),
    (504, "timeout_error", "late", K.SERVER_ERROR),
    (529, "overloaded_error", "Overloaded", K.OVERLOADED),
]


@pytest.mark.parametrize(("status", "name", "message", "kind"), REFUSALS)
def test_a_refusal_is_what_its_type_states(status: int, name: str, message: str, kind: ProblemKind) -> None:
    body = {"type": "error", "error": {"type": name, "message": message}, "request_id": "req_1"}
    problem = read_every_way(decoder, head(status, retry_after="7"), json.dumps(body).encode())
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.message, problem.status) == (kind, message, status)
    assert (problem.code, problem.request_id, problem.wait_s) == (name, "req_1", 7.0)


def test_a_spend_limit_is_an_unpaid_bill_and_no_throttle() -> None:
    error: JsonValue = {
        "type": "rate_limit_error",
        "message": "limit",
        "details": {"error_code": "enforced_spend_limit_reached"},
    }
    problem = read_every_way(decoder, head(429), json.dumps({"type": "error", "error": error}).encode())
    assert isinstance(problem, Problem)
    assert problem.kind is K.BILLING


def test_the_limits_in_the_headers_are_reported() -> None:
    reply = head(200, EVENTS, anthropic_ratelimit_requests_remaining="3")
    answer = read_every_way(decoder, reply, WHOLE)
    assert isinstance(answer, Answer)
    assert answer.hints == Hints(requests_remaining=3)


OBJECT: dict[str, JsonValue] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
NUMBERS: dict[str, JsonValue] = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}


def called(*arguments: str, reason: str = "tool_use") -> bytes:
    begin = block(0, type="tool_use", id="toolu_1", name=NAME, input={})
    return START + begin + pieces_of_input(0, *arguments) + CLOSED + ended(reason) + STOP


def test_the_forced_tools_input_is_the_answer() -> None:
    assert outcome_of(called('{"n"', ": 4}"), schema=OBJECT) == Answer(
        text='{"n": 4}', parsed={"n": 4}, finish_reason="tool_use", usage=USED
    )


def test_a_schema_of_no_object_is_unwrapped() -> None:
    assert outcome_of(called('{"value": [1, 2]}'), schema=NUMBERS) == Answer(
        text="[1,2]", parsed=[1, 2], finish_reason="tool_use", usage=USED
    )


def test_a_model_that_answers_in_words_is_held_to_the_schema_all_the_same() -> None:
    body = WHOLE.replace(b"Hi.", b'{\\"n\\": 4}')
    answer = outcome_of(body, schema=OBJECT)
    assert isinstance(answer, Answer)
    assert answer.parsed == {"n": 4}


@pytest.mark.parametrize(
    ("arguments", "reason", "said", "fault"),
    [
        ('{"n": "four"}', "tool_use", '{"n": "four"}', '$.n: "four" is not of type "integer"'),
        ("{}", "tool_use", "{}", '$: "n" is a required property'),
        ('{"n": ', "max_tokens", '{"n": ', "token limit"),
    ],
)
def test_an_input_that_breaks_the_schema_states_what_to_send_to_the_model(
    arguments: str, reason: str, said: str, fault: str
) -> None:
    problem = outcome_of(called(arguments, reason=reason), schema=OBJECT)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.usage) == (K.SCHEMA_MISS, USED)
    assert problem.correction is not None
    assert problem.correction.said == said
    assert fault in problem.correction.fault


@pytest.mark.parametrize("arguments", ['{"valu": [1]}', "[1", '{"value": ["a"]}'])
def test_an_input_without_its_wrapping_misses_too(arguments: str) -> None:
    problem = outcome_of(called(arguments), schema=NUMBERS)
    assert isinstance(problem, Problem)
    assert problem.kind is K.SCHEMA_MISS


def test_a_call_of_the_persons_own_tool_is_not_held_to_the_schema() -> None:
    body = called("{}").replace(NAME.encode(), b"weather")
    answer = outcome_of(body, schema=OBJECT)
    assert isinstance(answer, Answer)
    assert [call.name for call in answer.tool_calls] == ["weather"]
