"""Keys: what is in them, what is not, and that no text breaks them."""

import re
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.item import digest
from batchrunner.core.job import Json, Turn
from batchrunner.prompts.ids import item_key

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def key(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "dialect": "openai-chat",
        "model": "a/One",
        "turns": (Turn(role="user", content="Hello"),),
        "params": {"seed": 1, "size": "1x1"},
    }
    return item_key(**{**fields, **changes})


def test_the_algorithm_does_not_change_by_accident() -> None:
    canonical = (
        '{"dialect":"openai-chat","model":"a/One","params":{"seed":1,"size":"1x1"},"pictures":[],"replica":1,'
        '"schema":null,"turns":[["user","Hello"]],"version":1}'
    )
    assert key() == blake2b(canonical.encode(), digest_size=16).hexdigest() == "09f9b1b0ddc5620640a93d459ef2b007"


@pytest.mark.parametrize(
    "change",
    [
        {"dialect": "anthropic-messages"},
        {"model": "a/Two"},
        {"turns": (Turn(role="user", content="Hello!"),)},
        {"turns": (Turn(role="system", content="Hello"),)},
        {"turns": (Turn(role="user", content="Hel"), Turn(role="user", content="lo"))},
        {"params": {"seed": 2, "size": "1x1"}},
        {"params": {"seed": 1.0, "size": "1x1"}},
        {"params": {"seed": "1", "size": "1x1"}},
        {"pictures_sha256": ("00",)},
        {"schema_digest": digest({"type": "object"})},
        {"replica": 2},
    ],
)
def test_everything_that_decides_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_the_order_of_parameters_does_not_change_the_key() -> None:
    assert key(params={"size": "1x1", "seed": 1}) == key()


@given(st.text(alphabet=st.characters(exclude_categories=())), st.dictionaries(st.text(), JSON, max_size=4))
def test_any_text_and_any_parameters_have_a_stable_key(text: str, params: dict[str, Json]) -> None:
    turns = (Turn(role="user", content=text),)
    found = key(turns=turns, params=params)
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert found == key(turns=turns, params=dict(reversed(params.items())))


def test_lone_surrogates_are_distinguished() -> None:
    turns = [(Turn(role="user", content=text),) for text in ("\ud800", "\udfff", "?", "\ufffd")]
    assert len({key(turns=turn) for turn in turns}) == 4
