"""What stands between the program and the API, and what is refused to one item: played by the simulator."""

import pytest

from batchrunner.core.errors import ExitStatus
from tests.support.engine import Latency, RunHarness, World, chat

TWENTY = tuple(f"question {number}" for number in range(20))
ONE_BY_ONE = "limits: {concurrency: 1}"


@pytest.mark.parametrize("scenario", ["page-403", "page-200", "login", "no-route"])
def test_an_address_that_is_not_the_api_ends_the_run_after_three_probes_as_a_mistake(
    harness: RunHarness, scenario: str
) -> None:
    report = harness.run(chat(*TWENTY, model=f"sim/chat#{scenario}", more=ONE_BY_ONE))
    assert report.exit_status is ExitStatus.MISTAKE
    assert harness.stats.sends == 3
    assert (report.status.items.pending, report.status.items.failed) == (20, 0)
    assert "check `provider.base_url`" in (report.status.message or "")
    assert len(harness.said) == 1, "the cause is said once, at once"


@pytest.mark.parametrize("scenario", ["page-403:2", "page-200:2", "login:2", "no-route:2"])
def test_a_machine_on_the_way_that_lets_go_costs_nothing(harness: RunHarness, scenario: str) -> None:
    report = harness.run(chat(*TWENTY, model=f"sim/chat#{scenario}", more=ONE_BY_ONE))
    assert report.exit_status is ExitStatus.DONE
    assert {row["attempts"] for row in harness.rows()} == {1}
    assert report.status.sends.possible_duplicates == 0


@pytest.mark.parametrize(
    "scenario",
    ["limit-req:5", "limit-conn:2", "bare-503:3", "quota-window:4", "error-in-200:2", "reset-requests:9",
     "ratelimit-reset:9", "cloudflare-522:3", "estimated-time:9", "wait-in-prose"],
)  # fmt: skip
def test_a_limit_costs_no_try_and_nothing_counts_as_perhaps_paid(harness: RunHarness, scenario: str) -> None:
    harness.world = World(latency=Latency(first_byte_s=0.3))
    report = harness.run(chat(*TWENTY, model=f"sim/chat#{scenario}"))
    assert report.exit_status is ExitStatus.DONE
    assert {row["attempts"] for row in harness.rows()} == {1}
    assert report.status.sends.possible_duplicates == 0
    assert report.status.sends.refused > 0


@pytest.mark.parametrize(
    "scenario",
    ["quota-window:9", "reset-requests:9", "ratelimit-reset:9", "estimated-time:9", "wait-in-prose:9.3"],
)  # fmt: skip
def test_nothing_is_done_before_a_limit_opens_again(harness: RunHarness, scenario: str) -> None:
    harness.run(chat(*TWENTY, model=f"sim/chat#{scenario}", more=ONE_BY_ONE))
    began = harness.events("intent")[0]["t"]
    assert harness.events("done")[0]["t"] - began >= 9.0
    assert harness.stats.refused == 1, "it was asked again before the time that it had named"


@pytest.mark.parametrize("scenario", ["odd-499:2", "tool-use-failed:2"])
def test_passing_trouble_with_the_status_of_a_mistake_is_tried_again(harness: RunHarness, scenario: str) -> None:
    assert harness.run(chat("one", model=f"sim/chat#{scenario}")).exit_status is ExitStatus.DONE
    assert harness.rows()[0]["attempts"] == 3


def test_an_unpaid_account_is_unpaid_whatever_the_status(harness: RunHarness) -> None:
    report = harness.run(chat(*TWENTY, model="sim/chat#unpaid-403:4", more=ONE_BY_ONE))
    assert report.exit_status is ExitStatus.REFUSED
    assert (report.status.items.done, report.status.items.failed) == (4, 0)
    harness.world = World()
    assert harness.run(chat(*TWENTY, model="sim/chat#unpaid-403:400", more=ONE_BY_ONE)).status.items.failed == 0


def test_flagged_inputs_fail_alone(harness: RunHarness) -> None:
    report = harness.run(chat(*TWENTY, model="sim/chat#moderated-403:3", more=ONE_BY_ONE))
    assert (report.status.items.done, report.status.items.failed) == (17, 3)
    assert {row["error"]["class"] for row in harness.rows("failures.jsonl")} == {"content_filter"}


def test_a_model_that_a_router_does_not_list_is_given_up_after_two_items(harness: RunHarness) -> None:
    report = harness.run(chat(*TWENTY, model="sim/chat#unknown-model-400", more=ONE_BY_ONE))
    assert report.exit_status is ExitStatus.FAILED
    assert harness.stats.sends == 2


def test_a_refused_stream_is_asked_for_unstreamed_and_remembered(harness: RunHarness) -> None:
    report = harness.run(chat(*TWENTY, model="sim/chat#no-stream", more=ONE_BY_ONE))
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.sends == 21


def test_the_same_500_for_everything_is_not_waited_for(harness: RunHarness) -> None:
    began = harness.began
    report = harness.run(chat(*(f"q{number}" for number in range(60)), model="sim/chat#same-500"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.failed == 0
    assert harness.began - began < 1800.0
    assert "image input is not supported" in (report.status.message or "")


@pytest.mark.parametrize("scenario", ["quota-window:180000", "quota-window:31536000"])
def test_a_wait_longer_than_any_run_waits_pauses_the_run_at_once_and_the_next_one_too(
    harness: RunHarness, scenario: str
) -> None:
    job = chat(*TWENTY, model=f"sim/chat#{scenario}", more=ONE_BY_ONE)
    for sends in (1, 1):
        report = harness.run(job)
        assert report.exit_status is ExitStatus.PAUSED
        assert (report.status.items.pending, report.status.items.failed, harness.stats.sends) == (20, 0, sends)
        assert report.status.lanes[0].state == "stopped"
    began, ended = harness.events("open")[0]["t"], harness.events("close")[-1]["t"]
    assert ended - began < 3600.0
