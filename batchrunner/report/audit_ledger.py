"""The audit's first pass: the ledger, record by record, and the pictures that each `done` names.

Of an item, 16 bytes and two integers are kept; of a picture, eight bytes. What follows damage is not checked.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final
from zlib import crc32

from batchrunner.core.errors import LedgerDamagedError
from batchrunner.core.events import (
    CheckpointMark,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Lost,
    Reformatted,
    Retry,
    Rewritten,
    recorded_files,
)
from batchrunner.core.lifecycle import LIFECYCLE, ItemEvent
from batchrunner.core.state import LedgerState
from batchrunner.core.status import Finding, Level
from batchrunner.core.values import dataclass, field
from batchrunner.stores.batch_files import BatchFolder
from batchrunner.stores.ledger_line import LEDGER, Record, checkpoint_path
from batchrunner.stores.ledger_reader import LedgerReading
from batchrunner.stores.run_file import ANY_RUN

# A table of every kind of finding, and the counters.
#
# Memory does not grow with what is found: each kind keeps its count and its first few places.

_EXAMPLES: Final = 5
_ORDER: Final[tuple[Level, ...]] = ("damage", "odd", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One line of the table."""

    level: Level
    problem: str
    advice: str | None = None


_SALVAGE: Final = (
    "`batchrunner verify DIR --salvage NEW` copies what is undamaged to a new directory and changes nothing here"
)
_PAY_AGAIN: Final = "restore what was removed, or pay again with `batchrunner run JOB --resend-lost`"
_RUN_AGAIN: Final = "the next run repairs it"

KINDS: Final[dict[str, Kind]] = {
    "ledger_damaged": Kind(
        level="damage",
        problem="ledger damaged before its last durable byte; the records after that were not checked",
        advice=_SALVAGE,
    ),
    "ledger_missing": Kind(
        level="damage",
        problem="the ledger, or its newest segment, is missing; only the rows show what is done",
        advice="restore it, or count items with a row as done with `batchrunner run JOB --adopt-rows`",
    ),
    "row_missing": Kind(level="damage", problem="items recorded as done that have no row", advice=_PAY_AGAIN),
    "row_changed": Kind(
        level="damage",
        problem="rows whose checksum differs from the ledger",
        advice=_SALVAGE,
    ),
    "row_unreadable": Kind(level="damage", problem="lines of results.jsonl that are not rows", advice=_SALVAGE),
    "row_unknown": Kind(level="damage", problem="rows of items that are not recorded as done", advice=_SALVAGE),
    "row_repeated": Kind(level="damage", problem="duplicate rows of an item", advice=_SALVAGE),
    "id_repeated": Kind(level="damage", problem="rows whose id is already used by an earlier row", advice=_SALVAGE),
    "row_files": Kind(level="damage", problem="rows whose pictures differ from the ledger", advice=_SALVAGE),
    "file_missing": Kind(level="damage", problem="missing pictures", advice=_PAY_AGAIN),
    "file_changed": Kind(level="damage", problem="pictures whose checksum differs from the ledger", advice=_SALVAGE),
    "picture_broken": Kind(level="damage", problem="pictures that cannot be decoded", advice=_SALVAGE),
    "answer_missing": Kind(
        level="damage", problem="missing answer files (output.each)", advice="the text is in the rows"
    ),
    "answer_changed": Kind(
        level="damage",
        problem="answer files (output.each) that differ from their rows",
        advice="the text is in the rows",
    ),
    "failure_missing": Kind(
        level="damage",
        problem="items recorded as failed that have no row in failures.jsonl",
        advice="the next run restores them from the ledger, without sending anything",
    ),
    "odd_record": Kind(level="odd", problem="out-of-order ledger records (ignored on replay)"),
    "mode_open": Kind(
        level="odd", problem="files with result URLs or the job that other users can read", advice="chmod go-rwx"
    ),
    "run_file_lost": Kind(
        level="odd", problem="run.json is missing or damaged", advice="`batchrunner run JOB` recreates it"
    ),
    "not_plain": Kind(level="odd", problem="symbolic links or special files that batchrunner did not create"),
    "checkpoint_wrong": Kind(
        level="damage",
        problem="a checkpoint in ledger/ contradicts the ledger and might be trusted",
        advice="delete the .checkpoint file (the ledger is read instead) and please report this",
    ),
    "checkpoint_unusable": Kind(
        level="note",
        problem="a damaged checkpoint in ledger/, or one in another format; it is not used",
        advice="it can be deleted; the ledger is read instead",
    ),
    "torn_tail": Kind(level="note", problem="ledger segments whose end was cut off by a crash; nothing depended on it"),
    "torn_rows": Kind(level="note", problem="incomplete rows left by a crash; nothing depended on them"),
    "row_unadopted": Kind(level="note", problem="complete rows that a crash kept out of the ledger", advice=_RUN_AGAIN),
    "results_moved": Kind(
        level="note",
        problem="results.jsonl and its checksums were being rewritten when the process ended",
        advice=_RUN_AGAIN,
    ),
    "id_answered_again": Kind(
        level="note",
        problem="answers to a changed request beside the earlier answer of the same id, left by an interrupted run",
        advice="a run that ends moves the earlier ones to superseded.jsonl",
    ),
    "rows_reshaped": Kind(
        level="note",
        problem="results.jsonl was saved in another form: byte order mark, line endings, blank lines",
        advice=_RUN_AGAIN,
    ),
    "failure_stale": Kind(
        level="note", problem="rows of failures.jsonl whose items are no longer failed", advice=_RUN_AGAIN
    ),
    "superseded_missing": Kind(
        level="note",
        problem="missing rows or pictures of items that are no longer in the job; nothing of the job is missing",
    ),
    "batch_file": Kind(
        level="note",
        problem="result files of batches that are missing or were changed",
        advice="the answers are in results.jsonl; what was not read yet is downloaded again by the next run",
    ),
    "leftover": Kind(level="note", problem="partly written files of a killed process", advice="can be deleted"),
    "stray": Kind(level="note", problem="unexpected files"),
}
"""To find one more thing: a line here, and `add` where it is seen."""


@dataclass(slots=True, kw_only=True)
class FindingList:
    """What was found so far."""

    _counts: dict[str, int] = field(default_factory=dict)
    _examples: dict[str, list[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<FindingList {self._counts}>"

    def add(self, kind: str, example: str) -> None:
        """Count one more finding of a kind in `KINDS`, with its place."""
        assert kind in KINDS, kind
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    @property
    def damaged(self) -> bool:
        """Whether any of it is damage."""
        return any(KINDS[kind].level == "damage" for kind in self._counts)

    def findings(self, *, folder: str = "DIR", command: str | None = None) -> tuple[Finding, ...]:
        """All of it, in the table's order within each level; the advice names this folder and the run's `command`."""
        found = [
            kind for level in _ORDER for kind, line in KINDS.items() if line.level == level and kind in self._counts
        ]
        return tuple(
            Finding(
                kind=kind,
                level=KINDS[kind].level,
                problem=KINDS[kind].problem,
                advice=_pasteable(KINDS[kind].advice, folder=folder, command=command),
                count=self._counts[kind],
                examples=tuple(self._examples[kind]),
            )
            for kind in found
        )


def _pasteable(advice: str | None, *, folder: str, command: str | None) -> str | None:
    if advice is None:
        return None
    there = advice.replace(" verify DIR ", f" verify {shlex.quote(folder)} ")
    return there if command is None else there.replace(ANY_RUN, command)


Named = tuple[str, int, str]
"""(path, size in bytes, sha256) of a picture."""

_SENDS_MAX: Final = 0xFFFF
_ATTEMPTS_MAX: Final = 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a `done` record says about its row."""

    crc: int
    files_crc: int
    length: int
    epoch: int
    found: bool


class Promises:
    """What every `done` promised, one packed integer an item, and whether its row was found."""

    def __init__(self) -> None:
        self._packed: dict[bytes, int] = {}
        self.also: dict[bytes, set[int]] = {}
        """Of items with converted pictures: what their row may name."""
        self.epoch = 0
        """Rewritings of results.jsonl so far: checksums of rows hold until the next one."""

    def __repr__(self) -> str:
        return f"<Promises of {len(self._packed)} items, epoch {self.epoch}>"

    def __len__(self) -> int:
        return len(self._packed)

    def __contains__(self, key: bytes) -> bool:
        return key in self._packed

    def __getitem__(self, key: bytes) -> Promise:
        packed = self._packed[key]
        return Promise(
            found=bool(packed & 1),
            crc=packed >> 1 & 0xFFFFFFFF,
            files_crc=packed >> 33 & 0xFFFFFFFF,
            epoch=packed >> 65 & 0xFFFFFF,
            length=packed >> 89,
        )

    def put(self, key: bytes, done: Done) -> None:
        """Take a `done` that counts."""
        crc = int(done.crc, 16) if done.crc else 0
        self._packed[key] = done.length << 89 | self.epoch << 65 | files_crc(done.files) << 33 | crc << 1

    def forget(self, key: bytes) -> None:
        """The item's answer is lost, and the user pays for another one."""
        self._packed.pop(key, None)
        self.also.pop(key, None)

    def refile(self, key: bytes, files: tuple[Named, ...]) -> None:
        """Its pictures were converted: its row may name the old or the new ones from now on."""
        if key in self._packed:
            self.also.setdefault(key, set()).update({self[key].files_crc, files_crc(files)})

    def mark_found(self, key: bytes) -> bool:
        """Its row is there; True when another one was there before."""
        before = self._packed[key]
        self._packed[key] = before | 1
        return bool(before & 1)

    def missing(self) -> Iterator[bytes]:
        """Keys whose row was not found."""
        return (key for key, packed in self._packed.items() if not packed & 1)


def files_crc(files: tuple[Named, ...]) -> int:
    """One number for the pictures of an item, for comparing."""
    return crc32(repr(recorded_files(files)).encode("utf-8", "surrogatepass")) if files else 0


def path_mark(path: str) -> int:
    """A hash of eight bytes for a path."""
    return int.from_bytes(blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


@dataclass(slots=True, kw_only=True)
class LedgerAudit:
    """Checks the records of a ledger; the result is in its fields."""

    finding_list: FindingList
    look_at: Callable[[str, bytes, tuple[Named, ...]], None]
    """Told of the pictures of each item that is done: (item's id, key, pictures)."""
    state: LedgerState = field(default_factory=LedgerState)
    promises: Promises = field(default_factory=Promises)
    paths: set[int] = field(default_factory=set)
    """Hashes of all paths that a record names."""
    paid_again: Counter[bytes] = field(default_factory=Counter)
    """So many of an item's answers are known to be gone: their pictures are not looked for."""
    whole: bool = True
    """False when damage ended the reading."""
    records: int = 0
    reformatted: dict[bytes, int] = field(default_factory=dict)
    """How many conversions of an item's pictures are still to come: the files of the last one are to be there."""
    kept_state: Callable[[int, CheckpointMark], LedgerState | None] = lambda _segment, _mark: None
    """The checkpoint at the end of a segment; None where there is no usable one."""
    checkpoint: int | None = None
    """The segment whose checkpoint would be used; others do no harm."""
    _segment: int = 0
    _closed: bool = False

    def read(self, reading: LedgerReading) -> None:
        """All of it. Raises StoreBrokenError."""
        try:
            for record in reading:
                self._take(record)
        except LedgerDamagedError as error:
            self.whole = False
            self.finding_list.add("ledger_damaged", f"{Path(error.file).name}: byte {error.offset}: {error.problem}")
        self.state.segment_ended()
        for torn in reading.left_out:
            self.finding_list.add(
                "torn_tail", f"{Path(torn.file).name}: byte {torn.offset}: {torn.bytes} bytes: {torn.problem}"
            )

    def check_batches(self, batch_files: BatchFolder) -> None:
        """Whether the result files of batches are as they were downloaded. Raises StoreBrokenError."""
        for batch in self.state.batches.known.values():
            for file in batch.files:
                if not batch_files.stands(file):
                    self.finding_list.add("batch_file", f"{file[0]} (batch {batch.batch_id})")

    def _take(self, record: Record) -> None:
        self.records += 1
        event = record.event
        if record.segment != self._segment:
            self.state.segment_ended()
            self._segment, self._closed = record.segment, False
        elif self._closed:
            self._odd(record, "after the segment was closed")
        if isinstance(event, ItemEvent):
            self._take_item(record, event)
        elif isinstance(event, Reformatted):
            self._take_reformatted(event)
        elif isinstance(event, Rewritten):
            self.promises.epoch += 1
        elif isinstance(event, Close):
            self._closed = True
            self._check_checkpoint(record.segment, event.checkpoint)
            if event.records != record.sequence + 1:
                self._odd(record, f"it counts {event.records} records but is number {record.sequence + 1}")
        self.state.apply(event, at=record.at)

    def _check_checkpoint(self, segment: int, mark: CheckpointMark | None) -> None:
        if mark is None or segment != self.checkpoint:
            return
        name = checkpoint_path(Path(LEDGER), segment)
        self.state.segment_ended()
        kept = self.kept_state(segment, mark)
        if kept is None:
            self.finding_list.add("checkpoint_unusable", name.as_posix())
        elif not kept.agrees_with(self.state):
            self.finding_list.add("checkpoint_wrong", name.as_posix())

    def _take_item(self, record: Record, event: ItemEvent) -> None:
        key = bytes.fromhex(event.k)
        before = self.state.record(key)
        if (before.item_state, type(event)) not in LIFECYCLE:
            self._odd(record, f"while `{event.i}` is {before.item_state.name.lower()}")
            return
        if isinstance(event, Intent) and event.n != min(before.sends, _SENDS_MAX) + 1:
            self._odd(record, f"send {event.n} of `{event.i}` follows send {before.sends}")
        if isinstance(event, Intent | Retry | Failed | Done) and min(event.a, _ATTEMPTS_MAX) < before.attempts:
            self._odd(record, f"`{event.i}` has {event.a} attempts after {before.attempts}")
        if isinstance(event, Done):
            self.promises.put(key, event)
            self.paths.update(path_mark(path) for path, _, _ in event.files)
            if not self.paid_again[key] and not self.reformatted.get(key):
                self.look_at(event.i, key, event.files)
        elif isinstance(event, Lost):
            self.paid_again[key] -= 1
            self.promises.forget(key)

    def _take_reformatted(self, event: Reformatted) -> None:
        """Its row names the old pictures until results.jsonl is replaced, and a crash may come in between."""
        key = bytes.fromhex(event.k)
        self.promises.refile(key, event.files)
        self.paths.update(path_mark(path) for path in (*(path for path, _, _ in event.files), *event.gone))
        self.reformatted[key] = self.reformatted.get(key, 1) - 1
        if self.reformatted[key] == 0 and not self.paid_again[key]:
            self.look_at(event.i, key, event.files)

    def _odd(self, record: Record, why: str) -> None:
        self.finding_list.add(
            "odd_record", f"segment {record.segment}, record {record.sequence}: `{_name(record.event)}` {why}"
        )


def _name(event: Event) -> str:
    return type(event).__name__.lower()
