"""The ledger's lines: what happened, typed. Prompts, answers, headers and secrets never stand in one.

Field names on disk are short because a long run writes millions of them; `e` is the event's name. The writer adds `s`
(sequence), `t` (wall clock), `d` (durable length) and `c` (checksum) around these fields; see `stores/ledger`.
"""

import json
from typing import TypeAlias

import msgspec

FORMAT_VERSION = 1
"""What a segment opens with."""
STRICT_VERSION = 2
"""Of a segment that may hold what an earlier program must not overlook: `lost` and `reformatted`, a `retry` that is
`held`, an `accepted` that names its server. It would trust what is gone, send what a person is to decide about, or ask
another server for a task."""
NAMED_VERSION = 3
"""Of a segment that may hold `named`: an earlier program would send such an item again."""
BATCH_VERSION = 4
"""Of a segment that may hold events of batches: an earlier program would send their items once more."""
FALLBACK_VERSION = 5
"""Of a segment that may hold `replaced`: an earlier program would send the replaced items once more."""
READABLE_VERSIONS = frozenset({FORMAT_VERSION, STRICT_VERSION, NAMED_VERSION, BATCH_VERSION, FALLBACK_VERSION})

FileMark: TypeAlias = tuple[str, int, int, int]
"""(name, inode, size in bytes, mtime in nanoseconds) of a file of rows."""
FolderMark: TypeAlias = tuple[str, int, int, int]
"""(name, inode, newest mtime in nanoseconds of it and the folders below, files below) of a folder of outputs."""
CheckpointMark: TypeAlias = tuple[int, int, int]
"""(length in bytes, crc32, format) of a checkpoint."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="e"):
    """The root of all events."""


class Open(_Event, frozen=True, tag="open"):
    """A process begins its segment."""

    version: int
    run: str
    segment: int
    job: str
    """Digest of the job as resolved."""
    program: str
    labels: str = ""
    """Digest of all (index, id, key) of the plan that this process works by."""
    name: str = ""
    """Of the job; empty in ledgers of earlier programs. A lost run.json is made from it and from `simulated`."""
    simulated: bool | None = None
    resends: bool = False
    """The segment may hold `lost` or `reformatted`; others need not be searched for them."""
    before: int | None = None
    """Bytes of the segment before this one, which is closed; None in ledgers of earlier programs."""
    of: str = ""
    """In a merged ledger: the shard's segment that this one is a copy of."""


class Intent(_Event, frozen=True, tag="intent"):
    """A paid POST is about to leave."""

    i: str
    k: str
    n: int
    a: int
    model: str
    account: str
    w: bool = False
    """It goes with the request of the intent before it, and is no request of its own."""


class Named(_Event, frozen=True, tag="named"):
    """The next intent of the item asks for a task of this id: whether it was taken can always be found out."""

    i: str
    k: str
    task: str
    model: str
    account: str
    origin: str
    """The base URL of the server, which alone can be asked for it."""


class Refused(_Event, frozen=True, tag="refused"):
    """The server refused a send for a reason that does not concern the item; no attempt is charged."""

    i: str
    k: str
    n: int
    a: int
    kind: str
    wait: float | None = None
    w: bool = False
    """As of its intent."""


class Accepted(_Event, frozen=True, tag="accepted"):
    """The server took a task."""

    i: str
    k: str
    n: int
    a: int
    task: str
    model: str
    account: str
    origin: str = ""
    """The base URL of the server that accepted it, which alone can be asked for it; empty in older ledgers."""
    guess: bool = False
    """Its id stood in a field that does not say so."""
    others: tuple[str, ...] = ()
    """Ids of further tasks that the same request made, which are not polled; as many as a record has room for."""
    poll: str = ""
    """The address at which its server wants to be asked for it; empty where that is made from its id."""
    result: str = ""
    """The address of what it gives, as above."""
    sought: bool = False
    """It has the id that the order asked for, and no clear answer came: the server may not have it."""


class Ready(_Event, frozen=True, tag="ready"):
    """A task's pictures lie on the storage host."""

    i: str
    k: str
    urls: tuple[str, ...]
    input_tokens: int | None = None
    """Usage of the answer that held the URLs, if the server reported it."""
    output_tokens: int | None = None
    first: int = 0
    """How many URLs earlier records of the same answer hold: a record has room for some."""


class Retry(_Event, frozen=True, tag="retry"):
    """A send or a task ended without a result and is to be tried again; charges an attempt."""

    i: str
    k: str
    n: int
    a: int
    """Attempts charged, this one included."""
    kind: str
    wait: float | None = None
    ambiguous: bool = False
    held: bool = False
    """A person decides whether it is sent again, whatever `on_ambiguous` says; `message` is why."""
    message: str = ""
    task: str = ""
    """Of a held item: the task that gave nothing that could be used."""
    input_tokens: int | None = None
    """Its usage all the same, if the server reported it."""
    output_tokens: int | None = None
    cache_read: int | None = None
    """As of `done`."""
    cache_write: int | None = None


class Done(_Event, frozen=True, tag="done"):
    """The item succeeded and its bytes are durable."""

    i: str
    k: str
    n: int
    a: int
    crc: str
    """Of its line in results.jsonl."""
    length: int
    """Durable length of results.jsonl after that line."""
    files: tuple[tuple[str, int, str], ...] = ()
    """(path, size in bytes, sha256) of each artifact."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read: int | None = None
    """Of the input tokens: what came from a cache; ledgers of earlier programs do not say."""
    cache_write: int | None = None
    """Of the input tokens: what went into a cache."""
    images: int = 0
    recovered: bool = False
    reused: bool = False
    """Its answer was taken from another run: nothing was sent for it, and it has no usage."""


_FILES_BYTES = 40 * 1024


def parts_of_urls(urls: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The URLs in as many parts as records are needed for them; one, if need be an empty one."""
    parts: list[tuple[str, ...]] = []
    start, room = 0, _FILES_BYTES
    for number, url in enumerate(urls):
        size_bytes = len(json.dumps(url)) + 1
        room -= size_bytes
        if room < 0 and number > start:
            parts.append(urls[start:number])
            start, room = number, _FILES_BYTES - size_bytes
    return [*parts, urls[start:]]


def recorded_ids(ids: tuple[str, ...]) -> tuple[str, ...]:
    """The first of the ids, as many as one record has room for."""
    room = _FILES_BYTES
    for number, each in enumerate(ids):
        room -= 6 * len(each) + 3
        if room < 0:
            return ids[:number]
    return ids


def recorded_files(files: tuple[tuple[str, int, str], ...]) -> tuple[tuple[str, int, str], ...]:
    """The first of an item's files, as many as one record has room for; its row, whose crc it holds, names them all."""
    room = _FILES_BYTES
    for number, (path, _, sha256) in enumerate(files):
        room -= 6 * len(path) + len(sha256) + 32
        if room < 0:
            return files[:number]
    return files


def with_files(done: Done, files: tuple[tuple[str, int, str], ...]) -> Done:
    """The same `done` for files that were converted since."""
    return msgspec.structs.replace(done, files=files)


class Failed(_Event, frozen=True, tag="failed"):
    """The item failed for good."""

    i: str
    k: str
    n: int
    a: int
    kind: str
    message: str
    request_id: str | None = None
    ambiguous: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read: int | None = None
    """As of `done`."""
    cache_write: int | None = None


class ReplacedBy(_Event, frozen=True, tag="replaced"):
    """The item ended without an answer, and its prompt goes to another model, as an item of its own."""

    i: str
    k: str
    n: int
    a: int
    by: str
    """The key of that item."""
    model: str
    """Its model."""
    kind: str
    message: str
    request_id: str | None = None
    ambiguous: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read: int | None = None
    """As of `done`."""
    cache_write: int | None = None


class Parked(_Event, frozen=True, tag="parked"):
    """A lane stopped; `until` is a wall clock time, None: until the user acts."""

    account: str
    model: str
    """Empty: every lane of the account."""
    kind: str
    reason: str
    until: float | None = None


class Resumed(_Event, frozen=True, tag="resumed"):
    """A parked lane sends again."""

    account: str
    model: str


class Requeued(_Event, frozen=True, tag="requeued"):
    """A person asked for a failed or held item to be tried again: its next generation."""

    i: str
    k: str


class Lost(_Event, frozen=True, tag="lost"):
    """The answer of an item that was done is gone from the directory, and a person asked to pay for it again."""

    i: str
    k: str


class BatchIntent(_Event, frozen=True, tag="batch"):
    """A batch is about to be ordered; a `batched` of each of its items follows. `b` is its number in all its events."""

    b: int
    key: str
    """What its metadata will say at the server."""
    items: int
    model: str
    account: str
    origin: str
    """The base URL of the server."""
    sha256: str
    """Of the file with its requests."""
    bytes: int


class Batched(_Event, frozen=True, tag="batched"):
    """The item is part of a batch."""

    i: str
    k: str
    n: int
    a: int
    b: int


class BatchUploaded(_Event, frozen=True, tag="batch_uploaded"):
    """The server has the file with the batch's requests, and the batch is about to be ordered."""

    b: int
    file: str


class BatchAccepted(_Event, frozen=True, tag="batch_accepted"):
    """The server took the batch, or a person says that it did."""

    b: int
    id: str
    expires: float | None = None
    """Wall clock."""
    by_hand: bool = False


class BatchEnded(_Event, frozen=True, tag="batch_ended"):
    """The batch has ended, and its result files lie in the run's directory."""

    b: int
    word: str
    """The server's own for how it ended."""
    files: tuple[tuple[str, int, str], ...] = ()
    """(path, size in bytes, sha256) of each."""


class BatchHeld(_Event, frozen=True, tag="batch_held"):
    """It is not known what became of the batch: a person decides."""

    b: int
    reason: str


class Rewritten(_Event, frozen=True, tag="rewritten"):
    """results.jsonl was replaced, atomically, by one that shows the present job."""

    length: int
    labels: str


class Reformatted(_Event, frozen=True, tag="reformatted"):
    """The item's pictures were converted; results.jsonl names the new ones with the next `rewritten`."""

    i: str
    k: str
    files: tuple[tuple[str, int, str], ...]
    """(path, size in bytes, sha256) of each of its pictures now."""
    gone: tuple[str, ...]
    """Originals that may be removed."""


class Controlled(_Event, frozen=True, tag="control"):
    """Somebody paused, resumed, stopped or changed the run, skipped a lane, or asked for items once more."""

    id: str
    """Of the command: the name of its file in `control/`."""
    action: str
    by: str = ""
    """USER@HOST."""
    message: str = ""
    """What came of it, in words."""
    changed: dict[str, str] = {}
    """Key of the job file -> its new value as JSON."""


class Uploaded(_Event, frozen=True, tag="uploaded"):
    """A finished file of the run's directory is in its store. Earlier programs may overlook it: they upload nothing."""

    path: str
    """Below the run's directory."""
    size: int
    mtime: int
    """Nanoseconds."""
    to: str
    """The address below which it is."""


class Close(_Event, frozen=True, tag="close"):
    """The clean end of a segment, and how the directory was left: what differs at the next start was changed by hand.

    `files` is None where the process did not vouch for the directory: the next start looks at every row.
    """

    records: int
    files: tuple[FileMark, ...] | None = None
    folders: tuple[FolderMark, ...] = ()
    torn: bool = False
    """results.jsonl is longer than its records say: the disk refused a row, or its `done`, in the middle."""
    checkpoint: CheckpointMark | None = None
    """Of the file beside the segment with the state up to here; versions without checkpoints ignore it."""


Event: TypeAlias = (
    Open
    | Named
    | Intent
    | Refused
    | Accepted
    | Ready
    | Retry
    | Done
    | Failed
    | ReplacedBy
    | Parked
    | Resumed
    | Requeued
    | Lost
    | BatchIntent
    | Batched
    | BatchUploaded
    | BatchAccepted
    | BatchEnded
    | BatchHeld
    | Rewritten
    | Reformatted
    | Controlled
    | Uploaded
    | Close
)
