"""Disks that lack a call run, and a run says once what that costs; a disk that fails stops before the first request.

One that fails later stops all further requests, and what is in flight is received and kept where it can be kept.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus, StoreBrokenError, WrongDirectoryError
from batchrunner.stores import artifacts
from batchrunner.stores.files import Disk, place_whole
from tests.support.engine import Latency, RunHarness, World, chat, image

PROMPTS = tuple(f"prompt {number}" for number in range(1, 9))
ALL_AT_ONCE = f"limits: {{concurrency: {len(PROMPTS)}}}"


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


@contextmanager
def read_only(*folders: str, after: int = 0) -> Iterator[None]:
    """No new file can be written below these folders once `after` have been."""
    left = [after]

    def refused(files: Any, path: Path, data: bytes, mode: int) -> None:
        if path.parts[path.parts.index("out") + 1] in folders:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        place_whole(files, path, data, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "place_whole", refused)
        yield


def bytes_job(*prompts: str) -> str:
    """Pictures that come in the reply itself."""
    job = image(*prompts, model="gpt-image-1", more=ALL_AT_ONCE)
    return job.replace("provider: simulator", "provider: {preset: simulator, dialect: openai-images}")


@pytest.fixture
def slow(tmp_path: Path) -> RunHarness:
    """Each reply comes at a time of its own, so that others are in flight whenever one comes."""
    return RunHarness(tmp_path, World(latency=Latency(first_byte_s=20.0, task_s=30.0, spread=0.9)))


def test_tasks_in_flight_are_recorded_when_the_folder_of_pictures_turns_read_only(slow: RunHarness) -> None:
    job = image(*PROMPTS, model="Qwen/Qwen-Image", more=ALL_AT_ONCE)
    with read_only("images", after=1):
        report = slow.run(job)
    assert (report.exit_status, report.status.sends.possible_duplicates) == (ExitStatus.STOPPED, 0)
    assert "Read-only file system" in (report.status.message or "")
    assert any("requests in flight" in line for line in slow.said)
    with read_only("images"):
        slow.run(job)
    assert slow.run(job).exit_status is ExitStatus.DONE
    assert (slow.stats.sends, len(slow.rows())) == (len(PROMPTS), len(PROMPTS)), "something was ordered again"
    assert api.verify(str(slow.out)).sound


def test_pictures_in_replies_in_flight_are_kept_elsewhere_in_the_directory(slow: RunHarness) -> None:
    job = bytes_job(*PROMPTS)
    with read_only("images", after=1):
        report = slow.run(job)
    assert report.exit_status is ExitStatus.STOPPED
    assert (slow.stats.sends, report.status.items.done, report.status.sends.possible_duplicates) == (8, 8, 0)
    paths = sorted(picture["path"].partition("/")[0] for row in slow.rows() for picture in row["output"]["images"])
    assert paths == ["images", *["rescued"] * 7]
    assert sum("was kept as rescued/images/" in line for line in slow.said) == 7
    assert (slow.run(job).exit_status, slow.stats.sends) == (ExitStatus.DONE, 8)
    assert api.verify(str(slow.out)).sound


def test_pictures_that_can_be_kept_nowhere_are_counted_as_unknown_and_reported(slow: RunHarness) -> None:
    job = bytes_job(*PROMPTS)
    with read_only("images", "rescued", after=1):
        report = slow.run(job)
    assert (report.exit_status, slow.stats.sends, report.status.items.done) == (ExitStatus.STOPPED, 8, 1)
    assert report.status.sends.possible_duplicates == 7
    assert sum("pictures in the reply: 1" in line for line in slow.said) == 7
    assert (slow.run(job).exit_status, slow.stats.sends) == (ExitStatus.DONE, 15)


@pytest.mark.parametrize("places", [("answers",), ("answers", "rescued")])
def test_answers_whose_own_file_cannot_be_written_are_kept_in_their_rows(
    slow: RunHarness, places: tuple[str, ...]
) -> None:
    job = chat(*PROMPTS, more=f"{ALL_AT_ONCE}\noutput: {{each: 'answers/{{{{ id }}}}.txt'}}")
    with read_only(*places, after=2):
        report = slow.run(job)
    assert (report.exit_status, report.status.items.done, slow.stats.sends) == (ExitStatus.STOPPED, 8, 8)
    again = slow.run(job)
    assert (again.exit_status, slow.stats.sends, again.status.sends.possible_duplicates) == (ExitStatus.DONE, 8, 0)


@pytest.mark.parametrize("name", ["results.jsonl", "000001.jsonl"])
def test_answers_in_flight_are_received_when_a_file_of_records_is_refused(
    slow: RunHarness, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each answer is in its row, or shown: none is lost."""
    sync, left = Disk.fsync, [3]

    def refused(disk: Disk, descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == name:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(disk, descriptor)

    job = chat(*PROMPTS, more=ALL_AT_ONCE)
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "fsync", refused)
        report = slow.run(job)
    assert (report.exit_status, slow.stats.sends) == (ExitStatus.STOPPED, 8)
    shown = {line.split(": ")[1] for line in slow.said if line.startswith("could not save this answer to disk: ")}
    rows = {row["id"] for row in slow.rows()}
    aside = {row["id"] for row in slow.rows("superseded.jsonl")} if (slow.out / "superseded.jsonl").exists() else set()
    assert len(shown | rows | aside) == 8, slow.said
    assert len(aside) == (4 if name == "results.jsonl" else 0), "what comes after the refused row"
    assert not shown & aside
    again = slow.run(job)
    assert again.exit_status is ExitStatus.DONE
    assert slow.stats.sends == 16 - len(rows | aside), "what has a row is not sent again"
    assert sorted(row["index"] for row in slow.rows()) == list(range(1, 9))
    assert again.status.sends.possible_duplicates == 8 - len(rows | aside)
    assert api.verify(str(slow.out)).sound


@pytest.mark.parametrize("name", ["results.jsonl", "superseded.jsonl", "failures.jsonl", "ledger", "lock", "run.json"])
def test_what_is_refused_before_or_without_a_request_is_not_reported_to_stop_requests(
    harness: RunHarness, name: str
) -> None:
    harness.run(chat("one", "two"), limit=1)
    place = harness.out / name
    if place.is_dir():
        place.rename(harness.folder / "moved")
        place.write_text("a file")
    else:
        place.unlink(missing_ok=True)
        place.mkdir()
    for command in (lambda: harness.run(chat("one", "two")), lambda: api.verify(str(harness.out))):
        with pytest.raises((StoreBrokenError, WrongDirectoryError)) as caught:
            command()
        assert "expected a " in str(caught.value)
        assert "stopped sending" not in str(caught.value)
    assert harness.stats.sends == 1
