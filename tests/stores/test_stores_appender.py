"""Group commit: order, what is awaited, what is refused."""

import asyncio
import errno
import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.stores.appender import Appender
from batchrunner.stores.files import DISK, PRIVATE_FILE, Disk


class HeldSync(Disk):
    """A disk whose fsync waits until it is let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.syncs = 0

    def fsync(self, descriptor: int) -> None:
        self.syncs += 1
        self.began.set()
        assert self.may_end.wait(10)
        super().fsync(descriptor)


class HeldWrite(Disk):
    """A disk whose first write waits until it is let go, and whose second one too."""

    def __init__(self) -> None:
        self.began = [threading.Event(), threading.Event()]
        self.may_end = [threading.Event(), threading.Event()]
        self.writes = 0

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        number, self.writes = self.writes, self.writes + 1
        self.began[number].set()
        assert self.may_end[number].wait(10)
        return super().write(descriptor, data)


class RefusingDisk(Disk):
    """A disk that refuses the n-th write or sync (from 1) with EIO."""

    def __init__(self, *, write: int = 0, sync: int = 0) -> None:
        self.left = {"write": write, "sync": sync}

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._count("write")
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._count("sync")
        super().fsync(descriptor)

    def _count(self, what: str) -> None:
        self.left[what] -= 1
        if self.left[what] == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def open_file(path: Path, files: Disk = DISK) -> Appender:
    return Appender(files, files.open_append(path, PRIVATE_FILE), path)


def test_bytes_stand_in_the_order_of_appending_at_the_offsets_told(tmp_path: Path) -> None:
    async def run() -> None:
        appender = open_file(tmp_path / "a")
        assert [appender.append(b"one\n"), appender.append(b"two\n")] == [0, 4]
        await appender.synced()
        assert appender.append(b"three\n") == 8
        await appender.close()
        assert (appender.length, appender.durable_length) == (14, 14)

    asyncio.run(run())
    assert (tmp_path / "a").read_bytes() == b"one\ntwo\nthree\n"


def test_an_existing_file_is_continued_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old\n")

    async def run() -> None:
        appender = open_file(tmp_path / "a")
        assert appender.append(b"new\n") == 4
        await appender.close()

    asyncio.run(run())
    assert (tmp_path / "a").read_bytes() == b"old\nnew\n"


def test_written_does_not_wait_behind_an_fsync(tmp_path: Path) -> None:
    async def run() -> None:
        files = HeldSync()
        appender = open_file(tmp_path / "a", files)
        appender.append(b"first\n")
        first = asyncio.create_task(appender.synced())
        await asyncio.to_thread(files.began.wait, 10)
        for number in range(3):
            appender.append(b"%d\n" % number)
            await asyncio.wait_for(appender.written(), 5)
        assert (tmp_path / "a").read_bytes() == b"first\n0\n1\n2\n"
        assert not first.done()
        assert appender.durable_length == 0
        files.may_end.set()
        await first
        await appender.close()

    asyncio.run(run())


def test_what_came_during_an_fsync_goes_together_with_the_next_one(tmp_path: Path) -> None:
    async def run() -> None:
        files = HeldSync()
        appender = open_file(tmp_path / "a", files)
        appender.append(b"first\n")
        waiting = [asyncio.create_task(appender.synced())]
        await asyncio.to_thread(files.began.wait, 10)
        for number in range(50):
            appender.append(b"%d\n" % number)
            waiting.append(asyncio.create_task(appender.synced()))
            await appender.written()
        files.may_end.set()
        await asyncio.gather(*waiting)
        assert files.syncs == 2
        await appender.close()

    asyncio.run(run())


def test_synced_is_never_told_before_an_fsync_that_began_after_the_write(tmp_path: Path) -> None:
    async def run() -> None:
        files = HeldSync()
        appender = open_file(tmp_path / "a", files)
        appender.append(b"first\n")
        first = asyncio.create_task(appender.synced())
        await asyncio.to_thread(files.began.wait, 10)
        appender.append(b"second\n")
        second = asyncio.create_task(appender.synced())
        await appender.written()
        files.began.clear()
        files.may_end.set()
        await first
        assert appender.durable_length >= len(b"first\n")
        assert second.done() <= (appender.durable_length == appender.length)
        await second
        assert files.syncs == 2
        await appender.close()

    asyncio.run(run())


def test_an_fsync_vouches_only_for_what_was_written_before_it_began(tmp_path: Path) -> None:
    async def run() -> None:
        files = HeldWrite()
        appender = open_file(tmp_path / "a", files)
        appender.append(b"first\n")
        first = asyncio.create_task(appender.synced())
        await asyncio.to_thread(files.began[0].wait, 10)
        appender.append(b"second\n")
        second = asyncio.create_task(appender.synced())
        files.may_end[0].set()
        await first
        await asyncio.to_thread(files.began[1].wait, 10)
        assert (appender.durable_length, second.done()) == (len(b"first\n"), False)
        files.may_end[1].set()
        await second
        await appender.close()

    asyncio.run(run())


def test_those_who_wait_are_woken_in_the_order_of_their_records(tmp_path: Path) -> None:
    async def run() -> list[int]:
        appender = open_file(tmp_path / "a")
        woken: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(0) if number % 3 else None
            offset = appender.append(b"%08d\n" % number)
            await appender.synced()
            woken.append(offset)

        await asyncio.gather(*(one(number) for number in range(600)))
        await appender.close()
        return woken

    woken = asyncio.run(run())
    assert woken == sorted(woken)
    assert len(woken) == 600


def test_a_cancelled_waiter_takes_nobody_with_it_and_its_bytes_stay(tmp_path: Path) -> None:
    async def run() -> None:
        files = HeldSync()
        appender = open_file(tmp_path / "a", files)

        async def add(data: bytes) -> None:
            appender.append(data)
            await appender.synced()

        tasks = [asyncio.create_task(add(b"%d\n" % number)) for number in range(3)]
        await asyncio.to_thread(files.began.wait, 10)
        tasks[1].cancel()
        files.may_end.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ended] == [type(None), asyncio.CancelledError, type(None)]
        await appender.close()

    asyncio.run(run())
    assert (tmp_path / "a").read_bytes() == b"0\n1\n2\n"


@pytest.mark.parametrize("refusal", [{"write": 2}, {"sync": 2}])
def test_the_first_refusal_of_the_disk_ends_the_appender_for_good(tmp_path: Path, refusal: dict[str, int]) -> None:
    async def run() -> None:
        appender = open_file(tmp_path / "a", RefusingDisk(**refusal))
        appender.append(b"fine\n")
        await appender.synced()
        appender.append(b"refused\n")
        appender.append(b"too\n")
        ends = await asyncio.gather(*(appender.synced() for _ in range(5)), return_exceptions=True)
        assert all(isinstance(end, StoreBrokenError) for end in ends)
        assert "Input/output error" in str(ends[0])
        with pytest.raises(StoreBrokenError, match="Input/output error"):
            appender.append(b"later\n")
        for wait in (appender.written, appender.synced):
            with pytest.raises(StoreBrokenError):
                await wait()
        assert appender.durable_length == len(b"fine\n")
        assert "broken" in repr(appender)
        await appender.close()

    asyncio.run(run())


def test_a_full_device_is_told_in_the_systems_own_words() -> None:
    async def run() -> None:
        path = Path("/dev/full")
        appender = Appender(DISK, os.open(path, os.O_WRONLY), path)
        appender.append(b"x")
        with pytest.raises(StoreBrokenError, match="/dev/full: No space left on device"):
            await appender.written()
        await appender.close()

    asyncio.run(run())


def test_a_short_write_is_an_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    async def run() -> None:
        appender = open_file(tmp_path / "a")
        appender.append(b"x" * 60)
        await appender.synced()
        appender.append(b"y" * 60)
        with pytest.raises(StoreBrokenError, match="only 40 of 60 bytes"):
            await appender.synced()
        with pytest.raises(StoreBrokenError, match="only 40 of 60 bytes"):
            appender.append(b"z")
        await appender.close()

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        asyncio.run(run())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_nothing_is_appended_after_close(tmp_path: Path) -> None:
    async def run() -> None:
        appender = open_file(tmp_path / "a")
        appender.append(b"noted\n")
        await appender.close()
        await appender.close()
        with pytest.raises(StoreBrokenError, match="closed"):
            appender.append(b"late\n")

    asyncio.run(run())
    assert (tmp_path / "a").read_bytes() == b"noted\n"
