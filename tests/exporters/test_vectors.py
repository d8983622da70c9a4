"""Vectors on their way out: NumPy, pyarrow and `datasets` read what a run of embeddings left."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped] # it ships no types

from batchrunner.core.exports import ExportRow
from tests.exporters.rows import Rows, chat_row, failed_row, made, picture_row, written

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def vector_row(vector: Any, **fields: Any) -> ExportRow:
    """As a run of embeddings writes it."""
    output = {"embedding": vector, "dimensions": len(vector) if isinstance(vector, list) else 0}
    whole = chat_row(**fields)
    return ExportRow(line=whole.line, fields={**whole.fields, "output": output}, outcome="done")


@settings(max_examples=40, deadline=None)  # a busy machine is no mistake
@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(FLOATS, min_size=n, max_size=n), min_size=1, max_size=6)))
def test_numpy_and_pyarrow_read_the_same_32_bit_floats(vectors: list[list[float]]) -> None:
    rows = [vector_row(vector) for vector in vectors]
    array = np.load(io.BytesIO(made("npy", *rows)))
    assert (array.dtype, array.shape) == (np.dtype("<f4"), (len(vectors), len(vectors[0])))
    assert array.tolist() == vectors
    table = ParquetFile(io.BytesIO(made("parquet", *rows))).read()
    assert str(table.schema.field("output.embedding").type) == f"fixed_size_list<element: float>[{len(vectors[0])}]"
    assert table["output.embedding"].to_pylist() == vectors


@pytest.mark.parametrize("length", [1, 7, 1024, 99_999])
def test_the_header_is_aligned_whatever_the_shape(length: int) -> None:
    content = made("npy", vector_row([0.5] * length))
    assert (len(content) - 4 * length) % 64 == 0
    assert np.load(io.BytesIO(content)).shape == (1, length)


def test_rows_without_a_vector_of_the_usual_length_are_left_out_of_the_array_and_counted() -> None:
    odd = (failed_row(), vector_row([1.0]), vector_row(None), vector_row(["a"]), picture_row(("a.png", b"x")))
    run = Rows([vector_row([0.5, 1.5]), *odd, vector_row([2, 3])])
    assert np.load(io.BytesIO(written("npy", run))).tolist() == [[0.5, 1.5], [2.0, 3.0]]
    assert run.samples == 2
    assert run.left_out == {"without a vector": 4, "with a vector of another length than 2": 1}


def test_an_array_of_nothing_is_one() -> None:
    assert np.load(io.BytesIO(made("npy", failed_row()))).shape == (0, 0)


def test_vectors_of_several_lengths_are_plain_lists_in_a_table_and_no_vector_is_null() -> None:
    table = ParquetFile(io.BytesIO(made("parquet", vector_row([0.5, 1.0]), vector_row([2.0]), failed_row()))).read()
    assert table["output.embedding"].to_pylist() == [[0.5, 1.0], [2.0], None]
    fixed = ParquetFile(io.BytesIO(made("parquet", vector_row([0.5, 1.0]), failed_row()))).read()
    assert fixed["output.embedding"].to_pylist() == [[0.5, 1.0], None]


def test_a_line_of_a_batch_s_output_has_the_vector_as_the_api_gives_it() -> None:
    (line,) = made(
        "openai-batch", vector_row([0.5, 1.0], usage={"input_tokens": 4, "output_tokens": None})
    ).splitlines()
    body = json.loads(line)["response"]["body"]
    assert body["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}]
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


def test_datasets_reads_vectors_of_a_fixed_length(tmp_path: Path) -> None:
    import datasets  # noqa: PLC0415 - it is slow to load

    (tmp_path / "a.parquet").write_bytes(made("parquet", vector_row([0.5, 1.0]), vector_row([2.0, 3.0])))
    read = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert read.features["output.embedding"] == datasets.List(datasets.Value("float32"), length=2)
    assert read["output.embedding"][:] == [[0.5, 1.0], [2.0, 3.0]]
