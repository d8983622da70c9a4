"""A run of embeddings: every text gets its vector, what was spoiled is asked for again, and nothing else is."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from batchrunner.simulator.script import Call, Script
from tests.support.engine import MONDAY_EVENING, RunHarness, World


def job(*texts: str, more: str = "", model: str = "sim/vectors") -> str:
    """A job of these texts."""
    listed = "\n".join(f"  - {text}" for text in texts)
    head = f'name: job\nprovider: simulator\nkind: embedding\nmodel: "{model}"\nparams: {{dimensions: 4}}\n'
    return f"{head}prompts:\n{listed}\n{more}\n"


TEXTS = tuple(f"text number {number}" for number in range(1, 8))


def vectors(harness: RunHarness) -> dict[str, Any]:
    return {row["prompt"]: row["output"]["embedding"] for row in harness.rows()}


def test_each_text_has_its_own_vector_whatever_happens_on_the_way(tmp_path: Path) -> None:
    plain = RunHarness(tmp_path / "plain")
    plain.folder.mkdir()
    assert plain.run(job(*TEXTS)).exit_status is ExitStatus.DONE
    right = vectors(plain)
    assert len(right) == len({tuple(vector) for vector in right.values()}) == 7
    assert {row["output"]["dimensions"] for row in plain.rows()} == {4}
    assert plain.stats.sends == 1, "all in one request"
    assert sum(row["usage"]["input_tokens"] for row in plain.rows()) == 7 * 4
    assert {tuple(row["output"]["flags"]) for row in plain.rows()} == {("usage_divided",)}
    for scenario in ("emb-base64", "emb-shuffled", "emb-no-index", "emb-missing:1", "emb-twice:1", "emb-extra",
                     "emb-short:1", "emb-nan:1", "emb-null:1", "5xx:1", "throttle:2"):  # fmt: skip
        harness = RunHarness(tmp_path / re.sub(r"\W", "-", scenario), world=World(scenario=scenario))
        harness.folder.mkdir()
        assert harness.run(job(*TEXTS)).exit_status is ExitStatus.DONE, scenario
        assert vectors(harness) == right, scenario


def test_a_text_that_is_too_long_fails_with_the_server_s_words_and_no_other_does(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="emb-too-long:40"))
    report = harness.run(job(*TEXTS, "x" * 41))
    assert report.exit_status is ExitStatus.FAILED
    assert (len(harness.rows()), harness.stats.paid, harness.stats.paid_twice) == (7, 7, 0)
    (failure,) = harness.rows("failures.jsonl")
    assert "is too long" in failure["error"]["message"]


def test_a_server_that_ignores_dimensions_is_asked_once_for_each_text(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="emb-short"))
    report = harness.run(job("one text"))
    assert report.exit_status is ExitStatus.FAILED
    assert harness.stats.paid == 1
    assert "`params.dimensions` asks for 4" in harness.rows("failures.jsonl")[0]["error"]["message"]


@pytest.mark.parametrize("named", ["report.html"])
def test_the_page_shows_the_beginning_of_a_vector_only(tmp_path: Path, named: str) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job("one text").replace("dimensions: 4", "dimensions: 300"))
    (row,) = harness.rows()
    content = (harness.out / named).read_text()
    assert "300 numbers: " in content
    assert repr(row["output"]["embedding"][20]) not in content


LAST = TEXTS[-1]


@pytest.mark.parametrize("scenario", ["emb-missing:1", "emb-nan:1", "emb-null:1", "emb-short:1"])
def test_only_the_text_whose_vector_is_of_no_use_is_asked_for_again(tmp_path: Path, scenario: str) -> None:
    harness = RunHarness(tmp_path, world=World(scenario=scenario))
    report = harness.run(job(*TEXTS))
    assert (report.exit_status, harness.stats.sends, harness.stats.paid) == (ExitStatus.DONE, 2, 8)
    assert {row["prompt"]: (row["attempts"], row["ambiguous"]) for row in harness.rows()} == {
        text: (2, 1) if text == LAST else (1, 0) for text in TEXTS
    }
    assert [event["i"] for event in harness.events("retry")] == [row["id"] for row in harness.rows()][-1:]
    assert report.status.sends.possible_duplicates == 1


@pytest.mark.parametrize("scenario", ["reset-before-headers:1", "reset-mid-stream:1", "5xx:1", "hang-headers:1"])
def test_a_cut_leaves_every_text_of_its_request_in_doubt_and_they_go_again_together(
    tmp_path: Path, scenario: str
) -> None:
    harness = RunHarness(tmp_path, world=World(scenario=scenario))
    report = harness.run(job(*TEXTS))
    assert (report.exit_status, harness.stats.sends) == (ExitStatus.DONE, 2)
    assert {(row["attempts"], row["ambiguous"]) for row in harness.rows()} == {(2, 1)}
    assert report.status.sends.possible_duplicates == 7
    assert report.status.sends.total == 2, "requests, not texts"


def test_texts_in_doubt_are_held_where_the_job_asks_for_it(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="reset-before-headers:1"))
    report = harness.run(job(*TEXTS, more="on_ambiguous: hold"))
    assert (report.exit_status, report.status.items.held, harness.stats.sends) == (ExitStatus.PAUSED, 7, 1)


def test_one_text_that_is_too_long_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="emb-too-long:40"))
    report = harness.run(job(*TEXTS[:3], "x" * 41, *TEXTS[3:]))
    assert report.exit_status is ExitStatus.FAILED
    assert {row["attempts"] for row in harness.rows()} == {1}, "the refusal of all is no try of theirs"
    (failure,) = harness.rows("failures.jsonl")
    assert (failure["prompt"], failure["attempts"]) == ("x" * 41, 1)
    assert (report.status.sends.total, report.status.sends.refused) == (harness.stats.sends, 3), "of 8, 4, 2 texts"


@pytest.mark.parametrize("most", [26, 64, 100, 2048])
def test_a_server_that_takes_fewer_texts_is_asked_for_fewer_from_then_on(tmp_path: Path, most: int) -> None:
    texts = [f"text number {number}" for number in range(1000)]
    harness = RunHarness(tmp_path)
    more = f"limits: {{inputs_per_request: {most}, concurrency: 4}}"
    report = harness.run(job(*texts, more=more, model="Sim/vectors"))
    assert (report.exit_status, harness.stats.paid, harness.stats.paid_twice) == (ExitStatus.DONE, 1000, 0)
    assert {row["attempts"] for row in harness.rows()} == {1}
    assert report.status.sends.refused <= 4 * 8, "those in flight at once, for each time that the size is halved"
    assert harness.stats.sends - report.status.sends.refused <= 1000 / 12 + 4


def test_after_a_text_that_is_refused_alone_requests_are_as_large_as_before(tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(200)]
    texts[100] = "x" * 41
    harness = RunHarness(tmp_path, world=World(scenario="emb-too-long:40"))
    report = harness.run(job(*texts, more="limits: {inputs_per_request: 25, concurrency: 1}"))
    assert (report.exit_status, len(harness.rows()), harness.stats.paid_twice) == (ExitStatus.FAILED, 199, 0)
    assert harness.stats.sends <= 8 + 2 * 5 + 12, "eight of 25, and the search for one of them"


def test_a_wait_for_the_lane_takes_no_attempt_of_any_text(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="throttle:2"))
    assert harness.run(job(*TEXTS)).exit_status is ExitStatus.DONE
    assert {row["attempts"] for row in harness.rows()} == {1}
    assert harness.stats.sends == 3


def test_texts_that_never_get_a_vector_fail_once_their_attempts_are_used_up(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="5xx"))
    report = harness.run(job(*TEXTS, more="retry: {attempts: 3}\nbreaker: 100"))
    assert (report.exit_status, harness.stats.sends) == (ExitStatus.FAILED, 3)
    assert {row["attempts"] for row in harness.rows("failures.jsonl")} == {3}


@pytest.mark.parametrize(("most", "requests"), [(1, 7), (2, 4), (3, 3), (7, 1), (25, 1)])
def test_a_request_carries_as_many_texts_as_the_job_states(tmp_path: Path, most: int, requests: int) -> None:
    harness = RunHarness(tmp_path)
    report = harness.run(job(*TEXTS, more=f"limits: {{inputs_per_request: {most}}}"))
    assert (report.exit_status, harness.stats.sends) == (ExitStatus.DONE, requests)
    assert report.status.sends.total == requests
    riders = [event for event in harness.events("intent") if event.get("w")]
    assert len(riders) == 7 - requests


@pytest.mark.parametrize(
    ("provider", "most"),
    [
        ("openai", 128),
        ("modelscope", 25),
        ("{preset: openai, base_url: 'https://api.openai.com/v1/'}", 128),
        ("{base_url: 'https://api.openai.com/v1', dialect: openai-embeddings}", 128),
        ("{base_url: 'http://127.0.0.1:8000/v1'}", 25),
        ("{preset: openai, base_url: 'http://127.0.0.1:8000/v1'}", 25),
    ],
)
def test_a_server_of_one_s_own_gets_25_texts_a_request(tmp_path: Path, provider: str, most: int) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(job(*TEXTS).replace("provider: simulator", f"provider: {provider}"))
    assert api.load_job(str(path)).limits.inputs_per_request == most


def test_texts_with_other_parameters_or_models_go_in_other_requests(tmp_path: Path) -> None:
    class Noticing(World):
        """A provider that remembers what it was asked."""

        def answer(self, call: Call, now: float) -> Script:
            """As ever."""
            asked.append(json.loads(call.body))
            return super().answer(call, now)

    asked: list[dict[str, Any]] = []
    harness = RunHarness(tmp_path, world=Noticing())
    text = job(*TEXTS).replace("params: {dimensions: 4}", "matrix: {dimensions: [2, 3]}")
    text = text.replace('model: "sim/vectors"', "models: [sim/one, sim/two]")
    assert harness.run(text).exit_status is ExitStatus.DONE
    assert sorted((body["model"], body["dimensions"], len(body["input"])) for body in asked) == [
        *(("sim/one", 2, 7), ("sim/one", 3, 7)),
        *(("sim/two", 2, 7), ("sim/two", 3, 7)),
    ]
    assert {row["params"]["dimensions"] == len(row["output"]["embedding"]) for row in harness.rows()} == {True}


def test_limits_count_requests_and_not_texts(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    limits = "limits: {inputs_per_request: 2, requests_per_day: 2}\non_quota: stop\ndeadline: 1h"
    report = harness.run(job(*TEXTS, more=limits))
    assert (report.exit_status, harness.stats.sends, len(harness.rows())) == (ExitStatus.PAUSED, 2, 4)
    again = harness.run(job(*TEXTS, more=limits))
    assert (again.exit_status, harness.stats.sends) == (ExitStatus.PAUSED, 2), "a later run knows what was sent today"
    wider = harness.run(job(*TEXTS, more=limits.replace("day: 2", "day: 4")))
    assert (wider.exit_status, harness.stats.sends, len(harness.rows())) == (ExitStatus.DONE, 4, 7)


def test_a_budget_counts_a_request_as_one_call_and_every_text_s_tokens(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    more = "limits: {inputs_per_request: 3, concurrency: 1}\nbudget: {calls: 2}"
    report = harness.run(job(*TEXTS, more=more))
    assert (report.exit_status, harness.stats.sends, len(harness.rows())) == (ExitStatus.PAUSED, 2, 6)
    assert [line.spent for line in report.status.budget] == [2]
    assert harness.run(job(*TEXTS, more=more)).status.budget[0].spent == 2, "as the ledger has it"
    tokens = harness.run(job(*TEXTS, more="budget: {tokens: 1000}"))
    assert tokens.exit_status is ExitStatus.DONE
    assert tokens.status.budget[0].spent == 7 * 4


def test_what_does_not_fit_into_the_budget_now_waits_and_what_fits_goes(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    report = harness.run(job(*TEXTS, more="budget: {tokens: 22}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert 0 < len(harness.rows()) < 7


def test_tokens_a_minute_are_those_of_all_texts(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    report = harness.run(job(*TEXTS, more="limits: {tokens_per_minute: 20, inputs_per_request: 4}"))
    assert report.exit_status is ExitStatus.DONE
    assert harness.began - MONDAY_EVENING > 15, "28 tokens at 20 a minute"


def test_identical_texts_are_sent_once(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    report = harness.run(job(*TEXTS, *TEXTS))
    assert (report.exit_status, harness.stats.paid, len(harness.rows())) == (ExitStatus.DONE, 7, 14)


def test_a_plan_counts_requests(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(job(*TEXTS, more="limits: {inputs_per_request: 3, requests_per_day: 2}"))
    plan = asyncio.run(api.plan(api.load_job(str(path))))
    assert (plan.to_send, plan.quota_days) == (3, 1.5)


@pytest.mark.parametrize("seed", range(3))
def test_a_rehearsal_needs_as_many_requests(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(job(*TEXTS, more="limits: {inputs_per_request: 3}"))
    told = api.rehearse(api.load_job(str(path)), seed=seed)
    assert (told.calls, told.items.done) == (3, 7)
