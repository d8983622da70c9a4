"""What a person, or a crash, changed in a run's directory since it was left: found before anything is paid, and told.

A directory that stands as its last clean end left it is trusted; any other is looked at row by row. Every command asks
here, so that all of them count the same items as lost. `take_stock` changes nothing on the disk.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batchrunner.core.errors import LedgerDamagedError, LedgerMissingError, UnreadableRunFileError
from batchrunner.core.events import Close
from batchrunner.core.job import Job
from batchrunner.core.state import LedgerState
from batchrunner.report.words import count as counted
from batchrunner.stores.files import DISK, Files, InspectedFiles, broken
from batchrunner.stores.inspection import Inspection, inspect
from batchrunner.stores.ledger_batches import Batch
from batchrunner.stores.ledger_line import LEDGER, segment_numbers, segment_path
from batchrunner.stores.ledger_reader import LedgerReading, read_ledger
from batchrunner.stores.marks import RESULTS, SUPERSEDED, stands_as_marked
from batchrunner.stores.run_directory import segment_left
from batchrunner.stores.run_file import ANY_RUN, RunFile, read_run_file


def take_stock(folder: Path, state: LedgerState, *, files: InspectedFiles = DISK) -> Inspection | None:
    """Let `state` say what is lost, and count rows that the ledger does not know as done, as the next run will.

    None: nobody changed anything. Blocks. Raises StoreBrokenError.
    """
    if stands_as_marked(files, folder, state.marked):
        return None
    found = inspect(files, folder, state)
    for event in found.adopted(state):
        state.apply(event, at=time.time())
    return found


def refuse_missing_ledger(folder: Path, *, files: InspectedFiles = DISK) -> None:
    """Raise LedgerMissingError where less of the ledger is there than once was: going on would pay twice.

    Gaps before the newest segment are the reader's to find. Raises StoreBrokenError as well.
    """
    try:
        there = read_run_file(folder, files=files)
    except UnreadableRunFileError:
        there = None
    try:
        ledger = folder / LEDGER
        numbers = segment_numbers(files.names(ledger)) if files.exists(ledger) else []
        newest = max(numbers, default=0)
        if there is not None and there.segment is not None and there.segment > newest > 0:
            raise _missing(f"{segment_path(ledger, there.segment)} is", there, folder)
        if not numbers and (_has_rows(folder, files) or (there is not None and there.totals is not None)):
            raise _missing(f"{ledger}: the ledger is", there, folder)
        if there is not None and there.segment == newest and there.segment_bytes is not None:
            _refuse_cut(segment_path(ledger, newest), there, files)
    except OSError as error:
        raise broken(folder, error) from error


_MISSING: Final = (
    "{what} gone, and with it what was paid for: going on would pay again. Put it back, or go on with "
    "`{command} --adopt-rows`, which counts as done what has a row in {folder} and sends the rest"
)


def _missing(what: str, there: RunFile | None, folder: Path) -> LedgerMissingError:
    command = (there.command_here() if there is not None else None) or ANY_RUN
    return LedgerMissingError(_MISSING.format(what=what, command=command, folder=folder))


def _has_rows(folder: Path, files: Files) -> bool:
    return any(_length(files, folder / name) for name in (RESULTS, SUPERSEDED))


def _refuse_cut(path: Path, there: RunFile, files: InspectedFiles) -> None:
    """The newest segment of a clean end is as long as it was, or longer by the line ends of somebody's tool.

    A shorter one is read as after a crash if rows make up for all that the cut took: as many items are done, failed
    and accepted as before.
    """
    if there.segment_bytes is None or _length(files, path) >= there.segment_bytes:
        return
    folder = path.parent.parent
    state = LedgerState()
    try:
        replay_into(state, read_ledger(path.parent, files=files))
    except LedgerDamagedError:  # more than a cut: whoever reads the ledger next names the place
        return
    state.segment_ended()
    take_stock(folder, state, files=files)
    if state.lost or segment_left(state) != there.segment_left:
        raise _missing(f"{path}: the end of this segment is", there, folder)


def replay_into(state: LedgerState, reading: LedgerReading, *, vouched: bool = True) -> None:
    """Apply all of it; what the last segment was sending is left as under way. `vouched`: by the end before it.

    An end that vouched for nothing leaves `intact_at` where it was before its segment, until one vouches again: what
    was missing then may have been changed before the events since.
    """
    segment, before = 0, 0.0
    for step in reading.steps():
        if step.segment != segment:
            state.segment_ended()
            segment, before = step.segment, state.intact_at
        if isinstance(step, Batch):
            state.apply_all(step.keys, step.events, step.ats)
        else:
            state.apply(step.event, at=step.at)
            if isinstance(step.event, Close):
                vouched = step.event.files is not None
                state.intact_at = before
        if vouched:
            state.intact_at = step.at


def _length(files: Files, path: Path) -> int:
    if not files.exists(path):
        return 0
    descriptor = files.open_read(path)
    try:
        return files.length(descriptor)
    finally:
        files.close(descriptor)


def stock_notes(folder: Path, found: Inspection | None) -> Iterator[str]:
    """What a person should know of it; nothing where it is as it was left, or as a crash leaves it."""
    if found is None:
        return
    path = folder / RESULTS
    if found.changed:
        yield f"{path}: {_rows(found.changed)} not as recorded; changed by hand, and taken as they are now"
    if found.repeated:
        yield f"{path}: {_rows(found.repeated)} there more than once; the next end of a run leaves one of each"
    if found.reshaped:
        yield f"{path}: was saved in another form (line ends, byte order mark); the next end of a run puts it right"
    if found.unreadable:
        yield f"{path}: lines that are no rows: {found.unreadable:,}; `batchrunner verify` names them"
    if found.answers:
        yield f"{folder}: answers without their own file (output.each): {len(found.answers):,}; a run writes them again"


def format_notes(job: Job, folder: Path) -> tuple[str, ...]:
    """What `plan` says of pictures that are in another format than the job asks for now. Raises StoreBrokenError."""
    if job.kind != "image" or job.output.format is None:
        return ()
    from batchrunner.stores.reformat import other_formats  # noqa: PLC0415 - Pillow, for pictures only

    number = other_formats(folder, job.output.format)
    words = f"{counted(number, 'picture is', 'pictures are')} of another format than {job.output.format}"
    return (f"{words}; `run --reformat` converts what is there without paying",) if number else ()


def new_format_notes(job: Job, folder: Path, before: RunFile | None) -> tuple[str, ...]:
    """The same for a run, when it is the first one since `output.format` was changed. Raises StoreBrokenError."""
    output = before.job.get("output") if before is not None else None
    if not isinstance(output, dict) or output.get("format") == job.output.format:
        return ()  # the pictures are not counted at every start
    return format_notes(job, folder)


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"
