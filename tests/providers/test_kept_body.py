"""Requests that share all but their last turn are the same bytes as if each had been encoded by itself."""

from unittest.mock import patch

import pytest
from hypothesis import given, strategies

from batchrunner.core.http import Request
from batchrunner.core.item import InputPicture, Item
from batchrunner.core.job import DialectName, Json, Turn
from batchrunner.core.outcome import Correction, Revision
from batchrunner.providers import dialect_for
from batchrunner.providers.json_bodies import KeptBody
from batchrunner.providers.json_bodies import encode as unpatched
from tests.providers.reading import item, provider

NAMES: list[DialectName] = ["openai-chat", "openai-responses", "anthropic-messages"]
PARAMS: list[dict[str, Json]] = [{}, {"temperature": 1}, {"temperature": 1.0}, {"temperature": True}, {"stop": ["\0"]}]
LEADS: list[tuple[Turn, ...]] = [
    (),
    (Turn(role="system", content="Be short."),),
    (Turn(role="system", content="Be kind."),),
    (Turn(role="user", content="a"), Turn(role="assistant", content="b")),
    (Turn(role="user", content="a", raw={"role": "user", "content": "a", "name": "n"}),),
]
PICTURE = InputPicture(name="a.png", sha256="0" * 64, url="data:image/png;base64,AAAA")
REVISIONS = [
    Revision(),
    Revision(adapted=frozenset({"no_stream"})),
    Revision(correction=Correction(said="a", fault="b")),
]


def alone(name: DialectName, asked: Item, revision: Revision) -> Request:
    with patch.object(KeptBody, "_framed", lambda *_: None):
        return dialect_for(provider("simulator", name)).encode(asked, revision)


@pytest.mark.parametrize("name", NAMES)
@given(
    asked=strategies.lists(
        strategies.tuples(
            strategies.sampled_from(PARAMS),
            strategies.sampled_from(LEADS),
            strategies.one_of(strategies.text(), strategies.sampled_from(["\0the last turn\0", "\ud83d", 'a"b'])),
            strategies.sampled_from(["user", "user", "user", "assistant"]),
            strategies.sampled_from([(), (), (), (PICTURE,)]),
            strategies.booleans(),
            strategies.sampled_from(["m", "n"]),
            strategies.sampled_from([REVISIONS[0], *REVISIONS]),
        ),
        max_size=8,
    )
)
def test_whatever_went_before_a_request_has_the_bytes_that_it_has_alone(
    name: DialectName,
    asked: list[tuple[dict[str, Json], tuple[Turn, ...], str, str, tuple[InputPicture, ...], bool, str, Revision]],
) -> None:
    dialect = dialect_for(provider("simulator", name))
    for params, lead, text, role, pictures, stream, model, revision in asked:
        turns = (*lead, Turn(role=role, content=text))
        one = item(text, turns=turns, pictures=pictures, stream=stream, model=model)
        one.params = params
        assert dialect.encode(one, revision) == alone(name, one, revision)


@pytest.mark.parametrize("name", NAMES)
def test_what_requests_have_in_common_is_encoded_once(name: DialectName) -> None:
    dialect = dialect_for(provider("simulator", name))
    params: dict[str, Json] = {"temperature": 0}
    with patch("batchrunner.providers.json_bodies.encode", side_effect=unpatched) as encode:
        for number in range(100):
            one = item(f"number {number}")
            one.params = params
            assert f"number {number}".encode() in (dialect.encode(one, Revision()).body or b"")
    wholes = [call for call in encode.call_args_list if not isinstance(call.args[0], str)]
    assert len(wholes) == 2
