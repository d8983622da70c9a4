"""What a rehearsal predicts, as values: when a run would end, and what it would use. Times are RFC 3339."""

import math
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypedDict

from batchrunner.core.budget import BudgetLine
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import FailureGroup, ItemCounts, RunState, UsageCounts
from batchrunner.core.values import dataclass

MomentKind = Literal["begins", "parked", "resumed", "pauses", "ends"]


class RehearsalOptions(TypedDict, total=False):
    """What `rehearse` takes beyond the job.

    profile: what the provider is supposed to be like, beyond what is supposed of the job's preset: `rpm=60,per_day=200`
        (see `simulator.profiles`), or a YAML file of such names.
    seed: of everything that looks like chance; the same seed gives the same prediction.
    limit: only the first so many items of the job.
    from_scratch: all of the job, whatever is done already.
    began: the instant at which it would begin, seconds since 1970; default: now.
    progress: called every half second with the number of ended items and of all.
    progress_with_time: the same, and how many seconds of simulated time have passed.
    """

    profile: str
    seed: int
    limit: int | None
    from_scratch: bool
    began: float
    progress: Callable[[int, int], None] | None
    progress_with_time: Callable[[int, int, float], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happens once, in the order of time."""

    at: str
    kind: MomentKind
    account: str = ""
    model: str = ""
    """Empty: it concerns the whole run or, if `account` is set, all lanes of the account."""
    words: str = ""
    until: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """An hour or a day in which something happened."""

    began: str
    calls: int
    refused: int
    """Calls that were turned away unpaid."""
    done: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The answer of `batchrunner rehearse`. Counts are of the rehearsed part only; `items` are of the whole job."""

    job: str
    dir: str
    profile: str
    """What was supposed of the provider, as `--profile` takes it."""
    seed: int
    state: RunState
    exit_status: ExitStatus
    """What the run itself would end with."""
    message: str | None
    """Why it would stop before everything is done."""
    began: str
    ends: str
    """In the zone where the provider's day turns."""
    seconds: float
    items: ItemCounts
    calls: int
    """Paid POSTs, refused ones included."""
    refused: int
    """Calls that were turned away unpaid."""
    retried: int
    """Sends and tasks that ended without a result and were tried again."""
    polls: int
    downloads: int
    quota_days: int
    """Days of the provider on which calls were made."""
    starts: int
    """How often the run would have to be started: more than once where a window closes before it is done."""
    peak_concurrency: int
    """Calls under way at once."""
    peak_tasks: int
    """Remote tasks open at once."""
    parked_seconds: float
    """Time in which some lane stood parked."""
    usage: UsageCounts
    failures: tuple[FailureGroup, ...]
    budget: tuple[BudgetLine, ...]
    """What would be gone of the job's budget, over all runs."""
    hours: tuple[Span, ...]
    days: tuple[Span, ...]
    moments: tuple[Moment, ...]
    notes: tuple[str, ...]
    took_seconds: float
    """Of real time, for the rehearsal itself."""


# About when a run would end, by arithmetic: calls, how long each takes, and the limits on them. Pure.
#
# A rule of thumb for `plan`, which answers at once; `rehearse` simulates the job with refusals, windows,
# retries and waits. Refuses nothing; what is not known limits nothing.

_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The end of a run as `plan` estimates it."""

    at: str
    """RFC 3339, in the zone where the provider's day turns."""
    seconds: float
    """From now on."""
    quota_days: int
    """Days on which calls are made: one, and one more for each time that a daily limit is waited out."""
    supposed: str
    """What it supposes of the provider, in the words of `rehearse --profile`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLoad:
    """What one lane would have to do, and what holds it back."""

    calls: int
    call_s: float
    """From sending a call to having all of it."""
    at_once: int
    per_minute: float | None
    per_day: int | None
    sent_today: int = 0


def end_of(lanes: Iterable[LaneLoad], *, now: float, offset_s: float) -> tuple[float, int]:
    """(wall clock of the last lane's end, the most days on which a lane makes calls)."""
    ends = [_end_of_lane(lane, now=now, offset_s=offset_s) for lane in lanes if lane.calls > 0]
    return max(ends, default=(now, 0))


def _end_of_lane(lane: LaneLoad, *, now: float, offset_s: float) -> tuple[float, int]:
    if lane.per_day is None:
        return now + _work_s(lane, lane.calls), 1
    left_today = max(0, lane.per_day - lane.sent_today)
    if lane.calls <= left_today:
        return now + _work_s(lane, lane.calls), 1
    later = lane.calls - left_today
    midnights = math.ceil(later / max(1, lane.per_day))
    last_day = later - (midnights - 1) * lane.per_day
    today = math.floor((now + offset_s) / _DAY_S) * _DAY_S - offset_s
    return today + midnights * _DAY_S + _work_s(lane, last_day), midnights + (left_today > 0)


def _work_s(lane: LaneLoad, calls: int) -> float:
    """Seconds for so many calls in a row of `at_once`, no faster than `per_minute`."""
    rounds = math.ceil(calls / max(1, lane.at_once)) * lane.call_s
    spaced = (calls - 1) * 60.0 / lane.per_minute + lane.call_s if lane.per_minute else 0.0
    return max(rounds, spaced)
