"""A refusal is not a failure: it parks lanes, and no item pays for it."""

import pytest

from batchrunner.core.errors import ExitStatus
from tests.support.engine import RunHarness, chat

TEN = tuple(f"question {number}" for number in range(10))
DAY_S = 86_400.0


def test_a_throttled_item_waits_as_long_as_the_server_asks_and_is_charged_nothing(harness: RunHarness) -> None:
    report = harness.run(chat("one", model="sim/chat#retry-after:7"))
    assert report.exit_status is ExitStatus.DONE
    (row,) = harness.rows()
    assert row["attempts"] == 1
    assert row["seconds"] >= 7.0
    assert report.status.sends.refused == harness.stats.sends - 1


@pytest.mark.parametrize(
    "scenario", ["throttle:3", "empty429:3", "retry-after:3", "retry-after-ms:2500", "retry-after-date:3", "tpm"]
)
def test_every_form_of_throttle_ends_with_every_item_done_on_its_first_attempt(
    harness: RunHarness, scenario: str
) -> None:
    report = harness.run(chat(*TEN, model=f"sim/chat#{scenario}"))
    assert report.exit_status is ExitStatus.DONE
    assert {row["attempts"] for row in harness.rows()} == {1}


@pytest.mark.parametrize("scenario", ["retry-after:3", "retry-after-ms:2500", "retry-after-date:3"])
def test_nothing_is_sent_before_a_hint_is_over(harness: RunHarness, scenario: str) -> None:
    harness.run(chat(*TEN, model=f"sim/chat#{scenario}", more="limits: {concurrency: 1}"))
    assert harness.stats.too_early == 0
    assert len(harness.rows()) == 10


def test_a_hint_longer_than_any_wait_parks_the_lane_instead_of_burning_attempts(harness: RunHarness) -> None:
    began = harness.began
    report = harness.run(chat(*TEN, model="sim/chat#retry-after-huge"))
    assert report.exit_status is ExitStatus.DONE
    assert harness.began - began >= 7200.0
    assert harness.stats.sends <= 10 + 16 + 3
    assert [event["until"] for event in harness.events("parked")]


def test_a_spent_daily_quota_is_waited_for_and_costs_few_calls(harness: RunHarness) -> None:
    began = harness.began
    report = harness.run(chat(*TEN, model="sim/chat#quota-model:4", more="limits: {concurrency: 2}"))
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.verdicts["answered"] == 10
    assert harness.stats.refused <= 2 * 4, "more than the lane's slots ran into the wall on each day"
    assert DAY_S <= harness.began - began <= 3 * DAY_S
    parked = harness.events("parked")[0]
    assert parked["kind"] == "quota_model"
    assert (parked["until"] + 8 * 3600) % DAY_S == 300.0, "the first probe is not at 00:05 in Shanghai"


def test_headers_that_state_nothing_is_left_stop_the_lane_before_the_limit(harness: RunHarness) -> None:
    report = harness.run(chat(*TEN, model="sim/chat#quota-model:4", more="limits: {concurrency: 1}"))
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.refused == 0
    assert len(harness.events("parked")) == 2


def test_the_last_item_of_a_spent_quota_parks_nothing(harness: RunHarness) -> None:
    harness.run(chat(*TEN[:4], model="sim/chat#quota-model:4", more="limits: {concurrency: 1}"))
    assert harness.events("parked") == []


def test_on_quota_stop_ends_the_run_at_once_and_resumable(harness: RunHarness) -> None:
    job = chat(*TEN, model="sim/chat#quota-model:4", more="on_quota: stop\nlimits: {concurrency: 2}")
    began = harness.began
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.began - began < 60.0
    assert report.status.items.pending == 6
    assert report.status.items.failed == 0
    assert report.status.lanes[0].state == "stopped"


def test_one_model_out_of_quota_leaves_the_other_undisturbed(harness: RunHarness) -> None:
    models = 'models: ["sim/spent#quota-model:0", "sim/free"]'
    job = chat(*TEN, more=f"{models}\non_quota: stop").replace('model: "sim/chat"\n', "")
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    assert {row["model"] for row in harness.rows()} == {"sim/free"}
    assert len(harness.rows()) == 10


@pytest.mark.parametrize("scenario", ["auth-bad", "auth-unbound"])
def test_a_refused_key_stops_the_account_within_its_slots_and_ends_with_5(harness: RunHarness, scenario: str) -> None:
    many = tuple(f"q{number}" for number in range(300))
    report = harness.run(chat(*many, model=f"sim/chat#{scenario}", more="limits: {concurrency: 4}"))
    assert report.exit_status is ExitStatus.REFUSED
    assert harness.stats.sends <= 4
    assert report.status.items.pending == 300
    assert report.status.message


@pytest.mark.parametrize("scenario", ["noprovider", "bad-model-id", "forbidden"])
def test_a_model_that_two_items_call_unknown_fails_the_others_without_a_send(
    harness: RunHarness, scenario: str
) -> None:
    many = tuple(f"q{number}" for number in range(100))
    report = harness.run(chat(*many, model=f"sim/chat#{scenario}", more="limits: {concurrency: 1}"))
    assert report.exit_status is ExitStatus.FAILED
    assert harness.stats.sends == 2
    assert report.status.items.failed == 100
    assert len(harness.rows("failures.jsonl")) == 100


def test_a_server_that_is_down_is_probed_at_a_growing_interval_and_comes_back(harness: RunHarness) -> None:
    many = tuple(f"q{number}" for number in range(300))
    report = harness.run(chat(*many, model="sim/chat#5xx:1", more="breaker: 5\nretry: {attempts: 3}"))
    assert report.exit_status is ExitStatus.DONE
    assert harness.events("parked")


def test_a_server_that_stays_down_is_given_up_after_two_days_of_hourly_probes(harness: RunHarness) -> None:
    many = tuple(f"q{number}" for number in range(100))
    report = harness.run(chat(*many, model="sim/chat#should-retry-false", more="limits: {concurrency: 1}"))
    assert harness.stats.sends <= 20 + 48, "more than one probe an hour"
    assert report.exit_status is ExitStatus.PAUSED


def test_the_same_mistake_of_twenty_items_in_a_row_closes_the_lane(harness: RunHarness) -> None:
    many = tuple(f"q{number}" for number in range(100))
    report = harness.run(chat(*many, model="sim/chat#content-filter", more="limits: {concurrency: 1}"))
    assert harness.stats.sends == 20
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.pending == 80
    assert "20 items in a row" in (report.status.message or "")


def test_a_breaker_of_one_states_that_the_first_failure_closed_the_lane(harness: RunHarness) -> None:
    report = harness.run(chat("q", "r", model="sim/chat#content-filter", more="breaker: 1\nlimits: {concurrency: 1}"))
    assert (harness.stats.sends, report.exit_status) == (1, ExitStatus.PAUSED)
    assert "the first item that failed (`breaker: 1`)" in (report.status.message or "")


def test_requests_per_day_holds_across_runs(harness: RunHarness) -> None:
    job = chat(*TEN, more="limits: {requests_per_day: 4, concurrency: 2}")
    harness.run(job, limit=3)
    assert harness.stats.sends == 3
    began = harness.began
    report = harness.run(job)
    assert report.exit_status is ExitStatus.DONE
    assert harness.began - began >= DAY_S


def test_requests_per_minute_spreads_the_sends(harness: RunHarness) -> None:
    began = harness.began
    harness.run(chat(*TEN, more="limits: {requests_per_minute: 6}"))
    assert harness.began - began >= 9 * 10.0 - 1.0


def test_tokens_per_minute_spreads_the_sends(harness: RunHarness) -> None:
    began = harness.began
    harness.run(chat(*(text + " word" * 200 for text in TEN), more="limits: {tokens_per_minute: 600}"))
    assert harness.began - began >= 120.0


def test_an_ambiguous_send_is_held_when_the_job_asks_for_it_and_resent_when_a_person_does(harness: RunHarness) -> None:
    job = chat("one", model="sim/chat#reset-mid-stream:1", more="on_ambiguous: hold")
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.held == 1
    assert harness.stats.sends == 1
    assert harness.run(job).status.items.held == 1
    assert harness.stats.sends == 1
    assert harness.run(job, resend_held=True).exit_status is ExitStatus.DONE
    (row,) = harness.rows()
    assert row["ambiguous"] == 1
    assert row["recovered"] is True


@pytest.mark.parametrize(
    "scenario",
    ["5xx:2", "html502:2", "reset-before-headers:2", "reset-mid-stream:2", "cut-mid-stream:2", "hang-headers:1"],
)
def test_a_fault_that_may_have_been_paid_is_tried_again_and_counted(harness: RunHarness, scenario: str) -> None:
    report = harness.run(chat("one", model=f"sim/chat#{scenario}"))
    assert report.exit_status is ExitStatus.DONE
    times = int(scenario.split(":")[1])
    (row,) = harness.rows()
    assert row["attempts"] == times + 1
    assert row["ambiguous"] == times
    assert report.status.sends.possible_duplicates == times


@pytest.mark.parametrize("scenario", ["shell200:1", "choices-empty:1"])
def test_the_200_shell_is_no_answer(harness: RunHarness, scenario: str) -> None:
    assert harness.run(chat("one", model=f"sim/chat#{scenario}")).exit_status is ExitStatus.DONE
    (row,) = harness.rows()
    assert row["output"]["text"]
    assert row["attempts"] == 2


@pytest.mark.parametrize("scenario", ["think-needs-stream", "so-unsupported"])
def test_a_400_that_names_what_to_change_is_adapted_once_and_remembered(harness: RunHarness, scenario: str) -> None:
    more = "limits: {concurrency: 1}\nstream: false" if scenario.startswith("think") else "limits: {concurrency: 1}"
    report = harness.run(chat(*TEN, model=f"sim/chat#{scenario}", more=more))
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.sends == 11
    assert {row["attempts"] for row in harness.rows()} == {1}


def test_attempts_used_up_end_an_item_with_its_cause(harness: RunHarness) -> None:
    report = harness.run(chat("one", model="sim/chat#5xx", more="retry: {attempts: 3}"))
    assert report.exit_status is ExitStatus.FAILED
    (row,) = harness.rows("failures.jsonl")
    assert row["error"]["class"] == "server_error"
    assert row["attempts"] == 3
    assert harness.stats.sends == 3
    assert report.status.failures[0].count == 1


def test_a_filtered_answer_is_a_failure_of_its_own_class(harness: RunHarness) -> None:
    assert harness.run(chat("one", model="sim/chat#content-filter")).exit_status is ExitStatus.FAILED
    assert harness.rows("failures.jsonl")[0]["error"]["class"] == "content_filter"
    assert harness.stats.sends == 1


def test_a_truncated_answer_is_a_success_that_is_marked(harness: RunHarness) -> None:
    assert harness.run(chat("one", model="sim/chat#length")).exit_status is ExitStatus.DONE
    output = harness.rows()[0]["output"]
    assert output["truncated"] is True
    assert output["finish_reason"] == "length"


def test_an_overload_reported_in_the_middle_of_an_answer_may_have_been_paid_and_is_no_attempt_three_times(
    harness: RunHarness,
) -> None:
    provider = "{preset: simulator, dialect: anthropic-messages}"
    job = chat("one", model="sim/chat#an-overloaded-mid", more="retry: {attempts: 2}")
    report = harness.run(job.replace("provider: simulator", f"provider: {provider}"))
    assert report.exit_status is ExitStatus.FAILED
    assert harness.stats.sends == 3 + 2
    assert report.status.sends.possible_duplicates == 3 + 2


def test_every_dialect_reaches_the_simulator_in_process(harness: RunHarness) -> None:
    for dialect in ("openai-chat", "openai-responses", "anthropic-messages"):
        provider = f"{{preset: simulator, dialect: {dialect}}}"
        report = harness.run(chat(f"one for {dialect}").replace("provider: simulator", f"provider: {provider}"))
        assert report.exit_status is ExitStatus.DONE
