"""Group commit that clocks itself, for one file that only grows.

The loop's thread alone owns the buffer; executors get immutable bytes. Write and sync are separate steps on separate
threads: whoever waits for `written` never waits behind an fsync, and whatever was written while the last fsync ran
goes with the next. There is no time window and no future per record: one per batch, shared.

Refuses: going on after the first refused write or sync (every later call raises StoreBrokenError), short writes,
being used from two loops.
"""

import asyncio
import errno
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batchrunner.core.errors import StoreBrokenError
from batchrunner.stores.files import Files, broken


class _Shared(asyncio.Future[bool]):
    """What a whole batch waits for; False tells that the store broke.

    Cancelling one of those who wait must not cancel the others' future: that task is cancelled when the future is done.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - the signature is asyncio's
        return False


class _Waiting:
    """Those who wait for the file to be durable up to `target`."""

    __slots__ = ("future", "target")

    def __init__(self, future: _Shared, target: int) -> None:
        self.future = future
        self.target = target


class Appender:
    """Appends to one open file. Use it on one running loop; those who wait are woken in the order of their records."""

    def __init__(self, files: Files, descriptor: int, path: Path) -> None:
        """Take over `descriptor`, opened for appending; what is in the file already counts as durable."""
        self._files = files
        self._descriptor = descriptor
        self._path = path
        self._inode = files.inode(descriptor)
        self._length = self._written_length = self._durable_length = files.length(descriptor)
        self._buffer: list[bytes] = []
        self._open_written: _Shared | None = None
        self._flying_written: _Shared | None = None
        self._open_synced: _Waiting | None = None
        self._sync_queue: deque[_Waiting] = deque()
        self._writing = False
        self._syncing = False
        self._closed = False
        self._cause: StoreBrokenError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"write-{path.name}")
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sync-{path.name}")

    def __repr__(self) -> str:
        state = "broken" if self._cause else "closed" if self._closed else "open"
        return f"<Appender {self._path.name} {state} length={self._length} durable={self._durable_length}>"

    @property
    def length(self) -> int:
        """Bytes of the file with everything appended so far, written or not."""
        return self._length

    @property
    def durable_length(self) -> int:
        """Bytes known to be on the disk."""
        return self._durable_length

    @property
    def inode(self) -> int:
        """The open file's number."""
        return self._inode

    @property
    def starts_batch(self) -> bool:
        """True when the next record will be the first of its batch."""
        return not self._buffer

    def append(self, data: bytes) -> int:
        """Put bytes in line; the offset where they begin.

        Raises:
            StoreBrokenError: the disk refused something before, or the file is closed.
        """
        self._check()
        offset = self._length
        self._length = offset + len(data)
        if not self._buffer:
            self._open_synced = None  # who waits for an earlier batch must not wait for this one, too
        self._buffer.append(data)
        if not self._writing:
            self._writing = True
            # not at once: what else is appended in this turn of the loop goes with it
            self._running_loop().call_soon(self._start_write)
        return offset

    async def written(self) -> None:
        """Return when everything appended so far was handed to the system: it survives kill -9."""
        self._check()
        if self._buffer:
            if self._open_written is None:
                self._open_written = _Shared(loop=self._loop)
            future = self._open_written
        elif self._flying_written is not None:
            future = self._flying_written
        else:
            return
        if not await future:
            raise self._error()

    async def synced(self) -> None:
        """Return when everything appended so far is on the disk: it survives power loss."""
        self._check()
        await self._wait_synced()

    async def _wait_synced(self) -> None:
        if self._durable_length == self._length:
            return
        waiting = self._open_synced
        if waiting is None:
            waiting = self._open_synced = _Waiting(_Shared(loop=self._running_loop()), self._length)
            self._sync_queue.append(waiting)
            self._start_sync()
        else:
            waiting.target = self._length
        if not await waiting.future:
            raise self._error()

    async def close(self) -> None:
        """Sync what is in line and close the file; a broken one is closed without a word. Twice is once."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._cause is None:
                await self._wait_synced()
        finally:
            self._writer.shutdown(wait=False)
            self._syncer.shutdown(wait=False)
            if not (self._writing or self._syncing):
                self._files.close(self._descriptor)

    def _start_write(self) -> None:
        if self._cause is not None:
            self._writing = False
            return
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._flying_written, self._open_written = self._open_written or _Shared(loop=self._loop), None
        flying = self._running_loop().run_in_executor(self._writer, self._write, data)
        flying.add_done_callback(self._wrote)

    def _write(self, data: bytes) -> int:
        """In the writer's thread."""
        taken = self._files.write(self._descriptor, data)
        if taken != len(data):
            raise OSError(
                errno.ENOSPC, f"only {taken} of {len(data)} bytes were written: no space left, or a size limit"
            )
        return taken

    def _wrote(self, flying: asyncio.Future[int]) -> None:
        self._writing = False
        finished, self._flying_written = self._flying_written, None
        error = flying.exception()
        if error is not None or self._cause is not None:
            self._break(error, finished)
            return
        self._written_length += flying.result()
        if finished is not None:
            finished.set_result(True)
        if self._buffer:
            self._writing = True
            self._start_write()
        self._start_sync()

    def _start_sync(self) -> None:
        if self._syncing or not self._sync_queue or self._sync_queue[0].target > self._written_length:
            return
        self._syncing = True
        upto = self._written_length
        flying = self._running_loop().run_in_executor(self._syncer, self._sync)
        flying.add_done_callback(lambda done: self._synced_upto(upto, done))

    def _sync(self) -> None:
        """In the syncer's thread. Bytes of a file that no name leads to are nowhere."""
        self._files.fsync(self._descriptor)
        if not self._files.inode(self._descriptor):
            raise OSError(errno.ENOENT, "was removed or replaced while this run was writing to it")

    def _synced_upto(self, upto: int, flying: asyncio.Future[None]) -> None:
        self._syncing = False
        error = flying.exception()
        if error is not None or self._cause is not None:
            self._break(error, None)
            return
        self._durable_length = upto
        while self._sync_queue and self._sync_queue[0].target <= upto:
            self._sync_queue.popleft().future.set_result(True)
        self._start_sync()

    def _break(self, error: BaseException | None, finished: _Shared | None) -> None:
        """The end of this store for the process's life: everyone who waits learns it."""
        if self._cause is None:
            reason = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
            self._cause = broken(self._path, reason)
        waiting = [finished, self._open_written, *(entry.future for entry in self._sync_queue)]
        self._sync_queue.clear()
        self._buffer.clear()
        self._open_written = self._open_synced = None
        for future in waiting:
            if future is not None and not future.done():
                future.set_result(False)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    @property
    def refused(self) -> bool:
        """Whether the disk refused a write or a sync: what stands at the end of the file may be half a line."""
        return self._cause is not None

    def _error(self) -> StoreBrokenError:
        """A fresh one for each who asks: a shared exception would grow everyone's traceback."""
        return StoreBrokenError(str(self._cause))

    def _check(self) -> None:
        if self._cause is not None:
            raise self._error()
        if self._closed:
            raise StoreBrokenError(f"{self._path}: already closed")
