"""The audit behind `batchrunner verify`: is everything that was recorded there, and as it was?

Four passes, each streaming: the ledger and the pictures it names, result rows, failure rows, unexpected files in the
directory. Changes nothing; the caller keeps writers out. Memory: two packed integers an item, eight bytes a file.
"""

import hashlib
import os
import re
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, get_args

from batchrunner.core.errors import LedgerDamagedError, LedgerMissingError, NoRunError, UnreadableRunFileError
from batchrunner.core.events import recorded_files
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.status import Audit, AuditCounts, Finding, Level
from batchrunner.report.audit_ledger import FindingList, LedgerAudit, Named, files_crc, path_mark
from batchrunner.report.directory_status import judge_folders
from batchrunner.stores.batch_files import BatchFolder
from batchrunner.stores.checkpoint import checkpoint_numbers, kept_state
from batchrunner.stores.export_files import EXPORTS
from batchrunner.stores.files import (
    DISK,
    FAILURES,
    RESULTS,
    SUPERSEDED,
    SUPERSEDED_FAILURES,
    InspectedFiles,
    broken,
    is_left_over,
)
from batchrunner.stores.ledger_line import CHECKPOINT_NAME, LEDGER, SEGMENT_NAME
from batchrunner.stores.ledger_reader import paid_again, read_ledger, reformatted_events
from batchrunner.stores.ledger_replay import refuse_missing_ledger
from batchrunner.stores.lock import LOCK, LOCK_FILE, Quiet
from batchrunner.stores.results import FAILURES_TORN, TORN
from batchrunner.stores.row_codec import RowFacts, crc_of, facts_of, name_and_id_of, row_lines, trimmed
from batchrunner.stores.row_forms import FileLine, form_at, read_lines
from batchrunner.stores.run_directory import ERROR_LOG
from batchrunner.stores.run_file import RUN_FILE, RunFile, read_run_file, run_file_of_ledger

# The passes over files: the bytes of every picture, unexpected files, and permissions.
#
# Pictures are read one at a time for each thread. Refuses to follow links and to remove anything.

_LEDGER_NAMES: Final = re.compile(rf"{SEGMENT_NAME.pattern}|{CHECKPOINT_NAME.pattern}")
_CACHE: Final = "thumbs"
"""Thumbnails are not synced, so a power loss may leave parts of them; any of them may be deleted."""
OWN: Final = frozenset(
    {
        *(RUN_FILE, LOCK, LOCK_FILE, RESULTS, FAILURES, SUPERSEDED, SUPERSEDED_FAILURES, TORN, FAILURES_TORN),
        *(ERROR_LOG, "README.md", "metadata.jsonl", "report.html", "scores.jsonl"),
        *(f"{EXPORTS}/", "batches/", "control/", "judge/", "report/", "shards/", f"{_CACHE}/"),
    }
)
"""What this program, in this version or a later one, puts at the top of a run's directory; a folder with its content.
Pictures, answers and the ledger are known one by one."""
PRIVATE: Final = (RUN_FILE, LOCK, LEDGER, ERROR_LOG)
_DAMAGED: Final = ("images", "damaged")
"""Received bytes that are not a valid picture, kept for inspection."""
_OTHERS: Final = 0o077
_AT_ONCE: Final = 4
"""Pictures per thread that may wait for their turn."""
_MISSING: Final = "file_missing"
_WORDS_KEPT: Final = 100
"""The most items whose messages are kept until it is known whether they are still in the job."""


@dataclass(slots=True, kw_only=True)
class PictureAudit:
    """Looks at pictures in a few threads; `finish` waits for the last ones. A context manager."""

    folder: Path
    files: InspectedFiles
    finding_list: FindingList
    threads: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    pictures: int = 0
    picture_bytes: int = 0
    _pool: ThreadPoolExecutor = field(init=False)
    _missing: dict[bytes, list[str]] = field(default_factory=dict)
    _flying: "deque[tuple[str, bytes, Future[tuple[str, str] | None]]]" = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="audit")

    def look_at(self, item_id: str, key: bytes, named: tuple[Named, ...]) -> None:
        """Check the pictures of an item against what was recorded; what is wrong goes onto the sheet, in order.

        Pictures that are not there wait for `report_missing`.
        """
        for picture in named:
            self.pictures += 1
            self.picture_bytes += picture[1]
            self._flying.append((item_id, key, self._pool.submit(fault_of, self.files, self.folder, picture)))
        while len(self._flying) > _AT_ONCE * self.threads:
            self._on_checked()

    def finish(self) -> None:
        """Wait for those under way."""
        while self._flying:
            self._on_checked()
        self._pool.shutdown()

    def _on_checked(self) -> None:
        item_id, key, flying = self._flying.popleft()
        fault = flying.result()
        if fault is None:
            return
        kind, words = fault
        if kind != _MISSING:
            self.finding_list.add(kind, f"{words} (item `{item_id}`)")
        elif key in self._missing or len(self._missing) < _WORDS_KEPT:
            self._missing.setdefault(key, []).append(f"{words} (item `{item_id}`)")
        else:
            self._missing[key] = [words]

    def report_missing(self, *, set_aside: Container[bytes]) -> None:
        """Pictures that are not there; of items in `set_aside`, which the job has no more, they are no damage."""
        for key, words in self._missing.items():
            for each in words:
                self.finding_list.add("superseded_missing" if key in set_aside else _MISSING, each)


def fault_of(files: InspectedFiles, folder: Path, picture: Named) -> tuple[str, str] | None:
    """(kind of finding, words) of what is wrong with a recorded picture; None when it is unchanged. Raises OSError."""
    from batchrunner.stores.images import picture_fault  # noqa: PLC0415 - Pillow, for audits with pictures only

    path, size_bytes, sha256 = picture
    data = read_plain(files, folder, path, most_bytes=size_bytes + 1)
    if data is None:
        return "file_missing", path
    if len(data) != size_bytes:
        than = "more" if len(data) > size_bytes else "fewer"
        return "file_changed", f"{path}: {than} than the recorded {size_bytes} bytes"
    if hashlib.sha256(data).hexdigest() != sha256:
        return "file_changed", f"{path}: its sha256 differs"
    fault = picture_fault(data)
    return None if fault is None else ("picture_broken", f"{path}: {fault}")


def read_plain(files: InspectedFiles, folder: Path, path: str, *, most_bytes: int) -> bytes | None:
    """The first bytes of a plain file below the folder; None when there is none. Raises OSError."""
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
        return None
    here = folder
    for part in parts[:-1]:
        here /= part
        step = files.look(here)
        if step is None or step.kind != "folder":
            return None
    found = files.look(folder / path)
    if found is None or found.kind != "file":
        return None
    descriptor = files.open_read(folder / path)
    try:
        return files.read_at(descriptor, most_bytes, 0)
    finally:
        files.close(descriptor)


def look_around(folder: Path, *, files: InspectedFiles, finding_list: FindingList, named: set[int]) -> None:
    """Report unexpected and partly written files, links, and private files that others can read. Raises OSError."""
    for path in _walk(files, folder, PurePosixPath()):
        found = files.look(folder / path)
        name = path.as_posix()
        if found is None:
            continue
        if found.kind == "other":
            finding_list.add("not_plain", name)
        if path.parts[0] in PRIVATE and found.mode & _OTHERS:
            finding_list.add("mode_open", f"{name}: mode {found.mode:04o}")
        if found.kind == "file" and not _is_own(path) and path_mark(name) not in named:
            finding_list.add("leftover" if is_left_over(path.name) else "stray", name)


def _is_own(path: PurePosixPath) -> bool:
    if path.parts[: len(_DAMAGED)] == _DAMAGED or path.parts[0] == _CACHE:
        return True
    if len(path.parts) == 1:
        return path.name in OWN
    if f"{path.parts[0]}/" in OWN and not is_left_over(path.name):
        return True
    return path.parent == PurePosixPath(LEDGER) and _LEDGER_NAMES.fullmatch(path.name) is not None


def _walk(files: InspectedFiles, folder: Path, below: PurePosixPath) -> Iterator[PurePosixPath]:
    """Everything below the folder, a folder before what is in it."""
    folders = set(files.folders(folder / below))
    for name in sorted(files.names(folder / below)):
        yield below / name
        if name in folders:
            yield from _walk(files, folder, below / name)


# The audit's passes over files of rows: results.jsonl, superseded.jsonl and failures.jsonl against what was recorded.
#
# Of a row, eight bytes of its id are kept. Refuses to compare a checksum that a rewriting has made void.

_SHOWN: Final = 3


@dataclass(slots=True, kw_only=True)
class RowAudit:
    """Judges rows by what a finished `LedgerAudit` knows."""

    folder: Path
    files: InspectedFiles
    finding_list: FindingList
    ledger: LedgerAudit
    rows: int = 0
    superseded: int = 0
    failures: int = 0
    answer_files: int = 0
    set_aside: set[bytes] = field(default_factory=set)
    """Done items that the job has no more: their rows are not in results.jsonl, and nothing of the job misses them."""
    _ids: set[int] = field(default_factory=set)
    _changed: list[str] = field(default_factory=list)
    _changed_count: int = 0
    _moved: int = 0
    _reshaped: int = 0

    def results(self) -> None:
        """Every line of results.jsonl. Raises OSError."""
        known = self.ledger.state.results_length
        self._reshaped += form_at(self.files, self.folder / RESULTS) is not None
        for raw in read_lines(self.files, self.folder / RESULTS):
            line = trimmed(raw)
            if line is not raw or not line.text.strip():
                self._reshaped += 1
            if not line.text.strip():
                continue
            self.rows += 1
            facts = facts_of(line.text)
            if facts is None:
                recorded = line.offset < known and self.ledger.whole
                self.finding_list.add("row_unreadable" if recorded else "torn_rows", _place(RESULTS, line))
                continue
            self._reshaped += not line.whole
            self._take(line, facts)
        if self._reshaped:
            self.finding_list.add("rows_reshaped", f"{RESULTS}: {self._reshaped} lines")
        self._report_changed()

    def superseded_rows(self) -> None:
        """Every line of superseded.jsonl: it may be where a `done` has its row. Raises OSError."""
        for line in row_lines(self.files, self.folder / SUPERSEDED):
            self.superseded += 1
            facts = facts_of(line.text) if line.whole else None
            if facts is None:
                self.finding_list.add("torn_rows", _place(SUPERSEDED, line))
                continue
            key = bytes.fromhex(facts.key)
            if facts.output.path is not None:
                self.ledger.paths.add(path_mark(facts.output.path))
            if key in self.ledger.promises:
                promise = self.ledger.promises[key]
                if promise.epoch != self.ledger.promises.epoch or promise.crc == int(crc_of(line.text), 16):
                    if not promise.found:
                        self.set_aside.add(key)
                    self.ledger.promises.mark_found(key)

    def missing(self, *, vanished: int) -> None:
        """Items that are done and have no row: after both passes above.

        `vanished` is how many done items the last run knew that the job had no more; where so many have no row in
        results.jsonl at most, the missing rows are theirs.
        """
        missing = set(self.ledger.promises.missing())
        if len(missing) + len(self.set_aside) <= vanished:
            self.set_aside |= missing
        for key in missing:
            kind = "superseded_missing" if key in self.set_aside else "row_missing"
            self.finding_list.add(kind, f"key {key.hex()}")

    def failure_rows(self) -> None:
        """Every line of failures.jsonl and superseded_failures.jsonl. Raises OSError."""
        rowless = {key for key, item_state in self.ledger.state.item_states() if item_state is ItemState.FAILED}
        for name in (FAILURES, SUPERSEDED_FAILURES):
            for line in row_lines(self.files, self.folder / name):
                self.failures += name == FAILURES
                found = name_and_id_of(line.text) if line.whole else None
                if found is None:
                    self.finding_list.add("torn_rows", _place(name, line))
                    continue
                key, item_id = found
                rowless.discard(key)
                if self.ledger.whole and name == FAILURES and self.ledger.state.item_state(key) is not ItemState.FAILED:
                    self.finding_list.add("failure_stale", item_id)
        for key in rowless:
            self.finding_list.add("failure_missing", f"key {key.hex()}")

    # -- one row

    def _take(self, line: FileLine, facts: RowFacts) -> None:
        key = bytes.fromhex(facts.key)
        mark = path_mark(facts.id)
        is_repeated = mark in self._ids
        self._ids.add(mark)
        if key not in self.ledger.promises:
            self._unknown(line, facts)
            return
        if is_repeated:
            kind = "id_answered_again" if self._is_as_written(line, facts, key) else "id_repeated"
            self.finding_list.add(kind, f"`{facts.id}`: {_place(RESULTS, line)}")
        if facts.shared_with is None:
            if self.ledger.promises.mark_found(key):
                self.finding_list.add("row_repeated", f"`{facts.id}`: {_place(RESULTS, line)}")
                return
            self._compare(line, facts, key)
        self._look_at_answer(facts)

    def _is_as_written(self, line: FileLine, facts: RowFacts, key: bytes) -> bool:
        """Whether it is the first row of its key, byte for byte; rows of shared answers have no checksum.

        A run on a part of a job adds answers to changed requests; the earlier rows stand beside them until it ends.
        """
        promise = self.ledger.promises[key]
        return facts.shared_with is not None or (not promise.found and int(crc_of(line.text), 16) == promise.crc)

    def _unknown(self, line: FileLine, facts: RowFacts) -> None:
        state = self.ledger.state
        if facts.output.path is not None:
            self.ledger.paths.add(path_mark(facts.output.path))
        self.ledger.paths.update(path_mark(path) for path, _, _ in facts.files)
        if not self.ledger.whole:
            return
        known_to_ledger = state.record(bytes.fromhex(facts.key)).sends > 0 or not state.closed
        beyond = line.offset >= state.results_length and known_to_ledger
        self.finding_list.add("row_unadopted" if beyond else "row_unknown", f"`{facts.id}`: {_place(RESULTS, line)}")

    def _compare(self, line: FileLine, facts: RowFacts, key: bytes) -> None:
        promise = self.ledger.promises[key]
        named = facts.files
        if rest := named[len(recorded_files(named)) :]:
            self.ledger.paths.update(path_mark(path) for path, _, _ in rest)
            self.ledger.look_at(facts.id, key, rest)
        if files_crc(named) not in self.ledger.promises.also.get(key, {promise.files_crc}):
            self.finding_list.add("row_files", f"`{facts.id}`: {_place(RESULTS, line)}")
        if promise.epoch != self.ledger.promises.epoch:
            return
        self._moved += line.offset + len(line.text) + 1 != promise.length
        if int(crc_of(line.text), 16) != promise.crc:
            self._changed_count += 1
            if len(self._changed) < _SHOWN:
                self._changed.append(f"`{facts.id}`: {_place(RESULTS, line)}")

    def _report_changed(self) -> None:
        """A crash between the replacement of results.jsonl and its record leaves new rows under old checksums."""
        if self._moved and not self.ledger.state.closed and self.ledger.whole:
            self.finding_list.add("results_moved", f"{self._moved} rows are not at the recorded position")
            return
        for number in range(self._changed_count):
            self.finding_list.add("row_changed", self._changed[number] if number < len(self._changed) else "…")

    def _look_at_answer(self, facts: RowFacts) -> None:
        path = facts.output.path
        if path is None:
            return
        self.answer_files += 1
        self.ledger.paths.add(path_mark(path))
        text = facts.output.text.encode()
        data = read_plain(self.files, self.folder, path, most_bytes=len(text) + 1)
        if data is None:
            self.finding_list.add("answer_missing", f"{path} (item `{facts.id}`)")
        elif data != text:
            self.finding_list.add("answer_changed", f"{path} (item `{facts.id}`)")


def _place(name: str, line: FileLine) -> str:
    return f"{name}: byte {line.offset}"


def run_file_of(folder: Path, *, files: InspectedFiles = DISK) -> RunFile:
    """The run of a directory, from run.json or, where that is missing or damaged, from the ledger.

    Raises:
        NoRunError: not a run directory.
        WrongDirectoryError: its run.json cannot be read.
        StoreBrokenError: the disk refused.
    """
    try:
        there = read_run_file(folder, files=files)
    except UnreadableRunFileError:
        there = run_file_of_ledger(folder, files=files)
        if there is None:
            raise
        return there
    if there is None and (there := run_file_of_ledger(folder, files=files)) is None:
        raise NoRunError(str(folder))
    return there


def conversions(ledger: Path, *, files: InspectedFiles) -> dict[bytes, int]:
    """How often the pictures of each item were converted; the ledger of a run without any is not read for it."""
    found: dict[bytes, int] = {}
    with suppress(LedgerDamagedError):  # the audit says so where it stands
        for event in reformatted_events(ledger, files=files):
            key = bytes.fromhex(event.k)
            found[key] = found.get(key, 0) + 1
    return found


def _vanished(run: RunFile) -> int:
    """Done items that the job of the last run had no more."""
    counts = (run.totals or {}).get("vanished")
    count = counts.get(ItemState.DONE.name) if isinstance(counts, dict) else None
    return count if isinstance(count, int) else 0


def audit(folder: Path, *, files: InspectedFiles = DISK) -> Audit:
    """Check everything in a run directory that no other process writes to.

    Raises:
        WrongDirectoryError: there is no run in this directory.
        StoreBrokenError: the disk refused to be read.
    """
    run = run_file_of(folder, files=files)
    finding_list = FindingList()
    pictures = PictureAudit(folder=folder, files=files, finding_list=finding_list)
    newest = run.checkpointed[0] if run.checkpointed is not None else None
    ledger = LedgerAudit(
        finding_list=finding_list,
        look_at=pictures.look_at,
        paid_again=paid_again(folder / LEDGER, files=files),
        kept_state=partial(kept_state, files, folder / LEDGER),
        checkpoint=newest if newest in checkpoint_numbers(files, folder / LEDGER) else None,
    )
    rows = RowAudit(folder=folder, files=files, finding_list=finding_list, ledger=ledger)
    reading = read_ledger(folder / LEDGER, files=files)
    try:
        ledger.reformatted = conversions(folder / LEDGER, files=files)
        try:
            if not run.created:
                finding_list.add("run_file_lost", RUN_FILE)
            try:
                refuse_missing_ledger(folder, files=files)
            except LedgerMissingError as error:
                ledger.whole = False
                finding_list.add("ledger_missing", str(error))
            ledger.read(reading)
            ledger.check_batches(BatchFolder(folder, files=files))
            rows.results()
        finally:
            pictures.finish()
        rows.superseded_rows()
        rows.missing(vanished=_vanished(run))
        pictures.report_missing(set_aside=rows.set_aside)
        rows.failure_rows()
        look_around(folder, files=files, finding_list=finding_list, named=ledger.paths)
    except OSError as error:
        raise broken(folder, error, sending=False) from error
    return Audit(
        job=run.job_name,
        dir=str(folder),
        sound=not finding_list.damaged,
        findings=finding_list.findings(folder=str(folder), command=run.command_here()),
        checked=AuditCounts(
            segments=len(reading.segments),
            records=ledger.records,
            done=ledger.state.count(ItemState.DONE),
            failed=ledger.state.count(ItemState.FAILED),
            rows=rows.rows,
            superseded=rows.superseded,
            failures=rows.failures,
            pictures=pictures.pictures,
            picture_bytes=pictures.picture_bytes,
            answer_files=rows.answer_files,
        ),
    )


def audit_all(folder: Path) -> Audit:
    """As `audit`, also of the judges' directories in it, whose findings say so. Raises LockHeldError as well."""
    found = audit(folder)
    for path in judge_folders(folder):
        try:
            if not path.is_dir():
                raise NoRunError(str(path))  # noqa: TRY301 - what is wrong with a judge is told in one place
            with Quiet(path):
                judge = audit(path)
        except (UnreadableRunFileError, NoRunError, LedgerDamagedError) as error:
            what = f"{path} is no run" if isinstance(error, NoRunError) else str(error)
            broken = Finding(kind="judge", level="damage", problem=what, advice=None, count=1, examples=())
            judge = replace(found, findings=(broken,), sound=False)
        theirs = (replace(one, problem=f"judge {path.name}: {one.problem}") for one in judge.findings)
        findings = sorted((*found.findings, *theirs), key=lambda one: _LEVELS.index(one.level))
        found = replace(found, findings=tuple(findings), sound=found.sound and judge.sound)
    return found


_LEVELS: Final = get_args(Level)
"""The worst first."""
