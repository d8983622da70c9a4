"""`output.ledger`: the ledger and the rows of a run in an object store, as chunks that nobody ever changes.

Each process has an epoch. Its chunks `EEEE/NNNN.jsonl` are put with if-none-match, one for each group commit; one after
the other they are its segment, and `rows/EEEE/NNNN.jsonl` its rows. What counts as durable is on this disk and in the
store. Chunk 0 is the claim of the epoch. Whoever takes over puts a fence where the next chunk of the epoch before would
go: a process that was thought dead, and is not, is refused with its next commit, and sends nothing more.
"""

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from batchrunner.core.errors import JobMistakesError, LedgerDamagedError, LockHeldError, StoreBrokenError
from batchrunner.stores.files import PRIVATE_FILE, PRIVATE_FOLDER, RESULTS, SHARED_FILE, Disk, write_whole
from batchrunner.stores.ledger_line import LEDGER, SEGMENT_NAME, segment_numbers, segment_path
from batchrunner.stores.object_store import open_store, require_reachable, words_of
from batchrunner.stores.row_codec import key_and_index_of

ALIVE_S: Final = 15.0
"""How often a process that works says so."""
DEAD_S: Final = 60.0
"""After so long without a word, a process on another machine counts as dead."""
_ALIVE: Final = "alive"
_CLAIM, _FENCE = "claim", "fence"
_CLOSED: Final = b'"e":"close"'
_NAME: Final = re.compile(r"(rows/)?([0-9]{4,})/([0-9]{4,})\.jsonl")


class _Epoch:
    """What the store has of one."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.claim: dict[str, Any] = {}
        self.chunks = 0
        """The number of the last chunk, of whatever kind."""
        self.is_fenced = False
        self.segment = b""
        self.rows = b""

    @property
    def is_closed(self) -> bool:
        return _CLOSED in self.segment[-4096:]


class StoreLedger:
    """The chunks of one run. Blocks; for threads."""

    def __init__(self, folder: Path, to: str) -> None:
        self._folder = folder
        self._to = to
        self._store = open_store(to)
        self._epoch = 0
        self._numbers = {LEDGER: 0, RESULTS: 0}
        self._owner = f"{socket.gethostname()}:{os.path.realpath(folder)}"
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"<StoreLedger {self._to} epoch={self._epoch}>"

    def take(self) -> None:
        """Bring the folder and the store in line, and begin the next epoch. For the holder of the folder's lock.

        Raises:
            LockHeldError: another process works on this run, or began the same epoch.
            LedgerDamagedError: the folder and the store hold different ledgers.
            StoreBrokenError: the store cannot be reached.
        """
        try:
            require_reachable(self._to)
            epochs = self._read()
            last = epochs[-1] if epochs else None
            if last is not None and not last.is_fenced:
                self._end(last)
                epochs = self._read()  # what it wrote before the fence
            self._epoch = epochs[-1].number if epochs else 0
            self._bring_segments([epoch for epoch in epochs if epoch.segment])
            unknown = self._bring_rows(b"".join(epoch.rows for epoch in epochs))
            self._claim()
            if unknown:  # a process was killed between the disk and the store: what it wrote here counts
                self.keep(RESULTS, unknown)
        except (JobMistakesError, LockHeldError, LedgerDamagedError, StoreBrokenError):
            raise
        except Exception as error:
            words = words_of(error, self._to)
            raise StoreBrokenError(f"{self._to}: {words}; nothing was sent, and the same command begins") from error
        threading.Thread(target=self._put_heartbeats, args=(self._epoch,), name="ledger-alive", daemon=True).start()

    def close(self) -> None:
        """Say nothing any more."""
        self._ended.set()

    def keep(self, kind: str, data: bytes) -> None:
        """Put the next chunk of the ledger or of the rows.

        Raises:
            OSError: it is not there, and nothing may be built on it.
        """
        number = self._numbers[kind] + 1
        try:
            is_there = self._put(_chunk(kind, self._epoch, number), data)
        except Exception as error:
            raise OSError(5, f"{self._to}: {words_of(error, self._to)}") from error
        if not is_there:
            self.close()
            raise OSError(1, f"{self._to}: another process has taken over this run; this one sends nothing more")
        self._numbers[kind] = number

    # -- what is there

    def _read(self) -> list[_Epoch]:
        """All epochs, in order."""
        names = [str(entry["path"]) for some in self._store.list() for entry in some]
        found: dict[int, _Epoch] = {}
        for name in sorted(names, key=_place):
            parts = _NAME.fullmatch(name)
            if parts is None:
                continue
            number, chunk = int(parts[2]), int(parts[3])
            epoch = found.setdefault(number, _Epoch(number))
            content = bytes(self._store.get(name).bytes())
            note = _note_of(content)
            if parts[1]:
                epoch.rows += b"" if _FENCE in note else content
                continue
            epoch.chunks = chunk
            if _CLAIM in note:
                epoch.claim = note
            elif _FENCE in note:
                epoch.is_fenced = True
            else:
                epoch.segment += content
        return [found[number] for number in sorted(found)]

    def _end(self, epoch: _Epoch) -> None:
        """Fence the last epoch, once whoever wrote it is known to be gone: no chunk of it can be put after that."""
        is_own = epoch.claim.get(_CLAIM) == self._owner
        if not (is_own or epoch.is_closed or self._is_silent(epoch)):
            raise LockHeldError(
                f"{self._to}: another process works on this run ({epoch.claim.get(_CLAIM)}); nothing was sent. "
                f"If it is dead, this is possible {DEAD_S:.0f} s after its last word"
            )
        if is_own:
            self._bring_tail(epoch)
        fence = json.dumps({_FENCE: self._owner}).encode() + b"\n"
        number = epoch.chunks + 1
        while not self._put(_chunk(LEDGER, epoch.number, number), fence):
            if _FENCE in _note_of(bytes(self._store.get(_chunk(LEDGER, epoch.number, number)).bytes())):
                return
            number += 1

    def _bring_tail(self, epoch: _Epoch) -> None:
        """What this machine's last process wrote here and did not get to the store any more."""
        numbers = self._local()
        here = segment_path(self._folder / LEDGER, numbers[-1]).read_bytes() if numbers else b""
        if epoch.segment and here.startswith(epoch.segment) and len(here) > len(epoch.segment):
            self._put(_chunk(LEDGER, epoch.number, epoch.chunks + 1), here[len(epoch.segment) :])
            epoch.chunks += 1

    def _is_silent(self, epoch: _Epoch) -> bool:
        """By the store's clock alone: machines' clocks differ."""
        asked = f"looks/{os.getpid()}-{threading.get_ident()}"
        self._store.put(asked, b"")
        try:
            now = self._store.head(asked)["last_modified"]
        finally:
            with suppress(Exception):
                self._store.delete(asked)
        times = []
        for name in (f"{epoch.number:04d}/{_ALIVE}", _chunk(LEDGER, epoch.number, epoch.chunks)):
            with suppress(FileNotFoundError):
                times.append(self._store.head(name)["last_modified"])
        return not times or (now - max(times)).total_seconds() > DEAD_S

    # -- in line

    def _local(self) -> list[int]:
        ledger = self._folder / LEDGER
        return segment_numbers([entry.name for entry in ledger.iterdir()]) if ledger.exists() else []

    def _bring_segments(self, epochs: list[_Epoch]) -> None:
        """Segment k here is the k-th epoch with records: each side gets what it lacks."""
        disk, ledger = Disk(), self._folder / LEDGER
        disk.make_folder(ledger, PRIVATE_FOLDER)
        here = self._local()
        for number, epoch in enumerate(epochs, 1):
            path = segment_path(ledger, number)
            known = path.read_bytes() if number in here else b""
            if not known.startswith(epoch.segment) and not epoch.segment.startswith(known):
                problem = f"differs from epoch {epoch.number} in {self._to}: two runs that know nothing of each other"
                raise LedgerDamagedError(file=str(path), offset=0, problem=f"{problem}; choose another `output.ledger`")
            if len(known) < len(epoch.segment):
                write_whole(disk, path, epoch.segment, PRIVATE_FILE)
        for number in here[len(epochs) :]:
            self._claim()
            self.keep(LEDGER, segment_path(ledger, number).read_bytes())

    def _bring_rows(self, rows: bytes) -> bytes:
        """Write the rows that the store has and this folder has not; the value is those that the store has not."""
        path = self._folder / RESULTS
        here = path.read_bytes() if path.exists() else b""
        known, there = dict(_rows_of(here)), dict(_rows_of(rows))
        missing = {key: line for key, line in there.items() if key not in known}
        if missing:
            text = here + (b"\n" if here and not here.endswith(b"\n") else b"") + b"".join(missing.values())
            write_whole(Disk(), path, text, SHARED_FILE)
        return b"".join(line for key, line in known.items() if key not in there and line.endswith(b"\n"))

    def _claim(self) -> None:
        """Begin the next epoch. Raises LockHeldError if somebody else has."""
        self._epoch += 1
        self._numbers = dict.fromkeys(self._numbers, 0)
        claim = json.dumps({_CLAIM: self._owner, "pid": os.getpid()}).encode() + b"\n"
        if not self._put(_chunk(LEDGER, self._epoch, 0), claim):
            raise LockHeldError(f"{self._to}: another process has just begun to work on this run; nothing was sent")

    def _put(self, name: str, data: bytes) -> bool:
        """Whether the chunk is there now as it is here: a put whose answer was lost may have been made before."""
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415 - an extra, for jobs with `ledger` only

        try:
            self._store.put(name, data, mode="create")
        except AlreadyExistsError:
            return bytes(self._store.get(name).bytes()) == data
        return True

    def _put_heartbeats(self, epoch: int) -> None:
        while not self._ended.wait(ALIVE_S):
            with suppress(Exception):  # commits say what is wrong
                self._store.put(f"{epoch:04d}/{_ALIVE}", b"")


class StoreFiles(Disk):
    """The disk; what is synced of the ledger's segment and of the rows is in the store, too, when `fsync` returns.

    A context manager, at whose end this process says no more that it works.
    """

    def __init__(self, ledger: StoreLedger, folder: Path) -> None:
        self._ledger = ledger
        self._folder = folder
        self._waiting: dict[int, tuple[str, list[bytes]]] = {}
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ledger.close()

    def open_new(self, path: Path, mode: int) -> int:
        """See `Files`: a new segment of the ledger goes to the store."""
        descriptor = super().open_new(path, mode)
        if path.parent == self._folder / LEDGER and SEGMENT_NAME.fullmatch(path.name):
            self._waiting[descriptor] = (LEDGER, [])
        return descriptor

    def open_append(self, path: Path, mode: int) -> int:
        """See `Files`: rows go to the store."""
        descriptor = super().open_append(path, mode)
        if path == self._folder / RESULTS:
            self._waiting[descriptor] = (RESULTS, [])
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """See `Files`."""
        taken = super().write(descriptor, data)
        if descriptor in self._waiting:
            with self._guard:
                self._waiting[descriptor][1].append(bytes(data[:taken]))
        return taken

    def fsync(self, descriptor: int) -> None:
        """See `Files`. One chunk for each sync: group commits are as large as a put takes."""
        super().fsync(descriptor)
        waiting = self._waiting.get(descriptor)
        if waiting is None or not waiting[1]:
            return
        kind, pieces = waiting
        with self._guard:
            data = b"".join(pieces)
            pieces.clear()
        self._ledger.keep(kind, data)

    def close(self, descriptor: int) -> None:
        """See `Files`."""
        self._waiting.pop(descriptor, None)
        super().close(descriptor)


def _chunk(kind: str, epoch: int, number: int) -> str:
    return f"{'rows/' if kind == RESULTS else ''}{epoch:04d}/{number:04d}.jsonl"


def _place(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", name)))


def _note_of(content: bytes) -> dict[str, Any]:
    """The claim or fence that a chunk is; empty for any other."""
    if not content.startswith((b'{"claim":', b'{"fence":')):
        return {}
    try:
        note = json.loads(content)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _rows_of(rows: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in rows.splitlines(keepends=True):
        if (place := key_and_index_of(line)) is not None:
            yield place[0], line
