"""Compares every row of a run directory with the ledger: what a user or a crash changed since the last run.

One streamed pass over `results.jsonl` and one over `superseded.jsonl`. A done item whose row stands in neither, or
whose picture is not there with its size, is lost; of pictures that were put there or changed since the ledger last
found the directory intact, the checksum is looked at, too. A row of an item that the ledger does not know as done is
adopted: it is paid for. Which place a row has does not matter, nor a byte order mark, carriage returns, or the order of
its fields. Memory grows with what is wrong, not with the rows. Changes nothing.
"""

import errno
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Final
from zlib import crc32

from batchrunner.core.events import Done, Failed, ReplacedBy, Requeued, recorded_files
from batchrunner.core.lifecycle import ItemEvent, ItemState
from batchrunner.core.ports import Place
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field
from batchrunner.stores.files import FAILURES, RESULTS, SUPERSEDED, InspectedFiles, Look, broken
from batchrunner.stores.row_codec import (
    FailureFacts,
    RowFacts,
    crc_of,
    facts_of,
    facts_of_all,
    failure_of,
    row_lines,
    trimmed,
)
from batchrunner.stores.row_forms import FileLine, FileLines, form_at, open_rows, read_pieces

_PIECE_BYTES: Final = 1 << 20
_BATCH_BYTES: Final = 1 << 18
"""Of rows that are looked at in one step."""
RECOVERED: Final = "recovered"
"""Why an item went to another model, where nothing but the row of that one says so."""
_NO_SUCH_NAME: Final = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP})


@dataclass(slots=True, kw_only=True)
class Inspection:
    """What the pass found; `adopted` reads the rows concerned again."""

    folder: Path
    files: InspectedFiles
    rows: int = 0
    changed: int = 0
    """Rows that are not the ones that were recorded; judged after a clean end only."""
    repeated: int = 0
    unreadable: int = 0
    """Lines of results.jsonl that are no rows."""
    reshaped: bool = False
    """An editor put its marks around the rows."""
    set_aside: int = 0
    """Rows of done items that are in superseded.jsonl only."""
    stale: set[int] = field(default_factory=set)
    """Offsets of rows whose picture is missing."""
    outputs: set[str] = field(default_factory=set)
    """Folders at the directory's top that hold pictures and answers."""
    answers: list[tuple[int, int]] = field(default_factory=list)
    """(offset, length) of rows whose answer has no file of its own any more."""
    adopting: set[bytes] = field(default_factory=set)
    """Keys of these rows."""
    places: list[tuple[str, int, int]] = field(default_factory=list)
    """(file, offset, length) of rows that the ledger does not know as done."""

    @property
    def by_hand(self) -> bool:
        """Whether results.jsonl has to be put in order again at the end of the run: also to take rows in again."""
        return self.reshaped or bool(self.repeated) or any(name != RESULTS for name, *_ in self.places)

    def adopted(self, state: LedgerState, *, failures: bool = False) -> Iterator[ItemEvent]:
        """What has to be recorded, so that what has a row is not paid again; `failures`: also for failures.jsonl.

        Raises StoreBrokenError.
        """
        try:
            for name, offset, length in self.places:
                yield from _adoption(state, *self._row(name, offset, length))
            if failures:
                yield from _failures(self.files, self.folder / FAILURES, state)
        except OSError as error:
            raise broken(self.folder, error, sending=False) from error

    def _row(self, name: str, offset: int, length: int) -> tuple[RowFacts, Place]:
        descriptor = open_rows(self.files, self.folder / name)
        try:
            text = self.files.read_at(descriptor, length, offset)
        finally:
            self.files.close(descriptor)
        facts = facts_of(text)
        assert facts is not None, "it was read as a row just now"
        return facts, Place(crc=crc_of(text), length=offset + length + 1 if name == RESULTS else 0)


def inspect(files: InspectedFiles, folder: Path, state: LedgerState) -> Inspection:
    """Look at every row; `state.lost` has the lost items afterwards. Blocks. Raises StoreBrokenError."""
    inspector = _Inspector(state=state, found=Inspection(folder=folder, files=files))
    try:
        inspector.results()
        inspector.set_aside()
    except OSError as error:
        raise broken(folder, error, sending=False) from error
    state.lost = state.take_unseen()
    return inspector.found


@dataclass(slots=True, kw_only=True)
class _Inspector:
    state: LedgerState
    found: Inspection
    _intact_ns: int = field(init=False)
    _copied: set[bytes] = field(default_factory=set)
    """Keys of shared copies: they replace a lost original."""

    def __post_init__(self) -> None:
        self._intact_ns = int(self.state.intact_at * 1e9)

    def results(self) -> None:
        found = self.found
        found.reshaped = form_at(found.files, found.folder / RESULTS) is not None
        for piece in read_pieces(found.files, found.folder / RESULTS, size_bytes=_BATCH_BYTES):
            made = facts_of_all(piece.texts)
            if made is None:
                self._lines(piece.lines())
            else:
                found.rows += len(piece.texts)
                self._rows(piece, *made)
        for key in self._copied:
            if self.state.item_state(key) is ItemState.DONE:
                self.state.see(key)

    def _lines(self, lines: Iterator[FileLine]) -> None:
        """Those of results.jsonl among which one is unusual, one by one."""
        found = self.found
        for raw in lines:
            line = trimmed(raw)
            found.reshaped |= line is not raw or not line.text
            if not line.text or line.text.isspace():
                continue
            facts = facts_of(line.text)
            if facts is None:
                found.unreadable += line.whole
                continue
            found.rows += 1
            self._row(line, facts, bytes.fromhex(facts.key))

    def _rows(self, piece: FileLines, rows: list[RowFacts], keys: list[bytes]) -> None:
        """Usual ones at once: without files, and the first of their done items."""
        state, found = self.state, self.found
        numbers = state.table.find_all(keys)
        places = [0 if row.has_more else number for row, number in zip(rows, numbers, strict=True)]
        usual = state.see_first_all(places)
        if state.closed and not state.torn:
            for first, number, text in zip(usual, places, piece.texts, strict=True):
                if first and (crc := state.crc_of(number)) is not None:
                    found.changed += crc != crc32(text)
        if not all(usual):
            for first, line, row, key in zip(usual, piece.lines(), rows, keys, strict=True):
                if not first:
                    self._row(line, row, key)

    def _row(self, line: FileLine, facts: RowFacts, key: bytes) -> None:
        found = self.found
        if not self._has_pictures(facts):
            found.stale.add(line.offset)
            return
        self._answer(line, facts)
        done = self.state.item_state(key) is ItemState.DONE
        if facts.shared_with is not None:
            self._copied.add(key)
        elif not done:
            self._adopt(key, RESULTS, line)
        elif not self.state.see(key):
            found.repeated += 1
        elif self.state.closed and not self.state.torn and (crc := self.state.crc(key)) is not None:
            found.changed += crc != int(crc_of(line.text), 16)

    def set_aside(self) -> None:
        found = self.found
        for line in row_lines(found.files, found.folder / SUPERSEDED):
            facts = facts_of(line.text)
            if facts is None or not self._has_pictures(facts):
                continue
            key = bytes.fromhex(facts.key)
            if self.state.item_state(key) is not ItemState.DONE:
                self._adopt(key, SUPERSEDED, line)
            else:
                found.set_aside += self.state.see(key)

    def _adopt(self, key: bytes, name: str, line: FileLine) -> None:
        if key not in self.found.adopting:
            self.found.adopting.add(key)
            self.found.places.append((name, line.offset, len(line.text)))
        elif name == RESULTS:
            self.found.repeated += 1

    def _has_pictures(self, facts: RowFacts) -> bool:
        for path, size_bytes, recorded in facts.files:
            self._note_output(path)
            there = self._look(path)
            if there is None or there.size_bytes != size_bytes:
                return False
            if there.ctime_ns > self._intact_ns and self._sha256_of(path) != recorded:
                return False
        return True

    def _answer(self, line: FileLine, facts: RowFacts) -> None:
        path = facts.output.path
        if path is not None:
            self._note_output(path)
            if self._look(path) is None:
                self.found.answers.append((line.offset, len(line.text)))

    def _note_output(self, path: str) -> None:
        top, slash, _ = path.partition("/")
        if slash and top not in {"", ".", ".."}:
            self.found.outputs.add(top)

    def _sha256_of(self, path: str) -> str:
        digest, offset = sha256(), 0
        descriptor = self.found.files.open_read(self.found.folder / path)
        try:
            while piece := self.found.files.read_at(descriptor, _PIECE_BYTES, offset):
                digest.update(piece)
                offset += len(piece)
        finally:
            self.found.files.close(descriptor)
        return digest.hexdigest()

    def _look(self, path: str) -> Look | None:
        """A plain file below the folder; None where there is none, and for a name that no disk takes."""
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\0" in path:
            return None
        try:
            there = self.found.files.look(self.found.folder / path)
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                return None
            raise
        return there if there is not None and there.kind == "file" else None


def _adoption(state: LedgerState, facts: RowFacts, place: Place) -> Iterator[ItemEvent]:
    """A `done` for a row that reached the disk before its process died, or whose ledger is missing.

    Its item may be unknown to the ledger: a power loss may take intents that were not synced, and the row is paid for.
    """
    record = state.record(bytes.fromhex(facts.key))
    if record.item_state is ItemState.DONE:
        return
    if record.item_state is ItemState.FAILED:
        yield Requeued(i=facts.id, k=facts.key)
    yield from _replaced(state, facts)
    usage, reused = facts.usage if facts.reused is None else None, facts.reused is not None
    yield Done(
        i=facts.id,
        k=facts.key,
        n=record.sends if reused else max(1, record.sends),
        a=max(facts.attempts, 0 if record.item_state is ItemState.FAILED else record.attempts),
        crc=place.crc,
        length=place.length,
        files=recorded_files(facts.files),
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        cache_read=None if usage is None else usage.cache_read_tokens,
        cache_write=None if usage is None else usage.cache_write_tokens,
        images=0 if reused else len(facts.output.images),
        recovered=True,
        reused=reused,
    )


def _replaced(state: LedgerState, facts: RowFacts | FailureFacts) -> Iterator[ItemEvent]:
    """The ledger is gone, and a row alone says that its model was asked in place of others."""
    for before, key in pairwise((*facts.fallback_keys, facts.key)):
        stood = state.record(bytes.fromhex(before))
        if stood.item_state is ItemState.PENDING:
            yield ReplacedBy(
                i=facts.fallback_of or facts.id,
                k=before,
                n=stood.sends,
                a=stood.attempts,
                by=key,
                model=facts.model if key == facts.key else "",
                kind=RECOVERED,
                message="a row of the other model was found",
            )


def _failures(files: InspectedFiles, path: Path, state: LedgerState) -> Iterator[ItemEvent]:
    """Items that failed permanently and are recorded nowhere else."""
    seen = set[str]()
    for line in row_lines(files, path):
        failure = failure_of(line.text)
        if failure is None or failure.key in seen:
            continue
        seen.add(failure.key)
        record = state.record(bytes.fromhex(failure.key))
        if record.item_state is ItemState.PENDING:
            yield from _replaced(state, failure)
            yield Failed(
                i=failure.id,
                k=failure.key,
                n=max(1, record.sends),
                a=failure.attempts,
                kind=str(failure.error.get("class")),
                message=str(failure.error.get("message"))[:2000],
            )
