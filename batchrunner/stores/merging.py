"""Merges the shards of a job into the directory of the whole job: rows in its order, pictures, one ledger.

The steps, each of which may be done again after a crash: close the shards · read every ledger, find the rows that
count · link pictures and other files · write the rows and the ledger beside those that are there, then put them in
their places · run.json · merged.json. Until the last step the shards are not merged, and nothing in their directories
is ever changed. Refuses to merge while a process works on a shard, a damaged ledger, and two files of one name.
"""

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from batchrunner.core import VERSION
from batchrunner.core.errors import JobMistakesError, LockHeldError, Mistake, StoreBrokenError, WrongDirectoryError
from batchrunner.core.events import Done
from batchrunner.core.lifecycle import ITEM_STATE, ItemEvent, ItemState
from batchrunner.core.part import Shard
from batchrunner.core.state import LedgerState
from batchrunner.core.status import MergeResult
from batchrunner.core.values import dataclass, field
from batchrunner.stores.batch_files import BATCHES
from batchrunner.stores.checkpoint import segment_mark
from batchrunner.stores.control_folder import CONTROL
from batchrunner.stores.export_files import EXPORTS
from batchrunner.stores.files import (
    DISK,
    FAILURES,
    PRIVATE_FOLDER,
    RESULTS,
    SHARED_FILE,
    SHARED_FOLDER,
    SUPERSEDED,
    SUPERSEDED_FAILURES,
    broken,
    is_left_over,
    open_beside,
    stands_as_marked,
    write_all,
)
from batchrunner.stores.inspection import inspect
from batchrunner.stores.ledger_line import LEDGER, MAX_LINE_BYTES, segment_path
from batchrunner.stores.ledger_reader import SegmentEnd, read_ledger
from batchrunner.stores.ledger_replay import refuse_missing_ledger, replay_into
from batchrunner.stores.lock import RunLock, holder_of
from batchrunner.stores.merged_ledger import MergedLedger, renamed
from batchrunner.stores.merged_memory import JoinedState, merged_run_file, state_at_its_end
from batchrunner.stores.merged_rows import KnownAnswers, MergedRows, RowLabels, inode_of, places_in
from batchrunner.stores.row_codec import key_and_index_of, row_lines
from batchrunner.stores.row_forms import open_rows
from batchrunner.stores.run_directory import segment_left
from batchrunner.stores.run_file import RUN_FILE, SHARDS, RunFile, read_run_file, write_run_file
from batchrunner.stores.shards import (
    Merged,
    all_shards,
    are_equal,
    came_late,
    epochs_of,
    forget_merged,
    is_over,
    ledger_sizes,
    link_or_copy,
    read_layout,
    read_merged,
    stands_as_merged,
    write_merged,
)

_NEW_LEDGER: Final = "merging.ledger"
_OLD_LEDGER: Final = "merged.ledger"
"""Below `SHARDS`, while a ledger takes the place of one that an earlier merge has made."""
_LEFT: Final = frozenset({LEDGER, CONTROL, EXPORTS, SHARDS, "thumbs", "report", "judge"})
"""Folders of a shard that belong to its own run."""
_ENDED: Final = frozenset({ItemState.DONE, ItemState.FAILED, ItemState.REPLACED})
_BUFFER_BYTES: Final = 1 << 20


@dataclass(slots=True, kw_only=True)
class _Run:
    """A run directory of a shard, as far as it is needed until the end."""

    folder: Path
    name: str
    """`0-of-4/epoch-1`."""
    file: RunFile
    ends: list[tuple[int, int]]
    """Of each segment its number, and where its last whole record ends."""
    left: dict[str, int]
    adopted: list[ItemEvent]
    late: list[Path] = field(default_factory=list)
    """Older epochs that have answers of their own, and so files."""


def _lost(folder: Path, number: int) -> StoreBrokenError:
    return StoreBrokenError(
        f"{folder}: {number:,} finished {'item has' if number == 1 else 'items have'} lost a row or a picture; restore "
        "results.jsonl and the pictures, or run the shard with --resend-lost to pay for them again, or merge what is "
        "there with --partial"
    )


def _too_late(base: Path, late: list[str]) -> WrongDirectoryError:
    return WrongDirectoryError(
        f"{base}: shard {', '.join(late)} has come since its shards were merged, and a run has gone on in the merged "
        "directory, so its rows are not taken in; what is still to be sent can take its answers instead: name the "
        f"shard's folder below {base / SHARDS} in the job's `reuse`"
    )


class Merge:
    """One merge: `run` it, once. Blocks."""

    def __init__(self, base: Path, *, partial: bool, job_digest: str = "") -> None:
        """Into this directory; `partial`: with what there is so far, while shards may be at work.

        `job_digest`: see `stores.run_directory.digest_of_job`, of the whole job that all shards were run with, where
        that is known: then the next run of the same job need not go through its items.
        """
        layout = read_layout(base)
        if layout is None:
            problem = f"{base}: has no shards"
            raise JobMistakesError((Mistake(problem=problem, hint="`batchrunner run JOB --shard 0/4` makes them"),))
        self._base, self._layout, self._partial = base, layout, partial
        self._job_digest = job_digest
        self._runs: list[_Run] = []
        self._taken: dict[str, int] = {}
        self._joined = JoinedState(is_known=not partial)
        self._rows, self._failures = MergedRows(RESULTS), MergedRows(FAILURES)
        self._aside: dict[str, list[tuple[Path, int, int]]] = {SUPERSEDED: [], SUPERSEDED_FAILURES: []}
        self.duplicates = self.linked = 0

    def __repr__(self) -> str:
        return f"<Merge of {len(self._runs)} runs into {self._base}>"

    def run(self) -> MergeResult:
        """Merge; see the module.

        Raises:
            LockHeldError: a process works on a shard, or on the merged run.
            LedgerDamagedError, LedgerMissingError, WrongDirectoryError: of a shard.
            StoreBrokenError: the disk refused, or finished items of a shard have lost what they made.
        """
        base = self._base
        before = read_merged(base)
        if is_over(before):
            assert before is not None, "it is over"
            if not (late := came_late(base, self._layout, before)):
                return self._result(rows=before.rows, failures=before.failures, was_merged=True)
            if not stands_as_merged(base):
                raise _too_late(base, late)
            self._partial = False
        try:
            with RunLock(base):
                try:
                    self._remove_left_overs()
                    self._close_shards()
                    return self._merged()
                except BaseException:
                    forget_merged(base)  # the shards go on, or another merge does
                    raise
        except OSError as error:
            raise broken(base, error, sending=False) from error

    def _remove_left_overs(self) -> None:
        """Half-written files of a merge that was killed. Those in the shards' directories may be somebody's."""
        for folder in (self._base, self._base / SHARDS):
            for name in filter(is_left_over, DISK.names(folder)):
                DISK.unlink(folder / name)

    def _close_shards(self) -> None:
        """From now on no shard starts; those that are at work refuse the merge, unless it is a partial one."""
        if self._partial:
            forget_merged(self._base)
            return
        write_merged(self._base, self._note(whole=True, done=False, rows=0, failures=0))
        for shard, folder in self._newest():  # whoever holds an older one has lost it: it sends nothing more
            if (holder := holder_of(folder)) is not None:
                raise LockHeldError(
                    f"{folder}: shard {shard} is {holder}; wait for it or stop it, or merge what there is so far with "
                    "--partial"
                )

    def _epochs(self, shard: Shard) -> list[Path]:
        """The run directories of a shard, the newest first."""
        return [folder for folder in epochs_of(self._base, shard) if DISK.exists(folder / RUN_FILE)]

    def _newest(self) -> Iterator[tuple[Shard, Path]]:
        """Every shard that has begun, with the run directory that counts."""
        for shard in all_shards(self._layout):
            for folder in self._epochs(shard)[:1]:
                yield shard, folder

    def _merged(self) -> MergeResult:
        for shard, newest in self._newest():
            older = self._epochs(shard)[1:]
            known = KnownAnswers() if older else None
            self._read(newest, name=f"{shard.folder}/{newest.name}", known=known)
            for folder in older:
                assert known is not None, "there are older ones"
                self._read_older(folder, known)
        for run in self._runs:
            self._link_files(run, run.folder)
            for folder in run.late:
                self._link_files(run, folder)
        labels = RowLabels()
        length, rows = self._write(self._rows, labels)
        failures = self._write(self._failures, None)[1]
        for name, places in self._aside.items():
            self._write_aside(name, places)
        self._write_ledger(length, labels.digest())
        write_merged(self._base, self._note(whole=not self._partial, done=True, rows=rows, failures=failures))
        return self._result(rows=rows, failures=failures, was_merged=False)

    # -- reading a shard

    def _read(self, folder: Path, *, name: str, known: KnownAnswers | None) -> None:
        """A run directory: its ledger first, then its rows, so that none of a live one is without its record."""
        there = read_run_file(folder)
        assert there is not None, "it was there just now"
        refuse_missing_ledger(folder)
        sizes = ledger_sizes(folder / LEDGER)
        self._taken[name] = sum(sizes.values())
        kept = None if self._partial or known is not None else state_at_its_end(folder, there)
        self._joined.add(kept[0] if kept is not None else None)
        if kept is not None:
            state, length = kept
            run = _Run(folder=folder, name=name, file=there, ends=[(1, length)], left=segment_left(state), adopted=[])
        else:
            run, state = self._read_ledger(folder, there, name=name)
        self._runs.append(run)
        self._read_results(folder, state, known)
        self._read_failures(folder, state)
        for aside, places in self._aside.items():
            places += [(folder / aside, line.offset, len(line.text)) for line in row_lines(DISK, folder / aside)]

    def _read_ledger(self, folder: Path, there: RunFile, *, name: str) -> tuple[_Run, LedgerState]:
        """Of a shard whose state no checkpoint has: what its process had no time to record is adopted."""
        sizes = ledger_sizes(folder / LEDGER)
        state, reading = LedgerState(), read_ledger(folder / LEDGER)
        replay_into(state, reading)
        state.segment_ended()
        adopted: list[ItemEvent] = []
        if not stands_as_marked(DISK, folder, state.marked):
            found = inspect(DISK, folder, state)
            for event in found.adopted(state):
                adopted.append(event)
                state.apply(event, at=time.time())
            if state.lost and not self._partial:
                raise _lost(folder, len(state.lost))
        ends = [
            (one.number, _whole_end(folder / LEDGER, one, size_bytes=sizes[one.number]))
            for one in reading.segments
            if one.opened is not None and sizes.get(one.number)
        ]
        run = _Run(folder=folder, name=name, file=there, ends=ends, left=segment_left(state), adopted=adopted)
        return run, state

    def _read_older(self, folder: Path, known: KnownAnswers) -> None:
        """An epoch that was taken over: answers that came after that, beside those that the newest one has."""
        for offset, text, whole in row_lines(DISK, folder / RESULTS):
            found = key_and_index_of(text) if whole else None
            if found is None or known.has(text):
                continue
            if found[0] in known.ended:
                self._aside[SUPERSEDED].append((folder / RESULTS, offset, len(text)))
                self.duplicates += 1
            else:
                known.late[found[0]] = found[1], offset, len(text)
        self._adopt_late(folder, known)

    def _adopt_late(self, folder: Path, known: KnownAnswers) -> None:
        """Answers that only an older epoch has: they are paid for, and count."""
        if not known.late:
            return
        run, place = self._runs[-1], (folder / RESULTS, inode_of(folder / RESULTS))
        self._rows.sources.append(place)
        for index, offset, length in known.late.values():
            self._rows.add(index, offset, length)
        state = LedgerState()
        replay_into(state, read_ledger(folder / LEDGER))
        events = (record.event for record in read_ledger(folder / LEDGER))
        recorded = {bytes.fromhex(one.k): one for one in events if isinstance(one, Done)}
        unrecorded = (one for one in inspect(DISK, folder, state).adopted(state) if isinstance(one, Done))
        recorded |= {bytes.fromhex(one.k): one for one in unrecorded}
        run.adopted += [msgspec.structs.replace(recorded[key], recovered=True) for key in known.late if key in recorded]
        run.late.append(folder)
        known.ended |= known.late.keys()
        known.late.clear()

    def _read_results(self, folder: Path, state: LedgerState, known: KnownAnswers | None) -> None:
        rows, path, table = self._rows, folder / RESULTS, state.table
        rows.sources.append((path, inode_of(path)))
        for places in places_in(path):  # half a row, and what is no row, stays in the shard's directory
            words = [table.words[number] for number in table.find_all([places.keys])]
            rows.add_all(places, [word & ITEM_STATE == ItemState.DONE for word in words])
        if known is not None:
            for line in row_lines(DISK, path):
                known.note(line.text)
            known.ended |= {key for key, item_state in state.item_states() if item_state in _ENDED}

    def _read_failures(self, folder: Path, state: LedgerState) -> None:
        """Of each item that has failed its last row; identical items have one each."""
        newest: dict[tuple[bytes, int], tuple[int, int]] = {}
        self._failures.sources.append((folder / FAILURES, inode_of(folder / FAILURES)))
        for offset, text, whole in row_lines(DISK, folder / FAILURES):
            found = key_and_index_of(text) if whole else None
            if found is not None and state.item_state(found[0]) is ItemState.FAILED:
                newest[found] = offset, len(text)
        for (_, index), (offset, length) in newest.items():
            self._failures.add(index, offset, length)

    # -- writing the whole

    def _write(self, rows: MergedRows, labels: RowLabels | None) -> tuple[int, int]:
        """(length, rows) of the new file, which is in its place."""
        beside, new = open_beside(DISK, self._base, SHARED_FILE)
        length = count = 0
        buffer = bytearray()
        last_index, of_index = -1, list[bytes]()
        try:
            for index, text in rows.in_order():
                if index != last_index:
                    last_index, of_index = index, [text]
                elif self._is_repeated(text, of_index):
                    continue
                buffer += text
                buffer += b"\n"
                length, count = length + len(text) + 1, count + 1
                if len(buffer) >= _BUFFER_BYTES:
                    _write_rows(new, buffer, labels)
            _write_rows(new, buffer, labels)
            DISK.fsync(new)
        except BaseException:
            DISK.close(new)
            DISK.unlink(beside)
            raise
        DISK.close(new)
        if count:
            DISK.rename(beside, self._base / rows.name)
        else:
            DISK.unlink(beside)
            (self._base / rows.name).unlink(missing_ok=True)
        DISK.fsync_folder(self._base)
        return length, count

    def _is_repeated(self, text: bytes, of_index: list[bytes]) -> bool:
        """Whether a row of the same item is among those of its index: somebody has put it into the file twice.

        Rows with other keys are answers to other versions of the job: the next run sorts them out.
        """
        found = key_and_index_of(text)
        if any(found == key_and_index_of(other) for other in of_index):
            self.duplicates += 1
            return True
        of_index.append(text)
        return False

    def _write_aside(self, name: str, places: list[tuple[Path, int, int]]) -> None:
        if not places:
            (self._base / name).unlink(missing_ok=True)
            return
        beside, new = open_beside(DISK, self._base, SHARED_FILE)
        try:
            for path, offset, length in places:
                descriptor = open_rows(DISK, path)
                try:
                    write_all(DISK, new, DISK.read_at(descriptor, length, offset) + b"\n")
                finally:
                    DISK.close(descriptor)
            DISK.fsync(new)
        finally:
            DISK.close(new)
        DISK.rename(beside, self._base / name)

    def _link_files(self, run: _Run, folder: Path) -> None:
        """Pictures, answers and results of batches: a second name for each file, durable."""
        for here, folders, names in os.walk(folder):
            place = Path(here)
            if place == folder:
                folders[:] = sorted(set(folders) - _LEFT)
                continue
            inside = place.relative_to(folder)
            target = self._base
            for part in inside.parts:
                target /= part
                DISK.make_folder(target, SHARED_FOLDER)
            for name in names:
                if not is_left_over(name) and (place / name).is_file() and not (place / name).is_symlink():
                    path = inside / name
                    named = renamed(str(path), run.name) if inside.parts[0] == BATCHES else str(path)
                    self._link(place / name, self._base / named, is_late=folder != run.folder)
            DISK.fsync_folder(target)
            DISK.fsync_folder(target.parent)

    def _link(self, source: Path, target: Path, *, is_late: bool) -> None:
        mine, there = DISK.look(source), DISK.look(target)
        if there is None:
            link_or_copy(source, target)
            self.linked += 1
        elif not is_late and mine is not None and mine.inode != there.inode and not are_equal(source, target):
            raise WrongDirectoryError(
                f"{target}: is another file than {source}, so two shards were run with different versions of the job; "
                "run the shards again with the same job file, or move one of the two files away"
            )

    def _write_ledger(self, length: int, labels: str) -> None:
        """The ledger and run.json, in this order: without the second the directory is no run."""
        base, runs, at = self._base, self._runs, time.time()
        new, old = base / SHARDS / _NEW_LEDGER, base / SHARDS / _OLD_LEDGER
        for left_over in (new, old):
            shutil.rmtree(left_over, ignore_errors=True)
        DISK.make_folder(new, PRIVATE_FOLDER)
        ledger = MergedLedger(folder=new)
        for run in runs:
            ledger.add(run.folder, run.ends, name=run.name)
        adopted = (event for run in runs for event in run.adopted)
        joined = partial(self._joined.kept, base, new, length=length, labels=labels, at=at)
        checkpoint = ledger.end(adopted, program=VERSION, labels=labels, length=length, at=at, left=joined)
        DISK.fsync_folder(new)
        (base / RUN_FILE).unlink(missing_ok=True)
        if DISK.exists(base / LEDGER):
            DISK.rename(base / LEDGER, old)
        DISK.rename(new, base / LEDGER)
        DISK.fsync_folder(base)
        segment = segment_mark(DISK, base / LEDGER, ledger.segments)
        assert segment is not None, "it was written just now"
        if runs:
            left = {name: sum(run.left.get(name, 0) for run in runs) for name in ("done", "failed", "accepted")}
            there = merged_run_file(
                base,
                [run.file for run in runs],
                left=left,
                segment=segment,
                has_checkpoint=checkpoint is not None,
                labels=labels,
                job_digest="" if self._partial or len(runs) < self._layout.shards else self._job_digest,
            )
            write_run_file(base, there)
        shutil.rmtree(old, ignore_errors=True)

    def _note(self, *, whole: bool, done: bool, rows: int, failures: int) -> Merged:
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return Merged(
            whole=whole, done=done, at=at, rows=rows, failures=failures, shards=len(self._runs), taken=self._taken
        )

    def _result(self, *, rows: int, failures: int, was_merged: bool) -> MergeResult:
        begun = len(list(self._newest()))
        return MergeResult(
            job=self._layout.job,
            dir=str(self._base),
            simulated=self._layout.simulated,
            whole=not self._partial or was_merged,
            was_merged=was_merged,
            shards=self._layout.shards,
            begun=begun,
            rows=rows,
            failures=failures,
            duplicates=self.duplicates,
            files=self.linked,
            next_command=self._next(),
        )

    def _next(self) -> str | None:
        """The command that goes on with the whole job; None while its shards go on, or where it is not known."""
        there = None if self._partial else read_run_file(self._base)
        return there.command_here() if there is not None else None


def _write_rows(new: int, buffer: bytearray, labels: RowLabels | None) -> None:
    lines = bytes(buffer)
    if labels is not None:
        labels.take(lines)
    write_all(DISK, new, lines)
    buffer.clear()


def _whole_end(ledger: Path, segment: SegmentEnd, *, size_bytes: int) -> int:
    """The end of the last whole record of a segment's first bytes, before its torn tail if there is one."""
    if segment.left_out is not None and segment.left_out.offset <= size_bytes:
        return segment.left_out.offset
    descriptor = DISK.open_read(segment_path(ledger, segment.number))
    try:
        start = max(0, size_bytes - MAX_LINE_BYTES)
        return start + DISK.read_at(descriptor, size_bytes - start, start).rfind(b"\n") + 1
    finally:
        DISK.close(descriptor)
