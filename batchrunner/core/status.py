"""Where a run stands, in the shape that `status --json` and `run --json` print."""

from dataclasses import dataclass, field
from typing import Literal

from batchrunner.core.budget import BudgetLine

RunState = Literal["running", "done", "failed", "paused", "stopped", "refused", "interrupted", "pending"]
LaneState = Literal["open", "waiting", "parked", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCounts:
    """Items of the job by where they stand; they add up to `total`. `timed_out` ones are still accepted tasks."""

    total: int = 0
    done: int = 0
    failed: int = 0
    accepted: int = 0
    pending: int = 0
    held: int = 0
    timed_out: int = 0
    lost: int = 0
    """Were done, and their row or picture is gone from the directory: paid for, and not sent again unasked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCounts:
    """Paid POSTs over all runs of the job."""

    total: int = 0
    refused: int = 0
    ambiguous: int = 0
    """No clear answer came: a reset, a timeout, a 5xx."""
    unknown: int = 0
    """Cut off by the end of a process."""
    possible_duplicates: int = 0
    """`ambiguous` + `unknown`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageCounts:
    """What was got; None where no server told."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatus:
    """One (account, model) lane."""

    account: str
    model: str
    state: LaneState
    reason: str | None = None
    until: str | None = None
    """RFC 3339 with an offset."""
    concurrency: int | None = None
    in_flight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What the whole run waits for, or is ended by."""

    reason: str
    until: str
    """RFC 3339 with an offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Failed or held items with the same cause."""

    kind: str
    message: str
    count: int
    example: str
    """Id of the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The contract's object. `unaccounted_max` is set after an end without `close` when intents are not synced."""

    job: str
    state: RunState
    items: ItemCounts
    sends: SendCounts
    usage: UsageCounts
    lanes: tuple[LaneStatus, ...] = ()
    unaccounted_max: int | None = None
    dir: str | None = None
    simulated: bool = False
    failures: tuple[FailureGroup, ...] = ()
    next_command: str | None = None
    """The exact command that goes on; None when nothing is left to do."""
    message: str | None = None
    """Why it stopped, in the server's or the disk's own words."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    waiting: Wait | None = None
    """The whole run waits: for its window to open."""
    ends: Wait | None = None
    """What will pause it, if it is not done by then: the end of its window, its deadline."""
    held: tuple[FailureGroup, ...] = ()
    """Items that wait for a person because a reply was not understood, with that reply's beginning."""
    budget: tuple[BudgetLine, ...] = ()
    """What is gone of the job's budget, over all runs; empty without one."""
