"""Workers of `run --processes N` that begin as copies of this process, where the system can copy it safely.

A worker that is started as a program of its own spends its first half second of CPU on importing what this process has
imported already. A copy has it at once. A process may be copied while it has one thread only, so that no lock is held
by a thread that the copy does not have: before the event loop begins. The copies wait until the coordinator listens.
Where more threads run, or on another system than Linux, there are no copies, and workers are started as programs; so
are those that take the place of one that died.
"""

import gc
import os
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn

from batchrunner.coordination.address import PROCESSES_VARIABLE
from batchrunner.coordination.copies import Copied, Copies
from batchrunner.core.errors import ExitStatus

_LOADED: Final = (
    "uvloop",
    "aiohttp",
    "batchrunner.working",
    "batchrunner.wiring",
    "batchrunner.running",
    "batchrunner.transport.session",
    "batchrunner.transport.api_transport",
    "batchrunner.transport.downloads",
    "batchrunner.transport.direct",
    "batchrunner.stores.batch_files",
    "batchrunner.stores.images",
    "batchrunner.stores.media",
    "batchrunner.prompts.expand",
    "batchrunner.prompts.plain",
)
"""What a worker needs, loaded before it is copied."""


def copies_of_this_process(
    run: Callable[[Sequence[str]], int], words: Sequence[str], *, processes: int
) -> Copies | None:
    """So many copies that wait to `run` these words; None where this process cannot be copied."""
    if sys.platform != "linux" or _threads() != 1:
        return None
    for name in _LOADED:
        with suppress(ImportError):
            import_module(name)
    if _threads() != 1:
        return None
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # what is there stays: the collector of a copy does not touch, and so not double, its memory
    waits, begins = os.pipe()
    found: list[Copied] = []
    for _ in range(processes):
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            for descriptor in (begins, reads, *(copy.stderr for copy in found)):
                os.close(descriptor)
            _work(run, words, waits=waits, stderr=writes, processes=processes)
        os.close(writes)
        found.append(Copied(pid=pid, stderr=reads))
    os.close(waits)
    return Copies(found, begins=begins)


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _work(
    run: Callable[[Sequence[str]], int], words: Sequence[str], *, waits: int, stderr: int, processes: int
) -> NoReturn:
    """The copy, to its end. It reads a byte when it shall begin, and the end of the pipe when it shall not."""
    status = int(ExitStatus.STOPPED)
    try:
        os.setsid()  # Ctrl-C in a terminal reaches the first process, which hands it on
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor, number in ((nowhere, 0), (nowhere, 1), (stderr, 2)):
            os.dup2(descriptor, number)
        os.close(nowhere)
        os.close(stderr)
        begun = os.read(waits, 1)
        os.close(waits)
        if begun:
            random.seed()
            os.environ[PROCESSES_VARIABLE] = str(processes)
            sys.argv = [sys.argv[0], *words]
            status = run(words)
    finally:  # nothing of the process that was copied is ended here: files and locks that it has are its own
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)
