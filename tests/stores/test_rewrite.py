"""The atomic rewriting of `results.jsonl` and `failures.jsonl`."""

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.item import Item
from batchrunner.core.job import Json
from batchrunner.stores.files import DISK, Disk
from batchrunner.stores.results import ResultsFile
from batchrunner.stores.row_file import RewriteResult


def key_of(number: int) -> str:
    return f"{number:032x}"


def line(number: int, **changes: Json) -> str:
    row: dict[str, Json] = {
        "id": f"q{number}",
        "prompt_id": f"p{number}",
        "index": number,
        "vars": {},
        "usage": None,
        "attempts": 2,
        "ambiguous": 1,
        "seconds": 1.50,
        "key": key_of(number),
    }
    return json.dumps({**row, **changes}, separators=(",", ":"))


def item(number: int, *, index: int | None = None, name: str | None = None, **variables: Json) -> Item:
    return Item(
        id=name or f"q{number}",
        prompt_id=f"p{number}",
        index=number if index is None else index,
        key=key_of(number),
        model="m",
        prompt="",
        turns=(),
        vars=variables,
    )


async def stream(items: Iterable[Item]) -> AsyncIterator[Item]:
    for one in items:
        yield one


def rewrite(folder: Path, items: Iterable[Item], *, undone: tuple[int, ...] = (), files: Disk = DISK) -> RewriteResult:
    left = {bytes.fromhex(key_of(number)) for number in undone}

    async def run() -> RewriteResult:
        results = ResultsFile(folder, files=files)
        rewritten = await results.rewrite(stream(items), is_done=lambda key: key not in left)
        await results.close()
        return rewritten

    return asyncio.run(run())


def settle(folder: Path, items: Iterable[Item], *, failed: tuple[int, ...]) -> RewriteResult:
    keys = {bytes.fromhex(key_of(number)) for number in failed}
    return asyncio.run(ResultsFile(folder).settle_failures(stream(items), is_failed=keys.__contains__))


def put(folder: Path, *lines: str, name: str = "results.jsonl") -> None:
    (folder / name).write_text("".join(f"{text}\n" for text in lines))


def get(folder: Path, name: str = "results.jsonl") -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_stand_in_the_items_order_afterwards_and_keep_their_bytes(tmp_path: Path) -> None:
    put(tmp_path, line(3), line(1), line(2))
    rewritten = rewrite(tmp_path, [item(1), item(2), item(3)])
    assert get(tmp_path) == [line(1), line(2), line(3)]
    length = (tmp_path / "results.jsonl").stat().st_size
    assert rewritten == RewriteResult(length=length, rows=3, shared=0, superseded=0)
    assert names(tmp_path) == ["results.jsonl"]


def test_a_moved_or_renamed_item_gives_its_row_a_new_label_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, line(1, extra={"kept": [1.50, "é"]}))
    rewrite(tmp_path, [item(1, index=9, name="new", a="中")])
    (row,) = map(json.loads, get(tmp_path))
    assert row == json.loads(line(1, extra={"kept": [1.5, "é"]}, id="new", index=9, vars={"a": "中"}))
    assert list(row) == list(json.loads(line(1, extra=0)))
    assert '"seconds":1.5,' in get(tmp_path)[0]


def test_items_with_the_same_key_share_the_first_ones_row(tmp_path: Path) -> None:
    put(tmp_path, line(1), line(2))
    items = [item(1, index=1, name="a"), item(2, index=2), item(1, index=3, name="b"), item(1, index=4, name="c")]
    rewritten = rewrite(tmp_path, items)
    rows = [json.loads(text) for text in get(tmp_path)]
    assert [(row["id"], row.get("shared_with"), row["attempts"], row["ambiguous"]) for row in rows] == [
        ("a", None, 2, 1),
        ("q2", None, 2, 1),
        ("b", "a", 0, 0),
        ("c", "a", 0, 0),
    ]
    assert (rewritten.rows, rewritten.shared) == (4, 2)


def test_rewriting_again_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, line(2), line(1), line(7))
    items = [item(1, name="a"), item(2), item(1, index=3, name="b")]
    first = rewrite(tmp_path, items)
    text = get(tmp_path), get(tmp_path, "superseded.jsonl")
    again = rewrite(tmp_path, items)
    assert (get(tmp_path), get(tmp_path, "superseded.jsonl")) == text
    assert (again.length, again.rows, again.superseded) == (first.length, first.rows, 0)


def test_when_the_owner_of_a_shared_row_vanishes_the_next_item_owns_it(tmp_path: Path) -> None:
    put(tmp_path, line(1, id="a"), line(1, id="b", attempts=0, shared_with="a"))
    rewrite(tmp_path, [item(1, index=5, name="b")])
    (row,) = map(json.loads, get(tmp_path))
    assert (row["id"], row["attempts"], "shared_with" in row) == ("b", 2, False)


def test_rows_that_no_item_claims_are_moved_and_not_lost(tmp_path: Path) -> None:
    put(tmp_path, line(1), line(2), line(3))
    rewritten = rewrite(tmp_path, [item(1), item(3)], undone=(3,))
    assert get(tmp_path) == [line(1)]
    assert get(tmp_path, "superseded.jsonl") == [line(2), line(3)]
    assert rewritten.superseded == 2


def test_a_second_paid_row_with_the_same_key_is_moved_too(tmp_path: Path) -> None:
    put(tmp_path, line(1, seconds=1), line(1, seconds=2))
    rewrite(tmp_path, [item(1)])
    assert get(tmp_path) == [line(1, seconds=1)]
    assert get(tmp_path, "superseded.jsonl") == [line(1, seconds=2)]


def test_lines_that_are_no_rows_are_kept_apart(tmp_path: Path) -> None:
    put(tmp_path, "# my note", line(1), '{"key": "short"}')
    rewrite(tmp_path, [item(1)])
    assert get(tmp_path) == [line(1)]
    assert get(tmp_path, "results.torn") == ["# my note", '{"key": "short"}']


def test_a_thousand_items_come_through_in_order(tmp_path: Path) -> None:
    put(tmp_path, *(line(number, text="x" * 3000) for number in reversed(range(1000))))
    items = [item(number) for number in range(1000)] + [item(3, index=1001, name="again")]
    rewrite(tmp_path, items)
    rows = [json.loads(text) for text in get(tmp_path)]
    assert [row["index"] for row in rows] == [*range(1000), 1001]
    assert rows[-1]["shared_with"] == "q3"


def test_rows_are_added_to_the_new_file_after_a_rewriting(tmp_path: Path) -> None:
    put(tmp_path, line(2), line(1))

    async def run() -> None:
        results = ResultsFile(tmp_path)
        await results.rewrite(stream([item(1)]), is_done=lambda _: True)
        assert results.recover(0).length == len(line(1)) + 1
        await results.close()

    asyncio.run(run())


class CrashingDisk(Disk):
    """A disk that is gone from its n-th change on."""

    def __init__(self, changes: int) -> None:
        self.changes = changes

    def _change(self) -> None:
        self.changes -= 1
        if self.changes < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._change()
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._change()
        super().fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._change()
        super().rename(source, target)

    def fsync_folder(self, path: Path) -> None:
        self._change()
        super().fsync_folder(path)


def test_a_disk_that_goes_at_any_step_loses_no_row_and_the_next_run_repeats_it(tmp_path: Path) -> None:
    refused = 0
    for changes in range(30):
        folder = tmp_path / str(changes)
        folder.mkdir()
        put(folder, line(3), line(2), line(1))
        items = [item(1), item(2)]
        try:
            rewrite(folder, items, files=CrashingDisk(changes))
        except StoreBrokenError:
            refused += 1
        kept = {*get(folder), *get(folder, "superseded.jsonl")}
        assert kept == {line(1), line(2), line(3)}
        rewrite(folder, items)
        assert get(folder) == [line(1), line(2)]
        assert get(folder, "superseded.jsonl") == [line(3)]
        assert names(folder) == ["results.jsonl", "superseded.jsonl"]
    assert 5 < refused < 29


def test_a_source_that_fails_midway_leaves_the_old_file(tmp_path: Path) -> None:
    put(tmp_path, line(2), line(1))

    async def failing() -> AsyncIterator[Item]:
        yield item(1)
        raise ValueError("the source is gone")

    async def run() -> None:
        await ResultsFile(tmp_path).rewrite(failing(), is_done=lambda _: True)

    with pytest.raises(ValueError, match="gone"):
        asyncio.run(run())
    assert get(tmp_path) == [line(2), line(1)]
    assert names(tmp_path) == ["results.jsonl"]


def test_failures_show_who_is_failed_now_once_each_by_the_latest_row(tmp_path: Path) -> None:
    name = "failures.jsonl"
    put(tmp_path, line(1, attempts=1), line(2), line(3), line(1, attempts=5), name=name)
    items = [item(3, index=1), item(1, index=2), item(1, index=3, name="twin"), item(2)]
    rewritten = settle(tmp_path, items, failed=(1, 3))
    rows = [json.loads(text) for text in get(tmp_path, name)]
    assert [(row["id"], row["attempts"], row.get("shared_with")) for row in rows] == [
        ("q3", 2, None),
        ("q1", 5, None),
        ("twin", 0, "q1"),
    ]
    assert (rewritten.rows, rewritten.shared) == (3, 1)
    assert names(tmp_path) == [name]


def test_without_failures_there_is_no_failures_file(tmp_path: Path) -> None:
    assert settle(tmp_path, [item(1)], failed=()).rows == 0
    assert names(tmp_path) == []


def test_a_row_comes_back_from_the_superseded_ones_with_its_item_and_its_present_label(tmp_path: Path) -> None:
    put(tmp_path, line(1), line(2), line(3))
    rewrite(tmp_path, [item(1), item(3)])
    assert get(tmp_path, "superseded.jsonl") == [line(2)]
    rewritten = rewrite(tmp_path, [item(2, index=1, name="two"), item(1, index=2), item(2, index=3, name="again")])
    assert [json.loads(text)["id"] for text in get(tmp_path)] == ["two", "q1", "again"]
    assert json.loads(get(tmp_path)[2])["shared_with"] == "two"
    assert (rewritten.rows, rewritten.shared, rewritten.superseded) == (3, 1, 1)
    assert get(tmp_path, "superseded.jsonl") == [line(2), line(3)]


def test_a_failure_of_a_vanished_item_is_kept_aside_and_comes_back(tmp_path: Path) -> None:
    put(tmp_path, line(1), line(2, attempts=3), line(2, attempts=4), line(3), name="failures.jsonl")
    settle(tmp_path, [item(3)], failed=(2, 3))
    assert get(tmp_path, "failures.jsonl") == [line(3)]
    assert get(tmp_path, "superseded_failures.jsonl") == [line(2, attempts=4)], "1 is not failed any more"
    (tmp_path / "failures.jsonl").unlink()
    settle(tmp_path, [item(2)], failed=(2,))
    assert get(tmp_path, "failures.jsonl") == [line(2, attempts=4)]


@pytest.mark.parametrize(
    "left",
    ["{2}\n{3}\n", "{2}\n{3}", "{2}\n", "{2}", '{2}\n{"id":"q3","pro'],
    ids=["all", "cut", "one", "one cut", "torn"],
)
def test_a_row_that_was_set_aside_before_a_kill_is_not_set_aside_again(tmp_path: Path, left: str) -> None:
    put(tmp_path, line(1), line(2), line(3))
    (tmp_path / "superseded.jsonl").write_text(left.replace("{2}", line(2)).replace("{3}", line(3)))
    rewrite(tmp_path, [item(1)])
    kept = [text for text in get(tmp_path, "superseded.jsonl") if text.endswith("}")]
    assert sorted(kept) == [line(2), line(3)]


def test_a_row_that_came_back_under_another_name_and_left_again_is_set_aside_once(tmp_path: Path) -> None:
    put(tmp_path, line(1), line(2))
    rewrite(tmp_path, [item(1)])
    for name in ("two", "zwei"):
        rewrite(tmp_path, [item(2, index=1, name=name), item(1, index=2)])
        assert rewrite(tmp_path, [item(1)]).superseded == 0
    assert get(tmp_path, "superseded.jsonl") == [line(2)]
