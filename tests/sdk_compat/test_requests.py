"""The official SDKs and our dialects ask for the same: pictures, tools, schemas, thinking, several turns, images.

Both bodies are compared as JSON, and both sides read the simulator's reply to it alike: so what we send is what the
SDK would send, and what comes of it is what the SDK would give.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import ContentBlockParam
from openai.types.chat import ChatCompletionContentPartParam
from pydantic import TypeAdapter

from batchrunner.core.item import InputFile, InputPicture, Item
from batchrunner.core.job import Json, Turn
from batchrunner.core.outcome import Answer, Pictures, Revision
from batchrunner.core.values import replace
from batchrunner.providers.anthropic_messages import AnthropicMessages
from batchrunner.providers.openai_chat import OpenAiChat
from batchrunner.providers.openai_images import OpenAiImages
from batchrunner.simulator.script import Call, Script
from batchrunner.simulator.world import World
from tests.sdk_compat.items import item, provider
from tests.sdk_compat.parsed_answer import ParsedAnswer, parsed_by_us
from tests.sdk_compat.recorder import Reply, with_world
from tests.sdk_compat.test_anthropic import parsed as parsed_message
from tests.sdk_compat.test_anthropic import parsed_with_equal_arguments
from tests.sdk_compat.test_openai_chat import parsed as parsed_completion

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DATA_URL, LINK = f"data:image/png;base64,{PIXEL}", "https://pictures.example/cat.jpg"
PROMPT = "What is it? é 猫"
SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {"answer": {"type": "number"}, "reasoning": {"type": "string"}},
    "required": ["answer", "reasoning"],
    "additionalProperties": False,
}
WEATHER: dict[str, Json] = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "day": {"type": "string", "enum": ["today", "tomorrow"]}},
    "required": ["place"],
}
TURNS = (
    Turn(role="user", content="I am Ann."),
    Turn(role="assistant", content="Hello, Ann."),
    Turn(role="user", content=PROMPT),
)


class Noticing(World):
    """A provider that remembers the bodies of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[dict[str, Any]] = []

    def answer(self, call: Call, now: float) -> Script:
        """As ever."""
        self.bodies.append(json.loads(call.body))
        return super().answer(call, now)


def pictures(*urls: str) -> tuple[InputPicture, ...]:
    """Pictures that a model is shown."""
    return tuple(InputPicture(name=url[:20], sha256="0" * 64, url=url) for url in urls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The same request, as one of our items and as the SDK's arguments."""

    ours: Item
    theirs: dict[str, Any]


def asked(theirs: dict[str, Any], *, stream: bool = True, **changes: Any) -> Asked:
    """Ours has the parameters of theirs that are not its own business."""
    return Asked(ours=replace(item(PROMPT, model="M/m", stream=stream), **changes), theirs=theirs)


# -- chat completions


def conversation(content: object = PROMPT) -> list[dict[str, Any]]:
    """A conversation of one turn."""
    return [{"role": "user", "content": content}]


SHOWN = [
    {"type": "image_url", "image_url": {"url": DATA_URL}},
    {"type": "image_url", "image_url": {"url": LINK}},
    {"type": "text", "text": PROMPT},
]
PAPER = InputFile(name="papers/a b.pdf", kind="pdf", sha256="0" * 64, url="data:application/pdf;base64,JVBERi0xLjcK")
SPOKEN = InputFile(name="a.mp3", kind="mp3", sha256="0" * 64, url="data:audio/mpeg;base64,SUQzBA==")
LINKED = InputFile(name="https://h.example/a.pdf", kind="pdf", sha256="0" * 64, url="https://h.example/a.pdf")
GIVEN: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": {"url": LINK}},
    {"type": "file", "file": {"filename": "a b.pdf", "file_data": PAPER.url}},
    {"type": "input_audio", "input_audio": {"data": "SUQzBA==", "format": "mp3"}},
    {"type": "text", "text": PROMPT},
]
FUNCTION: dict[str, Json] = {"name": "weather", "description": "The weather.", "parameters": WEATHER}
TOOLS: Json = [{"type": "function", "function": FUNCTION}]
CHATS: dict[str, Asked] = {
    "plain": asked({"messages": conversation()}),
    "not streamed": asked({"messages": conversation()}, stream=False),
    "pictures": asked({"messages": conversation(SHOWN)}, pictures=pictures(DATA_URL, LINK)),
    "a document and sound": asked({"messages": conversation(GIVEN)}, pictures=pictures(LINK), files=(PAPER, SPOKEN)),
    "tools": asked(
        {"messages": conversation(), "tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
        params={"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
    ),
    "a tool that must be called": asked(
        {
            "messages": conversation(),
            "tools": TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
        params={"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "a schema": asked(
        {
            "messages": conversation(),
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        },
        schema=SCHEMA,
    ),
    "thinking": asked(
        {"messages": conversation(), "extra_body": {"enable_thinking": True}}, params={"enable_thinking": True}
    ),
    "several turns": asked(
        {"messages": [{"role": turn.role, "content": turn.content} for turn in TURNS], "temperature": 0.5},
        turns=TURNS,
        params={"temperature": 0.5},
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_the_openai_sdk_asks_for_the_same_chat_and_reads_the_same_answer(name: str) -> None:
    case, world = CHATS[name], Noticing()
    dialect = OpenAiChat(provider("openai", "openai-chat"))

    async def use(url: str, http: httpx2.AsyncClient) -> ParsedAnswer:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        if not case.ours.stream:
            made = await client.chat.completions.create(model="M/m", stream=False, **case.theirs)
            return parsed_completion(made)
        options: Any = {"include_usage": True}
        async with client.chat.completions.stream(model="M/m", stream_options=options, **case.theirs) as stream:
            return parsed_completion(await stream.get_final_completion())

    theirs, replies = with_world(world, use)
    assert world.bodies[0] == json.loads(dialect.encode(case.ours, Revision()).body or b"")
    answer = replies[0].read_with(dialect.decoder(case.ours))
    assert isinstance(answer, Answer)
    assert parsed_by_us(answer) == on_one_id(theirs)
    assert bool(answer.tool_calls) == ("tool" in name)
    assert (answer.parsed is not None, answer.reasoning is not None) == (name == "a schema", name == "thinking")


def on_one_id(said: ParsedAnswer) -> ParsedAnswer:
    """The SDK's accumulator strings together an id that each piece repeats."""
    calls = tuple(
        (call[: len(call) // max(1, call.count("call_"))] if call else call, *rest) for call, *rest in said.calls
    )
    return replace(said, calls=calls)  # type: ignore[arg-type]  # a starred tuple has no length for mypy


# -- messages

BLOCKS = [
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    {"type": "image", "source": {"type": "url", "url": LINK}},
    {"type": "text", "text": PROMPT},
]
DOCUMENTS: list[dict[str, Any]] = [
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjcK"}},
    {"type": "document", "source": {"type": "url", "url": LINKED.url}},
    {"type": "text", "text": PROMPT},
]
TOOL: dict[str, Json] = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}
ANSWER_TOOL = {"name": "structured_answer", "description": "Gives the answer.", "input_schema": SCHEMA}
MESSAGES: dict[str, Asked] = {
    "plain": asked({"messages": conversation(), "max_tokens": 4096}),
    "not streamed": asked({"messages": conversation(), "max_tokens": 4096}, stream=False),
    "documents": asked({"messages": conversation(DOCUMENTS), "max_tokens": 4096}, files=(PAPER, LINKED)),
    "a system prompt": asked(
        {"messages": conversation(), "max_tokens": 300, "system": "Be brief."},
        turns=(Turn(role="system", content="Be brief."), Turn(role="user", content=PROMPT)),
        params={"max_tokens": 300},
    ),
    "pictures": asked({"messages": conversation(BLOCKS), "max_tokens": 4096}, pictures=pictures(DATA_URL, LINK)),
    "tools": asked(
        {"messages": conversation(), "max_tokens": 4096, "tools": [TOOL], "tool_choice": {"type": "auto"}},
        params={"tools": [TOOL], "tool_choice": {"type": "auto"}},
    ),
    "a schema": asked(
        {
            "messages": conversation(),
            "max_tokens": 4096,
            "tools": [ANSWER_TOOL],
            "tool_choice": {"type": "tool", "name": "structured_answer"},
        },
        schema=SCHEMA,
    ),
    "thinking": asked(
        {"messages": conversation(), "max_tokens": 5096, "thinking": {"type": "enabled", "budget_tokens": 1000}},
        params={"thinking": {"type": "enabled", "budget_tokens": 1000}},
    ),
    "several turns": asked(
        {"messages": [{"role": turn.role, "content": turn.content} for turn in TURNS], "max_tokens": 4096},
        turns=TURNS,
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_anthropic_sdk_asks_for_the_same_message_and_reads_the_same_answer(name: str) -> None:
    case, world = MESSAGES[name], Noticing()
    dialect = AnthropicMessages(provider("anthropic", "anthropic-messages"))

    async def use(url: str, http: httpx2.AsyncClient) -> ParsedAnswer:
        client = anthropic.AsyncAnthropic(base_url=url, api_key="k", http_client=http, max_retries=0)
        if not case.ours.stream:
            return parsed_message(await client.messages.create(model="M/m", stream=False, **case.theirs))
        async with client.messages.stream(model="M/m", **case.theirs) as stream:
            return parsed_message(await stream.get_final_message())

    theirs, replies = with_world(world, use)
    assert without_stream(world.bodies[0]) == without_stream(
        json.loads(dialect.encode(case.ours, Revision()).body or b"")
    )
    answer = replies[0].read_with(dialect.decoder(case.ours))
    assert isinstance(answer, Answer)
    if name == "a schema":
        assert (json.loads(theirs.calls[0][2]), answer.tool_calls) == (answer.parsed, ())
        return
    assert parsed_with_equal_arguments(answer) == theirs
    assert (bool(answer.tool_calls), answer.reasoning is not None) == (name == "tools", name == "thinking")


def without_stream(body: dict[str, Any]) -> dict[str, Any]:
    """`stream: false` is what no word of it means."""
    return {key: value for key, value in body.items() if key != "stream" or value}


# -- images


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("gpt-image-1", {"n": 2, "size": "64x64", "quality": "low"}),
        ("dall-e-2", {"n": 2, "size": "64x64", "response_format": "url"}),
        ("dall-e-2", {"n": 1, "size": "64x64", "response_format": "b64_json"}),
    ],
)
def test_the_openai_sdk_asks_for_the_same_pictures_and_gets_as_many(model: str, params: dict[str, Any]) -> None:
    world, dialect = Noticing(), OpenAiImages(provider("openai", "openai-images"))
    ours = item(PROMPT, model=model, params=params, stream=False)

    async def use(url: str, http: httpx2.AsyncClient) -> int:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        return len((await client.images.generate(model=model, prompt=PROMPT, **params)).data or ())

    count, replies = with_world(world, use)
    assert world.bodies[0] == json.loads(dialect.encode(ours, Revision()).body or b"")
    made = replies[0].read_with(dialect.decoder(ours))
    assert isinstance(made, Pictures)
    assert len(made.refs) == count == params["n"]


# -- what the simulator gives to a client that goes on


Use = Callable[[str, httpx2.AsyncClient], Awaitable[Any]]


def both(use: Use) -> tuple[Any, tuple[Reply, ...]]:
    """One conversation with a world of its own."""
    return with_world(World(), use)


def test_a_tools_answer_is_answered_in_words_by_both_dialects() -> None:
    async def by_openai(url: str, http: httpx2.AsyncClient) -> tuple[str | None, str | None]:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        turns: list[Any] = conversation()
        tools: Any = TOOLS
        first = (await client.chat.completions.create(model="M/m", messages=turns, tools=tools)).choices[0].message
        called = (first.tool_calls or [])[0]
        turns += [first.model_dump(), {"role": "tool", "tool_call_id": called.id, "content": "sunny"}]
        second = (await client.chat.completions.create(model="M/m", messages=turns, tools=tools)).choices[0].message
        return first.content, second.content

    async def by_anthropic(url: str, http: httpx2.AsyncClient) -> tuple[str, str]:
        client = anthropic.AsyncAnthropic(base_url=url, api_key="k", http_client=http, max_retries=0)
        turns: list[Any] = conversation()
        tools: Any = [TOOL]
        first = await client.messages.create(model="M/m", max_tokens=500, messages=turns, tools=tools)
        used = next(block for block in first.content if block.type == "tool_use")
        result = {"type": "tool_result", "tool_use_id": used.id, "content": "sunny"}
        turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = await client.messages.create(model="M/m", max_tokens=500, messages=turns, tools=tools)
        return str(first.stop_reason), str(second.stop_reason)

    said, _ = both(by_openai)
    assert said[0] is None
    assert said[1]
    assert both(by_anthropic)[0] == ("tool_use", "end_turn")


@pytest.mark.parametrize("form", ["float", "base64"])
def test_the_openai_sdk_gets_its_embeddings(form: Any) -> None:
    async def use(url: str, http: httpx2.AsyncClient) -> list[Any]:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        made = await client.embeddings.create(model="M/e", input=["a", "b"], encoding_format=form, dimensions=8)
        return [entry.embedding for entry in made.data]

    first, second = both(use)[0]
    assert first != second
    assert form == "base64" or len(first) == len(second) == 8


# -- parts


def test_parts_with_files_are_those_that_the_sdks_describe() -> None:
    """The SDKs send any mapping: whether a part has what its type needs, their types say."""
    for part in GIVEN:
        TypeAdapter[Any](ChatCompletionContentPartParam).validate_python(part, strict=True)
    for block in DOCUMENTS:
        TypeAdapter[Any](ContentBlockParam).validate_python(block, strict=True)
