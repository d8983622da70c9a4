"""Anthropic's message batches: the same lifecycle, and an order that nothing can find again is held, never repeated."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

import batchrunner
from batchrunner.core.errors import ExitStatus
from batchrunner.core.http import ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Problem
from batchrunner.core.remote_batch import RemoteBatch
from batchrunner.core.values import replace
from batchrunner.providers.anthropic_batches import AnthropicBatches
from batchrunner.providers.anthropic_messages import AnthropicMessages
from batchrunner.report.batch_adoption import adopt_batch
from tests.sdk_compat.items import provider
from tests.support.engine import RunHarness, World, chat, harness
from tests.support.snapshots import Snapshots, snapshots

__all__ = ["harness", "snapshots"]


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


BASE = "https://gateway.example/v1"
GATEWAY = replace(provider("simulator", "anthropic-messages"), base_url=BASE)
OURS = AnthropicBatches(GATEWAY, AnthropicMessages(GATEWAY))


def job(items: int = 40, **keys: object) -> str:
    """A job with batches of 20 items."""
    batch = {"use": "always", "max_items": 20, **keys}
    text = chat(*(f"question {number}" for number in range(items)), more=f"batch: {json.dumps(batch)}")
    return text.replace("provider: simulator", "provider: {preset: simulator, dialect: anthropic-messages}")


def everything_is_done_once(harness: RunHarness, *, items: int = 40) -> None:
    assert Counter(row["id"] for row in harness.rows()).keys() == {row["id"] for row in harness.rows()}
    assert len(harness.rows()) == items
    assert (harness.stats.paid, harness.stats.paid_twice) == (items, 0)


@pytest.mark.parametrize("scenario", ["ok", "batch-odd-lines", "batch-404:3"])
def test_items_go_in_message_batches_without_a_file(harness: RunHarness, scenario: str) -> None:
    harness.world = World(scenario=scenario)
    assert harness.run(job()).exit_status is ExitStatus.DONE
    everything_is_done_once(harness)
    assert harness.stats.batches == 2
    assert not {"upload", "message", "chat"} & harness.stats.requests.keys()


def test_the_answers_are_those_of_the_ordinary_way(tmp_path: Path) -> None:
    ordinary, batched = RunHarness(tmp_path / "a"), RunHarness(tmp_path / "b")
    for each, text in ((ordinary, job(use="never")), (batched, job())):
        each.folder.mkdir()
        each.run(text)
    texts = [{row["id"]: row["output"]["text"] for row in each.rows()} for each in (ordinary, batched)]
    assert texts[0] == texts[1]
    assert (ordinary.stats.batches, batched.stats.batches) == (0, 2)


def test_an_order_that_got_no_reply_is_never_repeated_but_held_and_adopted(harness: RunHarness) -> None:
    harness.world = World(scenario="batch-500:1")
    report = harness.run(job(20))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.held == 20
    assert harness.stats.requests["batch"] == 1
    again = harness.run(job(20))
    assert (again.exit_status, harness.stats.requests["batch"]) == (ExitStatus.PAUSED, 1)
    (batch_id,) = harness.world._message_batches._batches
    adopted = adopt_batch(harness.out, batch_id)
    assert (adopted.batch, adopted.items) == (1, 20)
    assert harness.run(job(20)).exit_status is ExitStatus.DONE
    everything_is_done_once(harness, items=20)


def test_an_order_that_was_never_taken_is_made_again_once_the_list_has_none_of_its_size(harness: RunHarness) -> None:
    harness.world = World(scenario="batch-not-taken:1")
    assert harness.run(job()).exit_status is ExitStatus.DONE
    everything_is_done_once(harness)
    assert (harness.stats.batches, harness.stats.requests["batch"]) == (2, 3)


def test_a_list_of_a_server_that_is_not_known_proves_nothing(
    harness: RunHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrunner.providers.anthropic_batches.is_known", lambda _provider: False)
    harness.world = World(scenario="batch-not-taken:1")
    report = harness.run(job(20))
    assert (report.exit_status, report.status.items.held) == (ExitStatus.PAUSED, 20)
    assert harness.stats.requests["batch"] == 1


def test_a_kill_at_any_exchange_repeats_no_order_and_holds_only_what_was_taken(
    harness: RunHarness, snapshots: Snapshots
) -> None:
    for folder, world, when in snapshots(job(20)):
        resumed = RunHarness(folder, world=world, began=harness.began)
        report = resumed.run(job(20))
        if when == "after POST messages/batches":
            assert (report.exit_status, report.status.items.held) == (ExitStatus.PAUSED, 20), when
            adopt_batch(resumed.out, next(iter(world._message_batches._batches)))
            report = resumed.run(job(20))
        assert report.exit_status is ExitStatus.DONE, when
        assert world.stats().batches == 1, when
        everything_is_done_once(resumed, items=20)


AT = 1_790_000_000.0


@pytest.mark.parametrize(
    ("told", "may"),
    [
        ({"request_counts": {"processing": 20, "succeeded": 0}, "created_at": _moment(AT)}, True),
        ({"request_counts": {"processing": 15, "succeeded": 5}, "created_at": _moment(AT - 3600)}, True),
        ({"request_counts": {"processing": 21}, "created_at": _moment(AT)}, False),
        ({"request_counts": {"processing": 20}, "created_at": _moment(AT - 90_000)}, False),
        ({"request_counts": {"processing": 20}, "created_at": "soon"}, True),
        ({"request_counts": {"processing": 0}, "created_at": _moment(AT)}, True),
        ({}, True),
    ],
)
def test_a_batch_without_a_name_may_be_ours_by_its_size_and_its_time(told: dict[str, Json], *, may: bool) -> None:
    look = OURS._look_of({"id": "b", "processing_status": "in_progress", **told})
    assert look is not None
    assert look.may_be(RemoteBatch(number=1, items=20, at=AT)) is may


@pytest.mark.parametrize("told", [{"data": [{}]}, {"data": [], "has_more": True}, {"data": None}, []])
def test_a_list_that_hides_a_batch_is_not_believed(told: Json) -> None:
    assert isinstance(OURS._page(ResponseHead(status=200, headers={}, received_at=0.0), told), Problem)


def test_expired_requests_go_again_uncharged_and_errored_ones_have_failed(tmp_path: Path) -> None:
    expected = (("batch-expires:60", ExitStatus.DONE, {1}), ("batch-all-errors", ExitStatus.FAILED, set[int]()))
    for scenario, status, attempts in expected:
        harness = RunHarness(tmp_path / scenario[:9], world=World(scenario=scenario))
        harness.folder.mkdir()
        report = harness.run(job(20))
        assert report.exit_status is status
        assert {row["attempts"] for row in harness.rows()} == attempts
        assert report.status.items.failed == (20 if status is ExitStatus.FAILED else 0)


def test_results_that_are_gone_hold_the_batch(harness: RunHarness) -> None:
    harness.world = World(scenario="batch-file-gone")
    report = harness.run(job(20))
    assert (report.exit_status, report.status.items.held) == (ExitStatus.PAUSED, 20)
    assert [batch.state for batch in batchrunner.status(str(harness.out)).batches] == ["held"]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("/v1/messages/batches/b1/results", f"{BASE}/messages/batches/b1/results"),
        (f"{BASE}/messages/batches/b1/results?part=2", f"{BASE}/messages/batches/b1/results?part=2"),
        ("https://elsewhere.example/v1/messages/batches/b1/results", f"{BASE}/messages/batches/b1/results"),
        ("http://gateway.example/v1/messages/batches/b1/results", f"{BASE}/messages/batches/b1/results"),
    ],
)
def test_the_address_of_results_may_be_relative_and_another_host_never_gets_the_key(given: str, asked: str) -> None:
    assert OURS.content(given).url == asked


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"null", b'{"custom_id": 1, "result": {}}', b'{"custom_id": "a"}', b"\xff", b"[" * 5000]
)
def test_a_line_that_is_none_belongs_to_no_item(line: bytes) -> None:
    assert OURS.read(line).key == ""


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"type": "errored", "error": {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}}, 529),
        ({"type": "errored", "error": {"type": "invalid_request_error", "message": "x"}}, 400),
        ({"type": "errored", "error": {"type": "error", "error": {"type": "new_error", "message": "x"}}}, 500),
        ({"type": "succeeded", "message": None}, 500),
        ({"type": "later"}, 500),
    ],
)
def test_an_error_has_the_status_of_the_ordinary_way(result: dict[str, object], status: int) -> None:
    found = OURS.read(json.dumps({"custom_id": "a", "result": result}).encode())
    assert found.key == "a"
    assert found.problem is not None
    assert found.problem.status == status


@pytest.mark.parametrize("kind", ["canceled", "expired"])
def test_what_was_never_executed_is_unanswered(kind: str) -> None:
    assert OURS.read(json.dumps({"custom_id": "a", "result": {"type": kind}}).encode()).unanswered
