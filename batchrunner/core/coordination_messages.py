"""What workers and the coordinator of a job say to each other: one JSON object a line, a request and its reply in turn.

A request names its kind in `type`. Times are seconds from the moment that a message is read, never clock times, except
in `LaneParked.until`, which is a wall clock time. Fields that a peer does not know are left out of account.
"""

from typing import Final, Literal, TypeAlias

import msgspec

LINE_BYTES: Final = 1 << 20
"""No line is longer."""

Stop: TypeAlias = Literal["signal", "budget", "paused", "failed"]
"""Why a worker is to end: a person asked for it, the budget is used up, or nothing that is left can be done now."""
Outcome: TypeAlias = Literal["finished", "paused", "failed", "lost"]
"""What became of a shard in a worker's hands. `finished`: every item is done or has failed for good."""


class Counts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a shard stands, over all of its epochs."""

    of_job: int = 0
    """Items of the whole job, once they are planned."""
    done: int = 0
    failed: int = 0
    pending: int = 0
    """Items that are neither done nor failed nor held."""
    held: int = 0
    sending: int = 0
    """Of the pending: requests in flight, and tasks."""
    paid_calls: int = 0
    """Sends that were not turned away."""
    sends: int = 0
    refused: int = 0
    ambiguous: int = 0
    """Sends without a clear reply."""
    unknown: int = 0
    """Sends that were in flight when a process ended."""
    duplicates: int = 0
    """Sends that may have been billed without a usable answer."""
    tokens: int = 0
    """Input and output together."""
    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    points: float = 0.0
    money: float = 0.0
    answers_late: int = 0
    """Answers that came after the claim was lost."""


class Spent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Amounts of a budget."""

    calls: float = 0.0
    tokens: float = 0.0
    points: float = 0.0
    money: float = 0.0


class Left(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker may still spend, beyond what it has reported; None where the budget has no such limit."""

    calls: float | None = None
    tokens: float | None = None
    points: float | None = None
    money: float | None = None


class LaneParked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lane that sends nothing for now."""

    reason: str
    kind: str = "throttle"
    """A `ProblemKind`, or what else `Park.kind` has."""
    until: float | None = None
    """Wall clock time."""


# What a worker asks.


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """The first on each connection; refused with `Declined`."""

    worker: str
    """A name of its own for each process, never used again."""
    pid: int
    host: str
    job: str
    """Digest of the job file's meaning."""
    version: str
    proof: str = ""
    """HMAC-SHA-256 of the server's nonce with the shared secret, in hexadecimal digits."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="claim"):
    """Asks for a shard to work on."""

    worker: str


class Beat(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="beat"):
    """A worker is alive and works on its shard; to be sent every `beat_s`, apart from leases."""

    worker: str
    shard: int
    epoch: int
    counts: Counts = Counts()


class End(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="end"):
    """A worker has put its shard down, and released its lock."""

    worker: str
    shard: int
    epoch: int
    outcome: Outcome
    not_before_s: float | None = None
    """With `paused`: when it may go on; None: not before a person does something."""
    counts: Counts | None = None
    message: str = ""
    """With `failed`: why, for people."""


class Lease(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="lease"):
    """Asks for requests of a lane, and tells what became of those that were granted. Numbers are since the last one."""

    worker: str
    lane: str
    """Of account and model: the same text in each worker."""
    want: int = 0
    """Requests that could leave now or soon."""
    tokens: int = 0
    """Tokens that those would be counted as, for `limits.tokens_per_minute`."""
    used: int = 0
    """Requests that left."""
    unused: int = 0
    """Granted requests that expired or will not be used."""
    accepted: int = 0
    """Requests that the server took."""
    refused: int = 0
    """429s and other refusals for there being too many."""
    failed: int = 0
    """Server errors, broken connections and timeouts."""
    tokens_corrected: int = 0
    """Tokens that requests really had, less what they were counted as."""
    in_flight: int = 0
    parked: LaneParked | None = None
    """The lane has just been parked here."""
    spent: Spent | None = None
    """Of the budget, by this worker's shard in all epochs; None without a budget."""
    set_aside: Spent | None = None
    """Of the budget, for requests in flight, beyond `spent`."""
    need: Spent | None = None
    """What the next send would spend, where that is more than what is left."""
    heard: int = 0
    """The number of the last reply that came for this lane: replies before it are not gone by any more."""


Request: TypeAlias = Hello | Claim | Beat | End | Lease


# What the coordinator replies.


class Nonce(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says first on each connection."""

    nonce: str
    secret: bool = False
    """Whether a proof of the secret is asked for."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to `Hello`."""

    shards: int
    beat_s: float
    expires_s: float
    """A claim is lost when no beat has been answered for so long."""
    ok: bool = True


class Declined(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to what is not accepted: another job, a wrong proof, a line that is no message."""

    error: str
    kind: Literal["job", "secret", "message"] = "message"


class Claimed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reply to `Claim`: exactly one of shard (with its epoch), wait_s, finished and stop."""

    shard: int | None = None
    epoch: int | None = None
    wait_s: float | None = None
    finished: bool = False
    stop: Stop | None = None


class Beaten(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reply to `Beat`. Not ok: the claim is lost, nothing more may be sent."""

    ok: bool
    stop: Stop | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to `End`. Not ok: the claim had been lost before."""

    ok: bool


class Granted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reply to `Lease`.

    Of `requests`, the first may leave after `first_s`, each next one `every_s` later; a request whose time has passed
    may leave late, until `valid_s` after that time. What is not sent by then has expired, and is told as `unused`.
    """

    requests: int = 0
    first_s: float = 0.0
    every_s: float = 0.0
    tokens: int = 0
    """Of those asked for; without a limit, all of them."""
    valid_s: float = 2.0
    again_s: float = 0.1
    """When to ask again while there is something to send."""
    concurrency: int = 1
    """Requests of this worker that may be in flight at once."""
    parked: LaneParked | None = None
    probe: bool = False
    """The lane was parked, and this one request finds out whether it goes on."""
    day_left: int | None = None
    """Of `limits.requests_per_day`, for all workers."""
    budget_left: Left | None = None
    number: int = 0
    """Of the reply; greater than of all before it."""
    stop: Stop | None = None


Reply: TypeAlias = Welcome | Declined | Claimed | Beaten | Ended | Granted


def changed(granted: Granted, **changes: object) -> Granted:
    """With other values in these fields."""
    return msgspec.structs.replace(granted, **changes)
