"""The simulator plays what was seen in the field, so that every later test can meet it."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from batchrunner.simulator.scenarios import SCENARIOS
from tests.support.engine import RunHarness, chat

Look = Callable[[dict[str, Any]], bool]


def _has_text(row: dict[str, Any]) -> bool:
    return bool(row["output"]["text"])


KEPT: Final[dict[str, Look]] = {
    "sse-quoted-done": lambda row: bool(row["output"]["text"]),
    "sse-junk-after-finish": lambda row: row["output"]["flags"] == ["trouble_after_end"],
    "sse-single-newlines": lambda row: bool(row["output"]["text"]),
    "sse-error-after-finish": lambda row: "trouble_after_end" in row["output"]["flags"],
    "sse-finish-model-length": lambda row: row["output"]["truncated"] is True,
    "sse-usage-groq": lambda row: row["usage"]["output_tokens"] > 0,
    "sse-usage-in-choice": lambda row: row["usage"]["output_tokens"] > 0,
    "sse-only-reasoning": lambda row: row["output"]["flags"] == ["reasoning_only"] and bool(row["output"]["reasoning"]),
    "sse-picture": lambda row: row["output"]["images"][0]["format"] == "PNG",
    "sse-two-choices": lambda row: len(row["output"]["choices"]) == 2,
    "sse-data-twice": lambda row: bool(row["output"]["text"]) and "flags" not in row["output"],
    "sse-two-in-one": lambda row: bool(row["output"]["text"]) and "flags" not in row["output"],
    "sse-usage-after-done": lambda row: row["usage"]["output_tokens"] > 0,
    "sse-usage-event": lambda row: row["usage"]["output_tokens"] > 0,
    "sse-usage-text": lambda row: row["usage"]["output_tokens"] > 0,
    "sse-usage-cached": lambda row: row["usage"]["cache_read_tokens"] == 4,
    "sse-sound": lambda row: row["output"]["audio"][0]["format"] == "WAV",
    "sse-markdown-picture": lambda row: row["output"]["images"][0]["format"] == "PNG",
    "sse-annotations": lambda row: bool(row["output"]["annotations"]),
    "sse-logprobs": lambda row: row["output"]["logprobs"]["content"][0]["logprob"] == -0.125,
    "sse-reasoning-details": lambda row: row["output"]["reasoning"] == "Let me see.",
    "sse-content-parts": lambda row: row["output"]["reasoning"] == "Let me see." and bool(row["output"]["text"]),
    "sse-tools-same-index": lambda row: len(row["output"]["tool_calls"]) == 2,
    "sse-own-fields": lambda row: row["output"]["grounding"] == {"source": "e.example"},
    "sse-json-instead+body-gemini": lambda row: bool(row["output"]["text"]) and row["usage"]["output_tokens"] > 0,
    "sse-json-instead+body-comments-before": lambda row: bool(row["output"]["text"]),
    "sse-json-instead+body-stays-open": lambda row: row["output"]["flags"] == ["cut_after_end"],
}
ANY_ANSWER: Final[dict[str, Look]] = {
    **dict.fromkeys(("head-many", "head-long", "coding-not-there", "coding-unknown", "coding-gzip"), _has_text),
    **dict.fromkeys(("coding-gzip-wrong-sum", "body-bytes-behind", "body-utf-16", "body-empty-error"), _has_text),
    **dict.fromkeys(("body-comments-before", "body-stays-open", "body-echo-key"), _has_text),
    "body-raw-control": lambda row: row["output"]["text"].startswith("\t"),
}
"""Whatever the dialect, and whether it was streamed or not."""
OF_CLAUDE: Final[dict[str, Look]] = {
    "an-single-newlines": _has_text,
    "an-error-after-end": lambda row: row["output"]["flags"] == ["no_message_stop", "trouble_after_end"],
    "an-own-fields": lambda row: row["output"]["container"]["id"] == "container_1" and row["output"]["lane"] == "a",
    "an-picture": lambda row: row["output"]["images"][0]["format"] == "PNG",
    "an-search": lambda row: len(row["output"]["content_parts"]) == 2 and "missing" not in row["output"],
}
CLAUDE: Final = "provider: {preset: simulator, dialect: anthropic-messages}"


@pytest.mark.parametrize("scenario", KEPT)
def test_a_complete_answer_of_the_simulator_is_kept_and_paid_once(harness: RunHarness, scenario: str) -> None:
    report = harness.run(chat("one", "two", model=f"sim/chat#{scenario}"))
    assert int(report.exit_status) == 0, harness.rows("failures.jsonl")
    assert harness.stats.sends == 2
    assert all(KEPT[scenario](row) for row in harness.rows())


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic-messages"])
@pytest.mark.parametrize("scenario", ANY_ANSWER)
def test_an_answer_is_kept_whatever_is_around_it(harness: RunHarness, scenario: str, dialect: str, stream: str) -> None:
    job = chat("one", "two", model=f"sim/chat#{scenario}", more=f"stream: {stream}")
    report = harness.run(job.replace("provider: simulator", CLAUDE.replace("anthropic-messages", dialect)))
    assert int(report.exit_status) == 0, harness.rows("failures.jsonl")
    assert harness.stats.sends == 2
    assert all(ANY_ANSWER[scenario](row) for row in harness.rows())


@pytest.mark.parametrize("scenario", OF_CLAUDE)
def test_a_message_of_the_simulator_is_kept_with_all_that_it_holds(harness: RunHarness, scenario: str) -> None:
    report = harness.run(chat("one", model=f"sim/chat#{scenario}").replace("provider: simulator", CLAUDE))
    assert int(report.exit_status) == 0, harness.rows("failures.jsonl")
    assert harness.stats.sends == 1
    assert all(OF_CLAUDE[scenario](row) for row in harness.rows())


def test_every_kind_of_section_a_that_is_a_reply_is_played_here() -> None:
    """A scenario of the group that no test runs proves nothing."""
    field = {name for name, scenario in SCENARIOS.items() if scenario.group == "field"}
    played = {part for name in (*KEPT, *ANY_ANSWER, *OF_CLAUDE, *BROKEN) for part in name.split("+")}
    assert field - played == set()


BROKEN: Final = ("sse-finish-network", "sse-code-msg-mid", "sse-words-mid")


@pytest.mark.parametrize("scenario", BROKEN)
def test_a_broken_answer_of_the_simulator_is_never_a_row(harness: RunHarness, scenario: str) -> None:
    report = harness.run(chat("one", model=f"sim/chat#{scenario}", more="retry: {attempts: 2}"))
    assert (harness.rows(), harness.stats.sends) == ([], 2), report.status
