"""The official OpenAI SDK and our decoder read the same bytes: every chat scenario of the simulator, streamed and not.

Whatever the SDK survives, both must read alike. Where the SDK breaks, ours gives a typed outcome. Where the SDK calls
whole what is not, or dies of what is whole, the pair stands in a table with its reason.
"""

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion

from batchrunner.core.outcome import Answer, Problem, ProblemKind
from batchrunner.core.values import replace
from batchrunner.providers.openai_chat import OpenAiChat
from batchrunner.simulator.scenarios import SCENARIOS
from batchrunner.simulator.world import World
from tests.sdk_compat.items import item, provider
from tests.sdk_compat.parsed_answer import (
    ParsedAnswer,
    Sides,
    assert_sdk_failed_too,
    assert_whole_to_the_sdk_alone,
    parsed_by_us,
)
from tests.sdk_compat.recorder import Reply, patience_s, with_world

K = ProblemKind

GROUPS = frozenset({"chat", "refusal", "mishap", "stream"})
CHAT = [name for name, scenario in SCENARIOS.items() if scenario.group in GROUPS]
PROMPT = "Count 3 cats: é 猫 😀"

LATER = {"quota-model": ("quota-model:1", 2), "quota-account": ("quota-account:1", 2)}
"""Scenarios that show themselves at a later call only: what to ask for, and which call counts."""


def read_by_both(name: str, *, stream: bool) -> Sides:
    """One scenario, read by both."""
    scenario, calls = LATER.get(name, (name, 1))

    async def use(url: str, http: httpx2.AsyncClient) -> ParsedAnswer | Exception:
        client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="ms-key", http_client=http, max_retries=0, timeout=patience_s(name)
        )
        for _ in range(calls - 1):
            await parsed_by_sdk(client, scenario, stream=stream)
        return await parsed_by_sdk(client, scenario, stream=stream)

    sdk, replies = with_world(World(), use)
    return Sides(sdk=sdk, ours=read(replies[calls - 1]))


def read(reply: Reply) -> Answer | Problem:
    """Our side."""
    ours = reply.read_with(OpenAiChat(provider("simulator", "openai-chat")).decoder(item(PROMPT, model="M/m")))
    assert isinstance(ours, Answer | Problem)
    return ours


async def parsed_by_sdk(client: openai.AsyncOpenAI, scenario: str, *, stream: bool) -> ParsedAnswer | Exception:
    """The SDK's side, by its own accumulator; whatever it raises."""
    try:
        return parsed(await (_streamed if stream else _whole)(client, f"M/m#{scenario}"))
    except Exception as fault:  # noqa: BLE001 - what the SDK dies of is what this asks
        return fault


async def _whole(client: openai.AsyncOpenAI, model: str) -> ChatCompletion:
    return await client.chat.completions.create(model=model, messages=[{"role": "user", "content": PROMPT}])


async def _streamed(client: openai.AsyncOpenAI, model: str) -> ChatCompletion:
    async with client.chat.completions.stream(
        model=model, messages=[{"role": "user", "content": PROMPT}], stream_options={"include_usage": True}
    ) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_completion()


def parsed(completion: ChatCompletion) -> ParsedAnswer:
    """What a completion of the SDK says."""
    choice = completion.choices[0]
    reasoning = (choice.message.model_extra or {}).get("reasoning_content")
    calls = [call for call in choice.message.tool_calls or () if call.type == "function"]
    used = completion.usage
    return ParsedAnswer(
        text=choice.message.content or "",
        reasoning=str(reasoning) if reasoning is not None else None,
        calls=tuple((call.id, call.function.name, call.function.arguments) for call in calls),
        finish_reason=choice.finish_reason,
        tokens=(used.prompt_tokens, used.completion_tokens) if used else None,
    )


# -- where both must agree

CALLED_WHOLE: dict[tuple[str, bool], tuple[ProblemKind, str]] = {
    ("cut-mid-stream", True): (K.STREAM_CUT, "the SDK takes any orderly end for the end of the answer"),
    ("sse-cut", True): (K.STREAM_CUT, "the SDK takes any orderly end for the end of the answer"),
    ("content-filter", False): (K.CONTENT_FILTER, "a withheld answer is an empty text to the SDK"),
}
"""(scenario, streamed): what the SDK calls whole, what we call it, why."""

DIED_OF: dict[str, tuple[type[Exception], str]] = {
    "length": (openai.LengthFinishReasonError, "an answer cut by the token limit is a success with `truncated`"),
    "sse-fields": (ValueError, "the SDK takes a bare `retry:` for an event with empty JSON"),
    "sse-null-delta": (AttributeError, "the SDK's accumulator needs every delta to be an object"),
    "sse-null-choices": (TypeError, "the SDK's accumulator needs choices to be a list"),
    "sse-tool-no-index": (TypeError, "the SDK's accumulator keys tool calls by index alone"),
    "sse-json-instead": (AssertionError, "the SDK expects events wherever it asked for them"),
}
"""Streams that are whole and that the SDK dies of: with what, and why."""

MISREAD: dict[str, str] = {"ok-tools": "the SDK's accumulator strings together an id that each piece repeats"}
"""Streams that the SDK reads wrong; its reading of the same answer in one piece is right."""

FLAGS = {("sse-no-done", True): ("no_done",), ("sse-no-finish", True): ("no_finish_reason",)}
"""What both call whole, and we call odd."""

KINDS: dict[type[Exception], frozenset[ProblemKind]] = {
    openai.RateLimitError: frozenset({K.THROTTLE, K.QUOTA_MODEL, K.QUOTA_ACCOUNT, K.MODEL_SUSPENDED}),
    openai.AuthenticationError: frozenset({K.AUTH}),
    openai.PermissionDeniedError: frozenset({K.FORBIDDEN_MODEL, K.NOT_REACHED, K.CONTENT_FILTER, K.BILLING}),
    openai.NotFoundError: frozenset({K.MODEL_NOT_FOUND, K.NOT_REACHED}),
    openai.BadRequestError: frozenset({K.BAD_REQUEST, K.ADAPTABLE, K.MODEL_NOT_FOUND, K.SERVER_ERROR}),
    openai.APIStatusError: frozenset({K.NOT_REACHED, K.SERVER_ERROR}),
    openai.InternalServerError: frozenset({K.SERVER_ERROR, K.OVERLOADED}),
    openai.APITimeoutError: frozenset({K.TIMEOUT}),
    openai.APIConnectionError: frozenset({K.RESET, K.STREAM_CUT}),
    openai.APIError: frozenset({K.SERVER_ERROR}),
    openai.ContentFilterFinishReasonError: frozenset({K.CONTENT_FILTER}),
    AssertionError: frozenset({K.EMPTY_RESPONSE, K.NOT_REACHED, K.THROTTLE}),
    AttributeError: frozenset({K.NOT_REACHED}),
    TypeError: frozenset({K.EMPTY_RESPONSE, K.THROTTLE}),
    IndexError: frozenset({K.EMPTY_RESPONSE}),
}
"""What the SDK raises, and what it may be to us: the SDK knows statuses, we read what was said."""

EXACT: dict[str, ProblemKind] = {
    "shell200": K.EMPTY_RESPONSE,
    "choices-empty": K.EMPTY_RESPONSE,
    "content-filter": K.CONTENT_FILTER,
    "throttle": K.THROTTLE,
    "quota-model": K.QUOTA_MODEL,
    "quota-account": K.QUOTA_ACCOUNT,
    "quota-noheader": K.THROTTLE,
    "tpm": K.THROTTLE,
    "retired": K.MODEL_SUSPENDED,
    "empty429": K.THROTTLE,
    "should-retry-false": K.OVERLOADED,
    "noprovider": K.MODEL_NOT_FOUND,
    "bad-model-id": K.MODEL_NOT_FOUND,
    "think-needs-stream": K.ADAPTABLE,
    "so-unsupported": K.ADAPTABLE,
    "cloudflare-522": K.OVERLOADED,
    "estimated-time": K.OVERLOADED,
    "wait-in-prose": K.THROTTLE,
    "page-403": K.NOT_REACHED,
    "page-200": K.NOT_REACHED,
    "login": K.NOT_REACHED,
    "no-route": K.NOT_REACHED,
    "moderated-403": K.CONTENT_FILTER,
    "unpaid-403": K.BILLING,
    "error-in-200": K.THROTTLE,
    "odd-499": K.SERVER_ERROR,
    "tool-use-failed": K.SERVER_ERROR,
    "html502": K.SERVER_ERROR,
    "reset-before-headers": K.RESET,
    "reset-mid-stream": K.STREAM_CUT,
    "sse-error-mid": K.SERVER_ERROR,
}
"""What a scenario is to us wherever it gives no answer."""

APART = {*CALLED_WHOLE, *((name, True) for name in (*DIED_OF, *MISREAD))}
AGREED = [(name, stream) for name in CHAT for stream in (True, False) if (name, stream) not in APART]


@pytest.mark.parametrize(("name", "stream"), AGREED)
def test_what_the_sdk_survives_we_read_alike_and_what_it_does_not_has_a_kind(name: str, *, stream: bool) -> None:
    sides = read_by_both(name, stream=stream)
    match sides.ours:
        case Answer(flags=flags):
            ours = parsed_by_us(sides.ours)
            assert isinstance(sides.sdk, ParsedAnswer)
            if sides.sdk.text.startswith("<think>"):  # the SDK leaves it to its user to take the thinking out
                ours = replace(ours, text=f"<think>\n{ours.reasoning}\n</think>\n\n{ours.text}", reasoning=None)
            assert ours == sides.sdk
            assert flags == FLAGS.get((name, stream), ())
        case Problem():
            assert_sdk_failed_too(sides, KINDS, EXACT.get(name))


@pytest.mark.parametrize(("name", "stream"), CALLED_WHOLE)
def test_what_the_sdk_calls_whole_and_is_not_is_a_problem_to_us(name: str, *, stream: bool) -> None:
    assert_whole_to_the_sdk_alone(read_by_both(name, stream=stream), CALLED_WHOLE[name, stream][0])


@pytest.mark.parametrize("name", DIED_OF)
def test_what_the_sdk_dies_of_we_read_as_it_reads_the_same_answer_in_one_piece(name: str) -> None:
    sides = read_by_both(name, stream=True)
    assert isinstance(sides.sdk, DIED_OF[name][0])
    assert isinstance(sides.ours, Answer)
    assert parsed_by_us(sides.ours) == read_by_both(name, stream=False).sdk


@pytest.mark.parametrize("name", MISREAD)
def test_what_the_sdk_misreads_we_read_as_it_reads_the_same_answer_in_one_piece(name: str) -> None:
    sides = read_by_both(name, stream=True)
    assert isinstance(sides.ours, Answer)
    assert parsed_by_us(sides.ours) == read_by_both(name, stream=False).sdk
    assert parsed_by_us(sides.ours) != sides.sdk


def test_the_tables_name_scenarios_that_exist() -> None:
    assert {name for name, _ in (*APART, *FLAGS)} | EXACT.keys() | LATER.keys() <= set(CHAT)
