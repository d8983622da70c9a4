"""The commands from end to end, in real processes against the built-in simulator."""

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines

THREE = "prompts: [A red cat, A blue cat, A green cat]\n"
ONE = "prompts: [A red cat]\n"
SLOW = "prompts: [A, B, C, D, E, F]\nlimits: {concurrency: 1, requests_per_minute: 6}\n"
BROKEN = "prompts: [A]\nlimitz: {concurrency: 1}\nretry: {attempts: none}\n"


def test_a_job_runs_and_its_answers_are_on_disk(batchrunner: CommandLine) -> None:
    ran = batchrunner("run", batchrunner.job("cats", THREE))
    assert ran.status == 0
    assert ran.out == ""
    assert "cats (simulated): every item is done" in ran.err
    assert "3 of 3 done" in ran.err
    assert "next:" not in ran.err
    answered = {row["prompt"] for row in json_lines(batchrunner.folder / "outputs/cats.simulated" / "results.jsonl")}
    assert answered == {"A red cat", "A blue cat", "A green cat"}


def test_json_is_one_object_on_stdout_and_people_read_stderr(batchrunner: CommandLine) -> None:
    ran = batchrunner("run", batchrunner.job("cats", THREE), "--json", "--quiet")
    assert ran.status == 0
    assert ran.json["job"] == "cats"
    assert ran.json["state"] == "done"
    assert ran.json["items"]["done"] == 3
    assert ran.json["sends"]["total"] == 3
    assert ran.json["simulated"] is True
    assert ran.json["next_command"] is None
    assert "every item is done" in ran.err


def test_status_states_what_run_reported(batchrunner: CommandLine) -> None:
    closing = batchrunner("run", batchrunner.job("cats", THREE), "--json").json
    standing = batchrunner("status", "outputs/cats.simulated", "--json")
    assert standing.status == 0
    assert {name: standing.json[name] for name in ("job", "state", "items", "sends", "usage")} == {
        name: closing[name] for name in ("job", "state", "items", "sends", "usage")
    }
    assert "3 of 3 done" in batchrunner("status", "outputs/cats.simulated").err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("model: sim/chat#quota-model:1\non_quota: stop\n", "daily model quota used up"),
        ("model: sim/chat\nbudget: {calls: 1}\n", "the budget of 1 calls is used up"),
    ],
)
def test_status_repeats_why_a_run_paused_and_how_it_goes_on(batchrunner: CommandLine, more: str, why: str) -> None:
    (batchrunner.folder / "night.yaml").write_text(f"provider: simulator\n{more}prompts: [a, b, c]\n", encoding="utf-8")
    ran = batchrunner("run", "night.yaml")
    told = batchrunner("status", "outputs/night.simulated")
    assert ran.status == 3
    assert why in told.err
    assert told.last_line == ran.last_line
    assert told.last_line.endswith("run night.yaml")


def test_status_of_what_is_no_run_is_an_error_in_words(batchrunner: CommandLine) -> None:
    told = batchrunner("status", "nowhere", "--json")
    assert told.status in {2, 4}
    assert "nowhere" in told.err
    assert {"error", "mistakes"} & set(told.json)


def test_a_limited_run_ends_well_and_its_last_line_goes_on(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", THREE)
    first = batchrunner("run", job, "--limit", "1", "--set", "retry.attempts=2")
    assert first.status == 0
    assert "1 of 3 done, 2 still to send" in first.err
    assert first.last_line.startswith("next: ")
    assert first.last_line.endswith(f"-m batchrunner run {job} --set retry.attempts=2")
    again = subprocess.run(
        first.last_line.removeprefix("next: "),
        shell=True,
        cwd=batchrunner.folder,
        env=batchrunner.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "3 of 3 done" in again.stderr
    assert len(json_lines(batchrunner.folder / "outputs/cats.simulated" / "results.jsonl")) == 3


def test_out_and_set_shape_the_run(batchrunner: CommandLine) -> None:
    ran = batchrunner("run", batchrunner.job("cats", ONE), "--out", "elsewhere", "--set", "name=dogs", "--json")
    assert ran.status == 0
    assert ran.json["job"] == "dogs"
    assert len(json_lines(batchrunner.folder / "elsewhere" / "results.jsonl")) == 1


def test_items_that_fail_give_1_and_are_reported_by_cause(batchrunner: CommandLine) -> None:
    ran = batchrunner("run", batchrunner.job("cats", THREE), "--set", "model=m#content-filter", "--json")
    assert ran.status == 1
    assert ran.json["state"] == "failed"
    assert sum(group["count"] for group in ran.json["failures"]) == 3
    assert "failed" in ran.err
    assert "failures.jsonl" in ran.err


def test_mistakes_are_reported_all_at_once_with_their_lines(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", BROKEN)
    told = batchrunner("run", job, "--json")
    assert told.status == 2
    lines = {mistake["line"] for mistake in told.json["mistakes"]}
    assert {4, 5} <= lines
    assert f"{job}:4" in told.err
    assert f"{job}:5" in told.err
    assert not (batchrunner.folder / "outputs").exists()


def test_the_mistakes_of_one_job_keep_all_of_them_from_running(batchrunner: CommandLine) -> None:
    fine, broken = batchrunner.job("fine", ONE), batchrunner.job("broken", BROKEN)
    told = batchrunner("run", fine, broken)
    assert told.status == 2
    assert "broken.yaml:4" in told.err
    assert not (batchrunner.folder / "outputs").exists()


def test_a_bad_row_of_one_job_keeps_all_of_them_from_running(batchrunner: CommandLine) -> None:
    (batchrunner.folder / "rows.jsonl").write_text('{"prompt": "fine"}\n{"prompt": \n', encoding="utf-8")
    fine, bad = batchrunner.job("fine", ONE), batchrunner.job("bad", "prompts: {file: rows.jsonl}\n")
    told = batchrunner("run", fine, bad)
    assert told.status == 2
    assert "rows.jsonl:2" in told.err
    assert not (batchrunner.folder / "outputs/fine.simulated/results.jsonl").exists()


def test_two_jobs_in_one_directory_are_a_mistake(batchrunner: CommandLine) -> None:
    told = batchrunner("run", batchrunner.job("one", ONE), batchrunner.job("two", f"name: one\n{ONE}"))
    assert told.status == 2
    assert "output.dir" in told.err
    assert not (batchrunner.folder / "outputs").exists()


@pytest.mark.parametrize("how", [[], ["--parallel"]])
def test_several_jobs_give_one_object_each_and_the_worst_exit_status(batchrunner: CommandLine, how: list[str]) -> None:
    fine, failing = batchrunner.job("fine", THREE), "failing.yaml"
    (batchrunner.folder / failing).write_text(f"provider: simulator\nmodel: m#content-filter\n{ONE}", encoding="utf-8")
    ran = batchrunner("run", fine, failing, *how, "--json")
    assert ran.status == 1
    assert [(job["job"], job["state"]) for job in ran.json["jobs"]] == [("fine", "done"), ("failing", "failed")]


def test_check_counts_items_and_sends_nothing(batchrunner: CommandLine) -> None:
    fine = batchrunner("check", batchrunner.job("cats", THREE))
    assert fine.status == 0
    assert "cats.yaml: no errors, 3 items" in fine.err
    assert not (batchrunner.folder / "outputs").exists()


def test_check_reports_the_mistakes_of_every_job(batchrunner: CommandLine) -> None:
    (batchrunner.folder / "rows.jsonl").write_text('{"prompt": \n', encoding="utf-8")
    jobs = [
        batchrunner.job("a", BROKEN),
        batchrunner.job("b", "prompts: {file: rows.jsonl}\n"),
        batchrunner.job("c", ONE),
    ]
    told = batchrunner("check", *jobs, "--json")
    assert told.status == 2
    assert {Path(mistake["file"]).name for mistake in told.json["mistakes"]} == {"a.yaml", "rows.jsonl"}
    assert "c.yaml: no errors, 1 item" in told.err


def test_plan_states_what_a_run_would_do_and_does_not_do_it(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", THREE)
    before = batchrunner("plan", job, "--json")
    assert before.status == 0
    assert (before.json["to_send"], before.json["items"]["total"]) == (3, 3)
    assert not (batchrunner.folder / "outputs/cats.simulated/results.jsonl").exists()
    batchrunner("run", job)
    after = batchrunner("plan", job)
    assert after.status == 0
    assert "3 of 3 done" in after.err
    assert re.search(r"requests to send +0", after.err)


def test_schema_is_a_json_schema_with_and_without_json(batchrunner: CommandLine) -> None:
    plain, compact = batchrunner("schema"), batchrunner("schema", "--json")
    assert json.loads(plain.out) == compact.json
    assert "prompts" in compact.json["properties"]


def test_init_writes_a_job_that_checks_and_runs(batchrunner: CommandLine) -> None:
    made = batchrunner("init", "jobs/first", "--json")
    assert made.status == 0
    assert made.json["written"] == "jobs/first/job.yaml"
    assert made.last_line == f"next: {made.json['next_command']}"
    assert batchrunner("check", "jobs/first/job.yaml").status == 0
    assert batchrunner("run", "jobs/first/job.yaml", "--simulate").status == 0


def test_init_never_overwrites(batchrunner: CommandLine) -> None:
    (batchrunner.folder / "job.yaml").write_text("mine", encoding="utf-8")
    told = batchrunner("init")
    assert told.status == 2
    assert "job.yaml" in told.err
    assert (batchrunner.folder / "job.yaml").read_text(encoding="utf-8") == "mine"
    assert batchrunner("init", "job.yaml").status == 2


def test_a_second_run_on_the_same_directory_is_shown_who_holds_it(batchrunner: CommandLine) -> None:
    job = batchrunner.job("slow", SLOW)
    first = batchrunner.start("run", job)
    assert first.stderr is not None
    assert first.stderr.readline()
    second = batchrunner("run", job, "--json")
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=120)
    assert second.status == 4
    assert second.json["error"]["exit_status"] == 4


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_states_how_to_go_on(batchrunner: CommandLine, number: int, status: int) -> None:
    job = batchrunner.job("slow", SLOW)
    running = batchrunner.start("run", job)
    assert running.stderr is not None
    running.stderr.readline()
    running.send_signal(number)
    _, told = running.communicate(timeout=120)
    assert running.returncode == status
    assert told.rstrip().splitlines()[-1].endswith(f"batchrunner run {job}")


def test_a_reader_that_went_away_does_not_end_a_run_or_make_noise(batchrunner: CommandLine) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    job = batchrunner.job("cats", THREE)
    deaf = subprocess.run(
        batchrunner.argv("run", job, "--json"),
        cwd=batchrunner.folder,
        env=batchrunner.environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    blind = subprocess.run(
        batchrunner.argv("run", job, "--json"),
        cwd=batchrunner.folder,
        env=batchrunner.environment,
        stdout=subprocess.PIPE,
        stderr=writing,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (deaf.returncode, blind.returncode) == (0, 0)
    assert b"Broken" not in deaf.stderr
    assert json.loads(blind.stdout)["items"]["done"] == 3


def test_on_a_terminal_the_progress_is_drawn_and_the_summary_stays(batchrunner: CommandLine) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        batchrunner.argv("run", batchrunner.job("cats", THREE)),
        cwd=batchrunner.folder,
        env={**batchrunner.environment, "TERM": "xterm-256color", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    try:
        while piece := os.read(ours, 65536):
            drawn += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert out == b""
    assert b"\x1b[" in drawn
    assert "cats (simulated): every item is done" in drawn.decode()


def test_one_signal_drains_every_parallel_job(batchrunner: CommandLine) -> None:
    jobs = [batchrunner.job("one", SLOW), batchrunner.job("two", SLOW)]
    running = batchrunner.start("run", *jobs, "--parallel", "--json")
    assert running.stderr is not None
    told = set[str]()
    while told != {"one", "two"}:  # until both have begun
        line = running.stderr.readline()
        assert line, "it ended before both had begun"
        told.add(line.split(" ", 1)[1].split(":")[0])
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 130
    assert [job["state"] for job in json.loads(out)["jobs"]] == ["interrupted", "interrupted"]


def test_simulate_needs_no_network_whatever_the_dialect(batchrunner: CommandLine) -> None:
    for number, preset in enumerate(("openai", "anthropic", "modelscope", "modelscope-anthropic")):
        (batchrunner.folder / f"job{number}.yaml").write_text(f"provider: {preset}\nmodel: m\nprompts: [one]\n")
        assert batchrunner("run", f"job{number}.yaml", "--simulate").status == 0


def test_an_interrupted_source_is_closed_in_good_order(batchrunner: CommandLine) -> None:
    (batchrunner.folder / "many.txt").write_text("".join(f"question {number}\n" for number in range(20_000)))
    job = batchrunner.job("many", "prompts: {file: many.txt}\nlimits: {concurrency: 2, requests_per_minute: 60}\n")
    running = batchrunner.start("run", job)
    assert running.stderr is not None
    running.stderr.readline()  # it has begun
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "generator" not in told
    assert "Traceback" not in told
