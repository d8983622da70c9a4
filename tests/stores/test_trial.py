"""Every place that a run writes to is tried before anything is sent; what is missing is said with the way on."""

import errno
import os
import resource
from pathlib import Path

import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.job import Job, Limits
from batchrunner.core.values import replace
from batchrunner.spec import load_job
from batchrunner.stores import preflight
from batchrunner.stores.files import DISK, Disk, is_left_over
from batchrunner.stores.preflight import places_for_requests, try_disk


class Refusing(Disk):
    """A disk that answers one call with an error, below one folder."""

    def __init__(self, call: str, code: int, below: str = "") -> None:
        self._call, self._code, self._below = call, code, below

    def _refuse(self, call: str, path: Path | None = None) -> None:
        if call == self._call and (path is None or self._below in str(path)):
            raise OSError(self._code, os.strerror(self._code))

    def open_new(self, path: Path, mode: int) -> int:
        self._refuse("open_new", path)
        return super().open_new(path, mode)

    def open_append(self, path: Path, mode: int) -> int:
        self._refuse("open_append", path)
        return super().open_append(path, mode)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._refuse("write")
        return super().write(descriptor, data)

    def make_folder(self, path: Path, mode: int) -> bool:
        self._refuse("make_folder", path)
        return super().make_folder(path, mode)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "job.yaml"
    path.write_text("provider: simulator\nmodel: m\nprompts: [a]\noutput: {each: 'answers/new/{{ id }}.md'}\n")
    return load_job(str(path), out=str(tmp_path / "out"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_healthy_disk_is_left_as_it_was_but_for_the_folders(job: Job, out: Path) -> None:
    assert try_disk(out, job, files=DISK) == ()
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == ["answers", "answers/new"]
    try_disk(out, replace(job, kind="image", output=replace(job.output, each=None)), files=DISK)
    assert (out / "images").is_dir()


@pytest.mark.parametrize(
    ("refusal", "place", "to_do"),
    [
        (("write", errno.ENOSPC, ""), "out", "free space"),
        (("write", errno.EDQUOT, ""), "out", "quota"),
        (("open_new", errno.EROFS, ""), "out", "--out"),
        (("open_new", errno.EACCES, "answers"), "out/answers", "get write permission"),
        (("make_folder", errno.EROFS, "answers"), "out/answers", "read-only"),
        (("open_new", errno.ENAMETOOLONG, "answers"), "out/answers", "a shorter path"),
        (("write", errno.EIO, ""), "out", "fix the disk"),
        (("open_append", errno.EACCES, "results.jsonl"), "out/results.jsonl", "get write permission"),
        (("open_append", errno.EROFS, "failures.jsonl"), "out/failures.jsonl", "read-only"),
    ],
)
def test_a_disk_that_refuses_is_reported_with_the_place_and_the_way_on(
    job: Job, out: Path, refusal: tuple[str, int, str], place: str, to_do: str
) -> None:
    for name in ("results.jsonl", "failures.jsonl"):
        (out / name).touch()
    with pytest.raises(StoreBrokenError, match="nothing was sent") as caught:
        try_disk(out, job, files=Refusing(*refusal))
    assert str(caught.value).startswith(f"{out.parent / place}: {os.strerror(refusal[1])}; ")
    assert to_do in str(caught.value)
    assert [path.name for path in out.rglob("*") if is_left_over(path.name)] == []


@pytest.mark.parametrize("name", ["images", "answers", "results.jsonl", "failures.jsonl"])
@pytest.mark.parametrize("way", ["link", "dangling link", "other kind"])
def test_what_stands_in_a_place_and_is_another_thing_is_refused(
    job: Job, out: Path, tmp_path: Path, name: str, way: str
) -> None:
    is_folder = "." not in name
    if way == "other kind":
        (out / name).touch() if is_folder else (out / name).mkdir()
    else:
        target = tmp_path / "elsewhere"
        if way == "link":
            target.mkdir() if is_folder else target.touch()
        (out / name).symlink_to(target)
    with pytest.raises(StoreBrokenError, match=name):
        try_disk(out, job, files=DISK)


def test_the_longest_name_is_tried_too(job: Job, out: Path) -> None:
    class ShortNames(Disk):
        def open_new(self, path: Path, mode: int) -> int:
            if len(path.name) > 143:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            return super().open_new(path, mode)

    with pytest.raises(StoreBrokenError, match="a shorter path"):
        try_disk(out, job, files=ShortNames())


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_without_folder_sync_is_reported_once_for_a_run(
    job: Job, out: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    _refuse_folder_sync(monkeypatch, code)
    (note,) = try_disk(out, job, files=DISK)
    assert "cannot fsync directories" in note
    assert "power cut" in note


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EBADF])
def test_a_folder_sync_that_fails_stops(job: Job, out: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    _refuse_folder_sync(monkeypatch, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        DISK.fsync_folder(out)


def _refuse_folder_sync(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 - a descriptor's own name
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits of open files that the system has; the last one is what stands."""
    stand = [(256, 256)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: stand[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: stand.append(pair))
    monkeypatch.setattr(preflight, "_open_now", lambda: 8)
    return stand


def test_open_files_bound_the_requests_in_flight(job: Job, limits: list[tuple[int, int]]) -> None:
    assert places_for_requests(job, lanes=1) == 200
    assert places_for_requests(job, lanes=2) == 100
    assert places_for_requests(replace(job, kind="image"), lanes=1) == 100
    limits[:] = [(256, 4096)]
    assert places_for_requests(job, lanes=1) == 4040
    assert limits[-1] == (4096, 4096)
    limits[:] = [(256, resource.RLIM_INFINITY)]
    assert places_for_requests(job, lanes=1) > 1_000_000


def test_too_few_open_files_for_one_request_stop_before_anything_is_sent(
    job: Job, limits: list[tuple[int, int]]
) -> None:
    limits[:] = [(56, 56)]
    with pytest.raises(StoreBrokenError, match=r"open-file limit of 56 .* nothing was sent.*ulimit -n"):
        places_for_requests(replace(job, limits=Limits(concurrency=1)), lanes=1)
