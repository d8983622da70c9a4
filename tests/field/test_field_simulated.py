"""The simulator plays what was seen in the field, so that every later test can meet it."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from engine_house import House, chat

Look = Callable[[dict[str, Any]], bool]
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
}


@pytest.mark.parametrize("scenario", KEPT)
def test_a_complete_answer_of_the_simulator_is_kept_and_paid_once(house: House, scenario: str) -> None:
    report = house.run(chat("one", "two", model=f"sim/chat#{scenario}"))
    assert int(report.exit_status) == 0, house.rows("failures.jsonl")
    assert house.stats.sends == 2
    assert all(KEPT[scenario](row) for row in house.rows())


@pytest.mark.parametrize("scenario", ["sse-finish-network", "sse-code-msg-mid"])
def test_a_broken_answer_of_the_simulator_is_never_a_row(house: House, scenario: str) -> None:
    report = house.run(chat("one", model=f"sim/chat#{scenario}", more="retry: {attempts: 2}"))
    assert (house.rows(), house.stats.sends) == ([], 2), report.status
