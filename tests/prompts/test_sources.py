"""Files of prompts: every kind, every line that is odd, and what is said of it."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from batchrunner.core.values import replace
from batchrunner.prompts import items_of
from batchrunner.prompts.sources import SOURCES
from batchrunner.prompts.sources.base import LINE_LIMIT_BYTES, BadRow, BadSourceError, SourceRow
from batchrunner.prompts.sources.text_files import CHUNK_BYTES
from tests.prompts.jobs import DATA, items, job_of, mistake, source, stream


def read(path: Path, text: str | bytes | None = None) -> list[SourceRow | BadRow]:
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    async def collect() -> list[SourceRow | BadRow]:
        return [row async for rows in SOURCES[path.suffix].read(str(path)) for row in rows]

    return asyncio.run(collect())


def rows(path: Path, text: str | bytes | None = None) -> list[SourceRow]:
    found = read(path, text)
    assert all(isinstance(row, SourceRow) for row in found), found
    return [row for row in found if isinstance(row, SourceRow)]


def problem(path: Path, text: str | bytes) -> BadSourceError:
    with pytest.raises(BadSourceError) as caught:
        read(path, text)
    return caught.value


def test_text_has_a_row_for_every_line_that_is_not_blank(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.txt", '\ufeffA cat\r\n\n  \nA dog, "too"\nno newline')
    assert [row.values["line"] for row in found] == ["A cat", 'A dog, "too"', "no newline"]
    assert [(row.number, row.line) for row in found] == [(1, 1), (2, 4), (3, 5)]


def test_unicode_line_separators_end_no_line(tmp_path: Path) -> None:
    assert [row.values["line"] for row in rows(tmp_path / "a.txt", "a\u2028b\x0bc\x85d\n")] == ["a\u2028b\x0bc\x85d"]


def test_csv_knows_quotes_and_fields_of_several_lines(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", '\ufeffid,prompt\r\n1,"a, ""b""\r\nc"\r\n\r\n2,5" disk\r\n')
    assert [row.values for row in found] == [{"id": "1", "prompt": 'a, "b"\r\nc'}, {"id": "2", "prompt": '5" disk'}]
    assert [(row.number, row.line) for row in found] == [(1, 2), (2, 5)]


def test_csv_row_with_a_missing_or_an_extra_column_is_bad(tmp_path: Path) -> None:
    short, long, good = read(tmp_path / "a.csv", "a,b\n1\n1,2,3\n1,2\n")
    assert isinstance(short, BadRow)
    assert (short.number, short.line) == (1, 2)
    assert short.problem == "the row has 1 columns, the header has 2 (a, b)"
    assert isinstance(long, BadRow)
    assert long.line == 3
    assert isinstance(good, SourceRow)
    assert good.number == 3


def test_csv_quote_that_never_closes_is_one_bad_row_that_states_how_far_it_goes(tmp_path: Path) -> None:
    first, bad = read(tmp_path / "a.csv", 'a,b\n1,2\n3,"open\n5,6\n7,8\n')
    assert isinstance(first, SourceRow)
    assert isinstance(bad, BadRow)
    assert bad.line == 3
    assert "goes on for 3 lines" in bad.problem


def test_csv_stray_text_after_a_quote_is_bad_and_the_next_row_is_read(tmp_path: Path) -> None:
    bad, good = read(tmp_path / "a.csv", 'a,b\n"x"y,2\n3,4\n')
    assert isinstance(bad, BadRow)
    assert isinstance(good, SourceRow)
    assert good.line == 3


def test_csv_record_across_chunks_is_whole(tmp_path: Path) -> None:
    field = "\n".join("x" * 99 for _ in range(3 * CHUNK_BYTES // 100))
    before, long, after = rows(tmp_path / "a.csv", f'a,b\n1,2\n"{field}",3\n4,5\n')
    assert long.values == {"a": field, "b": "3"}
    assert (before.line, long.line, after.line) == (2, 3, 4 + field.count("\n"))


def test_csv_open_quote_stops_at_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"' + ("x" * 999 + "\n") * (LINE_LIMIT_BYTES // 1000 + 2000))
    with pytest.raises(BadSourceError, match="longer than 16 MiB") as caught:
        read(path)
    assert caught.value.line == 2


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_csv_with_another_separator_is_reported(tmp_path: Path, separator: str, word: str) -> None:
    assert word in problem(tmp_path / "a.csv", f"id{separator}prompt\n1{separator}x\n").problem


def test_tsv_knows_no_quotes_and_fills_what_a_row_leaves_out(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.tsv", 'Prompt\tCategory\tNote\n"a\tb\tc\nd\te\nf\n\n')
    assert [list(row.values.values()) for row in found] == [['"a', "b", "c"], ["d", "e", ""], ["f", "", ""]]


def test_tsv_row_with_more_columns_than_the_header_is_bad(tmp_path: Path) -> None:
    bad, good = read(tmp_path / "a.tsv", "a\tb\n1\t2\t3\n1\t2\n")
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert isinstance(good, SourceRow)


def test_jsonl_has_an_object_per_line(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.jsonl", '\ufeff{"a": [1, null, "é"]}\n\n{"b": 1.5}\r\n')
    assert [row.values for row in found] == [{"a": [1, None, "é"]}, {"b": 1.5}]
    assert [row.line for row in found] == [1, 3]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "a list, not an object"),
        ("null", "null, not an object"),
        ("true", "a truth value, not an object"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not usable JSON"),
        ('{"a": "\\ud83d"}', "unpaired surrogate"),
        ('{"a": "\0"}', "NUL byte in the line, at byte 8"),
    ],
)
def test_jsonl_line_that_is_no_object_is_bad(tmp_path: Path, line: str, says: str) -> None:
    bad, good = read(tmp_path / "a.jsonl", line + '\n{"a": "\\ud83d\\ude00"}\n')
    assert isinstance(bad, BadRow)
    assert says in bad.problem
    assert isinstance(good, SourceRow)
    assert good.values == {"a": "😀"}


@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv", ".jsonl"])
def test_bytes_that_are_not_utf8_make_a_bad_row(tmp_path: Path, ending: str) -> None:
    good = b'{"a": 1}\n' if ending == ".jsonl" else b"a\n"
    first, bad, last = read(
        tmp_path / f"a{ending}", (b"" if ending in {".txt", ".jsonl"} else b"h\n") + good + b"\xff\xfea\n" + good
    )
    assert isinstance(bad, BadRow)
    assert "not UTF-8" in bad.problem
    assert "0xff" in bad.problem
    assert isinstance(first, SourceRow)
    assert isinstance(last, SourceRow)
    assert last.number == 3


@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv"])
def test_a_nul_makes_a_bad_row(tmp_path: Path, ending: str) -> None:
    *_, bad = read(tmp_path / f"a{ending}", "h\nx\0y\n")
    assert isinstance(bad, BadRow)
    assert "NUL" in bad.problem


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_header_that_is_not_utf8_stops_the_file(tmp_path: Path, ending: str) -> None:
    fault = problem(tmp_path / f"a{ending}", b"caf\xe9\nx\n")
    assert "not UTF-8" in fault.problem
    assert fault.line == 1


@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_header_that_names_a_column_twice_stops_the_file(tmp_path: Path, ending: str, separator: str) -> None:
    assert "`a` more than once" in problem(tmp_path / f"a{ending}", f"a{separator}a\n1{separator}2\n").problem


@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_column_without_a_name_gets_one(tmp_path: Path, ending: str, separator: str) -> None:
    (row,) = rows(tmp_path / f"a{ending}", f"{separator}prompt\n0{separator}x\n")
    assert row.values == {"column_1": "0", "prompt": "x"}


def test_a_line_over_the_cap_is_bad_and_the_next_one_is_read(tmp_path: Path) -> None:
    first, bad, last = read(tmp_path / "a.txt", b"a\n" + b"x" * (LINE_LIMIT_BYTES + CHUNK_BYTES) + b"\nb")
    assert isinstance(first, SourceRow)
    assert isinstance(bad, BadRow)
    assert bad.problem == "the line is longer than 16 MiB"
    assert isinstance(last, SourceRow)
    assert (last.values, last.line, last.number) == ({"line": "b"}, 3, 3)


def test_lines_around_the_end_of_a_chunk_are_whole(tmp_path: Path) -> None:
    lines = ["é" * (CHUNK_BYTES // 4 - 3 + n) for n in range(7)]
    assert [row.values["line"] for row in rows(tmp_path / "a.txt", "\n".join(lines))] == lines


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match="No such file"):
        read(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(BadSourceError, match="not a regular file"):
        read(tmp_path / "folder.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(BadSourceError, match="not a regular file"):
        read(tmp_path / "pipe.txt")


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared real prompts are not beside this checkout")
def test_real_files_are_read_whole() -> None:
    gsm8k = rows(DATA / "gsm8k_test.jsonl")
    assert len(gsm8k) == 1319
    assert all(set(row.values) == {"question", "answer"} for row in gsm8k)
    assert [row.values for row in gsm8k] == [
        json.loads(line) for line in (DATA / "gsm8k_test.jsonl").read_text().splitlines()
    ]
    parti = rows(DATA / "parti_prompts.tsv")
    assert len(parti) == 1632
    assert all(set(row.values) == {"Prompt", "Category", "Challenge", "Note"} and row.values["Prompt"] for row in parti)


TEXTS = {
    "gb18030": "你好，请把这句话翻译成英文。",
    "big5": "請把這句話翻譯成英文",
    "shift_jis": "こんにちは、世界。",
    "euc_kr": "안녕하세요 세계 여러분",
    "cp1251": "Привет! Как дела?",
    "cp1252": "Où est le café déjà naïve",
}
FILES = {
    ".csv": "prompt,n\n{0},1\n{0},2\n",
    ".tsv": "prompt\tn\n{0}\t1\n{0}\t2\n",
    ".jsonl": '{{"prompt": "{0}"}}\n{{"prompt": "{0}"}}\n',
    ".txt": "{0}\n{0}\n",
}


@pytest.mark.parametrize("ending", FILES)
@pytest.mark.parametrize("encoding", [*TEXTS, "utf-16-le", "utf-16-be", "utf-32-be", "utf-8-sig"])
def test_a_file_is_read_in_the_encoding_that_the_job_names(tmp_path: Path, ending: str, encoding: str) -> None:
    text = TEXTS.get(encoding, "héllo 漢😀")
    rows_of = source(tmp_path / f"a{ending}", FILES[ending].format(text).encode(encoding), encoding=encoding)
    template = "{{ line }}" if ending == ".txt" else None
    assert [item.prompt for item in items(job_of(replace(rows_of, template=template)))] == [text, text]


@pytest.mark.parametrize("ending", FILES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
def test_a_byte_order_mark_states_the_encoding(tmp_path: Path, ending: str, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    found = rows(tmp_path / f"a{ending}", (mark + FILES[ending].format("héllo 漢😀")).encode(encoding))
    assert [row.values.get("prompt", row.values.get("line")) for row in found] == ["héllo 漢😀"] * 2


@pytest.mark.parametrize("ending", FILES)
@pytest.mark.parametrize("encoding", TEXTS)
def test_bytes_that_are_not_utf8_are_reported_with_what_they_look_like(
    tmp_path: Path, ending: str, encoding: str
) -> None:
    rows_of = source(tmp_path / f"a{ending}", FILES[ending].format(TEXTS[encoding]).encode(encoding))
    said = mistake(job_of(rows_of))
    assert said.startswith(f"a{ending}:{1 if ending in ('.txt', '.jsonl') else 2}: ")
    assert "is not UTF-8" in said
    assert f"write `encoding: {encoding}` under `prompts`" in said


@pytest.mark.parametrize(
    "header", ["id;Frage;Größe", "Straße;Füße", "Preis in €;Länge", "20 °C;Größe", "„Öl“;§ 5", "señor;¿Qué?", "naïveté"]
)
def test_a_header_with_few_accents_looks_like_windows_1252(tmp_path: Path, header: str) -> None:
    said = mistake(job_of(source(tmp_path / "a.csv", f"{header}\n1;2\n".encode("cp1252"))))
    assert "it looks like Windows-1252: write `encoding: cp1252`" in said


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("问题,学科", "gb18030"), ("AI的问题", "gb18030"), ("用Python写", "gb18030"), ("標題,內容", "big5"),
        ("質問,答え", "shift_jis"), ("질문과 대답", "euc_kr"), ("Вопрос,Ответ", "cp1251"),
    ],
)  # fmt: skip
def test_a_short_header_of_another_script_keeps_its_guess(tmp_path: Path, text: str, encoding: str) -> None:
    said = mistake(job_of(source(tmp_path / "a.csv", f"{text}\nx,y\n".encode(encoding))))
    assert f"write `encoding: {encoding}`" in said


def test_utf16_without_its_mark_is_reported(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        said = mistake(job_of(source(tmp_path / "a.txt", "hello world\n".encode(encoding))))
        assert f"it looks like UTF-16: write `encoding: {encoding}`" in said


def test_a_byte_that_the_named_encoding_does_not_know_is_a_bad_row(tmp_path: Path) -> None:
    raw = "你好\n".encode("gb18030") + b"\xff\xff\n" + "再见\n".encode("gb18030")
    every = items_of(job_of(source(tmp_path / "a.txt", raw, encoding="gb18030", on_bad_row="skip")))
    assert [item.prompt for item in stream(every)] == ["你好", "再见"]
    assert "the line is not gb18030: byte 1 is 0xff" in str(every.skipped[0])
    odd = source(tmp_path / "b.txt", "ab\n".encode("utf-16-le") + b"c", encoding="utf-16-le")
    assert "the file is not utf-16-le from here on" in mistake(job_of(odd))


def test_encodings_are_decoded_across_chunks(tmp_path: Path) -> None:
    text = "漢字かな" * (CHUNK_BYTES // 4)
    lines = [text, "x", text[1:]]
    for encoding in ("utf-16", "gb18030", "utf-8"):
        made = source(tmp_path / f"{encoding}.txt", "\n".join(lines).encode(encoding), encoding=encoding)
        assert [item.prompt for item in items(job_of(made))] == lines


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "§"])
def test_the_columns_of_a_csv_are_separated_as_the_job_states(tmp_path: Path, delimiter: str) -> None:
    text = f'prompt{delimiter}n\n"a{delimiter}b"{delimiter}1\nc, d{delimiter}2\n'
    found = items(job_of(source(tmp_path / "a.csv", text, delimiter=delimiter, template="{{ prompt }} {{ n }}")))
    assert [item.prompt for item in found] == [f"a{delimiter}b 1", "c, d 2"]


def test_another_delimiter_than_the_one_in_use_is_hinted_at(tmp_path: Path) -> None:
    for text, given, hint in (
        ("prompt;n\na;1\n", None, 'separated by semicolons, not by commas; write `delimiter: ";"` under `prompts`'),
        ("prompt\tn\na\t1\n", None, 'write `delimiter: "\\t"`'),
        ("prompt,n\na,1\n", ";", "separated by commas, not by semicolons"),
    ):
        assert hint in mistake(job_of(source(tmp_path / "a.csv", text, delimiter=given)))


def test_excels_own_line_about_the_delimiter_is_no_header(tmp_path: Path) -> None:
    found = items(job_of(source(tmp_path / "a.csv", "sep=;\r\nprompt;n\r\na;1\r\n", delimiter=";")))
    assert [item.prompt for item in found] == ["a"]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("last", ["ended", "open"])
@pytest.mark.parametrize("ending", FILES)
def test_every_kind_of_line_end_makes_the_same_rows(tmp_path: Path, ending: str, end: str, last: str) -> None:
    text = FILES[ending].format("hello").replace("\n", end)
    found = rows(tmp_path / f"a{ending}", text if last == "ended" else text.removesuffix(end))
    assert [row.values.get("prompt", row.values.get("line")) for row in found] == ["hello", "hello"]


def test_a_lone_carriage_return_in_a_row_is_reported_in_words(tmp_path: Path) -> None:
    said = mistake(job_of(source(tmp_path / "a.csv", "prompt,n\nhello,1\nwor\rld,2\n")))
    assert "a carriage return stands alone in a field without quotes" in said
    assert "line ends of Unix or Windows" in said
