"""What llama.cpp's server really said: bytes of its replies, read by both dialects (recorded from build b11549)."""

from collections.abc import Callable

import pytest

from batchrunner.core.outcome import Answer, Problem, ProblemKind, Usage
from batchrunner.providers.openai_chat import OpenAiChat
from tests.providers.messages import decoder as messages_decoder
from tests.providers.reading import EVENTS, JSON, head, item, provider, read_every_way

K = ProblemKind

CHAT = (
    'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
    '"created":1795397914,"id":"chatcmpl-efY4","model":"tiny.gguf","system_fingerprint":"b0-unknown",'
    '"object":"chat.completion.chunk"}\n\n'
    'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"<"}}],"created":1795397914,'
    '"id":"chatcmpl-efY4","model":"tiny.gguf","object":"chat.completion.chunk"}\n\n'
    'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"\ufffdd\ufffd"}}],"created":1795397914,'
    '"id":"chatcmpl-efY4","model":"tiny.gguf","object":"chat.completion.chunk"}\n\n'
    'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"created":1795397914,'
    '"id":"chatcmpl-efY4","model":"tiny.gguf","object":"chat.completion.chunk"}\n\n'
    'data: {"choices":[],"created":1795397914,"id":"chatcmpl-efY4","model":"tiny.gguf",'
    '"object":"chat.completion.chunk","usage":{"completion_tokens":8,"prompt_tokens":31,"total_tokens":39,'
    '"prompt_tokens_details":{"cached_tokens":0}},"timings":{"cache_n":0,"prompt_n":31,"prompt_ms":82.817}}\n\n'
    "data: [DONE]\n\n"
).encode()

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"chatcmpl-wxD4","type":"message",'
    b'"role":"assistant","content":[],"model":"tiny.gguf","stop_reason":null,"stop_sequence":null,'
    b'"usage":{"cache_read_input_tokens":0,"input_tokens":22,"output_tokens":0}}}\n\n'
)
BLOCK = (
    'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    '"content_block":{"type":"text","text":""}}\n\n'
    'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    '"delta":{"type":"text_delta","text":"ܩ"}}\n\n'
    'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
).encode()
END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},'
    b'"usage":{"output_tokens":4}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)

LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
WRONG_KEY = b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'
TOO_LONG = (
    b'{"error":{"code":400,"message":"request (3320 tokens) exceeds the available context size (256 tokens), try '
    b'increasing it","type":"exceed_context_size_error","n_prompt_tokens":3320,"n_ctx":256}}'
)


def chat(body: bytes, *, status: int = 200, kind: str = EVENTS) -> object:
    """What the chat dialect makes of a reply, however it is cut."""
    dialect = OpenAiChat(provider("openai"))
    return read_every_way(lambda: dialect.decoder(item()), head(status, kind), body)


def messages(body: bytes, *, status: int = 200, kind: str = EVENTS) -> object:
    """What the messages dialect makes of a reply, however it is cut."""
    return read_every_way(messages_decoder, head(status, kind), body)


def test_a_chat_stream_is_read_with_its_usage() -> None:
    assert chat(CHAT) == Answer(
        text="<\ufffdd\ufffd",
        finish_reason="length",
        truncated=True,
        usage=Usage(input_tokens=31, output_tokens=8),
    )


def test_a_message_is_read_with_its_usage() -> None:
    assert messages(START + BLOCK + END) == Answer(
        text="ܩ", finish_reason="max_tokens", truncated=True, usage=Usage(input_tokens=22, output_tokens=4)
    )


def test_a_message_whose_first_token_was_no_whole_character_lacks_its_start_and_is_kept() -> None:
    assert messages(BLOCK + END) == Answer(
        text="ܩ",
        finish_reason="max_tokens",
        truncated=True,
        usage=Usage(output_tokens=4),
        flags=("no_message_start",),
    )


@pytest.mark.parametrize("body", [END, START + END], ids=["without its start", "with it"])
def test_a_message_without_any_text_is_empty_and_not_corrupt(body: bytes) -> None:
    problem = messages(body)
    assert isinstance(problem, Problem)
    assert problem.kind is K.EMPTY_RESPONSE


@pytest.mark.parametrize("index", ["1", "[0]", '"0"'])
def test_a_message_that_begins_in_the_middle_is_corrupt(index: str) -> None:
    problem = messages(BLOCK.replace(b'"index":0', f'"index":{index}'.encode()) + END)
    assert isinstance(problem, Problem)
    assert problem.kind is K.STREAM_CORRUPT


@pytest.mark.parametrize("read", [chat, messages], ids=["chat", "messages"])
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(503, LOADING, K.OVERLOADED), (401, WRONG_KEY, K.AUTH), (400, TOO_LONG, K.BAD_REQUEST)],
    ids=["loading", "wrong key", "too long"],
)
def test_refusals_state_what_they_are_in_the_servers_words(
    read: Callable[..., object], status: int, body: bytes, kind: ProblemKind
) -> None:
    problem = read(body, status=status, kind=JSON)
    assert isinstance(problem, Problem)
    assert problem.kind is kind
    assert problem.message.encode() in body
    assert not problem.under_way
