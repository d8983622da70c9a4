"""One writer at a time, across real processes."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchrunner.core.errors import LockHeldError, StoreBrokenError
from batchrunner.stores.lock import RunLock, holder_of

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from batchrunner.stores.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with holding_process(tmp_path) as process:
        with pytest.raises(LockHeldError, match=rf"process {process.pid} on .+ since 20..-..-..T.*Z is writing here"):
            RunLock(tmp_path).acquire()
        holder = holder_of(tmp_path)
        assert holder is not None
        assert holder.pid == process.pid


def test_kill_9_frees_the_lock_at_once_and_the_file_stays(tmp_path: Path) -> None:
    with holding_process(tmp_path) as process:
        inode = (tmp_path / "lock").stat().st_ino
        process.kill()
        process.wait()
        assert holder_of(tmp_path) is None
        with RunLock(tmp_path):
            assert (tmp_path / "lock").stat().st_ino == inode
            assert holder_of(tmp_path) is not None


def test_a_released_lock_is_free_and_its_file_stays(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path) as lock:
            assert "held" in repr(lock)
        assert (tmp_path / "lock").exists()
        assert "free" in repr(lock)
    assert holder_of(tmp_path) is None


def test_the_content_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": 1, "host": "here", "since": "now"}')
    assert holder_of(tmp_path) is None
    with RunLock(tmp_path):
        holder = holder_of(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()
        (tmp_path / "lock").write_text("\x1b[31mgarbage")
        with pytest.raises(LockHeldError, match="another process is writing here"):
            RunLock(tmp_path).acquire()


def test_a_lock_on_a_file_that_was_replaced_keeps_nobody_in_the_belief_of_holding_it(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / "lock").rename(tmp_path / "old")
        with RunLock(tmp_path), pytest.raises(LockHeldError):
            RunLock(tmp_path).acquire()


def test_a_file_replaced_between_opening_and_locking_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    replaced: list[int] = []

    def replacing_first(descriptor: int, operation: int) -> None:
        if not replaced:
            replaced.append(descriptor)
            (tmp_path / "lock").rename(tmp_path / "old")
        real(descriptor, operation)

    monkeypatch.setattr("batchrunner.stores.lock.fcntl.flock", replacing_first)
    with RunLock(tmp_path):
        holder = holder_of(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert (tmp_path / "old").read_bytes() == b""


def test_a_linked_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreBrokenError, match="lock"):
        RunLock(tmp_path).acquire()
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_nobody_holds_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "none") is None
