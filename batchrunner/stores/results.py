"""`results.jsonl` and `failures.jsonl`: one line per item, durable before anyone is told.

Refuses: adding before `recover` was asked, gluing a row to a torn end, rows that are not on the disk.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.item import Item
from batchrunner.core.job import Json
from batchrunner.core.ports import Place
from batchrunner.core.row import FailureRow, ResultRow
from batchrunner.stores.appender import Appender
from batchrunner.stores.atomic import write_all
from batchrunner.stores.files import DISK, SHARED_FILE, Files, broken, make_durable
from batchrunner.stores.lines import read_lines
from batchrunner.stores.mending import take_out_unreadable
from batchrunner.stores.off_loop import Threads
from batchrunner.stores.rewrite import Rewriting, Rewritten, in_order
from batchrunner.stores.row_index import RowIndex, index_rows
from batchrunner.stores.rows import RowFacts, crc_of, encode_row, facts_of, key_and_index_of
from batchrunner.stores.unreadable import UNREADABLE

RESULTS = "results.jsonl"
FAILURES = "failures.jsonl"
TORN = "results.torn"
FAILURES_TORN = "failures.torn"
SUPERSEDED = "superseded.jsonl"
SUPERSEDED_FAILURES = "superseded_failures.jsonl"
_OTHERS = ((FAILURES, FAILURES_TORN), (SUPERSEDED, TORN), (SUPERSEDED_FAILURES, FAILURES_TORN))
"""Files that no length is recorded of, and where their torn ends go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedRow:
    """A whole row beyond the known length: paid for, and not yet told to the ledger."""

    id: str
    key: str
    place: Place
    attempts: int
    files: tuple[tuple[str, int, str], ...]
    """(path, size in bytes, sha256) of its pictures."""
    input_tokens: int | None
    output_tokens: int | None
    task_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What stood in `results.jsonl` when this process began."""

    adopted: tuple[AdoptedRow, ...]
    torn_bytes: int
    """Cut off the end, or taken out of what was never recorded, into `results.torn`."""
    length: int
    """The file's length now."""
    realigned: bool
    """True when no line ends at the known length: the file was rewritten and the `rewritten` record was lost, or a
    person replaced it. Nothing is adopted then; the ledger needs a `rewritten` with `length`, and `index` tells which
    rows are there."""


class ResultsFile:
    """Implements `core.ports.Results` in a run's directory. `recover` first, `close` last."""

    def __init__(self, folder: Path, *, files: Files = DISK) -> None:
        self._folder = folder
        self._torn = folder / TORN
        self._files = files
        self._results: Appender | None = None
        self._failures: Appender | None = None
        self._refused: str | None = None
        self._open: dict[str, Appender] = {}
        """What was opened, also where whoever asked for it was cancelled meanwhile."""
        self._opener = Threads("open-results", count=1)

    def __repr__(self) -> str:
        return f"<ResultsFile {self._folder} {self._results!r} {self._failures!r}>"

    def recover(self, known_length: int) -> Recovered:
        """Cut torn ends off and find whole rows beyond the greatest length that a `done` names (0: none).

        Blocks; meant for the start, by the holder of the lock. Raises StoreBrokenError.
        """
        path = self._folder / RESULTS
        try:
            torn_bytes = self._cut_torn_end(RESULTS, TORN)
            for name, torn in _OTHERS:
                self._cut_torn_end(name, torn)
                take_out_unreadable(self._files, self._folder / name, start=0, into=self._folder / torn)
            make_durable(self._files, path)
            make_durable(self._files, self._folder / FAILURES)
            length = self._length(path)
            realigned = known_length > 0 and not self._line_ends_at(path, known_length)
            if not realigned and (holes := take_out_unreadable(self._files, path, start=known_length, into=self._torn)):
                torn_bytes, length = torn_bytes + holes, length - holes
            start = length if realigned else known_length
            adopted = tuple(self._rows_from(path, start))
        except OSError as error:
            raise broken(path, error) from error
        return Recovered(adopted=adopted, torn_bytes=torn_bytes, length=length, realigned=realigned)

    async def add(self, row: ResultRow) -> Place:
        """See `core.ports.Results`. Those who wait return in the order in which their rows stand in the file."""
        if self._results is None:
            self._results = await self._opener.run(self._opened, RESULTS)
        line = encode_row(row)
        offset = self._results.append(line + b"\n")
        place = Place(crc=crc_of(line), length=offset + len(line) + 1)
        del line  # it may be as large as an answer may be, and the disk slow
        await self._results.synced()
        return place

    async def add_failure(self, row: FailureRow) -> None:
        """See `core.ports.Results`."""
        if self._failures is None:
            self._failures = await self._opener.run(self._opened, FAILURES)
        self._failures.append(encode_row(row) + b"\n")
        await self._failures.synced()

    def index(self) -> RowIndex:
        """Key to place of every row, by one streaming pass. Blocks. Raises StoreBrokenError."""
        try:
            return index_rows(self._files, self._folder / RESULTS, keep="first")
        except OSError as error:
            raise broken(self._folder / RESULTS, error) from error

    async def rewrite(self, items: AsyncIterator[Item], *, is_done: Callable[[bytes], bool]) -> Rewritten:
        """Put `results.jsonl` in the items' order by one atomic replacement; write a `rewritten` record after it.

        Rows are relabelled when their item was moved or renamed; further items with the same key get a copy with
        `shared_with`; rows that no done item claims go to `superseded.jsonl` first, unreadable lines to `results.torn`.
        Every `done` must be in the ledger before. Nothing may be added meanwhile.

        Args:
            items: all items of the present job, in order.
            is_done: whether the item with this key (16 bytes) succeeded.

        Raises:
            StoreBrokenError: the disk refused; the old file still stands.
        """
        await self._release_results()
        rewriting = Rewriting(self._files, self._folder, RESULTS, keep="first", superseded=SUPERSEDED, unreadable=TORN)
        return await in_order(rewriting, items, claims=is_done)

    async def settle_failures(self, items: AsyncIterator[Item], *, is_failed: Callable[[bytes], bool]) -> Rewritten:
        """The same for `failures.jsonl`: one row per item that is failed now, its latest.

        Rows of failed items that the job has no more go to `superseded_failures.jsonl`; those of items that are not
        failed any more are dropped.
        """
        self._failures = None
        await self._release(FAILURES)
        if not any(self._files.exists(self._folder / name) for name in (FAILURES, SUPERSEDED_FAILURES)):
            return Rewritten(length=0, rows=0, shared=0, superseded=0)
        rewriting = Rewriting(
            self._files,
            self._folder,
            FAILURES,
            keep="last",
            superseded=SUPERSEDED_FAILURES,
            unreadable=FAILURES_TORN,
            outlives=is_failed,
        )
        return await in_order(rewriting, items, claims=is_failed)

    async def failures_are_settled(self, *, count: int, is_failed: Callable[[bytes], bool]) -> bool:
        """Whether `failures.jsonl` shows so many rows already, all of failed items and in their order.

        `settle_failures`, which reads all items of the job, has nothing to do then unless their labels changed.
        """
        return await asyncio.to_thread(self._failures_are_settled, count, is_failed)

    def _failures_are_settled(self, count: int, is_failed: Callable[[bytes], bool]) -> bool:
        path, rows, last_index = self._folder / FAILURES, 0, 0
        try:
            for line in read_lines(self._files, path):
                found = key_and_index_of(line.text) if line.whole else None
                if found is None or found[1] <= last_index or not is_failed(found[0]):
                    return False
                rows, last_index = rows + 1, found[1]
        except OSError as error:
            raise broken(path, error) from error
        return rows == count

    async def close(self) -> None:
        """Sync what is in line and close both files. Raises StoreBrokenError."""
        self._opener.close()
        try:
            await self._release_results()
        finally:
            self._failures = None
            await self._release(FAILURES)

    async def _release_results(self) -> None:
        self._results = None
        await self._release(RESULTS)

    def _opened(self, name: str) -> Appender:
        """In the one thread of the opener, so that rows are added in the order in which they were asked for."""
        if name not in self._open:
            self._open[name] = self._appender(name)
        return self._open[name]

    async def _release(self, name: str) -> None:
        if (appender := self._open.pop(name, None)) is not None:
            await appender.close()

    def _appender(self, name: str) -> Appender:
        path = self._folder / name
        if self._refused is not None:
            raise StoreBrokenError(self._refused)
        try:
            is_new = not self._files.exists(path)
            descriptor = self._files.open_append(path, SHARED_FILE)
            try:
                if is_new:
                    self._files.fsync_folder(self._folder)
                return Appender(self._files, descriptor, path)
            except OSError:
                self._files.close(descriptor)
                raise
        except OSError as error:
            told = broken(path, error)
            self._refused = str(told)  # else the next row would find the file there, and trust its name
            raise told from error

    def _length(self, path: Path) -> int:
        if not self._files.exists(path):
            return 0
        descriptor = self._files.open_read(path)
        try:
            return self._files.length(descriptor)
        finally:
            self._files.close(descriptor)

    def _line_ends_at(self, path: Path, length: int) -> bool:
        if not self._files.exists(path):
            return False
        descriptor = self._files.open_read(path)
        try:
            return self._files.read_at(descriptor, 1, length - 1) == b"\n"
        finally:
            self._files.close(descriptor)

    def _rows_from(self, path: Path, start: int) -> Iterator[AdoptedRow]:
        for line in read_lines(self._files, path, start=start):
            facts = facts_of(line.text)
            if line.whole and facts is not None and facts.shared_with is None:
                length = line.offset + len(line.text) + 1
                yield _adopted(facts, Place(crc=crc_of(line.text), length=length))

    def _cut_torn_end(self, name: str, torn_name: str) -> int:
        """Move what follows the last newline to another file, durable there before it is cut here."""
        path, torn_path = self._folder / name, self._folder / torn_name
        if not self._files.exists(path):
            return 0
        descriptor = self._files.open_append(path, SHARED_FILE)
        try:
            length = self._files.length(descriptor)
            end = _end_of_last_line(self._files, descriptor, length)
            if end == length:
                return 0
            torn = self._files.open_append(torn_path, SHARED_FILE)
            try:
                write_all(self._files, torn, self._files.read_at(descriptor, length - end, end) + b"\n")
                self._files.fsync(torn)
            finally:
                self._files.close(torn)
            self._files.fsync_folder(self._folder)
            self._files.truncate(descriptor, end)
            self._files.fsync(descriptor)
            return length - end
        finally:
            self._files.close(descriptor)


def iter_results(folder: Path, *, files: Files = DISK) -> Iterator[dict[str, Json]]:
    """The rows of a run's `results.jsonl`, one dict each, also while it is being written: a torn end is passed over.

    Raises:
        StoreBrokenError: the file cannot be read.
    """
    return _iter_rows(folder / RESULTS, files)


def iter_failures(folder: Path, *, files: Files = DISK) -> Iterator[dict[str, Json]]:
    """The same for `failures.jsonl`."""
    return _iter_rows(folder / FAILURES, files)


def _iter_rows(path: Path, files: Files) -> Iterator[dict[str, Json]]:
    decode = msgspec.json.Decoder(dict[str, object]).decode
    try:
        for line in read_lines(files, path):
            if line.whole:
                try:
                    row = cast("dict[str, Json]", decode(line.text))
                except UNREADABLE:
                    continue
                yield row
    except OSError as error:
        raise broken(path, error) from error


def _adopted(facts: RowFacts, place: Place) -> AdoptedRow:
    usage = facts.usage
    return AdoptedRow(
        id=facts.id,
        key=facts.key,
        place=place,
        attempts=facts.attempts,
        files=facts.files,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        task_id=facts.task_id,
    )


def _end_of_last_line(files: Files, descriptor: int, length: int) -> int:
    """The offset after the last newline, searched from the end."""
    step = 1 << 16
    end = length
    while end > 0:
        start = max(0, end - step)
        found = files.read_at(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
