"""Anthropic streams, fed whole, byte by byte, in random pieces, with junk behind."""

import json
import re

import pytest

from batchrunner.core.http import Interrupted
from batchrunner.core.outcome import Answer, ToolCall, Usage
from batchrunner.core.values import replace
from tests.providers.messages import (
    BEGUN,
    BLOCK,
    CLOSED,
    FINISHED,
    HI,
    PING,
    START,
    STOP,
    TOOL,
    USED,
    WHOLE,
    block,
    decoder,
    ended,
    event,
    hi,
    nameless,
    outcome_of,
    piece,
    pieces_of_input,
    text,
    thinking,
)
from tests.providers.reading import EVENTS, JSON, RESET, TIMEOUT, head

CALL = ToolCall(id="toolu_1", name="f", arguments='{"a": 1}')


def typeless(stream: bytes) -> bytes:
    """The stream without `type` in the data of its events."""
    return re.sub(rb'data: {"type": "[a-z_]+"(, )?', b"data: {", stream)


ANSWERS: dict[str, tuple[bytes, Answer]] = {
    "a normal answer": (WHOLE, hi()),
    "no event lines": (nameless(WHOLE), hi()),
    "no types in the data": (typeless(WHOLE), hi()),
    "the data's type counts, not the line's": (WHOLE.replace(b"event: message_stop", b"event: message"), hi()),
    "CRLF": (WHOLE.replace(b"\n", b"\r\n"), hi()),
    "a BOM": (b"\xef\xbb\xbf" + WHOLE, hi()),
    "no final blank line": (WHOLE[:-2], hi()),
    "pings, comments and [DONE] anywhere": (
        PING + b": hb\n\n" + START + PING + BLOCK + HI + b"data: [DONE]\n\n" + CLOSED + ended() + PING + STOP,
        hi(),
    ),
    "a ping that is not JSON": (START + b"event: ping\ndata: pong\n\n" + BLOCK + HI + ended() + STOP, hi()),
    "unknown events": (
        event("weather", delta="warm") + START + event("mood", message="fine") + BLOCK + HI + ended() + STOP,
        hi(),
    ),
    "an unknown event with arrays where objects are known": (
        START + BLOCK + event("mood", content_block=[1], delta=[2], message=[3]) + HI + ended() + STOP,
        hi(),
    ),
    "unknown blocks and pieces": (
        START
        + block(0, type="poem", text="Roses")
        + text("are", 0)
        + block(1, type="text", text="")
        + piece(1, "rhyme_delta", text="x", rhyme=[1])
        + text("Hi.", 1)
        + ended()
        + STOP,
        replace(
            hi(),
            extras={
                "content_parts": [{"type": "poem", "text": "Rosesare"}, {"type": "text", "text": "x", "rhyme": [1]}]
            },
        ),
    ),
    "a block that begins with its text": (START + block(0, type="text", text="H") + text("i.") + ended() + STOP, hi()),
    "a text split by citations": (
        START
        + block(0, type="text", text="")
        + text("H", 0)
        + piece(0, "citations_delta", citation={"type": "char_location", "cited_text": "x"})
        + block(1, type="text", text="", citations=[])
        + text("i.", 1)
        + ended()
        + STOP,
        replace(hi(), extras={"citations": [{"type": "char_location", "cited_text": "x"}]}),
    ),
    "thinking apart from the text": (
        START
        + block(0, type="thinking", thinking="", signature="")
        + thinking("Let me")
        + thinking(" see")
        + piece(0, "signature_delta", signature="c2ln")
        + block(1, type="redacted_thinking", data="xx")
        + block(2, type="thinking", thinking="Yes.")
        + block(3, type="text", text="")
        + text("Hi.", 3)
        + ended()
        + STOP,
        Answer(
            text="Hi.",
            reasoning="Let me see\n\nYes.",
            finish_reason="end_turn",
            usage=USED,
            extras={
                "thinking_blocks": [{"type": "thinking", "thinking": "Let me see", "signature": "c2ln"}],
                "content_parts": [{"type": "redacted_thinking", "data": "xx"}],
            },
        ),
    ),
    "thinking and no answer": (
        START + block(0, type="thinking", thinking="hm") + ended() + STOP,
        Answer(text="", reasoning="hm", finish_reason="end_turn", usage=USED, flags=("reasoning_only",)),
    ),
    "an error behind the reason": (
        BEGUN + ended() + event("error", error={"type": "api_error", "message": "m"}),
        hi("no_message_stop", "trouble_after_end"),
    ),
    "every block at index 0": (
        START + block(0, type="thinking", thinking="") + thinking("hm") + CLOSED + BLOCK + HI + CLOSED + ended() + STOP,
        Answer(text="Hi.", reasoning="hm", finish_reason="end_turn", usage=USED),
    ),
    "pieces of another type than their block": (
        START + BLOCK + thinking("x") + pieces_of_input(0, "{") + HI + ended() + STOP,
        replace(hi(), extras={"content_parts": [{"type": "text", "thinking": "x", "partial_json": "{"}]}),
    ),
    "a tool call in pieces": (
        START + TOOL + pieces_of_input(0, "", '{"a"', ": 1}") + CLOSED + ended("tool_use") + STOP,
        Answer(text="", tool_calls=(CALL,), finish_reason="tool_use", usage=USED),
    ),
    "text and two calls, one without arguments, one with its input at once": (
        START
        + BLOCK
        + HI
        + block(1, type="tool_use", id="toolu_1", name="f", input={"a": 1})
        + block(2, type="tool_use", id="toolu_2", name="g", input={})
        + pieces_of_input(2, "")
        + ended("tool_use")
        + STOP,
        Answer(
            text="Hi.",
            tool_calls=(
                ToolCall(id="toolu_1", name="f", arguments='{"a":1}'),
                ToolCall(id="toolu_2", name="g", arguments="{}"),
            ),
            finish_reason="tool_use",
            usage=USED,
        ),
    ),
    "arguments may be no JSON": (
        START + TOOL + pieces_of_input(0, "{oops") + ended("tool_use") + STOP,
        Answer(
            text="",
            tool_calls=(ToolCall(id="toolu_1", name="f", arguments="{oops"),),
            finish_reason="tool_use",
            usage=USED,
        ),
    ),
    "the server's own tools are no calls": (
        START
        + block(0, type="server_tool_use", id="srv", name="web_search", input={})
        + pieces_of_input(0, '{"query": "x"}')
        + block(1, type="web_search_tool_result", tool_use_id="srv", content=[{"type": "web_search_result"}])
        + block(2, type="text", text="")
        + text("Hi.", 2)
        + ended()
        + STOP,
        replace(
            hi(),
            extras={
                "content_parts": [
                    {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": '{"query": "x"}'},
                    {
                        "type": "web_search_tool_result",
                        "content": [{"type": "web_search_result"}],
                        "tool_use_id": "srv",
                    },
                ]
            },
        ),
    ),
    "usage is a total, and what is left out stays": (
        BEGUN + ended(None, output_tokens=1) + ended(output_tokens=5) + STOP,
        hi(usage=Usage(input_tokens=9, output_tokens=5)),
    ),
    "the input counted at the end": (
        BEGUN.replace(b'"input_tokens": 9', b'"input_tokens": 0') + ended(input_tokens=9, output_tokens=2) + STOP,
        hi(),
    ),
    "usage that counts nothing": (
        BEGUN + event("message_delta", delta={"stop_reason": "end_turn"}) + STOP,
        hi(usage=Usage(input_tokens=9, output_tokens=1)),
    ),
    "no usage at all": (
        event("message_start", message={}) + BLOCK + HI + event("message_delta", delta={"stop_reason": "stop"}) + STOP,
        hi(finish_reason="stop", usage=None),
    ),
    "a beginning without a message": (
        event("message_start") + BLOCK + HI + ended() + STOP,
        hi(usage=Usage(output_tokens=2)),
    ),
    "a second beginning": (START + BLOCK + HI + ended() + START + STOP, hi()),
    "a stop sequence": (BEGUN + ended("stop_sequence") + STOP, hi(finish_reason="stop_sequence")),
    "the token limit is a success, cut short": (
        BEGUN + ended("max_tokens") + STOP,
        Answer(text="Hi.", finish_reason="max_tokens", truncated=True, usage=USED),
    ),
    "the end of the context too": (
        BEGUN + ended("model_context_window_exceeded") + STOP,
        Answer(text="Hi.", finish_reason="model_context_window_exceeded", truncated=True, usage=USED),
    ),
    "a paused turn is no whole one": (
        BEGUN + ended("pause_turn") + STOP,
        Answer(text="Hi.", finish_reason="pause_turn", truncated=True, usage=USED),
    ),
    "thinking that used up all tokens": (
        START + block(0, type="thinking", thinking="") + thinking("hm") + ended("max_tokens") + STOP,
        Answer(text="", reasoning="hm", finish_reason="max_tokens", truncated=True, usage=USED),
    ),
    "no message_start": (BLOCK + HI + ended() + STOP, hi("no_message_start", usage=Usage(output_tokens=2))),
    "no message_start, and a block without an index": (
        event("content_block_start", content_block={"type": "text", "text": ""}) + HI + ended() + STOP,
        hi("no_message_start", usage=Usage(output_tokens=2)),
    ),
    "no message_stop": (BEGUN + ended(), hi("no_message_stop")),
    "no stop reason": (BEGUN + ended(None) + STOP, hi("no_finish_reason", finish_reason=None)),
    "a text without its block's beginning": (START + HI + ended() + STOP, hi("no_block_start")),
    "a text without its block's beginning and index": (
        START + event("content_block_delta", delta={"type": "text_delta", "text": "Hi."}) + ended() + STOP,
        hi("no_block_start"),
    ),
    "null everywhere": (
        event("message_start", message={"content": None, "usage": None, "stop_reason": None})
        + event("content_block_start", index=None, content_block=None)
        + event("content_block_delta", index=0, delta=None)
        + BLOCK
        + piece(0, "text_delta", text=None)
        + HI
        + event("message_delta", delta=None, usage=None)
        + event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": None})
        + STOP,
        hi(usage=None),
    ),
    "a character sent as two halves": (
        START + BLOCK + text("\ud83d") + text("\ude00") + ended() + STOP,
        Answer(text="😀", finish_reason="end_turn", usage=USED),
    ),
    "bytes that are no UTF-8, and NaN": (
        START + BLOCK + HI.replace(b"Hi.", b"a\xff").replace(b'"index": 0', b'"index": 0, "p": NaN') + ended() + STOP,
        Answer(text="a�", finish_reason="end_turn", usage=USED),
    ),
}


@pytest.mark.parametrize(("body", "answer"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_whole_stream_is_an_answer(body: bytes, answer: Answer) -> None:
    assert outcome_of(body) == answer


def test_what_is_asked_under_another_content_type_reads_alike() -> None:
    for content_type in ("", "text/plain", JSON):
        assert outcome_of(WHOLE, content_type=content_type) == hi()


JUNK = [b"garbage", b"\xff\xfe\x00", event("error", error={"type": "api_error"}), b"data: {\n\n" * 3, HI, START]


@pytest.mark.parametrize("junk", JUNK)
def test_nothing_behind_the_end_counts(junk: bytes) -> None:
    assert outcome_of(WHOLE + junk) == hi()
    assert outcome_of(WHOLE + junk, ending=RESET) == hi()


def test_feed_states_when_it_has_enough() -> None:
    reader = decoder()
    reader.begin(head(200, EVENTS))
    assert [reader.feed(part) for part in (BEGUN, ended(), STOP[:-1], STOP[-1:], b"junk")] == [
        False,
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("ending", [RESET, TIMEOUT, Interrupted(cause="too_large", message="cap", sent=True)])
def test_a_break_behind_the_end_of_an_answer_takes_nothing_away(ending: Interrupted) -> None:
    assert outcome_of(WHOLE, ending=ending) == hi()
    assert outcome_of(BEGUN + ended(), ending=ending) == hi("no_message_stop")
    assert outcome_of(json.dumps(FINISHED).encode(), content_type=JSON, ending=ending) == hi("cut_after_end")
