"""The disk space that files of a job will need, from the files that came so far, beside the space that is free.

Nothing is guessed: while no file has come, what they need is unknown. Files are counted as they lie there, with the
page's thumbnails; of very many only some are looked at.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from batchrunner.core.job import Job
from batchrunner.core.plan import DiskPlan
from batchrunner.stores.images import THUMBNAILS
from batchrunner.stores.media import FOLDER as MEDIA

_FOLDERS: Final = ("images", MEDIA)
_MOST_LOOKED_AT: Final = 5_000
"""Of each folder."""


def disk_plan(job: Job, *, ahead: int, done: int, files: int) -> DiskPlan | None:
    """What `ahead` items will need; None for jobs that make no files. Blocks.

    `done` items came so far, with `files` pictures in their rows.
    """
    if job.kind not in {"image", "media"} or not ahead:
        return None
    folder = Path(job.output.dir)
    free = _free_bytes(folder)
    sizes = [size for name in _FOLDERS for size in islice(_sizes(folder / name), _MOST_LOOKED_AT)]
    if not sizes or not done:
        return DiskPlan(items=ahead, measured=0, needed_bytes=None, free_bytes=free)
    thumbs = list(islice(_sizes(folder / THUMBNAILS), _MOST_LOOKED_AT)) if job.output.report else []
    a_file = sum(sizes) / len(sizes) + (sum(thumbs) / len(thumbs) if thumbs else 0.0)
    return DiskPlan(
        items=ahead, measured=len(sizes), needed_bytes=round(a_file * ahead * max(1.0, files / done)), free_bytes=free
    )


def disk_note(found: DiskPlan | None) -> tuple[str, ...]:
    """A warning where they will not fit."""
    if found is None or found.fits is not False or found.needed_bytes is None or found.free_bytes is None:
        return ()
    kept = int(found.items * found.free_bytes / found.needed_bytes)
    room = f"the disk has room for the files of about {kept:,} of {found.items:,} items: make room, or name another "
    return (f"{room}`output.dir`; a full disk stops the run, and what came is kept",)


def _sizes(folder: Path) -> Iterator[int]:
    """Of the plain files below it; nothing of what cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = list(islice(entries, _MOST_LOOKED_AT))
    except OSError:
        return
    for entry in found:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and not entry.name.startswith("."):
            yield status.st_size
        elif stat.S_ISDIR(status.st_mode):
            yield from _sizes(folder / entry.name)


def _free_bytes(folder: Path) -> int | None:
    """Where the folder lies, or will."""
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
