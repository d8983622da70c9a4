"""Names: slugs, automatic ids, file stems that are safe everywhere, and when two names are one."""

import re
import unicodedata
from hashlib import blake2b

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrunner.core.item import fold, safe_stem
from batchrunner.prompts.ids import auto_id, auto_ids, slug

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=400)
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A golden cat", "a-golden-cat"),
        ("  Élan, vital!  ", "elan-vital"),
        ("Qwen2.5-7B", "qwen2-5-7b"),
        ("猫", "item"),
        ("", "item"),
        ("\ud800", "item"),
        ("a" * 50, "a" * 40),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_slug_is_short_lower_case_ascii(text: str, expected: str) -> None:
    assert slug(text) == expected


@given(ANY_TEXT, st.integers(min_value=1, max_value=60))
def test_slug_of_any_text_is_one_or_more_slug_characters(text: str, limit: int) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(text, limit))
    assert len(slug(text, limit)) <= limit


def test_auto_id_is_the_slug_of_the_beginning_and_six_hex_digits() -> None:
    digest = blake2b(b"A golden cat", digest_size=3).hexdigest()
    assert auto_id("A golden cat") == f"a-golden-cat-{digest}" == "a-golden-cat-d7890f"


@given(ANY_TEXT)
def test_auto_id_of_any_text_is_stable_and_safe(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{6}", auto_id(text))
    assert auto_id(text) == auto_id(text)
    assert safe_stem(auto_id(text)) == auto_id(text)


_BEGINNINGS = st.sampled_from(
    ("", "Translate the following text into plain English, please: ", "a" * 59, " - " * 25, "né " * 15)
)


@given(st.lists(st.tuples(_BEGINNINGS, st.text(alphabet="ab -,é\u0301漢", max_size=50)), max_size=12))
def test_the_ids_of_many_texts_are_those_of_each(parts: list[tuple[str, str]]) -> None:
    texts = [beginning + rest for beginning, rest in parts]
    assert auto_ids(texts) == [auto_id(text) for text in texts]


def test_auto_ids_of_texts_with_the_same_beginning_differ() -> None:
    assert auto_id("x" * 500 + "1") != auto_id("x" * 500 + "2")


@given(ANY_TEXT)
@example("../../etc/passwd")
@example("/absolute")
@example("")
@example("..")
@example("a\0b")
@example("con/")
@example("nul.tar.gz")
@example("C:\\x")
@example("." * 300)
@example("猫" * 300)
@example("\u202egnp.exe")
@example("COM¹")
@example("_" * 119 + "é")
def test_safe_stem_of_any_text_is_one_safe_component(text: str) -> None:
    stem = safe_stem(text)
    assert 1 <= len(stem.encode()) <= 120
    assert not re.search(r'[/\\:*?"<>|\x00-\x1f\x7f\s]', stem)
    assert stem[0] not in ".-"
    assert stem[-1] != "."
    assert not RESERVED.match(stem)
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in stem)
    assert safe_stem(stem) == stem


@given(ANY_TEXT)
def test_safe_stem_leaves_space_for_a_suffix(text: str) -> None:
    stem = safe_stem(text, suffix="-0123abcd")
    assert stem.endswith("-0123abcd")
    assert len(stem.encode()) <= 120


@pytest.mark.parametrize("name", ["blue-seed1", "q17", "v1.2_final", "猫-1", "नमस्ते"])
def test_safe_stem_keeps_what_is_safe(name: str) -> None:
    assert safe_stem(name) == name


@pytest.mark.parametrize(
    ("one", "other"), [("Blue", "bLUE"), ("é", "e\u0301"), ("É", "e\u0301"), ("straße", "STRASSE")]
)
def test_fold_makes_case_and_unicode_twins_equal(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_fold_keeps_different_names_apart() -> None:
    assert fold("blue") != fold("blué")
