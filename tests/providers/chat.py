"""The parts that chat replies of these tests are put together from."""

import json

from batchrunner.core.http import Decoder, Ending
from batchrunner.core.job import Json as JsonValue
from batchrunner.core.outcome import Answer, ToolCall, Usage
from batchrunner.providers.openai_chat import OpenAiChat
from tests.providers.reading import EVENTS, head, item, provider, read_every_way


def event(value: JsonValue) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(finish: JsonValue = None, **fields: JsonValue) -> bytes:
    return event({"id": "c1", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}], "usage": None})


def tools(*calls: JsonValue, finish: JsonValue = None) -> bytes:
    return delta(finish, tool_calls=list(calls))


DONE = b"data: [DONE]\n\n"
STOP = delta("stop")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}})
HI = delta(content="Hi.")
USED = Usage(input_tokens=9, output_tokens=2)
CALL = ToolCall(id="call_1", name="f", arguments='{"a": 1}')


def hi(*flags: str, finish_reason: str | None = "stop", usage: Usage | None = None) -> Answer:
    return Answer(text="Hi.", finish_reason=finish_reason, usage=usage, flags=flags)


FINISHED = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi.", "refusal": None, "tool_calls": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}
SHELL = {
    "id": "",
    "object": "",
    "created": 0,
    "model": "deepseek-ai/DeepSeek-V4-Flash",
    "system_fingerprint": "",
    "choices": None,
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
}


def decoder(schema: dict[str, JsonValue] | None = None) -> Decoder[object]:
    return OpenAiChat(provider()).decoder(item(schema=schema))


def outcome_of(
    body: bytes,
    *,
    content_type: str = EVENTS,
    ending: Ending | None = None,
    schema: dict[str, JsonValue] | None = None,
) -> object:
    return read_every_way(lambda: decoder(schema), head(200, content_type), body, ending)
