"""The ports of the engine: protocols of what it needs from outside, each as small as possible.

The engine imports this and not the packages that implement it, so it runs on the simulator without disk and sockets.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from batchrunner.core.batch_ports import BatchDialect, BatchFiles
from batchrunner.core.control import Command, ControlState, Reply
from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Event
from batchrunner.core.http import Decoder, Gate, Request
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Json, PictureFormat
from batchrunner.core.lifecycle import Park
from batchrunner.core.outcome import (
    NO_ADDRESSES,
    Answer,
    AudioBytes,
    PollOutcome,
    Problem,
    Revision,
    SendOutcome,
    TaskAddresses,
)
from batchrunner.core.plan import Totals
from batchrunner.core.row import Audio, FailureRow, MediaFile, Picture, PictureOrigin, ResultRow
from batchrunner.core.values import dataclass

T = TypeVar("T")
Hold = Callable[[int], AbstractContextManager[object]]


class Clock(Protocol):
    """Time comes from here only."""

    def monotonic(self) -> float:
        """Seconds for waits; the running loop's own clock, so that virtual time works."""

    def wall(self) -> float:
        """Seconds since 1970, for windows, daily quotas and what is written down."""


class LanePace(Protocol):
    """When a lane may send. One process counts for itself (`core.pacing.Bucket`); several lease it from a coordinator.

    Times are monotonic seconds.
    """

    def wait_s(self, now: float, amount: float = 1.0) -> float | None:
        """Seconds until so many may leave; 0 when they may now. None: not before the lane is told."""

    def take(self, now: float, amount: float = 1.0) -> None:
        """They leave. A negative amount: they have not left after all."""


class LeasedLane(LanePace, Protocol):
    """The pace, the daily quota and what is learned from refusals, where they belong to a coordinator."""

    counts_tokens: bool
    """There is a limit of tokens a minute."""

    @property
    def day_limit(self) -> tuple[int, int] | None:
        """(requests of a day, what is left of them for all); None without a limit."""

    def record(self, outcome: SendOutcome) -> None:
        """What came of a send."""

    def count_tokens(self, tokens: int) -> None:
        """They go out now, or correct an earlier estimate."""

    def parks(self, park: Park) -> None:
        """The lane waits."""


class Items(Protocol):
    """The job's items in order, made anew by every call: rows × matrix × models × replicas, streamed."""

    def batches(self, models: frozenset[str] | None = None) -> AsyncGenerator[Sequence[Item], None]:
        """The items of these models (None: all), some at a time; others on the loop have a turn between batches.

        Ids, keys and indexes are the same whatever is asked for.

        Raises:
            JobMistakesError: a source cannot be read, or a row is bad and `on_bad_row` is `fail`; the items before
                that were given.
        """

    @property
    def skipped_rows(self) -> int:
        """Bad rows that the last whole pass left out."""

    @property
    def of_job(self) -> int:
        """Items of the whole job that the last whole pass went through: a shard has a part of them."""


class Dialect(Protocol):
    """A wire protocol, pure."""

    def encode(self, item: Item, revision: Revision) -> Request:
        """The paid POST."""

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for its reply."""


@runtime_checkable
class TaskDialect(Dialect, Protocol):
    """A wire protocol whose POST may be accepted as a remote task.

    One with a true `names_tasks` gives it the id in the revision, under which it can be asked for without any reply.
    """

    def poll(self, task_id: str, addresses: TaskAddresses = NO_ADDRESSES) -> Request:
        """The free GET that asks how the task stands."""

    def poll_decoder(self, task_id: str = "", addresses: TaskAddresses = NO_ADDRESSES) -> Decoder[PollOutcome]:
        """A fresh reader for its reply, which may be about another task than the one that was asked for."""


@runtime_checkable
class CancellingDialect(Protocol):
    """The dialect of a server that may be asked to end a task that it has accepted."""

    @property
    def cancelled_while(self) -> tuple[str, ...]:
        """The states of a task in which it is asked; empty: whatever the state."""

    def cancel(self, task_id: str, addresses: TaskAddresses = NO_ADDRESSES) -> Request | None:
        """What asks for it; None where this server has nothing for that."""

    def cancelled(self) -> Decoder[Problem | None]:
        """Reads the reply: None where the server took the wish."""


@runtime_checkable
class SharedDialect(Dialect, Protocol):
    """A wire protocol whose POST may carry several items of one model with the same parameters."""

    def encode_all(self, items: Sequence[Item]) -> Request:
        """The paid POST of these items."""

    def decoder_of_all(self, items: Sequence[Item]) -> Decoder[tuple[Answer | Problem, ...] | Problem]:
        """A fresh reader for its reply: an outcome for each item in their order, or a problem of all of it."""


class Transport(Protocol):
    """Sends API requests of one provider with the credentials of its accounts. Follows no redirect."""

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        """Send, let the decoder read, and give what it makes of it. Network faults reach it as `Broken`.

        Raises:
            asyncio.CancelledError: the connection is closed.
            Exception: whatever the decoder raised.
        """


@runtime_checkable
class GatedTransport(Transport, Protocol):
    """A transport that gets a connection ready while the intent is being written: no byte leaves before its gate.

    Before any other transport the intent is written first, and then the exchange begins.
    """

    takes_gates: bool

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        """As of a transport. Nothing leaves before `gate` lets it; without one the request may leave at once.

        Raises:
            asyncio.CancelledError: the connection is closed; what had not left by then never leaves.
            Exception: whatever the decoder raised, or what the gate refused with. Then the request has not left.
        """


@runtime_checkable
class Holding(Protocol):
    """A transport that bounds what it reads by what is held already.

    One with `held_from_bytes` need not be called for answers below that size.
    """

    def hold(self, size_bytes: int) -> AbstractContextManager[object]:
        """Count so many bytes for as long as the context lasts; never waits."""


class Downloads(Protocol):
    """Fetches pictures from storage hosts, without any credential but where the API itself has the file.

    That file is fetched with the key of `account`.
    """

    async def fetch(self, url: str, *, account: str = "") -> bytes | Problem:
        """The whole body, capped; a DOWNLOAD_FAILED problem otherwise."""

    async def fetch_into(self, url: str, write: "Write", *, account: str = "") -> Problem | None:
        """Pass the body on piece by piece; a DOWNLOAD_FAILED problem if it does not come whole, or is too large."""


class Ledger(Protocol):
    """The memory. Raises StoreBrokenError from every call once the disk refused one.

    What is put in line in one turn of the loop is handed over in one write; a `then` is called once, on the loop, with
    None when it is so or with why it never will be, and must not raise.
    """

    def note(self, event: Event) -> None:
        """Put the event in line; it is written and synced with the next ones."""

    async def write(self, event: Event) -> None:
        """Return when the event has been handed to the operating system: it survives kill -9."""

    async def commit(self, event: Event) -> None:
        """Return when the event is on the disk: it survives power loss."""

    def write_soon(self, event: Event, then: Callable[[StoreBrokenError | None], None]) -> None:
        """Put the event in line, and call `then` when it was handed over: at the end of this turn of the loop."""

    def commit_soon(
        self, event: Event, then: Callable[[StoreBrokenError | None], None], *, urgent: bool = False
    ) -> None:
        """Queue the event, and call `then` when it is on the disk. `urgent`: something waits for it."""

    def sync_now(self, then: Callable[[StoreBrokenError | None], None]) -> None:
        """Begin to bring to the disk what is in line, and call `then` when it is there."""


class Place(NamedTuple):
    """Where a row stands in `results.jsonl`."""

    crc: str
    """crc32 of the line without its newline, eight lowercase hex digits."""
    length: int
    """The file's durable length in bytes right after the line."""


Kept: TypeAlias = Callable[[Place | StoreBrokenError], None]
"""Told once, on the loop, where a row stands now that it is durable, or why it never will be. It must not raise."""


class Replaced(Protocol):
    """What an atomic rewrite came to."""

    @property
    def length(self) -> int:
        """Bytes of the new file."""

    @property
    def made(self) -> int:
        """Rows that were gone, and were made again from what the ledger says."""

    @property
    def stayed(self) -> int:
        """Rows of no item of the job that stay, because the run was about a part of it."""


async def _nothing_to_confirm() -> None:
    """Where nothing else can change what was written."""


class Results(Protocol):
    """`results.jsonl` and `failures.jsonl`."""

    def put(self, row: ResultRow | bytes, then: Kept) -> None:
        """Append a row, or its line, and call `then` when it is durable: with those of other items, in their order."""

    async def add(self, row: ResultRow) -> Place:
        """Append a row; durable when this returns."""

    async def add_failure(self, row: FailureRow) -> None:
        """Append a row to `failures.jsonl`; durable when this returns."""

    async def rewrite(self, items: AsyncIterator[Item], *, is_done: Callable[[bytes], bool]) -> Replaced:
        """Replace `results.jsonl`, atomically, by one that shows these items in this order.

        Rows of moved and renamed items are relabelled, further items of a key get a row `shared_with` the first,
        rows of no item move to `superseded.jsonl`. Keys are the 16 bytes.
        """

    async def settle_failures(
        self, items: AsyncIterator[Item], *, is_failed: Callable[[bytes], bool], count: int = 0
    ) -> Replaced:
        """The same for `failures.jsonl`: one row for each item that stands failed, none for any other.

        `count` is how many rows there should be: those that were removed by hand are made again.
        """

    async def failures_are_settled(self, *, count: int, is_failed: Callable[[bytes], bool]) -> bool:
        """Whether `failures.jsonl` shows so many rows already, all of failed items and in their order."""


class PictureStore(Protocol):
    """Checks, converts and keeps pictures."""

    async def save(
        self, data: bytes, *, stem: str, into: PictureFormat | None, origin: PictureOrigin
    ) -> Picture | Problem:
        """Verify and load off the loop, convert, put `origin` into the file, save whole under a safe name.

        Durable when this returns. What cannot be looked into is kept as it came. A BAD_PICTURE problem when the bytes
        are no picture, or half of one.
        """

    async def save_audio(self, audio: AudioBytes, *, stem: str) -> Audio:
        """Save a audio whole under a safe name; durable when this returns."""


Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Takes the next bytes of a file; raises StoreBrokenError."""
Fill: TypeAlias = Callable[[Write], Awaitable[Problem | None]]
"""Writes a whole file, or says why it is not whole."""


class MediaStore(Protocol):
    """Keeps files of any type that are too large for memory."""

    async def save(self, fill: Fill, *, stem: str) -> MediaFile | Problem:
        """Write what `fill` gives, whole under a safe name or not at all; durable when this returns.

        A DOWNLOAD_FAILED problem when it is a page, words, or a file whose own format says that its end is missing.
        """


class AnswerFiles(Protocol):
    """`output.each`: every answer in a file of its own, too."""

    async def save(self, item: Item, text: str) -> str:
        """The path below the run's directory."""


class TakenRow(NamedTuple):
    """A row of another run, with the present label of its item."""

    line: bytes
    files: tuple[tuple[str, int, str], ...] = ()
    """(path, size in bytes, sha256) of each file that it names, which lie in this run's directory now."""


class Untaken(NamedTuple):
    """Why a row of another run cannot be taken: the words for all that are like it, and the file that it is about."""

    why: str
    example: str = ""


def with_example(why: str, example: str) -> str:
    """In one line."""
    return f"{why}, such as {example}" if example else why


class ReusableRows(Protocol):
    """The rows of other runs that this one may take instead of sending."""

    def __contains__(self, key: object) -> bool:
        """Whether one of them answers the item with this key of 16 bytes."""

    async def take(self, items: Sequence[Item], efforts: Sequence[tuple[int, int]]) -> list[TakenRow | Untaken]:
        """Their rows, or why a row cannot be taken; the files that they name are durable here when this returns.

        `efforts`: (attempts, ambiguous) of each item in this run.
        """


class Control(Protocol):
    """Commands of other processes to this run."""

    @property
    def state(self) -> ControlState:
        """What was in force when the run began."""

    @property
    def early(self) -> Sequence[Command]:
        """Commands that were given before the run began and that no process has followed, in their order."""

    async def next(self) -> Command:
        """Wait for the next command."""

    def resolved(self, settings: Mapping[str, Json]) -> Job:
        """The job with these keys set.

        Raises:
            JobMistakesError: a value is wrong, alone or beside the job's other keys.
        """

    async def acknowledge(self, command: Command, reply: Reply, state: ControlState) -> None:
        """Keep what is in force, and tell whoever gave the command what came of it. Raises OSError."""


class NoteFault(Protocol):
    """Records an unexpected exception, for a bug report."""

    async def __call__(self, what: str, error: BaseException) -> str:
        """Write the traceback where a person finds it; the value is the error in one line, without keys.

        Never raises: `what` was in progress, and other work continues.
        """


async def _unwritten(what: str, error: BaseException) -> str:
    return f"{what}: {type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything the engine drives, plugged together by `app`."""

    clock: Clock
    items: Items
    dialect: Dialect
    tasks: TaskDialect | None
    transport: Transport
    downloads: Downloads
    ledger: Ledger
    results: Results
    pictures: PictureStore
    media: MediaStore
    each: AnswerFiles | None
    accounts: Sequence[str]
    """Names of the keys' variables; a single empty string where no key is needed."""
    remember: Callable[[Totals], None]
    """Keeps the totals for `status`, which has no job file."""
    note_fault: NoteFault = _unwritten
    """Keeps the traceback of a fault of this program in `errors.log`."""
    confirm: Callable[[], Awaitable[None]] = _nothing_to_confirm
    """Before the run is called done: is what was written still there? Tells lost items; StoreBrokenError."""
    hold: Hold = lambda _: nullcontext()
    """Counts so many bytes until they are on the disk; the transport reads no more than fits beside them."""
    held_from_bytes: int = 0
    """A smaller answer is on the disk before it is worth counting."""
    batches: BatchDialect | None = None
    """None where no batch can be ordered or asked for."""
    batch_files: BatchFiles | None = None
    reusable: ReusableRows | None = None
    """None where no other run is to be taken from."""
    control: Control | None = None
    """None where no other process can reach the run: in rehearsals."""
    leased: Callable[[], LeasedLane] | None = None
    """Makes the pace of a lane that a coordinator decides; None where the lanes count for themselves."""
    may_send: Callable[[], bool] | None = None
    """Asked between an intent and its request, where another process may take over what this one works on."""
