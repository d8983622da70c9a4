"""`output.upload` of a run: its files are copied while it works and when it has ended; what is said of it.

A store that fails stops no run. A run that has ended with files that are not at the store yet ends with status 3, for
something is left to do, and the same command does it: whoever removes the local folder after a 0 loses nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batchrunner.core.errors import ExitStatus, StoreBrokenError
from batchrunner.core.events import Uploaded
from batchrunner.core.job import Job
from batchrunner.core.status import Report
from batchrunner.core.values import replace
from batchrunner.stores.files import DISK, InspectedFiles
from batchrunner.stores.mirror import Mirror, progress_of, progress_words, require_store, upload_place

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner

_WHOLE: Final = frozenset({ExitStatus.DONE, ExitStatus.FAILED})
_LOOK_S: Final = 0.2
"""How soon a request to stop ends the last look."""
_HURRIED: Final = frozenset({ExitStatus.INTERRUPTED, ExitStatus.TERMINATED})


def require_mirror(job: Job) -> None:
    """Raise JobMistakesError where the job's files are to be in a store and the library for it is missing."""
    for key, place in (("output.upload", job.output.upload), ("output.ledger", job.output.ledger)):
        if place is not None:
            require_store(place, key)


@asynccontextmanager
async def mirrored_meanwhile(runner: "Runner", speak: Callable[[str], None]) -> AsyncIterator[None]:
    """Upload finished files for as long as the block goes; the ledger says which."""
    if runner.job.output.upload is None:
        yield
        return

    def note(event: Uploaded) -> None:
        with suppress(StoreBrokenError, ValueError):  # then it is uploaded once more, which costs nothing
            runner.ports.ledger.note(event)

    mirror = _mirror_of(runner.job, speak)
    following = asyncio.create_task(mirror.follow(note))
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})
    last = asyncio.create_task(mirror.look(note))
    while not last.done() and not runner.shutdown.requests:
        await asyncio.wait({last}, timeout=_LOOK_S)
    last.cancel()


async def mirrored(job: Job, report: Report, speak: Callable[[str], None]) -> Report:
    """Upload what is left when nothing writes any more; the report with how far that came."""
    if report.exit_status not in _HURRIED:
        await _mirror_of(job, speak).look(None)
    notes = tuple(upload_notes(Path(job.output.dir)))
    progress = await asyncio.to_thread(progress_of, Path(job.output.dir))
    is_left = progress is None or bool(progress.left or progress.problem)
    return replace(
        report,
        status=replace(report.status, notes=(*report.status.notes, *notes)),
        exit_status=ExitStatus.PAUSED if is_left and report.exit_status in _WHOLE else report.exit_status,
    )


def upload_notes(folder: Path) -> Iterator[str]:
    """What there is to say of the uploads of a run's directory. Blocks."""
    progress = progress_of(folder)
    if progress is not None:
        yield progress_words(progress)


def ledger_kept(job: Job) -> AbstractContextManager[InspectedFiles]:
    """The file system of a run: with `output.ledger`, what is durable is in the store, too. Blocks; for a thread.

    Raises:
        LockHeldError: another process works on the run, wherever it is.
        LedgerDamagedError, StoreBrokenError: see `StoreLedger.take`.
    """
    if job.output.ledger is None:
        return nullcontext(DISK)
    from batchrunner.stores.store_ledger import StoreFiles, StoreLedger  # noqa: PLC0415 - for such jobs only

    folder = Path(job.output.dir)
    kept = StoreLedger(folder, _place_of(job, job.output.ledger))
    kept.take()
    return StoreFiles(kept, folder)


def _mirror_of(job: Job, speak: Callable[[str], None]) -> Mirror:
    assert job.output.upload is not None, "a job without a place has no mirror"
    return Mirror(Path(job.output.dir), _place_of(job, job.output.upload), say=speak)


def _place_of(job: Job, address: str) -> str:
    shard = None if job.shard is None else job.shard.folder
    return upload_place(address, Path(job.output.dir), simulated=job.simulated, shard=shard)
