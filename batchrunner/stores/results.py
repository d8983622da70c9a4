"""`results.jsonl` and `failures.jsonl`: one line per item, durable before it is reported.

Refuses: adding before `recover` was asked, gluing a row to a torn end, rows that are not on the disk.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from batchrunner.core.errors import RowSetAsideError, StoreBrokenError
from batchrunner.core.item import Item
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.ports import Kept, Place
from batchrunner.core.row import FailureRow, ResultRow
from batchrunner.core.values import dataclass, replace
from batchrunner.stores.appender import INLINE_BYTES, Appender
from batchrunner.stores.export_files import FailuresOfLedger
from batchrunner.stores.files import (
    DISK,
    FAILURES,
    RESULTS,
    SHARED_FILE,
    SHARED_FOLDER,
    SUPERSEDED,
    SUPERSEDED_FAILURES,
    Files,
    InspectedFiles,
    append_line,
    broken,
    make_durable,
    write_all,
    write_whole,
)
from batchrunner.stores.inspection import Inspection
from batchrunner.stores.row_codec import (
    crc_of,
    encode_row,
    facts_of,
    key_and_index_of,
    name_of,
    row_lines,
    trimmed,
)
from batchrunner.stores.row_file import RewriteResult, Rewriting, RowIndex, in_order, index_rows, take_out_unreadable
from batchrunner.stores.row_forms import FileLine, put_right
from batchrunner.stores.threads import Threads

TORN = "results.torn"
FAILURES_TORN = "failures.torn"
_OTHERS = ((FAILURES, FAILURES_TORN), (SUPERSEDED, TORN), (SUPERSEDED_FAILURES, FAILURES_TORN))
"""Files that no length is recorded of, and where their torn ends go."""
_ALL = (RESULTS, *(name for name, _ in _OTHERS))
_new_place: Final[Callable[[type[Place], tuple[str, int]], Place]] = tuple.__new__
"""What `Place(…)` comes to, without a step in Python: there is one for each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The content of `results.jsonl` when this process began."""

    torn_bytes: int
    """Cut off the end, or taken out of what was never recorded, into `results.torn`."""
    length: int
    """The file's length now."""
    realigned: bool
    """True when no line ends at the known length: the file was rewritten and the `rewritten` record was lost, or a
    person replaced it. Nothing is torn then; the ledger needs a `rewritten` with `length`."""
    reshaped: bool = False
    """It was saved in another form, and is as it was written again."""


class ResultsFile:
    """Implements `core.ports.Results` in a run's directory. `recover` first, `close` last."""

    def __init__(self, folder: Path, *, files: InspectedFiles = DISK) -> None:
        self._folder = folder
        self._torn = folder / TORN
        self._files = files
        self._results: Appender | None = None
        self._failures: Appender | None = None
        self.refused = False
        """Once closed: whether the disk refused a row or a rewrite, so that some file of rows may end in half a row."""
        self._refused: str | None = None
        self._sets_aside = True
        self._unopened: list[tuple[bytes, Kept]] = []
        """Rows that wait for results.jsonl to be opened."""
        self._open: dict[str, Appender] = {}
        """What was opened, even if the caller was cancelled meanwhile."""
        self._opener = Threads("open-results", count=1)
        self.stays: Callable[..., bool] = lambda _key, *_ended: False
        """Whether the row of a key that the job does not have stays where it is, unless an item that takes its place
        has ended so; set for a run on a part of the job."""
        self._stale: frozenset[int] = frozenset()
        self._keeps_unreadable = False
        self._looked = False
        self._left: tuple[int, int] | None = None
        """(inode, size) of results.jsonl when nothing of this process was open there; None: no file."""

    def __repr__(self) -> str:
        return f"<ResultsFile {self._folder} {self._results!r} {self._failures!r}>"

    def recover(self, known_length: int, *, crashed: bool = True) -> Recovered:
        """Cut torn ends off, beyond the greatest length that a `done` names (0: none).

        Before it nothing is torn, whatever it looks like: it was paid for, and a person has changed it. The same goes
        for all files after a clean end (`crashed` false). Blocks; for the holder of the lock. Raises StoreBrokenError.
        """
        path = self._folder / RESULTS
        try:
            reshaped, *_ = [put_right(self._files, self._folder / name) for name in _ALL]
            realigned = known_length > 0 and not self._line_ends_at(path, known_length)
            torn_bytes = self._repair_end(RESULTS, TORN, torn_from=known_length if crashed and not realigned else None)
            for name, torn in _OTHERS:
                self._repair_end(name, torn, torn_from=0 if crashed else None)
                if crashed:
                    take_out_unreadable(self._files, self._folder / name, start=0, into=self._folder / torn)
            make_durable(self._files, path)
            make_durable(self._files, self._folder / FAILURES)
            length = self._length(path)
            if (
                not realigned
                and crashed
                and (holes := take_out_unreadable(self._files, path, start=known_length, into=self._torn))
            ):
                torn_bytes, length = torn_bytes + holes, length - holes
        except OSError as error:
            raise broken(path, error, sending=False) from error
        return Recovered(torn_bytes=torn_bytes, length=length, realigned=realigned, reshaped=reshaped is not None)

    def put(self, row: ResultRow | bytes, then: Kept) -> None:
        """See `core.ports.Results`. Rows are written and reported in the order of these calls."""
        line = row if isinstance(row, bytes) else encode_row(row)
        if self._results is not None and not self._unopened:
            self._append(self._results, line, then)
            return
        self._unopened.append((line, then))  # the file is opened off the loop, once
        if len(self._unopened) == 1:
            opening = asyncio.ensure_future(self._opener.run(self._opened, RESULTS))
            opening.add_done_callback(self._has_opened)

    async def add(self, row: ResultRow) -> Place:
        """See `core.ports.Results`. Callers return in the order of their rows in the file."""
        kept: asyncio.Future[Place | StoreBrokenError] = asyncio.get_running_loop().create_future()
        self.put(row, lambda place: None if kept.done() else kept.set_result(place))
        del row  # it may be as large as an answer may be, and the disk slow
        place = await kept
        if isinstance(place, StoreBrokenError):
            raise place
        return place

    def _has_opened(self, opening: "asyncio.Future[Appender]") -> None:
        unopened, self._unopened = self._unopened, []
        try:
            results = self._results = opening.result()
        except (StoreBrokenError, asyncio.CancelledError) as error:
            refused = StoreBrokenError(str(error) or "the results file was not opened because the run is stopping")
            for line, then in unopened:
                then(self._set_aside(line, refused))
            return
        for line, then in unopened:
            self._append(results, line, then)

    def _append(self, results: Appender, line: bytes, then: Kept) -> None:
        place = _new_place(Place, (crc_of(line), results.length + len(line) + 1))
        try:
            results.append_durable(line + b"\n", then, place)
        except StoreBrokenError as error:
            then(self._set_aside(line, error))

    def _set_aside(self, line: bytes, refused: StoreBrokenError) -> StoreBrokenError:
        """Put a row that results.jsonl refuses into superseded.jsonl, where the next run finds it. Blocks the loop."""
        path = self._folder / SUPERSEDED
        try:
            if self._sets_aside:
                append_line(self._files, path, line)
                return RowSetAsideError(f"{refused}. Later answers are in {path}; it takes them from there")
        except OSError:
            self._sets_aside = False  # nothing must follow half a row
        return refused

    async def add_failure(self, row: FailureRow) -> None:
        """See `core.ports.Results`."""
        if self._failures is None:
            self._failures = await self._opener.run(self._opened, FAILURES)
        self._failures.append(encode_row(row) + b"\n")
        await self._failures.synced()

    def look(self) -> None:
        """Take results.jsonl as it is now for what `confirm` has to find. Raises StoreBrokenError."""
        self._looked, self._left = True, self._there()

    def confirm(self) -> None:
        """Whether results.jsonl is still the file that this process looked at and added to, as long as it has to be.

        Raises:
            StoreBrokenError: it was removed, replaced or changed meanwhile.
        """
        expected = self._left if self._results is None else (self._results.inode, self._results.length)
        if self._looked and self._there() != expected:
            path = self._folder / RESULTS
            raise StoreBrokenError(
                f"{path}: was removed, replaced or changed during the run; restore it if you can, then rerun the "
                "same command: it reports what is lost"
            )

    def _there(self) -> tuple[int, int] | None:
        try:
            found = self._files.look(self._folder / RESULTS)
        except OSError as error:
            raise broken(self._folder / RESULTS, error) from error
        return None if found is None else (found.inode, found.size_bytes)

    def take_over(self, found: Inspection, *, lost: bool) -> None:
        """What was found before this process adds rows; `lost`: done items have no row. Blocks. StoreBrokenError."""
        self._stale, self._keeps_unreadable = frozenset(found.stale), lost
        if not found.answers:
            return
        try:
            descriptor = self._files.open_read(self._folder / RESULTS)
            try:
                for offset, length in found.answers:
                    self._remake_answer(self._files.read_at(descriptor, length, offset))
            finally:
                self._files.close(descriptor)
        except OSError as error:
            raise broken(self._folder, error) from error

    def _remake_answer(self, text: bytes) -> None:
        """The answer's own file is missing, and its row has the text."""
        facts = facts_of(text)
        assert facts is not None, "it was read as a row just now"
        assert facts.output.path is not None, "that is why it is here"
        here = self._folder
        for part in PurePosixPath(facts.output.path).parent.parts:
            self._files.make_folder(here / part, SHARED_FOLDER)
            self._files.fsync_folder(here)
            here /= part
        write_whole(self._files, self._folder / facts.output.path, facts.output.text.encode(), SHARED_FILE)

    def index(self) -> RowIndex:
        """Key to place of every row, by one streaming pass. Blocks. Raises StoreBrokenError."""
        try:
            return index_rows(self._files, self._folder / RESULTS, keep="first")
        except OSError as error:
            raise broken(self._folder / RESULTS, error) from error

    async def rewrite(self, items: AsyncIterator[Item], *, is_done: Callable[[bytes], bool]) -> RewriteResult:
        """Put `results.jsonl` in the items' order by one atomic replacement; write a `rewritten` record after it.

        Rows are relabelled when their item was moved or renamed; further items with the same key get a copy with
        `shared_with`; rows that no done item claims go to `superseded.jsonl` first. Unreadable lines go to
        `results.torn`, or stay at the end while a done item has no row: what a person broke may be that row.
        Every `done` must be in the ledger before. Nothing may be added meanwhile.

        Args:
            items: all items of the present job, in order.
            is_done: whether the item with this key (16 bytes) succeeded.

        Raises:
            StoreBrokenError: the disk refused; the old file still stands.
        """
        self.confirm()
        await self._release_results()
        rewriting = Rewriting(
            self._files,
            self._folder,
            RESULTS,
            keep="first",
            superseded=SUPERSEDED,
            unreadable=None if self._keeps_unreadable else TORN,
            stale=self._stale,
            stays=lambda key: self.stays(key, ItemState.DONE),
        )
        with self._noting_refusals():
            replaced = await in_order(rewriting, items, claims=is_done)
        self._stale = frozenset()
        self.look()
        return replaced

    async def settle_failures(
        self, items: AsyncIterator[Item], *, is_failed: Callable[[bytes], bool], count: int = 0
    ) -> RewriteResult:
        """The same for `failures.jsonl`: one row per item that is failed now, its latest; `count` in all.

        A row that was removed by hand is made again from the ledger.

        Rows of failed items that the job has no more go to `superseded_failures.jsonl`; those of items that are not
        failed any more are dropped.
        """
        self._failures = None
        await self._release(FAILURES)
        if not count and not any(self._files.exists(self._folder / name) for name in (FAILURES, SUPERSEDED_FAILURES)):
            return RewriteResult(length=0, rows=0, shared=0, superseded=0)
        rewriting = Rewriting(
            self._files,
            self._folder,
            FAILURES,
            keep="last",
            superseded=SUPERSEDED_FAILURES,
            unreadable=FAILURES_TORN,
            outlives=is_failed,
            stays=lambda key: self.stays(key, ItemState.DONE, ItemState.FAILED),
        )
        ledger = FailuresOfLedger(self._files, self._folder, lacks=lambda key: is_failed(key) and rewriting.lacks(key))
        with self._noting_refusals():
            replaced = await in_order(rewriting, items, claims=is_failed, row_of=ledger.row_of)
        return replace(replaced, made=ledger.made)

    async def failures_are_settled(self, *, count: int, is_failed: Callable[[bytes], bool]) -> bool:
        """Whether `failures.jsonl` shows so many rows already, all of failed items and in their order.

        `settle_failures`, which reads all items of the job, has nothing to do then unless their labels changed.
        """
        return await asyncio.to_thread(self._failures_are_settled, count, is_failed)

    def _failures_are_settled(self, count: int, is_failed: Callable[[bytes], bool]) -> bool:
        path, rows, last_index = self._folder / FAILURES, 0, 0
        try:
            for line in row_lines(self._files, path):
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
        writers = (self._results, self._failures)
        self.refused = self.refused or any(writer.refused for writer in writers if writer is not None)
        try:
            await self._release_results()
        finally:
            self._failures = None
            await self._release(FAILURES)

    @contextmanager
    def _noting_refusals(self) -> Iterator[None]:
        """A rewrite appends to the files of superseded and of unreadable rows: a full disk leaves half a row there."""
        try:
            yield
        except StoreBrokenError:
            self.refused = True
            raise

    async def _release_results(self) -> None:
        if self._results is not None:
            self._left = self._results.inode, self._results.length
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
                return Appender(self._files, descriptor, path, inline_bytes=INLINE_BYTES)
            except OSError:
                self._files.close(descriptor)
                raise
        except OSError as error:
            failure = broken(path, error)
            self._refused = str(failure)  # else the next row would find the file there, and trust its name
            raise failure from error

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

    def _repair_end(self, name: str, torn_name: str, *, torn_from: int | None) -> int:
        """End the file with a newline; how many bytes were torn.

        A row that lacks nothing but its newline gets it. A piece of one at `torn_from` or behind it moves to another
        file, durable there before it is cut here; before it, or where that is None, it stays on a line of its own.
        """
        path, torn_path = self._folder / name, self._folder / torn_name
        if not self._files.exists(path):
            return 0
        descriptor = self._files.open_append(path, SHARED_FILE)
        try:
            length = self._files.length(descriptor)
            end = _end_of_last_line(self._files, descriptor, length)
            if end == length:
                return 0
            piece = self._files.read_at(descriptor, length - end, end)
            if (
                torn_from is None
                or end < torn_from
                or name_of(trimmed(FileLine(end, piece, whole=False)).text) is not None
            ):
                write_all(self._files, descriptor, b"\n")
                self._files.fsync(descriptor)
                return 0
            torn = self._files.open_append(torn_path, SHARED_FILE)
            try:
                write_all(self._files, torn, piece + b"\n")
                self._files.fsync(torn)
            finally:
                self._files.close(torn)
            self._files.fsync_folder(self._folder)
            self._files.truncate(descriptor, end)
            self._files.fsync(descriptor)
            return length - end
        finally:
            self._files.close(descriptor)


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
