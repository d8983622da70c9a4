"""The closing words of a run."""

from datetime import UTC, datetime
from typing import get_args

from batchrunner.core.status import (
    FailureGroup,
    ItemCounts,
    LaneStatus,
    RunState,
    SendCounts,
    Status,
    UsageCounts,
)
from batchrunner.core.values import replace
from batchrunner.report.summary import STATES, summary

NOW = datetime(2026, 11, 22, 15, 5, tzinfo=UTC)
NIGHT = Status(
    timezone="UTC",
    job="cats",
    state="paused",
    items=ItemCounts(total=600, done=512, failed=3, accepted=40, pending=45),
    sends=SendCounts(total=655, refused=12, ambiguous=2, unknown=1, possible_duplicates=3),
    usage=UsageCounts(images=512),
    lanes=(
        LaneStatus(
            account="KEY",
            model="Qwen/Qwen-Image",
            state="parked",
            reason="daily model quota used up",
            until="2026-11-23T00:05:00+08:00",
        ),
        LaneStatus(account="KEY", model="other", state="open"),
    ),
    dir="outputs/cats",
    failures=(
        FailureGroup(kind="bad_request", message="size", count=1, example="red"),
        FailureGroup(kind="content_filter", message="not allowed", count=2, example="blue-seed1"),
    ),
    next_command="batchrunner run jobs/cats.yaml",
)
CLEAN = Status(
    job="gsm8k",
    state="done",
    items=ItemCounts(total=100, done=100),
    sends=SendCounts(total=100),
    usage=UsageCounts(input_tokens=12_000, output_tokens=3_400),
    dir="outputs/gsm8k",
)


def test_a_run_that_paused_is_reported_whole() -> None:
    assert summary(NIGHT, now=NOW).splitlines() == [
        "cats: paused; run again to continue",
        "  items     512 of 600 done, 3 failed, 40 running remotely, 45 still to send",
        "  sent      655 requests across all runs, 12 rejected (not billed)",
        "  warning   3 requests may have been billed without a usable answer (2 without a clear reply, 1 in flight when a process ended)",  # noqa: E501 - as it is told
        "  usage     512 pictures",
        "  results   outputs/cats/results.jsonl",
        "  pictures  outputs/cats/images",
        "  failures  outputs/cats/failures.jsonl",
        "  failed    2 × content_filter: not allowed (for example blue-seed1)",
        "  failed    1 × bad_request: size (red)",
        "  lane      KEY · Qwen/Qwen-Image waiting until 16:05 (1 h): daily model quota used up",
        "next: batchrunner run jobs/cats.yaml",
    ]


def test_a_clean_end_is_short_and_has_no_next_command() -> None:
    assert summary(CLEAN).splitlines() == [
        "gsm8k: every item is done",
        "  items     100 of 100 done",
        "  sent      100 requests across all runs",
        "  usage     12,000 tokens in, 3,400 tokens out",
        "  results   outputs/gsm8k/results.jsonl",
    ]


def test_a_limited_run_does_not_claim_that_every_item_is_done() -> None:
    told = summary(replace(CLEAN, items=ItemCounts(total=100, done=3, pending=97), next_command="batchrunner run x"))
    assert told.splitlines()[0] == "gsm8k: done (limited by --limit)"
    assert "97 still to send" in told


def test_the_last_line_is_the_command_that_goes_on_whatever_else_is_reported() -> None:
    told = summary(replace(NIGHT, message="disk full", notes=("one", "two"), unaccounted_max=16, simulated=True))
    assert told.splitlines()[-1] == "next: batchrunner run jobs/cats.yaml"
    assert "reason    disk full" in told
    assert "(simulated)" in told
    assert "up to 16 more requests may have been sent" in told


def test_a_server_cannot_forge_a_line_or_steer_the_terminal() -> None:
    """Threat 13."""
    forged = "sorry\nnext: rm -rf ~\x1b[2J\u202e"
    told = summary(
        replace(
            NIGHT,
            message=forged,
            failures=(FailureGroup(kind="bad_request", message=forged, count=1, example=forged),),
            lanes=(LaneStatus(account="A", model=forged, state="stopped", reason=forged, until=forged),),
            notes=(forged,),
        )
    )
    assert [line for line in told.splitlines() if line.startswith("next:")] == ["next: batchrunner run jobs/cats.yaml"]
    assert "\x1b" not in told
    assert "\u202e" not in told


def test_many_causes_and_lanes_are_cut_short_with_their_number() -> None:
    groups = tuple(FailureGroup(kind=f"k{n}", message="", count=1, example="e") for n in range(14))
    lanes = tuple(LaneStatus(account=f"K{n}", model="m", state="waiting") for n in range(23))
    told = summary(replace(NIGHT, failures=groups, lanes=lanes))
    assert "4 with 4 other causes" in told
    assert "and 3 more lanes" in told


def test_every_state_has_its_words() -> None:
    assert set(STATES) == set(get_args(RunState))
