"""Takes a run directory for a job: writes `run.json`, and the totals that `status` reads there."""

import asyncio
import os
import shlex
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from batchrunner.core.errors import (
    JobMistakesError,
    Mistake,
    PartMistakesError,
    StoreBrokenError,
    WrongDirectoryError,
)
from batchrunner.core.job import Job, Json, seen_from_its_folder
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.plan import Totals
from batchrunner.core.state import LedgerState
from batchrunner.stores.checkpoint import SegmentMark
from batchrunner.stores.files import (
    DISK,
    PRIVATE_FILE,
    Files,
    InspectedFiles,
    broken,
    remove_temporary_files,
    write_all,
)
from batchrunner.stores.row_codec import UNREADABLE
from batchrunner.stores.run_file import RunFile, claim, read_run_file, write_run_file


def resolved(job: Job) -> dict[str, Json]:
    """The job as resolved. There are no secrets in a job: keys are named by their variables."""
    plain = msgspec.to_builtins(job, enc_hook=str)
    assert isinstance(plain, dict), "a dataclass becomes a mapping"
    return plain


def digest_of_job(job: Job) -> str:
    """32 hex digits of the job as resolved, the same from every working directory. Blocks: paths are made real."""
    here = resolved(seen_from_its_folder(job, os.path.realpath))
    return blake2b(msgspec.json.encode(here, order="deterministic"), digest_size=16).hexdigest()


def take_directory(
    folder: Path,
    job: Job,
    *,
    program: str,
    wall: float,
    command: str | None = None,
    command_elsewhere: str | None = None,
    adopt_rows: bool = False,
    files: Files = DISK,
) -> RunFile:
    """Write `run.json` for this job, or continue in its directory. For the holder of the lock.

    `command` goes on with the run from the present working directory, `command_elsewhere` from any.

    Raises:
        WrongDirectoryError: the directory is another job's, or a simulated run would mix with a real one.
        StoreBrokenError: the disk refused.
    """
    return claim(
        folder,
        job_name=job.name,
        simulated=job.simulated,
        digest=digest_of_job(job),
        job=resolved(job),
        program=program,
        created=datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        command=command,
        command_elsewhere=command_elsewhere,
        typed_in=None if command is None else _working_directory(),
        job_path=str(Path(job.file).resolve()),
        adopt_rows=adopt_rows,
        files=files,
    )


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # the working directory was removed
        return ""


def run_elsewhere(job: Job, *, files: Files = DISK) -> Mistake | None:
    """The mistake of paying again for what a run of this job has where earlier versions put its results.

    They took `output.dir` as relative to the working directory. None when nothing of this job lies there.
    """
    former = next((place for place in job.output.former_dirs if _holds_run_of(Path(place), job, files)), None)
    if former is None or job.simulated:
        return None
    here, there = shlex.quote(job.output.dir), shlex.quote(former)
    if files.exists(Path(job.output.dir)):
        way = f"continue one of the two (--out {here}, or --out {there}), or move the other away"
    else:
        parent = shlex.quote(str(Path(job.output.dir).parent))
        way = f"move it (mkdir -p {parent} && mv {there} {here}), or continue it where it is (--out {there})"
    return Mistake(
        problem=f"an earlier version put a run of this job into {former}; results now go to {job.output.dir}, "
        "where a run would send finished items again",
        file=job.file,
        key="output.dir",
        hint=way,
    )


def _holds_run_of(folder: Path, job: Job, files: Files) -> bool:
    try:
        there = read_run_file(folder, files=files)
    except (WrongDirectoryError, StoreBrokenError):
        return False  # cannot be identified as this job's
    return there is not None and not there.simulated and there.job_name == job.name and _same_file(there, job)


def refuse_run_elsewhere(job: Job) -> None:
    """Raise JobMistakesError for a run of this job in the place of earlier versions, see `run_elsewhere`."""
    if (misplaced := run_elsewhere(job)) is not None:
        raise JobMistakesError((misplaced,))


def _same_file(there: RunFile, job: Job) -> bool:
    """Whether a run is of this job file, or of one that is not there: a job of the same name beside it is another."""
    recorded = there.job.get("file")
    path = Path(there.job_path or (recorded if isinstance(recorded, str) else job.file))
    return not path.exists() or path.resolve() == Path(job.file).resolve()


def remove_leftovers(folder: Path, *, files: InspectedFiles = DISK) -> None:
    """Half-written files of killed processes, wherever they lie in the directory. Raises StoreBrokenError."""
    try:
        remove_temporary_files(files, folder)
    except OSError as error:
        raise broken(folder, error, sending=False) from error


def remember_totals(folder: Path, totals: Totals, *, segment: int | None = None, files: Files = DISK) -> None:
    """Keep them in `run.json`, and the number of the ledger's newest segment. Raises StoreBrokenError."""
    there = read_run_file(folder, files=files)
    assert there is not None, "the directory was taken before"
    kept = msgspec.structs.replace(
        there,
        totals=msgspec.to_builtins(totals),
        segment=segment or there.segment,
        segment_bytes=None,
        segment_left=None,
    )
    write_run_file(folder, kept, files=files)


def segment_left(state: LedgerState) -> dict[str, int]:
    """Keys by state, of those for which something was or may be paid: done, failed, accepted."""
    return {
        item_state.name.lower(): state.count(item_state)
        for item_state in (ItemState.DONE, ItemState.FAILED, ItemState.ACCEPTED)
    }


def remember_ledger(
    folder: Path,
    *,
    segment: int,
    size_bytes: int,
    left: dict[str, int],
    checkpointed: SegmentMark | None,
    files: Files = DISK,
) -> None:
    """Keep in `run.json` where the ledger ended and how many items were in each state.

    `checkpointed` is how the segment was left, where there is a checkpoint of its end; None: there is none of this one.
    To be called when nothing writes to it any more. Raises StoreBrokenError.
    """
    there = read_run_file(folder, files=files)
    if there is not None:
        newest = checkpointed or there.checkpointed
        ended = msgspec.structs.replace(
            there, segment=segment, segment_bytes=size_bytes, segment_left=left, checkpointed=newest
        )
        write_run_file(folder, ended, files=files)


def remember_end(folder: Path, message: str | None, *, ended: str | None = None, files: Files = DISK) -> None:
    """Keep in `run.json` how the run ended, and why. Raises StoreBrokenError."""
    there = read_run_file(folder, files=files)
    assert there is not None, "the directory was taken before"
    if (there.message, there.ended) != (message, ended):
        write_run_file(folder, msgspec.structs.replace(there, message=message, ended=ended), files=files)


def remember_refusal(folder: Path, before: RunFile | None, error: JobMistakesError, *, files: Files = DISK) -> None:
    """Keep in `run.json` what is wrong with the job, so that `status` shows it. Raises StoreBrokenError.

    A part that was chosen wrongly says nothing about the run: run.json says what it said `before`, or, after a first
    run, no command, since this one would not continue it.
    """
    if not isinstance(error, PartMistakesError):
        remember_end(folder, str(error.mistakes[0]), ended="stopped", files=files)
    elif before is not None:
        write_run_file(folder, before, files=files)
    elif (there := read_run_file(folder, files=files)) is not None:
        commands: dict[str, None] = dict.fromkeys(("command", "command_elsewhere", "typed_in"))
        write_run_file(folder, msgspec.structs.replace(there, **commands), files=files)


def remembered_totals(folder: Path, *, files: Files = DISK) -> Totals | None:
    """What the last planning pass counted; None where there was none, or it cannot be read. Raises StoreBrokenError."""
    try:
        there = read_run_file(folder, files=files)
        return msgspec.convert(there.totals, Totals) if there is not None and there.totals is not None else None
    except (WrongDirectoryError, *UNREADABLE):
        return None


def windows_that_worked(folder: Path, *, files: Files = DISK) -> dict[str, int]:
    """`Totals.windows` of the last run here; empty when there was none."""
    there = read_run_file(folder, files=files)
    known = there.totals.get("windows") if there is not None and there.totals is not None else None
    if not isinstance(known, dict):
        return {}
    return {lane: width for lane, width in known.items() if isinstance(width, int) and width > 0}


# `errors.log`: tracebacks of internal errors, for bug reports. Private, without keys, of bounded size.
#
# Refuses to be a reason for a run's end: where it cannot be written, the error's one line has to do.

ERROR_LOG: Final = "errors.log"
LOG_BYTES_MAX: Final = 1_000_000
"""Nothing is added beyond it: the first errors matter most."""
ENTRY_CHARS_MAX: Final = 20_000
_LINE_CHARS_MAX: Final = 400


class ErrorLog:
    """Implements `core.ports.NoteFault` in a run's directory; `mask` takes keys out of a text."""

    def __init__(
        self, folder: Path, *, mask: Callable[[str], str], wall: Callable[[], float], files: Files = DISK
    ) -> None:
        self._path = folder / ERROR_LOG
        self._mask = mask
        self._wall = wall
        self._files = files

    def __repr__(self) -> str:
        return f"<ErrorLog {self._path}>"

    async def __call__(self, what: str, error: BaseException) -> str:
        """See `core.ports.NoteFault`."""
        line = self._mask(" ".join(f"{type(error).__name__}: {error}".split()))[:_LINE_CHARS_MAX]
        trace = self._mask("".join(traceback.format_exception(error)))
        if len(trace) > ENTRY_CHARS_MAX:
            trace = f"{trace[: ENTRY_CHARS_MAX // 2]}\n[…]\n{trace[-ENTRY_CHARS_MAX // 2 :]}"
        at = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds")
        entry = f"{at} {self._mask(' '.join(what.split()))}\n{trace}\n"
        try:
            await asyncio.to_thread(self._add, entry.encode("utf-8", "replace"))
        except OSError as refused:
            return f"{line} ({ERROR_LOG} could not be written: {refused.strerror or refused})"
        return line

    def _add(self, entry: bytes) -> None:
        descriptor = self._files.open_append(self._path, PRIVATE_FILE)
        try:
            if self._files.length(descriptor) + len(entry) <= LOG_BYTES_MAX:
                write_all(self._files, descriptor, entry)
        finally:
            self._files.close(descriptor)
