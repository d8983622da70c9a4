"""Resumption pays for what is new and for nothing else."""

import json
from pathlib import Path
from typing import Any

from batchrunner.core.errors import ExitStatus
from tests.support.engine import RunHarness, chat, image

THREE = ("one", "two", "three")


def sent_by(harness: RunHarness, job: str, **options: Any) -> int:
    """Paid POSTs of one more run."""
    before = harness.stats.sends
    assert harness.run(job, **options).exit_status is ExitStatus.DONE
    return harness.stats.sends - before


def test_an_unchanged_job_sends_nothing(harness: RunHarness) -> None:
    assert sent_by(harness, chat(*THREE)) == 3
    assert sent_by(harness, chat(*THREE)) == 0


def test_an_unchanged_image_job_sends_and_polls_nothing(harness: RunHarness) -> None:
    assert sent_by(harness, image(*THREE)) == 3
    requests = dict(harness.stats.requests)
    assert sent_by(harness, image(*THREE)) == 0
    assert harness.stats.requests == requests


def test_a_prompt_inserted_at_the_top_costs_one_request_and_moves_the_others(harness: RunHarness) -> None:
    sent_by(harness, chat(*THREE))
    assert sent_by(harness, chat("zero", *THREE)) == 1
    assert [(row["index"], row["prompt"]) for row in harness.rows()] == [
        (1, "zero"),
        (2, "one"),
        (3, "two"),
        (4, "three"),
    ]


def test_reordered_rows_cost_nothing_and_results_follow_the_new_order(harness: RunHarness) -> None:
    sent_by(harness, chat(*THREE))
    assert sent_by(harness, chat("three", "one", "two")) == 0
    assert [(row["index"], row["prompt"]) for row in harness.rows()] == [(1, "three"), (2, "one"), (3, "two")]


def test_a_renamed_id_costs_nothing_and_the_row_has_the_new_name(harness: RunHarness) -> None:
    sent_by(harness, chat().replace("prompts:\n", "prompts:\n  - {id: old, prompt: hello}\n"))
    assert sent_by(harness, chat().replace("prompts:\n", "prompts:\n  - {id: new, prompt: hello}\n")) == 0
    assert [row["id"] for row in harness.rows()] == ["new"]


def test_a_changed_parameter_costs_exactly_the_items_that_it_touches(harness: RunHarness) -> None:
    listed = "prompts:\n  - {id: a, prompt: one, params: {seed: SEED}}\n  - {id: b, prompt: two}\n"
    sent_by(harness, chat().replace("prompts:\n", listed.replace("SEED", "1")))
    assert sent_by(harness, chat().replace("prompts:\n", listed.replace("SEED", "2"))) == 1
    assert [(row["id"], row["params"]) for row in harness.rows()] == [("a", {"seed": 2}), ("b", {})]
    assert [(row["id"], row["params"]) for row in harness.rows("superseded.jsonl")] == [("a", {"seed": 1})]


def test_a_changed_model_costs_every_item_and_keeps_the_old_rows_aside(harness: RunHarness) -> None:
    sent_by(harness, chat(*THREE))
    assert sent_by(harness, chat(*THREE, model="sim/other")) == 3
    assert {row["model"] for row in harness.rows()} == {"sim/other"}
    assert len(harness.rows("superseded.jsonl")) == 3


def test_a_prompt_that_vanished_and_came_back_costs_nothing(harness: RunHarness) -> None:
    sent_by(harness, chat(*THREE))
    assert sent_by(harness, chat("one", "two")) == 0
    assert len(harness.rows()) == 2
    assert sent_by(harness, chat(*THREE)) == 0
    assert [(row["index"], row["prompt"]) for row in harness.rows()] == [(1, "one"), (2, "two"), (3, "three")]


def test_identical_items_are_sent_once_and_each_has_its_row(harness: RunHarness) -> None:
    assert sent_by(harness, chat("same", "same", "other")) == 2
    rows = harness.rows()
    assert [row["index"] for row in rows] == [1, 2, 3]
    assert rows[1]["shared_with"] == rows[0]["id"]
    assert rows[1]["attempts"] == 0
    assert rows[1]["output"] == rows[0]["output"]


def test_replicas_ask_for_repeats_and_each_is_paid(harness: RunHarness) -> None:
    assert sent_by(harness, chat("same", more="replicas: 3")) == 3
    assert len({row["key"] for row in harness.rows()}) == 3


def tear(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])


def test_a_torn_last_ledger_line_loses_nothing_and_pays_nothing_twice(harness: RunHarness) -> None:
    sent_by(harness, chat(*THREE))
    (segment,) = (harness.out / "ledger").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-2])["e"] == "done"
    segment.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])  # the last `done` is torn, `close` never came
    assert sent_by(harness, chat(*THREE)) == 0
    assert len(harness.rows()) == 3
    assert any("cut off by a crash and are ignored" in line for line in harness.said)


def as_if_killed(harness: RunHarness) -> None:
    """run.json as it stands while a run works: it names no end of the ledger."""
    path = harness.out / "run.json"
    there = json.loads(path.read_bytes())
    path.write_text(json.dumps(there | {"segment_bytes": None, "segment_left": None, "ended": None}), "utf-8")


def test_a_torn_last_result_line_pays_only_for_the_answer_that_is_gone(harness: RunHarness) -> None:
    sent_by(harness, chat(*THREE))
    as_if_killed(harness)
    (segment,) = (harness.out / "ledger").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-2]))
    tear(harness.out / "results.jsonl", 30)
    assert sent_by(harness, chat(*THREE)) == 1
    assert sorted(row["prompt"] for row in harness.rows()) == sorted(THREE)
    assert (harness.out / "results.torn").stat().st_size > 0


def test_retry_failed_sends_the_failed_ones_only(harness: RunHarness) -> None:
    jobs = chat("bad", model="sim/chat#noprovider"), chat("bad", model="sim/chat")
    report = harness.run(jobs[0])
    assert report.exit_status is ExitStatus.FAILED
    assert report.status.items.failed == 1
    before = harness.stats.sends
    assert harness.run(jobs[0]).exit_status is ExitStatus.FAILED
    assert harness.stats.sends == before, "a failed item was sent again without being asked for"


def test_retry_failed_moves_an_item_from_failures_to_results(harness: RunHarness) -> None:
    job = chat("good", "one", model="sim/chat#5xx:3", more="retry: {attempts: 2}")
    first = harness.run(job)
    assert first.exit_status is ExitStatus.FAILED
    assert len(harness.rows("failures.jsonl")) == 2
    second = harness.run(job, retry_failed=True)
    assert second.exit_status is ExitStatus.DONE
    assert harness.rows("failures.jsonl") == []
    assert len(harness.rows()) == 2


def test_a_corrected_key_sends_all_that_was_not_sent(harness: RunHarness) -> None:
    job = chat(*THREE, model="sim/chat#auth-bad:1", more="limits: {concurrency: 1}")
    refused = harness.run(job)
    assert refused.exit_status is ExitStatus.REFUSED
    assert refused.status.items.pending == 3
    assert harness.stats.sends == 1
    assert sent_by(harness, job) == 3


def test_limit_works_on_the_first_items_and_the_next_run_on_the_rest(harness: RunHarness) -> None:
    assert sent_by(harness, chat(*THREE), limit=1) == 1
    assert [row["prompt"] for row in harness.rows()] == ["one"]
    assert sent_by(harness, chat(*THREE)) == 2
