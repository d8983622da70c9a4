"""Files of their own: whole or absent, inside the run's directory, whatever they are called."""

import asyncio
import errno
import os
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.item import Item
from batchrunner.stores.artifacts import AnswerFolder, Artifacts, safe_path
from batchrunner.stores.files import DISK, Disk, remove_temporary_files


def write(root: Path, path: str, data: bytes, files: Disk = DISK) -> None:
    async def run() -> None:
        artifacts = Artifacts(root, files=files)
        try:
            await artifacts.write(path, data)
        finally:
            artifacts.close()

    asyncio.run(run())


def item(number: int) -> Item:
    return Item(
        id=f"q{number}", prompt_id=f"q{number}", index=number, key=f"{number:032x}", model="m", prompt="", turns=()
    )


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_file_lands_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "answers/deep/er/q1.md", b"four")
    write(tmp_path, "answers/deep/er/q1.md", b"five")
    assert everything(tmp_path) == {"answers/deep/er/q1.md": b"five"}


@pytest.mark.parametrize("path", ["../out.md", "a/../../out.md", "/tmp/batchrunner-out.md"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    """Threat 5, invariant 19."""
    root = tmp_path / "run"
    root.mkdir()
    with pytest.raises(StoreBrokenError, match="outside"):
        write(root, path, b"x")
    assert everything(tmp_path) == {}


def test_a_link_on_the_way_down_is_refused(tmp_path: Path) -> None:
    """Threat 5, invariant 19."""
    root, outside = tmp_path / "run", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "images").symlink_to(outside)
    with pytest.raises(StoreBrokenError, match="link"):
        write(root, "images/a.png", b"x")
    assert everything(outside) == {}


def test_a_link_under_the_files_own_name_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    write(tmp_path, "a", b"new")
    assert everything(tmp_path) == {"precious": b"precious", "a": b"new"}


class RefusingDisk(Disk):
    """Refuses one kind of call."""

    def __init__(self, call: str) -> None:
        self.call = call

    def _refuse(self, call: str) -> None:
        if call == self.call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._refuse("write")
        return super().write(descriptor, bytes(data)[:3])

    def fsync(self, descriptor: int) -> None:
        self._refuse("fsync")
        super().fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._refuse("rename")
        super().rename(source, target)


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_refused_file_is_absent_and_the_old_one_stands(tmp_path: Path, call: str) -> None:
    write(tmp_path, "a", b"old")
    with pytest.raises(StoreBrokenError, match="No space left on device"):
        write(tmp_path, "a", b"new bytes", RefusingDisk(call))
    assert everything(tmp_path) == {"a": b"old"}


def test_short_writes_are_continued(tmp_path: Path) -> None:
    write(tmp_path, "a", b"0123456789", RefusingDisk("none"))
    assert everything(tmp_path) == {"a": b"0123456789"}


def test_one_fsync_of_a_folder_serves_many_files_and_none_is_reported_before_its_own(tmp_path: Path) -> None:
    class Counting(Disk):
        def __init__(self) -> None:
            self.calls: Counter[Path] = Counter()
            self.renamed: set[str] = set()
            self.covered: set[str] = set()
            self.guard = threading.Lock()

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            with self.guard:
                self.renamed.add(target.name)

        def fsync_folder(self, path: Path) -> None:
            with self.guard:
                before = set(self.renamed)
            super().fsync_folder(path)
            with self.guard:
                self.calls[path] += 1
                self.covered |= before

    async def run() -> Counting:
        files = Counting()
        artifacts = Artifacts(tmp_path, files=files)

        async def one(number: int) -> None:
            await artifacts.write(f"images/{number}", b"x")
            assert str(number) in files.covered

        await asyncio.gather(*(one(number) for number in range(100)))
        artifacts.close()
        return files

    files = asyncio.run(run())
    assert len(everything(tmp_path)) == 100
    assert files.calls[tmp_path / "images"] <= 100


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (".99-1.tmp", "a.png", ".hidden", "mine.tmp"):
        (tmp_path / "images" / name).write_bytes(b"")
    assert (remove_temporary_files(DISK, tmp_path), remove_temporary_files(DISK, tmp_path)) == (1, 0)
    assert set(everything(tmp_path)) == {"images/a.png", "images/.hidden", "images/mine.tmp"}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("answers/q1.md", "answers/q1.md"),
        ("/etc/passwd", "etc/passwd"),
        ("../../q1.md", "q1.md"),
        ("a/./b//c.txt", "a/b/c.txt"),
        ("..\\..\\q1.md", "q1.md"),
        ("Qwen/Qwen-Image/中文.md", "Qwen/Qwen-Image/中文.md"),
        ("", "item"),
        ("con/aux.md", "_con/_aux.md"),
    ],
)
def test_any_text_becomes_a_path_below(text: str, path: str) -> None:
    assert safe_path(text) == path


@given(st.text(max_size=400), st.sampled_from(["", "-0123456789ab"]))
def test_no_text_leads_out_or_makes_a_name_that_is_too_long(text: str, mark: str) -> None:
    """Threat 5, invariant 19: any text as an id."""
    path = safe_path(text, mark=mark)
    parts = path.split("/")
    assert all(part not in {"", ".", ".."} and len(part.encode()) <= 200 for part in parts)
    assert not set(path) & set("\0\\:\n")
    assert mark in parts[-1]


def test_answers_lie_where_the_template_states(tmp_path: Path) -> None:
    async def run() -> list[str]:
        artifacts = Artifacts(tmp_path)
        answers = AnswerFolder(artifacts, path_of=lambda one: f"answers/{one.id}.md")
        paths = [await answers.save(item(number), f"text {number} \ud800") for number in (1, 2)]
        artifacts.close()
        return paths

    assert asyncio.run(run()) == ["answers/q1.md", "answers/q2.md"]
    assert everything(tmp_path) == {
        "answers/q1.md": "text 1 \ufffd".encode(),
        "answers/q2.md": "text 2 \ufffd".encode(),
    }


def test_items_whose_paths_are_twins_get_their_keys_into_the_name(tmp_path: Path) -> None:
    names = {1: "Café.md", 2: "CAFE\u0301.md", 3: "café.md"}

    async def run() -> list[str]:
        artifacts = Artifacts(tmp_path)
        answers = AnswerFolder(artifacts, path_of=lambda one: names[one.index])
        paths = [await answers.save(item(number), str(number)) for number in (1, 2, 3, 1)]
        artifacts.close()
        return paths

    first, second, third, again = asyncio.run(run())
    assert first == again == "Café.md"
    assert len({first, second, third}) == 3
    assert sorted(everything(tmp_path).values()) == [b"1", b"2", b"3"]
