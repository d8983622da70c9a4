"""What was paid, what went wrong by chance, what is counted and told."""

import json

import pytest

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.job import Json
from batchrunner.simulator.answers import expected_text
from batchrunner.simulator.profiles import FaultRates, Latency
from batchrunner.simulator.quotas import Quota
from batchrunner.simulator.script import Cut, Delay, Hang, Reset
from batchrunner.simulator.world import World
from tests.simulator.calls import (
    CHAT,
    NOW,
    ask,
    ask_and_stay,
    error_of,
    events_of,
    fetch,
    first,
    get,
    post,
    reply,
    submit,
)


def test_an_order_executed_again_is_paid_twice_whatever_its_transport() -> None:
    world = World()
    ask(world, prompt="same", token="a")
    ask(world, prompt="same", token="a", stream=True, stream_options={"include_usage": True})
    ask(world, prompt="same", token="b")
    ask(world, prompt="other", token="a")
    assert (world.stats().sends, world.stats().paid, world.stats().paid_twice) == (4, 4, 1)


@pytest.mark.parametrize("refusing", ["throttle", "5xx", "empty429", "quota-model", "shell200", "noprovider"])
def test_what_is_refused_is_not_paid(refusing: str) -> None:
    world = World(scenario=refusing)
    ask(world)
    ask(world)
    assert (world.stats().sends, world.stats().paid, world.stats().paid_twice) == (2, 0, 0)


@pytest.mark.parametrize("breaking", ["reset-mid-stream", "hang-mid-stream", "cut-mid-stream", "sse-cut"])
def test_an_answer_that_broke_off_was_paid(breaking: str) -> None:
    world = World(scenario=breaking)
    ask(world, stream=True)
    ask(world, stream=True)
    assert (world.stats().paid, world.stats().paid_twice) == (2, 1)


def test_half_of_the_resets_before_the_head_were_executed() -> None:
    world = World(scenario="reset-before-headers")
    scripts = [ask(world, prompt=f"question {at}") for at in range(200)]
    assert all(script.early == (Reset(),) and not script.steps for script in scripts)
    assert 70 < world.stats().paid < 130


def test_a_task_that_fails_is_refunded() -> None:
    world = World(scenario="img-fail:1")
    submit(world)
    submit(world)
    assert (world.stats().tasks, world.stats().paid, world.stats().paid_twice) == (2, 1, 0)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [("throttle=1", "throttled"), ("5xx=1", "server-error"), ("shell=1", "shell"), ("cut=1", "cut"), ("", "answered")],
)
def test_a_rate_of_one_befalls_every_call(rates: str, expected: str) -> None:
    world = World(faults=FaultRates.parse(rates))
    ask(world)
    assert world.stats().verdicts == {expected: 1}


def test_faults_come_about_as_often_as_asked_for_and_pass_with_another_send() -> None:
    world = World(faults=FaultRates.parse("throttle=0.1,5xx=0.05,retry_after=3"))
    scripts = [ask(world, prompt=f"question {at}") for at in range(2000)]
    throttled = [script for script in scripts if script.status == 429]
    assert 150 < len(throttled) < 250
    assert 60 < sum(script.status == 500 for script in scripts) < 140
    assert all(script.headers["retry-after"] == "3" for script in throttled)
    assert {ask(world, prompt="question 1").status for _ in range(100)} > {200}


def test_a_throttle_can_be_set_to_give_no_hint() -> None:
    assert "retry-after" not in ask(World(faults=FaultRates.parse("throttle=1,retry_after=-1"))).headers


def test_a_cut_answer_announces_more_than_it_sends() -> None:
    script = ask(World(faults=FaultRates(cut=1.0)))
    assert isinstance(script.steps[-1], Cut)
    assert int(script.headers["content-length"]) > len(script.body)


def test_a_hang_never_has_a_head() -> None:
    assert ask(World(faults=FaultRates(hang=1.0))).early[-1] == Hang()


@pytest.mark.parametrize(
    "text", ["throttel=0.1", "throttle", "throttle=x", "throttle=2", "throttle=0.6,5xx=0.6", "cut=nan"]
)
def test_a_bad_fault_is_a_mistake_that_states_what_is_wrong(text: str) -> None:
    with pytest.raises(JobMistakesError, match="faults"):
        FaultRates.parse(text)


@pytest.mark.parametrize("text", ["no-such", "throttle:x", "quota-model:inf", "throttle:3+no-such"])
def test_a_bad_scenario_is_a_mistake(text: str) -> None:
    with pytest.raises(JobMistakesError, match="scenario"):
        World(scenario=text)


def test_latency_is_read_from_a_text_and_waits_come_before_and_between_the_pieces() -> None:
    world = World(latency=Latency.parse("first=0.5,chunk=0.01"))
    script = ask(world, stream=True)
    assert script.early == (Delay(seconds=0.5),)
    assert script.steps[0] == Delay(seconds=0.01)
    with pytest.raises(JobMistakesError, match="latency"):
        Latency.parse("frist=1")


def test_rate_headers_go_down_with_what_was_executed_and_the_quota_ends_at_midnight_in_shanghai() -> None:
    world = World(quota=Quota(account_per_day=10, model_per_day=2))
    left = [ask(world).headers["modelscope-ratelimit-model-requests-remaining"] for _ in range(2)]
    assert left == ["1", "0"]
    refused = ask(world)
    assert (refused.status, "today's quota for model Qwen/Qwen3-8B" in error_of(refused)) == (429, True)
    midnight = (NOW + 8 * 3600) // 86400 * 86400 + 86400 - 8 * 3600
    assert ask(world, now=midnight - 1).status == 429
    assert ask(world, now=midnight).status == 200


def test_without_a_quota_there_are_no_rate_headers() -> None:
    headers = ask(World(quota=Quota(account_per_day=None, model_per_day=None))).headers
    assert not [name for name in headers if name.startswith("modelscope-")]


def test_usage_is_streamed_only_when_asked_for() -> None:
    world = World()
    plain = events_of(ask(world, stream=True))
    asked = events_of(ask(world, stream=True, stream_options={"include_usage": True}))
    assert not any("usage" in event for event in plain)
    assert asked[-1]["choices"] == []
    assert first(asked[-1], "usage", "total_tokens") == first(reply(ask(world)), "usage", "total_tokens")


def test_a_limit_of_tokens_cuts_the_text_and_reports_it() -> None:
    choice = first(reply(ask(World(), max_tokens=3)), "choices", 0)
    assert first(choice, "finish_reason") == "length"
    assert first(choice, "message", "content") == expected_text("Qwen/Qwen3-8B", "hi")[:12]


def test_offered_tools_are_called_until_their_result_is_reported() -> None:
    world = World()
    tool: Json = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}},
    }
    called = first(reply(ask(world, tools=[tool])), "choices", 0)
    assert first(called, "finish_reason") == "tool_calls"
    arguments = json.loads(str(first(called, "message", "tool_calls", 0, "function", "arguments")))
    assert isinstance(arguments["n"], int)
    turns: Json = [{"role": "user", "content": "hi"}, {"role": "tool", "content": "4", "tool_call_id": "x"}]
    told = post(world, CHAT, {"model": "m", "messages": turns, "tools": [tool]})
    assert first(reply(told), "choices", 0, "finish_reason") == "stop"
    assert first(reply(ask(world, tools=[tool], tool_choice="none")), "choices", 0, "finish_reason") == "stop"


def test_the_list_of_models_and_the_balance_are_reported() -> None:
    world = World(auth=True)
    ask(world, token="t")
    assert first(reply(get(world, "/v1/models")), "object") == "list"
    told = reply(get(world, "/openapi/v1/magicubes/balance", headers={"authorization": "Bearer t"}))
    assert first(told, "data", "available_balance") == 249
    assert get(world, "/openapi/v1/magicubes/balance").status == 401


def test_unknown_paths_and_files_at_the_wrong_port_are_not_found() -> None:
    world = World()
    assert get(world, "/v1/nothing").status == 404
    assert get(world, "/files/x.png").status == 404
    assert fetch(world, "/v1/models").status == 404
    assert post(world, "/chat/completions", {}).status == 404


def test_credentials_at_the_storage_port_are_counted() -> None:
    world = World()
    fetch(world, "/files/x.png")
    assert world.stats().storage_credentials == {}
    fetch(world, "/files/x.png", headers={"authorization": "Bearer t", "cookie": "a=b"})
    assert world.stats().storage_credentials == {"authorization": 1, "cookie": 1}


def test_the_most_in_flight_is_counted_until_they_leave() -> None:
    world = World()
    scripts = [ask_and_stay(world, prompt=f"{at}") for at in range(3)]
    for script in scripts:
        world.leave(script)
    ask(world)
    assert (world.stats().max_in_flight, world.stats().in_flight) == (3, 0)


def test_the_most_requests_of_an_account_in_a_second_are_counted() -> None:
    world = World()
    for now in (0.1, 0.5, 0.9, 1.0, 1.5):
        ask(world, now=NOW + now)
    assert world.stats().max_per_second == 3


def test_the_log_is_bounded_and_read_from_a_number_on() -> None:
    world = World(log_size=5)
    for at in range(8):
        ask(world, prompt=f"{at}")
    entries = first(reply(get(world, "/_simulator/log?since=6")), "requests")
    assert isinstance(entries, list)
    assert [first(entry, "number") for entry in entries] == [7, 8]
    assert len(world.log.ring) == 5


def test_a_look_at_the_counters_changes_none_and_a_reset_clears_them() -> None:
    world = World()
    ask(world)
    shown = reply(get(world, "/_simulator/stats"))
    assert (shown["sends"], shown["paid"], shown["requests"]) == (1, 1, {"chat": 1})
    post(world, "/_simulator/reset", {})
    assert world.stats().sends == 0
