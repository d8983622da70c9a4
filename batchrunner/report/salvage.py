"""Copies what is undamaged of a run into a new directory: rows, pictures, answers, and a ledger that matches them.

The old directory is read only. What was known as done and lost its answer is written down as sent and lost: it is sent
again and counted as a possible duplicate; pictures whose task is known are fetched again instead. Refuses a directory
that holds anything. `run.json` comes last, so that half a salvage is no run.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from batchrunner.core import VERSION
from batchrunner.core.errors import WrongDirectoryError
from batchrunner.core.events import (
    FORMAT_VERSION,
    Done,
    Intent,
    Lost,
    Open,
    Reformatted,
    Requeued,
    Rewritten,
    recorded_files,
    with_files,
)
from batchrunner.core.item import is_address
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.ports import Place
from batchrunner.core.state import LedgerState
from batchrunner.core.status import Salvaged
from batchrunner.core.values import dataclass, field
from batchrunner.report.audit import audit, run_file_of
from batchrunner.report.audit_files import fault_of
from batchrunner.report.audit_ledger import Named, Promises, files_crc
from batchrunner.stores.artifacts import pieces_of
from batchrunner.stores.files import (
    DISK,
    FAILURES,
    PRIVATE_FOLDER,
    RESULTS,
    SHARED_FILE,
    SHARED_FOLDER,
    SUPERSEDED,
    SUPERSEDED_FAILURES,
    InspectedFiles,
    broken,
    place_whole,
    write_all,
    write_pieces,
)
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_salvage import IntactLines, KeptRecord, LedgerRebuilder, SegmentCopy
from batchrunner.stores.row_codec import FailureFacts, RowFacts, crc_of, facts_of, failure_of, name_and_id_of
from batchrunner.stores.row_forms import read_lines
from batchrunner.stores.run_file import make_run_folder, write_run_file

LABELS = "salvaged"
"""No plan's digest: the next run puts rows in order and gives them their present labels."""


def salvage_into(old: Path, new: Path, *, files: InspectedFiles = DISK) -> Salvaged:
    """See the module. The caller keeps writers out of the old directory.

    Raises:
        WrongDirectoryError: `new` holds something, or `old` is no run.
        LedgerDamagedError: the ledger was written by a later program.
        StoreBrokenError: the disk refused.
    """
    run = run_file_of(old, files=files)
    if is_address(str(new)):
        raise WrongDirectoryError(f"{new}: is a URL; give a new local directory with --salvage")
    try:
        if files.exists(new) and files.names(new):
            raise WrongDirectoryError(f"{new}: is not empty; give a new directory with --salvage")
        make_run_folder(new, files=files)
        salvage = Salvage(old=old, new=new, files=files)
        salvage.read_ledger()
        salvage.copy_rows()
        salvage.copy_failures()
        salvage.write_ledger(job=run.digest)
        salvage.sync_folders()
        write_run_file(new, run.with_another_ledger(), files=files)
    except NotADirectoryError as error:
        raise WrongDirectoryError(f"{new}: is not a directory; give a new one with --salvage") from error
    except OSError as error:
        raise broken(new, error, sending=False) from error
    # rows of failures that are gone are made again by the next run, from this ledger
    found = audit(new, files=files).findings
    return salvage.result(sound=all(each.level != "damage" or each.kind == "failure_missing" for each in found))


@dataclass(slots=True, kw_only=True)
class Salvage:
    """The steps, in order. Of an item, 16 bytes and a few integers are kept."""

    old: Path
    new: Path
    files: InspectedFiles
    _promises: Promises = field(default_factory=Promises)
    _places: dict[bytes, int] = field(default_factory=dict)
    """Key to length << 32 | crc of its row in the new directory."""
    _ids: set[bytes] = field(default_factory=set)
    _failed: set[bytes] = field(default_factory=set)
    """Failed items whose row was not found yet."""
    _only_rows: dict[bytes, FailureFacts] = field(default_factory=dict)
    """Items with a row in failures.jsonl whose `failed` record is lost."""
    _before: LedgerState = field(default_factory=LedgerState)
    """What the old ledger knows."""
    _asked_again: set[bytes] = field(default_factory=set)
    """Failed items that were requeued by the user and not sent yet."""
    _folders: set[Path] = field(default_factory=set)
    _converted: dict[bytes, tuple[Named, ...]] = field(default_factory=dict)
    """The pictures of items whose pictures were converted, as their row names them: so their `done` names them here."""
    _stretches: int = 0
    _records: int = 0
    _rows: int = 0
    _pictures: int = 0
    _answers: int = 0
    _rebuilder: LedgerRebuilder | None = None

    # -- what the ledger promised

    def read_ledger(self) -> None:
        """Which rows to expect, and who has failed."""
        reading = self._lines()
        rebuilder = LedgerRebuilder(place_of=lambda _: Place(crc="", length=0))
        segment = 0
        for kept in reading:
            if kept.segment != segment:
                rebuilder.segment_ended()
                segment = kept.segment
            self._promises.epoch += isinstance(kept.event, Rewritten)
            if isinstance(kept.event, Done) and bytes.fromhex(kept.event.k) not in self._promises:
                self._promises.put(bytes.fromhex(kept.event.k), kept.event)
            if isinstance(kept.event, Reformatted):
                self._promises.refile(bytes.fromhex(kept.event.k), kept.event.files)
            if isinstance(kept.event, Lost):
                self._promises.forget(bytes.fromhex(kept.event.k))
            if isinstance(kept.event, Requeued):
                self._asked_again.add(bytes.fromhex(kept.event.k))
            elif self._asked_again and isinstance(kept.event, Intent):
                self._asked_again.discard(bytes.fromhex(kept.event.k))
            rebuilder.rebuilt(kept.event, at=kept.at)
        rebuilder.segment_ended()
        self._stretches, self._before = reading.stretches, rebuilder.state
        self._failed = {key for key, item_state in rebuilder.state.item_states() if item_state is ItemState.FAILED}

    # -- rows and what they name

    def copy_rows(self) -> None:
        """Sound rows with sound pictures, in the old files' order; each one's answer file is made from its row."""
        self._copy_lines(RESULTS)
        self._copy_lines(SUPERSEDED)

    def _copy_lines(self, name: str) -> None:
        if not self.files.exists(self.old / name):
            return
        descriptor = self.files.open_new(self.new / name, SHARED_FILE)
        try:
            length = 0
            for text, facts in self._intact_rows(name):
                write_all(self.files, descriptor, text + b"\n")
                length += len(text) + 1
                self._rows += 1
                if facts.shared_with is None:
                    shown = length if name == RESULTS else 0
                    self._places[bytes.fromhex(facts.key)] = shown << 32 | int(crc_of(text), 16)
            self.files.fsync(descriptor)
        finally:
            self.files.close(descriptor)

    def _intact_rows(self, name: str) -> Iterator[tuple[bytes, RowFacts]]:
        for line in read_lines(self.files, self.old / name):
            facts = facts_of(line.text) if line.whole else None
            if facts is None:
                continue
            key = bytes.fromhex(facts.key)
            mark = hashlib.blake2b(facts.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if facts.shared_with is not None:
                wanted = key in self._places and mark not in self._ids
            else:
                wanted = key not in self._places and mark not in self._ids and self._is_intact(line.text, facts, key)
            if wanted:
                if name == RESULTS:
                    self._ids.add(mark)
                    self._copy_answer(facts)
                yield line.text, facts

    def _is_intact(self, text: bytes, facts: RowFacts, key: bytes) -> bool:
        pictures = facts.files
        if key in self._promises:
            promise = self._promises[key]
            if files_crc(pictures) not in self._promises.also.get(key, {promise.files_crc}):
                return False
            if promise.epoch == self._promises.epoch and promise.crc != int(crc_of(text), 16):
                return False
        if any(fault_of(self.files, self.old, picture) is not None for picture in pictures):
            return False
        for path, _, _ in pictures:
            self._copy(path)
            self._pictures += 1
        if key in self._promises.also:
            self._converted[key] = recorded_files(pictures)
        return True

    def _copy_answer(self, facts: RowFacts) -> None:
        path = facts.output.path
        if path is not None and _is_below(path):
            self._put(path, facts.output.text.encode())
            self._answers += 1

    def copy_failures(self) -> None:
        """Rows of items that are failed."""
        self._copy_failures(FAILURES)
        self._copy_failures(SUPERSEDED_FAILURES)

    def _copy_failures(self, name_of_file: str) -> None:
        if not self.files.exists(self.old / name_of_file):
            return
        descriptor = self.files.open_new(self.new / name_of_file, SHARED_FILE)
        try:
            failed = set(self._failed)
            for line in read_lines(self.files, self.old / name_of_file):
                name = name_and_id_of(line.text) if line.whole else None
                if name is None or name[0] in self._places:
                    continue
                if name[0] in failed:
                    self._failed.discard(name[0])
                elif name_of_file != FAILURES or not self._is_only_a_row(name[0], line.text):
                    continue
                write_all(self.files, descriptor, line.text + b"\n")
            self.files.fsync(descriptor)
        finally:
            self.files.close(descriptor)

    def _is_only_a_row(self, key: bytes, text: bytes) -> bool:
        """Whether this row replaces a lost `failed` record: its item failed and was not requeued."""
        failure = failure_of(text)
        if failure is None or key in self._asked_again or self._before.item_state(key) is not ItemState.PENDING:
            return False
        self._only_rows[key] = failure
        return True

    # -- the new ledger

    def write_ledger(self, *, job: str) -> None:
        """Every old segment anew; then what the old ledger had lost."""
        self.files.make_folder(self.new / LEDGER, PRIVATE_FOLDER)
        rebuilder = self._rebuilder = LedgerRebuilder(place_of=self._place_of)
        copy: SegmentCopy | None = None
        segment, number, at = 0, 0, 0.0
        for kept in self._lines():
            if copy is None or kept.segment != segment:
                if copy is not None:
                    self._end(copy, rebuilder, at=at)
                segment, number = kept.segment, number + 1
                copy = self._begin(number, kept, job=job)
            at = kept.at
            for event in rebuilder.rebuilt(kept.event, at=at):
                if isinstance(event, Done) and (files := self._converted.get(bytes.fromhex(event.k))):
                    copy.add(with_files(event, files), at=at)
                elif not isinstance(event, Reformatted):
                    copy.add(event, at=at)
        if copy is None:
            copy = self._begin(1, None, job=job)
        self._add_what_was_lost(copy, rebuilder, at=at)
        self._end(copy, rebuilder, at=at)
        self.files.fsync_folder(self.new / LEDGER)

    def _begin(self, number: int, kept: KeptRecord | None, *, job: str) -> SegmentCopy:
        opened = kept.event if kept is not None and isinstance(kept.event, Open) else None
        event = Open(
            version=opened.version if opened is not None else FORMAT_VERSION,
            run=opened.run if opened is not None else LABELS,
            segment=number,
            job=opened.job if opened is not None else job,
            program=opened.program if opened is not None else VERSION,
            labels=LABELS,
            name=opened.name if opened is not None else "",
            simulated=opened.simulated if opened is not None else None,
            resends=opened is not None and opened.resends,
        )
        return SegmentCopy(self.files, self.new / LEDGER, event, at=kept.at if kept is not None else 0.0)

    def _end(self, copy: SegmentCopy, rebuilder: LedgerRebuilder, *, at: float) -> None:
        with copy:
            copy.end(at=at)
        rebuilder.segment_ended()
        self._records += copy.records

    def _add_what_was_lost(self, copy: SegmentCopy, rebuilder: LedgerRebuilder, *, at: float) -> None:
        for name in (RESULTS, SUPERSEDED):
            for line in read_lines(self.files, self.new / name):
                facts = facts_of(line.text)
                assert facts is not None, "it was copied as a row"
                key = bytes.fromhex(facts.key)
                place = self._place_of(key)
                if place is not None and rebuilder.state.item_state(key) is not ItemState.DONE:
                    for event in rebuilder.adopted(_done(facts, place), at=at):
                        copy.add(event, at=at)
        for key, failure in self._only_rows.items():
            for event in rebuilder.failed(key, failure, at=at):
                copy.add(event, at=at)

    def sync_folders(self) -> None:
        """Names of all copies."""
        for folder in (*self._folders, self.new):
            self.files.fsync_folder(folder)

    def result(self, *, sound: bool) -> Salvaged:
        """What came of it."""
        assert self._rebuilder is not None, "the ledger was written"
        return Salvaged(
            dir=str(self.new),
            records=self._records,
            records_lost=self._stretches,
            rows=self._rows,
            rows_lost=self._rebuilder.sent_again,
            fetched_again=self._rebuilder.fetched_again,
            pictures=self._pictures,
            answer_files=self._answers,
            sound=sound,
        )

    # -- pieces

    def _lines(self) -> IntactLines:
        return IntactLines(folder=self.old / LEDGER, files=self.files)

    def _place_of(self, key: bytes) -> Place | None:
        packed = self._places.get(key)
        return None if packed is None else Place(crc=f"{packed & 0xFFFFFFFF:08x}", length=packed >> 32)

    def _copy(self, path: str) -> None:
        """A file that was looked at just now, piece by piece: a video may be larger than memory."""
        descriptor = self.files.open_read(self.old / path)
        try:
            write_pieces(self.files, self._target(path), pieces_of(self.files, descriptor), SHARED_FILE)
        finally:
            self.files.close(descriptor)

    def _put(self, path: str, data: bytes) -> None:
        place_whole(self.files, self._target(path), data, SHARED_FILE)

    def _target(self, path: str) -> Path:
        target, here = self.new / path, self.new
        if target.parent not in self._folders:
            for part in PurePosixPath(path).parent.parts:
                here /= part
                self.files.make_folder(here, SHARED_FOLDER)
                self._folders.update((here, here.parent))
        return target


def _is_below(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and bool(pure.parts)


def _done(facts: RowFacts, place: Place) -> Done:
    usage, reused = facts.usage if facts.reused is None else None, facts.reused is not None
    files = facts.files
    return Done(
        i=facts.id,
        k=facts.key,
        n=0 if reused else 1,
        a=facts.attempts,
        crc=place.crc,
        length=place.length,
        files=recorded_files(files),
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        cache_read=None if usage is None else usage.cache_read_tokens,
        cache_write=None if usage is None else usage.cache_write_tokens,
        images=0 if reused else len(files),
        recovered=True,
        reused=reused,
    )
