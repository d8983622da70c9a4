"""The pretend disk is no kinder than a real one: what it keeps, what it forgets, and how it refuses."""

import asyncio
import errno
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchrunner.simulator.virtual_time import OneThreadLoop
from batchrunner.stores.files import Disk, InspectedFiles
from tests.support.crashing_disk import CrashingDisk, Refusal, Trouble

ROOT = Path("/run")
FILE = ROOT / "file"


def disk_with(*, seed: int = 0) -> CrashingDisk:
    disk = CrashingDisk(seed)
    disk.make_folder(ROOT, 0o700)
    disk.fsync_folder(ROOT.parent)
    return disk


def written(disk: CrashingDisk, data: bytes, path: Path = FILE) -> int:
    descriptor = disk.open_append(path, 0o600)
    disk.write(descriptor, data)
    return descriptor


def content(disk: InspectedFiles, path: Path = FILE) -> bytes:
    return disk.read_at(disk.open_read(path), 1 << 20, 0)


def test_a_kill_keeps_all_that_was_handed_to_the_system() -> None:
    disk = disk_with()
    written(disk, b"abc")
    disk.die()
    with pytest.raises(OSError, match="gone"):
        disk.names(ROOT)
    disk.wake(power_was_lost=False)
    assert content(disk) == b"abc"
    assert disk.open_descriptors


def test_a_power_loss_keeps_what_was_synced_with_its_name() -> None:
    for seed in range(50):
        disk = disk_with(seed=seed)
        disk.fsync(written(disk, b"abc"))
        disk.fsync_folder(ROOT)
        written(disk, b"def" * 100)
        disk.wake(power_was_lost=True)
        assert content(disk)[:3] == b"abc"


def test_a_power_loss_takes_what_was_not_synced_in_every_way() -> None:
    """Lost names, lost lengths, and holes before bytes that were kept."""
    names, lengths, holes = set(), set(), 0
    for seed in range(200):
        disk = disk_with(seed=seed)
        written(disk, bytes(range(1, 251)) * 40)
        disk.wake(power_was_lost=True)
        names.add(disk.exists(FILE))
        if disk.exists(FILE):
            left = content(disk)
            lengths.add(len(left))
            holes += 0 in left.rstrip(b"\0")
    assert names == {True, False}
    assert {0, 10_000} < lengths
    assert holes


def test_a_files_sync_saves_no_name_and_a_folders_sync_no_bytes() -> None:
    lost_names = lost_bytes = 0
    for seed in range(50):
        one, other = disk_with(seed=seed), disk_with(seed=seed)
        one.fsync(written(one, b"abc"))
        one.wake(power_was_lost=True)
        lost_names += not one.exists(FILE)
        written(other, b"abc")
        other.fsync_folder(ROOT)
        other.wake(power_was_lost=True)
        lost_bytes += content(other) != b"abc"
    assert lost_names
    assert lost_bytes


def test_an_unsynced_rename_happened_or_did_not() -> None:
    found = set()
    for seed in range(50):
        disk = disk_with(seed=seed)
        for path, data in ((FILE, b"old"), (ROOT / "new", b"new")):
            disk.fsync(written(disk, data, path))
        disk.fsync_folder(ROOT)
        disk.rename(ROOT / "new", FILE)
        assert content(disk) == b"new"
        disk.wake(power_was_lost=True)
        found.add((content(disk), disk.exists(ROOT / "new")))
    assert found == {(b"old", True), (b"new", False)}


@pytest.mark.parametrize(("kind", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
def test_a_call_is_refused_once_and_in_the_systems_words(kind: Refusal, number: int) -> None:
    disk = disk_with()
    descriptor = written(disk, b"abc")
    disk.trouble = Trouble(at_call=disk.calls + 1, kind=kind)
    with pytest.raises(OSError, match=r"No space left|Input/output") as caught:
        disk.fsync(descriptor)
    assert caught.value.errno == number
    disk.fsync(descriptor)


def test_a_full_disk_first_writes_short_and_then_states_why() -> None:
    disk = disk_with()
    descriptor = written(disk, b"")
    disk.capacity_bytes = 10
    assert disk.write(descriptor, b"x" * 25) == 10
    with pytest.raises(OSError, match="No space"):
        disk.write(descriptor, b"x")
    disk.capacity_bytes = None
    assert disk.write(descriptor, b"x") == 1


def test_it_refuses_what_a_real_one_refuses(tmp_path: Path) -> None:
    pretend, real = disk_with(), Disk()
    for disk, root in ((pretend, ROOT), (real, tmp_path)):
        assert isinstance(disk, CrashingDisk | Disk)
        descriptor = disk.open_new(root / "a", 0o600)
        disk.write(descriptor, b"ab")
        assert disk.length(descriptor) == 2
        assert disk.make_folder(root / "b", 0o700)
        assert not disk.make_folder(root / "b", 0o700)
        with pytest.raises(FileExistsError):
            disk.open_new(root / "a", 0o600)
        with pytest.raises(FileNotFoundError):
            disk.open_read(root / "none")
        with pytest.raises(NotADirectoryError):
            disk.make_folder(root / "a", 0o700)
        with pytest.raises(FileNotFoundError):
            disk.rename(root / "none", root / "c")
        with pytest.raises(FileNotFoundError):
            disk.unlink(root / "none")
        assert sorted(disk.names(root)) == ["a", "b"]
        assert disk.folders(root) == ["b"]
        looks = [disk.look(root / name) for name in ("a", "b", "none", "a/below")]
        kinds = [None if look is None else (look.kind, look.mode) for look in looks]
        assert kinds == [("file", 0o600), ("folder", 0o700), None, None]
        disk.truncate(descriptor, 1)
        assert content(disk, root / "a") == b"a"
        disk.unlink(root / "a")
        assert not disk.exists(root / "a")


def test_jobs_of_one_thread_keep_their_order_and_others_overtake_by_seed() -> None:
    async def script(threads: int) -> list[int]:
        loop = asyncio.get_running_loop()
        ran: list[int] = []
        with ThreadPoolExecutor(threads) as pool:
            await asyncio.gather(*(loop.run_in_executor(pool, ran.append, number) for number in range(20)))
        return ran

    def order_of(seed: int, threads: int) -> list[int]:
        with asyncio.Runner(loop_factory=lambda: OneThreadLoop(random.Random(seed))) as runner:
            return runner.run(script(threads))

    assert order_of(1, 1) == list(range(20))
    assert order_of(1, 4) == order_of(1, 4) != order_of(2, 4)
    assert sorted(order_of(1, 4)) == list(range(20))
