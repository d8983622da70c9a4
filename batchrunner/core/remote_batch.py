"""Batches at a provider's batch API: what the ledger says of each, and how a dialect describes them.

A batch is one paid order for many items. Each of its items is `accepted` from the moment that its record stands in the
ledger until the batch has given its answer, gives it back, or a person decides.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

from batchrunner.core.budget import Tally
from batchrunner.core.events import (
    BatchAccepted,
    BatchEnded,
    BatchHeld,
    BatchIntent,
    BatchUploaded,
    Done,
    Event,
    Failed,
)
from batchrunner.core.http import StreamedBody
from batchrunner.core.lifecycle import OpenTask, Park
from batchrunner.core.outcome import HeldItem, Problem
from batchrunner.core.values import dataclass, field

BatchStage: TypeAlias = Literal["preparing", "submitting", "accepted", "ended", "held", "over", "dropped"]
"""`preparing`: its file is not known to the server, and nothing can have been ordered. `submitting`: it may have been
ordered. `ended`: its result files are here, and items are still to be read from them. `over`: all were. `dropped`: it
was never ordered, and its items went back."""
WORTH_A_BATCH: Final = 20
"""Fewer items of a model go the ordinary way, unless the job says otherwise."""

BatchEvent: TypeAlias = BatchIntent | BatchUploaded | BatchAccepted | BatchEnded | BatchHeld
ResultFile: TypeAlias = tuple[str, int, str]
"""(path below the run's directory, size in bytes, sha256) of a downloaded file."""


@dataclass(slots=True, kw_only=True)
class RemoteBatch:
    """One batch, as far as the ledger goes."""

    number: int
    """From 1 in each run's directory."""
    key: str = ""
    """What its metadata says at the server: it is found again by that."""
    model: str = ""
    account: str = ""
    origin: str = ""
    """The base URL of the server that has it."""
    items: int = 0
    at: float = 0.0
    """Wall clock of its intent."""
    file: str = ""
    """The server's id of the file with its requests."""
    batch_id: str = ""
    accepted_at: float = 0.0
    expires_at: float | None = None
    word: str = ""
    """The server's own word for how it ended."""
    ended: bool = False
    files: tuple[ResultFile, ...] = ()
    held: str = ""
    """Why a person has to decide what becomes of it."""
    left: int = 0
    """Items that are still in it."""
    done: int = 0
    failed: int = 0
    returned: int = 0
    """Items that it gave back to be sent again."""

    @property
    def stage(self) -> BatchStage:
        """Where it stands."""
        if not self.left:
            return "over" if self.batch_id else "dropped"
        if self.held:
            return "held"
        if self.ended:
            return "ended"
        if self.batch_id:
            return "accepted"
        return "submitting" if self.file else "preparing"

    def leave(self, event: Event) -> None:
        """An item left it with this event."""
        self.left -= 1
        if isinstance(event, Done):
            self.done += 1
        elif isinstance(event, Failed):
            self.failed += 1
        else:
            self.returned += 1


@dataclass(slots=True)
class RemoteBatches:
    """All batches of a run's directory by their numbers."""

    known: dict[int, RemoteBatch] = field(default_factory=dict)

    def of(self, number: int) -> RemoteBatch:
        """The batch with this number; one whose intent was lost is made anew, and knows little."""
        batch = self.known.get(number)
        if batch is None:
            batch = self.known[number] = RemoteBatch(number=number)
        return batch

    @property
    def open(self) -> list[RemoteBatch]:
        """Those with items in them, by number."""
        return [batch for batch in self.known.values() if batch.left]

    @property
    def held_items(self) -> int:
        """Items in batches that wait for a person."""
        return sum(batch.left for batch in self.known.values() if batch.held)

    @property
    def next_number(self) -> int:
        """Of the next batch."""
        return max(self.known, default=0) + 1

    def sums(self) -> list[tuple[object, ...]]:
        """What is known of each, without when it was, for comparing."""
        return [
            (batch.number, batch.key, batch.batch_id, batch.file, batch.stage, batch.files, *_counts(batch))
            for batch in self.known.values()
        ]

    def take(self, event: BatchEvent, at: float) -> None:
        """One event of a batch, which happened at wall clock `at`."""
        batch = self.of(event.b)
        match event:
            case BatchIntent():
                batch.key, batch.items, batch.at = event.key, event.items, at
                batch.model, batch.account, batch.origin = event.model, event.account, event.origin
            case BatchUploaded():
                batch.file = event.file
            case BatchAccepted():
                batch.batch_id, batch.expires_at, batch.accepted_at = event.id, event.expires, at
                batch.held, batch.ended, batch.files = "", False, ()
            case BatchEnded():
                batch.word, batch.ended, batch.files = event.word, True, event.files
            case BatchHeld():
                batch.held = event.reason


def _counts(batch: RemoteBatch) -> tuple[int, int, int, int]:
    return batch.left, batch.done, batch.failed, batch.returned


# What a dialect of batches says.

_CLOCKS_DIFFER_S: Final = 24 * 3600.0
"""Between the server's clock and this one, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLook:
    """How a batch stands at the server."""

    batch_id: str
    state: Literal["running", "ended", "failed"]
    """`failed`: it was refused as a whole, and none of its requests was executed."""
    word: str = ""
    """The server's own."""
    key: str = ""
    """What its metadata names; empty where it has none of ours."""
    input_file: str = ""
    outputs: tuple[tuple[Literal["out", "err"], str], ...] = ()
    """Its result files: (answers or errors, id)."""
    expires_at: float | None = None
    requests: int | None = None
    """How many requests it has; None where that is not told."""
    created_at: float | None = None
    message: str = ""
    """Why it failed."""
    too_much: bool = False
    """It failed because too much was ordered at once: a smaller one may be taken, later."""

    def may_be(self, batch: RemoteBatch) -> bool:
        """Whether it can be that batch, which nothing names, by its size and its time; it can if they are not told."""
        size_fits = not self.requests or self.requests == batch.items
        return size_fits and (self.created_at is None or self.created_at >= batch.at - _CLOCKS_DIFFER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPage:
    """A page of the list of an account's batches, the newest first."""

    batches: tuple[BatchLook, ...]
    after: str | None = None
    """Where the next page begins; None after the last one."""


class ItemName(NamedTuple):
    """An item of a batch that is being built, without what it asks."""

    id: str
    key: bytes
    """The 16 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFile:
    """The requests of a batch, on the disk until its order has left."""

    body: StreamedBody
    sha256: str
    """Of the whole file, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """A line of a result file."""

    key: str
    """Of its item, as far as the line says."""
    status: int = 0
    body: bytes = b""
    """The reply to the request, as the ordinary API would have sent it; empty where there was none."""
    request_id: str = ""
    unanswered: bool = False
    """The request was never executed: the batch expired, or was cancelled, before."""
    problem: Problem | None = None
    """Why there is no reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that is known besides the table of items, in plain values. Keys are in hex."""

    day_offset_s: float
    counts: list[int]
    uncorrected: list[str]
    tasks: dict[str, OpenTask]
    kept_tasks: dict[str, OpenTask]
    held: dict[str, HeldItem]
    shared_tasks: list[str]
    task_owners: list[tuple[str, str, str]]
    """(origin, id, key)."""
    parks: list[tuple[str, str, Park]]
    """(account, model, park)."""
    days: list[tuple[str, str, int, int]]
    """(account, model, day, sends)."""
    labels: list[str]
    models: list[tuple[str, Tally]]
    """The first is of items that no send has named."""
    unsettled: bool
    sends: int
    refused: int
    ambiguous: int
    unknown: int
    doubtful_count: int
    most_sending: int
    input_tokens: int | None
    output_tokens: int | None
    images: int
    results_length: int
    epoch: int
    segments: int
    batches: list[RemoteBatch]
    reused: int = 0
    """Checkpoints of earlier programs have none, and none of the following."""
    handed_over: tuple[str, list[int], list[tuple[str, str]]] = ("", [], [])
    """Keys of the items, and of each the number of its (model, class of problem)."""
    cache_read: int | None = None
    cache_write: int | None = None
