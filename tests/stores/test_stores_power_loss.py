"""What was acknowledged survives kill -9 and power loss at any call to the disk.

Played on a pretend disk that forgets by seed.
"""

import asyncio
import errno
import json
import random
import threading
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Done, Intent
from batchrunner.core.ports import Place
from batchrunner.core.row import ChatOutput, ResultRow
from batchrunner.stores.ledger import LedgerWriter
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.results import ResultsFile

RUN = Path("/run")
LEDGER = RUN / "ledger"
PAGE = 64
"""Bytes that reach the pretend disk together."""


@dataclass
class Inode:
    seen: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


class PretendDisk:
    """Files in memory that know what was synced; every call may be the last one of this life."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.names_seen: dict[Path, Inode | None] = {RUN: None}
        self.names_durable: dict[Path, Inode | None] = {RUN: None}
        self.open: dict[int, Inode] = {}
        self.calls_left = 10**9
        self.guard = threading.RLock()

    def _call(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise OSError(errno.EIO, "the machine is gone")

    def _file(self, path: Path) -> Inode:
        inode = self.names_seen.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return inode

    def _opened(self, inode: Inode) -> int:
        descriptor = len(self.open) + 1
        self.open[descriptor] = inode
        return descriptor

    def open_new(self, path: Path, mode: int) -> int:
        with self.guard:
            self._call()
            if path in self.names_seen:
                raise FileExistsError(errno.EEXIST, "exists", str(path))
            inode = self.names_seen[path] = Inode()
            return self._opened(inode)

    def open_append(self, path: Path, mode: int) -> int:
        with self.guard:
            return self._opened(self._file(path)) if path in self.names_seen else self.open_new(path, mode)

    def open_read(self, path: Path) -> int:
        with self.guard:
            return self._opened(self._file(path))

    def read_at(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        with self.guard:
            return bytes(self.open[descriptor].seen[offset : offset + size_bytes])

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        with self.guard:
            try:
                self._call()
            except OSError:
                self.open[descriptor].seen += data[: self.rng.randint(0, len(data))]
                raise
            self.open[descriptor].seen += data
            return len(data)

    def truncate(self, descriptor: int, length: int) -> None:
        with self.guard:
            self._call()
            del self.open[descriptor].seen[length:]

    def fsync(self, descriptor: int) -> None:
        with self.guard:
            self._call()
            self.open[descriptor].durable = bytes(self.open[descriptor].seen)

    def fsync_folder(self, path: Path) -> None:
        with self.guard:
            self._call()
            gone = [name for name in self.names_durable if name.parent == path and name not in self.names_seen]
            for name in gone:
                del self.names_durable[name]
            self.names_durable |= {name: inode for name, inode in self.names_seen.items() if name.parent == path}

    def close(self, descriptor: int) -> None:
        pass

    def length(self, descriptor: int) -> int:
        with self.guard:
            return len(self.open[descriptor].seen)

    def exists(self, path: Path) -> bool:
        with self.guard:
            return path in self.names_seen

    def rename(self, source: Path, target: Path) -> None:
        with self.guard:
            self._call()
            self.names_seen[target] = self.names_seen.pop(source)

    def unlink(self, path: Path) -> None:
        with self.guard:
            self._call()
            del self.names_seen[path]

    def make_folder(self, path: Path, mode: int) -> bool:
        with self.guard:
            self._call()
            is_new = path not in self.names_seen
            self.names_seen.setdefault(path, None)
            return is_new

    def names(self, path: Path) -> list[str]:
        with self.guard:
            return [name.name for name in self.names_seen if name.parent == path and name != path]

    def wake(self, *, power_was_lost: bool) -> None:
        """The next life."""
        if power_was_lost:
            self.names_seen = dict(self.names_durable)
            for inode in {id(inode): inode for inode in self.names_seen.values() if inode is not None}.values():
                inode.seen = self._what_is_left(inode)
                inode.durable = bytes(inode.seen)
            self.names_durable = dict(self.names_seen)
        self.open.clear()
        self.calls_left = 10**9

    def _what_is_left(self, inode: Inode) -> bytearray:
        """What was synced, and of the rest any pages in any order; missing ones read as zeros."""
        if len(inode.seen) < len(inode.durable):
            return bytearray(inode.seen if self.rng.random() < 0.5 else inode.durable)
        left = inode.seen[: self.rng.randint(len(inode.durable), len(inode.seen))]
        for page in range(0, len(left), PAGE):
            start, end = max(page, len(inode.durable)), min(page + PAGE, len(left))
            if start < end and self.rng.random() < 0.4:
                left[start:end] = bytes(end - start)
        return left


class Wall:
    def wall(self) -> float:
        return 1.0

    def monotonic(self) -> float:
        return 1.0


def row(number: int) -> ResultRow:
    output = ChatOutput(
        text="x" * (number % 90), reasoning=None, tool_calls=None, parsed=None, finish_reason=None, truncated=False
    )
    return ResultRow(
        id=str(number),
        prompt_id=str(number),
        index=number,
        model="m",
        prompt="p",
        vars={},
        params={},
        output=output,
        task_id=None,
        usage=None,
        attempts=1,
        ambiguous=0,
        recovered=False,
        started_at="",
        seconds=0.0,
        key=f"{number:032x}",
    )


def done(number: int, place: Place) -> Done:
    return Done(i=str(number), k=f"{number:032x}", n=1, a=1, crc=place.crc, length=place.length)


@dataclass
class Told:
    """What the stores acknowledged, over all lives."""

    intents: set[str] = field(default_factory=set)
    done: dict[str, Place] = field(default_factory=dict)
    rows: dict[str, Place] = field(default_factory=dict)
    replayed: set[str] = field(default_factory=set)
    """Intents that a later process has seen and goes on from."""


async def live(disk: PretendDisk, told: Told, numbers: range) -> None:
    """One process: start as a run does, work with several tasks, until the disk is gone or all is done."""
    seen = [record.event for record in read_ledger(LEDGER, files=disk)]
    known = [event for event in seen if isinstance(event, Done)]
    results = ResultsFile(RUN, files=disk)
    recovered = results.recover(max((event.length for event in known), default=0))
    assert not recovered.realigned
    ledger = LedgerWriter.open(LEDGER, run="r", job="j", program="p", clock=Wall(), files=disk)
    told.replayed |= {event.i for event in seen if isinstance(event, Intent)}
    for adopted in recovered.adopted:
        await ledger.commit(done(int(adopted.id), adopted.place))
        told.done[adopted.id] = adopted.place
    queue = iter(numbers)

    async def worker() -> None:
        for number in queue:
            event = Intent(i=str(number), k=f"{number:032x}", n=1, a=0, model="m", account="a")
            await ledger.commit(event)
            told.intents.add(str(number))
            ledger.note(event)
            place = await results.add(row(number))
            told.rows[str(number)] = place
            await ledger.commit(done(number, place))
            told.done[str(number)] = place

    ends = await asyncio.gather(*(worker() for _ in range(7)), return_exceptions=True)
    assert all(end is None or isinstance(end, StoreBrokenError) for end in ends), ends
    await results.close()
    await ledger.close()


def check(disk: PretendDisk, told: Told) -> None:
    events = [record.event for record in read_ledger(LEDGER, files=disk)]
    assert told.intents | told.replayed <= {event.i for event in events if isinstance(event, Intent)}
    finished = {event.i: event for event in events if isinstance(event, Done)}
    assert set(told.done) <= set(finished)
    inode = disk.names_seen.get(RUN / "results.jsonl")
    text = bytes(inode.seen) if inode is not None else b""
    for name, place in [
        *told.rows.items(),
        *((name, Place(crc=e.crc, length=e.length)) for name, e in finished.items()),
    ]:
        start = text.rfind(b"\n", 0, place.length - 1) + 1
        line = text[start : place.length - 1]
        assert f"{zlib.crc32(line):08x}" == place.crc
        assert json.loads(line)["id"] == name


@pytest.mark.parametrize("losses", [0.0, 0.5, 1.0], ids=["kill", "both", "power"])
@pytest.mark.parametrize("seed", range(15))
def test_what_was_acknowledged_survives_the_end_of_a_process_at_any_call(seed: int, losses: float) -> None:
    rng = random.Random(seed)
    disk, told = PretendDisk(rng), Told()
    for life in range(5):
        disk.calls_left = rng.randint(1, 120)
        with suppress(StoreBrokenError):
            asyncio.run(live(disk, told, range(1000 * life + 1, 1000 * life + 60)))
        disk.wake(power_was_lost=rng.random() < losses)
        check(disk, told)
    asyncio.run(live(disk, told, range(9001, 9020)))
    check(disk, told)
    finished = {record.event.i for record in read_ledger(LEDGER, files=disk) if isinstance(record.event, Done)}
    assert set(told.rows) <= finished, "every row that reached the disk was adopted in the end"
