"""OpenAI's Responses: requests as they are sent, replies whole and streamed, and every reply cut at every byte."""

import json
from typing import Any

import pytest

from batchrunner.core.http import Completed, Decoder
from batchrunner.core.item import InputFile, InputPicture
from batchrunner.core.job import Json, Turn
from batchrunner.core.outcome import Answer, Correction, Problem, ProblemKind, Revision, ToolCall, Usage
from batchrunner.core.values import replace
from batchrunner.providers.openai_responses import OpenAiResponses
from batchrunner.simulator.responses_replies import EDITS
from batchrunner.simulator.scenarios import SCENARIOS
from batchrunner.simulator.script import Call
from batchrunner.simulator.world import World
from tests.providers.reading import EVENTS, JSON, NOON, RESET, head, item, provider, read, read_every_way

K = ProblemKind
OPENAI = provider("openai", "openai-responses", "https://api.openai.com/v1")
BOOK: dict[str, Json] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def sent(asked: Any = None, revision: Revision | None = None) -> dict[str, Any]:
    body = OpenAiResponses(OPENAI).encode(asked or item(), revision or Revision()).body or b""
    value: dict[str, Any] = json.loads(body)
    return value


def decoder(schema: dict[str, Json] | None = None) -> Decoder[Any]:
    return OpenAiResponses(OPENAI).decoder(item(schema=schema))


# -- requests


def test_turns_go_as_items_of_the_input_to_responses() -> None:
    request = OpenAiResponses(OPENAI).encode(item("你好", params={"store": False}), Revision())
    assert request.url == "https://api.openai.com/v1/responses"
    assert request.headers["accept"] == "text/event-stream"
    assert json.loads(request.body or b"") == {
        "model": "Qwen/Qwen3-8B",
        "input": [{"role": "user", "content": "你好"}],
        "stream": True,
        "store": False,
    }


def test_a_document_goes_as_an_input_file_with_its_name_or_by_its_address() -> None:
    files = (
        InputFile(name="in/paper.pdf", kind="pdf", sha256="", url="data:application/pdf;base64,JVBERi0="),
        InputFile(name="u", kind="pdf", sha256="", url="https://e.example/b.pdf"),
    )
    pictures = (InputPicture(name="a", sha256="", url="https://e.example/a.png"),)
    assert sent(item("What?", pictures=pictures, files=files))["input"][-1]["content"] == [
        {"type": "input_image", "image_url": "https://e.example/a.png", "detail": "auto"},
        {"type": "input_file", "filename": "paper.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        {"type": "input_file", "file_url": "https://e.example/b.pdf"},
        {"type": "input_text", "text": "What?"},
    ]


def test_pictures_stand_before_the_text_of_the_last_user_turn() -> None:
    pictures = (InputPicture(name="a", sha256="", url="https://e.example/a.png"),)
    assert sent(item("What?", pictures=pictures))["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "https://e.example/a.png", "detail": "auto"},
                {"type": "input_text", "text": "What?"},
            ],
        }
    ]


def test_a_schema_goes_beside_what_the_job_states_of_the_text() -> None:
    form = {"type": "json_schema", "name": "answer", "schema": BOOK}
    assert sent(item(schema=BOOK))["text"] == {"format": form}
    params: dict[str, Json] = {"text": {"verbosity": "low"}}
    assert sent(item(schema=BOOK, params=params))["text"] == {"format": form, "verbosity": "low"}
    own: dict[str, Json] = {"text": {"format": {"type": "text"}}}
    assert sent(item(schema=BOOK, params=own))["text"] == {"format": {"type": "text"}}


def test_where_a_schema_is_refused_the_conversation_carries_it() -> None:
    body = sent(item("Count.", schema=BOOK), Revision(adapted=frozenset({"json_object"})))
    assert body["text"] == {"format": {"type": "json_object"}}
    assert "JSON Schema" in body["input"][0]["content"]
    refused = b'{"error": {"message": "Invalid value for text.format: json_schema is not supported", "code": null}}'
    problem = read(decoder(BOOK), head(400), [refused], Completed())
    assert (problem.kind, problem.adaptation) == (K.ADAPTABLE, "json_object")


def test_a_correction_comes_last() -> None:
    said = sent(item(schema=BOOK), Revision(correction=Correction(said="{}", fault="n is missing")))["input"]
    assert [turn["role"] for turn in said] == ["user", "assistant", "user"]
    assert "n is missing" in said[-1]["content"]


def test_ready_messages_of_chat_are_written_in_the_words_of_responses() -> None:
    call: Json = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    picture: Json = {"type": "image_url", "image_url": {"url": "https://e.example/a.png", "detail": "low"}}
    raw: list[dict[str, Json]] = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "51"},
        {"role": "assistant", "content": [{"type": "text", "text": "So 51."}]},
    ]
    turns = tuple(Turn(role="user", content="", raw=each) for each in raw)
    assert sent(replace(item(), turns=turns))["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Hi"},
                {"type": "input_image", "image_url": "https://e.example/a.png", "detail": "low"},
            ],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "51"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "So 51."}]},
    ]


# -- replies


def response(*output: Json, status: str = "completed", **fields: Json) -> dict[str, Json]:
    usage: Json = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 16,
    }
    head_of_it: dict[str, Json] = {"id": "resp_1", "object": "response", "status": status, "error": None}
    return {**head_of_it, "output": list(output), "usage": usage, **fields}


def message(*parts: Json) -> Json:
    return {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": list(parts)}


def text(said: str, **fields: Json) -> Json:
    return {"type": "output_text", "text": said, "annotations": [], **fields}


REASONING: Json = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}]}
CALL: Json = {"type": "function_call", "id": "f", "call_id": "c1", "name": "look", "arguments": '{"q": 1}'}
COUNTED: dict[str, Json] = {"output_tokens_details": {"reasoning_tokens": 5}}
USED = Usage(input_tokens=9, output_tokens=7, cache_read_tokens=4)


def whole(value: Json, *, schema: dict[str, Json] | None = None) -> Any:
    """What a reply in one piece comes to."""
    return read_every_way(lambda: decoder(schema), head(200, JSON), json.dumps(value).encode())


def streamed(*events: dict[str, Json], schema: dict[str, Json] | None = None) -> Any:
    """What a stream comes to."""
    body = b"".join(
        f"event: {event['type']}\ndata: {json.dumps({'sequence_number': at, **event})}\n\n".encode()
        for at, event in enumerate(events)
    )
    return read_every_way(lambda: decoder(schema), head(200, EVENTS), body)


def test_a_whole_response_is_read_with_its_thinking_and_counts() -> None:
    assert whole(response(REASONING, message(text("Hi.")))) == Answer(
        text="Hi.", reasoning="Hm.", finish_reason="completed", usage=USED, extras=COUNTED
    )


def test_a_call_of_a_function_is_read_by_its_call_id() -> None:
    assert whole(response(CALL)).tool_calls == (ToolCall(id="c1", name="look", arguments='{"q": 1}'),)


def test_annotations_pictures_and_unknown_items_are_kept() -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
    cited: Json = {"type": "url_citation", "url": "https://e.example"}
    search: Json = {"type": "web_search_call", "id": "w", "status": "completed"}
    drawn: Json = {"type": "image_generation_call", "id": "i", "result": pixel}
    answer = whole(response(search, drawn, message(text("Hi.", annotations=[cited]))))
    assert len(answer.pictures) == 1
    assert answer.extras == {"annotations": [cited], "output_items": [search], **COUNTED}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (response(message({"type": "refusal", "refusal": "No."})), K.CONTENT_FILTER),
        (
            response(message(text("Ha")), status="incomplete", incomplete_details={"reason": "content_filter"}),
            K.CONTENT_FILTER,
        ),
        (response(message(text(""))), K.EMPTY_RESPONSE),
        (response(), K.EMPTY_RESPONSE),
        (response(status="failed", error={"code": "server_error", "message": "oops"}), K.SERVER_ERROR),
        (response(status="failed", error={"code": "rate_limit_exceeded", "message": "slow down"}), K.THROTTLE),
        (
            response(status="failed", error={"code": "invalid_prompt", "message": "Your prompt was flagged as unsafe"}),
            K.CONTENT_FILTER,
        ),
        (response(status="failed"), K.SERVER_ERROR),
        (response(status="cancelled"), K.SERVER_ERROR),
        (response(status="queued"), K.CONFIGURATION),
        ({"error": {"message": "The server is overloaded", "code": "server_is_overloaded"}}, K.OVERLOADED),
    ],
)
def test_what_is_no_answer_is_a_problem_of_its_kind(value: Json, kind: ProblemKind) -> None:
    assert whole(value).kind is kind


def test_the_end_of_the_tokens_is_an_answer_that_is_marked() -> None:
    cut = response(message(text("Ha")), status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    for answer in (whole(cut), streamed({"type": "response.incomplete", "response": cut})):
        assert (answer.text, answer.truncated, answer.finish_reason) == ("Ha", True, "max_output_tokens")


def test_the_event_of_the_end_has_the_last_word() -> None:
    end = response(message(text("Hi.")))
    delta: dict[str, Json] = {"type": "response.output_text.delta", "output_index": 0, "delta": "H"}
    assert streamed(delta, {"type": "response.completed", "response": end}) == whole(end)


def test_an_end_that_repeats_nothing_leaves_what_the_events_stated() -> None:
    said = [
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "H"},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "m."},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "Hi"},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "."},
        {"type": "response.completed", "response": response()},
    ]
    answer = streamed(*said)  # type: ignore[arg-type]  # dicts of JSON
    assert (answer.text, answer.reasoning) == ("Hi.", "Hm.")


def test_arguments_in_pieces_belong_to_their_call() -> None:
    begun: Json = {"type": "function_call", "id": "f", "call_id": "c1", "name": "look", "arguments": ""}
    answer = streamed(
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"q": '},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "1}"},
        {"type": "response.completed", "response": response()},
    )
    assert answer.tool_calls == (ToolCall(id="c1", name="look", arguments='{"q": 1}'),)


DELTA: dict[str, Json] = {"type": "response.output_text.delta", "output_index": 0, "delta": "H"}


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ({"type": "error", "code": "server_error", "message": "oops", "param": None}, K.SERVER_ERROR),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, K.OVERLOADED),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow"}, K.THROTTLE),
        (
            {
                "type": "response.failed",
                "response": response(status="failed", error={"code": "server_error", "message": "oops"}),
            },
            K.SERVER_ERROR,
        ),
        ({"type": "response.in_progress", "response": response(status="in_progress")}, K.STREAM_CUT),
    ],
)
def test_an_error_in_a_stream_states_whether_an_answer_was_under_way(last: dict[str, Json], kind: ProblemKind) -> None:
    begun, fresh = streamed(DELTA, last), streamed(last)
    assert (begun.kind, fresh.kind) == (kind, kind)
    assert (begun.under_way, fresh.under_way) == (kind is not K.STREAM_CUT, False)


def test_a_stream_without_its_end_is_cut_even_behind_a_whole_item_but_not_behind_done() -> None:
    done: dict[str, Json] = {"type": "response.output_item.done", "output_index": 0, "item": message(text("Hi."))}
    assert streamed(done).kind is K.STREAM_CUT
    body = f"data: {json.dumps(done)}\n\ndata: [DONE]\n\n".encode()
    answer = read_every_way(decoder, head(200, EVENTS), body)
    assert (answer.text, answer.flags) == ("Hi.", ("no_finish_reason",))


def test_an_answer_in_the_shape_of_chat_is_read_all_the_same() -> None:
    chat: Json = {"choices": [{"index": 0, "message": {"content": "Hi."}, "finish_reason": "stop"}]}
    assert whole(chat).text == "Hi."


def test_a_structured_answer_is_held_to_its_schema() -> None:
    assert whole(response(message(text('{"n": 1}'))), schema=BOOK).parsed == {"n": 1}
    missed = whole(response(message(text('{"n": "x"}'))), schema=BOOK)
    assert (missed.kind, missed.usage) == (K.SCHEMA_MISS, USED)


RECORDED = [*sorted(name for name, known in SCENARIOS.items() if known.group == "response"), "length", "ok-tools"]
LAST_BYTES = 150
"""Of a stream: the end of its last event, which alone makes it whole."""
EVENTS_END = b"\n\n"


def places(said: bytes, *, stream: bool) -> list[int]:
    """Every byte of a reply in one piece; of a stream the edges of its events, and the bytes of its end."""
    if not stream:
        return list(range(len(said)))
    edges = [at + step for at in range(len(said)) if said.startswith(EVENTS_END, at) for step in (-1, 0, 1, 2, 3)]
    return sorted({*edges, *range(max(0, len(said) - LAST_BYTES), len(said))} & set(range(len(said))))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("scenario", ["", *RECORDED])
def test_a_reply_that_is_cut_off_is_whole_or_a_problem(scenario: str, *, stream: bool) -> None:
    body = json.dumps({"model": "M/m", "input": "Hi", "stream": stream, "reasoning": {"summary": "auto"}}).encode()
    call = Call(method="POST", path="/v1/responses", headers={}, body=body)
    script = World(scenario=scenario or None).answer(call, NOON)
    reply, said = head(script.status, script.headers["content-type"]), script.body
    full = read(decoder(), reply, [said], Completed())
    for place in places(said, stream=stream):
        outcome = read(decoder(), reply, [said[:place]], (Completed(), RESET)[place % 2])
        if isinstance(outcome, Answer):
            assert isinstance(full, Answer)
            assert replace(outcome, flags=(), usage=full.usage, extras=full.extras) == replace(full, flags=())
        else:
            assert isinstance(outcome, Problem)


def test_every_edit_of_a_stream_belongs_to_a_scenario() -> None:
    assert set(EDITS) <= set(SCENARIOS)
