"""The render boundary: what reaches a terminal is visible, and stays on its line."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.report.wording import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a golden cat", "a golden cat"),
        ("金色的猫 🐈", "金色的猫 🐈"),
        ("می‌خواهم", "می‌خواهم"),
        ("👩‍🚀", "👩‍🚀"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b31mred", "\\x9b31mred"),
        ("one\ntwo\rthree\tfour", "one\\ntwo\\rthree\\tfour"),
        ("abc\u202egnp.exe", "abc\\u202egnp.exe"),
        ("\u2066isolated\u2069", "\\u2066isolated\\u2069"),
        ("new\u2028line\u2029s", "new\\u2028line\\u2029s"),
        ("half \ud83d pair", "half \\ud83d pair"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("\x00\x07\x08\x7f", "\\x00\\x07\\x08\\x7f"),
    ],
)
def test_control_and_bidi_characters_become_visible_and_letters_stay(text: str, shown: str) -> None:
    """Threat 13: the table."""
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_any_text_comes_out_as_one_line_that_steers_nothing(text: str) -> None:
    """Threat 13."""
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode("utf-8")


def test_a_long_text_is_cut_where_asked() -> None:
    assert printable("x" * 50, most=10) == "x" * 9 + "…"
    assert printable("x" * 10, most=10) == "x" * 10
