"""Items that are kept from one pass to the next: the same ones, from memory while the source stands as it stood."""

import asyncio
import gc
import os
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.item import Item
from batchrunner.core.job import Job
from batchrunner.prompts import items_of
from batchrunner.prompts import job_items as kept
from batchrunner.prompts.expand import Expansion
from batchrunner.prompts.job_items import JobItems
from tests.prompts.jobs import job_of, listing, source, stream

ROWS = "".join(f"row {number}\n" for number in range(200))


def keeping(job: Job) -> JobItems:
    items = items_of(job)
    items.keeps = True
    return items


def texts(folder: Path) -> Job:
    return job_of(source(folder / "rows.txt", ROWS), models=("a/One", "b/Two"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Expansion]:
    """Passes over the source so far."""
    made: list[Expansion] = []
    begin = Expansion.__init__

    def noted(self: Expansion, *given: object, **named: object) -> None:
        made.append(self)
        begin(self, *given, **named)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(Expansion, "__init__", noted)
    return made


def test_the_pass_for_a_model_gives_the_same_items_and_reads_nothing(tmp_path: Path, passes: list[Expansion]) -> None:
    items = keeping(texts(tmp_path))
    first = stream(items)
    assert len(first) == 400
    for model in ("a/One", "b/Two"):
        own = [item for item in first if item.model == model]
        assert all(one is two for one, two in zip(own, stream(items, frozenset({model})), strict=True))
    assert len(passes) == 1
    assert stream(items_of(texts(tmp_path))) == stream(items) == first
    assert stream(items, frozenset({"a/One"})) == first[::2], "given once; from now on it is read"


def alive() -> int:
    gc.collect()
    return sum(isinstance(each, Item) for each in gc.get_objects())


def test_what_is_given_is_let_go(tmp_path: Path) -> None:
    """Invariant 22: a run whose last item leaves holds none of those before it."""
    items = keeping(texts(tmp_path))
    held: list[int] = []

    async def run() -> None:
        async for _ in items.batches():
            pass
        held.append(alive() - before)
        for model in ("a/One", "b/Two"):
            async for _ in items.batches(frozenset({model})):
                pass
        held.append(alive() - before)

    before = alive()
    asyncio.run(run())
    assert held[0] >= 400
    assert held[1] <= 64, "no more than a batch"


def test_a_pass_that_ends_early_lets_the_rest_go(tmp_path: Path) -> None:
    items = keeping(texts(tmp_path))
    before = alive()

    async def run() -> None:
        async for _ in items.batches():
            pass
        for model in ("a/One", "b/Two"):
            async with aclosing(items.batches(frozenset({model}))) as batches:
                await anext(batches)

    asyncio.run(run())
    assert alive() - before <= 64


def test_items_that_are_large_together_are_read_anew(
    tmp_path: Path, passes: list[Expansion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES", 100_000)
    items = keeping(texts(tmp_path))
    first = stream(items)
    assert stream(items, frozenset({"b/Two"})) == first[1::2]
    assert len(passes) == 2


ONE = frozenset({"a/One"})


def test_a_list_and_a_folder_are_kept_too(tmp_path: Path, passes: list[Expansion]) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one")
    listed, items = keeping(job_of(listing("a", "b"))), keeping(job_of(source(tmp_path / "texts")))
    assert stream(listed) == stream(listed, ONE)
    assert stream(items) == stream(items, ONE)
    assert len(passes) == 2
    stream(items)
    items = keeping(job_of(source(tmp_path / "texts")))
    stream(items)
    (tmp_path / "texts" / "a.txt").write_text("two")
    assert [item.prompt for item in stream(items, ONE)] == ["one"], "as it was surveyed; one is still one"
    assert len(passes) == 5


def collect(items: JobItems, found: list[Item]) -> None:
    async def read() -> None:
        async for batch in items.batches(frozenset({"a/One"})):
            found.extend(batch)

    asyncio.run(read())


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "shorter": (lambda path: path.write_text("row 0\n" * 60), "the source now has 60 prompts for a/One; it had 200"),
    "gone": (Path.unlink, "cannot be read"),
    "empty": (lambda path: path.write_text(""), "has no rows"),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff\n" * 200), "not UTF-8"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_source_that_lost_rows_meanwhile_is_noticed_at_the_end(tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    items, found = keeping(texts(tmp_path)), list[Item]()
    stream(items)
    change(tmp_path / "rows.txt")
    with pytest.raises(JobMistakesError, match=words):
        collect(items, found)
    assert len(found) == 200, "what was surveyed is given whatever became of the source"


def test_rows_that_were_added_meanwhile_are_given_behind_the_others(tmp_path: Path) -> None:
    items, found = keeping(texts(tmp_path)), list[Item]()
    stream(items)
    (tmp_path / "rows.txt").write_text(ROWS + "one more\n")
    collect(items, found)
    assert [item.prompt for item in found[199:]] == ["row 199", "one more"]


def test_a_source_that_changes_during_the_first_pass_is_not_kept(tmp_path: Path, passes: list[Expansion]) -> None:
    items = keeping(texts(tmp_path))

    async def first() -> None:
        async for _ in items.batches():
            os.utime(tmp_path / "rows.txt", (1, 1))

    asyncio.run(first())
    stream(items, ONE)
    assert len(passes) == 2


def test_a_file_that_was_copied_over_itself_costs_a_pass_and_changes_nothing(
    tmp_path: Path, passes: list[Expansion]
) -> None:
    items = keeping(texts(tmp_path))
    first = stream(items)[::2]
    shutil.copy(tmp_path / "rows.txt", tmp_path / "copy.txt")
    (tmp_path / "copy.txt").replace(tmp_path / "rows.txt")
    assert stream(items, ONE) == first
    assert len(passes) == 2
