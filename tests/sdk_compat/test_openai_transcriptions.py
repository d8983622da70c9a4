"""The official OpenAI SDK drives the door of transcriptions of the simulator, and our decoder agrees with it."""

from typing import Any

import httpx2
import openai
import pytest

from batchrunner.core.job import Json
from batchrunner.core.outcome import Answer, Problem, Revision
from batchrunner.core.values import replace
from batchrunner.providers.openai_transcriptions import OpenAiTranscriptions
from batchrunner.simulator.scenarios import SCENARIOS
from batchrunner.simulator.transcription_replies import form_of
from batchrunner.simulator.world import World
from tests.providers.test_openai_transcriptions import FILE, SOUND
from tests.sdk_compat.items import item, provider
from tests.sdk_compat.recorder import patience_s, with_world

DIED_OF = [name for name, scenario in SCENARIOS.items() if scenario.group in {"refusal", "mishap"}]
DIALECT = OpenAiTranscriptions(provider("simulator", "openai-transcriptions"))


def read_by_both(model: str, **params: Any) -> tuple[Any, Any]:
    """One call, read by both: what the SDK gives or dies of, and what we make of the same bytes."""

    async def use(url: str, http: httpx2.AsyncClient) -> Any:
        client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0, timeout=patience_s(model)
        )
        try:
            return await client.audio.transcriptions.create(model=model, file=("a.flac", SOUND), **params)
        except Exception as fault:  # noqa: BLE001 - what the SDK dies of is what this asks
            return fault

    sdk, replies = with_world(World(), use)
    return sdk, replies[0].read_with(DIALECT.decoder(item("", model=model, params=params)))


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-transcribe"])
def test_both_read_the_same_words_and_the_same_usage(model: str) -> None:
    sdk, ours = read_by_both(model, language="en", temperature=0.5)
    assert (sdk.text, sdk.text != "") == (ours.text, True)
    if model == "whisper-1":
        assert (sdk.usage.type, sdk.usage.seconds) == ("duration", ours.extras["audio_seconds"])
    else:
        assert (sdk.usage.input_tokens, sdk.usage.output_tokens) == (ours.usage.input_tokens, ours.usage.output_tokens)


def test_both_read_the_same_segments_and_words() -> None:
    sdk, ours = read_by_both("whisper-1", response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert [part.text for part in sdk.segments] == [part["text"] for part in ours.extras["segments"]]
    assert [part.model_dump() for part in sdk.words] == ours.extras["words"]
    assert (sdk.language, sdk.duration) == (ours.extras["language"], ours.extras["duration"])


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
@pytest.mark.parametrize("form", ["json", "verbose_json"])
def test_both_read_the_same_translation(form: Any) -> None:
    async def use(url: str, http: httpx2.AsyncClient) -> Any:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        return await client.audio.translations.create(
            model="whisper-1", file=("a.flac", SOUND), prompt="Zoë", response_format=form
        )

    sdk, replies = with_world(World(), use)
    params: dict[str, Json] = {"endpoint": "translations", "response_format": form}
    ours: Any = replies[0].read_with(DIALECT.decoder(item("", model="whisper-1", params=params)))
    assert sdk.text == ours.text != ""
    if form == "verbose_json":
        assert (sdk.language, sdk.duration) == (ours.extras["language"], ours.extras["duration"])
        assert [part.text for part in sdk.segments] == [part["text"] for part in ours.extras["segments"]]


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_both_read_the_same_words_alone(form: str) -> None:
    sdk, ours = read_by_both("whisper-1", response_format=form)
    assert sdk.rstrip("\n") == ours.text != ""


def test_our_form_and_that_of_the_sdk_mean_the_same() -> None:
    params: dict[str, Json] = {
        "language": "en", "temperature": 0.5, "response_format": "verbose_json", "prompt": "Zoë",
        "timestamp_granularities": ["word", "segment"], "include": ["logprobs"],
        "chunking_strategy": {"type": "server_vad", "threshold": 0.5},
    }  # fmt: skip
    forms: list[Any] = []

    class Door(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            forms.append(form_of(await request.aread(), request.headers["content-type"]))
            return httpx2.Response(200, json={"text": "a"}, request=request)

    async def use(url: str, _http: httpx2.AsyncClient) -> Any:
        async with httpx2.AsyncClient(transport=Door()) as http:
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
            given: dict[str, Any] = params
            return await client.audio.transcriptions.create(model="whisper-1", file=("sound.flac", SOUND), **given)

    with_world(World(), use)
    prompt = params.pop("prompt")
    order = replace(item(str(prompt), model="whisper-1", params=params), files=(FILE,))

    request = DIALECT.encode(order, Revision())
    assert form_of(request.body or b"", request.headers["content-type"]) == forms[0]


@pytest.mark.parametrize("scenario", DIED_OF)
def test_what_the_sdk_dies_of_is_a_problem_for_us(scenario: str) -> None:
    sdk, ours = read_by_both(f"M/e#{scenario}")
    refused = isinstance(sdk, openai.APIStatusError | openai.APIConnectionError)
    assert isinstance(ours, Problem) or not refused
    assert isinstance(ours, Answer | Problem)
