"""`rehearse` foretells a run in words or as one object, ends with 0, and leaves nothing behind."""

from pathlib import Path

import pytest

from tests.support.command_line import CommandLine

TWELVE = "prompts: [one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve]\n"


def line_of(text: str, label: str) -> str:
    return next(line.strip() for line in text.splitlines() if line.strip().startswith(label))


def test_it_states_when_the_run_would_end_and_what_it_would_take(batchrunner: CommandLine) -> None:
    done = batchrunner("rehearse", batchrunner.job("cats", TWELVE))
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith("cats: simulated in virtual time, nothing was sent\n")
    assert "from now" in line_of(done.err, "would finish")
    assert line_of(done.err, "outcome").endswith("every item is done (exit status 0)")
    assert line_of(done.err, "items").endswith("12 of 12 done")
    assert line_of(done.err, "requests").split() == ["requests", "12"]
    assert [path.name for path in batchrunner.folder.iterdir()] == ["cats.yaml"]


def test_as_json_it_is_one_object_with_what_happens_by_hours(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", TWELVE)
    told = batchrunner("rehearse", job, "--json", "--profile", "per_day=5,spread=0", "--seed", "7").json
    assert (told["state"], told["exit_status"], told["quota_days"], told["seed"]) == ("done", 0, 3, 7)
    assert [day["done"] for day in told["days"]] == [5, 5, 2]
    assert sum(hour["done"] for hour in told["hours"]) == told["items"]["done"] == 12
    assert told["profile"].endswith("per_day=5")


def test_a_timeline_reports_days_hours_parks_and_resumptions_in_order(batchrunner: CommandLine) -> None:
    done = batchrunner("rehearse", batchrunner.job("cats", TWELVE), "--timeline", "--profile", "per_day=5")
    lines = done.err[: done.err.index("cats: simulated")].splitlines()
    days = [line for line in lines if line[:2] == "20"]
    assert [line[12:18] for line in days] == ["5 done", "5 done", "2 done"]
    assert [line.rpartition("; ")[2] for line in lines if " of 12" in line] == ["5 of 12", "10 of 12", "12 of 12"]
    happened = [word for line in lines for word in ("begins", "waits", "resumes", "ends") if f" {word}" in line[:60]]
    assert happened[0] == "begins"
    assert happened[-1] == "ends"
    assert [word for word in happened if word in {"waits", "resumes"}] == ["waits", "resumes"] * 2


@pytest.mark.parametrize(
    ("more", "profile", "words"),
    [
        ("budget: {calls: 3}\n", "", "exit status 3"),
        ("kind: image\nmodel: Qwen/Qwen-Image\nbreaker: 100\n", "faults=task-fail=1", "exit status 1"),
        ("", "faults=5xx=1", "exit status 3"),
    ],
)
def test_the_end_that_is_foretold_is_not_the_commands_own(
    more: str, profile: str, words: str, batchrunner: CommandLine
) -> None:
    file = batchrunner.folder / "job.yaml"
    head = "" if "model" in more else "model: sim-model\n"
    file.write_text(f"provider: simulator\n{head}{more}{TWELVE}", "utf-8")
    done = batchrunner("rehearse", "job.yaml", "--profile", profile)
    assert done.status == 0
    assert words in line_of(done.err, "outcome")


def test_mistakes_in_the_job_or_the_profile_end_it_with_2(batchrunner: CommandLine) -> None:
    bad_job = batchrunner("rehearse", batchrunner.job("bad", "promts: [one]\n"))
    assert (bad_job.status, "promts" in bad_job.err) == (2, True)
    bad_profile = batchrunner("rehearse", batchrunner.job("cats", TWELVE), "--profile", "rmp=60,task=x", "--json")
    assert bad_profile.status == 2
    assert [mistake["key"] for mistake in bad_profile.json["mistakes"]] == ["--profile", "--profile task"]


def test_what_is_done_is_not_rehearsed_again_unless_from_scratch(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", TWELVE)
    batchrunner("run", job, "--limit", "10", "--quiet")
    assert batchrunner("rehearse", job, "--json").json["calls"] == 2
    assert batchrunner("rehearse", job, "--json", "--from-scratch").json["calls"] == 12
    assert batchrunner("rehearse", job, "--json", "--from-scratch", "--limit", "3").json["calls"] == 3


def test_a_profile_may_stand_in_a_file(batchrunner: CommandLine) -> None:
    Path(batchrunner.folder / "slow.yaml").write_text("rpm: 1\nburst: 1\nhint: true\n", "utf-8")
    told = batchrunner("rehearse", batchrunner.job("cats", TWELVE), "--json", "--profile", "slow.yaml").json
    assert told["seconds"] > 11 * 60


def test_words_of_a_job_cannot_steer_the_terminal(batchrunner: CommandLine) -> None:
    done = batchrunner("rehearse", batchrunner.job("cats", f'name: "a\\e[31mb"\n{TWELVE}'), "--timeline")
    assert "\x1b" not in done.err


@pytest.mark.parametrize("per_minute", ["1e-300", "1e-308"])
def test_a_plan_for_longer_than_the_calendar_names_no_end(batchrunner: CommandLine, per_minute: str) -> None:
    batchrunner.job("slow", f"prompts: [one, two]\nlimits: {{requests_per_minute: {per_minute}}}\n")
    planned = batchrunner("plan", "slow.yaml", "--json")
    assert (planned.status, planned.json["forecast"]) == (0, None)
