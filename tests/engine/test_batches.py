"""Batches: ordered once, found again, read to the last line, and never paid for twice."""

import asyncio
import copy
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

import batchrunner
from batchrunner.core.errors import ExitStatus, JobMistakesError
from batchrunner.core.ports import Kept
from batchrunner.core.remote_batch import BatchLine
from batchrunner.core.row import ResultRow
from batchrunner.engine.shutdown import Shutdown
from batchrunner.providers.openai_batches import OpenAiBatches
from batchrunner.report.batch_adoption import adopt_batch
from batchrunner.report.summary import summary
from batchrunner.stores.results import ResultsFile
from tests.support.engine import RunHarness, World, asked, chat, harness
from tests.support.snapshots import Snapshots, snapshots

__all__ = ["asked", "harness", "snapshots"]

ITEMS = 60
NEEDED = 3


def job(items: int = ITEMS, *, model: str = "sim/chat", more: str = "", **keys: object) -> str:
    """A job with batches of 20 items."""
    batch = {"use": "always", "max_items": 20, **keys}
    return chat(
        *(f"question {number}" for number in range(items)), model=model, more=f"batch: {json.dumps(batch)}\n{more}"
    )


def with_scenario(harness: RunHarness, scenario: str) -> RunHarness:
    harness.world = World(scenario=scenario)
    return harness


def messages_of(harness: RunHarness) -> str:
    return "\n".join(harness.said)


def everything_is_done_once(harness: RunHarness, *, items: int = ITEMS) -> None:
    rows = Counter(row["id"] for row in harness.rows())
    assert len(rows) == items
    assert set(rows.values()) == {1}
    assert harness.stats.paid == items
    assert harness.stats.paid_twice == 0


def test_items_go_in_batches_and_no_request_goes_the_ordinary_way(harness: RunHarness) -> None:
    report = harness.run(job())
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.batches == NEEDED
    assert "chat" not in harness.stats.requests
    everything_is_done_once(harness)


def test_a_second_run_of_a_job_that_is_done_asks_for_nothing(harness: RunHarness) -> None:
    harness.run(job())
    before = harness.stats
    assert harness.run(job()).exit_status is ExitStatus.DONE
    assert harness.stats == before


def test_the_answers_are_those_of_the_ordinary_way(tmp_path: Path) -> None:
    ordinary, batched = RunHarness(tmp_path / "a"), RunHarness(tmp_path / "b")
    for each in (ordinary, batched):
        each.folder.mkdir()
    ordinary.run(job(use="never"))
    batched.run(job())
    texts = [{row["id"]: row["output"]["text"] for row in each.rows()} for each in (ordinary, batched)]
    assert texts[0] == texts[1]
    assert (ordinary.stats.batches, batched.stats.batches) == (0, NEEDED)


def test_a_job_without_the_key_orders_no_batch(harness: RunHarness) -> None:
    harness.run(chat(*(f"question {number}" for number in range(ITEMS))))
    assert harness.stats.batches == 0
    assert not harness.events("batch", "batched")
    assert {record["version"] for record in harness.events("open")} == {1}


def test_a_segment_with_batches_is_refused_by_earlier_programs(harness: RunHarness) -> None:
    harness.run(job())
    assert {record["version"] for record in harness.events("open")} == {4}


# -- crashes


@pytest.mark.parametrize(("scenario", "items"), [("batch-odd-lines", 60), ("batch-500:1", 40)])
def test_a_kill_at_any_exchange_pays_for_nothing_twice_and_loses_nothing(
    harness: RunHarness, snapshots: Snapshots, scenario: str, items: int
) -> None:
    with_scenario(harness, scenario)
    moments = snapshots(job(items))
    assert len(moments) >= 2 * 4 * items // 20
    for folder, world, when in moments:
        resumed = RunHarness(folder, world=world, began=harness.began)
        report = resumed.run(job(items))
        assert report.exit_status is ExitStatus.DONE, (when, messages_of(resumed))
        assert world.stats().batches == items // 20, (when, messages_of(resumed))
        everything_is_done_once(resumed, items=items)


def test_a_kill_in_the_middle_of_the_results_loses_none_and_repeats_none(
    harness: RunHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[tuple[Path, World]] = []
    keep = ResultsFile.put

    def copied(self: ResultsFile, row: ResultRow, then: Kept) -> None:
        if len(moments) < 4:
            folder = harness.folder / f"snapshot-{len(moments)}"
            shutil.copytree(harness.out, folder / "out")
            moments.append((folder, copy.deepcopy(harness.world)))
        keep(self, row, then)

    with monkeypatch.context() as patched:
        patched.setattr(ResultsFile, "put", copied)
        harness.run(job())
    for folder, world in moments:
        resumed = RunHarness(folder, world=world, began=harness.began)
        assert resumed.run(job()).exit_status is ExitStatus.DONE
        everything_is_done_once(resumed)
        assert resumed.stats.batches == NEEDED


# -- what servers do


def test_an_expired_batch_keeps_what_is_done_and_the_rest_goes_again_uncharged(
    harness: RunHarness,
) -> None:
    with_scenario(harness, "batch-expires:60")
    harness.run(job(20))
    everything_is_done_once(harness, items=20)
    assert harness.stats.requests["batch line"] == 12
    assert len(harness.events("refused")) == 8
    assert {row["attempts"] for row in harness.rows()} == {1}


def test_a_batch_whose_output_file_is_null_is_read_from_its_file_of_errors(harness: RunHarness) -> None:
    with_scenario(harness, "batch-all-errors")
    report = harness.run(job(20))
    assert report.exit_status is ExitStatus.FAILED
    assert report.status.items.failed == 20
    assert "invalid request" in report.status.failures[0].message
    assert harness.stats.batches == 1


def test_results_of_nobody_and_second_ones_are_kept_aside_and_shown(harness: RunHarness) -> None:
    with_scenario(harness, "batch-odd-lines")
    harness.run(job(20))
    everything_is_done_once(harness, items=20)
    kept = (harness.out / "batches" / "000001.unmatched.jsonl").read_bytes().splitlines()
    assert len(kept) == 4
    assert "4 results match none of its items" in messages_of(harness)


def test_a_status_of_0_is_a_failure_of_the_request_whatever_its_counts_are(harness: RunHarness) -> None:
    with_scenario(harness, "batch-status-0")
    report = harness.run(job(20))
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.requests["batch line"] == 20
    assert harness.stats.requests["chat"] == 2
    assert sorted(row["attempts"] for row in harness.rows()) == [1] * 18 + [2] * 2


def test_bodies_as_text_and_a_line_of_4_mb_are_read(harness: RunHarness) -> None:
    with_scenario(harness, "batch-strings+batch-long-line")
    harness.run(job(20))
    everything_is_done_once(harness, items=20)
    assert (harness.out / "batches" / "000001.out.jsonl").stat().st_size > 4_000_000


def test_too_many_enqueued_tokens_refuse_the_batch_and_smaller_ones_follow_later(harness: RunHarness) -> None:
    with_scenario(harness, "batch-too-much:12")
    report = harness.run(job(40))
    assert report.exit_status is ExitStatus.DONE
    everything_is_done_once(harness, items=40)
    assert {row["attempts"] for row in harness.rows()} == {1}
    assert max(batch.items for batch in report.status.batches if batch.done) <= 12


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages"])
def test_a_file_that_is_too_large_for_the_server_is_ordered_in_smaller_ones(harness: RunHarness, dialect: str) -> None:
    with_scenario(harness, "batch-too-large:2")
    text = job(40).replace("provider: simulator", f"provider: {{preset: simulator, dialect: {dialect}}}")
    assert harness.run(text).exit_status is ExitStatus.DONE
    everything_is_done_once(harness, items=40)
    assert {row["attempts"] for row in harness.rows()} == {1}
    assert harness.stats.batches > 2
    assert not list((harness.out / "batches").glob(".*"))


def test_what_the_budget_held_back_for_batches_that_were_not_ordered_is_free_again(harness: RunHarness) -> None:
    """A refusal ends the pass while the other model's items wait in a draft; the next pass puts them in again."""
    with_scenario(harness, "batch-too-large:2")
    both = (
        job(20)
        .replace('model: "sim/chat"', "models: [sim/a, sim/b]")
        .replace("model: sim/chat", "models: [sim/a, sim/b]")
    )
    assert "models:" in both
    report = harness.run(f"{both}\nbudget: {{calls: 40}}")
    assert report.exit_status is ExitStatus.DONE
    everything_is_done_once(harness, items=40)
    assert "chat" not in harness.stats.requests


def test_a_single_request_that_is_too_large_pauses_the_run(harness: RunHarness) -> None:
    with_scenario(harness, "batch-too-large:0.01")
    assert harness.run(job(20)).exit_status is ExitStatus.PAUSED
    assert "The file is too large" in messages_of(harness)
    assert harness.stats.paid == 0


def test_404_for_a_few_looks_is_no_loss(harness: RunHarness) -> None:
    with_scenario(harness, "batch-404:3")
    assert harness.run(job(20)).exit_status is ExitStatus.DONE
    everything_is_done_once(harness, items=20)


@pytest.mark.parametrize("scenario", ["batch-500:1", "batch-no-metadata+batch-500:1"])
def test_an_order_answered_with_500_is_found_again_by_its_metadata_or_its_file(
    harness: RunHarness, scenario: str
) -> None:
    with_scenario(harness, scenario)
    harness.run(job())
    everything_is_done_once(harness)
    assert harness.stats.batches == NEEDED
    assert "found again" in messages_of(harness)


def test_an_order_that_is_in_no_list_twice_is_made_again(harness: RunHarness) -> None:
    with_scenario(harness, "batch-not-taken:1")
    harness.run(job())
    everything_is_done_once(harness)
    assert harness.stats.batches == NEEDED
    assert harness.stats.requests["batches"] == 2


def test_a_refused_batch_pauses_the_run_and_nothing_goes_the_ordinary_way(harness: RunHarness) -> None:
    with_scenario(harness, "batch-refused")
    report = harness.run(job())
    assert report.exit_status is ExitStatus.PAUSED
    assert "cannot create batches" in str(report.status.message)
    assert (harness.stats.paid, harness.stats.sends) == (0, 0)
    assert report.status.items.pending == ITEMS


# -- batches of which nothing is known any more


def test_a_batch_that_never_ends_is_held_and_a_person_may_pay_again(harness: RunHarness) -> None:
    with_scenario(harness, "batch-stuck")
    report = harness.run(job(20, give_up="2h"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.held == 20
    assert [batch.state for batch in report.status.batches] == ["held"]
    harness.world = World()
    again = harness.run(job(20, give_up="2h"))
    assert (again.exit_status, harness.stats.requests) == (ExitStatus.PAUSED, {})
    report = harness.run(job(20, give_up="2h"), resend_held=True)
    assert report.exit_status is ExitStatus.DONE
    assert report.status.sends.possible_duplicates == 20


def test_result_files_that_are_gone_hold_the_batch(harness: RunHarness) -> None:
    with_scenario(harness, "batch-file-gone")
    report = harness.run(job(20))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.held == 20
    assert harness.stats.batches == 1


def test_result_files_of_another_batch_hold_it_instead_of_paying_again(
    harness: RunHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenAiBatches, "read", lambda self, line: BatchLine(key="f" * 32, status=200, body=b"{}"))
    report = harness.run(job(20))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.held == 20
    assert harness.stats.batches == 1


def test_lost_batches_are_sent_again_if_the_job_asks_for_it_each_as_a_possible_duplicate(
    harness: RunHarness,
) -> None:
    with_scenario(harness, "batch-404:5")
    report = harness.run(job(20, on_lost="resend"))
    assert report.exit_status in {ExitStatus.DONE, ExitStatus.FAILED}
    assert report.status.sends.ambiguous >= 20
    assert report.status.items.held == 0


def test_an_adopted_batch_is_read_by_the_next_run(harness: RunHarness) -> None:
    with_scenario(harness, "batch-stuck")
    harness.run(job(20, give_up="2h"))
    (batch_id,) = (event["id"] for event in harness.events("batch_accepted"))
    (batch,) = harness.world._batches._batches.values()
    batch.ends_at = 0.0
    adopted = adopt_batch(harness.out, batch_id)
    assert (adopted.batch, adopted.items) == (1, 20)
    assert harness.run(job(20, give_up="48h")).exit_status is ExitStatus.DONE
    everything_is_done_once(harness, items=20)


def test_what_does_not_wait_is_not_adopted(harness: RunHarness) -> None:
    harness.run(job(20))
    with pytest.raises(JobMistakesError, match="no batch of this directory waits to be adopted"):
        adopt_batch(harness.out, "batch_1")


# -- around them


def test_batches_that_are_open_when_the_run_ends_are_read_by_the_next_even_without_the_key(harness: RunHarness) -> None:
    with_scenario(harness, "batch-slow:7200")
    report = harness.run(job(20, max_wait="1h"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.accepted == 20
    assert "20 timed out, still running remotely; last message: batch batch_" in (report.status.message or "")
    harness.began += 7200.0
    plain = chat(*(f"question {number}" for number in range(20)))
    assert harness.run(plain).exit_status is ExitStatus.DONE
    everything_is_done_once(harness, items=20)
    assert harness.stats.batches == 1


def test_an_interruption_leaves_batches_open_and_cancels_none(harness: RunHarness, asked: list[Shutdown]) -> None:
    with_scenario(harness, "batch-slow:7200")

    async def interrupt(_: object) -> None:
        await asyncio.sleep(600.0)
        asked[0].request()

    report = harness.run(job(20), progress=interrupt)
    assert report.exit_status is ExitStatus.INTERRUPTED
    assert "cancel" not in harness.stats.requests
    assert "still open at the server, and will be billed" in messages_of(harness)
    assert harness.run(job(20)).exit_status is ExitStatus.DONE
    everything_is_done_once(harness, items=20)


def test_answers_of_items_that_the_job_has_no_more_are_kept(harness: RunHarness) -> None:
    with_scenario(harness, "batch-slow:7200")
    harness.run(job(20, max_wait="1h"))
    harness.began += 7200.0
    report = harness.run(job(10))
    assert report.exit_status is ExitStatus.DONE
    assert len(harness.rows()) == 10
    assert len(harness.rows("superseded.jsonl")) == 10
    assert harness.stats.paid_twice == 0


def test_auto_goes_the_ordinary_way_where_the_run_ends_before_a_batch_may(harness: RunHarness) -> None:
    harness.run(job(use="auto", more="deadline: 8h"))
    assert harness.stats.batches == 0
    assert "sending the ordinary way" in messages_of(harness)
    everything_is_done_once(harness)


def test_a_budget_is_kept_and_counts_items_in_batches(harness: RunHarness) -> None:
    report = harness.run(job(more="budget: {calls: 30}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.stats.paid == 30
    assert report.status.budget[0].spent == 30


PRICES = "budget: {currency: USD, prices: {sim/chat: {input: 2, output: 8}}}"


def test_plan_states_within_1_percent_what_1000_items_cost_one_by_one_and_in_batches(tmp_path: Path) -> None:
    prompts = [f"{number} " + "word " * 480 for number in range(1000)]
    whole = {False: "", True: "batch: {use: always, max_items: 400}\n"}
    for in_batches, more in whole.items():
        folder = tmp_path / str(in_batches)
        folder.mkdir()
        harness = RunHarness(folder)
        text = chat(*prompts, model="sim/chat", more=f"{more}params: {{max_tokens: 20}}\n{PRICES}")
        (folder / "job.yaml").write_text(text)
        loaded = batchrunner.load_job(str(folder / "job.yaml"), simulate=True, out=str(harness.out))
        planned = asyncio.run(batchrunner.plan(loaded)).cost
        assert planned is not None
        assert planned.batch is not None
        promised = planned.batch.expected if in_batches else planned.expected
        report = harness.run(text)
        assert report.exit_status is ExitStatus.DONE
        tokens = sum(row["usage"]["input_tokens"] * 2 + row["usage"]["output_tokens"] * 8 for row in harness.rows())
        counted = tokens / 1e6 / (2.0 if in_batches else 1.0)
        assert promised == pytest.approx(counted, rel=0.01)
        assert report.status.budget[0].spent == pytest.approx(counted)
        assert batchrunner.status(str(harness.out)).budget[0].spent == pytest.approx(counted)


def test_a_budget_of_money_lets_twice_as_much_through_in_batches(harness: RunHarness) -> None:
    report = harness.run(job(more="budget: {money: 40, prices: {sim/chat: {call: 2}}}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.stats.paid == 40
    assert report.status.budget[0].spent == 40


def test_what_a_batch_gives_back_costs_nothing_and_what_goes_on_one_by_one_costs_all_of_it(harness: RunHarness) -> None:
    with_scenario(harness, "batch-expires:60")
    report = harness.run(job(20, more="budget: {prices: {sim/chat: {call: 2}}}"))
    assert report.status.budget[0].spent == 12 + 16


def test_the_audit_knows_result_files(harness: RunHarness) -> None:
    harness.run(job(20))
    assert not batchrunner.verify(str(harness.out)).findings
    (harness.out / "batches" / "000001.out.jsonl").write_text("")
    (finding,) = batchrunner.verify(str(harness.out)).findings
    assert (finding.kind, finding.level, finding.count) == ("batch_file", "note", 1)


def test_status_shows_batches_with_their_counts(harness: RunHarness) -> None:
    with_scenario(harness, "batch-expires:60")
    harness.run(job(20))
    (batch,) = batchrunner.status(str(harness.out)).batches
    assert (batch.items, batch.done, batch.returned, batch.left, batch.state) == (20, 12, 8, 0, "over")
    said = summary(batchrunner.status(str(harness.out)))
    assert "1 batch over, with 20 items: 12 done, 0 failed, 8 given back" in said


def test_the_summary_counts_batches_and_items_apart(harness: RunHarness) -> None:
    with_scenario(harness, "batch-expires:60")
    lines = [line.split(maxsplit=1)[1] for line in summary(harness.run(job(40, rest="online")).status).splitlines()[1:]]
    assert "40 of 40 done" in lines
    assert "56 requests across all runs, 16 rejected (not billed); 40 of them in 2 batches" in lines
    assert "2 batches over, with 40 items: 24 done, 0 failed, 16 given back" in lines
