"""The dialect of embeddings: each text gets its own vector or its own trouble, whatever the reply looks like."""

import json
import math
import struct
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.job import Json
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision, Usage
from batchrunner.providers.openai_embeddings import OpenAiEmbeddings, shares_of
from tests.providers.reading import head, item, provider, read_every_way

MODELSCOPE = OpenAiEmbeddings(provider("modelscope", "openai-embeddings"))
TEXTS = [item("aa"), item("bbbb"), item("cc")]
V, W, X = [0.5, -1.0], [0.25, 2.0], [1.0, 0.0]


def entry(index: float | None, vector: Any, **more: Json) -> dict[str, Json]:
    return {**({} if index is None else {"index": index}), "embedding": vector, "object": "embedding", **more}


def packed(vector: list[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def outcome(data: Json, *, usage: Json = None, params: dict[str, Json] | None = None, body: bytes | None = None) -> Any:
    """What a reply to the three texts comes to."""
    said = {"object": "list", "data": data, "usage": usage or {"prompt_tokens": 10, "total_tokens": 10}}
    texts = [item(text.prompt, params=params) for text in TEXTS]
    return read_every_way(lambda: MODELSCOPE.decoder_of_all(texts), head(), body or json.dumps(said).encode())


def vectors(parts: tuple[Answer | Problem, ...]) -> list[list[float] | str]:
    return [list(part.embedding) if isinstance(part, Answer) else part.message for part in parts]


def test_a_request_names_the_encoding_and_has_the_parameters_as_they_are() -> None:
    texts = [item(text.prompt, params={"dimensions": 2, "input_type": "query"}) for text in TEXTS]
    request = MODELSCOPE.encode_all(texts)
    assert request.url == "http://127.0.0.1:8000/v1/embeddings"
    assert json.loads(request.body or b"") == {
        "model": "Qwen/Qwen3-8B",
        "input": ["aa", "bbbb", "cc"],
        "encoding_format": "float",
        "dimensions": 2,
        "input_type": "query",
    }
    asked = MODELSCOPE.encode(item("a", params={"encoding_format": "base64"}), Revision())
    assert json.loads(asked.body or b"")["encoding_format"] == "base64"


@pytest.mark.parametrize(
    "data",
    [
        [entry(0, V), entry(1, W), entry(2, X)],
        [entry(2, X), entry(0, V), entry(1, W)],
        [entry(None, V), entry(None, W), entry(None, X)],
        [entry(0, packed(V)), entry(1, W), entry(2, packed(X))],
        [entry(0, V), entry(1, W), entry(2, X), entry(3, V)],
        [entry(0.0, V), entry(1, [0.25, 2]), entry(2, [1, 0])],
    ],
)
def test_a_vector_is_its_text_s_by_the_index_and_in_either_encoding(data: Json) -> None:
    assert vectors(outcome(data)) == [V, W, X]


def test_base64_is_read_as_the_numbers_that_the_bytes_are() -> None:
    third = struct.unpack("<f", struct.pack("<f", 1 / 3))[0]
    assert vectors(outcome([entry(0, packed([1 / 3, 0.1])), entry(1, W), entry(2, X)]))[0][0] == third


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "no vector for this text"),
        ([entry(2, X), entry(2, X)], "several vectors for this text"),
        ([entry(2, None)], "no numbers for this text"),
        ([entry(2, [])], "no numbers for this text"),
        ([entry(2, [1.0, None])], "something else than numbers"),
        ([entry(2, [1.0, True])], "something else than numbers"),
        ([entry(2, ["1", "2"])], "something else than numbers"),
        ([entry(2, [1.0, math.nan])], "not finite"),
        ([entry(2, [1.0, math.inf])], "not finite"),
        ([entry(2, [1.0, 10**400])], "not finite"),
        ([entry(2, packed([1.0, math.nan]))], "not finite"),
        ([entry(2, "no base64!")], "neither numbers nor base64"),
        ([entry(2, "AAAA")], "neither numbers nor base64"),
        ([entry(2, [1.0])], "has 1 numbers, others of the same reply have 2"),
        ([entry(-1, X)], "no vector for this text"),
        (["x"], "no vector for this text"),
        ([None], "no vector for this text"),
    ],
)
def test_what_cannot_be_used_is_the_trouble_of_its_text_alone(bad: list[Json], words: str) -> None:
    parts = outcome([entry(0, V), entry(1, W), *bad])
    assert vectors(parts)[:2] == [V, W], "the neighbours are paid for and kept"
    assert isinstance(parts[2], Problem)
    assert words in parts[2].message
    assert (parts[2].kind, parts[2].should_retry) == (ProblemKind.EMPTY_RESPONSE, None)


def test_a_server_that_ignores_dimensions_is_not_paid_again() -> None:
    parts = outcome([entry(0, V), entry(1, W), entry(2, X)], params={"dimensions": 512})
    assert {part.should_retry for part in parts} == {False}
    assert "has 2 numbers; `params.dimensions` asks for 512" in parts[0].message


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ([], ProblemKind.EMPTY_RESPONSE),
        (None, ProblemKind.EMPTY_RESPONSE),
        ([entry(None, V), entry(None, W)], ProblemKind.EMPTY_RESPONSE),
        ({"0": V}, ProblemKind.EMPTY_RESPONSE),
    ],
)
def test_without_any_vector_that_is_known_to_be_a_text_s_the_whole_request_failed(
    data: Json, kind: ProblemKind
) -> None:
    assert outcome(data).kind is kind


def test_an_error_inside_a_200_is_read_as_one() -> None:
    body = json.dumps({"error": {"message": "We have to rate limit you", "code": 429}}).encode()
    assert outcome(None, body=body).kind is ProblemKind.THROTTLE


def test_a_vector_of_zeros_is_kept_and_flagged() -> None:
    parts = outcome([entry(0, V), entry(1, [0.0, 0.0]), entry(2, X)])
    assert [part.flags for part in parts] == [("usage_divided",), ("usage_divided", "zero_vector"), ("usage_divided",)]


def test_tokens_are_divided_by_length_also_to_those_that_failed() -> None:
    parts = outcome([entry(0, V), entry(1, W)])
    assert [part.usage for part in parts] == [Usage(input_tokens=n) for n in (3, 5, 2)]
    assert outcome([entry(0, V), entry(1, W)], usage={"total_tokens": None})[0].usage is None
    alone = read_every_way(
        lambda: MODELSCOPE.decoder(item("a")),
        head(),
        json.dumps({"data": [entry(0, V)], "usage": {"prompt_tokens": 7}}).encode(),
    )
    assert alone == Answer(text="", embedding=(0.5, -1.0), usage=Usage(input_tokens=7), hints=alone.hints)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**5), min_size=1, max_size=60))
def test_shares_add_up_to_the_whole(total: int, sizes: list[int]) -> None:
    shares = [share or 0 for share in shares_of(total, sizes)]
    assert sum(shares) == total
    assert min(shares) >= 0
    for (share, size), (other, smaller) in zip(
        zip(shares, sizes, strict=True), reversed(list(zip(shares, sizes, strict=True))), strict=True
    ):
        assert size <= smaller or share >= other, "a longer text has no smaller share"
