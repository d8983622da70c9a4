"""Text that UTF-8 cannot hold, and byte order marks."""

import pytest

from batchrunner.core.text import has_surrogate, marked_encoding, repaired, without_lone_surrogates


@pytest.mark.parametrize(
    ("text", "whole"), [("a\ud83d\ude00b", "a😀b"), ("a\ud83db", "a\ufffdb"), ("\ude00\ud83d", "\ufffd\ufffd")]
)
def test_surrogates_side_by_side_become_a_character_and_lone_ones_a_replacement(text: str, whole: str) -> None:
    assert has_surrogate(text)
    assert without_lone_surrogates(text) == whole


@pytest.mark.parametrize("text", ["", "plain", "Größe", "你好", "😀", "\ufffd"])
def test_text_that_utf_8_can_hold_is_given_back_as_it_is(text: str) -> None:
    assert without_lone_surrogates(text) is text
    assert not has_surrogate(text)


def test_every_text_and_every_name_of_a_value_is_repaired() -> None:
    value = {"\ud83d": ["\ude00", ("\ud83d\ude00", 1.5, None, True)]}
    assert repaired(value) == {"\ufffd": ["\ufffd", ["😀", 1.5, None, True]]}  # type: ignore[arg-type]  # a tuple, as rows have them


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_states_what_a_file_is_decoded_from(encoding: str) -> None:
    assert marked_encoding("prompts".encode(encoding)) == encoding
    assert marked_encoding("prompts".encode("utf-8-sig")) is None
    assert marked_encoding(b"") is None
