"""What field servers do with picture tasks, played by the simulator: orders are counted, and what comes of them."""

import pytest

from batchrunner.core.errors import ExitStatus
from tests.support.engine import Latency, RunHarness, World, image

DONE, FAILED, PAUSED = ExitStatus.DONE, ExitStatus.FAILED, ExitStatus.PAUSED


def model(scenario: str) -> str:
    return f"Qwen/Qwen-Image#{scenario}"


@pytest.mark.parametrize(
    ("scenario", "sends", "status", "kind"),
    [
        ("img-fail-nsfw", 1, FAILED, "content_filter"),
        ("img-fail-size", 1, FAILED, "bad_request"),
        ("img-fail-quota:1", 2, DONE, None),
        ("img-fail-throttle:2", 3, DONE, None),
        ("img-fail-provider", 1, FAILED, "model_not_found"),
        ("img-fail-cuda", 3, FAILED, "task_failed"),
        ("img-fail-empty-then-text", 3, FAILED, "task_failed"),
        ("img-moderated", 1, FAILED, "content_filter"),
        ("img-expired", 3, FAILED, "task_failed"),
        ("img-other-task:3", 1, DONE, None),
        ("img-page-404:50", 1, DONE, None),
        ("img-wrapped", 1, DONE, None),
        ("img-504-id", 1, DONE, None),
        ("img-cut-id", 1, DONE, None),
        ("img-no-words", 1, PAUSED, "not_understood"),
        ("img-refused-200", 1, FAILED, "model_not_found"),
        ("img-late:20", 1, DONE, None),
        ("img-no-urls", 1, FAILED, "empty_result"),
        ("img-with-picture", 1, DONE, None),
        ("img-poll-401", 1, PAUSED, None),
    ],
)
def test_each_kind_of_task_is_ordered_so_often_and_comes_to_its_end(
    harness: RunHarness, scenario: str, sends: int, status: ExitStatus, kind: str | None
) -> None:
    harness.world = World(latency=Latency(task_s=8.0))
    report = harness.run(image("a boat", model=model(scenario), more="retry: {attempts: 3}"))
    assert (harness.stats.sends, report.exit_status) == (sends, status), report
    told = [row["error"]["class"] for row in harness.rows("failures.jsonl")] + [g.kind for g in report.status.held]
    assert told == ([] if kind is None else [kind])


def test_items_that_get_one_task_id_are_flagged(harness: RunHarness) -> None:
    job = image("a boat", "a barn", model=model("img-same-id"), more="limits: {concurrency: 1}")
    assert harness.run(job).exit_status is DONE
    flags = [row["output"].get("flags", []) for row in harness.rows()]
    assert sorted(flags) == [[], ["shared_task"]]


def test_failing_tasks_park_their_lane_like_failing_submits(harness: RunHarness) -> None:
    prompts = tuple(f"picture {number}" for number in range(40))
    more = "breaker: 5\nretry: {attempts: 2}\nlimits: {concurrency: 4, in_flight_tasks: 4}\ndeadline: 2h\n"
    report = harness.run(image(*prompts, model=model("img-fail-cuda"), more=more))
    assert report.exit_status is PAUSED
    assert report.status.items.failed == 0
    assert harness.stats.sends <= 20
