"""What can still be read of a damaged ledger, and how it is written down anew.

`sound_lines` gives every record whose checksum is right, wherever it is; `LedgerRebuilder` makes of them a ledger
that the
lifecycle allows: what follows from a lost record is put back (an intent whose `accepted` is there must have been),
what contradicts is left out. Refuses to invent an answer, and to read a format of a later version.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias, get_args

import msgspec

from batchrunner.core.errors import LedgerDamagedError
from batchrunner.core.events import (
    FORMAT_VERSION,
    READABLE_VERSIONS,
    Accepted,
    CheckpointMark,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Lost,
    Open,
    Ready,
    Refused,
    ReplacedBy,
    Requeued,
    Retry,
    Rewritten,
)
from batchrunner.core.lifecycle import LIFECYCLE, ItemEvent, ItemState
from batchrunner.core.ports import Place
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field
from batchrunner.stores.files import PRIVATE_FILE, Files, Marks, write_all
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.ledger_line import MAX_LINE_BYTES, is_intact, segment_numbers, segment_path
from batchrunner.stores.ledger_reader import fault_of
from batchrunner.stores.row_codec import UNREADABLE, FailureFacts
from batchrunner.stores.row_forms import read_lines

# Writes ledger segments anew, in one go, with valid checksums. For salvage; a run writes with `LedgerWriter`.

_BATCH_BYTES = 1 << 20


SegmentLeft: TypeAlias = tuple[Marks | None, CheckpointMark | None]
"""What the end of a segment says of its directory, and of the checkpoint beside it."""


class SegmentCopy:
    """One segment of a new ledger; a context manager that makes it durable. Raises OSError."""

    def __init__(self, files: Files, folder: Path, opened: Open, *, at: float) -> None:
        self._files = files
        self._descriptor = files.open_new(segment_path(folder, opened.segment), PRIVATE_FILE)
        self._buffer = bytearray()
        self._durable = 0
        self.records = 0
        self.add(opened, at=at)

    def __repr__(self) -> str:
        return f"<SegmentCopy records={self.records} durable={self._durable}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._files.close(self._descriptor)

    def add(self, event: Event, *, at: float) -> None:
        """The next record; the first of each batch states what is durable."""
        durable = None if self._buffer else self._durable
        self._buffer += encode_line(event, sequence=self.records, at=at, durable=durable)
        self.records += 1
        if len(self._buffer) >= _BATCH_BYTES:
            self._flush()

    def end(self, *, at: float, left: Callable[[], SegmentLeft] | None = None) -> CheckpointMark | None:
        """The clean end; everything before it is durable first, so that damage to it can be detected.

        `left` is called then; it says how the directory stands, and makes the checkpoint of the state up to here, whose
        mark is returned.
        """
        self._flush()
        marks, checkpoint = left() if left is not None else (None, None)
        files, folders = (None, ()) if marks is None else (marks.files, marks.folders)
        self.add(Close(records=self.records + 1, files=files, folders=folders, checkpoint=checkpoint), at=at)
        return checkpoint

    def _flush(self) -> None:
        if self._buffer:
            write_all(self._files, self._descriptor, bytes(self._buffer))
            self._files.fsync(self._descriptor)
            self._durable += len(self._buffer)
            self._buffer.clear()


KIND = "salvage"
"""The reason in a record that was restored."""

MESSAGE_MAX = 2000
"""The most characters of a failure's message in the ledger."""
_KNOWN = frozenset(kind.__struct_config__.tag for kind in get_args(Event))
Numbered = Intent | Refused | Accepted | Retry | Failed | ReplacedBy | Done


_ENDED = frozenset({ItemState.FAILED, ItemState.REPLACED})
"""Only who wants them once more has them sent again."""


class _SalvageEnvelope(msgspec.Struct, gc=False):
    s: int
    t: float
    e: str
    version: int = FORMAT_VERSION


_decode_envelope = msgspec.json.Decoder(_SalvageEnvelope).decode
_decode_event = msgspec.json.Decoder(Event).decode


class KeptRecord(NamedTuple):
    """A readable record. Unknown events of later programs are left out."""

    segment: int
    at: float
    event: Event


@dataclass(slots=True, kw_only=True)
class IntactLines:
    """Iterate it for the records; `stretches` then is how often something was lost between them."""

    folder: Path
    files: Files
    stretches: int = 0

    def __iter__(self) -> Iterator[KeptRecord]:
        self.stretches = 0
        names = self.files.names(self.folder) if self.files.exists(self.folder) else []
        numbers = segment_numbers(names)
        self.stretches += max(numbers, default=0) - len(numbers)
        for number in numbers:
            yield from self._segment(number)

    def _segment(self, number: int) -> Iterator[KeptRecord]:
        path = segment_path(self.folder, number)
        expected, damaged = 0, False
        for line in read_lines(self.files, path, longest_bytes=MAX_LINE_BYTES):
            text = line.text.removesuffix(b"\r")
            kept = _kept(path, number, text) if line.whole and is_intact(text) else None
            if kept is None:
                self.stretches += not damaged
                damaged = True
                continue
            sequence, record = kept
            self.stretches += sequence != expected and not damaged
            expected, damaged = sequence + 1, False
            if record is not None:
                yield record


def _kept(path: Path, number: int, text: bytes) -> tuple[int, KeptRecord | None] | None:
    """(sequence, record) of an intact line; None if it is not understood."""
    try:
        envelope = _decode_envelope(text)
        if envelope.e == "open" and envelope.version not in READABLE_VERSIONS:
            problem = (
                f"has format version {envelope.version}; this batchrunner reads versions up to {max(READABLE_VERSIONS)}"
            )
            raise LedgerDamagedError(file=str(path), offset=0, problem=problem)
        if envelope.e not in _KNOWN:
            return envelope.s, None
        event: Event = _decode_event(text)
        if fault_of(event) or not text.isascii():
            return None
        encode_line(event, sequence=0, at=envelope.t, durable=None)
    except (*UNREADABLE, ValueError):
        return None
    return envelope.s, KeptRecord(number, envelope.t, event)


@dataclass(slots=True, kw_only=True)
class LedgerRebuilder:
    """Feed it the records of a ledger in order; it gives what is to be written instead, and knows where that leads.

    `place_of` gives the position of an item's row in the new directory; None when its answer is lost.
    """

    place_of: Callable[[bytes], Place | None]
    state: LedgerState = field(default_factory=LedgerState)
    fetched_again: int = 0
    sent_again: int = 0
    _lane: tuple[str, str] = ("", "")

    def rebuilt(self, event: Event, *, at: float) -> list[Event]:
        """The events that take this one's place, none where it contradicts. `Open`, `Close` are the writer's."""
        if isinstance(event, Open | Close | Rewritten):
            return []
        if not isinstance(event, ItemEvent):
            self.state.apply(event, at=at)
            return [event]
        if isinstance(event, Intent | Accepted):
            self._lane = event.model, event.account
        written: list[Event] = []
        for step in self._with_what_was_lost(event):
            if (item_state_before(self.state, step), type(step)) in LIFECYCLE:
                self.state.apply(step, at=at)
                written.append(step)
        return written

    def segment_ended(self) -> None:
        """As `LedgerState` has it."""
        self.state.segment_ended()

    def adopted(self, done: Done, *, at: float) -> list[Event]:
        """A row whose `done` is lost."""
        item_state = item_state_before(self.state, done)
        before: list[Event] = [Requeued(i=done.i, k=done.k)] if item_state is ItemState.FAILED else []
        record = self.state.record(bytes.fromhex(done.k))
        a = done.a if before else max(done.a, record.attempts)
        events = [*before, msgspec.structs.replace(done, n=max(done.n, record.sends), a=a)]
        for event in events:
            self.state.apply(event, at=at)
        return events

    def failed(self, key: bytes, failure: FailureFacts, *, at: float) -> list[Event]:
        """An item with a row in failures.jsonl whose `failed` record is lost."""
        record = self.state.record(key)
        if record.item_state not in {ItemState.PENDING, ItemState.SENDING}:
            return []
        event = Failed(
            i=failure.id,
            k=failure.key,
            n=max(1, record.sends),
            a=failure.attempts,
            kind=str(failure.error.get("class")),
            message=str(failure.error.get("message"))[:MESSAGE_MAX],
        )
        return self.rebuilt(event, at=at)

    # -- what must have been between two records

    def _with_what_was_lost(self, event: ItemEvent) -> Iterator[ItemEvent]:
        key = bytes.fromhex(event.k)
        item_state = self.state.item_state(key)
        if item_state is ItemState.DONE and not isinstance(event, Lost):
            return
        if item_state in _ENDED and isinstance(event, Numbered) and event.n > self.state.record(key).sends:
            yield Requeued(i=event.i, k=event.k)
        if isinstance(event, Ready):
            yield from self._ready(key, event)
        elif isinstance(event, Numbered):
            yield from self._numbered(key, event)
        else:
            yield event

    def _ready(self, key: bytes, event: Ready) -> Iterator[ItemEvent]:
        if self.state.item_state(key) is ItemState.SENDING:
            record = self.state.record(key)
            model, account = self._lane
            yield Accepted(
                i=event.i, k=event.k, n=record.sends, a=record.attempts, task="", model=model, account=account
            )
        yield event

    def _numbered(self, key: bytes, event: Numbered) -> Iterator[ItemEvent]:
        record = self.state.record(key)
        new_send = event.n > record.sends
        if isinstance(event, Intent) and not new_send:
            return  # a second time the same
        if new_send and record.item_state is ItemState.ACCEPTED:
            a = max(record.attempts, min(event.a, record.attempts + 1))
            yield Retry(i=event.i, k=event.k, n=record.sends, a=a, kind=KIND)
        last = event.n if isinstance(event, Intent) else event.n + 1
        for number in range(record.sends + 1, last):
            yield self._intent(event, number)
        attempts = self.state.record(key).attempts
        moved = msgspec.structs.replace(event, a=max(event.a, attempts))
        if isinstance(moved, Done):
            yield from self._done(key, moved)
        else:
            yield moved

    def _intent(self, event: Numbered, number: int) -> Intent:
        attempts = self.state.record(bytes.fromhex(event.k)).attempts
        model, account = self._lane
        return Intent(i=event.i, k=event.k, n=number, a=attempts, model=model, account=account)

    def _done(self, key: bytes, event: Done) -> Iterator[ItemEvent]:
        place = self.place_of(key)
        if place is not None:
            yield msgspec.structs.replace(event, crc=place.crc, length=place.length)
            return
        item_state = self.state.item_state(key)
        if item_state is ItemState.ACCEPTED:
            self.fetched_again += 1  # its task, and where its pictures lie, are known
            return
        self.sent_again += 1
        if item_state is ItemState.SENDING:
            attempts = self.state.record(key).attempts
            yield Retry(i=event.i, k=event.k, n=event.n, a=attempts, kind=KIND, ambiguous=True)


def item_state_before(state: LedgerState, event: ItemEvent) -> ItemState:
    """The state of the event's item."""
    return state.item_state(bytes.fromhex(event.k))
