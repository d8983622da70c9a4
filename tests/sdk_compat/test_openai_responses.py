"""The official OpenAI SDK and our decoder read the same responses: scenarios of the simulator, streamed and not.

Whatever the SDK survives, both must read alike. Where the SDK calls whole what is not, or reads wrong what is whole,
the pair stands in a table with its reason.
"""

import json

import httpx2
import openai
import pytest
from openai.types.responses import Response

from batchrunner.core.job import Json
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision
from batchrunner.core.values import replace
from batchrunner.providers.openai_responses import OpenAiResponses
from batchrunner.simulator.scenarios import SCENARIOS
from batchrunner.simulator.world import World
from tests.sdk_compat.items import item, provider
from tests.sdk_compat.parsed_answer import ParsedAnswer, Sides, assert_whole_to_the_sdk_alone, parsed_by_us
from tests.sdk_compat.recorder import patience_s, with_world

K = ProblemKind

GROUPS = frozenset({"response", "chat"})
MORE = ("throttle", "server-error", "auth-bad", "sse-error-mid", "sse-cut", "sse-crlf", "sse-comments", "sse-bom")
NAMES = [name for name, known in SCENARIOS.items() if known.group in GROUPS or name in MORE]
PROMPT = "Count 3 cats: é 猫 😀"
DIALECT = OpenAiResponses(provider("openai", "openai-responses"))

CALLED_WHOLE: dict[tuple[str, bool], tuple[ProblemKind, str]] = {
    (name, stream): (K.CONTENT_FILTER, why)
    for name, why in (
        ("content-filter", "a withheld answer is an empty text to the SDK"),
        ("rs-refusal", "a refusal is a response without a text to the SDK"),
    )
    for stream in (True, False)
}
"""(scenario, streamed): what the SDK calls whole, what we call it, why."""

MISREAD = {"rs-bare-end": "the SDK takes the output of the last event, and forgets what the events before it said"}
"""Streams that the SDK reads wrong; its reading of the same answer in one piece is right."""

TAKEN_OUT = {"ok-think-tags": "the SDK leaves thinking in tags in the text"}
"""What we read as more than the SDK does; tests/providers has it."""


def read_by_both(name: str, *, stream: bool) -> Sides:
    """One scenario, read by both."""

    async def use(url: str, http: httpx2.AsyncClient) -> ParsedAnswer | Exception:
        client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="ms-key", http_client=http, max_retries=0, timeout=patience_s(name)
        )
        try:
            return parsed(await (_streamed if stream else _whole)(client, f"M/m#{name}"))
        except Exception as fault:  # noqa: BLE001 - what the SDK dies of is what this asks
            return fault

    sdk, replies = with_world(World(), use)
    ours = replies[0].read_with(DIALECT.decoder(item(PROMPT, model="M/m")))
    assert isinstance(ours, Answer | Problem)
    return Sides(sdk=sdk, ours=ours)


async def _whole(client: openai.AsyncOpenAI, model: str) -> Response:
    return await client.responses.create(model=model, input=PROMPT, reasoning={"summary": "auto"})


async def _streamed(client: openai.AsyncOpenAI, model: str) -> Response:
    stream = await client.responses.create(model=model, input=PROMPT, reasoning={"summary": "auto"}, stream=True)
    found: Response | None = None
    async for event in stream:
        if event.type in {"response.completed", "response.incomplete", "response.failed"}:
            found = event.response
    assert found is not None, "the stream ended without its end"
    return found


def parsed(response: Response) -> ParsedAnswer:
    """What a response of the SDK says."""
    assert response.status != "failed", response.error
    thoughts = [part.text for entry in response.output if entry.type == "reasoning" for part in entry.summary]
    calls = [entry for entry in response.output if entry.type == "function_call"]
    used, incomplete = response.usage, response.incomplete_details
    return ParsedAnswer(
        text=response.output_text,
        reasoning="\n\n".join(thoughts) or None,
        calls=tuple((call.call_id, call.name, call.arguments) for call in calls),
        finish_reason=incomplete.reason if incomplete is not None else response.status,
        tokens=(used.input_tokens, used.output_tokens) if used else None,
    )


APART = {*CALLED_WHOLE, *((name, True) for name in MISREAD)}
AGREED = [
    (name, stream)
    for name in NAMES
    for stream in (True, False)
    if (name, stream) not in APART and name not in TAKEN_OUT
]


@pytest.mark.parametrize(("name", "stream"), AGREED)
def test_what_the_sdk_survives_we_read_alike_and_what_it_does_not_is_a_problem(name: str, *, stream: bool) -> None:
    sides = read_by_both(name, stream=stream)
    if isinstance(sides.ours, Answer):
        assert parsed_by_us(sides.ours) == sides.sdk
    else:
        assert isinstance(sides.sdk, Exception), sides.ours


@pytest.mark.parametrize(("name", "stream"), CALLED_WHOLE)
def test_what_the_sdk_calls_whole_and_is_not_is_a_problem_to_us(name: str, *, stream: bool) -> None:
    assert_whole_to_the_sdk_alone(read_by_both(name, stream=stream), CALLED_WHOLE[name, stream][0])


@pytest.mark.parametrize("name", MISREAD)
def test_what_the_sdk_misreads_we_read_as_it_reads_the_same_answer_in_one_piece(name: str) -> None:
    sides = read_by_both(name, stream=True)
    assert isinstance(sides.ours, Answer)
    assert parsed_by_us(sides.ours) == read_by_both(name, stream=False).sdk
    assert parsed_by_us(sides.ours) != sides.sdk


SCHEMA: dict[str, Json] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize("stream", [True, False])
def test_our_own_request_for_a_structured_answer_comes_back_as_one(*, stream: bool) -> None:
    asked = replace(item(PROMPT, model="M/m", stream=stream), schema=SCHEMA)
    body = DIALECT.encode(asked, Revision()).body or b""

    async def use(url: str, http: httpx2.AsyncClient) -> int:
        return (await http.post(f"{url}/v1/responses", content=body, headers={"authorization": "Bearer k"})).status_code

    status, replies = with_world(World(), use)
    answer = replies[0].read_with(DIALECT.decoder(asked))
    assert status == 200
    assert isinstance(answer, Answer)
    assert answer.parsed == json.loads(answer.text)


def test_the_sdk_gets_its_tools_called_and_its_schema_kept() -> None:
    async def use(url: str, http: httpx2.AsyncClient) -> tuple[Response, Response]:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        look: dict[str, object] = {"type": "object", "properties": {"place": {"type": "string"}}}
        called = await client.responses.create(
            model="M/m",
            input=PROMPT,
            tools=[{"type": "function", "name": "weather", "parameters": look, "strict": False}],
        )
        fitted = await client.responses.create(
            model="M/m",
            input=PROMPT,
            text={"format": {"type": "json_schema", "name": "n", "schema": dict(SCHEMA)}},
        )
        return called, fitted

    (called, fitted), replies = with_world(World(), use)
    ours = replies[0].read_with(DIALECT.decoder(item(PROMPT, model="M/m")))
    assert isinstance(ours, Answer)
    assert parsed_by_us(ours) == parsed(called)
    assert [call.name for call in ours.tool_calls] == ["weather"]
    assert isinstance(json.loads(fitted.output_text)["n"], int)
