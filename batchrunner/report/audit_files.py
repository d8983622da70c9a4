"""The audit's passes over files: the bytes of every picture, unexpected files, and permissions.

Pictures are read one at a time for each thread. Refuses to follow links and to remove anything.
"""

import hashlib
import os
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final

from batchrunner.core.text import late_pattern
from batchrunner.core.values import dataclass, field
from batchrunner.report.audit_ledger import FindingList, Named, path_mark
from batchrunner.stores.artifacts import sha256_of
from batchrunner.stores.export_files import EXPORTS
from batchrunner.stores.files import (
    FAILURES,
    RESULTS,
    SUPERSEDED,
    SUPERSEDED_FAILURES,
    InspectedFiles,
    is_left_over,
)
from batchrunner.stores.ledger_line import CHECKPOINT_NAME, LEDGER, SEGMENT_NAME
from batchrunner.stores.lock import LOCK, LOCK_FILE
from batchrunner.stores.media import FOLDER as MEDIA_FOLDER
from batchrunner.stores.mirror import UPLOADS
from batchrunner.stores.results import FAILURES_TORN, TORN
from batchrunner.stores.run_directory import ERROR_LOG
from batchrunner.stores.run_file import RUN_FILE

_LEDGER_NAMES: Final = late_pattern(rf"{SEGMENT_NAME.pattern}|{CHECKPOINT_NAME.pattern}")
_CACHE: Final = "thumbs"
"""Thumbnails are not synced, so a power loss may leave parts of them; any of them may be deleted."""
OWN: Final = frozenset(
    {
        *(RUN_FILE, LOCK, LOCK_FILE, RESULTS, FAILURES, SUPERSEDED, SUPERSEDED_FAILURES, TORN, FAILURES_TORN),
        *(ERROR_LOG, "README.md", UPLOADS, "metadata.jsonl", "report.html", "scores.jsonl"),
        *(f"{EXPORTS}/", "batches/", "control/", "judge/", "report/", "shards/", f"{_CACHE}/"),
    }
)
"""What this program, in this version or a later one, puts at the top of a run's directory; a folder with its content.
Pictures, answers and the ledger are known one by one."""
PRIVATE: Final = (RUN_FILE, LOCK, LEDGER, ERROR_LOG)
_IMAGES: Final = "images"
_DAMAGED: Final = (_IMAGES, "damaged")
"""Received bytes that are not a valid picture, kept for inspection."""
_SUFFIX: Final = late_pattern(r"\d+|[0-9a-f]{8}")
_SUFFIXES: Final = 3
"""What may follow an item's name in that of its file: of its key, a number for equal ones, a picture's number."""
_OTHERS: Final = 0o077
_AT_ONCE: Final = 4
"""Pictures per thread that may wait for their turn."""
_MISSING: Final = "file_missing"
_WORDS_KEPT: Final = 100
"""The most items whose messages are kept until it is known whether they are still in the job."""


@dataclass(slots=True, kw_only=True)
class PictureAudit:
    """Looks at pictures in a few threads; `finish` waits for the last ones. A context manager."""

    folder: Path
    files: InspectedFiles
    finding_list: FindingList
    threads: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    pictures: int = 0
    picture_bytes: int = 0
    _pool: ThreadPoolExecutor = field(init=False)
    _missing: dict[bytes, list[str]] = field(default_factory=dict)
    _flying: "deque[tuple[str, bytes, Future[tuple[str, str] | None]]]" = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="audit")

    def look_at(self, item_id: str, key: bytes, named: tuple[Named, ...]) -> None:
        """Check the pictures of an item against what was recorded; what is wrong goes onto the sheet, in order.

        Pictures that are not there wait for `report_missing`.
        """
        for picture in named:
            self.pictures += 1
            self.picture_bytes += picture[1]
            self._flying.append((item_id, key, self._pool.submit(fault_of, self.files, self.folder, picture)))
        while len(self._flying) > _AT_ONCE * self.threads:
            self._on_checked()

    def finish(self) -> None:
        """Wait for those under way."""
        while self._flying:
            self._on_checked()
        self._pool.shutdown()

    def _on_checked(self) -> None:
        item_id, key, flying = self._flying.popleft()
        fault = flying.result()
        if fault is None:
            return
        kind, words = fault
        if kind != _MISSING:
            self.finding_list.add(kind, f"{words} (item `{item_id}`)")
        elif key in self._missing or len(self._missing) < _WORDS_KEPT:
            self._missing.setdefault(key, []).append(f"{words} (item `{item_id}`)")
        else:
            self._missing[key] = [words]

    def report_missing(self, *, set_aside: Container[bytes]) -> None:
        """Pictures that are not there; of items in `set_aside`, which the job has no more, they are no damage."""
        for key, words in self._missing.items():
            for each in words:
                self.finding_list.add("superseded_missing" if key in set_aside else _MISSING, each)


def fault_of(files: InspectedFiles, folder: Path, picture: Named) -> tuple[str, str] | None:
    """(kind of finding, words) of what is wrong with a recorded picture; None when it is unchanged. Raises OSError."""
    from batchrunner.stores.images import picture_fault  # noqa: PLC0415 - Pillow, for audits with pictures only

    path, size_bytes, sha256 = picture
    if PurePosixPath(path).parts[:1] == (MEDIA_FOLDER,):
        return _media_fault(files, folder, picture)
    data = read_plain(files, folder, path, most_bytes=size_bytes + 1)
    if data is None:
        return "file_missing", path
    if len(data) != size_bytes:
        than = "more" if len(data) > size_bytes else "fewer"
        return "file_changed", f"{path}: {than} than the recorded {size_bytes} bytes"
    if hashlib.sha256(data).hexdigest() != sha256:
        return "file_changed", f"{path}: its sha256 differs"
    fault = picture_fault(data)
    return None if fault is None else ("picture_broken", f"{path}: {fault}")


def _media_fault(files: InspectedFiles, folder: Path, file: Named) -> tuple[str, str] | None:
    """The same of a file that may be too large for memory: it is read in pieces. Raises OSError."""
    path, size_bytes, sha256 = file
    if not is_plain(files, folder, path):
        return "file_missing", path
    found = files.look(folder / path)
    if found is None or found.size_bytes != size_bytes:
        than = "more" if found is not None and found.size_bytes > size_bytes else "fewer"
        return "file_changed", f"{path}: {than} than the recorded {size_bytes} bytes"
    return None if sha256_of(files, folder / path) == sha256 else ("file_changed", f"{path}: its sha256 differs")


def read_plain(files: InspectedFiles, folder: Path, path: str, *, most_bytes: int) -> bytes | None:
    """The first bytes of a plain file below the folder; None when there is none. Raises OSError."""
    if not is_plain(files, folder, path):
        return None
    descriptor = files.open_read(folder / path)
    try:
        return files.read_at(descriptor, most_bytes, 0)
    finally:
        files.close(descriptor)


def is_plain(files: InspectedFiles, folder: Path, path: str) -> bool:
    """Whether a plain file lies there, below real folders only. Raises OSError."""
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
        return False
    here = folder
    for part in parts[:-1]:
        here /= part
        step = files.look(here)
        if step is None or step.kind != "folder":
            return False
    found = files.look(folder / path)
    return found is not None and found.kind == "file"


def look_around(
    folder: Path, *, files: InspectedFiles, finding_list: FindingList, named: set[int], open_stems: frozenset[str]
) -> None:
    """Report unexpected and partly written files, links, and private files that others can read. Raises OSError.

    `open_stems` begin the names of files whose item is not done yet: the next run writes the same again.
    """
    for path in _walk(files, folder, PurePosixPath()):
        found = files.look(folder / path)
        name = path.as_posix()
        if found is None:
            continue
        if found.kind == "other":
            finding_list.add("not_plain", name)
        if path.parts[0] in PRIVATE and found.mode & _OTHERS:
            finding_list.add("mode_open", f"{name}: mode {found.mode:04o}")
        if (
            found.kind == "file"
            and not _is_own(path)
            and path_mark(name) not in named
            and not _awaits(path, open_stems)
        ):
            finding_list.add("leftover" if is_left_over(path.name) else "stray", name)


def _is_own(path: PurePosixPath) -> bool:
    if path.parts[: len(_DAMAGED)] == _DAMAGED or path.parts[0] == _CACHE:
        return True
    if len(path.parts) == 1:
        return path.name in OWN
    if f"{path.parts[0]}/" in OWN and not is_left_over(path.name):
        return True
    return path.parent == PurePosixPath(LEDGER) and _LEDGER_NAMES.fullmatch(path.name) is not None


def _awaits(path: PurePosixPath, open_stems: frozenset[str]) -> bool:
    """Whether a picture is one of an item whose other pictures are not there yet."""
    stem = path.stem if path.parent.as_posix() in {_IMAGES, MEDIA_FOLDER} else ""
    for _ in range(_SUFFIXES):
        if stem in open_stems:
            return True
        stem, _, suffix = stem.rpartition("-")
        if not _SUFFIX.fullmatch(suffix):
            return False
    return stem in open_stems


def _walk(files: InspectedFiles, folder: Path, below: PurePosixPath) -> Iterator[PurePosixPath]:
    """Everything below the folder, a folder before what is in it."""
    folders = set(files.folders(folder / below))
    for name in sorted(files.names(folder / below)):
        yield below / name
        if name in folders:
            yield from _walk(files, folder, below / name)
