"""Parquet: read back by pyarrow, typed, in groups."""

import io
import subprocess
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped] # it ships no types

from tests.exporters.rows import TEXTS, chat_row, failed_row, made, picture_row


def read(content: bytes) -> Any:
    return ParquetFile(io.BytesIO(content)).read()


@settings(max_examples=30, deadline=None)  # a busy machine is no mistake
@given(prompt=TEXTS, answer=TEXTS, name=TEXTS, variables=st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_any_texts_come_back(prompt: str, answer: str, name: str, variables: dict[str, str]) -> None:
    (line,) = read(made("parquet", chat_row(answer, id=name, prompt=prompt, vars=variables))).to_pylist()
    assert (line["id"], line["prompt"], line["output.text"]) == (name, prompt, answer)
    assert {name: line[f"vars.{name}"] for name in variables} == variables


def test_columns_are_typed_and_text_where_types_are_mixed() -> None:
    rows = (
        chat_row(params={"n": 1, "x": 1, "mixed": 1, "big": 2**70, "on": True, "none": None}),
        chat_row(params={"n": -2, "x": 0.5, "mixed": "one", "big": 3, "on": False, "none": None}),
    )
    columns = read(made("parquet", *rows))
    types = {field.name.removeprefix("params."): str(field.type) for field in columns.schema}
    names = ("n", "x", "mixed", "big", "on", "none", "index", "seconds", "recovered")
    assert [types[name] for name in names] == [
        *("int64", "double", "string", "string", "bool", "string", "int64", "double", "bool")
    ]
    assert columns["params.mixed"].to_pylist() == ["1", "one"]
    assert columns["params.big"].to_pylist() == [str(2**70), "3"]


def test_whole_numbers_beside_fractions_are_numbers_however_great_they_are() -> None:
    columns = read(made("parquet", chat_row(params={"x": 2**60 + 1}), chat_row(params={"x": 0.5})))
    assert columns["params.x"].to_pylist() == [float(2**60 + 1), 0.5]


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), _VALUES), max_size=4))
def test_columns_hold_whatever_values_rows_have(values: list[dict[str, Any]]) -> None:
    columns = read(made("parquet", *[chat_row(vars=row) for row in values]))
    assert columns.num_rows == len(values)
    for name in {name for row in values for name in row}:
        known = [row.get(name) is not None for row in values]
        assert [cell is not None for cell in columns[f"vars.{name}"].to_pylist()] == known


def test_two_exports_of_a_job_can_be_laid_together() -> None:
    told, empty = read(made("parquet", chat_row())).schema, read(made("parquet")).schema
    assert {name: told.field(name).type for name in empty.names} == {f.name: f.type for f in empty}
    assert "usage.input_tokens" in empty.names


def test_formulas_failures_and_pictures() -> None:
    rows = (chat_row("=1"), failed_row("no"), picture_row(("images/a.png", b"x")))
    done, failed, drawn = read(made("parquet", *rows)).to_pylist()
    assert (done["output.text"], done["status"]) == ("=1", "done")
    assert (failed["error.message"], failed["status"], failed["output.text"]) == ("no", "failed", None)
    assert drawn["output.images"] == "images/a.png"


def test_big_rows_stand_in_groups_of_their_own() -> None:
    row = chat_row("x" * (3 << 20))
    file = ParquetFile(io.BytesIO(made("parquet", *[row] * 7)))
    assert [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)] == [2, 2, 2, 1]


def test_the_exporters_load_no_pyarrow_before_a_parquet_file_is_written() -> None:
    code = "import sys, batchrunner.exporters, batchrunner.api; raise SystemExit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
