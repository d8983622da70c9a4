"""Each scenario does what its row says, down to the bytes."""

import json
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest

from batchrunner.core.job import Json
from batchrunner.simulator.answers import expected_text
from batchrunner.simulator.scenario_rules import FAILURE_MODES, RULES_OF_SCENARIOS
from batchrunner.simulator.scenarios import SCENARIOS, parse_scenarios
from batchrunner.simulator.script import Cut, Hang, Reset, Script, Send
from batchrunner.simulator.sse_shapes import EDITS, FRAMINGS
from batchrunner.simulator.storage import DOWNLOADS
from batchrunner.simulator.world import World
from tests.simulator.calls import (
    CHAT,
    NOW,
    ask,
    ask_and_stay,
    error_of,
    events_of,
    first,
    post,
    reply,
    streamed_text,
    text_of,
)

TEXT = expected_text("M/m", "hi")


def named(scenario: str, *, now: float = NOW, world: World | None = None, **more: Json) -> Script:
    there = world or World()
    turns: Json = [{"role": "user", "content": "hi"}]
    script = post(there, CHAT, {"model": f"M/m#{scenario}", "messages": turns, **more}, now=now)
    there.leave(script)
    return script


@pytest.mark.parametrize(
    ("scenario", "status", "said", "shape"),
    [
        ("throttle", 429, "We have to rate limit you for model M/m.", "errors"),
        ("quota-model:0", 429, "exceeded today's quota for model M/m", "error"),
        ("quota-account:0", 429, "Request limit exceeded.", "errors"),
        ("quota-noheader", 429, "Request limit exceeded.", "errors"),
        ("tpm", 429, "You exceeded your current quota", "error"),
        ("retired", 429, "insufficient balance (1008)", "error"),
        ("should-retry-false", 503, "Server is busy", "errors"),
        ("auth-bad", 401, "valid ModelScope token", "errors"),
        ("auth-unbound", 401, "bind your Alibaba Cloud account", "error"),
        ("forbidden", 403, "permission", "error"),
        ("noprovider", 400, "has no provider supported", "errors"),
        ("bad-model-id", 400, "Invalid model id", "error"),
        ("think-needs-stream", 400, "enable thinking can not be support when `stream=False`", "error"),
        ("5xx", 500, "Internal server error", "error"),
    ],
)
def test_a_refusal_has_its_status_words_and_shape(scenario: str, status: int, said: str, shape: str) -> None:
    script = named(scenario)
    assert script.status == status
    assert said in error_of(script)
    assert shape in reply(script)


def test_refusals_without_words_have_none() -> None:
    assert (named("empty429").status, named("empty429").body) == (429, b"")
    page = named("html502")
    assert (page.status, page.headers["content-type"]) == (502, "text/html")
    assert page.body.startswith(b"<html>")


def test_a_retired_model_states_its_code_as_a_string() -> None:
    assert first(reply(named("retired")), "error", "http_code") == "429"


@pytest.mark.parametrize("scenario", ["throttle:2", "retired:2", "empty429:2", "auth-bad:2", "5xx:2", "shell200:2"])
def test_a_figure_ends_the_trouble(scenario: str) -> None:
    world = World()
    replies = [named(scenario, world=world) for _ in range(4)]
    good = [script.status == 200 and b"chatcmpl" in script.body for script in replies]
    assert good == [False, False, True, True]


@pytest.mark.parametrize(
    ("scenario", "account", "model"),
    [
        ("throttle", "10000000", "10000000"),
        ("quota-model:0", "10000000", "0"),
        ("quota-account:0", "0", "10000000"),
        ("quota-noheader", None, None),
    ],
)
def test_rate_headers_distinguish_a_quota_from_a_throttle(
    scenario: str, account: str | None, model: str | None
) -> None:
    headers = named(scenario).headers
    assert headers.get("modelscope-ratelimit-requests-remaining") == account
    assert headers.get("modelscope-ratelimit-model-requests-remaining") == model


def test_a_spent_quota_holds_for_its_model_or_for_the_whole_account() -> None:
    world = World()
    assert [named("quota-model:1", world=world).status for _ in range(2)] == [200, 429]
    assert ask(world, model="M/other#quota-model:1").status == 200
    assert ask(world, model="M/third#quota-account:2").status == 429


def test_a_burst_is_refused_while_more_are_in_flight() -> None:
    world = World()
    inside = [ask_and_stay(world, model="M/m#burst:2", prompt=f"{at}") for at in range(3)]
    assert [script.status for script in inside] == [200, 200, 429]
    for script in inside:
        world.leave(script)
    assert ask(world, model="M/m#burst:2").status == 200


def test_a_rate_that_doubles_is_refused_and_a_steady_one_is_not() -> None:
    world = World()
    assert {named("slope", world=world, now=NOW + at).status for at in range(60)} == {200}
    assert named("slope", world=World(), now=NOW).status == 200
    sudden = World()
    assert 429 in [named("slope", world=sudden, now=NOW + at / 10).status for at in range(30)]


def test_the_token_limit_clears_after_a_minute() -> None:
    world = World()
    assert [named("tpm", world=world, now=NOW + at).status for at in (0, 30, 59, 60)] == [429, 429, 429, 200]


@pytest.mark.parametrize(
    ("scenario", "header", "value", "opens_s"),
    [
        ("retry-after:3", "retry-after", "3", 3.0),
        ("retry-after-ms:250", "retry-after-ms", "250", 0.25),
        ("retry-after-huge", "retry-after", "7200", 7200.0),
    ],
)
def test_a_stated_wait_holds_until_it_is_over(scenario: str, header: str, value: str, opens_s: float) -> None:
    world = World()
    assert named(scenario, world=world).headers[header] == value
    assert named(scenario, world=world, now=NOW + opens_s / 2).status == 429
    assert named(scenario, world=world, now=NOW + opens_s).status == 200
    assert world.stats().too_early == 1


@pytest.mark.parametrize(
    ("scenario", "status", "words", "later"),
    [
        ("estimated-time", 503, '"estimated_time": 12.5', '"estimated_time": 8.5'),
        ("estimated-time:40", 503, '"estimated_time": 40.0', '"estimated_time": 36.0'),
        ("wait-in-prose", 429, "Please try again in 7.3s.", "Please try again in 3.3s."),
        ("wait-in-prose:20", 429, "Please try again in 20s.", "Please try again in 16s."),
    ],
)
def test_a_wait_may_stand_in_the_body_and_is_what_is_left_of_it(
    scenario: str, status: int, words: str, later: str
) -> None:
    world = World()
    first_said, second_said = (named(scenario, world=world, now=NOW + at) for at in (0.0, 4.0))
    assert (first_said.status, second_said.status) == (status, status)
    assert words in (first_said.body or b"").decode()
    assert later in (second_said.body or b"").decode()
    assert named(scenario, world=world, now=NOW + 40.0).status == 200
    assert world.stats().too_early == 1


def test_cloudflares_page_for_an_origin_that_is_out_of_reach() -> None:
    world = World()
    said = named("cloudflare-522:1", world=world)
    assert (said.status, said.headers["server"], said.headers["content-type"]) == (522, "cloudflare", "text/html")
    assert b"522: Connection timed out" in (said.body or b"")
    assert named("cloudflare-522:1", world=world).status == 200


def test_a_wait_may_be_stated_as_a_date() -> None:
    said = parsedate_to_datetime(named("retry-after-date:5").headers["retry-after"])
    assert said.timestamp() == NOW + 5


def test_not_to_retry_is_stated_in_a_header() -> None:
    assert named("should-retry-false").headers["x-should-retry"] == "false"


def test_thinking_is_served_when_streamed_or_switched_off() -> None:
    assert named("think-needs-stream", stream=True).status == 200
    assert named("think-needs-stream", enable_thinking=False).status == 200
    assert named("think-needs-stream", chat_template_kwargs={"enable_thinking": False}).status == 200


def test_stream_options_are_refused_where_unsupported() -> None:
    assert named("so-unsupported", stream=True, stream_options={"include_usage": True}).status == 400
    assert named("so-unsupported", stream=True).status == 200


@pytest.mark.parametrize(("scenario", "choices"), [("shell200", None), ("choices-empty", [])])
def test_the_empty_shell_is_a_200_with_nothing_in_it(scenario: str, choices: Json) -> None:
    body = reply(named(scenario))
    assert (body["id"], body["object"], body["created"], body["choices"]) == ("", "", 0, choices)
    assert body["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_reasoning_comes_in_its_own_field_or_leaks_as_tags() -> None:
    message = first(reply(named("ok-reasoning")), "choices", 0, "message")
    assert first(message, "content") == TEXT
    assert first(message, "reasoning_content")
    deltas = [first(event, "choices", 0, "delta") for event in events_of(named("ok-reasoning", stream=True))]
    names = [next(iter(delta)) for delta in deltas if isinstance(delta, dict) and delta]
    assert names.index("reasoning_content") < names.index("content")
    leaked = str(text_of(named("ok-think-tags")))
    assert leaked.startswith("<think>")
    assert leaked.endswith(f"</think>\n\n{TEXT}")


def test_a_tool_is_called_without_being_offered() -> None:
    choice = first(reply(named("ok-tools")), "choices", 0)
    assert first(choice, "finish_reason") == "tool_calls"
    assert json.loads(str(first(choice, "message", "tool_calls", 0, "function", "arguments")))["query"]


@pytest.mark.parametrize(("scenario", "reason"), [("content-filter", "content_filter"), ("length", "length")])
def test_an_answer_may_finish_otherwise(scenario: str, reason: str) -> None:
    assert first(reply(named(scenario)), "choices", 0, "finish_reason") == reason


@pytest.mark.parametrize(
    ("scenario", "last"), [("hang-mid-stream", Hang), ("reset-mid-stream", Reset), ("cut-mid-stream", Cut)]
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_breaks_off_after_half_of_its_bytes(scenario: str, last: type, *, stream: bool) -> None:
    script = named(scenario, stream=stream)
    # A cut stream may also end in good order, by chance
    assert isinstance(script.steps[-1], last) or (scenario == "cut-mid-stream" and stream)
    whole = len(named("ok", stream=stream).body)
    assert whole // 3 < len(script.body) < whole * 2 // 3


def test_before_the_head_nothing_is_sent() -> None:
    assert named("hang-headers").early == (Hang(),)
    assert named("reset-before-headers").early == (Reset(),)


def stream_of(scenario: str) -> bytes:
    script = named(scenario, stream=True)
    assert script.headers["content-type"].startswith("text/event-stream")
    return script.body


def test_a_plain_stream_is_chunks_and_done() -> None:
    script = named("ok", stream=True)
    assert streamed_text(script) == TEXT
    assert script.body.endswith(b'"finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')
    assert len(script.steps) == 3


@pytest.mark.parametrize(
    ("scenario", "normal"),
    [
        ("sse-crlf", lambda raw: raw.replace(b"\r\n", b"\n")),
        ("sse-cr", lambda raw: raw.replace(b"\r", b"\n")),
        ("sse-bom", lambda raw: raw.removeprefix(b"\xef\xbb\xbf")),
        ("sse-nospace", lambda raw: raw.replace(b"data:", b"data: ")),
        ("sse-split-utf8", lambda raw: raw),
        ("sse-onebyte", lambda raw: raw),
        ("sse-no-final-blank", lambda raw: raw + b"\n\n"),
        ("sse-no-done", lambda raw: raw + b"data: [DONE]\n\n"),
    ],
)
def test_a_framing_differs_from_the_plain_one_only_as_it_states(
    scenario: str, normal: Callable[[bytes], bytes]
) -> None:
    raw = normal(stream_of(scenario))
    assert streamed_text(Script(steps=(Send(piece=raw),))) == TEXT
    assert raw.count(b"data: ") == stream_of("ok").count(b"data: ")
    assert raw.endswith(b"data: [DONE]\n\n")


def test_lines_end_as_the_framing_states() -> None:
    assert b"\n" not in stream_of("sse-crlf").replace(b"\r\n", b"")
    assert b"\n" not in stream_of("sse-cr")
    assert stream_of("sse-bom").startswith(b"\xef\xbb\xbfdata: ")
    assert b"data: " not in stream_of("sse-nospace")


def test_pieces_end_within_characters_or_after_each_byte() -> None:
    split = [step.piece for step in named("sse-split-utf8", stream=True).steps if isinstance(step, Send)]
    assert any(piece[0] & 0xC0 == 0x80 for piece in split)
    single = named("sse-onebyte", stream=True).steps
    assert {len(step.piece) for step in single if isinstance(step, Send)} == {1}


def test_a_chunk_may_stand_on_several_data_lines() -> None:
    event = stream_of("sse-multiline").decode().split("\n\n")[0]
    lines = [line.removeprefix("data: ") for line in event.split("\n")]
    assert len(lines) > 5
    assert json.loads("\n".join(lines))["object"] == "chat.completion.chunk"


def test_comments_and_other_fields_stand_between_the_chunks() -> None:
    def names(scenario: str) -> set[str]:
        return {line.partition(":")[0] for line in stream_of(scenario).decode().split("\n")}

    assert names("sse-comments") == {"", "data"}
    assert names("sse-fields") == {"", "retry", "id", "event", "odd", "data"}
    assert streamed_text(named("sse-fields", stream=True)) == streamed_text(named("sse-comments", stream=True)) == TEXT


def test_finish_reasons_may_be_missing_or_empty() -> None:
    def reasons(scenario: str) -> list[Json]:
        return [first(event, "choices", 0, "finish_reason") for event in events_of(named(scenario, stream=True))]

    assert set(reasons("sse-no-finish")) == {None}
    assert reasons("sse-finish-empty-string")[-1] == "stop"
    assert set(reasons("sse-finish-empty-string")[:-1]) == {""}


def test_deltas_and_choices_may_be_null() -> None:
    events = events_of(named("sse-null-delta", stream=True))
    assert first(events[1], "choices", 0, "delta") is None
    assert first(events[2], "choices", 0, "delta", "content") is None
    assert events_of(named("sse-null-choices", stream=True))[0]["choices"] is None


def test_usage_may_come_early_or_always() -> None:
    assert events_of(named("sse-usage-only", stream=True))[0]["choices"] == []
    events = events_of(named("sse-usage-every-chunk", stream=True))
    assert [first(event, "usage", "completion_tokens") for event in events] == list(range(len(events)))


def test_an_error_may_come_in_the_middle() -> None:
    events = events_of(named("sse-error-mid", stream=True))
    assert "error" in events[-1]
    assert b"[DONE]" not in stream_of("sse-error-mid")
    assert 0 < len(streamed_text(Script(steps=named("sse-cut", stream=True).steps))) < len(TEXT)


def test_pieces_of_a_tool_call_may_have_no_index() -> None:
    calls = [
        first(event, "choices", 0, "delta", "tool_calls", 0)
        for event in events_of(named("sse-tool-no-index", stream=True))
        if "'tool_calls': [" in str(event["choices"])
    ]
    assert len(calls) > 1
    assert all(isinstance(call, dict) and "index" not in call for call in calls)
    text = "".join(str(first(call, "function", "arguments")) for call in calls)
    assert json.loads(text)["query"]


def test_a_stream_may_be_answered_with_plain_json() -> None:
    script = named("sse-json-instead", stream=True)
    assert (script.headers["content-type"], text_of(script)) == ("application/json", TEXT)


def test_two_scenarios_may_be_asked_for_at_once_and_a_model_overrules_the_world() -> None:
    script = named("ok-reasoning+sse-crlf", stream=True)
    assert b"reasoning_content" in script.body
    assert b"\r\n" in script.body
    assert ask(World(scenario="throttle"), model="M/m#ok").status == 200
    assert ask(World(scenario="throttle"), model="M/m").status == 429


def test_every_scenario_is_listed_and_every_listed_one_can_be_asked_for() -> None:
    for table in (
        RULES_OF_SCENARIOS,
        FAILURE_MODES,
        EDITS,
        FRAMINGS,
        {name: 0 for name in DOWNLOADS if name.startswith("dl-")},
    ):
        assert set(table) <= set(SCENARIOS)
    for name, scenario in SCENARIOS.items():
        assert parse_scenarios(name) == {name: None}
        assert scenario.summary
        body: Json = {"model": f"M/m#{name}", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        assert post(World(), CHAT, body).status in {200, 302, 400, 401, 403, 404, 429, 499, 500, 502, 503, 522}
