"""Parquet: every value as JSON has it, whatever is odd as a bad row, and never more than a batch at a time."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import aclosing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa  # type: ignore[import-untyped] # it ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped] # it ships no types
import pytest

from batchrunner.prompts import items_of
from batchrunner.prompts.sources import SOURCES
from batchrunner.prompts.sources.base import LINE_LIMIT_BYTES, BadRow, SourceRow
from tests.prompts.jobs import DATA, items, job_of, mistake, mistakes, source, stream


def written(path: Path, columns: dict[str, Any], **how: Any) -> Path:
    pq.write_table(pa.table(columns), path, **how)
    return path


def read(path: Path) -> list[SourceRow | BadRow]:
    async def collect() -> list[SourceRow | BadRow]:
        return [row async for rows in SOURCES[".parquet"].read(str(path)) for row in rows]

    return asyncio.run(collect())


def good(found: Iterable[SourceRow | BadRow]) -> list[SourceRow]:
    rows = [row for row in found if isinstance(row, SourceRow)]
    assert len(rows) == len([*found])
    return rows


def cell(path: Path, array: Any) -> Any:
    (row,) = good(read(written(path / "a.parquet", {"x": array})))
    return row.values["x"]


def bad_cell(path: Path, array: Any) -> str:
    (row,) = read(written(path / "a.parquet", {"x": array}))
    assert isinstance(row, BadRow)
    return row.problem


def test_a_row_for_every_row_of_every_group(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"q": [f"q{n}" for n in range(2500)], "n": range(2500)}, row_group_size=700)
    rows = good(read(path))
    assert [row.values for row in rows] == [{"q": f"q{n}", "n": n} for n in range(2500)]
    assert [row.number for row in rows] == [*range(1, 2501)]


MOMENT = datetime(2026, 11, 22, 21, 14, 3, 120000)  # noqa: DTZ001 - a column without a zone


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (pa.array([None]), None),
        (pa.array([True]), True),
        (pa.array([2**63 - 1]), 2**63 - 1),
        (pa.array([0.5], pa.float32()), 0.5),
        (pa.array([float("nan")]), None),
        (pa.array(["é"], pa.large_string()), "é"),
        (pa.array(["é"]).dictionary_encode(), "é"),
        (pa.array([Decimal("1.20")]), "1.20"),
        (pa.array([date(2026, 11, 22)]), "2026-11-22"),
        (pa.array([time(1, 2, 3)]), "01:02:03"),
        (pa.array([MOMENT]), "2026-11-22T21:14:03.120000"),
        (pa.array([MOMENT.replace(tzinfo=UTC)]), "2026-11-22T21:14:03.120000+00:00"),
        (pa.array([1_000_000_007], pa.timestamp("ns")), "1970-01-01T00:00:01"),
        (pa.array([1_500_000_007], pa.duration("ns")), 1.5),
        (pa.array([1_000_000_007], pa.time64("ns")), "00:00:01"),
        (pa.array([timedelta(minutes=1, milliseconds=5)]), 60.005),
        (pa.array([UUID(int=7).bytes], pa.uuid()), str(UUID(int=7))),
        (pa.array([[1, None]]), [1, None]),
        (pa.array([{"a": [float("nan")], "b": {"c": date(2026, 1, 1)}}]), {"a": [None], "b": {"c": "2026-01-01"}}),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), {"k": 1}),
        (pa.array([[]], pa.map_(pa.int64(), pa.int64())), {}),
    ],
)
def test_values_become_what_json_has(tmp_path: Path, array: Any, value: Any) -> None:
    found = cell(tmp_path, array)
    assert found == value
    assert type(found) is type(value)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (pa.array([float("-inf")]), "`x` is infinite"),
        (pa.array([{"a": [float("inf")]}]), "`x` is infinite"),
        (pa.array([2**50], pa.timestamp("ms")), "`x` cannot be read"),
        (pa.array([b"caf\xe9"]).view(pa.string()), "`x` cannot be read"),
        (pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())), "`x` cannot be read"),
    ],
)
def test_what_json_does_not_know_is_a_bad_row(tmp_path: Path, array: Any, says: str) -> None:
    assert says in bad_cell(tmp_path, array)


def test_a_bad_row_is_skipped_with_its_number_and_the_others_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"prompt": ["a", "b", "c"], "x": [1.0, float("inf"), 2.0]})
    every = items_of(job_of(source(path, on_bad_row="skip", id="q{{ row }}")))
    assert [(item.id, item.vars) for item in stream(every)] == [
        ("q1", {"prompt": "a", "x": 1.0}),
        ("q3", {"prompt": "c", "x": 2.0}),
    ]
    assert [str(m) for m in every.skipped] == [
        "a.parquet, row 2: `x` is infinite, which JSON cannot represent",
    ]


def test_columns_of_bytes_are_left_out(tmp_path: Path) -> None:
    columns = {
        "prompt": ["what?"],
        "raw": [b"\x89PNG"],
        "image": pa.array([{"bytes": b"\x89PNG", "path": "a.png"}]),
        "many": pa.array([[b"x"]]),
        "packed": pa.array([b"x"], pa.large_binary()).dictionary_encode(),
    }
    path = written(tmp_path / "a.parquet", columns)
    (item,) = items(job_of(source(path)))
    assert item.vars == {"prompt": "what?"}
    assert "available names: `row`, `prompt`" in mistake(job_of(source(path, template="{{ image }}")))
    alone = written(tmp_path / "b.parquet", {"raw": [b"x"]})
    assert "only binary columns" in mistake(job_of(source(alone)))


def test_a_column_that_no_row_has_is_reported_once_with_what_was_meant(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"question": ["a", "b"]})
    (said,) = mistakes(job_of(source(path, template="{{ qestion }}")))
    assert said.hint == "did you mean `question`?"


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "`a` more than once" in mistake(job_of(source(tmp_path / "a.parquet")))


def test_names_with_dots_and_nested_columns_do_not_get_mixed_up(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"a": pa.array([{"b": 1}]), "a.b": ["text"], "a.c": [b"bytes"]})
    (row,) = good(read(path))
    assert row.values == {"a": {"b": 1}, "a.b": "text"}


def test_a_file_that_is_none_or_damaged_is_a_mistake(tmp_path: Path) -> None:
    assert "not a readable Parquet file" in mistake(job_of(source(tmp_path / "a.parquet", "prompt\nx\n")))
    assert "not a readable Parquet file" in mistake(job_of(source(tmp_path / "b.parquet", "")))
    assert "No such file" in mistake(job_of(source(tmp_path / "none.parquet")))
    whole = written(tmp_path / "c.parquet", {"prompt": [f"prompt {n}" for n in range(5000)]}).read_bytes()
    damaged = whole[:50] + b"\xff" * 2000 + whole[2050:]
    said = mistake(job_of(source(tmp_path / "c.parquet", damaged)))
    assert "c.parquet: cannot be read to its end: " in said
    assert "\n" not in said


def test_a_file_without_rows_is_a_mistake(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"prompt": pa.array([], pa.string())})
    assert "has no rows" in mistake(job_of(source(path)))


def test_a_row_over_the_cap_is_bad_and_the_next_one_is_read(tmp_path: Path) -> None:
    long, short = read(written(tmp_path / "a.parquet", {"x": ["x" * (LINE_LIMIT_BYTES + 1), "y"]}))
    assert isinstance(long, BadRow)
    assert long.problem == "the row is longer than 16 MiB"
    assert isinstance(short, SourceRow)


def test_without_pyarrow_it_states_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.parquet", {"prompt": ["x"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    said = mistake(job_of(source(path)))
    assert said == "a.parquet: cannot be read without pyarrow; install it with: pip install pyarrow"


def test_the_package_loads_no_pyarrow_before_a_parquet_file_is_read() -> None:
    code = "import sys, batchrunner.prompts, batchrunner.api; raise SystemExit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_limit_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"prompt": [f"p{n}" for n in range(3000)]})
    assert len(items(job_of(source(path, limit=7)))) == 7


def test_a_pass_that_ends_early_leaves_the_file_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"x": [*range(5000)]})

    async def first() -> SourceRow | BadRow:
        async with aclosing(SOURCES[".parquet"].read(str(path))) as rows:
            return (await anext(rows))[0]

    row = asyncio.run(first())
    path.unlink()
    assert isinstance(row, SourceRow)
    assert row.values == {"x": 0}


PEAK = """
import asyncio, sys
from batchrunner.prompts.sources import SOURCES
async def count(path):
    return sum([len(rows) async for rows in SOURCES[".parquet"].read(path)])
rows = asyncio.run(count(sys.argv[1]))
import pyarrow
print(rows, pyarrow.default_memory_pool().max_memory())
"""


def test_memory_does_not_grow_with_the_file_nor_with_its_row_groups(tmp_path: Path) -> None:
    texts = [f"{n} " + "x" * 2000 for n in range(30_000)]
    path = written(
        tmp_path / "a.parquet", {"q": texts}, compression="none", use_dictionary=False, row_group_size=30_000
    )
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    rows, peak_bytes = map(int, done.stdout.split())
    assert rows == 30_000
    assert peak_bytes < 16 * 1024 * 1024, "a row group of 60 MB was read in batches of 2 MB"


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared real prompts are not beside this checkout")
def test_real_questions_are_the_same_items_from_parquet_as_from_lines(tmp_path: Path) -> None:
    asked = [json.loads(line) for line in (DATA / "gsm8k_test.jsonl").read_text("utf-8").splitlines()]
    pq.write_table(pa.Table.from_pylist(asked), tmp_path / "gsm8k.parquet", row_group_size=500)
    told = {"template": "{{ question }}", "id": "q{{ row }}"}
    found = items(job_of(source(tmp_path / "gsm8k.parquet", **told)))
    assert len(found) == 1319
    assert found == items(job_of(source(DATA / "gsm8k_test.jsonl", **told)))
