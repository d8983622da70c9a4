"""What is supposed of a provider can be said in a line or a file, and every mistake in it is told at once."""

from pathlib import Path
from typing import get_args

import pytest

from batchrunner.api import load_job
from batchrunner.core.errors import JobMistakesError
from batchrunner.core.job import Job, Kind, PresetName
from batchrunner.core.presets import PRESETS
from batchrunner.core.values import replace
from batchrunner.simulator.profiles import PROFILES, SETTINGS, FaultRates, Profile, profile_of
from batchrunner.simulator.quotas import RateLimits

ALL = (
    "first=2,chunk=0.5,task=15,poll=0.2,download=1,refusal=0.3,spread=0.1,rpm=60,burst=5,concurrent=1,"
    "schedule=60:0.5+120:1,hint=yes,per_day=200,account_per_day=2000,tokens=300,faults=throttle=0.02+5xx=0.01"
)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    file = tmp_path / "job.yaml"
    file.write_text("name: j\nprovider: modelscope\nkind: image\nmodel: Qwen/Qwen-Image\nprompts: [a cat]\n", "utf-8")
    return load_job(str(file), out=str(tmp_path / "out"))


def test_every_preset_has_a_profile_for_each_kind_of_job_it_can_run() -> None:
    assert set(PROFILES) == {(preset.name, kind) for preset in PRESETS.values() for kind in preset.dialects}
    assert {name for name, _ in PROFILES} == set(get_args(PresetName))


def test_a_job_is_given_its_presets_profile(job: Job) -> None:
    assert profile_of(job) is PROFILES["modelscope", "image"]
    assert profile_of(job).quota.model_per_day == 200


def test_a_kind_that_the_preset_does_not_know_is_given_a_lifelike_one(job: Job) -> None:
    odd = replace(job, provider=replace(job.provider, preset="anthropic"))
    assert profile_of(odd) == Profile()


def test_a_line_changes_what_it_names_and_leaves_the_rest(job: Job) -> None:
    said = profile_of(job, "task=30, rpm=12 ,per_day=none,account_per_day=7")
    known = PROFILES["modelscope", "image"]
    assert said.latency == replace(known.latency, task_s=30.0)
    assert said.limits == replace(known.limits, per_minute=12.0)
    assert (said.quota.model_per_day, said.quota.account_per_day) == (None, 7)


def test_everything_can_be_set_and_is_shown_as_it_was_set(job: Job) -> None:
    said = profile_of(job, ALL)
    assert said.limits == RateLimits(
        per_minute=60.0, burst=5.0, concurrent=1, schedule=((60.0, 0.5), (120.0, 1.0)), hint=True
    )
    assert said.faults == FaultRates(throttle=0.02, server_error=0.01)
    assert said.answer_tokens == 300
    assert profile_of(job, said.shown()) == said
    assert {part.partition("=")[0] for part in said.shown().split(",")} == set(SETTINGS)


@pytest.mark.parametrize(("preset", "kind"), list(PROFILES))
def test_what_is_shown_can_be_given_again(preset: PresetName, kind: Kind, job: Job) -> None:
    other = replace(job, kind=kind, provider=replace(job.provider, preset=preset))
    assert profile_of(other, profile_of(other).shown()) == profile_of(other)


def test_a_file_states_the_same_in_yaml(job: Job, tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text(
        "task: 30\nrpm: 12\nper_day: null\nhint: true\nschedule: [[60, 0.5], [120, 1]]\n"
        "faults: {throttle: 0.02, 5xx: 0.01}\n",
        "utf-8",
    )
    line = "task=30,rpm=12,per_day=none,hint=yes,schedule=60:0.5+120:1,faults=throttle=0.02+5xx=0.01"
    assert profile_of(job, str(file)) == profile_of(job, line)


def test_all_mistakes_are_reported_at_once_with_what_was_expected(job: Job) -> None:
    with pytest.raises(JobMistakesError) as told:
        profile_of(job, "rmp=60,rpm=x,burst=0,spread=2,concurrent=1.5,hint=perhaps,first=-1,faults=thrott=1,schedule=5")
    mistakes = told.value.mistakes
    assert [mistake.key for mistake in mistakes] == [
        "--profile",
        *(f"--profile {name}" for name in ("rpm", "burst", "spread", "concurrent", "hint", "first", "faults")),
        "--profile schedule",
    ]
    assert "rmp" in str(mistakes[0])
    assert "rpm" in (mistakes[0].expected or "")
    assert all(mistake.expected for mistake in mistakes)


@pytest.mark.parametrize(
    ("content", "words"),
    [("rpm: [", "line|expected|YAML|not"), ("- rpm\n", "not a mapping"), ("rpm: 1\nrpm: 2\n", "twice")],
)
def test_a_bad_file_is_reported_by_its_name(content: str, words: str, job: Job, tmp_path: Path) -> None:
    file = tmp_path / "bad.yml"
    file.write_text(content, "utf-8")
    with pytest.raises(JobMistakesError, match=words) as told:
        profile_of(job, str(file))
    assert {mistake.file for mistake in told.value.mistakes} == {str(file)}


def test_a_file_that_is_not_there_is_a_mistake(job: Job, tmp_path: Path) -> None:
    with pytest.raises(JobMistakesError, match="No such file"):
        profile_of(job, str(tmp_path / "none.yaml"))
