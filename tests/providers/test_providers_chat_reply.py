"""Chat replies: streams and JSON of PROTOCOL 3.6 and 4, each fed whole, byte by byte, in random pieces, with junk behind."""

import json

import pytest
from providers_reading import EVENTS, JSON, RESET, TIMEOUT, head, item, provider, read, read_every_way

from batchrunner.core.job import Json as JsonValue
from batchrunner.core.outcome import Answer, Correction, Problem, ProblemKind, ToolCall, Usage
from batchrunner.core.wire import Broken, Decoder, Ending, Whole
from batchrunner.providers.chat_draft import TEXT_CAP_BYTES
from batchrunner.providers.openai_chat import OpenAiChat

K = ProblemKind


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
        event({"choices": None}) + event({"choices": [{"index": None, "delta": None}]})
        + delta(content=None, role=None, tool_calls=None, refusal=None) + HI + STOP + DONE,
        hi(),
    ),
    "usage in every chunk is overwritten, never added": (
        event({"choices": [{"delta": {"content": "H"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
        + event({"choices": [{"delta": {"content": "i."}}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
        + STOP + event({"choices": [], "usage": None}) + DONE,
        hi(usage=USED),
    ),
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
        hi(),
    ),
    "obfuscation and unknown fields": (
        event({"obfuscation": "x", "choices": [{"index": 0, "delta": {"content": "Hi.", "z": [1]}, "q": 1}]}) + STOP + DONE,
        hi(),
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
        + tools({"index": 0, "function": {"arguments": ": 1}"}}, finish="tool_calls") + DONE,
        Answer(text="", tool_calls=(CALL,), finish_reason="tool_calls"),
    ),
    "two calls by index, the end says stop": (
        tools({"index": 0, "id": "call_1", "function": {"name": "f", "arguments": '{"a": 1}'}},
              {"index": 1, "id": "call_2", "function": {"name": "g", "arguments": "{}"}}, finish="stop") + DONE,
        Answer(text="", tool_calls=(CALL, ToolCall(id="call_2", name="g", arguments="{}")), finish_reason="stop"),
    ),
    "two calls without index, by id": (
        tools({"id": "call_1", "function": {"name": "f", "arguments": '{"a"'}})
        + tools({"function": {"arguments": ": 1}"}})
        + tools({"id": "call_2", "function": {"name": "g", "arguments": "{"}})
        + tools({"id": "call_2", "function": {"arguments": "}"}}, finish="tool_calls") + DONE,
        Answer(text="", tool_calls=(CALL, ToolCall(id="call_2", name="g", arguments="{}")), finish_reason="tool_calls"),
    ),
    "calls without index and id, by position": (
        tools({"function": {"name": "f", "arguments": "{"}}, {"function": {"name": "g", "arguments": "[1"}})
        + tools({"function": {"arguments": "}"}}, {"function": {"arguments": "]"}}, finish="stop") + DONE,
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
        delta(function_call={"name": "f", "arguments": "{"}) + delta("function_call", function_call={"arguments": "}"}) + DONE,
        Answer(text="", tool_calls=(ToolCall(id=None, name="f", arguments="{}"),), finish_reason="function_call"),
    ),
    "a character sent as two halves": (
        b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\ndata: {"choices":[{"delta":{"content":"\\ude00"},'
        b'"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
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
        + STOP + DONE,
        hi("more_choices"),
    ),
}  # fmt: skip

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
    "id": "", "object": "", "created": 0, "model": "deepseek-ai/DeepSeek-V4-Flash", "system_fingerprint": "",
    "choices": None, "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
}  # fmt: skip


def decoder(**fields: object) -> Decoder[object]:
    return OpenAiChat(provider()).decoder(item(**fields))


def outcome_of(body: bytes, *, content_type: str = EVENTS, ending: Ending | None = None, **fields: object) -> object:
    return read_every_way(lambda: decoder(**fields), head(200, content_type), body, ending)


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


def test_feed_says_when_it_has_enough() -> None:
    reader = decoder()
    reader.begin(head(200, EVENTS))
    assert [reader.feed(piece) for piece in (HI, STOP, DONE[:-1], DONE[-1:], b"junk")] == [
        False,
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("ending", [RESET, TIMEOUT, Broken(cause="too_large", message="cap", sent=True)])
def test_a_break_behind_the_end_of_an_answer_takes_nothing_away(ending: Broken) -> None:
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
    for ending, kind in ((Whole(), K.STREAM_CUT), (RESET, K.STREAM_CUT), (TIMEOUT, K.TIMEOUT)):
        problem = outcome_of(body, ending=ending)
        assert isinstance(problem, Problem)
        assert problem.kind is kind


@pytest.mark.parametrize("reason", ["error", "abort", "cancelled"])
def test_a_finish_that_says_it_did_not_finish_is_a_cut(reason: str) -> None:
    problem = outcome_of(HI + delta(reason) + DONE)
    assert isinstance(problem, Problem)
    assert problem.kind is K.STREAM_CUT


PROBLEMS = {
    "nothing but [DONE]": (DONE, K.EMPTY_RESPONSE, None),
    "[DONE] and a finish, no content": (STOP + DONE, K.EMPTY_RESPONSE, None),
    "thinking and no answer": (delta(reasoning_content="hm") + STOP + DONE, K.EMPTY_RESPONSE, None),
    "filtered": (delta("content_filter", content="Hi") + DONE, K.CONTENT_FILTER, None),
    "refused": (delta("stop", refusal="I can't.") + DONE, K.CONTENT_FILTER, "I can't."),
    "an error among chunks": (
        HI + event({"error": {"message": "try in 3s", "type": "x", "code": 429}}) + DONE, K.THROTTLE, "try in 3s",
    ),
    "an error as a string": (event({"error": "today's quota for model x"}), K.QUOTA_MODEL, "today's quota for model x"),
    "errors": (HI + event({"errors": {"message": "Request limit exceeded."}}), K.THROTTLE, "Request limit exceeded."),
    "vector 6": (
        HI + b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"o"}}\n\n',
        K.OVERLOADED, "o",
    ),
    "a named error without the word": (b'event: error\ndata: {"code":"c","message":"m"}\n\n', K.SERVER_ERROR, "m"),
    "a named error that is no JSON": (HI + b"event: error\ndata: too many requests\n\n", K.THROTTLE, "too many requests"),
    "an error object of old servers": (event({"object": "error", "message": "m", "code": 404}), K.MODEL_NOT_FOUND, "m"),
    "an error after the finish": (HI + STOP + event({"error": {"message": "m"}}), K.SERVER_ERROR, "m"),
    "words at the start": (b"data: insufficient balance\n\n", K.MODEL_SUSPENDED, "insufficient balance"),
    "words later": (HI + b"data: insufficient balance\n\n", K.STREAM_CORRUPT, None),
    "JSON that is no chunk": (HI + b'data: {"choices": {"a": 1}}\n\n', K.STREAM_CORRUPT, None),
    "JSON that is no object": (b"data: [1]\n\n", K.STREAM_CORRUPT, None),
    "nested too deeply": (b"data: " + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"\n\n", K.STREAM_CORRUPT, None),
    "a page of HTML": (b"<html>Log in</html>", K.STREAM_CUT, None),
}  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "message"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_a_stream_without_an_answer_says_why(body: bytes, kind: ProblemKind, message: str | None) -> None:
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


def finished(**fields: JsonValue) -> bytes:
    return json.dumps({**FINISHED, **fields}).encode()


def message(finish: JsonValue = "stop", **fields: JsonValue) -> bytes:
    return finished(choices=[{"index": 0, "message": fields, "finish_reason": finish}], usage=None)


WHOLE: dict[str, tuple[bytes, Answer | ProblemKind]] = {
    "a normal answer": (finished(), hi(usage=USED)),
    "indented, with a BOM": (b"\xef\xbb\xbf" + json.dumps(FINISHED, indent=2).encode(), hi(usage=USED)),
    "blank lines before it": (b"\n\n  \n" + finished(), hi(usage=USED)),
    "no finish reason": (message(None, content="Hi."), hi("no_finish_reason", finish_reason=None)),
    "thinking": (
        message(content="Hi.", reasoning_content="t"),
        Answer(text="Hi.", reasoning="t", finish_reason="stop"),
    ),
    "arguments as an object": (
        message("tool_calls", content=None, tool_calls=[{"id": "x", "function": {"name": "f", "arguments": {"a": 1}}}]),
        Answer(text="", tool_calls=(ToolCall(id="x", name="f", arguments='{"a":1}'),), finish_reason="tool_calls"),
    ),
    "the empty shell": (json.dumps(SHELL).encode(), K.EMPTY_RESPONSE),
    "no choices": (finished(choices=[]), K.EMPTY_RESPONSE),
    "no content": (message(content=""), K.EMPTY_RESPONSE),
    "an empty object": (b"{}", K.EMPTY_RESPONSE),
    "nothing": (b"", K.EMPTY_RESPONSE),
    "filtered": (message("content_filter", content="x"), K.CONTENT_FILTER),
    "an error with 200": (b'{"error": {"message": "m", "http_code": "429"}}', K.THROTTLE),
    "errors with 200": (b'{"errors": {"message": "today\'s quota"}}', K.QUOTA_ACCOUNT),
    "a message and a code with 200": (b'{"message": "no", "code": 401}', K.AUTH),
    "half an object": (finished()[:-20], K.STREAM_CORRUPT),
    "HTML": (b"<html>Welcome</html>", K.STREAM_CORRUPT),
    "a list": (b"[]", K.STREAM_CORRUPT),
    "nested too deeply": (b"[" * 100_000, K.STREAM_CORRUPT),
}


@pytest.mark.parametrize(("body", "expected"), WHOLE.values(), ids=WHOLE.keys())
def test_json_is_read_whatever_was_asked_for(body: bytes, expected: Answer | ProblemKind) -> None:
    if len(body) > 10_000:
        found = read(decoder(), head(200, JSON), [body], Whole())
    else:
        found = outcome_of(body, content_type=JSON)
    if isinstance(found, Problem):
        assert found.kind is expected
    else:
        assert found == expected


def test_json_under_the_content_type_of_a_stream_is_read_as_json() -> None:
    assert outcome_of(finished(), content_type=EVENTS) == hi(usage=USED)


@pytest.mark.parametrize("as_json", [True, False])
def test_an_answer_beyond_16_mb_is_too_large(as_json: object) -> None:
    big = "x" * (1024 * 1024)
    reader = decoder()
    reader.begin(head(200, JSON if as_json else EVENTS))
    if as_json:
        reader.feed(message(content=big * 17))
    else:
        enough = [reader.feed(delta(content=big)) for _ in range(17)]
        assert enough == [False] * 16 + [True]
    problem = reader.end(Whole())
    assert isinstance(problem, Problem)
    assert problem.kind is K.TOO_LARGE
    assert TEXT_CAP_BYTES == 16 * 1024 * 1024


def test_an_endless_line_is_too_large() -> None:
    reader = decoder()
    reader.begin(head(200, EVENTS))
    pieces = 0
    while not reader.feed(b"data: " + b"x" * 65536):
        pieces += 1
        assert pieces < 200
    problem = reader.end(Whole())
    assert isinstance(problem, Problem)
    assert problem.kind is K.TOO_LARGE


SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
}
FITS = ['{"n": 4}', '```json\n{"n": 4}\n```', "<think>hm {</think>\n\n" + '{"n": 4}', '```\n{"n": 4}```']


@pytest.mark.parametrize("text", FITS)
def test_an_answer_that_fits_its_schema_has_a_value(text: str) -> None:
    answer = outcome_of(delta("stop", content=text) + DONE, schema=SCHEMA)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.parsed) == (text, {"n": 4})


MISSES = {
    '{"n": "four"}': "$.n: 'four' is not of type 'integer'",
    "{}": "$: 'n' is a required property",
    "four": "the answer is not JSON",
    '{"n": ': "the answer is not JSON",
    "[" * 3000: "the answer is not JSON",
}


@pytest.mark.parametrize(("text", "fault"), MISSES.items(), ids=[text[:12] for text in MISSES])
def test_an_answer_that_breaks_its_schema_says_what_to_tell_the_model(text: str, fault: str) -> None:
    problem = outcome_of(delta("stop", content=text) + USAGE + DONE, schema=SCHEMA)
    assert isinstance(problem, Problem)
    assert problem.kind is K.SCHEMA_MISS
    assert problem.usage == USED
    assert problem.correction is not None
    assert problem.correction.said == text
    assert problem.correction.fault.startswith(fault)


BAD_SCHEMAS: list[dict[str, JsonValue]] = [
    {"$ref": "http://127.0.0.1:9/never.json"},
    {"type": "nonsense"},
    {"type": "string", "pattern": "("},
]


@pytest.mark.parametrize("schema", BAD_SCHEMAS)
def test_a_schema_that_cannot_be_used_is_a_mistake_and_fetches_nothing(schema: dict[str, JsonValue]) -> None:
    problem = read(decoder(schema=schema), head(200, EVENTS), [delta("stop", content='"x"') + DONE], Whole())
    assert isinstance(problem, Problem)
    assert problem.kind is K.CONFIGURATION


def test_an_answer_that_only_calls_tools_is_not_held_to_the_schema() -> None:
    body = tools({"index": 0, "id": "call_1", "function": {"name": "f", "arguments": '{"a": 1}'}}, finish="stop")
    assert outcome_of(body + DONE, schema=SCHEMA) == Answer(text="", tool_calls=(CALL,), finish_reason="stop")


def test_the_fault_of_a_cut_answer_says_so() -> None:
    problem = outcome_of(delta("length", content='{"n": ') + DONE, schema=SCHEMA)
    assert isinstance(problem, Problem)
    assert isinstance(problem.correction, Correction)
    assert "token limit" in problem.correction.fault
