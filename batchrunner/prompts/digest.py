"""One digest of everything that a job's items are made of, so that a run can tell that nothing changed since its last.

Bytes are hashed as they lie on the disk, about a gigabyte a second; nothing is parsed. What cannot be hashed without
reading the rows, like pictures that a row names, has no digest: then the items are looked at one by one, as ever.
"""

import os
import stat
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from batchrunner.core import VERSION
from batchrunner.core.item import KEY_VERSION
from batchrunner.core.job import Job, Listing, Source, seen_from_its_folder
from batchrunner.prompts.pictures import Album, BadPictureError
from batchrunner.prompts.sources.folder import FILE, names_of

_STEP_BYTES = 1 << 20
_MARK = "{"
"""What every template has."""
_OF_THE_FOLDER = (f"{{{{ {FILE} }}}}", f"{{{{{FILE}}}}}")
"""Templates of a picture that lies in the source itself."""
_FIELDS = (
    "kind",
    "models",
    "prompts",
    "matrix",
    "params",
    "system",
    "messages",
    "images",
    "images_from",
    "picture_folders",
    "schema",
    "stream",
    "replicas",
)
"""Of a job: what its items are made of, besides the dialect and the names of files."""


class _UnknownError(Exception):
    """There is no telling, without a whole pass, what the items depend on."""


def digest_of_items(job: Job) -> str | None:
    """blake2b-128 of all that decides the job's items, 32 hex digits. Blocks; for a thread.

    That is: the job's own words, the bytes of its source and of its local pictures, and the version of this program.
    The same digest twice means the same items, with the same ids, keys and order, whatever the working directory. A
    pass between two calls that give the same digest has read what the digest stands for.

    Returns:
        None where it cannot be known without a whole pass: a source or picture that cannot be read, no regular file,
        changed while it was hashed, or pictures whose paths stand in the rows.
    """
    hashed = blake2b(digest_size=16)
    here = seen_from_its_folder(job, os.path.realpath)
    own = [getattr(here, name) for name in _FIELDS]
    fixed = (VERSION, KEY_VERSION, job.provider.dialect, job.output.name, job.output.each, *own)
    try:
        _add(hashed, repr(fixed).encode("utf-8", "surrogatepass"))
        for path in _files(job):
            _add(hashed, os.fsencode(path.name))
            _add_file(hashed, path)
    except (_UnknownError, BadPictureError, OSError, ValueError, RecursionError):
        return None
    return hashed.hexdigest()


def _files(job: Job) -> Iterator[Path]:
    """Every file that the items are made of, in an order of its own."""
    is_folder = False
    if isinstance(job.prompts, Source):
        path = Path(job.prompts.path)
        is_folder = path.is_dir()
        yield from (path / name for name in names_of(str(path))) if is_folder else (path,)
    album = Album(job)
    for text in _pictures(job):
        if is_folder and text.strip() in _OF_THE_FOLDER:
            continue
        if _MARK in text:
            raise _UnknownError
        if text.strip() and not album.is_passed_on(text.strip()):
            yield Path(album.located(text.strip()))


def _pictures(job: Job) -> Iterator[str]:
    yield from job.images
    if isinstance(job.prompts, Listing):
        for entry in job.prompts.entries:
            yield from entry.images or ()


def _add(hashed: "blake2b", part: bytes) -> None:
    """A part with its length before it, so that no two lists of parts look the same."""
    hashed.update(b"%d:" % len(part))
    hashed.update(part)


def _add_file(hashed: "blake2b", path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would be waited for
        raise _UnknownError
    with path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        hashed.update(b"%d:" % before.st_size)
        while step := file.read(_STEP_BYTES):
            hashed.update(step)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _UnknownError
