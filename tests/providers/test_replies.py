"""Refusals: bodies of every shape, redirects, breaks, and that nothing a server sends raises."""

import json

import pytest
from hypothesis import given, strategies

from batchrunner.core.http import Completed, Ending, Interrupted, ResponseHead
from batchrunner.core.job import DialectName, PresetName
from batchrunner.core.outcome import (
    Answer,
    Pending,
    PictureBytes,
    Pictures,
    PictureUrl,
    Problem,
    ProblemKind,
    TaskAccepted,
)
from batchrunner.providers import dialect_for
from batchrunner.providers.error_bodies import KEPT_OF_REFUSAL_BYTES
from batchrunner.providers.modelscope_images import ModelScopeImages
from batchrunner.providers.openai_chat import OpenAiChat
from tests.providers.reading import NOON, head, item, provider, read, read_every_way

K = ProblemKind

SHAPES = {
    "A, the id inside": (
        429,
        b'{"errors": {"message": "Request limit exceeded.", "request_id": "7f0c"}}',
        (K.THROTTLE, "Request limit exceeded.", None, "7f0c"),
    ),
    "A, the id outside": (
        400,
        b'{"errors": {"message": "does not support synchronous calls. x"}, "request_id": "9ad1"}',
        (K.CONFIGURATION, "does not support synchronous calls. x", None, "9ad1"),
    ),
    "B": (
        401,
        b'{"error": {"message": "make sure that a valid ModelScope token is supplied."}, "request_id": "3f85"}',
        (K.AUTH, "make sure that a valid ModelScope token is supplied.", None, "3f85"),
    ),
    "C": (
        400,
        b"""{"error": {"code": "invalid_parameter_error", "type": "invalid_request_error",
        "message": "enable thinking can not be support when `stream=False`."}, "request_id": "2147"}""",
        (
            K.ADAPTABLE,
            "enable thinking can not be support when `stream=False`.",
            "invalid_parameter_error",
            "2147",
        ),
    ),
    "C, its status a string": (
        429,
        b"""{"error": {"http_code": "429", "message": "insufficient balance (1008)",
        "type": "insufficient_balance_error"}, "request_id": "x"}""",
        (K.MODEL_SUSPENDED, "insufficient balance (1008)", "insufficient_balance_error", "x"),
    ),
    "D": (
        400,
        b"""{"type": "error", "error": {"type": "invalid_request_error", "message": "JSON parse error: x"},
        "request_id": "1352"}""",
        (K.BAD_REQUEST, "JSON parse error: x", "invalid_request_error", "1352"),
    ),
    "E": (429, b"", (K.THROTTLE, "HTTP 429 without a message", None, None)),
    "F, HTML": (
        502,
        b"<html><title>502 Bad Gateway</title></html>",
        (K.SERVER_ERROR, "HTTP 502 with a web page: 502 Bad Gateway", None, None),
    ),
    "F, text": (503, b"upstream overloaded\n", (K.OVERLOADED, "upstream overloaded", None, None)),
    "a list": (400, b'[{"error": {"message": "bad", "code": 400}}]', (K.BAD_REQUEST, "bad", "400", None)),
    "errors as a list": (400, b'{"errors": [{"message": "bad"}]}', (K.BAD_REQUEST, "bad", None, None)),
    "error as a string": (404, b'{"error": "model not found"}', (K.MODEL_NOT_FOUND, "model not found", None, None)),
    "a message at the top": (422, b'{"message": "m", "code": "c"}', (K.BAD_REQUEST, "m", "c", None)),
    "Message": (400, b'{"Message": "m", "RequestId": "r"}', (K.BAD_REQUEST, "m", None, "r")),
    "msg": (400, b'{"msg": "m"}', (K.BAD_REQUEST, "m", None, None)),
    "detail": (
        404,
        b'{"detail": "Not Found"}',
        (K.NOT_REACHED, "HTTP 404: the server does not know this path: Not Found", None, None),
    ),
    "detail as a list": (
        422,
        b'{"detail": [{"loc": [], "msg": "field required"}]}',
        (K.BAD_REQUEST, "field required", None, None),
    ),
    "no message in the JSON": (
        400,
        b'{"error":{"code":40212}}',
        (K.MODEL_NOT_FOUND, '{"error":{"code":40212}}', "40212", None),
    ),
    "empty fields": (400, b'{"error": {"message": "", "code": ""}, "message": "m"}', (K.BAD_REQUEST, "m", None, None)),
    "an event": (
        400,
        b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"c","message":"m"}\n\n',
        (K.BAD_REQUEST, "m", "c", None),
    ),
    "bad UTF-8": (400, b'{"error": {"message": "\xff"}}', (K.BAD_REQUEST, "�", None, None)),
}


@pytest.mark.parametrize(("status", "body", "said"), SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_of_an_error_is_read(
    status: int, body: bytes, said: tuple[ProblemKind, str, str | None, str | None]
) -> None:
    dialect = OpenAiChat(provider())
    problem = read_every_way(lambda: dialect.decoder(item()), head(status), body)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.message, problem.code, problem.request_id) == said
    assert problem.status == status


def test_the_spend_limit_of_anthropic_stands_in_the_details() -> None:
    error = {"type": "rate_limit_error", "message": "x", "details": {"error_code": "enforced_spend_limit_reached"}}
    body = json.dumps({"type": "error", "error": error}).encode()
    dialect = OpenAiChat(provider("anthropic"))
    problem = read(dialect.decoder(item()), head(429), [body], Completed())
    assert isinstance(problem, Problem)
    assert problem.kind is K.BILLING


def test_a_refusal_keeps_what_its_head_states() -> None:
    reply = head(429, retry_after="7", x_should_retry="false", x_request_id="r", x_ratelimit_remaining_tokens="0")
    problem = read(OpenAiChat(provider("openai")).decoder(item()), reply, [b"{}"], Completed())
    assert isinstance(problem, Problem)
    assert (problem.wait_s, problem.should_retry, problem.request_id) == (7.0, False, "r")
    assert problem.hints is not None
    assert problem.hints.tokens_remaining == 0


def test_prose_names_a_wait_only_where_waiting_helps() -> None:
    dialect = OpenAiChat(provider("openai"))
    body = b'{"error": {"message": "try again in 20s"}}'
    throttled = read(dialect.decoder(item()), head(429), [body], Completed())
    refused = read(dialect.decoder(item()), head(400), [body], Completed())
    assert isinstance(throttled, Problem)
    assert isinstance(refused, Problem)
    assert (throttled.wait_s, refused.wait_s) == (20.0, None)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://user:secret@login.example/path?token=canary", "login.example"),
        ("/elsewhere?token=canary", "another address"),
        ("https://[broken?token=canary", "another address"),
        ("", "another address"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_configuration_problem_that_names_the_host_only(status: int, location: str, shown: str) -> None:
    reply = head(status, location=location)
    problem = read(OpenAiChat(provider()).decoder(item()), reply, [b"moved: canary"], Completed())
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.look_at) == (K.NOT_REACHED, "provider.base_url")
    assert str(status) in problem.message
    assert shown in problem.message
    assert "canary" not in problem.message
    assert "secret" not in problem.message


def test_a_refusal_that_goes_on_for_ever_is_read_so_far_and_no_further() -> None:
    decoder = OpenAiChat(provider()).decoder(item())
    decoder.begin(head(500, "text/html"))
    fed = 0
    while not decoder.feed(b"x" * 8192):
        fed += 1
        assert 8192 * fed <= KEPT_OF_REFUSAL_BYTES
    problem = decoder.end(Completed())
    assert isinstance(problem, Problem)
    assert problem.kind is K.SERVER_ERROR
    assert len(problem.message) <= 1000


BREAKS: list[tuple[Interrupted, bool, ProblemKind]] = [
    (Interrupted(cause="connect", message="refused", sent=False), False, K.CONNECT),
    (Interrupted(cause="timeout", message="connect timeout", sent=False), False, K.CONNECT),
    (Interrupted(cause="reset", message="tls", sent=False), False, K.CONNECT),
    (Interrupted(cause="connect", message="odd", sent=True), False, K.RESET),
    (Interrupted(cause="timeout", message="slow", sent=True), False, K.TIMEOUT),
    (Interrupted(cause="reset", message="reset", sent=True), False, K.RESET),
    (Interrupted(cause="too_large", message="huge head", sent=True), False, K.TOO_LARGE),
    (Interrupted(cause="timeout", message="slow", sent=True), True, K.TIMEOUT),
    (Interrupted(cause="reset", message="reset", sent=True), True, K.STREAM_CUT),
    (Interrupted(cause="too_large", message="bomb", sent=True), True, K.TOO_LARGE),
]


@pytest.mark.parametrize(("ending", "began", "kind"), BREAKS)
def test_a_break_is_named_by_what_may_have_happened(ending: Interrupted, *, began: bool, kind: ProblemKind) -> None:
    images = ModelScopeImages(provider(dialect="modelscope-images"))
    reply = head() if began else None
    for problem in (
        read(OpenAiChat(provider()).decoder(item()), reply, [b""], ending),
        read(images.decoder(item()), reply, [b""], ending),
        read(images.poll_decoder(), reply, [b""], ending),
    ):
        assert isinstance(problem, Problem)
        assert problem.kind is kind
        assert problem.message == ending.message


def test_a_refusal_that_breaks_off_is_a_refusal_all_the_same() -> None:
    ending = Interrupted(cause="reset", message="reset", sent=True)
    problem = read(OpenAiChat(provider()).decoder(item()), head(429), [b'{"error": {"mess'], ending)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.status) == (K.THROTTLE, 429)


OUTCOMES = (Answer, TaskAccepted, Pictures, Pending, Problem)
FRAGMENTS = strategies.sampled_from(
    [
        b"data: ",
        b"\n\n",
        b"\r\n",
        b"[DONE]",
        b'{"choices":[',
        b'{"delta":',
        b'{"content":',
        b'"x"',
        b"}",
        b"]",
        b"null",
        b"NaN",
        b"1e999",
        b"[" * 2000,
        b'{"a":' * 2000,
        b'"\\ud800"',
        b"\xff",
        b"\xef\xbb\xbf",
        b"{",
        b",",
        b'{"task_id":',
        b'{"task_status":"SUCCEED","output_images":[',
        b'"data:image/png;base64,AAAA"',
        b'{"error":',
        b'{"errors":{"message":',
        b"event: error\n",
        b'"finish_reason":',
        b'"usage":',
        b"9" * 400,
        b"-1",
        b'"tool_calls":[',
    ]
)
BODIES = strategies.binary(max_size=200) | strategies.lists(FRAGMENTS, max_size=12).map(b"".join)
FIELDS = [
    "choices", "delta", "message", "content", "finish_reason", "usage", "error", "errors", "code", "type", "task_id",
    "task_status", "index", "tool_calls", "function", "arguments", "name", "output_images", "images", "data", "url",
    "b64_json", "request_id", "detail", "prompt_tokens", "reasoning_content", "refusal", "outputs", "retry_after",
    "http_code",
]  # fmt: skip
JSON_VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=8),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(
            strategies.sampled_from(FIELDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
HEADS = strategies.builds(
    ResponseHead,
    status=strategies.sampled_from([0, 100, 199, 200, 201, 204, 299, 302, 400, 404, 429, 500, 503, 529, 600, 999]),
    headers=strategies.dictionaries(
        strategies.sampled_from(
            ["content-type", "retry-after", "location", "x-request-id", "x-ratelimit-reset-tokens"]
        ),
        strategies.sampled_from(["text/event-stream", "application/json"]) | strategies.text(max_size=20),
    ),
    received_at=strategies.just(NOON),
)
ENDINGS = strategies.just(Completed()) | strategies.builds(
    Interrupted,
    cause=strategies.sampled_from(["connect", "timeout", "reset", "too_large"]),
    message=strategies.text(max_size=10),
    sent=strategies.booleans(),
)
SPOKEN: list[tuple[PresetName, DialectName]] = [
    ("modelscope", "openai-chat"),
    ("openai", "openai-chat"),
    ("modelscope", "modelscope-images"),
]


def outcomes_of(
    spoken: tuple[PresetName, DialectName], reply: ResponseHead, pieces: list[bytes], ending: Ending
) -> list[object]:
    dialect = dialect_for(provider(*spoken))
    asked = item(schema={"type": "object"})
    found: list[object] = [read(dialect.decoder(asked), reply, pieces, ending)]
    if isinstance(dialect, ModelScopeImages):
        found.append(read(dialect.poll_decoder(), reply, pieces, ending))
    return found


@given(strategies.sampled_from(SPOKEN), HEADS, strategies.lists(BODIES, max_size=4), ENDINGS)
def test_any_bytes_under_any_head_come_to_a_typed_outcome(
    spoken: tuple[PresetName, DialectName], reply: ResponseHead, pieces: list[bytes], ending: Ending
) -> None:
    found = outcomes_of(spoken, reply, pieces, ending)
    assert all(isinstance(outcome, OUTCOMES) for outcome in found)
    assert repr(found).encode("utf-8")
    if isinstance(ending, Interrupted) and not ending.sent:
        assert all(isinstance(outcome, Problem) and outcome.kind is K.CONNECT for outcome in found)


@given(strategies.sampled_from(SPOKEN), HEADS, JSON_VALUES, strategies.booleans(), ENDINGS)
def test_any_json_under_any_head_comes_to_a_typed_outcome(
    spoken: tuple[PresetName, DialectName], reply: ResponseHead, value: object, as_event: object, ending: Ending
) -> None:
    body = json.dumps(value).encode()
    pieces = [b"data: " + body + b"\n\n"] if as_event else [body]
    found = outcomes_of(spoken, reply, pieces, ending)
    assert all(isinstance(outcome, OUTCOMES) for outcome in found)


def test_a_url_that_is_no_web_address_is_no_picture() -> None:
    body = json.dumps(
        {
            "task_status": "SUCCEED",
            "output_images": ["file:///etc/passwd", 7, None, "javascript:x", "https://a.example/1.png", "DATA:,hi"],
        }
    ).encode()
    decoder = ModelScopeImages(provider(dialect="modelscope-images")).poll_decoder()
    found = read(decoder, head(), [body], Completed())
    assert found == Pictures(refs=(PictureUrl(url="https://a.example/1.png"), PictureBytes(data=b"hi")))


LONG_REFUSALS = {
    "unpaid, the words first": (
        402,
        '{"error": {"message": "Insufficient account balance. PAD", "code": 1}}',
        K.BILLING,
    ),
    "unpaid, the words last": (
        429,
        '{"error": {"message": "PAD You exceeded your current quota", "code": "insufficient_quota"}}',
        K.BILLING,
    ),
    "a key, its code behind the message": (401, '{"error": {"message": "PAD", "code": "invalid_api_key"}}', K.AUTH),
    "a limit": (429, '{"error": {"message": "Rate limit reached for requests. PAD"}}', K.THROTTLE),
    "text": (503, "upstream connect error PAD", None),
}


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in LONG_REFUSALS for size in (200_000, 900_000)]
    + [(name, 3_000_000) for name in LONG_REFUSALS if "words last" not in name],  # those lie behind all that is kept
)
def test_a_refusal_is_classified_alike_however_long_its_message_is(name: str, size: int) -> None:
    status, words, kind = LONG_REFUSALS[name]
    dialect = OpenAiChat(provider("openai"))
    short, long = (
        read(dialect.decoder(item()), head(status), [words.replace("PAD", pad).encode()], Completed())
        for pad in ("request: ", "request: " * (size // 9))
    )
    assert isinstance(short, Problem)
    assert isinstance(long, Problem)
    assert long.kind is short.kind
    assert kind is None or short.kind is kind
    assert len(long.message) < 2_500
