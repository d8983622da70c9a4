"""Chat replies as one JSON value, the caps, and answers that are held to a schema."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.core.http import Completed
from batchrunner.core.job import Json as JsonValue
from batchrunner.core.outcome import Answer, Correction, Problem, ProblemKind, ToolCall, Usage
from batchrunner.core.values import replace
from batchrunner.providers.stream_decoder import TEXT_CAP_BYTES
from tests.providers.chat import CALL, DONE, FINISHED, SHELL, USAGE, USED, decoder, delta, hi, outcome_of, tools
from tests.providers.reading import EVENTS, JSON, head, read
from tests.support.growth import assert_linear

K = ProblemKind


def finished(**fields: JsonValue) -> bytes:
    return json.dumps({**FINISHED, **fields}).encode()


def message(finish: JsonValue = "stop", **fields: JsonValue) -> bytes:
    return finished(choices=[{"index": 0, "message": fields, "finish_reason": finish}], usage=None)


PARTLY_USED = Usage(input_tokens=9, output_tokens=2)

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
    "without its last bytes, behind the finish": (finished()[:-20], hi("trouble_after_end", usage=PARTLY_USED)),
    "half an object": (finished()[:120], K.STREAM_CORRUPT),
    "bytes behind it": (finished() + b"\r\n0\r\n", hi("trouble_after_end", usage=USED)),
    "raw control characters": (message(content="H@i.").replace(b"@", b"\t"), replace(hi(), text="H\ti.")),
    "thinking alone": (
        message(content=None, reasoning_content="t"),
        Answer(text="", reasoning="t", finish_reason="stop", flags=("reasoning_only",)),
    ),
    "HTML": (b"<html>Welcome</html>", K.NOT_REACHED),
    "a list": (b"[]", K.STREAM_CORRUPT),
    "nested too deeply": (b"[" * 100_000, K.STREAM_CORRUPT),
}


@pytest.mark.parametrize(("body", "expected"), WHOLE.values(), ids=WHOLE.keys())
def test_json_is_read_whatever_was_asked_for(body: bytes, expected: Answer | ProblemKind) -> None:
    if len(body) > 10_000:
        found = read(decoder(), head(200, JSON), [body], Completed())
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
    problem = reader.end(Completed())
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
    problem = reader.end(Completed())
    assert isinstance(problem, Problem)
    assert problem.kind is K.TOO_LARGE


ENDS_OF_THINKING = {
    "t\n</think>\nHi.": ("Hi.", "t"),
    "t\n\n  </think> \n\n Hi.": ("Hi.", "t"),
    "\n</think>\n\nHi.": ("Hi.", None),
    "t </think> t\n</think>\nHi.": ("Hi.", "t </think> t"),
    "write </think> to end it": ("write </think> to end it", None),
}


@pytest.mark.parametrize("text", ENDS_OF_THINKING)
def test_thinking_that_began_in_the_prompt_ends_with_its_tag_on_a_line_of_its_own(text: str) -> None:
    answer = read(decoder(), head(), [message(content=text)], Completed())
    assert isinstance(answer, Answer)
    assert (answer.text, answer.reasoning) == ENDS_OF_THINKING[text]


def test_a_text_of_nothing_but_blank_lines_is_read_in_time_that_grows_with_its_length() -> None:
    def work(size: int) -> Callable[[], None]:
        reply = message(content="\n" * size + "a</think>b")

        def decoded() -> None:
            assert isinstance(read(decoder(), head(), [reply], Completed()), Answer)

        return decoded

    assert_linear(work, 8_000)


SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
}
FITS = [
    'Sure! Here it is:\n```json\n{"n": 4}\n```\nHope it helps',
    'Sure: ```{"n": 4}``` is it',
    'As JSON:\n~~~\n{"n": 4}\n~~~',
    'As JSON:\n```json\n{"n": 4}',
    'Run `x`:\n```sh\nls\n```\nand get\n```json\n{"n": 4}\n```',
    *['{"n": 4}', '```json\n{"n": 4}\n```', "<think>hm {</think>\n\n" + '{"n": 4}', '```\n{"n": 4}```'],
]


@pytest.mark.parametrize("text", FITS)
def test_an_answer_that_fits_its_schema_has_a_value(text: str) -> None:
    answer = outcome_of(delta("stop", content=text) + DONE, schema=SCHEMA)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.parsed) == (text.rpartition("</think>")[2].lstrip(), {"n": 4})


MISSES = {
    '{"n": "four"}': '$.n: "four" is not of type "integer"',
    "{}": '$: "n" is a required property',
    "four": "the answer is not JSON",
    '{"n": ': "the answer is not JSON",
    "[" * 3000: "the answer is not JSON",
    '{"n": ' + "9" * 5000 + "}": "the answer is not JSON: a number has more than 4,300 digits",
}


@pytest.mark.parametrize(("text", "fault"), MISSES.items(), ids=[text[:12] for text in MISSES])
def test_an_answer_that_breaks_its_schema_states_what_to_send_to_the_model(text: str, fault: str) -> None:
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
def test_a_schema_that_cannot_be_used_is_a_mistake(schema: dict[str, JsonValue]) -> None:
    problem = read(decoder(schema=schema), head(200, EVENTS), [delta("stop", content='"x"') + DONE], Completed())
    assert isinstance(problem, Problem)
    assert problem.kind is K.CONFIGURATION


def test_a_schema_elsewhere_is_not_fetched_even_if_it_could_be(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text('{"type": "string"}', encoding="utf-8")
    schema: dict[str, JsonValue] = {"$ref": elsewhere.as_uri()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of tests: the library only warns that it fetches
        problem = read(decoder(schema), head(200, EVENTS), [delta("stop", content='"x"') + DONE], Completed())
    assert isinstance(problem, Problem)
    assert problem.kind is K.CONFIGURATION


def test_an_answer_that_only_calls_tools_is_not_held_to_the_schema() -> None:
    body = tools({"index": 0, "id": "call_1", "function": {"name": "f", "arguments": '{"a": 1}'}}, finish="stop")
    assert outcome_of(body + DONE, schema=SCHEMA) == Answer(text="", tool_calls=(CALL,), finish_reason="stop")


def test_the_fault_of_a_cut_answer_names_the_cut() -> None:
    problem = outcome_of(delta("length", content='{"n": ') + DONE, schema=SCHEMA)
    assert isinstance(problem, Problem)
    assert isinstance(problem.correction, Correction)
    assert "token limit" in problem.correction.fault
