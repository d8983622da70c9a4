"""The parts that Anthropic replies of these tests are put together from."""

import json

from batchrunner.core.http import Decoder, Ending
from batchrunner.core.job import Json as JsonValue
from batchrunner.core.outcome import Answer, Usage
from batchrunner.providers.anthropic_messages import AnthropicMessages
from tests.providers.reading import EVENTS, head, item, provider, read_every_way


def event(name: str, **fields: JsonValue) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def block(index: int, **fields: JsonValue) -> bytes:
    return event("content_block_start", index=index, content_block=fields)


def piece(index: int, kind: str, **fields: JsonValue) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def text(said: str, index: int = 0) -> bytes:
    return piece(index, "text_delta", text=said)


def thinking(said: str, index: int = 0) -> bytes:
    return piece(index, "thinking_delta", thinking=said)


def pieces_of_input(index: int, *parts: str) -> bytes:
    return b"".join(piece(index, "input_json_delta", partial_json=part) for part in parts)


def ended(reason: JsonValue = "end_turn", **usage: JsonValue) -> bytes:
    change: dict[str, JsonValue] = {"stop_reason": reason, "stop_sequence": None}
    return event("message_delta", delta=change, usage=usage or {"output_tokens": 2})


def nameless(stream: bytes) -> bytes:
    """The stream without its `event:` lines."""
    return b"".join(line for line in stream.splitlines(keepends=True) if not line.startswith(b"event:"))


START = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    },
)
BLOCK = block(0, type="text", text="")
PING = event("ping")
HI = text("Hi.")
CLOSED = event("content_block_stop", index=0)
STOP = event("message_stop")
BEGUN = START + BLOCK + PING + HI + CLOSED
WHOLE = BEGUN + ended() + STOP
USED = Usage(input_tokens=9, output_tokens=2)
TOOL = block(0, type="tool_use", id="toolu_1", name="f", input={})


def hi(*flags: str, finish_reason: str | None = "end_turn", usage: Usage | None = USED) -> Answer:
    return Answer(text="Hi.", finish_reason=finish_reason, usage=usage, flags=flags)


FINISHED: dict[str, JsonValue] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 0, "service_tier": "standard"},
}


def decoder(schema: dict[str, JsonValue] | None = None) -> Decoder[object]:
    return AnthropicMessages(provider("anthropic", "anthropic-messages")).decoder(item(schema=schema))


def outcome_of(
    body: bytes,
    *,
    content_type: str = EVENTS,
    ending: Ending | None = None,
    schema: dict[str, JsonValue] | None = None,
) -> object:
    return read_every_way(lambda: decoder(schema), head(200, content_type), body, ending)
