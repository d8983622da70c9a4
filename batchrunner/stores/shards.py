"""Where the shards of a job lie, and what keeps them and a run of the whole job out of each other's way.

    DIR/shards/layout.json            how many shards there are: made once, never changed
    DIR/shards/I-of-N/epoch-E/        a run directory like any other
    DIR/shards/merged.json            what `merge` has put into DIR, and whether that was all

A shard's files belong to one process at a time, by the lock of its directory. A later epoch is written by whoever took
the shard over; where an item is done in two of them, the later one counts.
"""

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from batchrunner.core.errors import WrongDirectoryError
from batchrunner.core.job import Job
from batchrunner.core.part import Shard
from batchrunner.core.state import LedgerState
from batchrunner.core.text import late_pattern
from batchrunner.stores.files import (
    DISK,
    NOT_OFFERED,
    SHARED_FILE,
    broken,
    open_beside,
    write_all,
    write_whole,
)
from batchrunner.stores.ledger_line import LEDGER, segment_numbers, segment_path
from batchrunner.stores.ledger_reader import newest_open, read_ledger
from batchrunner.stores.ledger_replay import replay_into
from batchrunner.stores.lock import holder_of
from batchrunner.stores.row_codec import UNREADABLE
from batchrunner.stores.run_file import LAYOUT, RUN_FILE, SHARDS, make_run_folder, read_run_file

MERGED: Final = "merged.json"
_VERSION: Final = 1
_PIECE_BYTES: Final = 1 << 20
_EPOCH: Final = late_pattern(r"epoch-([1-9][0-9]{0,8})")
_NO_LINKS: Final = NOT_OFFERED | {errno.EPERM, errno.EXDEV, errno.EMLINK}
"""Errors of file systems without hard links, or without one more."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """`layout.json`."""

    version: int = _VERSION
    job: str
    """Name of the job."""
    simulated: bool
    shards: int


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """`merged.json`: removed first by a merge of a part, written last by each."""

    version: int = _VERSION
    whole: bool
    """All shards were free, and are closed from the beginning of the merge: the run goes on in the merged directory."""
    done: bool = True
    """False while a whole merge is at work, and after a kill: then it is to be done again."""
    at: str
    """UTC, RFC 3339."""
    rows: int
    failures: int
    shards: int
    """That had begun."""
    taken: dict[str, int] | None = None
    """What was merged, `I-of-N/epoch-E`, and bytes of its ledger then; None in what earlier versions wrote."""


def shard_folder(base: Path, shard: Shard) -> Path:
    """The run directory of a shard: that of its newest epoch."""
    return next(iter(epochs_of(base, shard)), base / SHARDS / shard.folder / "epoch-1")


def epochs_of(base: Path, shard: Shard) -> list[Path]:
    """The run directories of a shard, the newest first; none before it has begun. Blocks. Raises StoreBrokenError."""
    folder = base / SHARDS / shard.folder
    try:
        names = DISK.names(folder) if DISK.exists(folder) else []
    except OSError as error:
        raise broken(folder, error, sending=False) from error
    numbers = sorted((int(found[1]) for name in names if (found := _EPOCH.fullmatch(name))), reverse=True)
    return [folder / f"epoch-{number}" for number in numbers]


def all_shards(layout: Layout) -> Iterator[Shard]:
    """Every shard of a job, whether it has begun or not."""
    return (Shard(number=number, of=layout.shards) for number in range(layout.shards))


def base_of(job: Job) -> Path:
    """The directory of the whole job, of which a shard's lies three levels below."""
    return Path(job.output.dir).parents[2] if job.shard is not None else Path(job.output.dir)


def read_layout(base: Path) -> Layout | None:
    """How the job in this directory is divided; None where it is not. Blocks.

    Raises:
        WrongDirectoryError: the file is damaged, or of a later version.
        StoreBrokenError: the disk refused.
    """
    return _read(base / SHARDS / LAYOUT, Layout, advice="restore it from a backup")


def read_merged(base: Path) -> Merged | None:
    """What `merge` has done here; None where it has not, or was cut off. Blocks. Raises as `read_layout`."""
    return _read(base / SHARDS / MERGED, Merged, advice="run `batchrunner merge` again")


def has_open_shards(base: Path) -> bool:
    """Whether a job is divided here, and its shards are not merged for good. Blocks. Raises as `read_layout`."""
    return read_layout(base) is not None and not is_over(read_merged(base))


def is_over(merged: Merged | None) -> bool:
    """Whether a merge of all shards came to its end."""
    return merged is not None and merged.whole and merged.done


def came_late(base: Path, layout: Layout, merged: Merged) -> list[str]:
    """Shards that were put here, or completed, after they were merged, such as from another machine. Blocks."""
    late: list[str] = []
    for shard in all_shards(layout) if merged.taken is not None else ():
        newest = next((folder for folder in epochs_of(base, shard) if DISK.exists(folder / RUN_FILE)), None)
        if newest is not None and merged.taken is not None:
            known = merged.taken.get(f"{shard.folder}/{newest.name}")
            if known is None or sum(ledger_sizes(newest / LEDGER).values()) > known:
                late.append(str(shard))
    return late


def ledger_sizes(ledger: Path) -> dict[int, int]:
    """The lengths of the segments, by number, as they are now: a living process may add to the last one. Blocks."""
    numbers = segment_numbers(DISK.names(ledger)) if DISK.exists(ledger) else []
    looks = {number: DISK.look(segment_path(ledger, number)) for number in numbers}
    return {number: look.size_bytes for number, look in looks.items() if look is not None}


def stands_as_merged(base: Path) -> bool:
    """Whether no run has gone on in the merged directory since. Blocks. Raises as `read_run_file`."""
    there, sizes = read_run_file(base), ledger_sizes(base / LEDGER)
    if there is None or there.ended is not None or there.segment is None:
        return False
    return max(sizes, default=0) == there.segment and sizes[there.segment] == there.segment_bytes


def check_shard(job: Job) -> None:
    """Refuse a run that does not fit what lies in the directory; changes nothing. Blocks. For every run and plan.

    Raises:
        WrongDirectoryError: another number of shards, shards that are merged, a run of the whole job beside shards.
        StoreBrokenError: the disk refused.
    """
    base, shard = base_of(job), job.shard
    layout = read_layout(base)
    if layout is None:
        if shard is not None and (newest_open(base / LEDGER) is not None or DISK.exists(base / RUN_FILE)):
            raise WrongDirectoryError(
                f"{base}: holds a run of the whole job, so its items would be paid for again; go on without --shard, "
                "or give the shards a directory of their own (--out)"
            )
        return
    if (layout.job, layout.simulated) != (job.name, job.simulated):
        of = f"{'a simulated run' if layout.simulated else 'a run'} of the job `{layout.job}`"
        raise WrongDirectoryError(f"{base}: has the shards of {of}; choose another directory with --out")
    merged = read_merged(base)
    if shard is None and not is_over(merged):
        raise WrongDirectoryError(f"{base}: {divided_words(base)}")
    if shard is None:
        if merged is not None and (late := came_late(base, layout, merged)) and stands_as_merged(base):
            raise WrongDirectoryError(
                f"{base}: shard {', '.join(late)} has come since its shards were merged; its items would be paid for "
                f"again; run `batchrunner merge {shlex.quote(str(base))}` first"
            )
        return
    if shard.of != layout.shards:
        raise WrongDirectoryError(
            f"{base}: the job is divided into {layout.shards} shards, not {shard.of}; go on with "
            f"--shard {min(shard.number, layout.shards - 1)}/{layout.shards}, or choose another directory with --out"
        )
    if is_over(merged):
        raise WrongDirectoryError(f"{base}: its shards were merged; go on with `batchrunner run JOB`, without --shard")
    if merged is not None and merged.whole:
        raise WrongDirectoryError(
            f"{base}: its shards are being merged, or a merge was cut off; let it come to its end, or run "
            f"`batchrunner merge {shlex.quote(str(base))}` again, then go on with `batchrunner run JOB`"
        )


def processes_here(shards: int) -> int:
    """How many processes of this machine would go on with so many shards: one for each processor, at most."""
    return min(shards, os.cpu_count() or 1)


def divided_words(base: Path) -> str:
    """That a job is divided, and how to go on with it. Blocks. Raises as `read_layout`."""
    layout = read_layout(base)
    assert layout is not None, "asked for a job that is divided"
    of = layout.shards
    return (
        f"the job is divided into {of} shards that are not merged; go on with `batchrunner run JOB --shard I/{of}` for "
        f"each I from 0 to {of - 1}, then `batchrunner merge {shlex.quote(str(base))}`; or with "
        f"`--processes {processes_here(of)}`, which does both"
    )


def replay_shards(base: Path, *, day_offset_s: float) -> LedgerState:
    """What all shards together remember. Blocks. Raises as `replay`, and as `read_layout`."""
    layout, state = read_layout(base), LedgerState(day_offset_s=day_offset_s)
    for shard in all_shards(layout) if layout is not None else ():
        for folder in epochs_of(base, shard)[:1]:  # it has what the older ones had when it took the shard over
            replay_into(state, read_ledger(folder / LEDGER))
            state.segment_ended()
    return state


def claim_shard(job: Job) -> None:
    """As `check_shard`; makes `layout.json` for the first shard that runs. Blocks.

    A run of the whole job holds its lock before it looks for a layout, and a shard makes the layout before it looks
    for that lock: whichever comes second is refused.
    """
    check_shard(job)
    base = base_of(job)
    if job.shard is None or read_layout(base) is not None:
        return
    make_run_folder(base / SHARDS)
    layout = Layout(job=job.name, simulated=job.simulated, shards=job.shard.of)
    path = base / SHARDS / LAYOUT
    try:
        is_ours = make_once(path, msgspec.json.format(msgspec.json.encode(layout), indent=2) + b"\n")
        if is_ours and (holder_of(base) is not None or newest_open(base / LEDGER) is not None):
            path.unlink()
            raise WrongDirectoryError(
                f"{base}: a run of the whole job began at the same moment; wait for it, or choose another directory "
                "with --out"
            )
    except OSError as error:
        raise broken(path, error, sending=False) from error
    check_shard(job)


def write_merged(base: Path, merged: Merged) -> None:
    """The last step of a merge. Blocks. Raises OSError."""
    text = msgspec.json.format(msgspec.json.encode(merged), indent=2)
    write_whole(DISK, base / SHARDS / MERGED, text + b"\n", SHARED_FILE)


def forget_merged(base: Path) -> None:
    """The first step of a merge. Blocks. Raises OSError."""
    with suppress(FileNotFoundError):
        DISK.unlink(base / SHARDS / MERGED)
        DISK.fsync_folder(base / SHARDS)


def are_equal(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes. Raises OSError."""
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(_PIECE_BYTES):
            if piece != second.read(len(piece)):
                return False
        return not second.read(1)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes or, where the file system has no hard links, a copy. Raises OSError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with source.open("rb") as file:
            write_whole_from(file.fileno(), target)


def write_whole_from(descriptor: int, target: Path) -> None:
    """A durable copy of an open file, complete or absent. Raises OSError."""
    beside, new = open_beside(DISK, target.parent, SHARED_FILE)
    try:
        offset = 0
        while piece := DISK.read_at(descriptor, 1 << 20, offset):
            write_all(DISK, new, piece)
            offset += len(piece)
        DISK.fsync(new)
    finally:
        DISK.close(new)
    DISK.rename(beside, target)


def make_once(path: Path, text: bytes) -> bool:
    """Make the file with its content, durable; False where another process was first. Raises OSError."""
    beside, new = open_beside(DISK, path.parent, SHARED_FILE)
    try:
        try:
            write_all(DISK, new, text)
            DISK.fsync(new)
        finally:
            DISK.close(new)
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with suppress(FileExistsError):
                write_all(DISK, own := DISK.open_new(path, SHARED_FILE), text)
                DISK.fsync(own)
                DISK.close(own)
                return True
            return False
    finally:
        DISK.unlink(beside)
    DISK.fsync_folder(path.parent)
    return True


Kind = TypeVar("Kind", Layout, Merged)


def _read(path: Path, kind: type[Kind], *, advice: str) -> Kind | None:
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise broken(path, error, sending=False) from error
    try:
        found = msgspec.json.decode(text, type=kind)
    except UNREADABLE as error:
        raise WrongDirectoryError(f"{path}: is damaged ({error}); {advice}") from error
    if found.version != _VERSION:
        raise WrongDirectoryError(f"{path}: has format version {found.version}; use a newer batchrunner")
    return found
