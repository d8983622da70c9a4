"""How a clean end left a run's directory, and whether it still stands so.

Of each file of rows its inode, size and time of change are kept, of each folder of outputs its inode, the newest time
of change of the folders in it and the number of files. What is the same was not changed by hand; what differs, and
what was copied, is looked at row by row (`inspection`). Refuses to vouch for what it cannot name in one ledger record.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchrunner.core.events import Close, FileMark, FolderMark
from batchrunner.stores.files import InspectedFiles, broken

RESULTS: Final = "results.jsonl"
FAILURES: Final = "failures.jsonl"
SUPERSEDED: Final = "superseded.jsonl"
SUPERSEDED_FAILURES: Final = "superseded_failures.jsonl"
_MARKED: Final = (RESULTS, FAILURES, SUPERSEDED, SUPERSEDED_FAILURES)
_MOST_FOLDERS: Final = 200
"""So many fit into a record whatever they are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What `Close` keeps."""

    files: tuple[FileMark, ...]
    folders: tuple[FolderMark, ...]


def marks_of(files: InspectedFiles, folder: Path, outputs: Iterable[str]) -> Marks | None:
    """The directory as it stands; `outputs` are the folders at its top that hold pictures and answers.

    None when there are too many of these for a record. Blocks. Raises StoreBrokenError.
    """
    names = sorted(outputs)
    if len(names) > _MOST_FOLDERS or any(len(name) > _MOST_FOLDERS for name in names):
        return None
    try:
        return Marks(
            files=tuple(mark for name in _MARKED if (mark := _file_mark(files, folder, name)) is not None),
            folders=tuple(mark for name in names if (mark := _folder_mark(files, folder, name)) is not None),
        )
    except OSError as error:
        raise broken(folder, error) from error


def stands_as_marked(files: InspectedFiles, folder: Path, marked: Close | None) -> bool:
    """Whether nobody changed the directory since that end. Blocks. Raises StoreBrokenError."""
    if marked is None or marked.files is None:
        return False
    now = marks_of(files, folder, (name for name, *_ in marked.folders))
    return now is not None and now.files == marked.files and now.folders == marked.folders


def size_marked(marked: Close, name: str) -> int:
    """Bytes of a file of rows at that end."""
    return next((size for known, _, size, _ in marked.files or () if known == name), 0)


def count_files(files: InspectedFiles, folder: Path) -> tuple[int, int]:
    """(files in a folder and below, newest time of change of these folders). Raises OSError."""
    found = files.look(folder)
    below = files.folders(folder)
    count, newest = len(files.names(folder)) - len(below), found.mtime_ns if found is not None else 0
    for name in below:
        inner, changed = count_files(files, folder / name)
        count, newest = count + inner, max(newest, changed)
    return count, newest


def _file_mark(files: InspectedFiles, folder: Path, name: str) -> FileMark | None:
    found = files.look(folder / name)
    return None if found is None else (name, found.inode, found.size_bytes, found.mtime_ns)


def _folder_mark(files: InspectedFiles, folder: Path, name: str) -> FolderMark | None:
    found = files.look(folder / name)
    if found is None or found.kind != "folder":
        return None
    count, newest = count_files(files, folder / name)
    return name, found.inode, newest, count
