"""Group commit: order, what is awaited, what is refused."""

import asyncio
import errno
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.stores.appender import Appender
from batchrunner.stores.files import DISK, PRIVATE_FILE, Disk
from tests.support.virtual_time import run_virtual
from tests.support.waiting import PATIENCE_S


class HeldSync(Disk):
    """A disk whose fsync waits until it is let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.syncs = 0

    def fsync(self, descriptor: int) -> None:
        self.syncs += 1
        self.began.set()
        assert self.may_end.wait(PATIENCE_S)
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
        assert self.may_end[number].wait(PATIENCE_S)
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


async def first_under_way(path: Path, files: Disk, began: threading.Event) -> tuple[Appender, "asyncio.Task[None]"]:
    """A file whose first record the disk is busy with, and who waits until it is synced."""
    appender = open_file(path, files)
    appender.append(b"first\n")
    first = asyncio.create_task(appender.synced())
    await asyncio.to_thread(began.wait, PATIENCE_S)
    return appender, first


def test_bytes_stand_in_the_order_of_appending_at_the_offsets_reported(tmp_path: Path) -> None:
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
        appender, first = await first_under_way(tmp_path / "a", files, files.began)
        for number in range(3):
            appender.append(b"%d\n" % number)
            await asyncio.wait_for(appender.written(), PATIENCE_S)
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
        appender, first = await first_under_way(tmp_path / "a", files, files.began)
        waiting = [first]
        for number in range(50):
            appender.append(b"%d\n" % number)
            waiting.append(asyncio.create_task(appender.synced()))
            await appender.written()
        files.may_end.set()
        await asyncio.gather(*waiting)
        assert files.syncs == 2
        await appender.close()

    asyncio.run(run())


def test_synced_is_never_reported_before_an_fsync_that_began_after_the_write(tmp_path: Path) -> None:
    async def run() -> None:
        files = HeldSync()
        appender, first = await first_under_way(tmp_path / "a", files, files.began)
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
        appender, first = await first_under_way(tmp_path / "a", files, files.began[0])
        appender.append(b"second\n")
        second = asyncio.create_task(appender.synced())
        files.may_end[0].set()
        await first
        await asyncio.to_thread(files.began[1].wait, PATIENCE_S)
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
        await asyncio.to_thread(files.began.wait, PATIENCE_S)
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


def test_a_full_device_is_reported_in_the_systems_own_words() -> None:
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


class CountingDisk(Disk):
    """A disk that tells which thread wrote how much, and how often it was synced. A slow one takes its time."""

    def __init__(self, *, write_s: float = 0.0) -> None:
        self.writes: list[tuple[bool, int]] = []
        self.syncs = 0
        self.write_s = write_s

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self.writes.append((threading.current_thread() is threading.main_thread(), len(data)))
        time.sleep(self.write_s)
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self.syncs += 1
        super().fsync(descriptor)


def open_inline(path: Path, files: Disk, *, inline_bytes: int = 1000) -> Appender:
    return Appender(files, files.open_append(path, PRIVATE_FILE), path, inline_bytes=inline_bytes)


def test_what_is_appended_in_one_turn_of_the_loop_is_one_write_on_its_own_thread(tmp_path: Path) -> None:
    files = CountingDisk()

    async def run() -> None:
        appender = open_inline(tmp_path / "a", files)

        async def record() -> None:
            appender.append(b"x" * 9)
            await appender.written()

        await asyncio.gather(*(record() for _ in range(50)))
        assert files.writes == [(True, 450)]
        await appender.close()

    asyncio.run(run())


def test_a_large_write_goes_by_the_thread_and_the_order_stays(tmp_path: Path) -> None:
    files = CountingDisk()

    async def run() -> None:
        appender = open_inline(tmp_path / "a", files)
        for data in (b"a" * 10, b"b" * 1001, b"c" * 10):
            appender.append(data)
            appender.write_soon()
            await asyncio.sleep(0)
        await appender.synced()
        assert [on_loop for on_loop, _ in files.writes][:2] == [True, False]
        await appender.close()

    asyncio.run(run())
    assert (tmp_path / "a").read_bytes() == b"a" * 10 + b"b" * 1001 + b"c" * 10


def test_after_a_slow_write_the_loop_is_not_held_up_again(tmp_path: Path) -> None:
    files = CountingDisk(write_s=0.02)

    async def run() -> None:
        appender = open_inline(tmp_path / "a", files)
        for _ in range(3):
            appender.append(b"x")
            await appender.written()
        assert files.writes == [(True, 1), (False, 1), (False, 1)]
        await appender.close()

    asyncio.run(run())


def test_calls_come_in_the_order_of_the_records_and_share_their_syncs(tmp_path: Path) -> None:
    files = CountingDisk()

    async def run() -> None:
        appender = open_inline(tmp_path / "a", files)
        told: list[int] = []

        def put(number: int) -> None:
            appender.append(b"x" * 9)
            appender.when_durable(lambda error: told.append(number) if error is None else None)

        for number in range(300):
            put(number)
            if number % 10 == 9:
                await asyncio.sleep(0)
        await appender.synced()
        assert told == list(range(300))
        assert files.syncs < 10
        await appender.close()

    asyncio.run(run())


def test_a_call_may_append_to_the_same_file(tmp_path: Path) -> None:
    async def run() -> list[int]:
        appender = open_inline(tmp_path / "a", CountingDisk())
        lengths: list[int] = []
        over = asyncio.Event()

        def then(error: StoreBrokenError | None) -> None:
            assert error is None
            lengths.append(appender.durable_length)
            if len(lengths) == 5:
                over.set()
                return
            appender.append(b"x")
            appender.when_durable(then)

        appender.append(b"x")
        appender.when_durable(then)
        await over.wait()
        await appender.close()
        return lengths

    assert asyncio.run(run()) == [1, 2, 3, 4, 5]


def test_a_waiting_caller_does_not_wait_for_the_pause(tmp_path: Path) -> None:
    async def run() -> float:
        appender = open_inline(tmp_path / "a", CountingDisk())
        for _ in range(20):
            appender.append(b"x")
            await appender.synced()
        waited = asyncio.get_running_loop().time()
        await appender.close()
        return waited

    assert run_virtual(run) == 0.0


@pytest.mark.parametrize("refusal", [{"write": 1}, {"write": 2}, {"sync": 2}])
def test_every_call_in_line_is_reported_when_the_disk_refuses(tmp_path: Path, refusal: dict[str, int]) -> None:
    async def batch(appender: Appender) -> list[StoreBrokenError | None]:
        told: list[StoreBrokenError | None] = []
        over = asyncio.Event()

        def then(error: StoreBrokenError | None) -> None:
            told.append(error)
            if len(told) == 3:
                over.set()

        for _ in range(3):
            appender.append(b"row\n")
            appender.when_durable(then)
        await over.wait()
        return told

    async def run() -> None:
        appender = open_inline(tmp_path / "a", RefusingDisk(**refusal))
        if 1 not in refusal.values():
            assert await batch(appender) == [None] * 3
        told = await batch(appender)
        assert all("Input/output error" in str(error) for error in told)
        with pytest.raises(StoreBrokenError):
            appender.when_durable(told.append)
        await appender.close()

    asyncio.run(run())
