"""Resumption pays for what is new and for nothing else."""

import json
from pathlib import Path
from typing import Any

from batchrunner.core.errors import ExitStatus
from tests.support.engine import House, chat, image

THREE = ("one", "two", "three")


def sent_by(house: House, job: str, **options: Any) -> int:
    """Paid POSTs of one more run."""
    before = house.stats.sends
    assert house.run(job, **options).exit_status is ExitStatus.DONE
    return house.stats.sends - before


def test_an_unchanged_job_sends_nothing(house: House) -> None:
    assert sent_by(house, chat(*THREE)) == 3
    assert sent_by(house, chat(*THREE)) == 0


def test_an_unchanged_image_job_sends_and_polls_nothing(house: House) -> None:
    assert sent_by(house, image(*THREE)) == 3
    requests = dict(house.stats.requests)
    assert sent_by(house, image(*THREE)) == 0
    assert house.stats.requests == requests


def test_a_prompt_inserted_at_the_top_costs_one_request_and_moves_the_others(house: House) -> None:
    sent_by(house, chat(*THREE))
    assert sent_by(house, chat("zero", *THREE)) == 1
    assert [(row["index"], row["prompt"]) for row in house.rows()] == [
        (1, "zero"),
        (2, "one"),
        (3, "two"),
        (4, "three"),
    ]


def test_reordered_rows_cost_nothing_and_results_follow_the_new_order(house: House) -> None:
    sent_by(house, chat(*THREE))
    assert sent_by(house, chat("three", "one", "two")) == 0
    assert [(row["index"], row["prompt"]) for row in house.rows()] == [(1, "three"), (2, "one"), (3, "two")]


def test_a_renamed_id_costs_nothing_and_the_row_has_the_new_name(house: House) -> None:
    sent_by(house, chat().replace("prompts:\n", "prompts:\n  - {id: old, prompt: hello}\n"))
    assert sent_by(house, chat().replace("prompts:\n", "prompts:\n  - {id: new, prompt: hello}\n")) == 0
    assert [row["id"] for row in house.rows()] == ["new"]


def test_a_changed_parameter_costs_exactly_the_items_that_it_touches(house: House) -> None:
    listed = "prompts:\n  - {id: a, prompt: one, params: {seed: SEED}}\n  - {id: b, prompt: two}\n"
    sent_by(house, chat().replace("prompts:\n", listed.replace("SEED", "1")))
    assert sent_by(house, chat().replace("prompts:\n", listed.replace("SEED", "2"))) == 1
    assert [(row["id"], row["params"]) for row in house.rows()] == [("a", {"seed": 2}), ("b", {})]
    assert [(row["id"], row["params"]) for row in house.rows("superseded.jsonl")] == [("a", {"seed": 1})]


def test_a_changed_model_costs_every_item_and_keeps_the_old_rows_aside(house: House) -> None:
    sent_by(house, chat(*THREE))
    assert sent_by(house, chat(*THREE, model="sim/other")) == 3
    assert {row["model"] for row in house.rows()} == {"sim/other"}
    assert len(house.rows("superseded.jsonl")) == 3


def test_a_prompt_that_vanished_and_came_back_costs_nothing(house: House) -> None:
    sent_by(house, chat(*THREE))
    assert sent_by(house, chat("one", "two")) == 0
    assert len(house.rows()) == 2
    assert sent_by(house, chat(*THREE)) == 0
    assert [(row["index"], row["prompt"]) for row in house.rows()] == [(1, "one"), (2, "two"), (3, "three")]


def test_identical_items_are_sent_once_and_each_has_its_row(house: House) -> None:
    assert sent_by(house, chat("same", "same", "other")) == 2
    rows = house.rows()
    assert [row["index"] for row in rows] == [1, 2, 3]
    assert rows[1]["shared_with"] == rows[0]["id"]
    assert rows[1]["attempts"] == 0
    assert rows[1]["output"] == rows[0]["output"]


def test_replicas_ask_for_repeats_and_each_is_paid(house: House) -> None:
    assert sent_by(house, chat("same", more="replicas: 3")) == 3
    assert len({row["key"] for row in house.rows()}) == 3


def tear(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])


def test_a_torn_last_ledger_line_loses_nothing_and_pays_nothing_twice(house: House) -> None:
    sent_by(house, chat(*THREE))
    (segment,) = (house.out / "ledger").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-2])["e"] == "done"
    segment.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])  # the last `done` is torn, `close` never came
    assert sent_by(house, chat(*THREE)) == 0
    assert len(house.rows()) == 3
    assert any("cut off by a crash and are ignored" in line for line in house.said)


def as_if_killed(house: House) -> None:
    """run.json as it stands while a run works: it names no end of the ledger."""
    path = house.out / "run.json"
    there = json.loads(path.read_bytes())
    path.write_text(json.dumps(there | {"segment_bytes": None, "segment_left": None, "ended": None}), "utf-8")


def test_a_torn_last_result_line_pays_only_for_the_answer_that_is_gone(house: House) -> None:
    sent_by(house, chat(*THREE))
    as_if_killed(house)
    (segment,) = (house.out / "ledger").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-2]))
    tear(house.out / "results.jsonl", 30)
    assert sent_by(house, chat(*THREE)) == 1
    assert sorted(row["prompt"] for row in house.rows()) == sorted(THREE)
    assert (house.out / "results.torn").stat().st_size > 0


def test_retry_failed_sends_the_failed_ones_only(house: House) -> None:
    jobs = chat("bad", model="sim/chat#noprovider"), chat("bad", model="sim/chat")
    report = house.run(jobs[0])
    assert report.exit_status is ExitStatus.FAILED
    assert report.status.items.failed == 1
    before = house.stats.sends
    assert house.run(jobs[0]).exit_status is ExitStatus.FAILED
    assert house.stats.sends == before, "a failed item was sent again without being asked for"


def test_retry_failed_moves_an_item_from_failures_to_results(house: House) -> None:
    job = chat("good", "one", model="sim/chat#5xx:3", more="retry: {attempts: 2}")
    first = house.run(job)
    assert first.exit_status is ExitStatus.FAILED
    assert len(house.rows("failures.jsonl")) == 2
    second = house.run(job, retry_failed=True)
    assert second.exit_status is ExitStatus.DONE
    assert house.rows("failures.jsonl") == []
    assert len(house.rows()) == 2


def test_a_corrected_key_sends_all_that_was_not_sent(house: House) -> None:
    job = chat(*THREE, model="sim/chat#auth-bad:1", more="limits: {concurrency: 1}")
    refused = house.run(job)
    assert refused.exit_status is ExitStatus.REFUSED
    assert refused.status.items.pending == 3
    assert house.stats.sends == 1
    assert sent_by(house, job) == 3


def test_limit_works_on_the_first_items_and_the_next_run_on_the_rest(house: House) -> None:
    assert sent_by(house, chat(*THREE), limit=1) == 1
    assert [row["prompt"] for row in house.rows()] == ["one"]
    assert sent_by(house, chat(*THREE)) == 2
