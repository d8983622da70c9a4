"""What refusals mean: every row of PROTOCOL 3.4, 3.5, 4.7 and 5.4, and the same words in different houses."""

import pytest
from hypothesis import given, strategies

from batchrunner.core.classify import SIGNS, Family, adaptation_of, classify, family_of
from batchrunner.core.job import DialectName, PresetName, Provider
from batchrunner.core.outcome import Adaptation, Hints, ProblemKind

K = ProblemKind

T1 = (
    "We have to rate limit you for model Qwen/Qwen3-8B. If you need higher limits, please consider other API providers."
)
T3 = "You exceeded your current quota, please check your plan and billing details. See …/error-code#token-limit"
OAI = "You exceeded your current quota, please check your plan and billing details."

MODELSCOPE: dict[str, tuple[int | None, str, str | None, str | None, ProblemKind]] = {
    "no provider": (400, "model X has no provider supported", None, None, K.MODEL_NOT_FOUND),
    "bad model id": (400, "Invalid model id: x", None, None, K.MODEL_NOT_FOUND),
    "image model not served": (400, "nope", "40212", None, K.MODEL_NOT_FOUND),
    "no async header": (400, "image-gen task currently does not support synchronous calls. x", None, None, K.CONFIGURATION),
    "thinking needs a stream": (400, "enable thinking can not be support when `stream=False`.", "invalid_parameter_error", "invalid_request_error", K.ADAPTABLE),
    "thinking needs a stream, DashScope's words": (400, "parameter.enable_thinking must be set to false for non-streaming calls", None, None, K.ADAPTABLE),
    "thinks only": (400, "The value of the enable_thinking parameter is restricted to True.", None, None, K.ADAPTABLE),
    "stream_options": (400, "Unrecognized field: stream_options", None, None, K.ADAPTABLE),
    "part type": (400, "Invalid value: image. Supported values are: text, image_url", None, None, K.BAD_REQUEST),
    "media": (400, "Unable to download the media", None, None, K.MEDIA_FETCH),
    "media, other words": (400, "Failed to download multimodal content", None, None, K.MEDIA_FETCH),
    "media, timed out": (400, "Download of the image timed out", None, None, K.MEDIA_FETCH),
    "sampling": (400, "temperature: only 1 is allowed for this model", None, None, K.BAD_REQUEST),
    "any other 400": (400, "whatever", None, None, K.BAD_REQUEST),
    "bad token": (401, "Authentication failed, please make sure that a valid ModelScope token is supplied.", None, None, K.AUTH),
    "unbound": (401, "Please bind your Alibaba Cloud account before use.", None, None, K.AUTH),
    "not real-name verified, whatever the status": (403, "account is not real-name verified", None, None, K.AUTH),
    "private model": (403, "", None, None, K.FORBIDDEN_MODEL),
    "unknown model or path": (404, "Not Found", None, None, K.MODEL_NOT_FOUND),
    "busy": (500, "Server is busy, please try again later", None, None, K.OVERLOADED),
    "busy 503": (503, "busy", None, None, K.OVERLOADED),
    "Q1": (429, "You have exceeded today's quota for model Qwen/X, please try again tomorrow", None, None, K.QUOTA_MODEL),
    "Q1 with a typographic apostrophe": (429, "You have exceeded today’s quota for model Qwen/X", None, None, K.QUOTA_MODEL),
    "Q2": (429, "You have exceeded today's quota, please try again tomorrow", None, None, K.QUOTA_ACCOUNT),
    "T1 names the model and is no quota": (429, T1, None, None, K.THROTTLE),
    "T2": (429, "Request limit exceeded.", None, None, K.THROTTLE),
    "T3 passes within a minute": (429, T3, "insufficient_quota", "insufficient_quota", K.THROTTLE),
    "T4 allocated": (429, "Allocated quota exceeded, please increase your quota limit", None, None, K.THROTTLE),
    "T4 rate": (429, "Requests rate limit exceeded, please try again later", None, None, K.THROTTLE),
    "T4 slope": (429, "Request rate increased too quickly", None, None, K.THROTTLE),
    "X1": (429, "insufficient balance (1008)", None, "insufficient_balance_error", K.MODEL_SUSPENDED),
    "X1 by its type": (429, "", None, "insufficient_balance_error", K.MODEL_SUSPENDED),
    "X2": (429, "Free allocated quota exceeded", None, None, K.THROTTLE),
    "E": (429, "", None, None, K.THROTTLE),
    "points": (429, "Your magicube balance is not enough", None, None, K.QUOTA_ACCOUNT),
    "points in Chinese": (429, "魔粒余额不足", None, None, K.QUOTA_ACCOUNT),
    "points with 402": (402, "insufficient magicube", None, None, K.QUOTA_ACCOUNT),
    "quota with 402": (402, "daily quota used", None, None, K.QUOTA_ACCOUNT),
    "today's quota with 402": (402, "exceeded today's quota for model X", None, None, K.QUOTA_MODEL),
    "402 alone": (402, "pay", None, None, K.BILLING),
    "quota inside a stream": (None, "You have exceeded today's quota for model X", None, None, K.QUOTA_MODEL),
}  # fmt: skip

OPENAI: dict[str, tuple[int | None, str, str | None, str | None, ProblemKind]] = {
    "bad key": (401, "Incorrect API key provided", "invalid_api_key", "invalid_request_error", K.AUTH),
    "country": (403, "Country, region, or territory not supported", "unsupported_country_region_territory", None, K.AUTH),
    "permission": (403, "no access to model", None, None, K.FORBIDDEN_MODEL),
    "unknown model": (404, "The model x does not exist", "model_not_found", None, K.MODEL_NOT_FOUND),
    "unknown model with 400": (400, "no such model", "model_not_found", None, K.MODEL_NOT_FOUND),
    "too long": (400, "maximum context length", "context_length_exceeded", "invalid_request_error", K.BAD_REQUEST),
    "window": (429, "Rate limit reached", "rate_limit_exceeded", "requests", K.THROTTLE),
    "slope": (429, "slow down", "slow_down", None, K.THROTTLE),
    "slope, the old status": (503, "slow down", "slow_down", None, K.THROTTLE),
    "unpaid": (429, OAI, "insufficient_quota", "insufficient_quota", K.BILLING),
    "unpaid by words alone": (429, OAI, None, None, K.BILLING),
    "unpaid inside a stream": (None, OAI, "insufficient_quota", None, K.BILLING),
    "credit": (429, "", "credit_balance_exhausted", "insufficient_quota", K.BILLING),
    "organisation": (429, "", "organization_spend_limit_exceeded", None, K.BILLING),
    "project": (429, "", "project_spend_limit_exceeded", None, K.BILLING),
    "usage": (429, "", "organization_usage_limit_exceeded", None, K.BILLING),
    "an Alibaba server behind it": (429, T3, "insufficient_quota", None, K.THROTTLE),
    "overloaded": (503, "The engine is currently overloaded", "server_is_overloaded", None, K.OVERLOADED),
    "500": (500, "error", None, "server_error", K.SERVER_ERROR),
    "504": (504, "", None, None, K.SERVER_ERROR),
    "moderated": (400, "rejected", "moderation_blocked", None, K.CONTENT_FILTER),
    "policy": (400, "rejected", "content_policy_violation", None, K.CONTENT_FILTER),
    "413": (413, "", None, None, K.BAD_REQUEST),
    "422": (422, "field required", None, None, K.BAD_REQUEST),
    "408": (408, "", None, None, K.SERVER_ERROR),
    "409": (409, "", None, None, K.SERVER_ERROR),
    "425": (425, "", None, None, K.SERVER_ERROR),
    "418": (418, "", None, None, K.BAD_REQUEST),
    "405": (405, "Method Not Allowed", None, None, K.CONFIGURATION),
    "302": (302, "", None, None, K.CONFIGURATION),
    "529": (529, "", None, None, K.OVERLOADED),
    "nothing known": (None, "boom", None, None, K.SERVER_ERROR),
    "its own words are not ModelScope's": (429, "today's quota for model x", None, None, K.THROTTLE),
}  # fmt: skip

ANTHROPIC: dict[str, tuple[int | None, str, str | None, str | None, ProblemKind]] = {
    "400": (400, "max_tokens: field required", None, "invalid_request_error", K.BAD_REQUEST),
    "spend limit with 400": (400, "You have reached your specified API usage limits.", None, "invalid_request_error", K.BILLING),
    "credit": (400, "Your credit balance is too low", None, "invalid_request_error", K.BILLING),
    "401": (401, "invalid x-api-key", None, "authentication_error", K.AUTH),
    "402": (402, "", None, "billing_error", K.BILLING),
    "403": (403, "", None, "permission_error", K.FORBIDDEN_MODEL),
    "404": (404, "model: x", None, "not_found_error", K.MODEL_NOT_FOUND),
    "408": (408, "", None, "timeout_error", K.SERVER_ERROR),
    "504": (504, "", None, "timeout_error", K.SERVER_ERROR),
    "409": (409, "", None, "conflict", K.SERVER_ERROR),
    "413": (413, "", None, "request_too_large", K.BAD_REQUEST),
    "429": (429, "rate limit", None, "rate_limit_error", K.THROTTLE),
    "429 that no wait ends": (429, "limit", "enforced_spend_limit_reached", "rate_limit_error", K.BILLING),
    "500": (500, "Internal server error", None, "api_error", K.SERVER_ERROR),
    "529": (529, "Overloaded", None, "overloaded_error", K.OVERLOADED),
    "overloaded inside a stream": (None, "o", None, "overloaded_error", K.OVERLOADED),
    "rate inside a stream": (None, "", None, "rate_limit_error", K.THROTTLE),
    "key inside a stream": (None, "", None, "authentication_error", K.AUTH),
    "api_error inside a stream": (None, "", None, "api_error", K.SERVER_ERROR),
    "bad request inside a stream": (None, "x", None, "invalid_request_error", K.BAD_REQUEST),
}  # fmt: skip

HOUSES: dict[Family, dict[str, tuple[int | None, str, str | None, str | None, ProblemKind]]] = {
    "modelscope": MODELSCOPE,
    "simulator": MODELSCOPE,
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
}
ROWS = [(family, name, row) for family, rows in HOUSES.items() for name, row in rows.items()]


@pytest.mark.parametrize(("family", "name", "row"), ROWS, ids=[f"{family}: {name}" for family, name, _ in ROWS])
def test_a_refusal_means_what_its_house_means(
    family: Family, name: str, row: tuple[int | None, str, str | None, str | None, ProblemKind]
) -> None:
    status, message, code, error_type, kind = row
    found = classify(family, status=status, message=message, code=code, error_type=error_type, hints=None)
    assert found is kind, name


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
def test_at_modelscope_the_headers_of_a_429_say_whether_it_is_quota(hints: Hints | None, kind: ProblemKind) -> None:
    assert classify("modelscope", status=429, message=T1, code=None, error_type=None, hints=hints) is kind


def test_a_spent_quota_in_the_headers_says_nothing_of_another_error() -> None:
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
def test_the_words_say_what_to_change(message: str, adaptation: Adaptation | None) -> None:
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
        ("simulator", "anthropic-messages", "anthropic"),
        ("simulator", "openai-images", "openai"),
    ],
)
def test_an_address_of_ones_own_keeps_the_presets_house(
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
    TEXTS,
    strategies.none() | TEXTS,
    strategies.none() | TEXTS,
    HINTS,
)
def test_anything_has_a_kind(
    family: Family, status: int | None, message: str, code: str | None, error_type: str | None, hints: Hints | None
) -> None:
    kind = classify(family, status=status, message=message, code=code, error_type=error_type, hints=hints)
    assert isinstance(kind, ProblemKind)


@given(strategies.sampled_from(sorted(SIGNS)), strategies.integers(400, 499), TEXTS)
def test_an_unnamed_4xx_is_never_taken_for_a_fault_of_the_server_but_for_the_three_that_pass(
    family: Family, status: int, message: str
) -> None:
    kind = classify(family, status=status, message=message, code=None, error_type=None, hints=None)
    assert (kind is K.SERVER_ERROR) == (status in {408, 409, 425})
