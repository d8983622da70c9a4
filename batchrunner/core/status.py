"""Where a run stands, in the shape that `status --json` and `run --json` print."""

from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from batchrunner.core.budget import BudgetLine
from batchrunner.core.control import UNCONTROLLED, ControlState
from batchrunner.core.errors import ExitStatus
from batchrunner.core.fallback import FallbackCount
from batchrunner.core.values import dataclass, field

if TYPE_CHECKING:
    from batchrunner.core.outcome import ProblemKind
    from batchrunner.core.remote_batch import BatchStage

RunState = Literal["running", "done", "failed", "paused", "stopped", "refused", "interrupted", "pending"]
LaneState = Literal["open", "waiting", "parked", "stopped"]
LaneActivity = Literal["working", "retrying", "paused", "parked", "closed", "done"]
"""What a lane does: finer than `LaneState`, which calls every lane that could send `open`. `paused` is by a command."""


class LaneReason(StrEnum):
    """Why a lane does not simply work, where no `ProblemKind` of a server is why."""

    BUDGET = "budget"
    REQUESTS_PER_DAY = "requests_per_day"
    PROBING = "probing"
    BACKOFF = "backoff"
    SLOT = "slot"
    WRITING = "writing"
    ELSEWHERE = "elsewhere"
    """Accepted tasks that this process cannot ask for."""
    COMMAND = "command"
    """A person paused the run."""
    SKIPPED = "skipped"
    """A person skips the lane."""


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
    """Usage; None where no server reported it."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    images: int = 0
    cache_read_tokens: int | None = None
    """Of the input tokens: what came from a cache."""
    cache_write_tokens: int | None = None
    """Of the input tokens: what went into a cache, where that has a price of its own."""
    unanswered_input_tokens: int = 0
    """Besides: of replies that were no answer, because the item failed, was sent again, or went to another model."""
    unanswered_output_tokens: int = 0


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
    activity: LaneActivity = "working"
    kind: "ProblemKind | LaneReason | None" = None
    """Why, as one of a fixed set; `reason` has it in words, with those of the server."""
    words: str | None = None
    """What the server said last, where something is wrong."""
    total: int | None = None
    """Items of the model in this run, those that were done before it included; all lanes of a model share them. An item
    that is identical to another counts once. None where no run is at work."""
    left: int | None = None
    """Those of them that are neither done nor failed."""
    failed: int = 0
    """Those that failed in this run."""
    open_tasks: int = 0
    """Accepted remote tasks that are followed."""
    retrying: int = 0
    """Items that back off before their next try."""
    retry_in_s: float | None = None
    """Seconds until the first of them is tried."""
    in_flight_s: float | None = None
    """Seconds of all requests in flight so far, added up: two of these give the mean number in flight in between."""
    per_day: int | None = None
    """Requests a day that the job or the provider allows, as far as that is known."""
    left_today: int | None = None
    """What is left of `per_day`."""
    day_turns: str | None = None
    """When the next day of `per_day` begins. RFC 3339 with an offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What the whole run waits for, or is ended by."""

    reason: str
    until: str
    """RFC 3339 with an offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """A batch at the provider's batch API."""

    number: int
    """Of the batch in this directory, from 1."""
    id: str | None
    """The server's; None while it is not known."""
    model: str
    account: str
    state: "BatchStage"
    items: int
    left: int
    """Items that are still in it."""
    done: int
    failed: int
    returned: int
    """Items that it gave back to be sent again."""
    reason: str | None = None
    """Why it is held, or the server's word for how it ended."""
    accepted: str | None = None
    """RFC 3339 with an offset, as `expires`."""
    expires: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Failed or held items with the same cause."""

    kind: str
    message: str
    count: int
    example: str
    """Id of the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStatus:
    """A shard of a job that is divided."""

    shard: str
    """`I/N`, as for `--shard`."""
    state: RunState
    items: ItemCounts | None
    """None before it has begun: how many it will have is not known."""
    dir: str


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
    """The exact command that continues the run; None when nothing is left to do."""
    message: str | None = None
    """Why it stopped, in the server's or the disk's own words."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    waiting: Wait | None = None
    """The whole run waits: for its window to open."""
    ends: Wait | None = None
    """What will pause it, if it is not done by then: the end of its window, its deadline."""
    held: tuple[FailureGroup, ...] = ()
    """Items that wait for a person because a reply was not understood, with that reply's beginning."""
    batches: tuple[BatchStatus, ...] = ()
    """Batches over all runs; empty where there were none."""
    budget: tuple[BudgetLine, ...] = ()
    """What is gone of the job's budget, over all runs; empty without one."""
    fallbacks: tuple[FallbackCount, ...] = ()
    """Of jobs that ask their models one after another: what went to the later ones."""
    control: ControlState = UNCONTROLLED
    """Whether the run is paused, and which keys of the job file were set, by commands that are in force."""
    timezone: str | None = None
    """The job's `timezone`; None is the machine's."""
    reused: int = 0
    """Answers that were taken from other runs, over all runs of the job: nothing was sent for them."""
    part: ItemCounts | None = None
    """At the end of a run on a part of the job: its items; identical ones count once. None for the whole job."""
    shards: tuple[ShardStatus, ...] = ()
    """Of a job that is divided and not merged yet; everything else is their sum then."""


# What a run comes to, as a value for callers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The end of a run."""

    status: Status
    exit_status: ExitStatus


# What an audit of a run's directory comes to, as values for callers.

Level = Literal["damage", "odd", "note"]
"""`damage`: something that was recorded is not there, or not as it was. `odd`: this program would not have done it.
`note`: what a crash, a job under way or a person left; nothing that was recorded is touched by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Everything of one kind that was found."""

    kind: str
    level: Level
    problem: str
    """What is wrong, in words."""
    advice: str | None
    count: int
    examples: tuple[str, ...]
    """The first few places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCounts:
    """What was looked at."""

    segments: int = 0
    records: int = 0
    done: int = 0
    """Items that are done according to the ledger."""
    failed: int = 0
    rows: int = 0
    """Lines of `results.jsonl`."""
    superseded: int = 0
    failures: int = 0
    pictures: int = 0
    picture_bytes: int = 0
    answer_files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged:
    """What was copied into a new directory, and what could not be."""

    dir: str
    records: int
    """Ledger records carried over."""
    records_lost: int
    """Damaged stretches of the ledger that no record could be read from."""
    rows: int
    rows_lost: int
    """Items known as done whose answer is lost: they are sent again."""
    fetched_again: int
    """Items whose pictures are lost, but whose task and URLs are known: fetched again, not paid again."""
    pictures: int
    answer_files: int
    sound: bool
    """Whether an audit of the new directory found no damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The whole of it. Sound when there is no damage."""

    job: str
    dir: str
    sound: bool
    findings: tuple[Finding, ...]
    """Damage first, then what is odd, then notes."""
    checked: AuditCounts
    salvaged: Salvaged | None = None

    @property
    def exit_status(self) -> ExitStatus:
        """4 on damage."""
        return ExitStatus.DONE if self.sound else ExitStatus.STOPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """What a merge of shards came to."""

    job: str
    dir: str
    simulated: bool
    whole: bool
    """False for `--partial`: the shards go on, and another merge follows."""
    was_merged: bool
    """It had been done before, and nothing was changed."""
    shards: int
    begun: int
    """Of these, the shards that have a run."""
    rows: int
    failures: int
    duplicates: int
    """Rows of items that another process had answered too, or that were there twice; the first are kept in
    superseded.jsonl."""
    files: int
    """Pictures and other files that have a second name now."""
    next_command: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageWritten:
    """What a written report page came to."""

    path: str
    """Of the page."""
    rows: int
    bytes: int
    """Of the page itself, without the files beside it."""
    chunk_files: int
    """Scripts with rows beside the page; 0 where all of them are in it."""
    pictures: int
    thumbnails_made: int
    """Of pictures that had none yet."""
    pictures_copied: int
    """To where the page lies, with `--copy`."""
    job: str
    state: RunState
    simulated: bool
