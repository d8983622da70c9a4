"""Waits and limits in every form in which servers say them."""

import math

import pytest
from hypothesis import given, strategies

from batchrunner.core.http import ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Hints
from batchrunner.providers.rate_headers import hints_of, reset_s, should_retry, wait_in_prose_s, wait_s
from tests.providers.reading import NOON, head


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("1s", 1.0),
        ("1m30.5s", 90.5),
        ("1h2m3s", 3723.0),
        ("2d", 172800.0),
        ("5µs", 5e-6),
        ("-1", None),
        ("0", 0.0),
        ("17", 17.0),
        ("17.5", 17.5),
        ("1790000060", 60.0),
        ("1780000000", 0.0),
        ("2026-09-21T14:14:20Z", 60.0),
        ("2026-09-21T22:14:20+08:00", 60.0),
        ("2026-02-25T20:02:37Z", 0.0),
        ("2026-99-99T99:99:99Z", None),
        ("", None),
        ("soon", None),
        ("5 parsecs", None),
        ("6m0x", None),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
    ],
)
def test_a_reset_is_seconds_from_the_reply_or_unknown(text: str, seconds: float | None) -> None:
    assert reset_s(text, received_at=NOON) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "hints"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "many"}, None),
        (
            {
                "modelscope-ratelimit-requests-limit": "2000",
                "modelscope-ratelimit-requests-remaining": "1500",
                "modelscope-ratelimit-model-requests-limit": "200",
                "modelscope-ratelimit-model-requests-remaining": "0",
            },
            Hints(model_remaining=0, account_remaining=1500),
        ),
        ({"llm_provider-modelscope-ratelimit-requests-remaining": "7"}, Hints(account_remaining=7)),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-remaining-tokens": "149984",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            Hints(requests_remaining=59, tokens_remaining=149984, requests_reset_s=1.0, tokens_reset_s=360.0),
        ),
        ({"x-ratelimit-remaining-requests": "-1"}, None),
        ({"x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0"}, Hints(requests_remaining=0)),
        (
            {
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-input-tokens-remaining": "9000",
                "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:50Z",
                "anthropic-ratelimit-tokens-reset": "2026-09-21T14:14:20Z",
            },
            Hints(requests_remaining=49, tokens_remaining=9000, requests_reset_s=30.0, tokens_reset_s=60.0),
        ),
        ({"modelscope-ratelimit-requests-remaining": " 12 "}, Hints(account_remaining=12)),
        ({"modelscope-ratelimit-requests-remaining": "9" * 5000}, None),
    ],
)
def test_each_family_of_rate_headers_is_understood(headers: dict[str, str], hints: Hints | None) -> None:
    assert hints_of(ResponseHead(status=200, headers=headers, received_at=NOON)) == hints


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, None, None),
        ({"retry-after": "30"}, None, 30.0),
        ({"retry-after": "0.25"}, None, 0.25),
        ({"retry-after": "7200"}, None, 7200.0),
        ({"retry-after-ms": "1500", "retry-after": "30"}, None, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "30"}, None, 30.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:14:20 GMT"}, None, 60.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:12:20 GMT"}, None, 0.0),
        ({"retry-after": "1790000060"}, None, 60.0),
        ({"retry-after": "-5"}, None, None),
        ({"retry-after": "nan"}, None, None),
        ({}, {"error": {"retry_after": 12}}, 12.0),
        ({}, {"retry_after": "12.5"}, 12.5),
        ({}, {"error": {"retry_after": True}}, None),
        ({"retry-after": "3"}, {"error": {"retry_after": 12}}, 3.0),
    ],
)
def test_a_wait_is_read_in_every_form_and_in_order(headers: dict[str, str], body: Json, seconds: float | None) -> None:
    found = wait_s(ResponseHead(status=429, headers=headers, received_at=NOON), body)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "meaning"), [("true", True), ("false", False), ("True", None), ("1", None), ("", None)]
)
def test_should_retry_is_read_literally(value: str, meaning: bool | None) -> None:  # noqa: FBT001 - a table's column
    assert should_retry(head(429, x_should_retry=value)) is meaning


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Request was throttled. Your rate limit resets in ~30s.", 30.0),
        ("Please try again in 6m0s. Visit …", 360.0),
        ("Please try again in 1.2s.", 1.2),
        ("try again in 20 ms", 0.02),
        ("wait 2 minutes", 120.0),
        ("Retry after 5 seconds", 5.0),
        ("Limit: 40000 / min for gpt-4 models", None),
        ("model 7 m is busy", None),
        ("", None),
    ],
)
def test_prose_is_the_last_resort(message: str, seconds: float | None) -> None:
    assert wait_in_prose_s(message) == (None if seconds is None else pytest.approx(seconds))


NAMES = strategies.sampled_from(
    ["retry-after", "retry-after-ms", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens", "x-should-retry"]
)


@given(strategies.dictionaries(NAMES, strategies.text(max_size=40)), strategies.floats(0, 1e12))
def test_any_headers_give_finite_waits_or_none(headers: dict[str, str], received_at: float) -> None:
    reply = ResponseHead(status=429, headers=headers, received_at=received_at)
    wait = wait_s(reply, None)
    hints = hints_of(reply)
    assert wait is None or (math.isfinite(wait) and wait >= 0)
    assert hints is None or hints.tokens_reset_s is None or hints.tokens_reset_s >= 0
