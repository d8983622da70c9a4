"""The audit behind `batchrunner verify`: is everything that was recorded there, and as it was?

Four passes, each streaming: the ledger and the pictures it names, result rows, failure rows, whatever else lies in the
directory. Changes nothing; the caller keeps writers out. Memory: two packed integers an item, eight bytes a file.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path

from batchrunner.core.errors import LedgerDamagedError, LedgerMissingError, NoRunError, UnreadableRunFileError
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.status import Audit, AuditCounts
from batchrunner.report.audit_files import PictureAudit, look_around
from batchrunner.report.audit_findings import Sheet
from batchrunner.report.audit_ledger import LedgerAudit
from batchrunner.report.audit_rows import RowAudit
from batchrunner.report.standing import LEDGER
from batchrunner.report.stock import refuse_missing_ledger
from batchrunner.stores.checkpoint import checkpoint_numbers, kept_state
from batchrunner.stores.files import DISK, InspectedFiles, broken
from batchrunner.stores.ledger_reader import paid_again, read_ledger, reformatted_events
from batchrunner.stores.run_file import RUN_FILE, RunFile, read_run_file, run_file_of_ledger


def run_file_of(folder: Path, *, files: InspectedFiles = DISK) -> RunFile:
    """Whose directory it is; what the ledger says of that where run.json is gone or damaged.

    Raises:
        NoRunError: nobody's.
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
    """Look at everything in a run's directory in which nobody writes meanwhile.

    Raises:
        WrongDirectoryError: there is no run in this directory.
        StoreBrokenError: the disk refused to be read.
    """
    run = run_file_of(folder, files=files)
    sheet = Sheet()
    pictures = PictureAudit(folder=folder, files=files, sheet=sheet)
    newest = run.checkpointed[0] if run.checkpointed is not None else None
    ledger = LedgerAudit(
        sheet=sheet,
        look_at=pictures.look_at,
        paid_again=paid_again(folder / LEDGER, files=files),
        kept_state=partial(kept_state, files, folder / LEDGER),
        checkpoint=newest if newest in checkpoint_numbers(files, folder / LEDGER) else None,
    )
    rows = RowAudit(folder=folder, files=files, sheet=sheet, ledger=ledger)
    reading = read_ledger(folder / LEDGER, files=files)
    try:
        ledger.reformatted = conversions(folder / LEDGER, files=files)
        try:
            if not run.created:
                sheet.add("run_file_lost", RUN_FILE)
            try:
                refuse_missing_ledger(folder, files=files)
            except LedgerMissingError as error:
                ledger.whole = False
                sheet.add("ledger_missing", str(error))
            ledger.read(reading)
            rows.results()
        finally:
            pictures.finish()
        rows.superseded_rows()
        rows.missing(vanished=_vanished(run))
        pictures.tell_missing(set_aside=rows.set_aside)
        rows.failure_rows()
        look_around(folder, files=files, sheet=sheet, named=ledger.paths)
    except OSError as error:
        raise broken(folder, error) from error
    return Audit(
        job=run.job_name,
        dir=str(folder),
        sound=not sheet.damaged,
        findings=sheet.findings(folder=str(folder), command=run.command_here()),
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
