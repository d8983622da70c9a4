"""Keys do not show themselves."""

import base64
import json
import pickle
from collections.abc import Callable
from urllib.parse import quote

import pytest

from batchrunner.core.text import MASK
from batchrunner.transport import Secret, clean_key, mask
from batchrunner.transport.secrets import masked
from tests.support.growth import assert_linear

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


def test_known_keys_are_masked_in_any_text_the_longest_first() -> None:
    secrets = [Secret(KEY), Secret(KEY + "-longer"), Secret("EMPTY"), Secret("")]
    assert mask(f"a {KEY}-longer b {KEY} c{KEY}c EMPTY", secrets) == "a *** b *** c***c EMPTY"


ODD_KEY = "sk-ab/c+d_EF=0123456789"


def numbered(shape: str) -> str:
    return "".join(shape.format(ord(char)) for char in ODD_KEY)


ENCODED = {
    "percent": quote(ODD_KEY, safe=""),
    "percent, slashes left": quote(ODD_KEY),
    "percent twice": quote(quote(ODD_KEY, safe=""), safe=""),
    "percent, every character": numbered("%{:02x}"),
    "percent in capitals": numbered("%{:02X}"),
    "JSON slashes": ODD_KEY.replace("/", r"\/"),
    "JSON in JSON": json.dumps(json.dumps(ODD_KEY.replace("/", r"\/"))),
    "JSON numbers": numbered(r"\u{:04x}"),
    "some JSON numbers": ODD_KEY.replace("-", r"\u002d").replace("/", r"\u002F"),
    "HTML numbers": numbered("&#{};"),
    "HTML hex numbers": numbered("&#x{:X};"),
    "HTML, punctuation only": ODD_KEY.replace("/", "&#x2F;").replace("=", "&#61;"),
    "HTML names": ODD_KEY.replace("/", "&sol;").replace("+", "&plus;"),
    "HTML twice": ODD_KEY.replace("/", "&amp;#47;"),
    "hex": ODD_KEY.encode().hex(),
    "URL-safe base64": base64.urlsafe_b64encode(ODD_KEY.encode()).decode(),
    **{
        f"base64 behind {before!r}": base64.b64encode(before + ODD_KEY.encode() + b"xy").decode()
        for before in (b"", b"a", b"ab", b"user:", b"Bearer ")
    },
}


@pytest.mark.parametrize("name", ENCODED)
def test_a_key_is_masked_however_it_is_encoded(name: str) -> None:
    said = f'{{"detail": "no such key {ENCODED[name]} here"}}'
    shown = mask(said, [Secret(ODD_KEY)])
    assert MASK in shown
    assert len(shown) < len(said) - len(ODD_KEY) + len(MASK) + 2, shown
    assert masked({"a": [said]}, [Secret(ODD_KEY)]) != {"a": [said]}


def test_words_with_the_same_signs_stay_as_they_are() -> None:
    said = r"100 % of \n &amp; sk-ab/c &#115;k %73 \u0073"
    assert mask(said, [Secret(ODD_KEY)]) == said


@pytest.mark.parametrize(
    ("first", "repeated"),
    [("", r"The answer is 42 % of & things \n "), ("", "\\"), ("%", "25"), ("", "&amp;"), ("&#", "0"), ("", "%25")],
)
def test_a_text_is_read_in_time_that_grows_with_its_length(first: str, repeated: str) -> None:
    """A model in a loop writes nothing but escapes: with the square of the length that would stop all others."""

    def read(count: int) -> Callable[[], None]:
        said = first + repeated * count

        def work() -> None:
            assert mask(said, [Secret(ODD_KEY)]) == said

        return work

    assert_linear(read, 2_000)
