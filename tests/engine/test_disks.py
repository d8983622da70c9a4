"""Disks that lack a call run, and a run says once what that costs; a disk that fails stops before the first request."""

import errno
import fcntl
import os

import pytest

from batchrunner.core.errors import ExitStatus, StoreBrokenError
from tests.support.engine import RunHarness, chat


def refuse_folder_sync(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 - a descriptor's own name
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_cannot_sync_folders_runs_and_is_reported_once(
    harness: RunHarness, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_folder_sync(monkeypatch, code)
    assert harness.run(chat("one", "two")).exit_status is ExitStatus.DONE
    assert sum("cannot fsync directories" in line for line in harness.said) == 1
    assert len(harness.rows()) == 2


def test_a_folder_sync_that_fails_stops_before_the_first_request(
    harness: RunHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_folder_sync(monkeypatch, errno.EIO)
    with pytest.raises(StoreBrokenError):
        harness.run(chat("one"))
    assert harness.stats.sends == 0


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_that_cannot_lock_runs_and_is_reported_once(
    harness: RunHarness, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    for _ in range(2):
        assert harness.run(chat("one")).exit_status is ExitStatus.DONE
    assert sum("does not support file locks" in line for line in harness.said) == 2
    assert harness.stats.sends == 1
    assert not (harness.out / ".lock").exists()
