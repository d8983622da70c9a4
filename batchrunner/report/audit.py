"""The audit behind `batchrunner verify`: is everything that was recorded there, and as it was?

Four passes, each streaming: the ledger and the pictures it names, result rows, failure rows, unexpected files in the
directory. Changes nothing; the caller keeps writers out. Memory: two packed integers an item, eight bytes a file.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, get_args

from batchrunner.core.errors import LedgerDamagedError, LedgerMissingError, NoRunError, UnreadableRunFileError
from batchrunner.core.events import recorded_files
from batchrunner.core.item import safe_stem
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.status import Audit, AuditCounts, Finding, Level
from batchrunner.core.values import dataclass, field, replace
from batchrunner.report.audit_files import PictureAudit, look_around, read_plain
from batchrunner.report.audit_ledger import FindingList, LedgerAudit, files_crc, path_mark
from batchrunner.report.directory_status import judge_folders
from batchrunner.stores.batch_files import BatchFolder
from batchrunner.stores.checkpoint import checkpoint_numbers, kept_state
from batchrunner.stores.files import (
    DISK,
    FAILURES,
    RESULTS,
    SUPERSEDED,
    SUPERSEDED_FAILURES,
    InspectedFiles,
    broken,
)
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_reader import paid_again, read_ledger, reformatted_events
from batchrunner.stores.ledger_replay import refuse_missing_ledger
from batchrunner.stores.lock import Quiet
from batchrunner.stores.row_codec import RowFacts, crc_of, facts_of, name_and_id_of, row_lines, trimmed
from batchrunner.stores.row_forms import FileLine, form_at, read_lines
from batchrunner.stores.run_file import RUN_FILE, RunFile, no_run, read_run_file, run_file_of_ledger

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
        raise no_run(folder, files=files)
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
        stems = frozenset(safe_stem(task.item_id) for task in ledger.state.tasks.values())
        look_around(folder, files=files, finding_list=finding_list, named=ledger.paths, open_stems=stems)
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
