"""What a message looks like on the wire."""

import json

import pytest

from batchrunner.core.http import Request
from batchrunner.core.item import InputPicture, Item
from batchrunner.core.job import Json, PresetName, Turn
from batchrunner.core.outcome import Adaptation, Correction, Revision
from batchrunner.core.values import replace
from batchrunner.providers import dialect_for
from batchrunner.providers.anthropic_messages import AnthropicMessages
from batchrunner.providers.structured import NAME
from tests.providers.reading import item, provider

CAT = InputPicture(name="cat.png", sha256="0" * 64, url="data:image/png;base64,AAAA")
DOG = InputPicture(name="https://x.example/dog.png", sha256="1" * 64, url="https://x.example/dog.png")
ANTHROPIC = provider("anthropic", "anthropic-messages", "https://api.anthropic.com")


def sent(asked: Item, *adapted: Adaptation, correction: Correction | None = None) -> dict[str, Json]:
    revision = Revision(adapted=frozenset(adapted), correction=correction)
    body: dict[str, Json] = json.loads(AnthropicMessages(ANTHROPIC).encode(asked, revision).body or b"")
    return body


def test_a_message_is_a_post_with_a_version_and_a_token_limit() -> None:
    assert AnthropicMessages(ANTHROPIC).encode(item("你好"), Revision()) == Request(
        method="POST",
        url="https://api.anthropic.com/v1/messages",
        headers={
            "content-type": "application/json",
            "accept": "text/event-stream",
            "anthropic-version": "2023-06-01",
        },
        body='{"model":"Qwen/Qwen3-8B","max_tokens":4096,"messages":[{"role":"user","content":"你好"}],'
        '"stream":true}'.encode(),
    )


@pytest.mark.parametrize(
    ("preset", "base_url"),
    [
        ("anthropic", "https://host.example"),
        ("anthropic", "https://host.example/v1"),
        ("modelscope-anthropic", "https://host.example/"),
        ("simulator", "https://host.example/v1"),
    ],
)
def test_the_path_has_one_v1(preset: PresetName, base_url: str) -> None:
    dialect = dialect_for(provider(preset, "anthropic-messages", base_url))
    assert dialect.encode(item(), Revision()).url == "https://host.example/v1/messages"


def test_the_system_stands_at_the_top_and_the_turns_in_order() -> None:
    turns = (
        Turn(role="system", content="Be brief."),
        Turn(role="developer", content="Be kind."),
        Turn(role="user", content="a"),
        Turn(role="assistant", content="b"),
        Turn(role="user", content="c"),
    )
    body = sent(item(turns=turns))
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert "system" not in sent(item())


def test_parameters_stand_at_the_top_as_they_are_and_win() -> None:
    params: dict[str, Json] = {"max_tokens": 9, "temperature": 0.5, "my_own": [1, None], "stop_sequences": ["x"]}
    body = sent(item(params=params))
    assert {name: body[name] for name in params} == params


def test_a_budget_for_thinking_comes_on_top_of_the_default_limit() -> None:
    assert sent(item(params={"thinking": {"type": "enabled", "budget_tokens": 8000}}))["max_tokens"] == 12096


def test_an_answer_that_may_take_longer_than_ten_minutes_is_streamed() -> None:
    assert sent(item(stream=False, params={"max_tokens": 21_333}))["stream"] is False
    assert sent(item(stream=False, params={"max_tokens": 21_334}))["stream"] is True


def test_an_unstreamed_message_accepts_json() -> None:
    request = AnthropicMessages(ANTHROPIC).encode(item(stream=False), Revision())
    assert request.headers["accept"] == "application/json"


SOURCES = {
    "data:image/png;base64,AAAA": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
    "DATA:image/webp;charset=x;base64,AAAA": {"type": "base64", "media_type": "image/webp", "data": "AAAA"},
    "data:image/gif,%00%01": {"type": "base64", "media_type": "image/gif", "data": "AAE="},
    "https://x.example/dog.png": {"type": "url", "url": "https://x.example/dog.png"},
}


@pytest.mark.parametrize(("url", "source"), SOURCES.items())
def test_a_picture_is_sent_as_base64_or_by_its_url(url: str, source: Json) -> None:
    picture = InputPicture(name="p", sha256="0" * 64, url=url)
    assert sent(item("What?", pictures=(picture,)))["messages"] == [
        {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]}
    ]


def test_pictures_stand_in_the_last_user_turn_and_text_alone_is_a_string() -> None:
    turns = (Turn(role="user", content="a"), Turn(role="assistant", content="b"), Turn(role="user", content=""))
    pictured = {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": DOG.url}}]}
    assert sent(item(turns=turns, pictures=(DOG,)))["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        pictured,
    ]
    assert sent(item(turns=turns[:0], pictures=(DOG,)))["messages"] == [pictured]


OBJECT: dict[str, Json] = {"type": "object", "properties": {"n": {"type": "integer"}}}
NUMBERS: dict[str, Json] = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}


def test_a_schema_becomes_a_tool_that_must_be_called() -> None:
    body = sent(item(schema=OBJECT))
    assert body["tools"] == [{"name": NAME, "description": "Gives the answer.", "input_schema": OBJECT}]
    assert body["tool_choice"] == {"type": "tool", "name": NAME}


def test_a_schema_of_no_object_is_wrapped_with_its_definitions_at_the_root() -> None:
    tools = sent(item(schema=NUMBERS))["tools"]
    assert isinstance(tools, list)
    assert isinstance(tools[0], dict)
    assert tools[0]["input_schema"] == {
        "$defs": {"n": {"type": "integer"}},
        "type": "object",
        "properties": {"value": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
        "required": ["value"],
    }


def test_the_persons_own_tools_and_choice_stay_beside_it() -> None:
    own: Json = {"name": "weather", "input_schema": {"type": "object"}}
    body = sent(item(schema=OBJECT, params={"tools": [own], "tool_choice": {"type": "any"}}))
    assert isinstance(body["tools"], list)
    assert body["tools"][0] == own
    assert len(body["tools"]) == 2
    assert body["tool_choice"] == {"type": "any"}


def test_a_model_that_thinks_is_only_offered_the_tool() -> None:
    body = sent(item(schema=OBJECT, params={"thinking": {"type": "enabled", "budget_tokens": 1024}}))
    assert body["tool_choice"] == {"type": "auto"}


def test_a_correction_follows_what_the_model_answered() -> None:
    messages = sent(item(schema=OBJECT), correction=Correction(said='{"n": "x"}', fault="$.n: no"))["messages"]
    assert isinstance(messages, list)
    assert messages[1] == {"role": "assistant", "content": '{"n": "x"}'}
    assert isinstance(messages[2], dict)
    assert messages[2]["role"] == "user"
    assert "$.n: no" in str(messages[2]["content"])


def test_a_correction_of_nothing_sends_no_empty_turn() -> None:
    messages = sent(item(schema=OBJECT), correction=Correction(said=" ", fault="f"))["messages"]
    assert isinstance(messages, list)
    assert [turn["role"] for turn in messages if isinstance(turn, dict)] == ["user", "user"]


def test_adaptations_change_what_they_name_and_nothing_else() -> None:
    asked = item(stream=False, params={"thinking": {"type": "enabled"}, "enable_thinking": True, "top_k": 1})
    assert sent(asked, "stream")["stream"] is True
    adapted = sent(asked, "no_thinking_switch")
    assert "thinking" not in adapted
    assert "enable_thinking" not in adapted
    assert (adapted["stream"], adapted["top_k"]) == (True, 1)
    assert sent(asked, "no_stream_options") == sent(asked)


def test_what_utf_8_cannot_hold_is_sent_as_escapes() -> None:
    assert sent(item("\ud83d"))["messages"] == [{"role": "user", "content": "\ud83d"}]


CACHING = replace(ANTHROPIC, cache_system=True)


@pytest.mark.parametrize("pictures", [(), (CAT,)])
def test_the_shared_beginning_is_marked_for_the_servers_cache_whether_its_bytes_are_kept_or_not(
    pictures: tuple[InputPicture, ...],
) -> None:
    tools: list[Json] = [{"name": "look", "input_schema": {"type": "object"}}]
    params: dict[str, Json] = {"tools": tools}
    dialect = AnthropicMessages(CACHING)
    for text in ("one", "two", "three"):  # from the second on the frame is kept
        turns = (Turn(role="system", content="Be brief."), Turn(role="user", content=text))
        body = json.loads(dialect.encode(item(turns=turns, params=params, pictures=pictures), Revision()).body or b"")
        assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
        assert body["tools"] == tools
        assert text in json.dumps(body["messages"])
        assert "cache_control" not in json.dumps(sent(item(turns=turns, params=params, pictures=pictures)))


def test_without_a_system_prompt_the_last_tool_is_marked_and_without_tools_nothing() -> None:
    tools: list[Json] = [{"name": name, "input_schema": {"type": "object"}} for name in ("look", "listen")]
    dialect = AnthropicMessages(CACHING)
    body = json.loads(dialect.encode(item(params={"tools": tools}), Revision()).body or b"")
    assert [tool.get("cache_control") for tool in body["tools"]] == [None, {"type": "ephemeral"}]
    assert tools[-1] == {"name": "listen", "input_schema": {"type": "object"}}, "the job's own stay as they are"
    assert dialect.encode(item(), Revision()) == AnthropicMessages(ANTHROPIC).encode(item(), Revision())
