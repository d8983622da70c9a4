"""Why a lane waits, in our words: one short sentence for each reason. A server's words are never in here.

Pure. The sentences stand apart from `wording`, which every command loads: their table needs the kinds of problems.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta, tzinfo
from typing import Final, assert_never
from zoneinfo import ZoneInfo

from batchrunner.core.outcome import ProblemKind
from batchrunner.core.status import LaneActivity, LaneReason, LaneStatus, Status
from batchrunner.report.wording import count, duration

K, R = ProblemKind, LaneReason

ORDER: Final[tuple[LaneActivity, ...]] = ("working", "retrying", "paused", "parked", "closed", "done")
"""In which lanes are shown."""
_SAY_ENOUGH: Final = frozenset[LaneActivity]({"retrying", "paused"})
"""What these mean needs no reason beside it."""
_HOUR_S: Final = 3600


def sentence(reason: ProblemKind | LaneReason) -> str:  # noqa: C901, PLR0912, PLR0915 - a table, which mypy holds whole
    """Why, in a few words without a full stop."""
    match reason:
        case K.CONNECT:
            return "server unreachable"
        case K.NOT_REACHED:
            return "something else than the API answers at this address"
        case K.NO_SUCH_PATH:
            return "something else than the API answers at this address"
        case K.TIMEOUT:
            return "the server does not answer in time"
        case K.RESET:
            return "answers break off"
        case K.STREAM_CUT:
            return "answers break off"
        case K.STREAM_CORRUPT:
            return "answers break off"
        case K.SERVER_ERROR:
            return "server error"
        case K.EMPTY_RESPONSE:
            return "the server's answers are empty"
        case K.EMPTY_RESULT:
            return "the server's answers are empty"
        case K.OVERLOADED:
            return "server overloaded"
        case K.THROTTLE:
            return "rate limited"
        case K.QUOTA_MODEL:
            return "model's daily quota used up"
        case K.QUOTA_ACCOUNT:
            return "account's quota used up"
        case K.MODEL_SUSPENDED:
            return "model suspended by the provider"
        case K.AUTH:
            return "API key rejected"
        case K.BILLING:
            return "account unpaid or out of credit"
        case K.FORBIDDEN_MODEL:
            return "model not allowed for this key"
        case K.MODEL_NOT_FOUND:
            return "no such model"
        case K.BAD_REQUEST:
            return "the server rejects the requests"
        case K.CONFIGURATION:
            return "the server rejects the requests"
        case K.ADAPTABLE:
            return "the server rejects the requests"
        case K.CONTENT_FILTER:
            return "blocked by a content filter"
        case K.TOO_LARGE:
            return "answers too large"
        case K.MEDIA_FETCH:
            return "the server cannot fetch the pictures sent along"
        case K.SCHEMA_MISS:
            return "answers break their schema"
        case K.NOT_UNDERSTOOD:
            return "unrecognized replies"
        case K.UNKNOWN_STATUS:
            return "unrecognized replies"
        case K.TASK_FAILED:
            return "remote tasks fail"
        case K.TASK_EXPIRED:
            return "remote tasks fail"
        case K.TASK_CANCELLED:
            return "remote tasks fail"
        case K.TASK_NOT_FOUND:
            return "the server does not find its tasks"
        case K.POLL_STUB:
            return "the server does not find its tasks"
        case K.WRONG_TASK:
            return "the server does not find its tasks"
        case K.TASK_NOT_TAKEN:
            return "orders did not reach the server"
        case K.DOWNLOAD_FAILED:
            return "pictures cannot be downloaded"
        case K.BAD_PICTURE:
            return "pictures cannot be downloaded"
        case K.INTERNAL:
            return "internal error in batchrunner"
        case R.BUDGET:
            return "budget used up"
        case R.REQUESTS_PER_DAY:
            return "limits.requests_per_day reached"
        case R.PROBING:
            return "trying one request at a time"
        case R.BACKOFF:
            return "waiting before the next try"
        case R.SLOT:
            return "retries wait for a free slot"
        case R.WRITING:
            return "writing results"
        case R.ELSEWHERE:
            return "tasks that this process cannot ask for"
        case R.COMMAND:
            return "paused by command"
        case R.SKIPPED:
            return "skipped by command"
        case _:
            assert_never(reason)


WAITS: dict[ProblemKind | LaneReason, str] = {reason: sentence(reason) for reason in (*ProblemKind, *LaneReason)}


def why(lane: LaneStatus) -> str:
    """Why the lane does not simply work; empty where it does."""
    if lane.activity == "done":
        return count(lane.failed, "failure") if lane.failed else ""
    words = WAITS[lane.kind] if lane.kind is not None and lane.activity not in _SAY_ENOUGH else ""
    if lane.activity == "closed":
        return ", ".join(part for part in (words, f"{lane.failed:,} failed" if lane.failed else "") if part)
    return words


def zone_of(status: Status) -> tzinfo | None:
    """The zone in which times are shown: the job's `timezone`, else the machine's (None)."""
    try:
        return ZoneInfo(status.timezone) if status.timezone is not None else None
    except (LookupError, ValueError, OSError):  # a later version, or another machine, knows it
        return None


def in_order(lanes: Iterable[LaneStatus]) -> list[LaneStatus]:
    """Those at work first, then parked ones by their end, closed and done ones last."""
    return sorted(lanes, key=lambda lane: (ORDER.index(lane.activity), _end(lane)))


def _end(lane: LaneStatus) -> float:
    if lane.activity != "parked" or lane.until is None:
        return 0.0
    try:
        return datetime.fromisoformat(lane.until).timestamp()
    except ValueError:
        return 0.0


def clock_time(rfc3339: str, *, now: datetime, zone: tzinfo | None) -> str:
    """`16:05` in the person's zone, `Fri 16:05` if not today, `2026-12-24 16:05` if not this week.

    `zone` None is the machine's. Text that is no instant comes back as it is.
    """
    try:
        moment = datetime.fromisoformat(rfc3339)
    except ValueError:
        return rfc3339
    local, today = moment.astimezone(zone), now.astimezone(zone)
    if local.date() == today.date():
        return f"{local:%H:%M}"
    near = timedelta(0) < local.date() - today.date() < timedelta(days=7)
    return f"{local:%a %H:%M}" if near else f"{local:%Y-%m-%d %H:%M}"


def left_until(rfc3339: str, *, now: datetime) -> float | None:
    """Seconds from now until then, never negative; None for text that is no instant."""
    try:
        moment = datetime.fromisoformat(rfc3339)
    except ValueError:
        return None
    return max(0.0, (moment - now).total_seconds()) if moment.tzinfo is not None else None


def until(rfc3339: str, *, now: datetime, zone: tzinfo | None) -> str:
    """`Fri 16:05 (17 h)`."""
    left_s = left_until(rfc3339, now=now)
    shown = clock_time(rfc3339, now=now, zone=zone)
    return f"{shown} ({about(left_s)})" if left_s is not None else shown


def about(seconds: float) -> str:
    """As `duration`, with no minutes from ten hours on: `3 h 12 min`, but `17 h`."""
    if 10 * _HOUR_S <= seconds < 24 * _HOUR_S:
        return f"{round(seconds / _HOUR_S)} h"
    return duration(seconds)
