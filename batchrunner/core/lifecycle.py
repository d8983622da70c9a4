"""The lifecycle as a table: where an item may stand, and which step leads where; and what is known of one item."""

from enum import IntEnum
from typing import Final, Self

from batchrunner.core.errors import LifecycleError
from batchrunner.core.events import (
    Accepted,
    Batched,
    Done,
    Failed,
    Intent,
    Lost,
    Named,
    Ready,
    Refused,
    ReplacedBy,
    Requeued,
    Retry,
)
from batchrunner.core.outcome import NO_ADDRESSES, TaskAddresses, Usage
from batchrunner.core.values import dataclass


class ItemState(IntEnum):
    """Where an item stands."""

    PENDING = 0
    SENDING = 1
    ACCEPTED = 2
    DONE = 3
    FAILED = 4
    REPLACED = 5
    """Another model has its prompt."""


S = ItemState
ITEM_STATES: Final = tuple(ItemState)
"""By number: asked several times for every event, and an enum's own look-up is slow."""
ItemEvent = Intent | Refused | Accepted | Ready | Retry | Done | Failed | ReplacedBy | Requeued | Lost | Batched

LIFECYCLE: Final[dict[tuple[ItemState, type[ItemEvent]], ItemState]] = {
    (S.PENDING, Intent): S.SENDING,
    (S.PENDING, Batched): S.ACCEPTED,  # part of a batch, before that is ordered
    (S.PENDING, Done): S.DONE,  # a whole row whose `done` a crash swallowed is adopted
    (S.PENDING, Failed): S.FAILED,  # given up between two sends, or its model is known not to exist
    (S.PENDING, ReplacedBy): S.REPLACED,  # its model has stood still for long, or it was given up between two sends
    (S.PENDING, Requeued): S.PENDING,  # a held item that a person lets go
    (S.SENDING, Done): S.DONE,
    (S.SENDING, Accepted): S.ACCEPTED,
    (S.SENDING, Refused): S.PENDING,
    (S.SENDING, Retry): S.PENDING,
    (S.SENDING, Failed): S.FAILED,
    (S.SENDING, ReplacedBy): S.REPLACED,
    (S.ACCEPTED, Ready): S.ACCEPTED,
    (S.ACCEPTED, Done): S.DONE,
    (S.ACCEPTED, Refused): S.PENDING,  # its batch did not execute it
    (S.ACCEPTED, Retry): S.PENDING,  # its own end was reached: a new submit is a new attempt
    (S.ACCEPTED, Failed): S.FAILED,
    (S.ACCEPTED, ReplacedBy): S.REPLACED,
    (S.FAILED, Requeued): S.PENDING,  # ACCEPTED where its task is kept
    (S.REPLACED, ReplacedBy): S.REPLACED,  # the job names another next model now
    (S.REPLACED, Requeued): S.PENDING,  # the job has no fallback for it any more
    (S.DONE, Lost): S.PENDING,  # its answer is gone, and a person pays for another one
}
"""The steps that an item may take. A process that takes another one is wrong, and raises before it does.

Replay is forgiving, for an earlier program may have been wrong: what is in neither table changes nothing there, so that
a terminal record wins over late ones.
"""
REPLAYED: Final[dict[tuple[ItemState, type[ItemEvent]], ItemState]] = {
    **LIFECYCLE,
    (S.SENDING, Intent): S.SENDING,
    (S.ACCEPTED, Accepted): S.ACCEPTED,
}
_TASKS_REMEMBERED: Final = 4096
"""Ids of accepted tasks, the latest ones, among which one that is given twice is noticed."""


@dataclass(slots=True, kw_only=True)
class OpenTask:
    """An accepted task that has not come to its end."""

    task_id: str
    item_id: str
    account: str
    model: str
    accepted_at: float
    """Wall clock."""
    urls: tuple[str, ...] = ()
    usage: Usage | None = None
    """Of the answer that held the URLs, if it was reported."""
    origin: str = ""
    """The base URL of the server that accepted it; empty where an older program wrote it down."""
    guess: bool = False
    """Its id may not be a task's at all."""
    others: tuple[str, ...] = ()
    """Further tasks that the same order made."""
    addresses: TaskAddresses = NO_ADDRESSES
    sought: bool = False
    """No clear answer said that the server has it."""

    def has_timed_out(self, *, now: float, task_s: float) -> bool:
        """Whether the server may still work on it although its deadline has come: no address of a result is known."""
        return not self.urls and now - self.accepted_at >= task_s

    @classmethod
    def of(cls, event: Accepted, at: float) -> Self:
        """As it was accepted at wall clock `at`."""
        return cls(
            task_id=event.task,
            item_id=event.i,
            account=event.account,
            model=event.model,
            accepted_at=at,
            origin=event.origin,
            guess=event.guess,
            others=event.others,
            addresses=TaskAddresses(event.poll, event.result),
            sought=event.sought,
        )


def named_task(event: Named, at: float) -> OpenTask:
    """The task that a send at wall clock `at` may have made."""
    return OpenTask(
        task_id=event.task,
        item_id=event.i,
        account=event.account,
        model=event.model,
        accepted_at=at,
        origin=event.origin,
        sought=True,
    )


class TaskOwners(dict[tuple[str, str], bytes]):
    """(origin, id) of the latest accepted tasks -> the key of the item that the server gave it to first."""

    __slots__ = ()

    def is_shared(self, task: tuple[str, str], key: bytes) -> bool:
        """Note that the server gave the task to this item; whether it had given it to another one before."""
        shared = self.setdefault(task, key) != key
        if len(self) > _TASKS_REMEMBERED:
            del self[next(iter(self))]
        return shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Why a lane sends nothing more in this run."""

    kind: str
    reason: str
    refused_account: bool
    """True when only the account's owner can correct it: exit status 5."""
    mistake: bool = False
    """True when the job is wrong, such as its base URL: exit status 2. Otherwise it is 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Why a lane waits, and until when (wall clock; None: until the user acts)."""

    kind: str
    reason: str
    until: float | None
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """What is known of one item, unpacked."""

    item_state: ItemState
    attempts: int
    ambiguous: int
    sends: int
    doubtful: bool
    """Its last send got no clear answer."""
    fresh: bool
    """First seen by this process: what finishes it later did not recover it."""


def wrong_step(step: type[ItemEvent], item_id: str, item_state: ItemState) -> LifecycleError:
    """What is raised before a step that the table does not have."""
    return LifecycleError(
        f"internal error: `{step.__name__.lower()}` of item {item_id}, which is {item_state.name.lower()}; nothing "
        "was sent or written for it, the run pauses; run it again to continue, and please report this"
    )


def usage_in(event: Ready) -> Usage | None:
    """What the answer that held the URLs said that it used up."""
    usage = Usage(input_tokens=event.input_tokens, output_tokens=event.output_tokens)
    return None if usage == Usage() else usage


# What is known of one item, in one word of 64 bits: how its fields lie in it.

# The word, from its lowest bit: state 3, doubtful 1, cut 1, fresh 1, attempts 8, ambiguous 8, sends 16, the model's
# number, 0 while no send has named it, 16; known to the ledger 1, in the job 1; of a done item: seen 1, epoch 7.
DOUBTFUL: Final = 1 << 3
"""Its last send got no clear answer."""
CUT: Final = 1 << 4
"""It was under way when its process ended."""
FRESH: Final = 1 << 5
ATTEMPTS: Final = 6
AMBIGUOUS: Final = 14
SENDS: Final = 22
MODEL: Final = 38
KNOWN: Final = 1 << 54
IN_JOB: Final = 1 << 55
SEEN: Final = 1 << 56
"""Its row was seen by the look at the directory that is under way."""
EPOCH: Final = 57
"""Which rewriting of results.jsonl the checksum of its row goes with; 0: none."""
EPOCHS: Final = 127
ITEM_STATE: Final = 7
BYTE: Final = 0xFF
SENDS_MAX: Final = 0xFFFF
MODEL_MASK: Final = 0xFFFF
LASTING: Final = ~(FRESH | IN_JOB | SEEN) & (1 << 64) - 1
"""What the ledger alone says of an item, without what this process and this job add to it."""
BELOW_SEEN: Final = SEEN - 1
SENT_KEEPS: Final = KNOWN | IN_JOB | FRESH | BYTE << AMBIGUOUS
"""What stays of an item that is sent once more; the intent has everything else."""
DONE_KEEPS: Final = BELOW_SEEN & ~(ITEM_STATE | BYTE << ATTEMPTS)


def record_of(packed: int) -> ItemRecord:
    """The word unpacked; an item without a record in the ledger is fresh."""
    packed = packed if packed & KNOWN else FRESH
    return ItemRecord(
        item_state=ITEM_STATES[packed & ITEM_STATE],
        attempts=packed >> ATTEMPTS & BYTE,
        ambiguous=packed >> AMBIGUOUS & BYTE,
        sends=packed >> SENDS & SENDS_MAX,
        doubtful=bool(packed & DOUBTFUL),
        fresh=bool(packed & FRESH),
    )


def with_attempts(packed: int, attempts: int) -> int:
    """So many attempts charged, as far as they can be counted."""
    return packed & ~(BYTE << ATTEMPTS) | min(attempts, BYTE) << ATTEMPTS


def plus_ambiguous(packed: int) -> int:
    """One more send that got no clear answer."""
    count = min((packed >> AMBIGUOUS & BYTE) + 1, BYTE)
    return packed & ~(BYTE << AMBIGUOUS) | count << AMBIGUOUS


def with_sends(packed: int, sends: int) -> int:
    """So many sends."""
    return packed & ~(SENDS_MAX << SENDS) | min(sends, SENDS_MAX) << SENDS
