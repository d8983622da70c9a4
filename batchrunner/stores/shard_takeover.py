"""A shard is taken over: its next epoch begins with a copy of what the last one has recorded.

The process of the older epoch may be stopped and wake up later, so nothing that it writes to is used by both. The
ledger and the files of rows are copied up to their last whole line, the ledger first: a row is durable before its
record, so no record is without its row. Pictures and other finished files get a second name. The copy is what a crash
of the older process would have left, and is gone on with as after one: what it was sending is counted as unknown.

The folder takes its name last, so an epoch is whole or not there. A copy that was cut off is made again.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batchrunner.core.errors import WrongDirectoryError
from batchrunner.core.part import Shard
from batchrunner.stores.control_folder import CONTROL
from batchrunner.stores.export_files import EXPORTS
from batchrunner.stores.files import (
    DISK,
    FAILURES,
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    RESULTS,
    SHARED_FILE,
    SHARED_FOLDER,
    SUPERSEDED,
    SUPERSEDED_FAILURES,
    Files,
    broken,
    is_left_over,
    write_all,
)
from batchrunner.stores.ledger_line import LEDGER, segment_numbers, segment_path
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.run_file import RUN_FILE, SHARDS, make_run_folder
from batchrunner.stores.shards import epochs_of, link_or_copy

_ROWS: Final = (RESULTS, FAILURES, SUPERSEDED, SUPERSEDED_FAILURES)
_LEFT: Final = frozenset({LEDGER, CONTROL, EXPORTS, "thumbs", "report"})
"""Folders that belong to the older process."""
_PIECE_BYTES: Final = 1 << 20
_UNFINISHED: Final = "taking-over-"


def epoch_number(folder: Path) -> int:
    """Of an epoch's directory."""
    return int(folder.name.removeprefix("epoch-"))


def take_over_shard(base: Path, shard: Shard, epoch: int, *, files: Files = DISK) -> Path:
    """The directory of this epoch of a shard, with all that earlier ones have recorded. Blocks.

    Raises:
        WrongDirectoryError: a later epoch has begun, so this one is not for this process any more.
        LedgerDamagedError: of the older epoch.
        StoreBrokenError: the disk refused.
    """
    folder = base / SHARDS / shard.folder
    target = folder / f"epoch-{epoch}"
    before = epochs_of(base, shard)
    if before and epoch_number(before[0]) > epoch:
        raise WrongDirectoryError(
            f"{target}: another process has taken shard {shard} over as epoch {epoch_number(before[0])}; "
            "this one must send nothing more for it"
        )
    if target in before:
        return target
    older = next((each for each in before if _has_ledger(each)), None)
    make_run_folder(folder)
    if older is None:
        return target  # nothing was sent: the run makes it
    unfinished = folder / f"{_UNFINISHED}{epoch}"
    try:
        for name in files.names(folder):
            if name.startswith(_UNFINISHED) and int(name.removeprefix(_UNFINISHED)) <= epoch:
                shutil.rmtree(folder / name, ignore_errors=True)
        files.make_folder(unfinished, SHARED_FOLDER)
        _copy_run(older, unfinished, files)
        files.rename(unfinished, target)
        files.fsync_folder(folder)
    except OSError as error:
        raise broken(target, error, sending=False) from error
    return target


def _has_ledger(run: Path) -> bool:
    """Whether anything can have been sent there."""
    try:
        return DISK.exists(run / LEDGER) and bool(segment_numbers(DISK.names(run / LEDGER)))
    except OSError as error:
        raise broken(run, error, sending=False) from error


def _copy_run(older: Path, new: Path, files: Files) -> None:
    _copy_ledger(older / LEDGER, new / LEDGER, files)
    for name in _ROWS:
        if files.exists(older / name):
            descriptor = files.open_read(older / name)
            try:
                _copy(descriptor, new / name, _whole_lines(descriptor, files), files, mode=SHARED_FILE)
            finally:
                files.close(descriptor)
    if files.exists(older / RUN_FILE):
        descriptor = files.open_read(older / RUN_FILE)
        try:
            _copy(descriptor, new / RUN_FILE, files.length(descriptor), files, mode=PRIVATE_FILE)
        finally:
            files.close(descriptor)
    for place, names in _finished_files(older):
        target = new
        for part in place.parts:
            target /= part
            files.make_folder(target, SHARED_FOLDER)
        for name in names:
            link_or_copy(older / place / name, target / name)
        files.fsync_folder(target)
        files.fsync_folder(target.parent)
    files.fsync_folder(new)


def _copy_ledger(older: Path, new: Path, files: Files) -> None:
    """Every segment, up to the end of its last whole record."""
    files.make_folder(new, PRIVATE_FOLDER)
    reading = read_ledger(older)
    sizes = {}
    for number in segment_numbers(files.names(older)):
        descriptor = files.open_read(segment_path(older, number))
        try:
            sizes[number] = _whole_lines(descriptor, files)
        finally:
            files.close(descriptor)
    for _ in reading:  # a damaged one is refused before anything is made of it
        pass
    torn = {one.number: one.left_out.offset for one in reading.segments if one.left_out is not None}
    for number, end in sizes.items():
        if not end:
            continue  # its process ended before its first record
        descriptor = files.open_read(segment_path(older, number))
        try:
            kept = min(end, torn.get(number, end))
            _copy(descriptor, segment_path(new, number), kept, files, mode=PRIVATE_FILE)
        finally:
            files.close(descriptor)
    files.fsync_folder(new)


def _finished_files(run: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders of pictures, answers and batches with the names of their files, relative to the run."""
    for here, folders, names in os.walk(run):
        place = Path(here)
        if place == run:
            folders[:] = sorted(set(folders) - _LEFT)
            continue
        whole = [name for name in names if not is_left_over(name) and not (place / name).is_symlink()]
        yield place.relative_to(run), [name for name in whole if (place / name).is_file()]


def _whole_lines(descriptor: int, files: Files) -> int:
    """The length of a file up to its last newline."""
    end = files.length(descriptor)
    while end:
        start = max(0, end - _PIECE_BYTES)
        found = files.read_at(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _copy(source: int, path: Path, end: int, files: Files, *, mode: int) -> None:
    new = files.open_new(path, mode)
    try:
        start = 0
        while start < end and (piece := files.read_at(source, min(_PIECE_BYTES, end - start), start)):
            write_all(files, new, piece)
            start += len(piece)
        files.fsync(new)
    finally:
        files.close(new)
