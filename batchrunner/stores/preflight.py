"""What a run will need of its disk and of the system, tried before the first payment.

An answer that finds no place is paid for and lost, so every place is opened and written once while nothing has been
sent: the result files, `images/`, the folders of `output.each`, with a name as long as the longest that can come. The
same for open files: the limit is raised as far as the system allows, and what is left of it bounds the requests in
flight. Refuses, as StoreBrokenError, with the file and what to do.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.item import STEM_LIMIT_BYTES
from batchrunner.core.job import TASK_KINDS, Job
from batchrunner.core.rate_limiter_tuning import CEILING
from batchrunner.stores.artifacts import safe_path
from batchrunner.stores.files import (
    FAILURES,
    PRIVATE_FILE,
    RESULTS,
    SHARED_FOLDER,
    TEMPORARY,
    InspectedFiles,
    syncs_folder,
    write_all,
)
from batchrunner.stores.lock import LOCK_FILE, RunLock

IMAGES = "images"
MEDIA = "media"
_TRIED_BYTES = 4096
_LONGEST_ENDING = 24
_MOST_FOR_AUTO = 256
"""What `auto` rarely needs more than: below that, the bound is worth a word."""
_KEPT_FREE = 48
"""Descriptors for files, threads, name look-ups, polls and whatever else is no request."""
_TO_DO = {
    errno.ENOSPC: "free space on this disk",
    errno.EDQUOT: "free space: the disk quota is used up",
    errno.EROFS: "the disk is mounted read-only; choose another directory with --out",
    errno.EACCES: "get write permission, or choose another directory with --out",
    errno.EPERM: "get write permission, or choose another directory with --out",
    errno.ENAMETOOLONG: "choose a shorter path with --out",
    errno.ELOOP: "replace the symbolic link with the file itself, or make output.dir itself a link",
    errno.ENOTDIR: "replace it with a directory, or make output.dir itself a link",
    errno.EISDIR: "move away the directory with this name",
}


def try_disk(folder: Path, job: Job, *, files: InspectedFiles) -> tuple[str, ...]:
    """Open and write everything that the run will write; returns notes on this disk. Blocks.

    Raises:
        StoreBrokenError: a place cannot be written.
    """
    for name in (RESULTS, FAILURES):
        _try_file(files, folder / name)
    places = [folder, *_answer_folders(folder, job)]
    if job.kind == "image" or files.exists(folder / IMAGES):
        places.append(folder / IMAGES)
    if job.kind == "media":
        places.append(folder / MEDIA)
    for place in places:
        _try_folder(files, folder, place)
    return () if syncs_folder(folder) else (_UNSYNCED.format(folder=folder),)


_UNSYNCED = (
    "{folder}: this disk cannot fsync directories (common on network disks): a power cut may lose the newest files, "
    "and their items would be billed again; a killed process loses nothing"
)


def places_for_requests(job: Job, *, lanes: int) -> int:
    """Raise the limit of open files as far as it goes; how many requests each lane may then have in flight.

    Raises:
        StoreBrokenError: not even one.
    """
    limit = _raised_limit()
    if limit is None:
        return sys.maxsize
    each = 2 if job.kind in TASK_KINDS else 1  # a picture is fetched while the lane's next request is under way
    places = (limit - _open_now() - _KEPT_FREE) // (each * max(1, lanes))
    if places < 1:
        raise StoreBrokenError(
            f"the open-file limit of {limit} is too low for one request on each of {lanes} lanes; nothing was sent. "
            "Raise it with `ulimit -n 1024`, then rerun the same command"
        )
    return places


def requests_allowed(job: Job, *, lanes: int, say: Callable[[str], None]) -> int:
    """How many requests each lane may have in flight under the open-file limit; printed if that is fewer."""
    places = places_for_requests(job, lanes=lanes)
    if places < (job.limits.concurrency or _MOST_FOR_AUTO):
        asked = (
            f"limits.concurrency is {job.limits.concurrency}" if job.limits.concurrency else "`auto` stays below that"
        )
        say(
            f"at most {places} requests in flight on each lane, because of the open-file limit (raise it with "
            f"`ulimit -n`); {asked}"
        )
    return min(places, max(job.limits.concurrency or 0, CEILING))


def lock_notes(lock: RunLock, folder: Path) -> tuple[str, ...]:
    """A note on a disk without file locks."""
    words = f"{folder}: this disk does not support file locks; the file `{LOCK_FILE}` is used instead"
    return (
        (f"{words}. Do not run this job on two machines at once: both would send everything",)
        if lock.is_second_best
        else ()
    )


def _raised_limit() -> int | None:
    """The system's limit of open files, raised; None where there is none."""
    try:
        import resource  # noqa: PLC0415 - it is not there on every system
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems allow less than they report
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return None if soft == resource.RLIM_INFINITY else soft


def _open_now() -> int:
    for listed in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(listed))  # noqa: PTH208 - numbers are wanted, not paths
    return 16


def _answer_folders(folder: Path, job: Job) -> Iterator[Path]:
    """The folders of `output.each` that are the same for all items."""
    written, template, _ = (job.output.each or "").partition("{")
    steps = PurePosixPath(written.replace("\\", "/") + ("x" if template or not written else "")).parts[:-1]
    if job.output.each and steps:
        here = folder
        for step in PurePosixPath(safe_path("/".join((*steps, "x")))).parts[:-1]:
            here /= step
            yield here


def _try_file(files: InspectedFiles, path: Path) -> None:
    """A file that is there can be appended to."""
    if not files.exists(path):
        return
    try:
        found = files.look(path)
        if found is not None and found.kind == "folder":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        files.close(files.open_append(path, PRIVATE_FILE))
    except OSError as error:
        raise _refused(path, error) from error


def _try_folder(files: InspectedFiles, root: Path, place: Path) -> None:
    """A folder that is there, or can be made, takes a new file with a long name and its bytes."""
    try:
        if place != root:
            files.make_folder(place, SHARED_FOLDER)
        digits = STEM_LIMIT_BYTES + _LONGEST_ENDING - len(TEMPORARY) - len(f".{os.getpid()}-")
        path = place / f".{os.getpid()}-{'0' * digits}{TEMPORARY}"  # a left-over by its name, should this be killed
        descriptor = files.open_new(path, PRIVATE_FILE)
        try:
            write_all(files, descriptor, bytes(_TRIED_BYTES))
            files.fsync(descriptor)
        finally:
            files.close(descriptor)
            files.unlink(path)
    except OSError as error:
        raise _refused(place, error) from error


def _refused(path: Path, error: OSError) -> StoreBrokenError:
    what = _TO_DO.get(error.errno or 0, "fix the disk, or choose another directory with --out")
    said = error.strerror or str(error)
    return StoreBrokenError(
        f"{path}: {said}; results could not be saved there, so nothing was sent. To continue: {what}"
    )
