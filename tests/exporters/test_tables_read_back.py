"""`csv`, `parquet`, `xlsx` and `sheet`, read back by pandas, polars, pyarrow, DuckDB, openpyxl and Pillow."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pandas as pd
import polars as pl
import pyarrow.parquet  # type: ignore[import-untyped] # it ships no types
import pytest
from openpyxl.utils.escape import unescape
from PIL import Image

from batchrunner.core.exports import ExportOptions, ExportRow, Split
from batchrunner.exporters import EXPORTERS
from batchrunner.exporters.tables import unguarded
from tests.exporters.rows import Rows, chat_row, failed_row, made, picture_row, written

HOSTILE = (
    "plain",
    "=1+1",
    "@SUM(A1)",
    "#N/A",
    "line\r\nbreak\rand\u2028more",
    'comma, "quote"; tab\t',
    "_x0041_ and \x00 \x1b[31m \x7f\x85\ufffe",
    "猫 🐱 \u202e",
    "00123",
    "1e5",
    "../../etc/passwd\n/x",
    "true",
    "x" * 200,
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "answer": {"type": "string"},
        "sure": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
        "any": {},
    },
    "$defs": {"tag": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}
PARSED = {"answer": "yes", "sure": 1, "tags": [{"n": 1}, {"n": 2}], "any": {"deep": [1]}}


def hostile() -> list[ExportRow]:
    return [chat_row(text, id=text, prompt=text, vars={"n": number}) for number, text in enumerate(HOSTILE)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "export"


def test_pandas_polars_and_duckdb_read_the_texts_of_a_csv_file(place: Path) -> None:
    place.write_bytes(made("csv", *hostile()))
    by_pandas = list(pd.read_csv(place, dtype=str, keep_default_na=False, lineterminator=None)["output.text"])
    assert [unguarded(text) for text in by_pandas] == list(HOSTILE)
    by_polars = pl.read_csv(place, infer_schema=False)["output.text"].to_list()
    assert [unguarded(text) for text in by_polars] == list(HOSTILE)
    without_nul = [text for text in HOSTILE if "\x00" not in text]
    place.write_bytes(made("csv", *(row for row in hostile() if "\x00" not in str(row.fields["id"]))))
    found = duckdb.sql(f"select \"output.text\" from read_csv('{place}', all_varchar=true, header=true)").fetchall()
    assert [unguarded(text) for (text,) in found] == without_nul


def test_a_csv_file_for_excel_begins_with_a_mark_that_readers_take_off(place: Path) -> None:
    content = written("csv", Rows(hostile(), options=ExportOptions(excel=True)))
    assert content.startswith(b"\xef\xbb\xbfid,")
    assert not made("csv", *hostile()).startswith(b"\xef")
    place.write_bytes(content)
    assert pd.read_csv(place, dtype=str, keep_default_na=False)["id"].iloc[0] == "plain"


def test_four_readers_of_parquet_agree_on_every_field(place: Path) -> None:
    rows = [*hostile(), failed_row(failed_at="2026-11-22T21:14:03.120Z")]
    place.write_bytes(made("parquet", *rows))
    table = pyarrow.parquet.read_table(place).to_pylist()
    assert [line["output.text"] for line in table] == [*HOSTILE, None]
    assert [line["id"] for line in table] == [row.fields["id"] for row in rows]
    assert table[0]["started_at"] == datetime(2026, 11, 22, 21, 14, 3, 120_000, tzinfo=UTC)
    assert pl.read_parquet(place)["output.text"].to_list() == [*HOSTILE, None]
    assert pl.read_parquet(place)["vars.n"].to_list() == [*range(len(HOSTILE)), None]
    assert list(pd.read_parquet(place)["output.text"])[:-1] == list(HOSTILE)
    found = duckdb.sql(f"select \"output.text\", started_at from read_parquet('{place}')").fetchall()
    assert [text for text, _ in found] == [*HOSTILE, None]


def test_parsed_is_a_struct_where_the_schema_makes_it_one(place: Path) -> None:
    run = Rows([chat_row(output={"parsed": PARSED}), chat_row(output={"parsed": None})], job={"schema": SCHEMA})
    place.write_bytes(written("parquet", run))
    expected = {"answer": "yes", "sure": 1.0, "tags": [{"n": 1}, {"n": 2}], "any": '{"deep": [1]}'}
    assert [line["output.parsed"] for line in pyarrow.parquet.read_table(place).to_pylist()] == [expected, None]
    assert pl.read_parquet(place)["output.parsed"].struct.field("sure").to_list() == [1.0, None]
    assert duckdb.sql(f"select \"output.parsed\".tags[2].n from read_parquet('{place}')").fetchall() == [(2,), (None,)]


@pytest.mark.parametrize(
    "other", [{"answer": 5}, {"more": 1}, ["a list"], "text", {"tags": [{"n": 1.5}]}, {"sure": 2**60 + 1}, 3]
)
def test_parsed_is_json_as_soon_as_one_answer_does_not_fit(place: Path, other: Any) -> None:
    run = Rows([chat_row(output={"parsed": PARSED}), chat_row(output={"parsed": other})], job={"schema": SCHEMA})
    place.write_bytes(written("parquet", run))
    found = [json.loads(line["output.parsed"]) for line in pyarrow.parquet.read_table(place).to_pylist()]
    assert found == [PARSED, other]


@pytest.mark.parametrize("schema", [True, {"$ref": "#"}, {"$ref": "http://x/y"}, {"type": "object"}, {"type": "array"}])
def test_an_open_schema_is_no_struct(place: Path, schema: Any) -> None:
    run = Rows([chat_row(output={"parsed": [1, "a"]})], job={"schema": schema})
    place.write_bytes(written("parquet", run))
    (line,) = pyarrow.parquet.read_table(place).to_pylist()
    value = line["output.parsed"]
    assert [json.loads(one) for one in value] == [1, "a"] if isinstance(value, list) else json.loads(value) == [1, "a"]


def test_parquet_takes_the_bytes_of_pictures_when_asked(place: Path) -> None:
    run = Rows(
        [picture_row(("images/a.png", b"first")), picture_row(("images/b.png", b"second")), chat_row("told")],
        pictures={"images/a.png": b"first"},
        options=ExportOptions(images="bytes"),
    )
    place.write_bytes(written("parquet", run))
    table = pyarrow.parquet.read_table(place).to_pylist()
    assert [line["image"] for line in table] == [{"bytes": b"first", "path": "a.png"}, None, None]
    two = picture_row(("images/a.png", b"first"), ("images/c.png", b"third"))
    run = Rows([two], pictures={"images/a.png": b"first", "images/c.png": b"third"}, options=run.options)
    place.write_bytes(written("parquet", run))
    (line,) = pyarrow.parquet.read_table(place).to_pylist()
    assert [picture["bytes"] for picture in line["pictures"]] == [b"first", b"third"]


# -- xlsx


def sheet_of(content: bytes) -> list[dict[str, Any]]:
    header, *lines = openpyxl.load_workbook(io.BytesIO(content)).active.iter_rows()
    return [
        {
            str(name.value): unescape(cell.value) if isinstance(cell.value, str) else cell.value
            for name, cell in zip(header, line, strict=True)
        }
        for line in lines
    ]


def test_a_workbook_has_every_text_as_text_and_numbers_as_numbers() -> None:
    content = made("xlsx", *hostile(), chat_row("last", params={"seed": 2**60, "hd": True}, seconds=0.5))
    lines = sheet_of(content)
    assert [line["output.text"] for line in lines] == [*HOSTILE, "last"]
    assert [line["id"] for line in lines[:-1]] == list(HOSTILE)
    assert (lines[-1]["params.seed"], lines[-1]["params.hd"], lines[-1]["seconds"]) == (str(2**60), True, 0.5)
    kinds = {cell.data_type for row in openpyxl.load_workbook(io.BytesIO(content)).active.iter_rows() for cell in row}
    assert "f" not in kinds
    assert "e" not in kinds


@pytest.mark.parametrize("text", ["x" * 40_000, "🐱" * 20_000, "\x00" * 10_000])
def test_a_text_that_no_cell_takes_is_cut_and_counted(text: str) -> None:
    run = Rows([chat_row(text)])
    (line,) = sheet_of(written("xlsx", run))
    assert text.startswith(line["output.text"])
    assert len(line["output.text"]) > 4000
    assert list(run.left_out.values()) == [1]


# -- sheet


def picture(colour: str, form: str = "PNG", **options: Any) -> bytes:
    into = io.BytesIO()
    Image.new("RGB", (640, 400), colour).save(into, form, **options)
    return into.getvalue()


def test_a_sheet_shows_every_picture_on_pages_that_any_viewer_opens() -> None:
    frames = [Image.new("P", (40, 40), number) for number in range(3)]
    moving = io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    pictures = {
        "images/red.png": picture("red"),
        "images/green.jpg": picture("lime", "JPEG"),
        "images/blue.webp": picture("blue", "WEBP"),
        "images/moving.gif": moving.getvalue(),
        "images/broken.png": b"no picture",
    }
    rows = [
        picture_row((path, content), id=f"{path}\n\x1b", prompt="猫" * 300, prompt_id=str(number % 40))
        for number in range(30)
        for path, content in pictures.items()
    ]
    run = Rows(rows, pictures=pictures)
    write = EXPORTERS["sheet"].write_folder
    assert write is not None
    pages = {part.path: part.content for part in write([Split(name=None, run=run)])}
    assert len(pages) > 1
    assert (run.samples, dict(run.left_out)) == (150, {"pictures that cannot be decoded": 30})
    colours: dict[str, int] = {"red": 0, "lime": 0, "blue": 0}
    for content in pages.values():
        with Image.open(io.BytesIO(content)) as page:
            assert page.width * page.height < 12_000_000
            tiny = page.resize((page.width // 20, page.height // 20)).convert("RGB").tobytes()
            for place in range(0, len(tiny), 3):
                strong = [channel for channel in range(3) if tiny[place + channel] > 150]
                if len(strong) == 1 and sum(tiny[place : place + 3]) < 350:
                    colours[("red", "lime", "blue")[strong[0]]] += 1
    areas = set(colours.values())
    assert min(areas) > 30 * 16 * 8  # 320 x 200 pixels each, a twentieth of them a side
    assert max(areas) < min(areas) * 1.3


def pages_of(prompts: list[str]) -> list[tuple[int, int]]:
    """The sizes of the pages of a sheet with a picture for each of these prompts."""
    rows = [
        picture_row(("images/a.png", picture("red")), id=str(at), prompt=one, prompt_id=one)
        for at, one in enumerate(prompts)
    ]
    write = EXPORTERS["sheet"].write_folder
    assert write is not None
    parts = write([Split(name=None, run=Rows(rows, pictures={"images/a.png": picture("red")}))])
    sizes = []
    for part in parts:
        with Image.open(io.BytesIO(part.content)) as page:
            sizes.append(page.size)
    return sizes


def test_prompts_with_one_picture_share_the_lines_of_a_sheet() -> None:
    """Twelve take three lines, like twelve pictures of one prompt, and two headings more."""
    ((_, one_prompt),) = pages_of(["same"] * 12)
    ((_, each_own),) = pages_of([f"prompt {number}" for number in range(12)])
    heading = (each_own - one_prompt) / 2
    assert 0 < heading < one_prompt / 12
    ((_, mixed),) = pages_of(["a", "b", *["c"] * 3, "d", "e"])
    assert mixed == each_own, "a line of two, one of three, one of two"
    assert len(pages_of([f"prompt {number}" for number in range(200)])) == 3
