"""Parameters that are templates over the rows of a source: types are kept, faults are bad rows, keys follow values."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.job import ListedPrompt
from batchrunner.prompts import items_of
from batchrunner.prompts.variants import literal_braces
from tests.prompts.jobs import items, job_of, listing, mistake, mistakes, picture_job, source, stream

ROWS = (
    '{"prompt": "a", "t": 0.2, "n": 5, "on": true, "none": null, "tags": ["x", 1], "deep": {"k": [1]}, "text": "hi"}\n'
    '{"prompt": "a", "t": 0.8, "n": 6, "on": false, "none": null, "tags": [], "deep": {}, "text": "ho"}\n'
)


def params(tmp_path: Path, given: dict[str, Any], rows: str = ROWS, **changes: Any) -> list[dict[str, Any]]:
    return [item.params for item in items(job_of(source(tmp_path / "a.jsonl", rows), params=given, **changes))]


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("{{ t }}", [0.2, 0.8]),
        (" {{ n }} ", [5, 6]),
        ("{{- n -}}", [5, 6]),
        ("{{ on }}", [True, False]),
        ("{{ none }}", [None, None]),
        ("{{ tags }}", [["x", 1], []]),
        ("{{ deep }}", [{"k": [1]}, {}]),
        ("{{ text }}", ["hi", "ho"]),
        ("{{ n * 2 }}", [10, 12]),
        ("{{ n | float }}", [5.0, 6.0]),
        ("{{ 'high' if t > 0.5 else 'low' }}", ["low", "high"]),
        ("{{ '}}' }}", ["}}", "}}"]),
        ("{{ row }}", [1, 2]),
        ("{{ text }} {{ n }}", ["hi 5", "ho 6"]),
        ("seed {{ n }}", ["seed 5", "seed 6"]),
        ("{% if on %}yes{% else %}no{% endif %}", ["yes", "no"]),
        ("{no template}", ["{no template}"] * 2),
        ("{# kept", ["{# kept"] * 2),
        (7, [7, 7]),
    ],
)
def test_a_value_is_filled_from_the_row_and_keeps_its_type(tmp_path: Path, template: object, values: object) -> None:
    found = [each["x"] for each in params(tmp_path, {"x": template})]
    assert json.dumps(found) == json.dumps(values)


def test_values_deep_inside_are_filled_too_and_other_values_stay(tmp_path: Path) -> None:
    given = {"response_format": {"type": "json", "seeds": ["{{ n }}", 1, {"k": "v{{ n }}"}]}, "top_p": 0.5}
    assert params(tmp_path, given)[0] == {
        "response_format": {"type": "json", "seeds": [5, 1, {"k": "v5"}]},
        "top_p": 0.5,
    }


def test_rows_that_differ_in_a_parameter_alone_are_different_items(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", ROWS)
    assert len({item.key for item in items(job_of(rows, params={"temperature": "{{ t }}"}))}) == 2
    assert len({item.key for item in items(job_of(rows, params={"temperature": "{{ 1 }}"}))}) == 1


def test_a_name_of_the_matrix_in_a_parameter_is_a_variable(tmp_path: Path) -> None:
    found = params(tmp_path, {"stop": "{{ word }}-{{ n }}"}, matrix={"word": ("A", "B")})
    assert found == [{"stop": "A-5"}, {"stop": "B-5"}, {"stop": "A-6"}, {"stop": "B-6"}]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ nt }}", "a.jsonl:1: params.x: the template uses `nt`, which is unknown here"),
        ("a {{ none }}", "a.jsonl:1: params.x: the template cannot be filled: a value that it uses is null"),
        ("{{ text * 1000000000 }}", "a.jsonl:1: params.x: "),
        ("{{ 1 / 0 }}", "a.jsonl:1: params.x: the template cannot be filled: ZeroDivisionError"),
        ("{{ text.upper }}", "a.jsonl:1: params.x: the template cannot be filled: "),
        ("{{ text.__class__ }}", "a.jsonl:1: params.x: the template cannot be filled: "),
        ("{{ t", "job.yaml: params.x: not a valid template"),
        ("{{ t }} {% include 'x' %}", "job.yaml: params.x: "),
    ],
)
def test_a_parameter_that_cannot_be_filled_is_reported_with_row_and_key(
    tmp_path: Path, template: str, says: str
) -> None:
    found = mistakes(job_of(source(tmp_path / "a.jsonl", ROWS), params={"x": template}))
    assert any(str(each).startswith(says) or (says in str(each) and "nt" in template) for each in found), found


def test_a_row_that_cannot_fill_a_parameter_is_skipped_where_the_job_asks_for_it(tmp_path: Path) -> None:
    rows = '{"prompt": "a", "n": 0}\n{"prompt": "b", "n": 2}\n'
    every = items_of(job_of(source(tmp_path / "a.jsonl", rows, on_bad_row="skip"), params={"x": "{{ 4 // n }}"}))
    assert [(item.prompt, item.params) for item in stream(every)] == [("b", {"x": 2})]
    assert every.skipped[0].key == "params.x"


def test_the_rules_of_pictures_hold_for_filled_parameters(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", '{"prompt": "cat", "s": "64x64"}\n{"prompt": "cat", "s": "huge"}\n')
    said = mistake(picture_job(rows, params={"size": "{{ s }}"}, models=("Qwen/Qwen-Image",)))
    assert said.startswith("a.jsonl:2: params.size: `size` is huge")


def test_in_a_list_of_prompts_braces_are_sent_as_they_stand_and_named() -> None:
    prompts = listing(ListedPrompt(prompt="a", params={"stop": ["{{ x }}"]}))
    job = job_of(prompts, params={"prefix": "{{ y }}"}, matrix={"m": ("{% z %}",)})
    assert items(job)[0].params == {"prefix": "{{ y }}", "stop": ["{{ x }}"], "m": "{% z %}"}
    (note,) = literal_braces(job)
    assert note.startswith("matrix.m[0] and 2 more: the braces are sent literally")
    assert literal_braces(job_of(prompts.__class__(entries=()), params={"a": "{x}"})) == ()
