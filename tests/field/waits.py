"""How servers ask to wait, in every form that was reported: sent again then, and never earlier."""

from datetime import UTC, datetime
from email.utils import formatdate
from typing import Final

from tests.field.refusals import error, limit
from tests.field.runs import Case
from tests.field.server import json_reply

BEGAN_S: Final = 1_795_000_000
"""Wall clock of a first run."""


def _waits(name: str, reply: bytes, reference: str, *, wait_s: float = 12.0, most_s: float | None = None) -> Case:
    return limit(name, reply, reference, not_before_s=wait_s, not_after_s=most_s)


def _slow(status: int = 429, /, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return json_reply({"error": {"message": "slow down"}}, status=status, headers=named)


_HTTP_DATE = formatdate(BEGAN_S + 13, usegmt=True)
_ISO_DATE = datetime.fromtimestamp(BEGAN_S + 13, UTC).isoformat().replace("+00:00", "Z")


def _of_quota(quota: str) -> bytes:
    words = "You exceeded your current quota, please check your plan and billing details."
    return error(words, 429, status="RESOURCE_EXHAUSTED", details=[{"violations": [{"quotaId": quota}]}])


def _by_clock(ahead_s: int) -> bytes:
    """Of a server whose clock is wrong, and says so."""
    moment = formatdate(BEGAN_S + ahead_s + 13, usegmt=True)
    return _slow(Retry_After=moment, Date=formatdate(BEGAN_S + ahead_s, usegmt=True))


WAITS: Final = (
    _waits("a date, the server's clock an hour ahead", _by_clock(3600), "RFC 9110", wait_s=12.0, most_s=20.0),
    _waits("a date, the server's clock an hour behind", _by_clock(-3600), "RFC 9110", wait_s=12.0, most_s=20.0),
    _waits(
        "an epoch, the server's clock an hour behind",
        _slow(
            X_RateLimit_Remaining="0",
            X_RateLimit_Reset=str(BEGAN_S - 3587),
            Date=formatdate(BEGAN_S - 3600, usegmt=True),
        ),
        "docs.github.com",
        most_s=20.0,
    ),
    _waits("a wait of ages", _slow(Retry_After="1999999999999999999999"), "gateways", wait_s=0.0, most_s=20.0),
    _waits("a date of ages", _slow(Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"), "gateways", wait_s=0.0, most_s=20.0),
    _waits("milliseconds of ages", _slow(retry_after_ms="9e30"), "gateways", wait_s=0.0, most_s=20.0),
    _waits(
        "Gemini's quota of a minute",
        _of_quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
        "ai.google.dev/gemini-api/docs/rate-limits",
        wait_s=0.0,
        most_s=90.0,
    ),
    _waits(
        "Gemini's quota of a day",
        _of_quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        "ai.google.dev/gemini-api/docs/rate-limits",
        wait_s=0.0,
        most_s=90.0,
    ),
    _waits(
        "Alibaba's allocated quota",
        error(
            "You exceeded your current quota, please check your plan and billing details.",
            429,
            code="Throttling.AllocationQuota",
        ),
        "help.aliyun.com/zh/model-studio/error-code",
        wait_s=0.0,
        most_s=90.0,
    ),
    _waits("seconds", _slow(Retry_After="12"), "RFC 9110"),
    _waits("with a unit", _slow(Retry_After="12s"), "gateways"),
    _waits("with a word", _slow(Retry_After="12 seconds"), "gateways"),
    _waits("a list", _slow(Retry_After="5, 12"), "two proxies in a row"),
    _waits("an HTTP date", _slow(Retry_After=_HTTP_DATE), "RFC 9110"),
    _waits("an ISO date", _slow(Retry_After=_ISO_DATE), "gateways"),
    _waits("an epoch", _slow(Retry_After=str(BEGAN_S + 13)), "gateways"),
    _waits("milliseconds", _slow(retry_after_ms="12000"), "github.com/openai/openai-python"),
    _waits("Azure's milliseconds", _slow(x_ms_retry_after_ms="12000"), "learn.microsoft.com"),
    _waits(
        "requests are used up",
        _slow(x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="12s"),
        "platform.openai.com",
    ),
    _waits(
        "tokens are used up",
        _slow(x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="0m12.5s"),
        "console.groq.com",
    ),
    _waits(
        "a minute's window",
        _slow(x_ratelimit_remaining_tokens_minute="0", x_ratelimit_reset_tokens_minute="12.4"),
        "inference-docs.cerebras.ai",
    ),
    _waits(
        "an epoch of seconds", _slow(X_RateLimit_Remaining="0", X_RateLimit_Reset=str(BEGAN_S + 13)), "docs.github.com"
    ),
    _waits(
        "an epoch of milliseconds",
        _slow(X_RateLimit_Remaining="0", X_RateLimit_Reset=str((BEGAN_S + 13) * 1000)),
        "openrouter.ai/docs",
    ),
    _waits("a delta", _slow(X_RateLimit_Remaining="0", X_RateLimit_Reset="12"), "gateways"),
    _waits(
        "the draft's three headers",
        _slow(RateLimit_Limit="20", RateLimit_Remaining="0", RateLimit_Reset="12"),
        "draft-ietf-httpapi-ratelimit-headers-07",
    ),
    _waits(
        "the draft's list",
        _slow(RateLimit="limit=20, remaining=0, reset=12"),
        "draft-ietf-httpapi-ratelimit-headers-08",
    ),
    _waits(
        "the draft's items",
        _slow(RateLimit='"default";r=0;t=12', RateLimit_Policy='"default";q=20;w=60'),
        "draft-ietf-httpapi-ratelimit-headers-10",
    ),
    _waits(
        "Anthropic's dates",
        _slow(anthropic_ratelimit_requests_remaining="0", anthropic_ratelimit_requests_reset=_ISO_DATE),
        "docs.anthropic.com: rate limits",
    ),
    _waits(
        "a time until the model is loaded",
        json_reply({"error": "Model m is currently loading", "estimated_time": 12.0}, status=503),
        "huggingface.co/docs/api-inference",
    ),
    _waits(
        "RetryInfo with 503",
        error("overloaded", 503, details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12s"}]),
        "google.aip.dev/193",
    ),
    _waits(
        "a protobuf's duration",
        error("slow", 429, details=[{"retryDelay": {"seconds": 12, "nanos": 500_000_000}}]),
        "google.aip.dev/193",
    ),
    _waits(
        "a router's metadata",
        error(
            "Rate limit exceeded",
            429,
            metadata={"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str((BEGAN_S + 13) * 1000)}},
        ),
        "github.com/Gitlawb/openclaude/issues/936",
    ),
    _waits("a field", error("slow", 429, retry_after=12), "discord-like APIs"),
    _waits("a field in camel case", json_reply({"message": "slow", "retryAfter": 12}, status=429), "gateways"),
    _waits("prose", error("Rate limit reached. Please try again in 12.5s.", 429), "console.groq.com"),
    _waits("prose with two units", error("Please try again in 1m12s.", 429), "console.groq.com", wait_s=72.0),
    _waits("prose in minutes", error("Try again in 20 minutes.", 429), "gateways", wait_s=1200.0),
    _waits("prose in Chinese", error("请求过于频繁，请 12 秒后重试", 429), "open.bigmodel.cn"),
    _waits("prose with a date", error(f"Limit reached, try again at {_ISO_DATE}", 429), "gateways"),
)
