"""Conditions over rows: which names they have, and what is true."""

from typing import Any

import pytest

from batchrunner.prompts.render import TemplateFault
from batchrunner.prompts.row_condition import RowCondition, row_values

ROW: dict[str, Any] = {
    "id": "q1-x",
    "prompt_id": "q1",
    "model": "x",
    "vars": {"text": "a column", "n": 3},
    "output": {"text": "eighteen", "parsed": {"total": 12}, "truncated": False, "images": [{"path": "images/a.png"}]},
}
SCORE: dict[str, Any] = {"pass": False, "scores": {"number": {"verdict": "fail", "value": 18.0}}}


@pytest.mark.parametrize(
    "text",
    [
        "{{ not pass and model == 'x' }}",
        "not pass",
        "pass == false",
        "score.number > 17",
        "verdict.number == 'fail'",
        "text == 'eighteen' and vars.text == 'a column' and n == 3",
        "parsed.total == 12",
        "image == 'images/a.png' and images | length == 1",
        "{% if prompt_id == 'q1' %}yes{% endif %}",
    ],
)
def test_a_condition_reads_the_row_its_answer_its_columns_and_its_scores(text: str) -> None:
    values = row_values(ROW, SCORE)
    assert RowCondition(text).holds(values)
    opposite = f"not ({text})" if "{" not in text else "{{ not (" + text.strip("{} ") + ") }}"
    assert "%" in text or not RowCondition(opposite).holds(values)


def test_a_row_without_a_verdict_neither_passes_nor_fails() -> None:
    unscored: list[dict[str, Any] | None] = [None, {"pass": None, "scores": {}}]
    for score in unscored:
        values = row_values(ROW, score)
        assert RowCondition("pass is none").holds(values)
        assert not RowCondition("pass").holds(values)
        assert not RowCondition("pass == false").holds(values)


def test_a_failed_item_has_the_names_of_an_answer_with_nothing_in_them() -> None:
    failed: dict[str, Any] = {"id": "a", "vars": {}, "error": {"class": "timeout"}}
    assert RowCondition("error.class == 'timeout' and text is none and not images").holds(row_values(failed))


def test_only_conditions_over_scores_need_scores() -> None:
    assert RowCondition("not pass").needs_scores
    assert RowCondition("score.x > 1").needs_scores
    assert not RowCondition("text == 'pass'").needs_scores


@pytest.mark.parametrize("text", ["passed", "score.mumber > 1", "model +", "parsed.total.x.y"])
def test_a_name_that_no_row_has_and_what_is_no_expression_are_faults(text: str) -> None:
    with pytest.raises(TemplateFault):
        RowCondition(text).holds(row_values(ROW, SCORE))
