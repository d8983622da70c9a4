"""Workers that begin as copies of the process that starts them: what it knows of them; `cli.forked` makes them."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Sequence
from typing import Final

from batchrunner.core.values import dataclass

_ENDS_S: Final = 0.005
"""Between two looks at a process that has closed its pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A copy of this process that waits to become a worker."""

    pid: int
    stderr: int
    """A descriptor from which its words are read."""


class Copies:
    """Copies of this process that wait: `begin` starts all of them, `close` ends those that were not started."""

    def __init__(self, waiting: Sequence[Copied], *, begins: int) -> None:
        """`begins`: a pipe from which each reads a byte when it shall begin."""
        self.waiting = deque(waiting)
        self._begins: int | None = begins

    def __repr__(self) -> str:
        return f"<Copies: {len(self.waiting)} wait>"

    def begin(self) -> None:
        """The coordinator listens."""
        assert self._begins is not None, "it is called once"
        os.write(self._begins, b"." * len(self.waiting))

    def close(self) -> None:
        """No more of them begin, nor goes on if this process is gone before."""
        if self._begins is not None:
            os.close(self._begins)
            self._begins = None
        while self.waiting:
            copy = self.waiting.popleft()
            os.close(copy.stderr)
            os.waitpid(copy.pid, 0)


class CopiedProcess:
    """A copy at work, as `asyncio.subprocess.Process` shows a program."""

    def __init__(self, pid: int, stderr: asyncio.StreamReader, pipe: asyncio.BaseTransport) -> None:
        self.pid, self.stderr, self._pipe = pid, stderr, pipe
        self.returncode: int | None = None

    @classmethod
    async def of(cls, copy: Copied) -> "CopiedProcess":
        """Read what it says."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(copy.stderr, "rb", buffering=0)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        return cls(copy.pid, reader, transport)

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError."""
        if self.returncode is None:  # before it is waited for its number is no other process's
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As `send_signal`."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Its exit status; a negative one is the number of the signal that ended it."""
        while self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - it returns at once
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
                self._pipe.close()
            await asyncio.sleep(0 if ended else _ENDS_S)
        return self.returncode
