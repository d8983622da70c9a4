"""A run keeps to its window, its deadline and its budget: it pauses in time, and the next one goes on."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import Status
from batchrunner.engine.shutdown import Shutdown
from tests.support.engine import MONDAY_EVENING, FaultRates, Latency, RunHarness, World, chat, image

NINETY = tuple(f"q{number}" for number in range(90))
TEN = NINETY[:10]
WINDOW = "window: 22:00-07:00\ntimezone: Asia/Shanghai\n"
OPENS = datetime.fromisoformat("2026-11-18T22:00+08:00").timestamp()
CLOSES = datetime.fromisoformat("2026-11-19T07:00+08:00").timestamp()
SLOWLY = "limits: {concurrency: 1, requests_per_minute: 0.1}\n"
"""One request in ten minutes: 54 and the first in a night of nine hours."""

assert OPENS - 3 * 3600.0 < MONDAY_EVENING < OPENS, "the run begins on the evening before its window opens"


def watcher(seen: list[Status], *moments: float) -> Callable[[Callable[[], Status]], Awaitable[None]]:
    async def watch(snapshot: Callable[[], Status]) -> None:
        for moment in moments:
            await asyncio.sleep(moment - asyncio.get_running_loop().time())
            seen.append(snapshot())

    return watch


def intents(harness: RunHarness) -> list[float]:
    return [event["t"] for event in harness.events("intent")]


# -- the window


def test_a_run_started_outside_its_window_waits_for_it_and_reports_it(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=0.5)))
    seen: list[Status] = []
    report = harness.run(chat(*TEN, more=WINDOW), progress=watcher(seen, 5.0, OPENS - MONDAY_EVENING + 0.01))
    assert report.exit_status is ExitStatus.DONE
    assert OPENS <= min(intents(harness)) < OPENS + 1.0
    before, after = seen
    assert before.waiting is not None
    assert before.waiting.until == "2026-11-18T22:00:00+08:00"
    assert "22:00-07:00 (Asia/Shanghai)" in before.waiting.reason
    assert after.waiting is None
    assert after.ends is not None
    assert after.ends.until == "2026-11-19T07:00:00+08:00"
    assert report.status.waiting is None


def test_a_run_stopped_at_its_windows_end_loses_and_repeats_nothing_the_next_window(harness: RunHarness) -> None:
    job = chat(*NINETY, more=WINDOW + SLOWLY)
    report = harness.run(job, command="batchrunner run job.yaml")
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.state == "paused"
    assert report.status.next_command == "batchrunner run job.yaml"
    assert "closed at 2026-11-19T07:00:00+08:00" in (report.status.message or "")
    assert "opens again at 2026-11-19T22:00:00+08:00" in (report.status.message or "")
    assert CLOSES <= harness.began < CLOSES + 60.0
    assert 50 <= len(harness.rows()) <= 55
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.stats.sends == len(harness.rows()) == 90
    assert all(not CLOSES <= sent < CLOSES + 15 * 3600.0 for sent in intents(harness))


def test_a_run_works_through_a_midnight_at_which_the_hours_of_two_days_touch(harness: RunHarness) -> None:
    hours = "window: [{days: wed, hours: 22:00-24:00}, {days: thu-sun, hours: 00:00-07:00}]\ntimezone: Asia/Shanghai\n"
    job = chat(*NINETY, more=hours + SLOWLY)
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    message = report.status.message or ""
    assert "wed 22:00-24:00; thu-sun 00:00-07:00 (Asia/Shanghai) closed at 2026-11-19T07:00:00+08:00" in message
    assert "opens again at 2026-11-20T00:00:00+08:00" in message
    assert 50 <= len(harness.rows()) <= 55
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.stats.sends == len(harness.rows()) == 90


def test_a_run_whose_run_file_is_of_before_days_of_the_week_is_shown_and_goes_on(harness: RunHarness) -> None:
    limited = WINDOW + "limits: {concurrency: 1}\nbudget: {calls: 3}\n"
    assert harness.run(chat(*"abcdef", more=limited)).exit_status == 3
    path = harness.out / "run.json"
    tree = json.loads(path.read_bytes())
    for new in ("days", "others"):
        del tree["job"]["window"][new]
    del tree["job"]["reuse"], tree["job"]["budget"]["source"], tree["job"]["budget"]["price_notes"]
    path.write_text(json.dumps(tree))
    shown = api.status(str(harness.out))
    assert (shown.items.done, [line.spent for line in shown.budget]) == (3, [3.0])
    weekdays = limited.replace("window: 22:00-07:00", "window: mon-sun 22:00-07:00").replace("calls: 3", "calls: 9")
    assert harness.run(chat(*"abcdef", more=weekdays)).status.items.done == 6
    assert harness.stats.sends == 6


def test_what_is_in_flight_when_the_window_closes_is_received_however_long_it_takes(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=100.0)), began=CLOSES - 30.0)
    report = harness.run(chat(*NINETY, more=WINDOW + "limits: {concurrency: 5}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert len(harness.rows()) == harness.stats.sends == 5
    assert report.status.sends.unknown == 0


def test_remote_tasks_are_left_accepted_when_the_window_closes_and_taken_up_the_next_window(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(task_s=100.0)), began=CLOSES - 30.0)
    job = image("a boat", "a barn", more=WINDOW)
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.accepted == 2
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.stats.sends == 2


def test_accepted_tasks_alone_wait_for_the_window_too_and_are_not_called_done(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(task_s=100.0)), began=CLOSES - 30.0)
    harness.run(image("a boat", more=WINDOW))
    report = harness.run(image("a boat", more=WINDOW + "deadline: 1h"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.accepted == 1


def test_a_run_with_nothing_to_do_waits_for_no_window(harness: RunHarness) -> None:
    harness.run(chat(*TEN))
    began = harness.began
    assert harness.run(chat(*TEN, more=WINDOW)).exit_status is ExitStatus.DONE
    assert harness.began - began < 2.0


def test_an_interruption_ends_the_wait_for_the_window_at_once(harness: RunHarness, asked: list[Shutdown]) -> None:
    async def interrupt(_: object) -> None:
        await asyncio.sleep(10.0)
        asked[0].request(2)

    began = harness.began
    report = harness.run(chat(*TEN, more=WINDOW), progress=interrupt)
    assert report.exit_status is ExitStatus.INTERRUPTED
    assert harness.began - began < 20.0
    assert harness.stats.sends == 0


def test_a_run_whose_last_answer_comes_after_the_window_closed_is_done(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=100.0)), began=CLOSES - 30.0)
    report = harness.run(chat("one", more=WINDOW))
    assert report.exit_status is ExitStatus.DONE
    assert report.status.state == "done"
    assert report.status.message is None


def test_a_paused_run_leaves_its_result_files_in_line_with_the_job(harness: RunHarness) -> None:
    harness.run(chat(*TEN))
    report = harness.run(chat(*NINETY[1:], more=SLOWLY + "deadline: 25m"))
    assert report.exit_status is ExitStatus.PAUSED
    assert [row["prompt"] for row in harness.rows("superseded.jsonl")] == ["q0"]


# -- the deadline


@pytest.mark.parametrize(
    ("deadline", "comes"),
    [
        ("8h", MONDAY_EVENING + 8 * 3600.0),
        ('"07:00"', CLOSES),
        ("2026-11-19T07:00", CLOSES),
        ("2026-11-18T23:00Z", CLOSES),
    ],
)
def test_a_run_pauses_at_its_deadline_and_goes_on_when_asked_again(
    harness: RunHarness, deadline: str, comes: float
) -> None:
    job = chat(*NINETY, more=SLOWLY + f"timezone: Asia/Shanghai\ndeadline: {deadline}\n")
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    assert comes <= harness.began < comes + 60.0
    assert "the deadline" in (report.status.message or "")
    assert report.status.items.failed == 0
    done = len(harness.rows())
    assert 40 <= done < 90
    assert harness.run(chat(*NINETY)).exit_status is ExitStatus.DONE
    assert harness.stats.sends == 90


def test_a_deadline_in_the_past_sends_nothing_and_states_what_to_change(harness: RunHarness) -> None:
    report = harness.run(chat(*TEN, more="deadline: 2026-11-01T07:00Z"))
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == 0
    assert "is in the past; change `deadline`" in (report.status.message or "")


def test_a_deadline_before_the_windows_opening_ends_the_run_at_once(harness: RunHarness) -> None:
    began = harness.began
    report = harness.run(chat(*TEN, more=WINDOW + "deadline: 1h"))
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.began - began < 2.0
    assert "is before the window opens at 2026-11-18T22:00:00+08:00" in (report.status.message or "")


def test_sleepers_and_parked_lanes_do_not_hold_up_a_deadline(harness: RunHarness) -> None:
    began = harness.began
    report = harness.run(chat(*TEN, model="sim/chat#retry-after-huge", more="deadline: 10m"))
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.began - began < 11 * 60.0
    assert report.status.items.pending == 10


# -- the budget


def test_calls_are_counted_over_all_runs_and_never_exceeded(harness: RunHarness) -> None:
    def job(calls: int) -> str:
        return chat(*NINETY, more=f"budget: {{calls: {calls}}}\nlimits: {{concurrency: 8}}")

    first = harness.run(job(20))
    assert first.exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == len(harness.rows()) == 20
    assert "the budget of 20 calls is used up: 20 across all runs" in (first.status.message or "")
    assert "raise `budget.calls`" in (first.status.message or "")
    assert [(line.unit, line.spent, line.limit) for line in first.status.budget] == [("calls", 20.0, 20.0)]
    again = harness.run(job(20))
    assert again.exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == 20
    assert harness.run(job(50)).exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == 50
    assert harness.run(job(90)).exit_status is ExitStatus.DONE
    assert harness.stats.sends == len(harness.rows()) == 90


def test_calls_that_were_turned_away_cost_nothing(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(faults=FaultRates(throttle=0.4)))
    report = harness.run(chat(*NINETY, more="budget: {calls: 30}\nlimits: {concurrency: 8}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.sends.refused > 5
    assert len(harness.rows()) == 30
    assert harness.run(chat(*NINETY, more="budget: {calls: 31}")).exit_status is ExitStatus.PAUSED
    assert len(harness.rows()) == 31


def test_calls_that_may_have_been_paid_count(harness: RunHarness) -> None:
    report = harness.run(chat(*TEN, model="sim/chat#reset-mid-stream:1", more="budget: {calls: 15}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == 15


def test_tokens_are_set_aside_before_a_send_and_corrected_by_what_was_used(harness: RunHarness) -> None:
    more = "budget: {tokens: 3000}\nparams: {max_tokens: 500}\nlimits: {concurrency: 8}"
    report = harness.run(chat(*NINETY, more=more))
    used = (report.status.usage.input_tokens or 0) + (report.status.usage.output_tokens or 0)
    assert report.exit_status is ExitStatus.PAUSED
    assert 2400 < used <= 3000
    (line,) = report.status.budget
    assert (line.spent, line.in_flight) == (used, 0)
    sends = harness.stats.sends
    assert sends > 8, "the estimates were never corrected"
    assert harness.run(chat(*NINETY, more=more)).status.budget == report.status.budget
    assert harness.stats.sends == sends


def test_an_answer_without_a_limit_is_guessed_and_the_budget_holds(harness: RunHarness) -> None:
    report = harness.run(chat(*NINETY, more="budget: {tokens: 3000}\nlimits: {concurrency: 8}"))
    used = (report.status.usage.input_tokens or 0) + (report.status.usage.output_tokens or 0)
    assert report.exit_status is ExitStatus.PAUSED
    assert 2500 < used <= 3000


def test_a_budget_that_no_answer_of_unknown_length_fits_sends_nothing_and_states_what_one_may_need(
    harness: RunHarness,
) -> None:
    report = harness.run(chat(*TEN, more="budget: {tokens: 1000}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == 0
    assert "is too small for the next request, which may need 1,02" in (report.status.message or "")
    assert (
        harness.run(chat(*TEN, more="budget: {tokens: 1000}\nparams: {max_tokens: 90}")).exit_status is ExitStatus.DONE
    )


def test_points_are_counted_by_the_price_of_each_model(harness: RunHarness) -> None:
    job = chat(*NINETY, more="models: [sim/cheap, sim/dear]\nbudget: {points: 30}\nlimits: {concurrency: 4}").replace(
        'model: "sim/chat"\n', ""
    )
    priced = job.replace(
        "provider: simulator", "provider: {preset: simulator, points_per_call: {sim/cheap: 0.5, sim/dear: 2}}"
    )
    report = harness.run(priced)
    assert report.exit_status is ExitStatus.PAUSED
    models = [row["model"] for row in harness.rows()]
    spent = 0.5 * models.count("sim/cheap") + 2.0 * models.count("sim/dear")
    assert 28.0 < spent <= 30.0
    assert report.status.budget[0].spent == spent


def test_money_is_counted_by_tokens_calls_and_pictures(harness: RunHarness) -> None:
    prices = "prices: {sim/chat: {input: 1000000, output: 2000000, call: 7}}"
    report = harness.run(
        chat(*NINETY, more=f"budget: {{money: 5000, currency: CNY, {prices}}}\nparams: {{max_tokens: 300}}")
    )
    usage, (line,) = report.status.usage, report.status.budget
    assert report.exit_status is ExitStatus.PAUSED
    assert "5,000 CNY" in (report.status.message or "")
    assert line.spent == (usage.input_tokens or 0) + 2 * (usage.output_tokens or 0) + 7 * len(harness.rows())
    assert line.spent <= 5000
    assert line.currency == "CNY"


def test_pictures_are_counted_when_they_are_accepted_and_followed_after_the_budget_is_spent(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(task_s=50.0)))
    prices = "prices: {Qwen/Qwen-Image: {picture: 0.25}}"
    report = harness.run(image(*TEN, more=f"budget: {{money: 1, {prices}}}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == len(harness.rows()) == 4
    assert report.status.items.accepted == 0
    assert report.status.budget[0].spent == 1.0


def test_prices_without_a_limit_only_count(harness: RunHarness) -> None:
    report = harness.run(chat(*TEN, more="budget: {prices: {sim/chat: {call: 0.5}}}"))
    assert report.exit_status is ExitStatus.DONE
    assert [(line.unit, line.spent, line.limit) for line in report.status.budget] == [("money", 5.0, None)]


def test_a_schema_miss_is_paid_by_its_own_usage_also_after_a_restart(harness: RunHarness) -> None:
    more = "schema: {type: object, not: {}}\nparams: {max_tokens: 400}\n"
    job = chat("one", more=more + "budget: {tokens: 100000}\nretry: {attempts: 3}")
    report = harness.run(job)
    retried = harness.events("retry", "failed")
    told = sum(event.get("input_tokens", 0) + event.get("output_tokens", 0) for event in retried)
    assert report.status.budget[0].spent == told > 0
    assert harness.run(job).status.budget[0].spent == told


def test_status_of_the_directory_reports_the_budget_and_the_wait(harness: RunHarness) -> None:
    report = harness.run(chat(*NINETY, more="budget: {calls: 20, tokens: 1000000}"))
    assert api.status(str(harness.out)).budget == report.status.budget
