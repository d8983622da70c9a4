"""What each kind of check says of an answer: pass, fail, error (the check broke) or none (it does not apply)."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.checks import Score, Verdict, checks_digest, passes
from batchrunner.core.job import CHECK_KINDS, Check, CheckKind, Json
from batchrunner.evaluation.check_kinds import CheckBrokenError, is_path, score_of


class Outside:
    """A world in which patterns end, functions are given, and pictures are what the test says."""

    def __init__(self, *, said: Json = None, pictures: Mapping[str, Score] | None = None) -> None:
        self.said = said
        self.pictures = pictures or {}

    def python(self, place: str, row: Mapping[str, Json]) -> Json:
        del row
        if place == "broken.py:f":
            raise CheckBrokenError("NameError: x")
        return self.said

    def search(self, pattern: str, text: str) -> list[str | None] | None:
        found = re.search(pattern, text)
        return None if found is None else [found.group(), *found.groups()]

    def json_in(self, text: str) -> tuple[bool, Json]:
        return (True, {"total": 12, "items": [{"a b": True}], "none": None}) if text == "JSON" else (False, None)

    def picture(self, name: str, row: Mapping[str, Json]) -> Score:
        del row
        return self.pictures.get(name, Score(verdict="none"))


def verdict(
    kind: CheckKind,
    expected: Json,
    answer: Json,
    *,
    outside: Outside | None = None,
    negated: bool = False,
    **options: Any,
) -> Verdict:
    row: dict[str, Json] = {"output": {"text": answer}, "seconds": 3.0, "usage": {"output_tokens": 40}}
    check = Check(name="it", kind=kind, negated=negated)
    return score_of(check, row, expected=expected, options=options, outside=outside or Outside()).verdict


CASES: list[tuple[CheckKind, Json, Json, dict[str, Json], Verdict]] = [
    ("equals", "Paris", " Paris\n", {}, "pass"),
    ("equals", "Paris", "paris", {}, "fail"),
    ("equals", "Paris", "paris", {"ignore_case": True}, "pass"),
    ("equals", "caf\u00e9", "cafe\u0301", {}, "pass"),
    ("equals", "", "", {}, "pass"),
    ("equals", "", None, {}, "none"),
    ("equals", None, "null", {}, "error"),
    ("number", None, "7", {}, "error"),
    ("regex", r"x(\d)", "x7", {"equals": None}, "error"),
    ("contains", ["a", "b"], "b a", {}, "pass"),
    ("contains", ["a", "b"], "a", {}, "fail"),
    ("any", ["a", "b"], "a", {}, "pass"),
    ("any", ["a", "b"], "c", {}, "fail"),
    ("any", ["A"], "a", {"ignore_case": True}, "pass"),
    ("regex", r"x(\d)", "x7", {}, "pass"),
    ("regex", r"x(\d)", "y7", {}, "fail"),
    ("regex", r"x(\d)", "x7", {"equals": "7"}, "pass"),
    ("regex", r"x(\d)", "x7", {"equals": "8"}, "fail"),
    ("regex", r"x(\d)?", "x", {"equals": "7"}, "fail"),
    ("regex", "AN AI", "as an ai", {"ignore_case": True}, "pass"),
    ("regex", "(?x) an \\s ai", "AS AN AI", {"ignore_case": True}, "pass"),
    ("within", None, "any", {"seconds": "soon"}, "error"),
    ("number", "18", "it is $18.00.", {}, "pass"),
    ("number", 18, "it is 19", {}, "fail"),
    ("number", "18", "it is 18.5", {"within": 0.5}, "pass"),
    ("number", "200", "it is 203", {"within": "1%"}, "fail"),
    ("number", "200", "it is 202", {"within": "1%"}, "pass"),
    ("number", "18", "no idea", {}, "fail"),
    ("number", "18", "10 000", {}, "error"),
    ("number", "none", "18", {}, "error"),
    ("number", "18", None, {}, "none"),
    ("json", "$.total", "JSON", {}, "pass"),
    ("json", "$.total", "words", {}, "fail"),
    ("json", "$.total", "JSON", {"equals": 12}, "pass"),
    ("json", "$.total", "JSON", {"equals": "12"}, "pass"),
    ("json", "$.total", "JSON", {"equals": 13}, "fail"),
    ("json", "$.items[0]['a b']", "JSON", {"equals": True}, "pass"),
    ("json", "$.items[0]['a b']", "JSON", {"equals": 1}, "fail"),
    ("json", "$.items[1]", "JSON", {}, "fail"),
    ("json", "$.none", "JSON", {}, "pass"),
    ("json", "$.nothing", "JSON", {"present": False}, "pass"),
    ("json", "$.total", "JSON", {"schema": {"type": "integer"}}, "pass"),
    ("json", "$.total", "JSON", {"schema": {"type": "string"}}, "fail"),
    ("json", "$.nothing", "JSON", {"schema": {"type": "string"}}, "fail"),
    ("length", None, "four words are here", {"words": [4, 4]}, "pass"),
    ("length", None, "four words are here", {"words": [5, None]}, "fail"),
    ("length", None, "\u4f60\u597d", {"chars": [None, 2]}, "pass"),
    ("length", None, "any", {"tokens": [40, 40]}, "pass"),
    ("within", None, "any", {"seconds": 3.0}, "pass"),
    ("within", None, "any", {"seconds": 2.9}, "fail"),
    ("within", None, "any", {"seconds": 4.0, "output_tokens": 39}, "fail"),
    ("within", None, "any", {"input_tokens": 39}, "none"),
    ("python", "broken.py:f", "any", {}, "error"),
]


@pytest.mark.parametrize(("kind", "expected", "answer", "options", "wanted"), CASES)
def test_a_check_gives(kind: CheckKind, expected: Json, answer: Json, options: dict[str, Any], wanted: Verdict) -> None:
    assert verdict(kind, expected, answer, **options) == wanted


@pytest.mark.parametrize(("kind", "expected", "answer", "options", "wanted"), CASES)
def test_not_turns_pass_and_fail_and_nothing_else(
    kind: CheckKind, expected: Json, answer: Json, options: dict[str, Any], wanted: Verdict
) -> None:
    turned: dict[Verdict, Verdict] = {"pass": "fail", "fail": "pass"}
    assert verdict(kind, expected, answer, negated=True, **options) == turned.get(wanted, wanted)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (True, "pass"),
        (False, "fail"),
        (1, "pass"),
        (0.4, "fail"),
        ({"pass": True, "score": 0.2}, "pass"),
        ({"score": 0.2}, "fail"),
        ({"score": 1}, "pass"),
        ({"pass": False, "reason": "rude"}, "fail"),
        (None, "none"),
        ({}, "error"),
        ("yes", "error"),
        ([1], "error"),
        (float("nan"), "error"),
        (10**400, "error"),
        ({"score": float("inf")}, "error"),
        ({"pass": True, "score": float("nan")}, "error"),
    ],
)
def test_what_a_function_gives_is_a_verdict_or_an_error(said: Json, wanted: Verdict) -> None:
    assert verdict("python", "mine.py:f", "any", outside=Outside(said=said)) == wanted


@pytest.mark.parametrize(
    ("found", "wanted", "says"), [("pass", True, "pass"), ("pass", False, "fail"), ("fail", False, "pass")]
)
def test_a_picture_must_be_what_is_asked(*, found: Verdict, wanted: bool, says: Verdict) -> None:
    outside = Outside(pictures={"blank": Score(verdict=found)})
    assert verdict("picture", None, None, outside=outside, blank=wanted) == says


def test_pictures_that_cannot_be_looked_at_are_an_error_and_none_are_none() -> None:
    outside = Outside(pictures={"blank": Score(verdict="error", reason="not there")})
    assert verdict("picture", None, None, outside=outside, blank=False) == "error"
    assert verdict("picture", None, None, blank=False, aspect=True) == "none"


@pytest.mark.parametrize(
    ("path", "good"),
    [("$", True), ("$.a[0].b", True), ("$['a b']", True), ("a", False), ("$.a[x]", False), ("$..a", False)],
)
def test_a_path_is_names_and_places(*, path: str, good: bool) -> None:
    assert is_path(path) is good


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(
    st.sampled_from([kind for kind in CHECK_KINDS if kind not in ("regex", "length")]),
    JSON,
    JSON,
    st.dictionaries(st.text(), JSON, max_size=3),
)
def test_whatever_stands_in_a_row_a_check_has_a_verdict(
    kind: CheckKind, expected: Json, output: Json, row: dict[str, Json]
) -> None:
    check = Check(name="it", kind=kind)
    options: dict[str, Json] = {"seconds": 3.0} if kind == "within" else {}
    shown = {**row, "output": {"text": output, "parsed": output}}
    wanted = "$" if kind == "json" else expected
    score = score_of(check, shown, expected=wanted, options=options, outside=Outside())
    assert score.verdict in ("pass", "fail", "error", "none")


CHECKS = (Check(name="one", kind="any"), Check(name="two", kind="any"), Check(name="shown", kind="any", counts=False))


@pytest.mark.parametrize(
    ("verdicts", "truncated", "wanted"),
    [
        (("pass", "pass", "fail"), False, True),
        (("pass", "none", "fail"), False, True),
        (("pass", "fail", "pass"), False, False),
        (("error", "fail", "pass"), False, False),
        (("error", "pass", "pass"), False, None),
        (("none", "none", "pass"), False, None),
        (("pass", "pass", "pass"), True, None),
    ],
)
def test_an_item_passes_by_the_checks_that_count(
    *, verdicts: tuple[Verdict, ...], truncated: bool, wanted: bool | None
) -> None:
    assert passes(CHECKS, [Score(verdict=one) for one in verdicts], truncated=truncated) is wanted


def test_the_digest_changes_with_any_check() -> None:
    assert len({checks_digest(CHECKS), checks_digest(CHECKS[:2]), checks_digest(CHECKS[::-1])}) == 3
