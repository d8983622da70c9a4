"""Keys do not show themselves."""

import pickle

import pytest

from batchrunner.transport import Secret, clean_key, mask, read_keys

KEY = "ms-01234567-89ab-cdef"


@pytest.mark.parametrize(
    "pasted",
    [
        KEY,
        f"  {KEY}\n",
        f'"{KEY}"',
        f"'{KEY}' ",
        f"“{KEY}”",
        f"Bearer {KEY}",
        f"bearer  {KEY}\r\n",
        f'"Bearer {KEY}"',
        f'Bearer "{KEY}"',
        f"Authorization: Bearer {KEY}",
        f"\ufeff{KEY}".replace("\ufeff", "\u2003"),
    ],
)
def test_what_pasting_adds_is_taken_off(pasted: str) -> None:
    assert clean_key(pasted) == KEY


def test_a_key_that_merely_contains_the_word_is_left_alone() -> None:
    assert clean_key("sk-bearer 1") == "sk-bearer 1"
    assert clean_key("") == ""


def test_no_way_of_printing_shows_a_secret() -> None:
    """Threat 2."""
    secret = Secret(KEY)
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        f"{secret!r:>9}",
        repr({"k": secret}),
        "{}".format(secret),  # noqa: UP032 - one of the ways
    ):
        assert KEY not in shown
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret.reveal() == KEY


def test_every_missing_or_broken_key_is_a_mistake_that_names_the_variable_and_not_the_key() -> None:
    environ = {"A": f" {KEY} ", "B": "", "C": "two words", "D": "schlüssel"}
    keys, mistakes = read_keys(["A", "B", "C", "D", "E"], environ)
    assert {name: secret.reveal() for name, secret in keys.items()} == {"A": KEY}
    assert [mistake.problem.split(" ")[0] for mistake in mistakes] == ["the", "the", "the", "E"]
    text = "\n".join(map(str, mistakes))
    assert "variable B is empty" in text
    assert "export E=YOUR_KEY" in text
    assert "two words" not in text
    assert "schlüssel" not in text


def test_known_keys_are_masked_in_any_text_the_longest_first() -> None:
    secrets = [Secret(KEY), Secret(KEY + "-longer"), Secret("EMPTY"), Secret("")]
    assert mask(f"a {KEY}-longer b {KEY} c{KEY}c EMPTY", secrets) == "a *** b *** c***c EMPTY"
