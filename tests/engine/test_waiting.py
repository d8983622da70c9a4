"""Who waits for what: slots, sources, parks. Nobody keeps from others what they need, and nobody waits for ever."""

import asyncio
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import LaneSettings, Limits
from batchrunner.engine.lanes import Lane
from batchrunner.engine.work_queue import READ_AHEAD, Condition, LoopClock
from batchrunner.simulator.scenarios import parse_scenarios
from batchrunner.simulator.script import Call, Script
from batchrunner.simulator.virtual_time import StandstillError
from tests.engine.timetable import Timetable
from tests.support.engine import FaultRates, Latency, RunHarness, World, chat
from tests.support.virtual_time import run_virtual

TEN = tuple(f"question {number}" for number in range(10))
HUNDRED = tuple(f"question {number}" for number in range(100))


def test_a_run_in_which_nothing_can_happen_any_more_is_noticed(
    harness: RunHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog of every test in virtual time: a lost wake-up fails instead of hanging."""
    monkeypatch.setattr(Condition, "notify", lambda _: None)
    with pytest.raises(StandstillError):
        harness.run(chat("one"))


def test_a_retry_goes_on_while_the_source_is_slow(tmp_path: Path) -> None:
    """One slot, an item that failed once and waits for it, and a source that gives nothing for ten minutes."""
    harness = RunHarness(tmp_path, item_s=lambda index: 600.0 if index == 2 else 0.0)
    assert harness.run(chat("one", "two", model="sim/chat#5xx:1", more="limits: {concurrency: 1}")).exit_status == 0
    first, second = harness.events("done")
    assert first["t"] - harness.events("intent")[0]["t"] < 10.0
    assert second["t"] - first["t"] > 500.0


def test_a_returned_item_goes_on_while_the_source_is_slow(tmp_path: Path) -> None:
    """As above, with an item that came back because its lane was parked."""
    world = Timetable(lambda s: "throttle" if s < 1.0 else "ok")
    harness = RunHarness(tmp_path, world, item_s=lambda index: 3600.0 if index == 2 else 0.0)
    assert harness.run(chat("one", "two", more="limits: {concurrency: 1}")).exit_status == 0
    first, second = harness.events("done")
    assert first["t"] - harness.events("intent")[0]["t"] < 60.0
    assert second["t"] - first["t"] > 3500.0


def test_a_parked_lane_reads_no_more_than_a_few_items_ahead(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    prompts = tuple(f"question {number}" for number in range(500))
    harness.run(chat(*prompts, model="sim/chat#quota-model:0", more="on_quota: stop\nlimits: {concurrency: 4}"))
    assert harness.source is not None
    assert harness.source.read <= len(prompts) + READ_AHEAD + 8


def test_an_account_that_is_refused_ends_the_run_while_the_source_is_slow(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, item_s=lambda index: 86_400.0 if index == 2 else 0.0)
    began = harness.began + 86_400.0  # the survey reads everything first
    assert harness.run(chat("one", "two", model="sim/chat#auth-bad")).exit_status is ExitStatus.REFUSED
    assert harness.began - began < 600.0


def test_a_run_that_is_asked_to_end_does_so_while_the_source_is_slow(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, item_s=lambda index: 86_400.0 if index == 2 else 0.0)
    began = harness.began + 86_400.0
    report = harness.run(chat("one", "two", more="deadline: 2h"))
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.items.done == 1
    assert harness.began - began < 3 * 3600.0


# -- a slot that was granted before a park


@pytest.mark.parametrize(
    "limits",
    [
        "limits: {concurrency: 8, tokens_per_minute: 20}",
        "limits: {concurrency: 8, tokens_per_minute: 20, requests_per_minute: 60}",
    ],
)
@pytest.mark.parametrize("scenario", ["quota-model:1", "quota-account:1", "retry-after-huge", "auth-bad"])
def test_a_slot_that_was_granted_before_a_park_is_not_used_after_it(
    harness: RunHarness, scenario: str, limits: str
) -> None:
    """They wait for tokens with a slot in hand; the lane parks meanwhile."""
    harness.run(chat(*TEN, model=f"sim/chat#{scenario}", more=f"on_quota: stop\n{limits}\ndeadline: 1h"))
    parked = next(event["t"] for event in harness.events("parked"))
    assert [event for event in harness.events("intent") if parked < event["t"] < parked + 3500] == []


def test_a_slot_that_is_given_back_unused_costs_no_request_of_its_minute_and_day() -> None:
    async def main() -> None:
        settings = LaneSettings(
            concurrency=4,
            adaptive=False,
            in_flight_tasks=None,
            limits=Limits(requests_per_day=2, requests_per_minute=1.0),
            breaker=20,
            day_offset_s=0.0,
        )
        lane = Lane("", "m", settings=settings, clock=LoopClock(), sent_today=0)
        for _ in range(5):
            ticket = await lane.acquire(fresh=True)
            assert ticket is not None
            lane.give_up(ticket)
        assert asyncio.get_running_loop().time() == 0.0
        assert not lane.day_is_spent

    run_virtual(main)


# -- several lanes

TWO_KEYS = "{preset: openai, base_url: 'http://127.0.0.1:1/v1', api_key_env: [KEY_A, KEY_B]}"
REFUSED = ["quota-account:0", "throttle", "auth-bad", "reset-before-headers", "retry-after:80000"]


class OneKeyRefused(World):
    """Refuses what comes with one key, in some way, and takes ten seconds over an answer."""

    def __init__(self, scenario: str) -> None:
        super().__init__(latency=Latency(first_byte_s=10.0))
        self._refusal = scenario

    def answer(self, call: Call, now: float) -> Script:
        self._scenario = parse_scenarios(self._refusal if call.token == "KEY_A" else "ok")
        return super().answer(call, now)


@pytest.mark.parametrize("wait_s", [0.0, 5.0, 100.0])
@pytest.mark.parametrize(
    "scenario", ["quota-account:0", "throttle", "auth-bad", "reset-before-headers", "retry-after:80000"]
)
def test_what_one_account_does_not_take_another_one_does_and_the_run_waits_for_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, wait_s: float
) -> None:
    """Items that came back from a lane are sent by the other one, each once; the parked lane is not waited for."""
    for name in ("KEY_A", "KEY_B"):
        monkeypatch.setenv(name, f"a-secret-{name}")
    harness = RunHarness(tmp_path, OneKeyRefused(scenario), simulate=False, item_s=lambda _: wait_s)
    job = chat(*TEN, "same", "same", more="breaker: 2\nlimits: {concurrency: 2}")
    report = harness.run(job.replace("provider: simulator", f"provider: {TWO_KEYS}"))
    assert report.status.items.done == 12
    assert report.exit_status is ExitStatus.DONE
    assert harness.stats.verdicts["answered"] == 11
    assert harness.stats.paid - 11 <= report.status.sends.possible_duplicates
    assert harness.events("done")[-1]["t"] - harness.events("intent")[0]["t"] < 3600.0


# -- how often the source is read


def test_a_limit_ends_the_stream_behind_its_last_item(harness: RunHarness) -> None:
    report = harness.run(chat(*HUNDRED), limit=3)
    assert harness.source is not None
    assert (report.status.items.done, report.status.items.pending, report.status.items.total) == (3, 97, 100)
    assert harness.source.read == 103, "the survey reads all of it, the lanes three items"


def test_a_limit_waits_for_nothing_behind_its_last_item(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, item_s=lambda index: 86_400.0 if index == 2 else 0.0)
    began = harness.began + 86_400.0
    assert harness.run(chat("one", "two"), limit=1).exit_status is ExitStatus.DONE
    assert harness.began - began < 60.0


@pytest.mark.parametrize("more", ["", "replicas: 2", "on_ambiguous: hold"])
def test_a_resumption_with_nothing_to_do_reads_the_source_once_at_most(harness: RunHarness, more: str) -> None:
    """And not at all where the last run ended cleanly and nobody has touched anything since."""
    job = chat("one", "same", "same", "bad", model="sim/chat", more=more)
    harness.world = World(faults=FaultRates())
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.source is not None
    assert (harness.source.passes, harness.source.read) == (0, 0)
    for options in ({}, {"limit": 2}, {"retry_failed": True}, {"resend_held": True}):
        (harness.out / "results.jsonl").touch()
        assert harness.run(job, **options).exit_status is ExitStatus.DONE
        assert harness.source is not None
        assert (harness.source.passes, harness.source.read) == (1, 4 * (2 if "replicas" in more else 1))


def test_a_resumption_with_held_items_only_reads_the_source_once_at_most_and_sends_them_when_it_is_asked_to(
    tmp_path: Path,
) -> None:
    harness = RunHarness(
        tmp_path, Timetable(lambda s: "reset-before-headers" if s < 100 else "ok"), item_s=lambda _: 1.0
    )
    job = chat("one", "one", "two", more="on_ambiguous: hold")
    assert harness.run(job).status.items.held == 3
    harness.began += 1000.0
    report = harness.run(job)
    assert (report.exit_status, report.status.items.held, harness.stats.sends) == (ExitStatus.PAUSED, 3, 2)
    assert harness.source is not None
    assert harness.source.passes <= 1
    report = harness.run(job, resend_held=True)
    assert (report.exit_status, report.status.items.done, harness.stats.sends) == (ExitStatus.DONE, 3, 4)


def test_a_resumption_with_failures_and_nothing_to_do_reads_the_source_once_at_most(harness: RunHarness) -> None:
    job = chat(*TEN, "same", "same", model="sim/chat#5xx:9", more="retry: {attempts: 1}\nbreaker: 1000")
    assert harness.run(job).exit_status is ExitStatus.FAILED
    before = harness.rows("failures.jsonl")
    assert len(before) == 12
    assert harness.run(job).exit_status is ExitStatus.FAILED
    assert harness.source is not None
    assert harness.source.passes <= 1
    assert harness.rows("failures.jsonl") == before


def test_failures_that_an_interrupted_run_left_unsettled_are_settled(harness: RunHarness) -> None:
    job = chat(*TEN, model="sim/chat#5xx:9", more="retry: {attempts: 1}\nbreaker: 1000")
    harness.run(job)
    path = harness.out / "failures.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[::-1], lines[3]]), "utf-8")
    harness.run(job)
    assert path.read_text("utf-8") == "".join(lines)


def test_a_part_of_a_job_leaves_the_rows_outside_of_it_where_they_are(harness: RunHarness) -> None:
    job = chat("one", "two", "three", "same", "same", "six")
    assert harness.run(job).exit_status is ExitStatus.DONE
    longer = chat("zero", "one", "two", "three", "same", "same", "six")
    report = harness.run(longer, limit=1)
    assert report.exit_status is ExitStatus.DONE
    assert [row["index"] for row in harness.rows()] == [1, 2, 3, 4, 5, 6, 7]
    assert harness.rows("superseded.jsonl") == []
    assert report.status.items.done == report.status.items.total == 7


def test_a_part_of_a_job_gives_failed_items_outside_of_it_no_new_attempts(harness: RunHarness) -> None:
    job = chat("one", "two", model="sim/chat#5xx:2", more="retry: {attempts: 2}\nbreaker: 1000")
    assert harness.run(job).exit_status is ExitStatus.FAILED
    report = harness.run(job, limit=1, retry_failed=True)
    assert (report.status.items.done, report.status.items.failed) == (1, 1)
    assert [row["index"] for row in harness.rows("failures.jsonl")] == [2]


# -- parks


@pytest.mark.parametrize("scenario", ["quota-model:1", "quota-account:1"])
def test_a_quota_that_an_earlier_run_met_stops_this_one_at_once_if_the_job_asks_for_stop(
    harness: RunHarness, scenario: str
) -> None:
    job = chat(*TEN, model=f"sim/chat#{scenario}", more="limits: {concurrency: 1}\ndeadline: 1h")
    assert harness.run(job).exit_status is ExitStatus.PAUSED
    sends, began = harness.stats.sends, harness.began
    report = harness.run(job.replace("deadline: 1h", "on_quota: stop"))
    assert report.exit_status is ExitStatus.PAUSED
    assert "reported to an earlier run" in (report.status.message or "")
    assert (harness.stats.sends, harness.began - began < 10.0) == (sends, True)


def test_a_quota_that_an_earlier_run_met_matters_to_nobody_who_has_nothing_to_send(harness: RunHarness) -> None:
    job = chat(*TEN, model="sim/chat#quota-model:1", more="limits: {concurrency: 1}\ndeadline: 1h")
    harness.run(job)
    report = harness.run(chat(TEN[0], model="sim/chat#quota-model:1", more="on_quota: stop"))
    assert (report.exit_status, report.status.message) == (ExitStatus.DONE, None)


def once_after(first: str, until_s: float, then: str) -> Timetable:
    """`first` for so many seconds, then `then` for a single call, then all is well."""
    late: list[float] = []

    def scenario(seconds: float) -> str:
        if seconds < until_s:
            return first
        late.append(seconds)
        return then if len(late) == 1 else "ok"

    return Timetable(scenario)


@pytest.mark.parametrize("fault", ["5xx", "reset-before-headers", "shell200", "cut-mid-stream"])
@pytest.mark.parametrize("refusal", ["throttle", "retry-after:60", "quota-model:0"])
def test_a_single_fault_at_a_probe_after_a_refusal_is_a_retry_of_its_item(
    tmp_path: Path, refusal: str, fault: str
) -> None:
    """Whatever the lane was parked for but an outage: the server is there."""
    harness = RunHarness(tmp_path, once_after(refusal, 60.0, fault))
    assert harness.run(chat(*TEN, more="limits: {concurrency: 1}")).exit_status is ExitStatus.DONE
    assert {event["kind"] for event in harness.events("parked")} <= {"throttle", "quota_model"}
    assert len(harness.events("retry")) == 1


@pytest.mark.parametrize("refusal", ["throttle", "empty429"])
def test_a_single_refusal_at_a_probe_after_an_outage_shows_that_the_server_is_back(
    tmp_path: Path, refusal: str
) -> None:
    harness = RunHarness(tmp_path, once_after("reset-before-headers", 300.0, refusal))
    assert harness.run(chat(*TEN, more="limits: {concurrency: 4}\nbreaker: 2")).exit_status is ExitStatus.DONE
    assert {event["kind"] for event in harness.events("parked")} == {"reset"}
    assert len(harness.events("refused")) == 1


@pytest.mark.parametrize(("letters", "most"), [(2_000_000, 6), (10, READ_AHEAD + 8)])
def test_items_that_wait_for_a_slot_are_bounded_in_number_and_in_bytes(tmp_path: Path, letters: int, most: int) -> None:
    """The lane is stopped by its first answer; what has been read ahead by then is what is held."""
    harness = RunHarness(tmp_path)
    prompts = tuple(f"{number} " + "a" * letters for number in range(60))
    (tmp_path / "rows.txt").write_text("\n".join(prompts), "utf-8")
    job = chat(model="sim/chat#auth-bad", more="limits: {concurrency: 1}").replace(
        "prompts:\n", "prompts: {file: rows.txt}"
    )
    assert harness.run(job).exit_status is ExitStatus.REFUSED
    assert harness.source is not None
    assert harness.source.read - len(prompts) <= most
