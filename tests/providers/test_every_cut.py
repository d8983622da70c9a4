"""Every decoder on every reply of the simulator, and on a few by hand: whole, byte by byte, at random, with junk.

The bytes are cut in fifteen ways; a stream's end is followed by rubbish, a JSON reply by blanks. The outcome is one.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from batchrunner.core.http import Completed, Decoder, Ending, Interrupted, ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Answer, Pending, Problem, ProblemKind
from batchrunner.providers.anthropic_messages import AnthropicMessages
from batchrunner.providers.modelscope_images import BalanceReader, ModelScopeImages
from batchrunner.providers.openai_chat import OpenAiChat
from batchrunner.providers.openai_embeddings import OpenAiEmbeddings
from batchrunner.providers.openai_images import OpenAiImages
from batchrunner.providers.openai_responses import OpenAiResponses
from batchrunner.providers.openai_transcriptions import OpenAiTranscriptions
from batchrunner.simulator.scenarios import SCENARIOS
from batchrunner.simulator.script import Call, Cut, Hang, Reset, Script
from batchrunner.simulator.world import World
from tests.providers.reading import EVENTS, JSON, NOON, cuts, head, item, provider, read, read_every_way

K = ProblemKind
MODEL = "Q/q"
JUNK = (
    b"",
    b"\n\n",
    b'data: {"choices": [{"index": 0, "delta": {"content": "junk"}}]}\n\n',
    b"event: x\n\xff{[",
    b'""',
)
BLANKS = (b"", b"\n", b" \r\n\t ")
SHARED = ("refusal", "mishap")
ENDS = (b"data: [DONE]", b"event: message_stop", b"event: response.completed", b"event: response.incomplete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A decoder, the call whose replies it reads, and the scenarios that have a say there."""

    make: Callable[[], Decoder[object]]
    path: str
    groups: tuple[str, ...]
    body: dict[str, Json]
    method: str = "POST"


CHAT, MESSAGES = OpenAiChat(provider("simulator")), AnthropicMessages(provider("simulator", "anthropic-messages"))
RESPONSES = OpenAiResponses(provider("simulator", "openai-responses"))
TASKS, AT_ONCE = (
    ModelScopeImages(provider("simulator", "modelscope-images")),
    OpenAiImages(provider("simulator", "openai-images")),
)
EMBEDDINGS = OpenAiEmbeddings(provider("simulator", "openai-embeddings"))
TRANSCRIPTIONS = OpenAiTranscriptions(provider("simulator", "openai-transcriptions"))
SOUND: Json = {"sha256": "0", "size": 40_000, "head": "ID3"}
TEXTS = [item("a cat"), item("Count 2 cats: é 猫 😀"), item("a dog")]
SCHEMA: dict[str, Json] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORM: Json = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
FORCED: dict[str, Json] = {
    "tools": [{"name": "structured_answer", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "structured_answer"},
}
TURNS: Json = [{"role": "user", "content": "Count 2 cats: é 猫 😀"}]
PROMPT: Json = "A cat, 猫"
ASKED = item(schema=SCHEMA)

DECODERS: dict[str, Decoded] = {
    "chat, streamed": Decoded(
        make=lambda: CHAT.decoder(item()),
        path="/v1/chat/completions",
        groups=("chat", "stream", *SHARED),
        body={"messages": TURNS, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "chat, whole": Decoded(
        make=lambda: CHAT.decoder(item()),
        path="/v1/chat/completions",
        groups=("chat", *SHARED),
        body={"messages": TURNS},
    ),
    "chat with a schema": Decoded(
        make=lambda: CHAT.decoder(ASKED),
        path="/v1/chat/completions",
        groups=("chat", "stream", *SHARED),
        body={"messages": TURNS, "stream": True, "response_format": FORM},
    ),
    "messages, streamed": Decoded(
        make=lambda: MESSAGES.decoder(item()),
        path="/v1/messages",
        groups=("chat", "stream", "message", *SHARED),
        body={"messages": TURNS, "stream": True, "max_tokens": 500},
    ),
    "messages, whole": Decoded(
        make=lambda: MESSAGES.decoder(item()),
        path="/v1/messages",
        groups=("chat", "message", *SHARED),
        body={"messages": TURNS, "max_tokens": 500},
    ),
    "messages with a schema": Decoded(
        make=lambda: MESSAGES.decoder(ASKED),
        path="/v1/messages",
        groups=("chat", "stream", "message", *SHARED),
        body={"messages": TURNS, "stream": True, "max_tokens": 500, **FORCED},
    ),
    "responses, streamed": Decoded(
        make=lambda: RESPONSES.decoder(item()),
        path="/v1/responses",
        groups=("chat", "stream", "response", *SHARED),
        body={"input": TURNS, "stream": True, "reasoning": {"summary": "auto"}},
    ),
    "responses, whole": Decoded(
        make=lambda: RESPONSES.decoder(item()),
        path="/v1/responses",
        groups=("chat", "response", *SHARED),
        body={"input": TURNS},
    ),
    "responses with a schema": Decoded(
        make=lambda: RESPONSES.decoder(ASKED),
        path="/v1/responses",
        groups=("chat", "stream", "response", *SHARED),
        body={
            "input": TURNS,
            "stream": True,
            "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}},
        },
    ),
    "a submit": Decoded(
        make=lambda: TASKS.decoder(item()),
        path="/v1/images/generations",
        groups=("image", *SHARED),
        body={"prompt": PROMPT},
    ),
    "a poll": Decoded(
        make=TASKS.poll_decoder, path="/v1/tasks/", groups=("image",), body={"prompt": PROMPT}, method="GET"
    ),
    "pictures at once": Decoded(
        make=lambda: AT_ONCE.decoder(item()),
        path="/v1/images/generations",
        groups=("picture", *SHARED),
        body={"prompt": PROMPT, "size": "16x16", "n": 2},
    ),
    "pictures, streamed": Decoded(
        make=lambda: AT_ONCE.decoder(item()),
        path="/v1/images/generations",
        groups=("picture",),
        body={"prompt": PROMPT, "size": "16x16", "stream": True, "partial_images": 1},
    ),
    "an embedding": Decoded(
        make=lambda: EMBEDDINGS.decoder(TEXTS[0]),
        path="/v1/embeddings",
        groups=("embedding", *SHARED),
        body={"input": ["a cat"], "encoding_format": "float", "dimensions": 3},
    ),
    "embeddings": Decoded(
        make=lambda: EMBEDDINGS.decoder_of_all(TEXTS),
        path="/v1/embeddings",
        groups=("embedding", *SHARED),
        body={"input": [text.prompt for text in TEXTS], "encoding_format": "float", "dimensions": 3},
    ),
    "a transcript": Decoded(
        make=lambda: TRANSCRIPTIONS.decoder(item("")),
        path="/v1/audio/transcriptions",
        groups=("transcription", *SHARED),
        body={"file": SOUND, "response_format": "verbose_json"},
    ),
    "a transcript as text": Decoded(
        make=lambda: TRANSCRIPTIONS.decoder(item("", params={"response_format": "text"})),
        path="/v1/audio/transcriptions",
        groups=("transcription", *SHARED),
        body={"file": SOUND, "response_format": "text"},
    ),
    "a balance": Decoded(
        make=lambda: BalanceReader("KEY"),
        path="/openapi/v1/magicubes/balance",
        groups=("refusal",),
        body={},
        method="GET",
    ),
}
CASES = [
    (name, scenario.name)
    for name, decoded in DECODERS.items()
    for scenario in SCENARIOS.values()
    if scenario.group in decoded.groups
]
HEADERS = {
    "authorization": "Bearer t",
    "anthropic-version": "2023-06-01",
    "x-modelscope-async-mode": "true",
    "x-modelscope-task-type": "image_generation",
}


def scripts(decoded: Decoded, scenario: str) -> Iterator[Script]:
    """What the world answers: to the first call and to the second, or to polls until the task has ended."""
    world = World(scenario=scenario)
    model = "gpt-image-1" if decoded.groups[0] == "picture" else MODEL
    order = Call(
        method="POST", path=decoded.path, headers=HEADERS, body=json.dumps({**decoded.body, "model": model}).encode()
    )
    if decoded.path == "/v1/tasks/":
        order = Call(method="POST", path="/v1/images/generations", headers=HEADERS, body=order.body)
        named = re.search(rb'"(?:task_)?id":\s*"([^"]+)"', world.answer(order, NOON).body)  # some replies are cut off
        for step in range(4):
            path = f"{decoded.path}{named[1].decode() if named else None}"
            yield world.answer(Call(method="GET", path=path, headers=HEADERS), NOON + 20.0 * step)
    elif decoded.method == "GET":
        headers = HEADERS if scenario != "auth-bad" else {"authorization": "Bearer bad-token"}
        yield world.answer(Call(method="GET", path=decoded.path, headers=headers), NOON)
    else:
        for _ in range(2):
            yield world.answer(order, NOON)


def reply_of(script: Script) -> tuple[ResponseHead | None, bytes, Ending]:
    """The reply as a transport sees it."""
    steps = (*script.early, *script.steps)
    broken = Interrupted(
        cause="timeout" if any(isinstance(s, Hang) for s in steps) else "reset", message="gone", sent=True
    )
    headless = any(isinstance(step, Reset | Hang) for step in script.early)
    if headless:
        return None, b"", broken
    ends_early = any(isinstance(step, Cut | Reset | Hang) for step in steps)
    return (
        ResponseHead(status=script.status, headers=script.headers, received_at=NOON),
        script.body,
        broken if ends_early else Completed(),
    )


def has_ended(script: Script) -> bool:
    """Whether the stream says that nothing more comes."""
    ended = script.body.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
    return script.whole and ended and any(end in script.body for end in ENDS)


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_a_reply_comes_to_one_outcome_however_it_is_cut_and_whatever_follows_it(name: str, scenario: str) -> None:
    decoded = DECODERS[name]
    for script in scripts(decoded, scenario):
        reply, body, ending = reply_of(script)
        if reply is None:
            assert isinstance(read(decoded.make(), None, [], ending), Problem)
            continue
        outcome = read_every_way(decoded.make, reply, body, ending)
        streamed = "event-stream" in reply.headers.get("content-type", "")
        followed = JUNK if streamed and has_ended(script) else BLANKS if script.whole and not streamed else ()
        for junk in followed:
            together = body + junk
            for pieces in ([together], [body, junk], [together[at : at + 1] for at in range(len(together))]):
                assert read(decoded.make(), reply, pieces, ending) == outcome, junk


# -- vectors by hand


def chat() -> Decoder[object]:
    return CHAT.decoder(item())


def messages() -> Decoder[object]:
    return MESSAGES.decoder(item())


def words(outcome: object) -> object:
    """What a vector is held to."""
    match outcome:
        case Answer(text=text, flags=flags):
            return text, flags
        case Problem(kind=kind):
            return kind
        case Pending(stub=stub):
            return "stub" if stub else "pending"
        case other:
            return other


A = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
CAT = 'data: {"choices":[{"index":0,"delta":{"content":"猫"},"finish_reason":"stop"}]}\n\n'.encode()
BEGUN = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[]}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":"half"}}\n\n'
)
OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"o"}}\n\n'
T1 = b'{"errors": {"message": "We have to rate limit you for model Q/q. If you need higher limits, please"}}'
STUB = b'{"input":null,"outputs":null,"request_id":"","task_id":"","task_status":"PENDING","time_taken":0}'
VECTORS: dict[str, tuple[Callable[[], Decoder[object]], ResponseHead, bytes, object]] = {
    "1: a BOM and CRLF": (
        chat,
        head(200, EVENTS),
        b"\xef\xbb\xbf" + A.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n",
        ("a", ("no_finish_reason",)),
    ),
    "2: a comment, and a chunk of nothing": (
        chat,
        head(200, EVENTS),
        b':hb\n\ndata:{"choices":[]}\n\n' + CAT + b"data: [DONE]\n\n",
        ("猫", ()),
    ),
    "3: a character in two pieces": (chat, head(200, EVENTS), CAT + b"data: [DONE]\n\n", ("猫", ())),
    "4: data over two lines": (
        chat,
        head(200, EVENTS),
        A.replace(b'[{"index"', b'\ndata: [{"index"') + b"data: [DONE]\n\n",
        ("a", ("no_finish_reason",)),
    ),
    "5: CR alone": (
        chat,
        head(200, EVENTS),
        (A + CAT + b"data: [DONE]\n\n").replace(b"\n", b"\r"),
        ("a猫", ()),
    ),
    "6: an error after text": (messages, head(200, EVENTS), BEGUN + OVERLOADED, K.OVERLOADED),
    "8: a throttle that names the model": (chat, head(429, JSON), T1, K.THROTTLE),
    "9: the stub": (TASKS.poll_decoder, head(200, JSON), STUB, "stub"),
}


@pytest.mark.parametrize(("make", "reply", "body", "expected"), VECTORS.values(), ids=VECTORS.keys())
def test_the_vectors_of_the_protocol(
    make: Callable[[], Decoder[object]], reply: ResponseHead, body: bytes, expected: object
) -> None:
    assert words(read_every_way(make, reply, body)) == expected
    if b"[DONE]" in body:
        for junk in JUNK:
            assert words(read_every_way(make, reply, body + junk)) == expected, junk


def test_no_decoder_is_missing() -> None:
    assert {type(decoded.make()).__name__ for decoded in DECODERS.values()} == {
        "ChatDecoder",
        "MessagesDecoder",
        "ResponsesDecoder",
        "WholeReply",
        "_PlainReply",
        "BalanceReader",
    }
    assert len(list(cuts(b"abc"))) == 15
