"""What a person, or a crash, changed in a run's directory since it was left: found before anything is paid, and told.

A directory that stands as its last clean end left it is trusted; any other is looked at row by row. Every command asks
here, so that all of them count the same items as lost. `take_stock` changes nothing on the disk.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from batchrunner.core.state import LedgerState
from batchrunner.stores.files import DISK, InspectedFiles
from batchrunner.stores.inspection import Inspection, inspect
from batchrunner.stores.marks import RESULTS, stands_as_marked


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


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"
