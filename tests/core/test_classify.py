"""What refusals mean: the words of each family of servers, and the same words in different families."""

from dataclasses import dataclass

import pytest
from hypothesis import given, strategies

from batchrunner.core.classify import adaptation_of, classify, family_of, is_about_the_request
from batchrunner.core.http import ResponseHead
from batchrunner.core.job import DialectName, PresetName, Provider
from batchrunner.core.outcome import Adaptation, Hints, ProblemKind
from batchrunner.core.sign import Family
from batchrunner.core.signs import SIGNS
from batchrunner.providers.error_bodies import refusal

K = ProblemKind

T1 = (
    "We have to rate limit you for model Qwen/Qwen3-8B. If you need higher limits, please consider other API providers."
)
T3 = "You exceeded your current quota, please check your plan and billing details. See …/error-code#token-limit"
OAI = "You exceeded your current quota, please check your plan and billing details."


@dataclass(frozen=True, kw_only=True)
class RefusalCase:
    status: int | None
    message: str
    kind: ProblemKind
    code: str | None
    error_type: str | None


def refusal_case(
    status: int | None, message: str, kind: ProblemKind, *, code: str | None = None, error_type: str | None = None
) -> RefusalCase:
    return RefusalCase(status=status, message=message, kind=kind, code=code, error_type=error_type)


MODELSCOPE: dict[str, RefusalCase] = {
    "no provider": refusal_case(400, "model X has no provider supported", K.MODEL_NOT_FOUND),
    "bad model id": refusal_case(400, "Invalid model id: x", K.MODEL_NOT_FOUND),
    "image model not served": refusal_case(400, "nope", K.MODEL_NOT_FOUND, code="40212"),
    "no async header": refusal_case(
        400, "image-gen task currently does not support synchronous calls. x", K.CONFIGURATION
    ),
    "thinking needs a stream": refusal_case(
        400,
        "enable thinking can not be support when `stream=False`.",
        K.ADAPTABLE,
        code="invalid_parameter_error",
        error_type="invalid_request_error",
    ),
    "thinking needs a stream, DashScope's words": refusal_case(
        400, "parameter.enable_thinking must be set to false for non-streaming calls", K.ADAPTABLE
    ),
    "thinks only": refusal_case(400, "The value of the enable_thinking parameter is restricted to True.", K.ADAPTABLE),
    "stream_options": refusal_case(400, "Unrecognized field: stream_options", K.ADAPTABLE),
    "part type": refusal_case(400, "Invalid value: image. Supported values are: text, image_url", K.BAD_REQUEST),
    "media": refusal_case(400, "Unable to download the media", K.MEDIA_FETCH),
    "media, other words": refusal_case(400, "Failed to download multimodal content", K.MEDIA_FETCH),
    "media, timed out": refusal_case(400, "Download of the image timed out", K.MEDIA_FETCH),
    "sampling": refusal_case(400, "temperature: only 1 is allowed for this model", K.BAD_REQUEST),
    "any other 400": refusal_case(400, "whatever", K.BAD_REQUEST),
    "bad token": refusal_case(
        401, "Authentication failed, please make sure that a valid ModelScope token is supplied.", K.AUTH
    ),
    "unbound": refusal_case(401, "Please bind your Alibaba Cloud account before use.", K.AUTH),
    "not real-name verified, whatever the status": refusal_case(403, "account is not real-name verified", K.AUTH),
    "private model": refusal_case(403, "", K.FORBIDDEN_MODEL),
    "a path that it does not know": refusal_case(404, "Not Found", K.NOT_REACHED),
    "busy": refusal_case(500, "Server is busy, please try again later", K.OVERLOADED),
    "busy 503": refusal_case(503, "busy", K.OVERLOADED),
    "Q1": refusal_case(
        429, "You have exceeded today's quota for model Qwen/X, please try again tomorrow", K.QUOTA_MODEL
    ),
    "Q1 with a typographic apostrophe": refusal_case(
        429, "You have exceeded today’s quota for model Qwen/X", K.QUOTA_MODEL
    ),
    "Q2": refusal_case(429, "You have exceeded today's quota, please try again tomorrow", K.QUOTA_ACCOUNT),
    "T1 names the model and is no quota": refusal_case(429, T1, K.THROTTLE),
    "T2": refusal_case(429, "Request limit exceeded.", K.THROTTLE),
    "T3 passes within a minute": refusal_case(
        429, T3, K.THROTTLE, code="insufficient_quota", error_type="insufficient_quota"
    ),
    "T4 allocated": refusal_case(429, "Allocated quota exceeded, please increase your quota limit", K.THROTTLE),
    "T4 rate": refusal_case(429, "Requests rate limit exceeded, please try again later", K.THROTTLE),
    "T4 slope": refusal_case(429, "Request rate increased too quickly", K.THROTTLE),
    "X1": refusal_case(429, "insufficient balance (1008)", K.MODEL_SUSPENDED, error_type="insufficient_balance_error"),
    "X1 by its type": refusal_case(429, "", K.MODEL_SUSPENDED, error_type="insufficient_balance_error"),
    "X2": refusal_case(429, "Free allocated quota exceeded", K.THROTTLE),
    "E": refusal_case(429, "", K.THROTTLE),
    "points": refusal_case(429, "Your magicube balance is not enough", K.QUOTA_ACCOUNT),
    "points in Chinese": refusal_case(429, "魔粒余额不足", K.QUOTA_ACCOUNT),
    "points with 402": refusal_case(402, "insufficient magicube", K.QUOTA_ACCOUNT),
    "quota with 402": refusal_case(402, "daily quota used", K.QUOTA_ACCOUNT),
    "today's quota with 402": refusal_case(402, "exceeded today's quota for model X", K.QUOTA_MODEL),
    "402 alone": refusal_case(402, "pay", K.BILLING),
    "quota inside a stream": refusal_case(None, "You have exceeded today's quota for model X", K.QUOTA_MODEL),
}

OPENAI: dict[str, RefusalCase] = {
    "bad key": refusal_case(
        401, "Incorrect API key provided", K.AUTH, code="invalid_api_key", error_type="invalid_request_error"
    ),
    "country": refusal_case(
        403, "Country, region, or territory not supported", K.AUTH, code="unsupported_country_region_territory"
    ),
    "permission": refusal_case(403, "no access to model", K.FORBIDDEN_MODEL),
    "unknown model": refusal_case(404, "The model x does not exist", K.MODEL_NOT_FOUND, code="model_not_found"),
    "unknown model with 400": refusal_case(400, "no such model", K.MODEL_NOT_FOUND, code="model_not_found"),
    "too long": refusal_case(
        400, "maximum context length", K.BAD_REQUEST, code="context_length_exceeded", error_type="invalid_request_error"
    ),
    "window": refusal_case(429, "Rate limit reached", K.THROTTLE, code="rate_limit_exceeded", error_type="requests"),
    "slope": refusal_case(429, "slow down", K.THROTTLE, code="slow_down"),
    "slope, the old status": refusal_case(503, "slow down", K.THROTTLE, code="slow_down"),
    "no room for flex": refusal_case(429, "Resource Unavailable", K.OVERLOADED, code="resource_unavailable"),
    "no room for flex, by its type": refusal_case(429, "", K.OVERLOADED, error_type="resource_unavailable"),
    "no room for flex, by words alone": refusal_case(429, "Resource unavailable, try again later", K.OVERLOADED),
    "no room for flex, inside a stream": refusal_case(None, "", K.OVERLOADED, code="resource_unavailable"),
    "an unpaid bill says so first": refusal_case(429, OAI, K.BILLING, error_type="insufficient_quota"),
    "unpaid": refusal_case(429, OAI, K.BILLING, code="insufficient_quota", error_type="insufficient_quota"),
    "unpaid by words alone": refusal_case(429, OAI, K.BILLING),
    "unpaid inside a stream": refusal_case(None, OAI, K.BILLING, code="insufficient_quota"),
    "credit": refusal_case(429, "", K.BILLING, code="credit_balance_exhausted", error_type="insufficient_quota"),
    "organisation": refusal_case(429, "", K.BILLING, code="organization_spend_limit_exceeded"),
    "project": refusal_case(429, "", K.BILLING, code="project_spend_limit_exceeded"),
    "usage": refusal_case(429, "", K.BILLING, code="organization_usage_limit_exceeded"),
    "an Alibaba server behind it": refusal_case(429, T3, K.THROTTLE, code="insufficient_quota"),
    "overloaded": refusal_case(503, "The engine is currently overloaded", K.OVERLOADED, code="server_is_overloaded"),
    "llama.cpp, loading": refusal_case(503, "Loading model", K.OVERLOADED, code="503", error_type="unavailable_error"),
    "Ollama, loading": refusal_case(503, "llm server loading model", K.OVERLOADED),
    "Hugging Face, loading": refusal_case(503, "Model x is currently loading", K.OVERLOADED),
    "503 for whatever else": refusal_case(503, "Service Unavailable", K.OVERLOADED),
    "llama.cpp, too long": refusal_case(
        400, "too long", K.BAD_REQUEST, code="400", error_type="exceed_context_size_error"
    ),
    "500": refusal_case(500, "error", K.SERVER_ERROR, error_type="server_error"),
    "504": refusal_case(504, "", K.SERVER_ERROR),
    "moderated": refusal_case(400, "rejected", K.CONTENT_FILTER, code="moderation_blocked"),
    "policy": refusal_case(400, "rejected", K.CONTENT_FILTER, code="content_policy_violation"),
    "413": refusal_case(413, "", K.BAD_REQUEST),
    "422": refusal_case(422, "field required", K.BAD_REQUEST),
    "408": refusal_case(408, "", K.SERVER_ERROR),
    "409": refusal_case(409, "", K.SERVER_ERROR),
    "425": refusal_case(425, "", K.SERVER_ERROR),
    "418": refusal_case(418, "", K.BAD_REQUEST),
    "405": refusal_case(405, "Method Not Allowed", K.NOT_REACHED),
    "302": refusal_case(302, "", K.NOT_REACHED),
    "529": refusal_case(529, "", K.OVERLOADED),
    "nothing known": refusal_case(None, "boom", K.SERVER_ERROR),
    "its own words are not ModelScope's": refusal_case(429, "today's quota for model x", K.THROTTLE),
}

ANTHROPIC: dict[str, RefusalCase] = {
    "400": refusal_case(400, "max_tokens: field required", K.BAD_REQUEST, error_type="invalid_request_error"),
    "spend limit with 400": refusal_case(
        400, "You have reached your specified API usage limits.", K.BILLING, error_type="invalid_request_error"
    ),
    "credit": refusal_case(400, "Your credit balance is too low", K.BILLING, error_type="invalid_request_error"),
    "401": refusal_case(401, "invalid x-api-key", K.AUTH, error_type="authentication_error"),
    "402": refusal_case(402, "", K.BILLING, error_type="billing_error"),
    "403": refusal_case(403, "", K.FORBIDDEN_MODEL, error_type="permission_error"),
    "404": refusal_case(404, "model: x", K.MODEL_NOT_FOUND, error_type="not_found_error"),
    "408": refusal_case(408, "", K.SERVER_ERROR, error_type="timeout_error"),
    "504": refusal_case(504, "", K.SERVER_ERROR, error_type="timeout_error"),
    "409": refusal_case(409, "", K.SERVER_ERROR, error_type="conflict"),
    "413": refusal_case(413, "", K.BAD_REQUEST, error_type="request_too_large"),
    "429": refusal_case(429, "rate limit", K.THROTTLE, error_type="rate_limit_error"),
    "429 that no wait ends": refusal_case(
        429, "limit", K.BILLING, code="enforced_spend_limit_reached", error_type="rate_limit_error"
    ),
    "500": refusal_case(500, "Internal server error", K.SERVER_ERROR, error_type="api_error"),
    "529": refusal_case(529, "Overloaded", K.OVERLOADED, error_type="overloaded_error"),
    "overloaded inside a stream": refusal_case(None, "o", K.OVERLOADED, error_type="overloaded_error"),
    "rate inside a stream": refusal_case(None, "", K.THROTTLE, error_type="rate_limit_error"),
    "key inside a stream": refusal_case(None, "", K.AUTH, error_type="authentication_error"),
    "api_error inside a stream": refusal_case(None, "", K.SERVER_ERROR, error_type="api_error"),
    "bad request inside a stream": refusal_case(None, "x", K.BAD_REQUEST, error_type="invalid_request_error"),
}

HOUSES: dict[Family, dict[str, RefusalCase]] = {
    "modelscope": MODELSCOPE,
    "simulator": MODELSCOPE,
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
}
ROWS = [(family, name, row) for family, rows in HOUSES.items() for name, row in rows.items()]


@pytest.mark.parametrize(("family", "name", "row"), ROWS, ids=[f"{family}: {name}" for family, name, _ in ROWS])
def test_a_refusal_means_what_its_family_means(family: Family, name: str, row: RefusalCase) -> None:
    found = classify(
        family, status=row.status, message=row.message, code=row.code, error_type=row.error_type, hints=None
    )
    assert found is row.kind, name


@pytest.mark.parametrize(
    ("hints", "kind"),
    [
        (Hints(model_remaining=0, account_remaining=400), K.QUOTA_MODEL),
        (Hints(model_remaining=12, account_remaining=0), K.QUOTA_ACCOUNT),
        (Hints(model_remaining=12, account_remaining=1500), K.THROTTLE),
        (Hints(requests_remaining=0), K.THROTTLE),
        (None, K.THROTTLE),
    ],
)
def test_at_modelscope_the_headers_of_a_429_state_whether_it_is_quota(hints: Hints | None, kind: ProblemKind) -> None:
    assert classify("modelscope", status=429, message=T1, code=None, error_type=None, hints=hints) is kind


def test_a_spent_quota_in_the_headers_does_not_change_the_class_of_another_error() -> None:
    spent = Hints(model_remaining=0, account_remaining=0)
    assert classify("modelscope", status=500, message="", code=None, error_type=None, hints=spent) is K.SERVER_ERROR


@pytest.mark.parametrize(
    ("message", "adaptation"),
    [
        ("enable thinking can not be support when `stream=False`.", "stream"),
        ("parameter.enable_thinking must be set to false for non-streaming calls", "stream"),
        ("The value of the enable_thinking parameter is restricted to True.", "no_thinking_switch"),
        ("Extra inputs are not permitted: Stream_Options", "no_stream_options"),
        ("temperature must be 1", None),
        ("", None),
    ],
)
def test_the_words_state_what_to_change(message: str, adaptation: Adaptation | None) -> None:
    assert adaptation_of(message) == adaptation


def test_words_that_ask_for_a_change_ask_for_nothing_beside_another_status() -> None:
    found = classify("openai", status=500, message="stream_options broke", code=None, error_type=None, hints=None)
    assert found is K.SERVER_ERROR


@pytest.mark.parametrize(
    ("preset", "dialect", "family"),
    [
        ("modelscope", "openai-chat", "modelscope"),
        ("modelscope-anthropic", "anthropic-messages", "modelscope"),
        ("openai", "openai-chat", "openai"),
        ("anthropic", "anthropic-messages", "anthropic"),
        ("simulator", "openai-chat", "simulator"),
        ("simulator", "modelscope-images", "simulator"),
        ("simulator", "anthropic-messages", "simulator"),
        ("simulator", "openai-images", "simulator"),
        ("modelscope", "openai-embeddings", "modelscope"),
        ("simulator", "openai-embeddings", "simulator"),
    ],
)
def test_an_address_of_ones_own_keeps_the_presets_family(
    preset: PresetName, dialect: DialectName, family: Family
) -> None:
    own = Provider(preset=preset, dialect=dialect, base_url="http://127.0.0.1:1/v1", key_env=(), auth="none")
    assert family_of(own) == family


TEXTS = strategies.text(max_size=60)
HINTS = strategies.none() | strategies.builds(
    Hints, model_remaining=strategies.integers(0, 2), account_remaining=strategies.integers(0, 2)
)


@given(
    strategies.sampled_from(sorted(SIGNS)),
    strategies.none() | strategies.integers(-1, 1000),
    strategies.tuples(TEXTS, strategies.none() | TEXTS, strategies.none() | TEXTS),
    HINTS,
)
def test_anything_has_a_kind(
    family: Family, status: int | None, words: tuple[str, str | None, str | None], hints: Hints | None
) -> None:
    message, code, error_type = words
    kind = classify(family, status=status, message=message, code=code, error_type=error_type, hints=hints)
    assert isinstance(kind, ProblemKind)


@given(strategies.sampled_from(sorted(SIGNS)), strategies.integers(400, 499), TEXTS)
def test_an_unnamed_4xx_is_never_taken_for_a_fault_of_the_server_but_for_those_that_pass(
    family: Family, status: int, message: str
) -> None:
    those_that_pass = {408, 409, 423, 424, 425, 440, 444, 449, 460, 499}
    worded = classify(family, status=status, message=message, code=None, error_type=None, hints=None)
    silent = classify(family, status=status, message="", code=None, error_type=None, hints=None)
    assert worded is not K.SERVER_ERROR or status in those_that_pass
    assert (silent is K.SERVER_ERROR) == (status in those_that_pass)


OF_THE_SERVER = (
    "Internal server error, please try again later.",
    "internal error",
    "The server had an error while processing your request. Sorry about that!",
    "An error occurred.",
    "An unexpected error occurred",
    "502 Bad Gateway",
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    "dial tcp 127.0.0.1:11434: connect: refused",
    "Connection error.",
    "Request timed out.",
    "Error code: 500",
    "error",
    "HTTP 500 without a message",
    '{"error":{"message":"","type":"server_error","param":null}}',
    "HTTP 500 with a web page: Oops",
    "The service is temporarily unavailable",
    "CUDA error: an illegal memory access was encountered",
    "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    "系统繁忙，请稍后再试",
    "服务器内部错误",
    "",
)
OF_THE_REQUEST = (
    "image input is not supported - hint: you may need to provide the mmproj",
    "failed to load image: cannot make GET request",
    "Unsupported parameter: top_kk",
    "chat is not implemented",
    "This engine does not support image input",
    "tools param requires --jinja flag",
    "response_format.json_schema is currently not supported",
    "Failed to parse grammar",
    "unsupported operand type(s) for +: 'NoneType' and 'str'",
    "Expected 'content' to be a string or an array",
    "不支持的参数: top_kk",
)


@pytest.mark.parametrize("message", OF_THE_SERVER)
def test_words_of_the_servers_own_trouble_are_not_about_the_request(message: str) -> None:
    assert not is_about_the_request(500, message)


@pytest.mark.parametrize("body", [b"", b"{}", b"<html><title>Oops</title></html>"])
def test_the_words_of_this_program_for_a_500_without_a_reason_mean_an_outage(body: bytes) -> None:
    head = ResponseHead(status=500, headers={}, received_at=0.0)
    assert not is_about_the_request(500, refusal("openai", head, body).message)


@pytest.mark.parametrize("message", OF_THE_REQUEST)
def test_other_words_of_a_500_are_about_the_request(message: str) -> None:
    assert is_about_the_request(500, message)
    assert is_about_the_request(501, message)
    assert not is_about_the_request(502, message), "a gateway speaks of an outage"
