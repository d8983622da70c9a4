"""How a run finds its directory, repairs what a crash tore, and goes on from there."""

from collections.abc import Callable
from pathlib import Path

from batchrunner.core.job import Job
from batchrunner.core.presets import PRESETS
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass
from batchrunner.stores.files import RESULTS, InspectedFiles, size_marked, stands_as_marked
from batchrunner.stores.inspection import Inspection, inspect
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.results import ResultsFile
from batchrunner.stores.threads import Threads


async def remembered(
    job: Job, folder: Path, disk: Threads, *, adopt_rows: bool, say: Callable[[str], None], files: InspectedFiles
) -> LedgerState:
    """What the ledger says, replayed in a thread; see `replay`."""
    messages: list[str] = []  # by the thread; `say` belongs to the loop
    day_offset_s = PRESETS[job.provider.preset].day_offset_s
    state = await disk.run(
        replay, folder, day_offset_s=day_offset_s, say=messages.append, adopt_rows=adopt_rows, files=files
    )
    for line in messages:
        say(line)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryState:
    """How a run found its directory."""

    found: Inspection | None = None
    """None: as the last clean end left it."""
    outputs: frozenset[str]
    length: int = 0
    """Of results.jsonl."""
    realigned_length: int | None = None
    """Set when that is not the length by which the ledger knows it: rows are put in order when the run ends."""
    torn_bytes: int = 0


def take_over(stock: DirectoryState, results: ResultsFile, *, lost: bool) -> int | None:
    """Go on from what was found, while lost items wait or not; see `DirectoryState.realigned_length`. Blocks."""
    length = stock.realigned_length
    if stock.found is not None:
        results.take_over(stock.found, lost=lost)
        if not lost and (stock.found.unreadable or stock.found.stale):
            length = stock.length
    return length


def look_over(folder: Path, state: LedgerState, results: ResultsFile, *, files: InspectedFiles) -> DirectoryState:
    """What was changed by the user or a crash; torn ends are repaired. Blocks. Raises StoreBrokenError."""
    marked = state.marked
    if marked is not None and stands_as_marked(files, folder, marked):
        return DirectoryState(outputs=frozenset(name for name, *_ in marked.folders))
    recovered = results.recover(state.results_length, crashed=state.torn or not state.closed)
    found = inspect(files, folder, state)
    found.reshaped |= recovered.reshaped
    realigned = recovered.realigned or found.by_hand
    if marked is not None:
        realigned = realigned or recovered.length != size_marked(marked, RESULTS)
    return DirectoryState(
        found=found,
        outputs=frozenset(found.outputs),
        length=recovered.length,
        realigned_length=recovered.length if realigned else None,
        torn_bytes=recovered.torn_bytes,
    )
