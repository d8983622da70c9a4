"""How many prompts a next model got and answered: what `status` and the summary say, whatever happened to the run."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from tests.engine.test_fallbacks import job
from tests.support.engine import RunHarness, World, chat

SIX = tuple(f"question {number}" for number in range(6))
FILTERED = "sim/a#content-filter"


def counts(harness: RunHarness) -> list[tuple[Any, ...]]:
    """Of `status`, which reads the files; those of the run's own end are the same."""
    return [(each.model, each.items, each.answered, each.reasons) for each in api.status(str(harness.out)).fallbacks]


def test_rows_that_were_adopted_count_as_answered_by_their_models(harness: RunHarness) -> None:
    text = job(*SIX, first=FILTERED, then=["sim/b#content-filter", "sim/c"])
    harness.run(text)
    for path in (harness.out / "ledger").iterdir():
        path.unlink()
    report = harness.run(text, adopt_rows=True)
    expected = [("sim/b#content-filter", 6, 0, {"recovered": 6}), ("sim/c", 6, 6, {"recovered": 6})]
    assert sorted(counts(harness)) == expected
    assert {each.model: each.answered for each in report.status.fallbacks} == {"sim/b#content-filter": 0, "sim/c": 6}


def test_after_another_then_the_present_model_is_named_alone(harness: RunHarness) -> None:
    harness.run(job(*SIX, first=FILTERED, then="sim/b"), limit=4)
    report = harness.run(job(*SIX, first=FILTERED, then="sim/c"))
    assert report.exit_status is ExitStatus.DONE
    assert counts(harness) == [("sim/c", 6, 6, {"content_filter": 6})]
    assert harness.run(job(*SIX, first=FILTERED, then="sim/c")).status.fallbacks == report.status.fallbacks
    harness.run(job(*SIX, first=FILTERED, then="sim/b"))
    assert counts(harness) == [("sim/b", 6, 6, {"content_filter": 6})], "the rows of before are there again"


def test_without_then_no_line_is_left(harness: RunHarness) -> None:
    harness.run(job(*SIX, first="sim/a#quota-model:0", then="sim/b", on=["quota"]))
    assert [line[:3] for line in counts(harness)] == [("sim/b", 6, 6)]
    harness.world, harness.began = World(), harness.began + 24 * 3600.0
    assert harness.run(chat(*SIX, model="sim/a")).exit_status is ExitStatus.DONE
    assert counts(harness) == [("sim/b", 6, 6, {"quota_model": 6})], "another model: those of the first one are gone"
    harness.run(chat(*SIX, model="sim/a#quota-model:0", more="on_quota: stop"))
    assert counts(harness) == []


def test_answers_taken_from_another_run_are_answers(
    harness: RunHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrunner.spec.resolve.SIMULATED_ENDING", "")
    (tmp_path / "other").mkdir()
    other = RunHarness(tmp_path / "other")
    other.run(chat(*SIX[:4], model="sim/b"))
    text = job(*SIX, first=FILTERED, then="sim/b", more=f"reuse: [{json.dumps(str(other.out))}]")
    harness.run(text)
    assert counts(harness) == [("sim/b", 6, 6, {"content_filter": 6})]
    assert harness.run(text).status.fallbacks[0].answered == 6, "the checkpoint has it, too"


def test_rows_of_an_earlier_job_for_the_second_model_alone_are_no_answers_of_a_fallback(harness: RunHarness) -> None:
    harness.run(chat(*SIX, model="sim/b"))
    harness.world = World(scenario="content-filter")
    harness.run(job(*SIX, "another", first="sim/a", then="sim/b"), limit=2)
    harness.world = World(scenario="content-filter")
    harness.run(job(*SIX, "another", first="sim/a", then="sim/b"))
    assert counts(harness) == [("sim/b", 7, 6, {"content_filter": 7})]


def test_a_lost_answer_that_is_asked_for_again_is_none_until_it_is_there(harness: RunHarness) -> None:
    text = job(*SIX, first=FILTERED, then="sim/b")
    harness.run(text)
    path = harness.out / "results.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    harness.world = World(scenario="content-filter")
    harness.run(text, resend_lost=True)
    assert counts(harness) == [("sim/b", 6, 5, {"content_filter": 6})]
