"""A rehearsal foretells what a run would come to: the same engine, on what is left, with nothing sent or written."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus, JobMistakesError, WrongDirectoryError
from batchrunner.core.rehearsal_report import Rehearsal
from batchrunner.core.values import field_names
from batchrunner.engine.work_queue import LoopClock
from batchrunner.simulator.http_server import serve
from batchrunner.simulator.profiles import profile_of
from batchrunner.simulator.quotas import Quota
from batchrunner.simulator.rehearsal import world_of
from batchrunner.simulator.world import World
from tests.support.engine import MONDAY_EVENING, RunHarness, chat, image
from tests.support.virtual_time import run_virtual

CATS = tuple(f"cat {number}" for number in range(100))
NOON = datetime.fromisoformat("2026-11-23T12:00+08:00").timestamp()
FREE = "rpm=none,concurrent=none,per_day=none,account_per_day=none"


def rehearse(folder: Path, job: str, profile: str = "", *, simulate: bool = False, **options: Any) -> Rehearsal:
    path = folder / "job.yaml"
    path.write_text(job, "utf-8")
    loaded = api.load_job(str(path), simulate=simulate, out=str(folder / "out"))
    return api.rehearse(loaded, profile=profile, **{"began": NOON, **options})


def modelscope(job: str, *, keys: str = "KEY") -> str:
    return job.replace("provider: simulator", f"provider: {{preset: modelscope, api_key_env: {keys}}}")


def test_the_end_calls_and_days_of_a_job_with_a_daily_quota(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path, modelscope(image(*CATS)), f"{FREE},per_day=40")
    assert (rehearsal.state, rehearsal.exit_status, rehearsal.quota_days) == ("done", ExitStatus.DONE, 3)
    assert rehearsal.ends.startswith("2026-11-25T00:0")
    assert rehearsal.ends.endswith("+08:00")
    assert rehearsal.seconds == pytest.approx(datetime.fromisoformat(rehearsal.ends).timestamp() - NOON, abs=1.0)
    assert [day.done for day in rehearsal.days] == [40, 40, 20]
    assert [moment.kind for moment in rehearsal.moments] == ["begins", *["parked", "resumed"] * 2, "ends"]
    assert rehearsal.parked_seconds > 86_400.0
    assert rehearsal.usage.images == rehearsal.downloads == 100
    assert rehearsal.polls >= 100


def test_a_limit_a_minute_shows_how_long_it_takes(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path, modelscope(image(*CATS)), f"{FREE},rpm=30,burst=1")
    assert rehearsal.seconds > 100 / 30 * 60
    assert 0 < rehearsal.refused < rehearsal.calls - 99
    assert rehearsal.calls == 100 + rehearsal.refused + rehearsal.retried


def test_a_job_for_a_table_is_rehearsed_with_the_simulators_own_kind_of_task(tmp_path: Path) -> None:
    job = image(*CATS[:10]).replace("provider: simulator", "provider: {dialect: task, task: bfl, api_key_env: KEY}")
    rehearsal = rehearse(tmp_path, job, FREE)
    assert (rehearsal.state, rehearsal.exit_status, rehearsal.usage.images) == ("done", ExitStatus.DONE, 10)


def test_the_jobs_own_limits_hold(tmp_path: Path) -> None:
    rehearsal = rehearse(
        tmp_path, modelscope(image(*CATS[:30], more="limits: {concurrency: 2, requests_per_day: 10}")), FREE
    )
    assert rehearsal.peak_concurrency <= 2
    assert [day.calls for day in rehearsal.days] == [10, 10, 10]
    assert rehearsal.refused == 0


def test_chat_answers_are_counted_as_long_as_they_are_supposed_to_be(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path, modelscope(chat(*CATS)), f"{FREE},tokens=1000")
    assert rehearsal.usage.output_tokens == pytest.approx(100_000, rel=0.15)
    capped = rehearse(tmp_path, modelscope(chat(*CATS, more="params: {max_tokens: 50}")), f"{FREE},tokens=1000")
    assert capped.usage.output_tokens == 100 * 50


@pytest.mark.parametrize(
    ("provider", "kind", "model"),
    [
        ("modelscope", "chat", "Qwen/Qwen3-8B"),
        ("modelscope-anthropic", "chat", "Qwen/Qwen3-8B"),
        ("modelscope", "image", "Qwen/Qwen-Image"),
        ("openai", "chat", "gpt"),
        ("openai", "image", "gpt-image-1"),
        ("{preset: openai, base_url: 'https://host.example/api/v9', api_key_env: X}", "image", "owner/painter"),
        ("anthropic", "chat", "claude"),
        ("simulator", "chat", "sim"),
        ("simulator", "image", "Qwen/Qwen-Image"),
    ],
)
def test_every_provider_can_be_rehearsed(provider: str, kind: str, model: str, tmp_path: Path) -> None:
    params = "params: {max_tokens: 100}\n" if provider == "anthropic" else ""
    text = f"name: j\nprovider: {provider}\nkind: {kind}\nmodel: {model}\n{params}prompts: [one, two, three]\n"
    rehearsal = rehearse(tmp_path, text)
    assert (rehearsal.state, rehearsal.items.done, rehearsal.retried) == ("done", 3, 0), rehearsal
    assert rehearsal.seconds > 1.0


def test_the_same_seed_foretells_the_same_and_another_one_something_else(tmp_path: Path) -> None:
    def rehearsal(seed: int) -> Rehearsal:
        return rehearse(tmp_path, modelscope(image(*CATS)), "faults=throttle=0.1+5xx=0.05+dl-html=0.02", seed=seed)

    def facts(rehearsal: Rehearsal) -> tuple[object, ...]:
        return tuple(
            getattr(rehearsal, name) for name in field_names(Rehearsal) if name not in ("took_seconds", "seed")
        )

    first, again, other = rehearsal(1), rehearsal(1), rehearsal(2)
    assert facts(first) == facts(again)
    assert facts(first) != facts(other)


def test_nothing_is_written_and_no_key_is_needed(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path, modelscope(image(*CATS[:5]), keys="[ABSENT_A, ABSENT_B]"))
    assert rehearsal.state == "done"
    assert rehearsal.notes == ("ABSENT_A is not set", "ABSENT_B is not set")
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_only_what_is_left_is_rehearsed_and_its_ledger_stays_as_it_was(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    harness.run(chat(*CATS[:10]), limit=6)
    before = {path: path.read_bytes() for path in harness.out.rglob("*") if path.is_file()}
    rehearsal = rehearse(tmp_path, chat(*CATS[:10]), simulate=True)
    assert (rehearsal.calls, rehearsal.items.done, rehearsal.items.total) == (4, 10, 10)
    assert sum(hour.done for hour in rehearsal.hours) == 4
    assert {path: path.read_bytes() for path in harness.out.rglob("*") if path.is_file()} == before
    assert rehearse(tmp_path, chat(*CATS[:10]), simulate=True, from_scratch=True).calls == 10


def test_accepted_tasks_are_followed_and_not_sent_again(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(seed=5))  # whose tasks nobody else knows
    harness.run(image(*CATS[:3], model="Qwen/Qwen-Image#img-slow:1e5", more="timeouts: {task_s: 30}"))
    job = image(*CATS[:4], model="Qwen/Qwen-Image#img-slow:1e5", more="timeouts: {task_s: 2e5}")
    rehearsal = rehearse(tmp_path, job, simulate=True, began=harness.began)
    assert (rehearsal.calls, rehearsal.items.done) == (1, 4)


def test_calls_of_today_count_towards_the_supposed_quota(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(quota=Quota(model_per_day=None, account_per_day=None)))
    harness.run(chat(*CATS[:10]), limit=6)
    rehearsal = rehearse(tmp_path, chat(*CATS[:10]), "per_day=8", simulate=True, began=MONDAY_EVENING + 3600.0)
    assert [day.done for day in rehearsal.days] == [2, 2]


def test_a_window_of_some_days_of_the_week_is_rehearsed_day_by_day(tmp_path: Path) -> None:
    """Two hours on Tuesday, three that cross the midnight to Friday, nothing on other days; it begins on a Monday."""
    hours = "window: [{days: tue, hours: 08:00-10:00}, {days: thu, hours: 22:00-01:00}]\ntimezone: Asia/Shanghai\n"
    limits = "limits: {concurrency: 1, requests_per_minute: 0.1}\n"
    rehearsal = rehearse(tmp_path, modelscope(chat(*CATS[:40], more=hours + limits)), FREE)
    assert rehearsal.state == "done"
    days = ["2026-11-24", "2026-11-26", "2026-11-27", "2026-12-01"]
    assert [day.began[:10] for day in rehearsal.days if day.calls] == days
    assert rehearsal.ends.startswith("2026-12-01T0")
    assert [moment.at[11:13] for moment in rehearsal.moments if moment.kind == "pauses"] == ["10", "01"]


def test_a_run_that_keeps_to_its_window_is_started_again_every_evening(tmp_path: Path) -> None:
    window = "window: 22:00-07:00\ntimezone: Asia/Shanghai\nlimits: {concurrency: 1, requests_per_minute: 0.1}\n"
    rehearsal = rehearse(tmp_path, modelscope(chat(*CATS, more=window)), FREE)
    assert (rehearsal.state, rehearsal.starts) == ("done", 2)
    assert rehearsal.ends > "2026-11-25T04:00"
    assert {hour.began[11:13] for hour in rehearsal.hours} <= {"22", "23", "00", "01", "02", "03", "04", "05", "06"}
    assert [moment.kind for moment in rehearsal.moments] == ["begins", "pauses", "ends"]


def test_what_would_fail_is_reported_with_its_cause(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path, modelscope(image(*CATS[:3])), f"{FREE},faults=task-fail=1")
    assert (rehearsal.state, rehearsal.exit_status) == ("failed", ExitStatus.FAILED)
    assert [(group.kind, group.count) for group in rehearsal.failures] == [("task_failed", 3)]


def test_pictures_that_come_broken_are_fetched_again(tmp_path: Path) -> None:
    rehearsal = rehearse(
        tmp_path, modelscope(image(*CATS[:40])), f"{FREE},faults=dl-truncated=0.2+dl-html=0.2+dl-404=0.1"
    )
    assert rehearsal.items.done == rehearsal.calls == 40
    assert rehearsal.downloads > 50


def test_a_spent_budget_is_the_end_that_is_foretold(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path, modelscope(chat(*CATS, more="budget: {calls: 12}")), FREE)
    assert (rehearsal.state, rehearsal.exit_status, rehearsal.items.done) == ("paused", ExitStatus.PAUSED, 12)
    assert rehearsal.message is not None
    assert "budget" in rehearsal.message


def test_a_server_that_is_down_comes_to_an_end_too(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path, modelscope(chat(*CATS)), f"{FREE},faults=5xx=1")
    assert rehearsal.exit_status is ExitStatus.PAUSED
    assert rehearsal.seconds > 40 * 3600.0


def test_mistakes_of_the_profile_and_a_strange_directory_are_reported(tmp_path: Path) -> None:
    with pytest.raises(JobMistakesError, match="rmp"):
        rehearse(tmp_path, modelscope(chat("q")), "rmp=60")
    RunHarness(tmp_path).run(chat("q"))
    with pytest.raises(WrongDirectoryError, match="simulated"):
        rehearse(tmp_path, modelscope(chat("q")))


@pytest.mark.parametrize("profile", ["per_day=30", f"{FREE},rpm=60,burst=10"])
def test_a_run_of_the_same_world_through_real_sockets_ends_when_it_was_foretold(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "any")
    text = modelscope(image(*CATS[:60]))
    rehearsal = rehearse(tmp_path, text, profile)

    async def main() -> float:
        clock = LoopClock(wall_at_zero=NOON)
        job = api.load_job(str(tmp_path / "job.yaml"), out=str(tmp_path / "out"))
        server = await serve(world_of(job, profile_of(job, profile), seed=0), wall=clock.wall)
        there = [f"provider.base_url={server.api_url}/v1"]
        job = api.load_job(str(tmp_path / "job.yaml"), out=str(tmp_path / "out"), overrides=there)
        report = await api.run(job, clock=clock, say=lambda _: None)
        await asyncio.gather(server.close())
        assert report.status.items.done == 60
        return clock.monotonic()

    assert rehearsal.seconds == pytest.approx(run_virtual(main), rel=0.2)


def test_how_far_it_is_is_reported_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.simulator.rehearsal._PROGRESS_EVERY_S", 0.0)
    rehearsal: list[tuple[int, int]] = []
    rehearse(tmp_path, modelscope(image(*CATS)), FREE, progress=lambda ended, items: rehearsal.append((ended, items)))
    assert rehearsal
    assert rehearsal == sorted(rehearsal)
    assert {items for _, items in rehearsal} == {100}
    timed: list[tuple[int, int, float]] = []
    rehearse(tmp_path, modelscope(image(*CATS)), FREE, progress_with_time=lambda *now: timed.append(now))
    assert [(ended, items) for ended, items, _ in timed] == rehearsal
    assert [seconds for *_, seconds in timed] == sorted(seconds for *_, seconds in timed)
    assert timed[-1][2] > 0


@pytest.mark.parametrize("preset", ["modelscope", "anthropic"])
def test_an_answer_takes_as_long_in_one_piece_as_in_many(preset: str, tmp_path: Path) -> None:
    """A fault that can never come makes the rehearsal play every piece: the ends foretold differ by little."""
    params = "params: {max_tokens: 400}\nlimits: {concurrency: 4}\n"
    job = chat(*CATS, more=params).replace("provider: simulator", f"provider: {{preset: {preset}, api_key_env: KEY}}")
    whole = rehearse(tmp_path, job, f"{FREE},first=1,chunk=0.5,spread=0")
    in_pieces = rehearse(tmp_path, job, f"{FREE},first=1,chunk=0.5,spread=0,faults=cut=0.0000001")
    assert (whole.items.done, in_pieces.items.done) == (100, 100)
    assert whole.seconds == pytest.approx(in_pieces.seconds, rel=0.02)
    assert whole.usage == in_pieces.usage
