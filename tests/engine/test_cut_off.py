"""A process that ends between two steps of one answer: the next one goes on, and every second payment is told."""

import json
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import StoreBrokenError
from batchrunner.engine.recorder import Recorder
from batchrunner.stores.ledger import LedgerWriter
from tests.support.engine import FaultRates, RunHarness, World, chat

SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
Patch = pytest.MonkeyPatch


def urls(*prompts: str, more: str = "") -> str:
    """A job whose pictures come as URLs in the answer itself."""
    job = chat(*prompts, model="dall-e-3", more=f"kind: image\nlimits: {{concurrency: 1}}\n{more}")
    return job.replace("provider: simulator", "provider: {preset: simulator, dialect: openai-images}")


def asked(*prompts: str, more: str = "") -> str:
    return chat(*prompts, more=f"schema: {SCHEMA}\nlimits: {{concurrency: 1}}\n{more}")


def ends_before(patch: Patch, step: str, *, call: int) -> None:
    """The process ends where it would write this for the n-th time."""
    whole, calls = getattr(Recorder, step), [0]

    def counted(self: Recorder, *given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] >= call:
            raise StoreBrokenError("no room left")
        return whole(self, *given, **named)

    async def broken(self: Recorder, *given: Any, **named: Any) -> Any:
        return await counted(self, *given, **named)

    patch.setattr(Recorder, step, broken if iscoroutinefunction(whole) else counted)


def cut_off(harness: RunHarness, job: str, step: str, *, call: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ends_before(patch, step, call=call)
        assert harness.run(job).exit_status == 4


def test_an_answer_whose_urls_were_not_kept_is_unknown_and_sent_again(harness: RunHarness) -> None:
    job = urls("one")
    cut_off(harness, job, "ready", call=1)
    assert harness.events()[-2]["e"] == "accepted"
    stands = api.status(str(harness.out))
    assert (stands.items.accepted, stands.items.pending, stands.sends.possible_duplicates) == (0, 1, 1)
    report = harness.run(job)
    assert (report.exit_status, harness.stats.sends, report.status.sends.possible_duplicates) == (0, 2, 1)
    (row,) = harness.rows()
    assert (row["attempts"], row["ambiguous"]) == (2, 1)
    assert api.verify(str(harness.out)).sound


def test_it_is_held_where_a_person_wants_to_decide(harness: RunHarness) -> None:
    job = urls("one", more="on_ambiguous: hold")
    cut_off(harness, job, "ready", call=1)
    report = harness.run(job)
    assert (report.exit_status, report.status.items.held, harness.stats.sends) == (3, 1, 1)
    assert harness.run(job, resend_held=True).exit_status == 0


def test_it_fails_once_its_attempts_are_used_up(harness: RunHarness) -> None:
    job = urls("one", more="retry: {attempts: 1}")
    cut_off(harness, job, "ready", call=1)
    report = harness.run(job)
    assert (report.exit_status, harness.stats.sends, report.status.items.failed) == (1, 1, 1)


def test_urls_that_are_kept_are_fetched_by_the_next_process(harness: RunHarness) -> None:
    job = urls("one")
    cut_off(harness, job, "pictured", call=1)
    assert harness.events()[-2]["e"] == "ready"
    report = harness.run(job)
    assert (report.exit_status, len(harness.rows()), harness.stats.sends) == (0, 1, 1)
    assert report.status.sends.possible_duplicates == 0


def test_urls_are_on_the_disk_before_the_first_download(harness: RunHarness, monkeypatch: Patch) -> None:
    order: list[str] = []
    commit, commit_soon = LedgerWriter.commit, LedgerWriter.commit_soon

    async def watched(self: LedgerWriter, event: Any) -> None:
        order.append(type(event).__name__)
        await commit(self, event)

    def watched_soon(self: LedgerWriter, event: Any, *given: Any, **named: Any) -> None:
        order.append(type(event).__name__)
        commit_soon(self, event, *given, **named)

    monkeypatch.setattr(LedgerWriter, "commit", watched)
    monkeypatch.setattr(LedgerWriter, "commit_soon", watched_soon)
    harness.run(urls("one"))
    assert order.index("Ready") < order.index("Done")


def test_a_first_request_that_is_paid_again_for_want_of_its_re_ask_is_reported(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(faults=FaultRates(schema_break=1.0)))
    job = asked("one")
    cut_off(harness, job, "intent", call=2)
    assert [event["kind"] for event in harness.events("retry")] == ["schema_miss"]
    assert api.status(str(harness.out)).sends.possible_duplicates == 0, "nothing is paid again yet"
    report = harness.run(job)
    assert (report.exit_status, harness.stats.sends, report.status.sends.possible_duplicates) == (0, 2, 1)
    assert api.status(str(harness.out)).sends.possible_duplicates == 1
    (row,) = harness.rows()
    assert (row["attempts"], row["ambiguous"]) == (2, 1)


def test_a_re_ask_in_the_same_process_is_no_second_payment(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(faults=FaultRates(schema_break=1.0)))
    report = harness.run(asked("one", "two"))
    assert (report.exit_status, report.status.sends.possible_duplicates) == (0, 0)
    assert harness.run(asked("one", "two", "three")).status.sends.possible_duplicates == 0


def test_attempts_survive_and_end_the_item(harness: RunHarness) -> None:
    never = json.dumps({"type": "object", "required": ["it"], "properties": {"it": {"pattern": "^never$"}}})
    job = chat("one", more=f"schema: {never}\nretry: {{attempts: 2}}")
    cut_off(harness, job, "intent", call=2)
    report = harness.run(job)
    assert harness.stats.sends == 2
    assert (report.exit_status, harness.rows("failures.jsonl")[0]["attempts"]) == (1, 2)
