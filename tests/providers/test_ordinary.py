"""What is read in one typed step comes to the same as what the careful readers make of it; most replies are such."""

import copy
import json
import random
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import pytest
from hypothesis import given, strategies

import batchrunner
from batchrunner.core.http import Completed, Ending
from batchrunner.core.job import DialectName
from batchrunner.core.job import Json as JsonValue
from batchrunner.core.outcome import Answer, SendOutcome
from batchrunner.providers import dialect_for
from batchrunner.providers.anthropic_messages import MessagesDecoder
from batchrunner.providers.known_shapes import chat_counts
from batchrunner.providers.openai_chat import ChatDecoder
from batchrunner.providers.reply_fields import usage_of
from tests.providers.reading import EVENTS, JSON, RESET, TIMEOUT, head, item, provider, read

CHAT: DialectName = "openai-chat"
MESSAGES: DialectName = "anthropic-messages"

COUNTS: dict[str, JsonValue] = {"prompt_tokens": 12, "completion_tokens": 20, "total_tokens": 32}

PACKAGE = str(Path(batchrunner.__file__).parent)


def chat(message: dict[str, JsonValue] | None = None, **more: JsonValue) -> dict[str, JsonValue]:
    said: dict[str, JsonValue] = {"role": "assistant", "content": "A fox jumps.", **(message or {})}
    choice: dict[str, JsonValue] = {"index": 0, "message": said, "finish_reason": "stop"}
    return {
        "id": "c-1", "object": "chat.completion", "created": 17, "model": "m", "choices": [choice], "usage": COUNTS,
        **more,
    }  # fmt: skip


def message(**more: JsonValue) -> dict[str, JsonValue]:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": "A fox jumps."}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 20, "cache_read_input_tokens": 5, "service_tier": "standard"},
        **more,
    }  # fmt: skip


WHOLE: dict[str, tuple[DialectName, dict[str, JsonValue]]] = {
    "bare": (CHAT, chat()),
    "as OpenAI has it": (
        CHAT,
        chat(
            {"refusal": None, "annotations": []},
            usage={
                **COUNTS,
                "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "accepted_prediction_tokens": 0},
            },
            service_tier="default",
            system_fingerprint=None,
        ),
    ),
    "with thinking": (CHAT, chat({"reasoning_content": "Hm. \u732b", "tool_calls": None, "function_call": None})),
    "as vLLM has it": (CHAT, chat({"refusal": None, "tool_calls": []}, prompt_logprobs=None)),
    "a message": (MESSAGES, message()),
    "a message without counts": (MESSAGES, message(usage=None)),
}


def delta(said: dict[str, JsonValue], finish: JsonValue = None, **more: JsonValue) -> dict[str, JsonValue]:
    choice: dict[str, JsonValue] = {"index": 0, "delta": said, "finish_reason": finish}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 17, "model": "m", "choices": [choice], **more}


def text_delta(text: str) -> dict[str, JsonValue]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


STREAMS: dict[str, tuple[DialectName, list[dict[str, JsonValue]]]] = {
    "chat": (
        CHAT,
        [
            delta({"role": "assistant", "content": ""}),
            *(delta({"content": word}, usage=None) for word in ("A ", "fox ", "j\u00fcmps.", "", "\n\n", "\U0001f600")),
            delta({}, "stop"),
            {"id": "c-1", "choices": [], "usage": COUNTS},
        ],
    ),
    "chat with thinking": (
        CHAT,
        [
            delta({"role": "assistant", "content": None, "reasoning_content": "Hm"}),
            *(delta({"content": None, "reasoning_content": word}) for word in (", ", "so.")),
            *(delta({"content": word, "reasoning_content": None}) for word in ("A ", "fox.")),
            delta({"content": ""}, "length", usage=COUNTS),
        ],
    ),
    "a message of a text": (
        MESSAGES,
        [
            {"type": "message_start", "message": message(content=[], stop_reason=None)},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *(text_delta(word) for word in ("A ", "fox ", "j\u00fcmps.", "", "\n\n", "\U0001f600")),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 20}},
            {"type": "message_stop"},
        ],
    ),
    "messages": (
        MESSAGES,
        [
            {"type": "message_start", "message": message(content=[], stop_reason=None)},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "abc"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "A fox "}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "j\u00fcmps."}},
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 20}},
            {"type": "message_stop"},
        ],
    ),
}
ODD: list[JsonValue] = [
    None, "", "x", "<think>a</think>b", "a</think>b", "\n</think>\nb", "[THINK]a[/THINK]b", "\u25c1think\u25b7a", " ",
    "![](data:image/png;base64,iVBORw0KGgo=)", 0, 1, -1, 2**70, 1.5, True, [], {}, [None], ["a"], {"a": 1}, "length",
    "content_filter", "error", "tool_calls", "1", [{"type": "text", "text": "more"}], {"message": "no", "code": 500},
    {"cached_tokens": "7", "cache_write_tokens": 3}, "text_delta", "thinking_delta", "assistant",
]  # fmt: skip
NAMES = (
    *("content", "reasoning", "reasoning_content", "thinking", "usage", "error", "errors", "index", "delta", "message"),
    *("type", "text", "finish_reason", "stop_reason", "stop_sequence", "choices", "logprobs", "refusal", "audio"),
    *("images", "tool_calls", "annotations", "own_field", "prompt_tokens", "completion_tokens", "total_tokens"),
    *("prompt_tokens_details", "cached_tokens", "input_tokens", "citations", "signature", "prompt_cache_hit_tokens"),
    *("cache_creation_input_tokens", "finishReason", "finish_details", "x_groq", "timings", "container"),
)


def places(value: JsonValue, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """All containers in a value."""
    if isinstance(value, dict):
        yield path
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        yield path
        for place, inner in enumerate(value):
            yield from places(inner, (*path, place))


def altered(value: JsonValue, random_source: random.Random) -> JsonValue:
    """The value with something in it changed, added or left out, as servers do."""
    value = copy.deepcopy(value)
    for _ in range(random_source.choice((1, 1, 1, 2, 3))):
        here: JsonValue = value
        for step in random_source.choice(list(places(value))):
            here = here[step]  # type: ignore[index]  # the path was just found
        if isinstance(here, dict):
            name = random_source.choice([*here, *NAMES])
            if random_source.random() < 0.15:
                here.pop(name, None)
            else:
                here[name] = copy.deepcopy(random_source.choice(ODD))
        elif isinstance(here, list):
            here.insert(random_source.randrange(len(here) + 1), copy.deepcopy(random_source.choice([*ODD, *here])))
    return value


def lines(events: list[JsonValue], name: DialectName, random_source: random.Random | None = None) -> list[bytes]:
    pieces = []
    for event in events:
        kind = event.get("type") if isinstance(event, dict) else None
        named = (
            f"event: {kind}\n"
            if name == MESSAGES and kind and (random_source is None or random_source.random() < 0.9)
            else ""
        )
        end = (
            "\n\n"
            if random_source is None or random_source.random() < 0.97
            else random_source.choice(("\n", "\r\n\r\n", "\n\n\n", "\n: x\n\n"))
        )
        pieces.append(f"{named}data: {json.dumps(event, ensure_ascii=random_source is None)}{end}".encode())
    return [*pieces, *([b"data: [DONE]\n\n"] if name == CHAT else [])]


def grouped(pieces: list[bytes], random_source: random.Random) -> list[bytes]:
    """As they come: alone, several at once, all at once, and not always cut between events."""
    how = random_source.random()
    whole = b"".join(pieces)
    if random_source.random() < 0.1:
        whole = whole.replace(b"\n", b"\r\n")
    elif random_source.random() < 0.1:
        whole = whole.replace(b"data: ", b"data:")
    elif how < 0.3:
        return pieces
    ends = [place + 2 for place in range(len(whole)) if whole[place : place + 2] == b"\n\n"]
    places = ends if random_source.random() < 0.7 else list(range(len(whole)))
    cuts = sorted({0, len(whole), *random_source.sample(places, min(len(places), random_source.randrange(5)))})
    return [whole[start:stop] for start, stop in pairwise(cuts)]


def outcome(name: DialectName, kind: str, pieces: list[bytes], ending: Ending, *, careful: bool) -> SendOutcome:
    decoder = dialect_for(provider("simulator", name)).decoder(item())
    if not careful:
        return read(decoder, head(200, kind), pieces, ending)
    reader = type(decoder)
    with (
        patch.object(reader, "_read_ordinary", lambda *_: None),
        patch.object(reader, "_take_ordinary", lambda *_: None),
    ):
        return read(decoder, head(200, kind), pieces, ending)


@pytest.mark.parametrize("case", WHOLE)
@given(seed=strategies.integers(0, 2**32), ending=strategies.sampled_from([Completed(), Completed(), RESET, TIMEOUT]))
def test_a_whole_answer_comes_to_the_same_however_it_is_read(case: str, seed: int, ending: Ending) -> None:
    name, value = WHOLE[case]
    random_source = random.Random(seed)
    body = json.dumps(altered(value, random_source), ensure_ascii=random_source.random() < 0.5).encode()
    body += random_source.choice((b"", b"", b"", b"\n", b"x"))
    found = [outcome(name, JSON, [body], ending, careful=careful) for careful in (True, False)]
    assert found[1] == found[0], body


@pytest.mark.parametrize("case", STREAMS)
@given(seed=strategies.integers(0, 2**32), ending=strategies.sampled_from([Completed(), Completed(), RESET, TIMEOUT]))
def test_a_stream_comes_to_the_same_however_it_is_read(case: str, seed: int, ending: Ending) -> None:
    name, events = STREAMS[case]
    random_source = random.Random(seed)
    said: list[JsonValue] = [
        altered(event, random_source) if random_source.random() < 0.2 else event for event in events
    ]
    if random_source.random() < 0.3:
        said.insert(random_source.randrange(len(said)), random_source.choice(said))
    pieces = grouped(lines(said, name, random_source), random_source)
    found = [outcome(name, EVENTS, pieces, ending, careful=careful) for careful in (True, False)]
    assert found[1] == found[0], pieces


@pytest.mark.parametrize("case", WHOLE)
def test_an_ordinary_answer_is_read_in_one_step(case: str) -> None:
    name, value = WHOLE[case]
    never = AssertionError("the careful reader was asked")
    reader = ChatDecoder if name == CHAT else MessagesDecoder
    with patch.object(reader, "_take_json", side_effect=never):
        found = outcome(name, JSON, [json.dumps(value).encode()], Completed(), careful=False)
    assert isinstance(found, Answer)
    assert found.text == "A fox jumps."


@pytest.mark.parametrize("case", STREAMS)
def test_an_ordinary_piece_of_a_stream_costs_few_calls(case: str) -> None:
    """A budget: at most four calls of Python functions for a piece that only adds text or thinking."""
    name, events = STREAMS[case]
    decoder = dialect_for(provider("simulator", name)).decoder(item())
    decoder.begin(head(200, EVENTS))
    calls: list[str] = []

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "batchrunner" in frame.f_code.co_filename.split(
            "/"
        ):  # not Hypothesis's, of the collector
            calls.append(frame.f_code.co_qualname)

    ordinary = 0
    for event, piece in zip(events, lines(list(events), name), strict=False):
        before = calls.copy()
        sys.setprofile(count)
        decoder.feed(piece)
        sys.setprofile(None)
        if event is not events[0] and ("text" in str(event.get("delta")) or "finish_reason': None" in str(event)):
            ordinary += 1
            assert len(calls) - len(before) <= 4, calls[len(before) :]
    assert ordinary >= 2


@pytest.mark.parametrize("case", ["chat", "chat with thinking", "a message of a text"])
def test_an_ordinary_stream_never_asks_the_careful_readers(case: str) -> None:
    """However it is cut between its events, its end and its counts among them."""
    name, events = STREAMS[case]
    pieces = lines(list(events), name)
    never = AssertionError("the careful readers were asked")
    reader = ChatDecoder if name == CHAT else MessagesDecoder
    with patch.object(reader, "_take_event", side_effect=never), patch.object(reader, "_verdict", side_effect=never):
        for cut in range(len(pieces)):
            found = outcome(name, EVENTS, [b"".join(pieces[:cut]), b"".join(pieces[cut:])], Completed(), careful=False)
            assert isinstance(found, Answer)
            assert found.text.startswith("A fox")
            assert found.usage is not None
            assert found.usage.output_tokens == 20


USAGES: dict[str, tuple[JsonValue, bool]] = {
    "bare": (COUNTS, True),
    "with details": ({**COUNTS, "prompt_tokens_details": {"cached_tokens": 3}}, True),
    "nothing from a cache": ({**COUNTS, "prompt_tokens_details": {"cached_tokens": 0}}, True),
    "thinking apart": ({**COUNTS, "completion_tokens_details": {"reasoning_tokens": 4}}, True),
    "counts in a list": ([COUNTS], False),
    "counts as texts": ({"prompt_tokens": "12", "completion_tokens": "20"}, False),
    "a count that is missing": ({"prompt_tokens": 12, "total_tokens": 32}, False),
    "a count below zero": ({**COUNTS, "prompt_tokens": -1}, False),
    "a truth": ({**COUNTS, "completion_tokens": True}, False),
    "other words": ({"input_tokens": 12, "output_tokens": 20}, False),
    "more words": ({**COUNTS, "cached_tokens": 7}, False),
    "nothing": (None, False),
}


@pytest.mark.parametrize("kind", USAGES)
def test_counts_of_a_stream_come_to_the_same_in_one_step(kind: str) -> None:
    said, is_plain = USAGES[kind]
    counts = chat_counts(said)
    assert (counts is not None) == is_plain
    assert counts is None or counts == usage_of(said)
