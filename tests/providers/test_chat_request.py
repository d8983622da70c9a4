"""What a chat looks like on the wire, and which dialects there are."""

import json

import pytest

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.http import Request
from batchrunner.core.item import InputPicture, Item
from batchrunner.core.job import DialectName, Json, PresetName, Turn
from batchrunner.core.outcome import Adaptation, Correction, Revision
from batchrunner.providers import DIALECTS, dialect_for
from batchrunner.providers.anthropic_messages import AnthropicMessages
from batchrunner.providers.modelscope_images import ModelScopeImages
from batchrunner.providers.openai_chat import OpenAiChat
from batchrunner.providers.openai_embeddings import OpenAiEmbeddings
from batchrunner.providers.openai_images import OpenAiImages
from batchrunner.providers.openai_responses import OpenAiResponses
from batchrunner.providers.openai_transcriptions import OpenAiTranscriptions
from batchrunner.providers.tasks import TableTasks
from tests.providers.reading import item, provider

CAT = InputPicture(name="cat.png", sha256="0" * 64, url="data:image/png;base64,AAAA")
DOG = InputPicture(name="https://x.example/dog.png", sha256="1" * 64, url="https://x.example/dog.png")


def sent(asked: Item, *adapted: Adaptation, correction: Correction | None = None) -> dict[str, Json]:
    request = OpenAiChat(provider()).encode(asked, Revision(adapted=frozenset(adapted), correction=correction))
    body: dict[str, Json] = json.loads(request.body or b"")
    return body


def test_a_chat_is_a_post_of_model_messages_and_a_stream_with_usage() -> None:
    request = OpenAiChat(provider()).encode(item("你好"), Revision())
    assert request == Request(
        method="POST",
        url="http://127.0.0.1:8000/v1/chat/completions",
        headers={"content-type": "application/json", "accept": "text/event-stream"},
        body='{"model":"Qwen/Qwen3-8B","messages":[{"role":"user","content":"你好"}],"stream":true,'
        '"stream_options":{"include_usage":true}}'.encode(),
    )


def test_all_turns_go_in_order() -> None:
    turns = (
        Turn(role="system", content="Be brief."),
        Turn(role="user", content="a"),
        Turn(role="assistant", content="b"),
    )
    assert sent(item(turns=turns))["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


def test_parameters_stand_at_the_top_as_they_are_unknown_ones_too() -> None:
    params: dict[str, Json] = {
        "temperature": 0.5,
        "enable_thinking": False,
        "chat_template_kwargs": {"enable_thinking": False},
        "my_own": [1, None, {"a": "b"}],
        "stream_options": {"include_usage": False},
    }
    body = sent(item(params=params))
    assert {name: body[name] for name in params} == params


def test_an_item_that_does_not_stream_asks_for_json() -> None:
    body = sent(item(stream=False))
    assert body["stream"] is False
    assert "stream_options" not in body
    request = OpenAiChat(provider()).encode(item(stream=False), Revision())
    assert request.headers["accept"] == "application/json"


ADAPTED: list[tuple[Adaptation, dict[str, Json], dict[str, Json]]] = [
    ("stream", {}, {"stream": True, "stream_options": {"include_usage": True}}),
    ("stream", {"stream": False}, {"stream": True, "stream_options": {"include_usage": True}}),
    ("no_stream_options", {"stream": True}, {"stream": True}),
    ("no_stream_options", {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
    (
        "no_thinking_switch",
        {"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": False, "x": 1}},
        {"chat_template_kwargs": {"x": 1}, "stream": True, "stream_options": {"include_usage": True}},
    ),
]


@pytest.mark.parametrize(("adaptation", "params", "expected"), ADAPTED)
def test_a_resend_is_changed_as_the_server_asked(
    adaptation: Adaptation, params: dict[str, Json], expected: dict[str, Json]
) -> None:
    body = sent(item(stream=False, params=params), adaptation)
    assert {name: value for name, value in body.items() if name not in {"model", "messages"}} == expected


def test_pictures_stand_in_the_last_user_turn() -> None:
    turns = (
        Turn(role="user", content="first"),
        Turn(role="user", content="what?"),
        Turn(role="assistant", content="x"),
    )
    messages = sent(item(turns=turns, pictures=(CAT, DOG)))["messages"]
    assert messages == [
        {"role": "user", "content": "first"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": CAT.url}},
                {"type": "image_url", "image_url": {"url": DOG.url}},
                {"type": "text", "text": "what?"},
            ],
        },
        {"role": "assistant", "content": "x"},
    ]


@pytest.mark.parametrize("turns", [(Turn(role="user", content=""),), ()])
def test_pictures_need_no_words(turns: tuple[Turn, ...]) -> None:
    picture = {"type": "image_url", "image_url": {"url": CAT.url}}
    assert sent(item(turns=turns, pictures=(CAT,)))["messages"] == [{"role": "user", "content": [picture]}]


def test_a_schema_is_sent_as_response_format_unless_the_person_wrote_one() -> None:
    schema: dict[str, Json] = {"type": "object"}
    expected = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert sent(item(schema=schema))["response_format"] == expected
    own: dict[str, Json] = {"response_format": {"type": "json_object"}}
    assert sent(item(schema=schema, params=own))["response_format"] == {"type": "json_object"}


def test_a_correction_comes_behind_everything() -> None:
    messages = sent(item("4?", pictures=(CAT,)), correction=Correction(said='{"n": "x"}', fault="$.n: not an integer"))[
        "messages"
    ]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages if isinstance(message, dict)] == ["user", "assistant", "user"]
    assert messages[1] == {"role": "assistant", "content": '{"n": "x"}'}
    assert "$.n: not an integer" in json.dumps(messages[2])


def test_text_that_utf8_cannot_hold_is_sent_all_the_same() -> None:
    assert sent(item("a\ud800"))["messages"] == [{"role": "user", "content": "a\ud800"}]


def test_encoding_is_repeatable() -> None:
    dialect = OpenAiChat(provider())
    asked = item(params={"b": 1, "a": 2}, schema={"type": "object"})
    assert dialect.encode(asked, Revision()) == dialect.encode(asked, Revision())


URLS: list[tuple[PresetName, str, str]] = [
    ("modelscope", "https://api-inference.modelscope.cn/v1", "https://api-inference.modelscope.cn/v1/chat/completions"),
    ("modelscope", "https://api-inference.modelscope.cn", "https://api-inference.modelscope.cn/v1/chat/completions"),
    ("openai", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/chat/completions"),
    ("openai", "http://127.0.0.1:8000/proxy/", "http://127.0.0.1:8000/proxy/chat/completions"),
    ("simulator", "http://simulator.invalid/v1", "http://simulator.invalid/v1/chat/completions"),
]


@pytest.mark.parametrize(("preset", "base_url", "url"), URLS)
def test_a_base_url_is_taken_as_it_stands_and_at_modelscope_with_or_without_v1(
    preset: PresetName, base_url: str, url: str
) -> None:
    assert OpenAiChat(provider(preset, base_url=base_url)).encode(item(), Revision()).url == url


def test_each_dialect_of_the_table_is_made_for_its_provider() -> None:
    assert {name: type(dialect_for(provider("simulator", name))) for name in DIALECTS} == {
        "openai-chat": OpenAiChat,
        "openai-responses": OpenAiResponses,
        "anthropic-messages": AnthropicMessages,
        "modelscope-images": ModelScopeImages,
        "openai-images": OpenAiImages,
        "task": TableTasks,
        "openai-embeddings": OpenAiEmbeddings,
        "openai-transcriptions": OpenAiTranscriptions,
    }
    assert isinstance(dialect_for(provider(dialect="modelscope-images")), ModelScopeImages)


def test_a_dialect_that_is_not_supported_is_a_mistake_of_the_job() -> None:
    unspoken: DialectName = "klingon"  # type: ignore[assignment] # no such name: that is the point
    with pytest.raises(JobMistakesError) as caught:
        dialect_for(provider("openai", unspoken))
    (mistake,) = caught.value.mistakes
    assert mistake.key == "provider.dialect"
    assert "openai-chat" in str(mistake)
