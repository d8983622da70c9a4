"""What is done with the rows of a source: lists to rows, repeated texts, groups, drawn values."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.job import Draw, Group, Sample
from tests.prompts.jobs import items, job_of, mistake, mistakes, source

Row = dict[str, Any]


def prompts(folder: Path, rows: list[Row], **keys: Any) -> list[str]:
    """What is asked about these rows."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    return [item.prompt for item in items(job_of(source(folder / "rows.jsonl", text, **keys)))]


def test_lists_become_rows_with_the_fields_of_their_entries(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"of": "a", "list": [{"q": 1}, {"q": 2, "of": "mine"}]},
        {"of": "b", "list": []},
        {"of": "c", "list": ["x"]},
    ]
    assert prompts(tmp_path, rows[:2], explode="list", template="{{ of }}{{ q }}{{ item.get('of', '') }}") == [
        "a1",
        "a2mine",
    ]
    job = job_of(source(tmp_path / "rows.jsonl", explode="list", template="{{ item }}"))
    assert [item.vars for item in items(job)] == [
        {"q": 1, "of": "a", "list": rows[0]["list"]},
        {"q": 2, "of": "a", "list": rows[0]["list"]},
    ]


def test_a_field_that_is_called_like_a_method_of_mappings_is_the_field(tmp_path: Path) -> None:
    rows = [{"parsed": {"items": ["a", "b"], "keys": 3}}]
    assert prompts(tmp_path, rows, explode="{{ parsed.items }}", template="{{ item }}{{ parsed.keys }}") == ["a3", "b3"]
    assert prompts(tmp_path, rows, template="{{ parsed.values() | list | length }}") == ["2"]


@pytest.mark.parametrize("value", ['"text"', "null", "3", '{"a": 1}'])
def test_what_is_no_list_cannot_become_rows(tmp_path: Path, value: str) -> None:
    job = job_of(
        source(tmp_path / "rows.jsonl", f'{{"list": []}}\n{{"list": {value}}}\n', explode="list", template="x")
    )
    assert "rows.jsonl:2: prompts.explode: gives " in mistake(job)
    assert "which is not a list" in mistake(job)


def test_a_template_that_no_row_can_fill_is_named_with_its_key_and_line(tmp_path: Path) -> None:
    for key in ("explode", "dedupe", "where"):
        job = job_of(source(tmp_path / "rows.jsonl", '{"a": 1}\n', template="x", **{key: "{{ nothing.at.all }}"}))
        assert f"rows.jsonl:1: prompts.{key}: " in mistake(job)
        assert f"prompts.{key}" in str(
            mistakes(job_of(source(tmp_path / "rows.jsonl", template="x", **{key: "{{ 1 + }}"})))[0]
        )


def test_texts_are_the_same_but_for_case_blanks_and_composed_accents(tmp_path: Path) -> None:
    texts = ["Straße  am\nSee", "strasse am see", "e\u0301te\u0301", "\u00c9t\u00c9", "etes", "Strasse"]
    found = prompts(tmp_path, [{"t": text} for text in texts], dedupe="t", template="{{ t }}")
    assert found == [texts[0], texts[2], texts[4], texts[5]]


def test_groups_are_full_first_and_what_is_left_of_each_value_comes_last(tmp_path: Path) -> None:
    rows = [{"n": n, "kind": "odd" if n % 2 else "even"} for n in range(1, 8)]
    keys: Row = {
        "group": Group(by="kind", size=2),
        "template": "{{ kind }} {{ rows | map(attribute='n') | join(',') }}",
    }
    assert prompts(tmp_path, rows, **keys) == ["odd 1,3", "even 2,4", "odd 5,7", "even 6"]
    assert prompts(tmp_path, [*rows, {"n": 8, "kind": "even"}], **keys) == [
        "odd 1,3",
        "even 2,4",
        "odd 5,7",
        "even 6,8",
    ]


def test_a_row_without_the_name_to_group_by_is_bad(tmp_path: Path) -> None:
    job = job_of(source(tmp_path / "rows.jsonl", '{"a": 1}\n', group=Group(by="b", size=2), template="x"))
    assert "rows.jsonl:1: prompts.group.by: there is no `b` to group by; expected one of `a`" in mistake(job)


def test_more_rows_leave_what_was_drawn_for_the_others(tmp_path: Path) -> None:
    draw = (Draw(name="x", values=tuple(range(1000))), Draw(name="y", values=("a", "b")))

    def drawn(count: int, seed: int = 0) -> list[str]:
        keys: Row = {"count": count, "draw": draw, "seed": seed, "template": "{{ x }}{{ y }}"}
        return [item.prompt for item in items(job_of(source(tmp_path / "none", **keys)))]

    assert drawn(200)[:100] == drawn(100)
    assert drawn(100) != drawn(100, seed=1)
    assert len(set(drawn(200))) > 150


def test_a_row_of_a_file_keeps_what_was_drawn_for_it_wherever_it_stands(tmp_path: Path) -> None:
    keys: Row = {"draw": (Draw(name="x", values=tuple(range(1000))),), "template": "{{ q }} {{ x }}"}
    rows = [{"q": n} for n in range(50)]
    assert sorted(prompts(tmp_path, rows, **keys)) == sorted(prompts(tmp_path, rows[::-1], **keys))


def test_several_values_that_are_drawn_at_a_time_are_different_and_equally_likely(tmp_path: Path) -> None:
    draw = (Draw(name="x", path=str(tmp_path / "pool.txt"), shown="pool.txt", size=3),)
    (tmp_path / "pool.txt").write_text("a\nb\nc\nd\ne\n")
    job = job_of(source(tmp_path / "none", count=2000, draw=draw, template="{{ x | join('') }}"))
    found = [item.prompt for item in items(job)]
    assert {len(set(text)) for text in found} == {3}
    counts = [sum(letter in text for text in found) for letter in "abcde"]
    assert all(1100 < count < 1300 for count in counts), counts


@pytest.mark.parametrize(
    ("content", "column", "size", "words"),
    [
        (None, None, None, "pool.csv cannot be read"),
        ("q\n", None, None, "pool.csv has no rows"),
        ("q\na\n", None, 2, "draws 2 of 1 values"),
        ("q\na\n", "r", None, "has no column `r`, only `q`"),
        ('q\n"a\n', None, None, "pool.csv"),
    ],
)
def test_what_cannot_be_drawn_from_is_named(
    tmp_path: Path, content: str | None, column: str | None, size: int | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "pool.csv").write_text(content)
    draw = (Draw(name="x", path=str(tmp_path / "pool.csv"), shown="pool.csv", column=column, size=size),)
    assert words in mistake(job_of(source(tmp_path / "none", count=2, draw=draw, template="{{ x }}")))


def test_a_sample_takes_all_rows_of_a_value_or_none(tmp_path: Path) -> None:
    rows = [{"n": n, "of": n % 10} for n in range(100)]
    found = prompts(tmp_path, rows, sample=Sample(n=3, by="of"), template="{{ of }}")
    assert len(found) == 30
    assert len(set(found)) == 3


def test_a_source_of_which_nothing_is_left_states_why(tmp_path: Path) -> None:
    job = job_of(source(tmp_path / "rows.jsonl", '{"a": 1}\n{"a": 2}\n', where="a > 5", template="x"))
    assert "has no rows but 2 for which `where` does not hold" in mistake(job)
