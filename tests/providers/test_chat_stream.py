"""Chat streams, fed whole, byte by byte, in random pieces, with junk behind."""

import json

import pytest

from batchrunner.core.http import Completed, Interrupted
from batchrunner.core.outcome import Alternative, Answer, Problem, ProblemKind, ToolCall
from batchrunner.core.values import replace
from tests.providers.chat import (
    CALL,
    DONE,
    FINISHED,
    HI,
    STOP,
    USAGE,
    USED,
    decoder,
    delta,
    event,
    hi,
    outcome_of,
    tools,
)
from tests.providers.reading import EVENTS, JSON, RESET, TIMEOUT, head

K = ProblemKind

ANSWERS = {
    "a normal answer": (
        delta(role="assistant", content="") + delta(reasoning_content="Let me see") + HI + STOP + USAGE + DONE,
        Answer(text="Hi.", reasoning="Let me see", finish_reason="stop", usage=USED),
    ),
    "vector 1: BOM, CRLF, no finish": (
        b'\xef\xbb\xbfdata: {"choices":[{"index":0,"delta":{"content":"a"}}]}\r\n\r\ndata: [DONE]\r\n\r\n',
        Answer(text="a", flags=("no_finish_reason",)),
    ),
    "vector 2: a comment and a chunk without usage": (b':hb\n\ndata:{"choices":[]}\n\n' + HI + STOP + DONE, hi()),
    "vector 3: a split character": (
        'data: {"choices":[{"index":0,"delta":{"content":"猫"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'.encode(),
        Answer(text="猫", finish_reason="stop"),
    ),
    "no [DONE]": (HI + STOP, hi("no_done")),
    "no [DONE], no final blank line": ((HI + STOP)[:-2], hi("no_done")),
    "[DONE] without its blank line": (HI + STOP + b"data: [DONE]", hi()),
    "[DONE] with more behind it": (HI + STOP + b"data: [DONE] bye\n\n", hi()),
    "content in the chunk that ends": (delta("stop", content="Hi.") + DONE, hi()),
    "an empty finish reason is none": (delta("", content="Hi.") + STOP + DONE, hi()),
    "the last finish reason stands": (delta("", content="Hi.") + STOP + delta("") + DONE, hi()),
    "null everywhere": (
        event({"choices": None})
        + event({"choices": [{"index": None, "delta": None}]})
        + delta(content=None, role=None, tool_calls=None, refusal=None)
        + HI
        + STOP
        + DONE,
        hi(),
    ),
    "usage in every chunk is overwritten, never added": (
        event({"choices": [{"delta": {"content": "H"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
        + event({"choices": [{"delta": {"content": "i."}}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
        + STOP
        + event({"choices": [], "usage": None})
        + DONE,
        hi(usage=USED),
    ),
    "usage that counts nothing changes nothing": (
        HI + STOP + USAGE + event({"choices": [], "usage": {"prompt_tokens": None}}) + DONE,
        hi(usage=USED),
    ),
    "usage that counts nothing is none": (HI + STOP + event({"choices": [], "usage": {}}) + DONE, hi()),
    "thinking is taken from one name only": (
        delta(reasoning_content="t", reasoning="t") + HI + STOP + DONE,
        Answer(text="Hi.", reasoning="t", finish_reason="stop"),
    ),
    "thinking under its newer name": (
        delta(reasoning="a", reasoning_content=None) + delta(reasoning="b") + HI + STOP + DONE,
        Answer(text="Hi.", reasoning="ab", finish_reason="stop"),
    ),
    "content as a list of parts": (
        delta(content=[{"type": "text", "text": "H"}, {"type": "x"}, {"text": "i."}]) + STOP + DONE,
        replace(hi(), extras={"content_parts": [{"type": "x"}]}),
    ),
    "obfuscation and unknown fields": (
        event({"obfuscation": "x", "choices": [{"index": 0, "delta": {"content": "Hi.", "z": [1]}, "q": 1}]})
        + STOP
        + DONE,
        replace(hi(), extras={"q": 1, "z": [1]}),
    ),
    "keep-alives": (b": OPENROUTER PROCESSING\n\n" + event({"type": "ping"}) + b"data:\n\n" + HI + STOP + DONE, hi()),
    "length is a success, cut short": (
        delta("length", content="Hi.") + DONE,
        Answer(text="Hi.", finish_reason="length", truncated=True),
    ),
    "thinking that used up all tokens": (
        delta("length", reasoning_content="hm") + DONE,
        Answer(text="", reasoning="hm", finish_reason="length", truncated=True),
    ),
    "a tool call in pieces": (
        tools({"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}})
        + tools({"index": 0, "id": "", "function": {"name": None, "arguments": '{"a"'}})
        + tools({"index": 0, "function": {"arguments": ": 1}"}}, finish="tool_calls")
        + DONE,
        Answer(text="", tool_calls=(CALL,), finish_reason="tool_calls"),
    ),
    "two calls by index, the end says stop": (
        tools(
            {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"index": 1, "id": "call_2", "function": {"name": "g", "arguments": "{}"}},
            finish="stop",
        )
        + DONE,
        Answer(text="", tool_calls=(CALL, ToolCall(id="call_2", name="g", arguments="{}")), finish_reason="stop"),
    ),
    "two calls without index, by id": (
        tools({"id": "call_1", "function": {"name": "f", "arguments": '{"a"'}})
        + tools({"function": {"arguments": ": 1}"}})
        + tools({"id": "call_2", "function": {"name": "g", "arguments": "{"}})
        + tools({"id": "call_2", "function": {"arguments": "}"}}, finish="tool_calls")
        + DONE,
        Answer(text="", tool_calls=(CALL, ToolCall(id="call_2", name="g", arguments="{}")), finish_reason="tool_calls"),
    ),
    "calls without index and id, by position": (
        tools({"function": {"name": "f", "arguments": "{"}}, {"function": {"name": "g", "arguments": "[1"}})
        + tools({"function": {"arguments": "}"}}, {"function": {"arguments": "]"}}, finish="stop")
        + DONE,
        Answer(
            text="",
            tool_calls=(ToolCall(id=None, name="f", arguments="{}"), ToolCall(id=None, name="g", arguments="[1]")),
            finish_reason="stop",
        ),
    ),
    "arguments may be no JSON": (
        tools({"index": 0, "id": "x", "function": {"name": "f", "arguments": "{oops"}}, finish="tool_calls") + DONE,
        Answer(text="", tool_calls=(ToolCall(id="x", name="f", arguments="{oops"),), finish_reason="tool_calls"),
    ),
    "the old function call": (
        delta(function_call={"name": "f", "arguments": "{"})
        + delta("function_call", function_call={"arguments": "}"})
        + DONE,
        Answer(text="", tool_calls=(ToolCall(id=None, name="f", arguments="{}"),), finish_reason="function_call"),
    ),
    "a character sent as two halves": (
        event({"choices": [{"delta": {"content": "\ud83d"}}]}) + delta("stop", content="\ude00") + DONE,
        Answer(text="😀", finish_reason="stop"),
    ),
    "half a character": (
        b'data: {"choices":[{"delta":{"content":"a\\ud83d"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
        Answer(text="a�", finish_reason="stop"),
    ),
    "bytes that are no UTF-8": (
        b'data: {"choices":[{"delta":{"content":"a\xff"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
        Answer(text="a�", finish_reason="stop"),
    ),
    "NaN": (
        b'data: {"choices":[{"delta":{"content":"Hi."},"finish_reason":"stop","logprobs":NaN}]}\n\ndata: [DONE]\n\n',
        hi(),
    ),
    "several choices: the first one is the answer": (
        event({"choices": [{"index": 1, "delta": {"content": "Other"}}, {"index": 0, "delta": {"content": "Hi."}}]})
        + STOP
        + DONE,
        replace(
            hi("more_choices"),
            choices=(
                Alternative(index=0, text="Hi.", finish_reason="stop"),
                Alternative(index=1, text="Other"),
            ),
        ),
    ),
    "thinking and no answer": (
        delta(reasoning_content="hm") + STOP + DONE,
        Answer(text="", reasoning="hm", finish_reason="stop", flags=("reasoning_only",)),
    ),
    "an error after the finish": (
        HI + STOP + event({"error": {"message": "m"}}),
        hi("no_done", "trouble_after_end"),
    ),
}


@pytest.mark.parametrize(("body", "answer"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_whole_stream_is_an_answer(body: bytes, answer: Answer) -> None:
    assert outcome_of(body) == answer


@pytest.mark.parametrize(("body", "answer"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_is_asked_under_another_content_type_reads_alike(body: bytes, answer: Answer) -> None:
    for content_type in ("", "text/plain", JSON):
        assert outcome_of(body, content_type=content_type) == answer


JUNK = [b"garbage", b"\xff\xfe\x00", b'data: {"error": {"message": "late"}}\n\n', b"data: {\n\n" * 3, HI]


@pytest.mark.parametrize("junk", JUNK)
def test_nothing_behind_done_counts(junk: bytes) -> None:
    assert outcome_of(HI + STOP + DONE + junk) == hi()
    assert outcome_of(HI + STOP + DONE + junk, ending=RESET) == hi()


def test_feed_states_when_it_has_enough() -> None:
    reader = decoder()
    reader.begin(head(200, EVENTS))
    assert [reader.feed(piece) for piece in (HI, STOP, DONE[:-1], DONE[-1:], b"junk")] == [
        False,
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("ending", [RESET, TIMEOUT, Interrupted(cause="too_large", message="cap", sent=True)])
def test_a_break_behind_the_end_of_an_answer_takes_nothing_away(ending: Interrupted) -> None:
    assert outcome_of(HI + STOP, ending=ending) == hi("no_done")
    assert outcome_of(HI + STOP + DONE, ending=ending) == hi()
    whole = json.dumps(FINISHED).encode()
    assert outcome_of(whole, content_type=JSON, ending=ending) == hi("cut_after_end", usage=USED)


CUTS = {
    "inside the text": HI,
    "inside a chunk": HI + STOP[:20],
    "inside the thinking": delta(reasoning_content="hm"),
    "at once": b"",
    "after a comment": b": ping\n\n",
    "after nothing but usage": USAGE,
}


@pytest.mark.parametrize("body", CUTS.values(), ids=CUTS.keys())
def test_a_stream_that_ends_before_its_answer_is_cut(body: bytes) -> None:
    for ending, kind in ((Completed(), K.STREAM_CUT), (RESET, K.STREAM_CUT), (TIMEOUT, K.TIMEOUT)):
        problem = outcome_of(body, ending=ending)
        assert isinstance(problem, Problem)
        assert problem.kind is kind


@pytest.mark.parametrize(
    ("body", "came"),
    [
        (b"", "nothing followed the headers of the reply"),
        (b"\n\n", "nothing followed the headers of the reply"),
        (b": ping\n\n", "only this was received: ': ping'"),
    ],
)
def test_a_stream_without_an_answer_states_what_came(body: bytes, came: str) -> None:
    problem = outcome_of(body)
    assert isinstance(problem, Problem)
    assert problem.message == f"the stream ended before any answer: {came}"


@pytest.mark.parametrize("reason", ["error", "abort", "cancelled"])
def test_a_finish_that_states_it_did_not_finish_is_a_cut(reason: str) -> None:
    problem = outcome_of(HI + delta(reason) + DONE)
    assert isinstance(problem, Problem)
    assert problem.kind is K.STREAM_CUT


PROBLEMS = {
    "nothing but [DONE]": (DONE, K.EMPTY_RESPONSE, None),
    "[DONE] and a finish, no content": (STOP + DONE, K.EMPTY_RESPONSE, None),
    "filtered": (delta("content_filter", content="Hi") + DONE, K.CONTENT_FILTER, None),
    "refused": (delta("stop", refusal="I can't.") + DONE, K.CONTENT_FILTER, "I can't."),
    "an error among chunks": (
        HI + event({"error": {"message": "try in 3s", "type": "x", "code": 429}}) + DONE,
        K.THROTTLE,
        "try in 3s",
    ),
    "an error as a string": (event({"error": "today's quota for model x"}), K.QUOTA_MODEL, "today's quota for model x"),
    "errors": (HI + event({"errors": {"message": "Request limit exceeded."}}), K.THROTTLE, "Request limit exceeded."),
    "vector 6": (
        HI + b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"o"}}\n\n',
        K.OVERLOADED,
        "o",
    ),
    "a named error without the word": (b'event: error\ndata: {"code":"c","message":"m"}\n\n', K.SERVER_ERROR, "m"),
    "a named error that is not JSON": (
        HI + b"event: error\ndata: too many requests\n\n",
        K.THROTTLE,
        "too many requests",
    ),
    "an error object of old servers": (
        event({"object": "error", "message": "no model m", "code": 404}),
        K.MODEL_NOT_FOUND,
        None,
    ),
    "an error instead of a finish": (HI + event({"error": {"message": "m"}}), K.SERVER_ERROR, "m"),
    "words at the start": (b"data: insufficient balance\n\n", K.MODEL_SUSPENDED, "insufficient balance"),
    "words later": (HI + b"data: insufficient balance\n\n", K.STREAM_CORRUPT, None),
    "JSON that is no chunk": (HI + b'data: {"choices": {"a": 1}}\n\n', K.STREAM_CORRUPT, None),
    "JSON that is not an object": (b"data: [1]\n\n", K.STREAM_CORRUPT, None),
    "nested too deeply": (b"data: " + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"\n\n", K.STREAM_CORRUPT, None),
    "a page of HTML": (b"<html>Log in</html>", K.NOT_REACHED, None),
}


@pytest.mark.parametrize(("body", "kind", "message"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_a_stream_without_an_answer_states_why(body: bytes, kind: ProblemKind, message: str | None) -> None:
    problem = outcome_of(body)
    assert isinstance(problem, Problem)
    assert problem.kind is kind
    assert message is None or problem.message == message


def test_an_error_among_chunks_keeps_its_own_status_and_wait() -> None:
    problem = outcome_of(HI + event({"error": {"message": "m", "code": "429"}}))
    assert isinstance(problem, Problem)
    assert (problem.status, problem.code, problem.wait_s) == (429, "429", None)
    problem = outcome_of(HI + event({"error": {"message": "try again in 3s", "code": 429, "retry_after": 5}}))
    assert isinstance(problem, Problem)
    assert problem.wait_s == 5.0


def test_a_filtered_answer_was_paid_for_all_the_same() -> None:
    problem = outcome_of(delta("content_filter") + USAGE + DONE)
    assert isinstance(problem, Problem)
    assert problem.usage == USED
