"""What a reply says about limits and waiting, whatever family of headers it uses. Unknown is None, never zero.

Every time is given in seconds from the moment the reply's head came (`ResponseHead.received_at`); no clock is read. A
value that cannot be understood is left out, never guessed. See docs/limits.md#hints-of-the-server.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Final

from batchrunner.core.http import ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Hints
from batchrunner.core.text import late_pattern
from batchrunner.providers.json_bodies import at, is_object

_LITELLM: Final = "llm_provider-"
_EPOCH_FROM: Final = 1e9
_EPOCH_MS_FROM: Final = 1e12
"""Plain numbers from here on are moments, not waits: in seconds, in milliseconds."""

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
    "hr": 3600.0,
    "hrs": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
    "毫秒": 1e-3,
    "秒": 1.0,
    "分": 60.0,
    "分钟": 60.0,
    "小时": 3600.0,
    "天": 86400.0,
}
_PART: Final = late_pattern(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-zµμ]+|毫秒|分钟|小时|[秒分天])")
_DURATION: Final = late_pattern(r"(?:\d{1,15}(?:\.\d{1,15})?(?:ns|us|µs|μs|ms|s|m|h|d))+")
_RFC_3339: Final = late_pattern(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")
_HTTP_DATE: Final = late_pattern(r"[A-Za-z]{3,9},? ")
_ISO_DURATION: Final = late_pattern(
    r"P(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?", re.IGNORECASE
)
_NUMBER: Final = r"\d{1,9}(?:\.\d{1,9})?"
_UNIT: Final = r"(?:milliseconds|seconds|minutes|hours|days|second|minute|hour|day|secs?|mins?|hrs?|ms|s|m|h|d)"
_PROSE: Final = late_pattern(
    r"\b(?:in|after|wait|for|least|within|next)\s+(?:about\s+|around\s+|another\s+|at\s+least\s+|the\s+next\s+)?[~≈]?\s*"
    rf"({_NUMBER}\s*{_UNIT}(?:\b|(?=\d))(?:(?:\s*,\s*|\s+and\s+|\s*){_NUMBER}\s*{_UNIT}(?:\b|(?=\d)))*)"
)
_PROSE_DATE: Final = late_pattern(
    r"\b(?:at|after|until|till|by|before)\s+(?:about\s+)?"
    r"(\d{4}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?\s*(?:z|utc|[+-]\d\d:?\d\d)?)"
)
_PROSE_CHINESE: Final = late_pattern(rf"({_NUMBER})\s*(毫秒|秒|分钟|小时|天)钟?\s*(?:后|之后|以后|再)")
_DATE_CHINESE: Final = late_pattern(
    r"(\d{4})\s*[-/年]\s*(\d{1,2})\s*[-/月]\s*(\d{1,2})\s*日?[\st]*(\d{1,2})\s*[:：时点]\s*(\d{1,2})(?:\s*[:：分]\s*(\d{1,2}))?\s*[分秒]?"
    r"\s*(?:后|之后|以后|重置|恢复|刷新|解除|重新|再)"
)
_BEIJING: Final = timezone(timedelta(hours=8))
"""Where a moment in Chinese words is meant, if no zone stands with it."""
_CLOCK: Final = late_pattern(r"\bin\s+(?:(\d{1,3})\.)?(\d{1,2}):(\d\d):(\d\d)\b")
"""Days, hours, minutes and seconds as .NET writes them."""
_ASKING: Final = (("retry-after-ms", 1e-3), ("x-ms-retry-after-ms", 1e-3), ("retry-after", 1.0), ("x-retry-after", 1.0))
"""Headers that ask for a wait, the most precise first, and the unit of a plain number."""
_ASKED_IN_BODIES: Final = {
    "retryafter": 1.0,
    "retryafterms": 1e-3,
    "retryaftermilliseconds": 1e-3,
    "retryafterseconds": 1.0,
    "retryaftersec": 1.0,
    "retrydelay": 1.0,
    "retryin": 1.0,
    "retryinseconds": 1.0,
    "estimatedtime": 1.0,
    "resetsin": 1.0,
    "resetsinseconds": 1.0,
    "resetinseconds": 1.0,
    "resetafter": 1.0,
    "resetsat": 1.0,
    "resetat": 1.0,
    "waitseconds": 1.0,
    "waittime": 1.0,
}
"""Names of fields, without `_` and `-` and in lower case, to the unit of a plain number."""
_DEEP: Final = 6
LONGEST_WAIT_S: Final = 366 * 86_400.0
"""A wait beyond this was not meant as one: a mistake of units, or of a clock."""
_CLOCKS_AGREE_S: Final = 2.0
_FIELD: Final = late_pattern(r"(?:^|[;,\s])([a-z]+)\s*=\s*\"?(\d{1,12}(?:\.\d{1,9})?)\"?", re.IGNORECASE)


def hints_of(head: ResponseHead) -> Hints | None:
    """The rate-limit headers of any family, also as LiteLLM passes them on; None when nothing is known."""
    if not head.has_names_with("ratelimit"):
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


def server_time(head: ResponseHead) -> float:
    """The reply's time by the server's own clock, to which the times in it refer.

    Without a `Date` it is the moment at which it came. A `Date` has whole seconds, cut off: so it is at most that.
    """
    sent_at = _http_moment(head.headers.get("date", ""))
    if sent_at is None or 0.0 <= sent_at - head.received_at <= _CLOCKS_AGREE_S:
        return head.received_at
    return sent_at


def reset_s(text: str, *, received_at: float) -> float | None:
    """Seconds until a bucket is full again: RFC 3339, `6m0s`, epoch or plain seconds; None if not understood."""
    text = text.strip()
    if _RFC_3339.match(text):
        return _until(text, received_at=received_at)
    if _HTTP_DATE.match(text):
        return _http_date(text, received_at=received_at)
    if _DURATION.fullmatch(text):
        return duration_s(text)
    return _seconds(text, received_at=received_at)


def should_retry(head: ResponseHead) -> bool | None:
    """`x-should-retry`, in its two exact spellings."""
    return {"true": True, "false": False}.get(head.headers.get("x-should-retry", ""))


def wait_s(head: ResponseHead, body: Json) -> float | None:
    """How long the server asks to wait: by a header of `_ASKING`, else by a field of the body, however deep."""
    for name, unit_s in _ASKING:
        wait = asked_s(head.headers.get(name, ""), received_at=server_time(head), unit_s=unit_s)
        if wait is not None:
            return wait
    return _asked_in(body, head, depth=0)


def reset_wait_s(head: ResponseHead, body: Json = None) -> float | None:
    """Until a limit of which nothing is left begins anew, by the headers of any family; the longest of several.

    Routers pass the headers of the server behind them on in the body (`error.metadata.headers`).
    """
    passed_on = at(body, "error", "metadata", "headers")
    inner = passed_on if is_object(passed_on) else {}
    lifted = {name.lower(): str(value) for name, value in inner.items() if isinstance(value, str | int | float)}
    headers = {
        name.removeprefix(_LITELLM).replace("rate-limit", "ratelimit"): value
        for name, value in {**head.headers, **lifted}.items()
    }
    waits = [_draft_wait_s(headers)]
    for name, value in headers.items():
        if "ratelimit" in name and "reset" in name and _is_spent(headers, name):
            waits.append(
                reset_s(value.split(",")[-1] if name == "ratelimit-reset" else value, received_at=server_time(head))
            )
    return max((wait for wait in waits if wait is not None), default=None)


def asked_s(text: str, *, received_at: float, unit_s: float = 1.0) -> float | None:
    """A wait in any form: a number, one with a unit, an HTTP or ISO date, an ISO duration, or a list of these."""
    text = text.strip().strip('"')
    if not text:
        return None
    for read in (_http_date, _until):
        if (wait := read(text, received_at=received_at)) is not None:
            return wait
    waits = [_asked_once(part.strip(), received_at, unit_s) for part in re.split(r"[,;]", text)]
    return max((wait for wait in waits if wait is not None), default=None)


def _asked_once(text: str, received_at: float, unit_s: float) -> float | None:
    wait = _seconds(text, received_at=received_at, unit_s=unit_s)
    if wait is not None or not text:
        return wait
    if (iso := _ISO_DURATION.fullmatch(text)) and any(iso.groups()):
        days, hours, minutes, seconds = (float(part or 0) for part in iso.groups())
        return days * 86400.0 + hours * 3600.0 + minutes * 60.0 + seconds
    if _RFC_3339.match(text):
        return _until(text, received_at=received_at)
    lowered = text.lower()
    return duration_s(lowered) if _PART.match(lowered) else None


def _asked_in(value: Json, head: ResponseHead, *, depth: int) -> float | None:
    """The longest wait that a field of a body names."""
    if depth > _DEEP:
        return None
    if isinstance(value, list):
        return max(
            (wait for each in value[:20] if (wait := _asked_in(each, head, depth=depth + 1)) is not None), default=None
        )
    if not is_object(value):
        return None
    waits: list[float | None] = []
    for name, inner in value.items():
        unit_s = _ASKED_IN_BODIES.get(re.sub("[-_]", "", name).lower())
        if unit_s is None:
            waits.append(_asked_in(inner, head, depth=depth + 1))
        elif is_object(inner):  # a protobuf Duration
            whole, rest = inner.get("seconds") or 0, inner.get("nanos") or 0
            waits.append(_seconds(f"{whole}", received_at=server_time(head)))
            waits[-1] = None if waits[-1] is None or not isinstance(rest, int) else waits[-1] + rest * 1e-9
        elif isinstance(inner, str | int | float) and not isinstance(inner, bool):
            waits.append(asked_s(str(inner), received_at=server_time(head), unit_s=unit_s))
    return max((wait for wait in waits if wait is not None), default=None)


def _is_spent(headers: Mapping[str, str], reset: str) -> bool:
    """Whether nothing is left of the limit of a reset header; also if the reply does not say what is left."""
    remaining = reset.replace("-reset-after", "-remaining").replace("reset", "remaining")
    if remaining not in headers:
        return not any("remaining" in name for name in headers if "ratelimit" in name)
    return _left(headers, remaining) == 0


def _draft_wait_s(headers: Mapping[str, str]) -> float | None:
    """`RateLimit: "name";r=0;t=12` and its older form `limit=20, remaining=0, reset=12`.

    Where `t` is missing, the whole window of the policy is the most that the wait can be.
    """
    limits = headers.get("ratelimit", "")
    older = {name.lower(): value for name, value in _FIELD.findall(limits)}
    if "remaining" in older and "reset" in older:
        return float(older["reset"]) if float(older["remaining"]) == 0 else None
    waits: list[float] = []
    for limit in limits.split(","):
        fields = {name.lower(): float(value) for name, value in _FIELD.findall(limit)}
        if fields.get("r") == 0:
            policy = limit.split(";", maxsplit=1)[0].strip()
            windows = [
                float(value)
                for each in headers.get("ratelimit-policy", "").split(",")
                if each.split(";", maxsplit=1)[0].strip() == policy
                for name, value in _FIELD.findall(each)
                if name.lower() == "w"
            ]
            waits.append(fields["t"] if "t" in fields else max(windows, default=0.0))
    return max((wait for wait in waits if wait > 0), default=None)


def wait_in_prose_s(message: str, *, received_at: float | None = None) -> float | None:
    """The last resort: `… resets in ~30s`, `try again in 6m0s`. Only for refusals that pass by themselves."""
    text = message.lower()
    waits = [duration_s(found) for found in _PROSE.findall(text)]
    waits += [duration_s("".join(found)) for found in _PROSE_CHINESE.findall(text)]
    waits += [
        int(days or 0) * 86_400.0 + int(hours) * 3_600 + int(minutes) * 60 + int(seconds)
        for days, hours, minutes, seconds in _CLOCK.findall(text)
    ]
    if received_at is not None:
        waits += [_until_in_china(found, received_at=received_at) for found in _DATE_CHINESE.findall(text)]
        waits += [
            _until(found.upper().replace(" UTC", "Z").strip(), received_at=received_at)
            for found in _PROSE_DATE.findall(text)
        ]
    return max((wait for wait in waits if wait is not None), default=None)


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


def _reset(head: ResponseHead, headers: Mapping[str, str], *names: str) -> float | None:
    for name in names:
        reset = reset_s(headers.get(name, ""), received_at=server_time(head))
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
    if value >= _EPOCH_MS_FROM * unit_s:
        value /= 1000.0 * unit_s
    return max(0.0, value - received_at) if value >= _EPOCH_FROM else value


def _until(text: str, *, received_at: float) -> float | None:
    if not _RFC_3339.match(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return max(0.0, _utc(moment).timestamp() - received_at)
    except (ValueError, OverflowError):
        return None


def _until_in_china(parts: tuple[str, ...], *, received_at: float) -> float | None:
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in parts)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_BEIJING)
        return max(0.0, moment.timestamp() - received_at)
    except (ValueError, OverflowError):
        return None


def _http_date(text: str, *, received_at: float) -> float | None:
    moment = _http_moment(text)
    return None if moment is None else max(0.0, moment - received_at)


def _http_moment(text: str) -> float | None:
    if not _HTTP_DATE.match(text):
        return None
    try:
        return _utc(parsedate_to_datetime(text)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
