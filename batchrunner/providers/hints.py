"""What a reply says about limits and waiting, whatever family of headers it uses. Unknown is None, never zero.

Every time is given in seconds from the moment the reply's head came (`Head.received_at`); no clock is read. A value
that cannot be understood is left out, never guessed. Sources: PROTOCOL 2.3, 2.4, 3.3.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.outcome import Hints
from batchrunner.core.wire import Head
from batchrunner.providers.json_text import at

_LITELLM: Final = "llm_provider-"
_EPOCH_FROM: Final = 1e9
"""Plain numbers from here on are moments, not waits."""

_UNITS_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "mins": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
}
_PART: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-zµμ]+)")
_DURATION: Final = re.compile(r"(?:\d{1,15}(?:\.\d{1,15})?(?:ns|us|µs|μs|ms|s|m|h|d))+")
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")
_PROSE: Final = re.compile(
    r"\b(?:in|after|wait|for)\s+(?:about\s+|around\s+|another\s+)?~?"
    r"((?:\d{1,9}(?:\.\d{1,9})?\s*(?:milliseconds|seconds|minutes|hours|second|minute|hour|secs?|mins?|ms|s|m|h)\b"
    r"|\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h)(?=\d))+)"
)


def hints_of(head: Head) -> Hints | None:
    """The rate-limit headers of any family, also as LiteLLM passes them on; None when nothing is known."""
    if not any("ratelimit" in name for name in head.headers):
        return None
    headers = {name.removeprefix(_LITELLM): value for name, value in head.headers.items()}
    hints = Hints(
        model_remaining=_left(headers, "modelscope-ratelimit-model-requests-remaining"),
        account_remaining=_left(headers, "modelscope-ratelimit-requests-remaining"),
        requests_remaining=_left(headers, "x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining"),
        tokens_remaining=_left(
            headers,
            "x-ratelimit-remaining-tokens",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-input-tokens-remaining",
        ),
        requests_reset_s=_reset(head, headers, "x-ratelimit-reset-requests", "anthropic-ratelimit-requests-reset"),
        tokens_reset_s=_reset(
            head,
            headers,
            "x-ratelimit-reset-tokens",
            "anthropic-ratelimit-tokens-reset",
            "anthropic-ratelimit-input-tokens-reset",
        ),
    )
    return None if hints == Hints() else hints


def reset_s(text: str, *, received_at: float) -> float | None:
    """Seconds until a bucket is full again: RFC 3339, `6m0s`, epoch or plain seconds; None if not understood."""
    text = text.strip()
    if _RFC_3339.match(text):
        return _until(text, received_at=received_at)
    if _DURATION.fullmatch(text):
        return duration_s(text)
    return _seconds(text, received_at=received_at)


def should_retry(head: Head) -> bool | None:
    """`x-should-retry`, in its two exact spellings."""
    return {"true": True, "false": False}.get(head.headers.get("x-should-retry", ""))


def wait_s(head: Head, body: Json) -> float | None:
    """How long the server asks to wait: `retry-after-ms`, `retry-after` (seconds or date), the body's `retry_after`."""
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        given = head.headers.get(name)
        if given is None:
            continue
        wait = _seconds(given, received_at=head.received_at, unit_s=unit_s)
        if wait is None:
            wait = _http_date(given, received_at=head.received_at)
        if wait is not None:
            return wait
    for path in (("error", "retry_after"), ("errors", "retry_after"), ("retry_after",)):
        told = at(body, *path)
        if isinstance(told, str | int | float) and not isinstance(told, bool):
            wait = _seconds(str(told), received_at=head.received_at)
            if wait is not None:
                return wait
    return None


def wait_in_prose_s(message: str) -> float | None:
    """The last resort: `… resets in ~30s`, `try again in 6m0s`. Only for refusals that pass by themselves."""
    found = _PROSE.search(message.lower())
    return duration_s(found.group(1)) if found else None


def duration_s(text: str) -> float | None:
    """The sum of the parts of a duration such as `1m30.5s`; None if a unit is unknown."""
    parts = _PART.findall(text)
    if not parts or any(unit not in _UNITS_S for _, unit in parts):
        return None
    return math.fsum(float(number) * _UNITS_S[unit] for number, unit in parts)


def _left(headers: Mapping[str, str], *names: str) -> int | None:
    """A remaining count. Beside a limit that is zero or less it means nothing: Azure sends such pairs for unknown."""
    for name in names:
        count = _whole(headers.get(name))
        if count is None or count < 0:
            continue
        limit = _whole(headers.get(name.replace("remaining", "limit")))
        if limit is None or limit > 0:
            return count
    return None


def _reset(head: Head, headers: Mapping[str, str], *names: str) -> float | None:
    for name in names:
        reset = reset_s(headers.get(name, ""), received_at=head.received_at)
        if reset is not None:
            return reset
    return None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,18}", text.strip(), re.ASCII) else None


def _seconds(text: str, *, received_at: float, unit_s: float = 1.0) -> float | None:
    """A plain number; one as big as an epoch is a moment. Negative, endless and unreadable ones are None."""
    try:
        value = float(text) * unit_s
    except ValueError:
        return None
    if not math.isfinite(value) or value < 0:
        return None
    return max(0.0, value - received_at) if value >= _EPOCH_FROM else value


def _until(text: str, *, received_at: float) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return max(0.0, _utc(moment).timestamp() - received_at)
    except (ValueError, OverflowError):
        return None


def _http_date(text: str, *, received_at: float) -> float | None:
    try:
        return max(0.0, _utc(parsedate_to_datetime(text)).timestamp() - received_at)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
