"""What a lane is made with, and what it is when it is closed."""

from dataclasses import dataclass

from batchrunner.core.job import Limits
from batchrunner.core.rate_limiter_tuning import CEILING


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Why a lane sends nothing more in this run."""

    kind: str
    reason: str
    refused_account: bool
    """True when only the account's owner can mend it: exit status 5."""
    mistake: bool = False
    """True when the job is wrong, such as its base URL: exit status 2. Otherwise it is 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """What a lane is made with."""

    concurrency: int
    """Sends in flight at once: the job's number, or where `auto` starts."""
    adaptive: bool
    in_flight_tasks: int | None
    """None for dialects without remote tasks."""
    limits: Limits
    breaker: int
    day_offset_s: float
    ceiling: int = CEILING
    """What `auto` never exceeds."""
