"""What a rehearsal foretells, as values: when a run would end, and what it would take. Times are RFC 3339."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict

from batchrunner.core.budget import BudgetLine
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import FailureGroup, ItemCounts, RunState, UsageCounts

MomentKind = Literal["begins", "parked", "resumed", "pauses", "ends"]


class RehearsalOptions(TypedDict, total=False):
    """What `rehearse` takes beyond the job.

    profile: what the provider is supposed to be like, beyond what is supposed of the job's preset: `rpm=60,per_day=200`
        (see `simulator.profiles`), or a YAML file of such names.
    seed: of everything that looks like chance; the same one foretells the same.
    limit: only the first so many items of the job.
    from_scratch: all of the job, whatever is done already.
    began: the instant at which it would begin, seconds since 1970; default: now.
    progress: told every two seconds how many items have ended so far, and of how many.
    """

    profile: str
    seed: int
    limit: int | None
    from_scratch: bool
    began: float
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happens once, in the order of time."""

    at: str
    kind: MomentKind
    account: str = ""
    model: str = ""
    """Empty: it concerns the whole run, or, where an account stands beside it, all its lanes."""
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
