"""The official OpenAI SDK and our decoder read the same bytes of embeddings, refusals and spoiled replies too."""

from typing import Any, Literal

import httpx2
import openai
import pytest

from batchrunner.core.outcome import Answer, Problem
from batchrunner.providers.openai_embeddings import OpenAiEmbeddings
from batchrunner.simulator.scenarios import SCENARIOS
from batchrunner.simulator.world import World
from tests.sdk_compat.items import item, provider
from tests.sdk_compat.recorder import patience_s, with_world

NAMES = [name for name, scenario in SCENARIOS.items() if scenario.group in {"refusal", "mishap"}]
TEXTS = ("a cat", "A blue cat, 猫", "a dog")
DIALECT = OpenAiEmbeddings(provider("simulator", "openai-embeddings"))
Form = Literal["float", "base64"]


def read_by_both(model: str, form: Form = "float") -> tuple[Any, Any]:
    """One call, read by both: what the SDK gives or dies of, and what we make of the same bytes."""
    asked = [item(text, model=model, params={"dimensions": 8}) for text in TEXTS]

    async def use(url: str, http: httpx2.AsyncClient) -> Any:
        client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0, timeout=patience_s(model)
        )
        try:
            return await client.embeddings.create(model=model, input=list(TEXTS), encoding_format=form, dimensions=8)
        except Exception as fault:  # noqa: BLE001 - what the SDK dies of is what this asks
            return fault

    sdk, replies = with_world(World(), use)
    return sdk, replies[0].read_with(DIALECT.decoder_of_all(asked))


@pytest.mark.parametrize("form", ["float", "base64"])
@pytest.mark.parametrize("scenario", ["ok", "emb-shuffled"])
def test_both_read_the_same_vectors_and_tokens(scenario: str, form: Form) -> None:
    sdk, ours = read_by_both(f"M/e#{scenario}", form)
    by_index = {entry.index: entry.embedding for entry in sdk.data}
    if form == "base64":  # which the SDK hands on as it came where it was asked for
        _, numbers = read_by_both(f"M/e#{scenario}")
        assert [part.embedding for part in ours] == [part.embedding for part in numbers]
    else:
        assert [list(part.embedding) for part in ours] == [by_index[place] for place in range(3)]
    assert sum(part.usage.input_tokens for part in ours) == sdk.usage.prompt_tokens


def test_the_sdk_unpacks_base64_to_the_same_numbers() -> None:
    """Where nothing was said, it asks for base64 and unpacks it."""

    async def use(url: str, http: httpx2.AsyncClient) -> Any:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        return await client.embeddings.create(model="M/e", input=list(TEXTS), dimensions=8)

    sdk, replies = with_world(World(), use)
    ours = replies[0].read_with(DIALECT.decoder_of_all([item(text, model="M/e") for text in TEXTS]))
    assert isinstance(ours, tuple)
    assert [list(part.embedding) for part in ours if isinstance(part, Answer)] == [e.embedding for e in sdk.data]


@pytest.mark.parametrize("scenario", NAMES)
def test_what_the_sdk_dies_of_is_a_problem_for_us(scenario: str) -> None:
    sdk, ours = read_by_both(f"M/e#{scenario}")
    refused = isinstance(sdk, openai.APIStatusError | openai.APIConnectionError)
    assert isinstance(ours, Problem) or not refused
