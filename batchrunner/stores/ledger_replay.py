"""What a run's directory remembers: its ledger, replayed into a state, and its rows, compared with that state.

Refuses a ledger that is not there although there are rows, and one that ends before what was durable.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from batchrunner.core.errors import LedgerDamagedError, LedgerMissingError, UnreadableRunFileError, WrongDirectoryError
from batchrunner.core.events import Close
from batchrunner.core.state import LedgerState
from batchrunner.stores.checkpoint import Restored, restored
from batchrunner.stores.files import DISK, RESULTS, SUPERSEDED, Files, InspectedFiles, broken, stands_as_marked
from batchrunner.stores.inspection import Inspection, inspect
from batchrunner.stores.ledger_line import LEDGER, Batch, segment_numbers, segment_path
from batchrunner.stores.ledger_reader import LedgerReading, read_ledger
from batchrunner.stores.run_directory import segment_left
from batchrunner.stores.run_file import ANY_RUN, RunFile, read_run_file


def inspect_directory(folder: Path, state: LedgerState, *, files: InspectedFiles = DISK) -> Inspection | None:
    """Mark lost items in `state`, and count rows without a `done` record as the next run will.

    None: nothing was changed. Blocks. Raises StoreBrokenError.
    """
    if stands_as_marked(files, folder, state.marked):
        return None
    found = inspect(files, folder, state)
    for event in found.adopted(state):
        state.apply(event, at=time.time())
    return found


def refuse_missing_ledger(folder: Path, *, files: InspectedFiles = DISK) -> None:
    """Raise LedgerMissingError if a part of the ledger is missing: continuing would pay twice.

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
        raise broken(folder, error, sending=False) from error


_MISSING: Final = (
    "{what} missing, and with it the record of what was sent and billed. Restore it, or continue with "
    "`{command} --adopt-rows`, which counts items with a row in {folder} as done and sends the rest"
)


def _missing(what: str, there: RunFile | None, folder: Path) -> LedgerMissingError:
    command = (there.command_here() if there is not None else None) or ANY_RUN
    return LedgerMissingError(_MISSING.format(what=what, command=command, folder=folder))


def _has_rows(folder: Path, files: Files) -> bool:
    return any(_length(files, folder / name) for name in (RESULTS, SUPERSEDED))


def _refuse_cut(path: Path, there: RunFile, files: InspectedFiles) -> None:
    """The newest segment of a clean end is as long as it was, or longer by line endings that another tool added.

    A shorter one is read as after a crash if rows make up for all that the cut took: as many items are done, failed
    and accepted as before.
    """
    if there.segment_bytes is None or _length(files, path) >= there.segment_bytes:
        return
    folder = path.parent.parent
    state = LedgerState()
    try:
        replay_into(state, read_ledger(path.parent, files=files))
    except LedgerDamagedError:  # more than a cut: the next reader of the ledger reports the place
        return
    state.segment_ended()
    inspect_directory(folder, state, files=files)
    if state.lost or segment_left(state) != there.segment_left:
        raise _missing(f"{path}: the end of this segment is", there, folder)


def replay_into(state: LedgerState, reading: LedgerReading, *, verified: bool = True) -> None:
    """Apply all of it; what the last segment was sending is left as under way. `verified`: by the end before it.

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
                verified = step.event.files is not None
                state.intact_at = before
        if verified:
            state.intact_at = step.at


_ITEM_BYTES: Final = 380
"""The two lines that an ordinary item has in the ledger, at least."""


def _ledger_bytes(files: Files, folder: Path) -> int:
    """Length of all segments. Raises StoreBrokenError."""
    ledger = folder / LEDGER
    try:
        numbers = segment_numbers(files.names(ledger)) if files.exists(ledger) else []
        return sum(_length(files, segment_path(ledger, number)) for number in numbers)
    except OSError as error:
        raise broken(folder, error, sending=False) from error


def _length(files: Files, path: Path) -> int:
    if not files.exists(path):
        return 0
    descriptor = files.open_read(path)
    try:
        return files.length(descriptor)
    finally:
        files.close(descriptor)


def replay(
    folder: Path,
    *,
    day_offset_s: float,
    running: bool = False,
    say: Callable[[str], None] | None = None,
    adopt_rows: bool = False,
    files: InspectedFiles = DISK,
) -> LedgerState:
    """What the ledger in a run's directory remembers; nothing when there is none yet.

    Args:
        folder: the run's directory.
        day_offset_s: where daily counters turn, seconds east of UTC.
        running: another process is writing; what it sends is under way, not unknown.
        say: called for torn tails that were left out.
        adopt_rows: go on although the ledger, or its newest segment, is gone.
        files: the file system.

    Raises:
        LedgerMissingError: the ledger, or its newest segment, is gone.
        LedgerDamagedError: a segment is damaged below what was durable.
        StoreBrokenError: the disk refused to be read.
    """
    if not adopt_rows:
        refuse_missing_ledger(folder, files=files)
    known = _checkpoint(folder, day_offset_s=day_offset_s, files=files)
    if known is not None:
        state, reading = known.state, read_ledger(folder / LEDGER, files=files, after=known.segment)
        replay_into(state, reading, verified=known.verified)
    else:
        state, reading = LedgerState(day_offset_s=day_offset_s), read_ledger(folder / LEDGER, files=files)
        state.table.reserve(_ledger_bytes(files, folder) // _ITEM_BYTES)
        replay_into(state, reading)
    if not running:
        state.segment_ended()
    for torn in reading.left_out if say is not None else ():
        assert say is not None, "there is something to say only to somebody"
        if torn.bytes:
            say(f"{torn.file}: {torn.bytes} bytes at the end were cut off by a crash and are ignored ({torn.problem})")
    return state


def _checkpoint(folder: Path, *, day_offset_s: float, files: InspectedFiles) -> Restored | None:
    try:
        there = read_run_file(folder, files=files)
    except WrongDirectoryError:  # the ledger is there to be read
        return None
    newest = there.checkpointed if there is not None else None
    return restored(files, folder / LEDGER, newest, day_offset_s=day_offset_s)
