"""CSV: read back by Python's own reader, harmless in a spreadsheet."""

import csv
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.values import replace
from batchrunner.exporters.tables import guarded, unguarded
from tests.exporters.rows import TEXTS, chat_row, failed_row, made, picture_row, row


def table(content: bytes) -> list[dict[str, str]]:
    header, *lines = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
    assert all(len(line) == len(header) for line in lines)
    assert len(set(header)) == len(header)
    return [dict(zip(header, line, strict=True)) for line in lines]


@pytest.mark.parametrize(
    "text",
    ['=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "-", "=", "'=1", "''@x", "'\t"],
)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    """Threat 12: in every column that takes text of a person, a model or a server."""
    fields: dict[str, Any] = {"id": text, "prompt": text, "model": text, "vars": {text: text}, "params": {text: text}}
    answered = chat_row(text, output={"reasoning": text, "finish_reason": text}, **fields)
    content = made("csv", answered, failed_row(text, **fields, task_id=text, unheard_of=text))
    cells = [cell for line in csv.reader(io.StringIO(content.decode(), newline="")) for cell in line]
    assert not [cell for cell in cells if cell[:1] in {*"=+-@\t\r\n"}]
    assert sum(unguarded(cell) == text for cell in cells) == 16
    assert all(cell == f"'{text}" for cell in cells if unguarded(cell) == text)


@pytest.mark.parametrize("text", ["", "a", "'quoted'", "a=b", " =1", "1-2", "’=1", "＝1", "'"])
def test_text_that_no_spreadsheet_runs_is_left_alone(text: str) -> None:
    assert guarded(text) == text == unguarded(text)


@settings(deadline=None)  # a busy machine is no mistake
@given(st.text(st.sampled_from("'=+-@\t\r\na"), max_size=5))
def test_the_apostrophe_can_always_be_taken_off_again(text: str) -> None:
    assert unguarded(guarded(text)) == text


def test_numbers_stay_numbers_and_truth_is_written_as_json_does() -> None:
    (line,) = table(made("csv", chat_row(params={"seed": -1, "shift": -0.5, "hd": True}, vars={"n": None})))
    assert (line["params.seed"], line["params.shift"], line["params.hd"]) == ("-1", "-0.5", "true")
    assert (line["vars.n"], line["index"], line["seconds"], line["recovered"]) == ("", "1", "1.5", "false")


@settings(deadline=None)
@given(prompt=TEXTS, answer=TEXTS, name=TEXTS, variables=st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_any_texts_come_back(prompt: str, answer: str, name: str, variables: dict[str, str]) -> None:
    (line,) = table(made("csv", chat_row(answer, id=name, prompt=prompt, vars=variables, params=variables)))
    told = {name: unguarded(cell) for name, cell in line.items()}
    assert (told["id"], told["prompt"], told["output.text"]) == (name, prompt, answer)
    for group in ("vars", "params"):
        assert {name: told[f"{group}.{name}"] for name in variables} == variables


def test_columns_are_those_of_all_rows_in_the_contracts_order() -> None:
    rows = (chat_row(vars={"a": "1"}), failed_row(params={"seed": 7}), picture_row(("images/x.png", b"x"), later=1))
    header = made("csv", *rows).decode().splitlines()[0].split(",")
    assert header == [
        *("id", "prompt_id", "index", "status", "model", "prompt", "system", "vars.a", "params.seed"),
        *("output.text", "output.images", "output.reasoning", "output.tool_calls", "output.parsed"),
        *("output.finish_reason", "output.truncated", "output.flags"),
        *("error.class", "error.message", "error.status", "error.code", "error.request_id"),
        *("usage.input_tokens", "usage.output_tokens", "task_id", "attempts", "ambiguous", "recovered", "started_at"),
        *("seconds", "later", "key"),
    ]


def test_failures_are_distinguished_from_answers_by_their_status() -> None:
    done, failed = table(made("csv", chat_row(), failed_row()))
    assert (done["status"], done["error.message"]) == ("done", "")
    assert (failed["status"], failed["error.message"], failed["output.text"]) == ("failed", "no such thing", "")


def test_what_is_nested_is_json_and_pictures_are_paths() -> None:
    rows = (
        chat_row(output={"parsed": "yes"}, vars={"deep": {"a": [1, None, "ü"]}}, usage=None),
        picture_row(("images/a.png", b"x"), ("images/b.png", b"y")),
    )
    told, drawn = table(made("csv", *rows))
    assert (told["output.parsed"], told["vars.deep"]) == ('"yes"', '{"a": [1, null, "ü"]}')
    assert drawn["output.images"] == "images/a.png;images/b.png"


def test_a_run_without_rows_has_its_header() -> None:
    (line,) = csv.reader(io.StringIO(made("csv").decode()))
    assert line[:4] == ["id", "prompt_id", "index", "status"]


def test_rows_of_a_strange_shape_are_shown_as_they_are() -> None:
    (line,) = table(made("csv", row({"id": 5, "vars": [1], "output": "x", "usage": 3, "key": None})))
    assert line["id"] == "5"


def test_a_value_nested_deeper_than_the_stack_is_named_and_nothing_else_is_lost() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    (line,) = table(made("csv", replace(chat_row(), fields={**chat_row().fields, "vars": {"deep": deep}})))
    assert (line["vars.deep"], line["output.text"]) == ('"nested too deep"', "an answer")
