"""Group commit that clocks itself, for one file that only grows.

The loop's thread alone owns the buffer; executors get immutable bytes. What is appended in one turn of the loop is one
write, and whoever waits for it shares one future or has a call of its own: there is no task and no future per record.
Write and sync are separate steps: whoever waits for `written` never waits behind an fsync, and whatever was written
while the last fsync ran goes with the next, which begins at once if something waits, else after `_BATCH_PAUSE_S`.

Refuses: going on after the first refused write or sync (every later call raises StoreBrokenError), short writes,
being used from two loops.
"""

import asyncio
import errno
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from batchrunner.core.errors import StoreBrokenError
from batchrunner.stores.files import Files, broken

T = TypeVar("T")
OnDurable: TypeAlias = Callable[[StoreBrokenError | None], None]
"""Called once on the loop's thread, with None when it is so, or with why it never will be. It must not raise."""

INLINE_BYTES: Final = 64 * 1024
"""A write of this size is a copy into the page cache, and takes less time than a hop to another thread."""
_SLOW_S: Final = 0.005
_BY_THREAD_S: Final = 1.0
"""After a write on the loop's thread that took longer than `_SLOW_S` (the system throttles the writer): for how long
all writes go by the thread."""
_BATCH_PAUSE_S: Final = 0.003
"""The least time between two syncs that no caller waits for: on a fast disk each would carry only a record or two."""


class CommitTimes:
    """How long syncs took, in buckets. One for all ledgers of the process; filled by the threads that sync."""

    EDGES_S: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)

    def __init__(self) -> None:
        self._counts = [0] * (len(self.EDGES_S) + 1)
        self._total_s = 0.0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<CommitTimes of {sum(self._counts)} syncs>"

    def took(self, seconds: float) -> None:
        """Count a sync."""
        with self._lock:
            self._counts[bisect_left(self.EDGES_S, seconds)] += 1
            self._total_s += seconds

    def buckets(self) -> tuple[list[tuple[float | None, int]], float]:
        """((edge in seconds, syncs that took no longer), …) with None for no edge, and the seconds of all."""
        with self._lock:
            return list(zip((*self.EDGES_S, None), accumulate(self._counts), strict=True)), self._total_s


LEDGER_COMMITS: Final = CommitTimes()


class _Shared(asyncio.Future[StoreBrokenError | None]):
    """What a whole batch waits for.

    Cancelling one of those who wait must not cancel the others' future: that task is cancelled when the future is done.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - the signature is asyncio's
        return False

    def wake(self, error: StoreBrokenError | None) -> None:
        """Wake those who wait."""
        if not self.done():
            self.set_result(error)


class _Commit:
    """Called when the file is durable up to `target`."""

    __slots__ = ("calls", "future", "target", "values")

    def __init__(self) -> None:
        self.target = 0
        self.calls: list[Callable[[Any], None]] = []
        self.values: list[object] = []
        """What each call is given when it is so."""
        self.future: _Shared | None = None


class Appender:
    """Appends to one open file. Use it on one running loop; those who wait are woken in the order of their records.

    Writes of at most `inline_bytes` are made on the loop's own thread, unless the system has been slow to take one.
    """

    def __init__(
        self, files: Files, descriptor: int, path: Path, *, inline_bytes: int = 0, timed: CommitTimes | None = None
    ) -> None:
        """Take over `descriptor`, opened for appending; what is in the file already counts as durable."""
        self._timed = timed
        self._files = files
        self._descriptor = descriptor
        self._path = path
        self._inline_bytes = inline_bytes
        self._inode = files.inode(descriptor)
        self.length = files.length(descriptor)
        """Bytes of the file with everything appended so far, written or not."""
        self._written_length = self.length
        self.durable_length = self.length
        """Bytes known to be on the disk."""
        self.in_line: list[bytes] = []
        """What has not been handed to the system. Only this object changes it."""
        self._when_written: list[OnDurable] = []
        """For what is in the buffer."""
        self._flying: list[OnDurable] = []
        """For the write that a thread makes now."""
        self._open_written: _Shared | None = None
        self._commits: deque[_Commit] = deque()
        self._open_commit: _Commit | None = None
        """The last of them, as long as what is appended goes with the same write."""
        self._urgent_to = 0
        """A caller waits until the file is durable up to here."""
        self._turn_due = False
        self._flush_due = False
        self._writing = False
        self._syncing = False
        self._closed = False
        self._cause: StoreBrokenError | None = None
        self._by_thread_until = 0.0
        self._pause_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"write-{path.name}")
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sync-{path.name}")

    def __repr__(self) -> str:
        state = "broken" if self._cause else "closed" if self._closed else "open"
        return f"<Appender {self._path.name} {state} length={self.length} durable={self.durable_length}>"

    @property
    def inode(self) -> int:
        """The open file's number."""
        return self._inode

    @property
    def refused(self) -> bool:
        """Whether a write or a sync failed: the file may end with an incomplete line."""
        return self._cause is not None

    # -- putting in line

    def append(self, data: bytes) -> int:
        """Put bytes in line; the offset where they begin. They are written as soon as anybody waits for them.

        Raises:
            StoreBrokenError: the disk refused something before, or the file is closed.
        """
        if self._cause is not None or self._closed:
            self._check()
        offset = self.length
        self.length = offset + len(data)
        if not self.in_line:
            self._open_commit = None  # who waits for an earlier batch must not wait for this one, too
        self.in_line.append(data)
        return offset

    def write_soon(self) -> None:
        """Write what is queued at the end of this iteration of the loop."""
        self._flush_due = True
        self._end_turn()

    async def written(self) -> None:
        """Return when everything appended so far was handed to the system: it survives kill -9."""
        self._check()
        if self.in_line:
            future = self._open_written
            if future is None:
                future = self._open_written = _Shared(loop=self._running_loop())
                self._when_written.append(future.wake)
                self.write_soon()
        elif self._flying:
            future = _Shared(loop=self._loop)
            self._flying.append(future.wake)
        else:
            return
        if await future is not None:
            raise self._error()

    def when_durable(self, then: OnDurable, *, urgent: bool = False) -> None:
        """Call `then` when everything appended so far is on the disk, with what comes soon; `urgent`: with no more.

        Raises:
            StoreBrokenError: see `append`.
        """
        self._check()
        if self.durable_length == self.length:
            then(None)
        else:
            commit = self._commit(urgent=urgent)
            commit.calls.append(then)
            commit.values.append(None)

    # -- the two steps in one: every intent, every row and every `done` come this way

    def append_written(self, data: bytes, then: OnDurable) -> None:
        """`append`; calls `then` when that was handed to the system."""
        if self._cause is not None or self._closed:
            self._check()
        if not self.in_line:
            self._open_commit = None
        self.in_line.append(data)
        self.length += len(data)
        self._when_written.append(then)
        self._flush_due = True
        if not self._turn_due:
            self._end_turn()

    def append_durable(
        self,
        data: bytes,
        then: Callable[[T | StoreBrokenError], None],
        value: T,
        *,
        urgent: bool = False,
    ) -> None:
        """`append`, then `when_durable`; `then` is given `value` when it is so."""
        if self._cause is not None or self._closed:
            self._check()
        if not self.in_line:
            self._open_commit = None
        self.in_line.append(data)
        self.length += len(data)
        commit = self._open_commit
        if commit is None or urgent:
            commit = self._commit(urgent=urgent)
        else:
            commit.target = self.length
        commit.calls.append(then)
        commit.values.append(value)

    async def synced(self) -> None:
        """Return when everything appended so far is on the disk: it survives power loss."""
        self._check()
        await self._wait_synced()

    async def _wait_synced(self) -> None:
        if self.durable_length == self.length:
            return
        commit = self._commit(urgent=True)
        if commit.future is None:
            commit.future = _Shared(loop=self._loop)
            commit.calls.append(commit.future.wake)
            commit.values.append(None)
        if await commit.future is not None:
            raise self._error()

    def _commit(self, *, urgent: bool) -> _Commit:
        """The one that everything appended so far belongs to."""
        commit = self._open_commit
        if commit is None:
            commit = self._open_commit = _Commit()
            self._commits.append(commit)
            self._end_turn()
        commit.target = self.length
        if urgent and self._urgent_to < self.length:
            self._urgent_to = self.length
            self._end_turn()
        return commit

    async def close(self) -> None:
        """Sync what is queued and close the file; a file that failed before raises nothing again. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._cause is None:
                await self._wait_synced()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._writer.shutdown(wait=False)
            self._syncer.shutdown(wait=False)
            if not (self._writing or self._syncing):
                self._files.close(self._descriptor)

    # -- writing

    def _end_turn(self) -> None:
        """Not at once: what else is appended in this turn of the loop goes with it."""
        if not self._turn_due:
            self._turn_due = True
            self._running_loop().call_soon(self._turn_ends)

    def _turn_ends(self) -> None:
        self._turn_due = False
        if self._flush_due:
            self._flush()
        self._sync_next()

    def _flush(self) -> None:
        """Hand what is in line to the system. A write under way takes it along when it comes back."""
        if self._writing or not self.in_line or self._cause is not None:
            return
        data = self.in_line[0] if len(self.in_line) == 1 else b"".join(self.in_line)
        self.in_line.clear()
        self._flush_due = False
        wake, self._when_written, self._open_written = self._when_written, [], None
        loop = self._running_loop()
        began = loop.time()
        if len(data) > self._inline_bytes or began < self._by_thread_until:
            self._writing, self._flying = True, wake
            flying = loop.run_in_executor(self._writer, self._write, data)
            flying.add_done_callback(self._wrote)
            return
        try:
            self._write(data)
        except Exception as error:  # noqa: BLE001 - as of a thread's write: whatever it is, the bytes are not there
            self._break(error, wake)
            return
        if loop.time() - began > _SLOW_S:
            self._by_thread_until = began + _BY_THREAD_S
        self._has_written(len(data), wake)

    def _write(self, data: bytes) -> int:
        """On the loop's thread or the writer's."""
        taken = self._files.write(self._descriptor, data)
        if taken != len(data):
            raise OSError(
                errno.ENOSPC, f"only {taken} of {len(data)} bytes were written: no space left, or a file size limit"
            )
        return taken

    def _wrote(self, flying: asyncio.Future[int]) -> None:
        self._writing = False
        wake, self._flying = self._flying, []
        error = flying.exception()
        if error is not None or self._cause is not None:
            self._break(error, wake)
            return
        self._has_written(flying.result(), wake)
        self._flush()

    def _has_written(self, size_bytes: int, wake: list[OnDurable]) -> None:
        self._written_length += size_bytes
        self._wake(wake)
        self._sync_next()

    # -- syncing

    def _sync_next(self) -> None:
        """Begin the next sync if one is wanted by now, and what it is to cover is written."""
        if self._syncing or not self._commits or self._cause is not None:
            return
        loop = self._running_loop()
        if self._urgent_to <= self.durable_length and loop.time() < self._pause_ends:
            if self._timer is None:
                self._timer = loop.call_at(self._pause_ends, self._pause_ended)
            return
        if self._commits[0].target > self._written_length:
            self._flush()  # comes back here when it is done
            return
        self._syncing = True
        upto = self._written_length
        flying = loop.run_in_executor(self._syncer, self._sync)
        flying.add_done_callback(lambda done: self._synced_upto(upto, done))

    def _pause_ended(self) -> None:
        self._timer = None
        self._pause_ends = 0.0  # a loop's timers may come a little early
        self._sync_next()

    def _sync(self) -> None:
        """In the syncer's thread. Bytes of a file that no name leads to are nowhere."""
        began_s = time.perf_counter()
        self._files.fsync(self._descriptor)
        if self._timed is not None:
            self._timed.took(time.perf_counter() - began_s)
        if not self._files.inode(self._descriptor):
            raise OSError(errno.ENOENT, "was removed or replaced while this run was writing to it")

    def _synced_upto(self, upto: int, flying: asyncio.Future[None]) -> None:
        self._syncing = False
        error = flying.exception()
        if error is not None or self._cause is not None:
            self._break(error, [])
            return
        self.durable_length = upto
        self._pause_ends = self._running_loop().time() + _BATCH_PAUSE_S
        while self._commits and self._commits[0].target <= upto:
            commit = self._commits.popleft()
            self._wake(commit.calls, commit.values)
        self._sync_next()

    # -- the end

    def _break(self, error: BaseException | None, wake: list[OnDurable]) -> None:
        """The end of this store for the process's life: everyone who waits learns it."""
        if self._cause is None:
            reason = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
            self._cause = broken(self._path, reason)
        waiting: list[Callable[[Any], None]] = [*wake, *self._when_written]
        for commit in self._commits:
            waiting += commit.calls
        self._commits.clear()
        self.in_line.clear()
        self._when_written = []
        self._open_written = self._open_commit = None
        self._wake(waiting)

    def _wake(self, calls: Sequence[Callable[[Any], None]], values: Iterable[object] = repeat(None)) -> None:
        """It is so, or never will be. A call that raises is a fault of its own, and not of those behind it."""
        for then, value in zip(calls, values, strict=False):
            try:
                then(value if self._cause is None else self._error())
            except Exception as error:  # noqa: BLE001 - as the docstring says
                context = {"message": f"callback of a record in {self._path.name} failed", "exception": error}
                self._running_loop().call_exception_handler(context)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _error(self) -> StoreBrokenError:
        """A fresh one for each who asks: a shared exception would grow everyone's traceback."""
        return StoreBrokenError(str(self._cause))

    def _check(self) -> None:
        if self._cause is not None:
            raise self._error()
        if self._closed:
            raise StoreBrokenError(f"{self._path}: already closed")
