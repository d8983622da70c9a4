"""Exports a run's rows in the order of the job to a file or a folder, which is complete or absent.

Reads the run's directory and writes nothing there but `export/`, so another process may be working on the run. Memory
grows with the number of rows (16 bytes each), not with their size. Overwrites nothing but an earlier export in
`export/`.
"""

import difflib
import errno
import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import IO, Final

from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.exports import (
    Exported,
    ExportFormat,
    ExportKeys,
    ExportOptions,
    ExportPart,
    ExportRow,
    FilePieces,
    Shapable,
    Split,
)
from batchrunner.core.item import is_address, safe_stem
from batchrunner.core.job import Json
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.status import Status
from batchrunner.core.values import dataclass, field, replace
from batchrunner.exporters import EXPORTERS
from batchrunner.report.audit_files import is_plain, read_plain
from batchrunner.report.directory_status import day_offset_of, status_of_directory
from batchrunner.report.export_selection import Captions, Selection
from batchrunner.report.wording import printable
from batchrunner.stores.artifacts import pieces_of, sha256_of
from batchrunner.stores.export_files import EXPORTS, OutgoingFile, RowOrder
from batchrunner.stores.export_folder import OutgoingFolder
from batchrunner.stores.files import DISK, SHARED_FOLDER, broken
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.run_file import RunFile, run_file_or_refuse
from batchrunner.stores.score_file import ScoreFile


@dataclass(slots=True, kw_only=True)
class _Common:
    """What all splits of an export count."""

    left_out: Counter[str]
    numbers: Collection[Sequence[int]]
    captions: Captions | None
    samples: int = 0
    pictures_missing: set[str] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class ShownRun:
    """Implements `core.exports.Shapable` for a run on disk."""

    name: str
    folder: Path
    order: RowOrder
    numbers: Sequence[int]
    """Places of its rows in the order."""
    scores: ScoreFile
    beside: Path
    """The folder that links start from."""
    job: Mapping[str, Json]
    simulated: bool
    options: ExportOptions
    common: _Common

    @property
    def count(self) -> int:
        """See `Shapable`."""
        return len(self.numbers)

    def rows(self) -> Iterator[ExportRow]:
        """See `Shapable`."""
        return (self.scores.joined(self.order.row(number)) for number in self.numbers)

    def all_rows(self) -> Iterator[ExportRow]:
        """See `Shapable`."""
        return (self.scores.joined(self.order.row(number)) for numbers in self.common.numbers for number in numbers)

    def row(self, number: int) -> ExportRow:
        """See `Shapable`."""
        return self.scores.joined(self.order.row(self.numbers[number]))

    def caption(self, row: ExportRow, sha256: str) -> str | None:
        """See `Shapable`."""
        if self.common.captions is not None:
            return self.common.captions.of(row, sha256)
        return str(row.fields.get("prompt"))

    def wrote(self) -> None:
        """See `Shapable`."""
        self.common.samples += 1

    def leave_out(self, reason: str) -> None:
        """See `Shapable`."""
        self.common.left_out[reason] += 1

    def picture(self, path: str, sha256: str) -> bytes | None:
        """See `Shapable`. No link is followed, and nothing outside of the run's directory is read."""
        try:
            found = DISK.look(self.folder / path)
            content = found and read_plain(DISK, self.folder, path, most_bytes=found.size_bytes + 1)
        except (OSError, ValueError):  # a name that no disk takes
            content = None
        if not content or hashlib.sha256(content).hexdigest() != sha256:
            self.common.pictures_missing.add(path)
            return None
        return content

    def file(self, path: str, sha256: str) -> FilePieces | None:
        """See `Shapable`. It is read twice: as a whole before the first byte of it is written."""
        try:
            found = DISK.look(self.folder / path) if is_plain(DISK, self.folder, path) else None
            same = found is not None and sha256_of(DISK, self.folder / path) == sha256
        except (OSError, ValueError):  # a name that no disk takes
            found, same = None, False
        if found is None or not same:
            self.common.pictures_missing.add(path)
            return None
        return FilePieces(found.size_bytes, self._pieces(path, found.size_bytes))

    def _pieces(self, path: str, size_bytes: int) -> Iterator[bytes]:
        left = size_bytes
        try:
            descriptor = DISK.open_read(self.folder / path)
            try:
                for piece in pieces_of(DISK, descriptor):
                    yield piece[:left]
                    left -= min(left, len(piece))
            finally:
                DISK.close(descriptor)
        except OSError as error:
            raise broken(self.folder / path, error, sending=False) from error
        if left:
            shorter = OSError(errno.EIO, "became shorter while it was exported")
            raise broken(self.folder / path, shorter, sending=False)

    def printable(self, line: str) -> str:
        """See `Shapable`."""
        return printable(line)

    def link(self, path: str) -> str:
        """See `Shapable`."""
        return Path(os.path.relpath(self.folder / path, self.beside)).as_posix()


def export_run(folder: Path, *, to: str, out: str | IO[bytes] | None, keys: ExportKeys) -> Exported:
    """Write a run's rows as one file, or as one folder; no folder that would be empty.

    Args:
        folder: the run's directory; another process may be working on it.
        to: a name of `exporters.EXPORTERS`.
        out: a new file or folder, or something open for bytes; None for a place in `export/` of the run's directory,
            where an earlier export is replaced.
        keys: which rows, and how.

    Raises:
        JobMistakesError: no such format, its library is not here, no run in this directory, a place that is taken.
        WrongDirectoryError: `run.json` is damaged.
        LedgerDamagedError, StoreBrokenError: the run cannot be read, or the file not be written.
    """
    shape = _format(to)
    run = _run_file(folder)
    options = keys.get("options", ExportOptions())
    options = replace(options, failures=options.failures or keys.get("failures", False))
    if options.caption is not None and _run_file(Path(options.caption)).simulated and not run.simulated:
        hint = "run the job that describes the pictures without --simulate"
        raise _mistake("is a simulated run, which says nothing about real pictures", file=options.caption, hint=hint)
    status = status_of_directory(folder)
    with ExitStack() as stack:
        order = stack.enter_context(RowOrder(folder))
        scores = stack.enter_context(ScoreFile(folder))
        selection = Selection(options, scores=scores)
        captions = None if options.caption is None else stack.enter_context(Captions(Path(options.caption)))
        state = replay(folder, day_offset_s=day_offset_of(run), running=True) if options.failures else None
        order.index(is_failed=None if state is None else lambda key: state.item_state(key) is ItemState.FAILED)
        in_shards = options.shard_bytes is not None and shape.write_folder is not None
        is_folder = shape.write is None or in_shards or bool(options.split)
        ending = f"-{to}" if is_folder else shape.ending
        target = _target(folder, order, out, default=f"{safe_stem(run.job_name)}{ending}")
        path = target if isinstance(target, Path) else None
        chosen = {None: range(len(order))} if selection.takes_all else selection.choose(order)
        common = _Common(left_out=selection.left_out, numbers=chosen.values(), captions=captions)
        splits = [
            Split(
                name=name,
                run=ShownRun(
                    name=run.job_name,
                    folder=folder,
                    order=order,
                    numbers=numbers,
                    scores=scores,
                    beside=Path.cwd() if path is None else path if is_folder else path.parent,
                    job=run.job,
                    simulated=run.simulated,
                    options=options,
                    common=common,
                ),
            )
            for name, numbers in chosen.items()
        ]
        replaced = path is not None and path.exists()
        written = _write(shape, splits, target, replaces=out is None, is_folder=is_folder)
        return Exported(
            path=None if path is None or not written.files else str(path),
            format=to,
            rows=common.samples if shape.counts_samples else sum(map(len, chosen.values())),
            failed=status.items.failed,
            missing=max(0, status.items.total - status.items.failed - min(order.done, status.items.done)),
            lost=status.items.lost,
            bytes=written.size_bytes,
            failures_included=options.failures,
            vanished=_vanished(status, order),
            damaged=_damaged(folder, run, order),
            pictures_missing=len(common.pictures_missing),
            left_out=dict(common.left_out) | ({_REPLACED: order.replaced} if order.replaced else {}),
            splits={name: len(numbers) for name, numbers in chosen.items() if name is not None},
            files=written.files,
            replaced=replaced and written.files > 0,
            job=run.job_name,
            state=status.state,
            simulated=run.simulated,
        )


_REPLACED: Final = "earlier answers to items that have a later one"


def _format(name: str) -> ExportFormat:
    """The format, its library loaded."""
    shape = EXPORTERS.get(name)
    if shape is None:
        close = difflib.get_close_matches(name, EXPORTERS, n=1)
        raise _mistake(
            f"unknown format `{name}`",
            expected=f"one of {', '.join(EXPORTERS)}",
            hint=f"did you mean `{close[0]}`?" if close else None,
        )
    if shape.needs is not None:
        try:
            import_module(shape.needs)
        except ImportError as error:
            install = f"install it with: pip install {shape.needs}"
            raise _mistake(f"the format {name} needs {shape.needs}, which is not installed", hint=install) from error
    return shape


def _run_file(folder: Path) -> RunFile:
    return run_file_or_refuse(folder)


def _target(folder: Path, order: RowOrder, out: str | IO[bytes] | None, *, default: str) -> Path | IO[bytes]:
    """Where the export goes: never among the run's own files."""
    if isinstance(out, str) and is_address(out):
        hint = "export to a local file and copy it from there"
        raise _mistake("is a URL; expected a local file", file=out, hint=hint)
    if isinstance(out, str):
        target = Path(out)
        inside = target.parent.resolve()
        if inside.is_relative_to(folder.resolve()) and not inside.is_relative_to((folder / EXPORTS).resolve()):
            hint = f"omit --out to export to {folder / EXPORTS}, or choose a path outside the run directory"
            raise _mistake("is inside the run directory", file=out, hint=hint)
        return target
    if out is not None:
        return out
    if order.fills_export_folder:
        hint = "choose another path with --out"
        raise _mistake("the job writes its answers there (output.each)", file=str(folder / EXPORTS), hint=hint)
    try:
        DISK.make_folder(folder / EXPORTS, SHARED_FOLDER)
        DISK.fsync_folder(folder)
    except OSError as error:
        said = f"{folder / EXPORTS}: {error.strerror or error}; choose another path with --out"
        raise StoreBrokenError(said) from error
    return folder / EXPORTS / default


@dataclass(slots=True, kw_only=True)
class _Written:
    size_bytes: int = 0
    files: int = 1


def _write(
    shape: ExportFormat, splits: Sequence[Split], target: Path | IO[bytes], *, replaces: bool, is_folder: bool
) -> _Written:
    if not isinstance(target, Path):
        if is_folder:
            raise _mistake(
                "this export is a folder and cannot be written to a stream", hint="choose a place with --out"
            )
        return _write_stream(shape, splits[0].run, target)
    try:
        if is_folder:
            return _write_folder(shape, splits, target, replaces=replaces)
        with OutgoingFile(target, replaces=replaces, lists=replaces) as file:
            written = _write_stream(shape, splits[0].run, file)
            file.finish()
            return written
    except OSError as error:  # of a library that writes files of its own on the way
        said = f"{error.strerror or error}; nothing was exported, and the run directory is unchanged"
        raise StoreBrokenError(f"{target}: {said}") from error


def _write_stream(shape: ExportFormat, run: Shapable, file: IO[bytes] | OutgoingFile) -> _Written:
    assert shape.write is not None, "folders are written as such"
    written = _Written()
    for piece in shape.write(run):
        written.size_bytes += len(piece)
        file.write(piece)
    if not isinstance(file, OutgoingFile):
        file.flush()
    return written


def _write_folder(shape: ExportFormat, splits: Sequence[Split], target: Path, *, replaces: bool) -> _Written:
    written = _Written()
    with OutgoingFolder(target, replaces=replaces) as folder:
        for part in _parts(shape, splits):
            written.size_bytes += len(part.content)
            folder.write(part)
        written.files = folder.files if written.size_bytes else 0
        if written.size_bytes:
            folder.finish()
    return written


def _parts(shape: ExportFormat, splits: Sequence[Split]) -> Iterator[ExportPart]:
    """A format of one file has a file for each split, but for one without rows: `datasets` loads no folder with one."""
    splits = [split for split in splits if split.run.count]
    if not splits:
        return
    if shape.write_folder is not None:
        yield from shape.write_folder(splits)
        return
    assert shape.write is not None, "a format has one of the two"
    for split in splits:
        path = f"{split.name}.{shape.ending.rpartition('.')[2]}"
        yield ExportPart(path=path, content=b"", more=True)
        yield from (ExportPart(path=path, content=piece, more=True) for piece in shape.write(split.run))


def _vanished(status: Status, order: RowOrder) -> int:
    """Rows beyond those of the job's items; while a run is at work, new ones may come between two looks."""
    return max(0, order.done - status.items.done - status.items.lost) if status.state != "running" else 0


def _damaged(folder: Path, run: RunFile, order: RowOrder) -> int:
    """Recorded lines that are not rows now; lines beyond the recorded length are leftovers of a crash."""
    if not order.unreadable:
        return 0
    recorded = replay(folder, day_offset_s=day_offset_of(run), running=True).results_length
    return sum(offset < recorded for offset in order.unreadable)


def _mistake(
    problem: str, *, file: str | None = None, expected: str | None = None, hint: str | None = None
) -> JobMistakesError:
    return JobMistakesError((Mistake(problem=problem, file=file, expected=expected, hint=hint),))
