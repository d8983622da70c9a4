"""One writer at a time, across real processes."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchrunner.core.errors import LockHeldError, StoreBrokenError
from batchrunner.stores.lock import Quiet, RunLock, dead_holder_of, holder_of

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


def test_a_second_run_is_shown_who_holds_the_lock(tmp_path: Path) -> None:
    with holding_process(tmp_path) as process:
        with pytest.raises(LockHeldError, match=rf"already running \(pid {process.pid}, started 20..-..-..T.*Z\)"):
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
        with pytest.raises(LockHeldError, match="already running; wait"):
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


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_without_locks_gets_a_lock_file_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    with RunLock(tmp_path) as lock:
        assert lock.is_second_best
        with pytest.raises(LockHeldError, match=rf"already running \(pid {os.getpid()}, started .*remove .*\.lock"):
            RunLock(tmp_path).acquire()
        holder = holder_of(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()
        with pytest.raises(LockHeldError):
            Quiet(tmp_path).__enter__()
    assert not (tmp_path / ".lock").exists()
    assert holder_of(tmp_path) is None
    with Quiet(tmp_path), RunLock(tmp_path):
        pass


@pytest.mark.usefixtures("no_flock")
def test_the_lock_file_of_a_dead_process_of_this_machine_is_set_aside(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    for pid, started in ((ended.pid, "1"), (os.getpid(), "1")):  # gone, and its number taken by another process
        said = {"pid": pid, "host": socket.gethostname(), "since": "2026-01-01T00:00:00Z", "started": started}
        (tmp_path / ".lock").write_text(json.dumps(said))
        assert holder_of(tmp_path) is None
        with RunLock(tmp_path):
            pass


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("said", ['{"pid": 1, "host": "elsewhere", "since": "2026", "started": "1"}', "", "{", "[]"])
def test_a_lock_file_that_cannot_be_assessed_from_here_is_respected(tmp_path: Path, said: str) -> None:
    (tmp_path / ".lock").write_text(said)
    with pytest.raises(LockHeldError, match="if that process is gone, remove"):
        RunLock(tmp_path).acquire()
    assert (tmp_path / ".lock").read_text() == said


@pytest.mark.parametrize("code", [errno.EIO, errno.EBADF])
def test_a_lock_that_fails_in_another_way_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(StoreBrokenError):
        RunLock(tmp_path).acquire()


def test_a_holder_of_this_machine_that_died_is_distinguished_from_one_that_lives_one_that_ended_and_anothers(
    tmp_path: Path,
) -> None:
    assert dead_holder_of(tmp_path) is None, "there is no lock file"
    with RunLock(tmp_path):
        assert dead_holder_of(tmp_path) is None
    assert dead_holder_of(tmp_path) is None, "it gave it back"
    with holding_process(tmp_path) as process:
        assert dead_holder_of(tmp_path) is None
        process.kill()
        process.wait()
        dead = dead_holder_of(tmp_path)
        assert dead is not None
        assert dead.pid == process.pid
    (tmp_path / "lock").write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": dead.since}))
    assert dead_holder_of(tmp_path) is None, "another machine's locks may not be seen from here"
