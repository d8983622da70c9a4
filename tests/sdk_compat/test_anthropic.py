"""The official Anthropic SDK and our decoder read the same bytes: every scenario of the simulator, streamed and not.

Whatever the SDK survives, both must read alike. Where the SDK breaks, ours gives a typed outcome. Where the SDK calls
whole what is not, or dies of what is whole, the pair stands in a table with its reason.
"""

import json

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageParam

from batchrunner.core.job import Json, PresetName
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision
from batchrunner.core.values import replace
from batchrunner.providers.anthropic_messages import AnthropicMessages
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
from tests.sdk_compat.recorder import patience_s, with_world

K = ProblemKind

GROUPS = frozenset({"chat", "refusal", "mishap", "stream", "message"})
NAMES = [name for name, scenario in SCENARIOS.items() if scenario.group in GROUPS]
PROMPT = "Count 3 cats: é 猫 😀"
TURNS: list[MessageParam] = [{"role": "user", "content": PROMPT}]
PARTS: list[MessageParam] = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]

LATER = {"quota-model": ("quota-model:1", 2), "quota-account": ("quota-account:1", 2)}
"""Scenarios that show themselves at a later call only: what to ask for, and which call counts."""


CALLED_WHOLE: dict[tuple[str, bool], tuple[ProblemKind, str]] = {
    ("cut-mid-stream", True): (K.STREAM_CUT, "the SDK takes any orderly end for the end of the message"),
    ("sse-cut", True): (K.STREAM_CUT, "the SDK takes any orderly end for the end of the message"),
    ("an-no-end", True): (K.STREAM_CUT, "the SDK takes any orderly end for the end of the message"),
    ("content-filter", True): (K.CONTENT_FILTER, "a refusal is an empty message to the SDK"),
    ("content-filter", False): (K.CONTENT_FILTER, "a refusal is an empty message to the SDK"),
    ("an-refusal", True): (K.CONTENT_FILTER, "a refusal is an empty message to the SDK"),
    ("an-refusal", False): (K.CONTENT_FILTER, "a refusal is an empty message to the SDK"),
}
"""(scenario, streamed): what the SDK calls whole, what we call it, why."""

DIED_OF: dict[str, tuple[type[Exception], str]] = {
    "sse-bom": (AssertionError, "the SDK takes the byte order mark for a part of the first field's name"),
    "sse-json-instead": (AssertionError, "the SDK expects events wherever it asked for them"),
    "an-no-event-line": (AssertionError, "the SDK reads events by the name of their line alone"),
    "an-no-type": (AssertionError, "the SDK's accumulator needs a type in the data, too"),
    "an-no-message-start": (AssertionError, "the SDK's accumulator needs a message to put the blocks into"),
}
"""Streams that are whole and that the SDK dies of: with what, and why."""

UNCOUNTED = {"an-no-message-start": "the event that is missing is the one that counts the input"}
"""Streams that do not tell what the input cost."""

MISREAD = {"an-one-index+an-thinking": "the SDK puts text where the index says, and drops it from a thinking block"}
"""Streams that the SDK reads wrong; its reading of the same answer in one piece is right."""

FLAGS = {("an-no-message-stop", True): ("no_message_stop",)}
"""What both call whole, and we call odd."""

KINDS: dict[type[Exception], frozenset[ProblemKind]] = {
    anthropic.RateLimitError: frozenset({K.THROTTLE, K.QUOTA_MODEL, K.QUOTA_ACCOUNT, K.MODEL_SUSPENDED}),
    anthropic.EnforcedSpendLimitReachedError: frozenset({K.BILLING}),
    anthropic.AuthenticationError: frozenset({K.AUTH}),
    anthropic.PermissionDeniedError: frozenset({K.FORBIDDEN_MODEL, K.NOT_REACHED, K.CONTENT_FILTER, K.BILLING}),
    anthropic.NotFoundError: frozenset({K.MODEL_NOT_FOUND, K.NOT_REACHED}),
    anthropic.BadRequestError: frozenset({K.BAD_REQUEST, K.ADAPTABLE, K.MODEL_NOT_FOUND, K.SERVER_ERROR}),
    anthropic.ClientClosedRequestError: frozenset({K.SERVER_ERROR}),
    anthropic.InternalServerError: frozenset({K.SERVER_ERROR, K.OVERLOADED}),
    anthropic.ServiceUnavailableError: frozenset({K.OVERLOADED}),
    anthropic.OverloadedError: frozenset({K.OVERLOADED}),
    anthropic.APITimeoutError: frozenset({K.TIMEOUT}),
    httpx2.ReadTimeout: frozenset({K.TIMEOUT}),
    anthropic.APIConnectionError: frozenset({K.RESET, K.STREAM_CUT}),
    httpx2.ReadError: frozenset({K.STREAM_CUT}),
    anthropic.APIStatusError: frozenset({K.SERVER_ERROR, K.OVERLOADED, K.NOT_REACHED}),
    AssertionError: frozenset({K.STREAM_CORRUPT, K.NOT_REACHED, K.THROTTLE}),
    AttributeError: frozenset({K.NOT_REACHED}),
    TypeError: frozenset({K.THROTTLE}),
}
"""What the SDK raises, and what it may be to us: the SDK knows statuses, we read what was said."""

EXACT: dict[str, ProblemKind] = {
    "quota-model": K.QUOTA_MODEL,
    "quota-account": K.QUOTA_ACCOUNT,
    "tpm": K.THROTTLE,
    "retired": K.MODEL_SUSPENDED,
    "noprovider": K.MODEL_NOT_FOUND,
    "think-needs-stream": K.ADAPTABLE,
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
    "reset-mid-stream": K.STREAM_CUT,
    "sse-error-mid": K.SERVER_ERROR,
    "an-overloaded-mid": K.OVERLOADED,
    "an-529": K.OVERLOADED,
    "an-429-nohint": K.BILLING,
    "an-content-array-400": K.BAD_REQUEST,
}
"""What a scenario is to us wherever it gives no answer."""


def read_by_both(name: str, *, stream: bool) -> Sides:
    """One scenario, read by both."""
    scenario, calls = LATER.get(name, (name, 1))
    turns = PARTS if name == "an-content-array-400" else TURNS

    async def use(url: str, http: httpx2.AsyncClient) -> ParsedAnswer | Exception:
        client = anthropic.AsyncAnthropic(
            base_url=url, api_key="ms-key", http_client=http, max_retries=0, timeout=patience_s(name)
        )
        for _ in range(calls - 1):
            await parsed_by_sdk(client, scenario, turns, stream=stream)
        return await parsed_by_sdk(client, scenario, turns, stream=stream)

    sdk, replies = with_world(World(), use)
    preset: PresetName = "anthropic" if SCENARIOS[name.partition("+")[0]].group == "message" else "modelscope-anthropic"
    dialect = AnthropicMessages(provider(preset, "anthropic-messages"))
    ours = replies[calls - 1].read_with(dialect.decoder(item(PROMPT, model="M/m")))
    assert isinstance(ours, Answer | Problem)
    return Sides(sdk=sdk, ours=ours)


async def parsed_by_sdk(
    client: anthropic.AsyncAnthropic, scenario: str, turns: list[MessageParam], *, stream: bool
) -> ParsedAnswer | Exception:
    """The SDK's side, by its own accumulator; whatever it raises."""
    try:
        return parsed(await (_streamed if stream else _whole)(client, f"M/m#{scenario}", turns))
    except Exception as fault:  # noqa: BLE001 - what the SDK dies of is what this asks
        return fault


async def _whole(client: anthropic.AsyncAnthropic, model: str, turns: list[MessageParam]) -> Message:
    return await client.messages.create(model=model, max_tokens=1000, messages=turns)


async def _streamed(client: anthropic.AsyncAnthropic, model: str, turns: list[MessageParam]) -> Message:
    async with client.messages.stream(model=model, max_tokens=1000, messages=turns) as stream:
        return await stream.get_final_message()


def parsed(message: Message) -> ParsedAnswer:
    """What a message of the SDK says."""
    texts = [block.text for block in message.content if block.type == "text"]
    thoughts = [block.thinking for block in message.content if block.type == "thinking"]
    return ParsedAnswer(
        text="".join(texts),
        reasoning="\n\n".join(thoughts) or None,
        calls=tuple(
            (block.id, block.name, canonical(block.input)) for block in message.content if block.type == "tool_use"
        ),
        finish_reason=message.stop_reason,
        tokens=(message.usage.input_tokens, message.usage.output_tokens),
    )


def parsed_with_equal_arguments(answer: Answer) -> ParsedAnswer:
    """Our side; the SDK gives a call's input as a value, so arguments are compared as values too."""
    said = parsed_by_us(answer)
    calls = tuple((name, function, canonical(json.loads(arguments))) for name, function, arguments in said.calls)
    return ParsedAnswer(
        text=said.text, reasoning=said.reasoning, calls=calls, finish_reason=said.finish_reason, tokens=said.tokens
    )


def canonical(value: object) -> str:
    """A JSON value as text, the same for the same value."""
    return json.dumps(value, sort_keys=True)


APART = {*CALLED_WHOLE, *((name, True) for name in DIED_OF)}
AGREED = [(name, stream) for name in NAMES for stream in (True, False) if (name, stream) not in APART]


@pytest.mark.parametrize(("name", "stream"), AGREED)
def test_what_the_sdk_survives_we_read_alike_and_what_it_does_not_has_a_kind(name: str, *, stream: bool) -> None:
    sides = read_by_both(name, stream=stream)
    match sides.ours:
        case Answer(flags=flags):
            assert parsed_with_equal_arguments(sides.ours) == sides.sdk
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
    whole = read_by_both(name, stream=False).sdk
    assert isinstance(whole, ParsedAnswer)
    if name in UNCOUNTED and whole.tokens is not None:
        whole = replace(whole, tokens=(None, whole.tokens[1]))
    assert parsed_with_equal_arguments(sides.ours) == whole


@pytest.mark.parametrize("name", MISREAD)
def test_what_the_sdk_misreads_we_read_as_it_reads_the_same_answer_in_one_piece(name: str) -> None:
    sides = read_by_both(name, stream=True)
    assert isinstance(sides.ours, Answer)
    assert parsed_with_equal_arguments(sides.ours) == read_by_both(name, stream=False).sdk
    assert parsed_with_equal_arguments(sides.ours) != sides.sdk


def test_the_tables_name_scenarios_that_exist() -> None:
    assert {name for name, _ in (*APART, *FLAGS)} | EXACT.keys() | LATER.keys() <= set(NAMES)


SCHEMA: dict[str, Json] = {"type": "array", "items": {"type": "integer"}, "minItems": 2}


@pytest.mark.parametrize("stream", [True, False])
def test_our_own_request_for_a_structured_answer_comes_back_as_one(*, stream: bool) -> None:
    asked = replace(item(PROMPT, model="M/m", stream=stream), schema=SCHEMA)
    dialect = AnthropicMessages(provider("anthropic", "anthropic-messages"))
    body = dialect.encode(asked, Revision()).body or b""

    async def use(url: str, http: httpx2.AsyncClient) -> int:
        reply = await http.post(
            f"{url}/v1/messages", content=body, headers={"anthropic-version": "2023-06-01", "x-api-key": "k"}
        )
        return reply.status_code

    status, replies = with_world(World(), use)
    answer = replies[0].read_with(dialect.decoder(asked))
    assert status == 200
    assert isinstance(answer, Answer)
    assert isinstance(answer.parsed, list)
    assert (json.loads(answer.text), answer.tool_calls) == (answer.parsed, ())
