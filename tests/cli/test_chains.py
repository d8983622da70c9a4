"""Several jobs of one command, of which some read the runs of others."""

from pathlib import Path

import pytest

from tests.support.command_line import CommandLine

JOB = "name: {name}\nprovider: simulator\nmodel: sim/talker\nprompts: {prompts}\n"


@pytest.fixture
def jobs(batchrunner: CommandLine) -> CommandLine:
    """`a` has questions, `b` reads its run, `c` that of `b`."""
    write(batchrunner.folder, "a", "[one, two, three]")
    write(batchrunner.folder, "b", '{run: outputs/a, template: "{{ text }}"}')
    write(batchrunner.folder, "c", '{run: outputs/b, template: "{{ text }}"}')
    return batchrunner


def write(folder: Path, name: str, prompts: str) -> None:
    (folder / f"{name}.yaml").write_text(JOB.format(name=name, prompts=prompts))


@pytest.mark.parametrize("flags", [(), ("--parallel",)])
def test_a_job_runs_after_the_one_whose_run_it_reads_however_they_are_named(
    jobs: CommandLine, flags: tuple[str, ...]
) -> None:
    ended = jobs("run", "c.yaml", "b.yaml", "a.yaml", "--json", *flags)
    assert ended.status == 0, ended.err
    assert [(job["job"], job["items"]["done"]) for job in ended.json["jobs"]] == [("a", 3), ("b", 3), ("c", 3)]


def test_a_job_whose_source_did_not_finish_is_reported_and_the_command_ends_with_3(jobs: CommandLine) -> None:
    ended = jobs("run", "a.yaml", "b.yaml", "--limit", "2")
    assert ended.status == 3
    assert "outputs/a.simulated has 1 item left; finish it first: " in ended.err
    assert not (jobs.folder / "outputs/b.simulated").exists()


def test_jobs_that_read_each_others_runs_are_refused_before_anything_is_sent(jobs: CommandLine) -> None:
    write(jobs.folder, "a", "{run: outputs/c, template: x}")
    ended = jobs("run", "a.yaml", "b.yaml", "c.yaml")
    assert ended.status == 2
    assert "reads a run that is made of its own: a.yaml -> c.yaml -> b.yaml -> a.yaml" in ended.err
    assert not (jobs.folder / "outputs").exists()


def test_a_broken_template_of_a_later_job_keeps_all_of_them_from_starting(jobs: CommandLine) -> None:
    write(jobs.folder, "b", '{run: outputs/a, template: "{{ text"}')
    ended = jobs("run", "a.yaml", "b.yaml")
    assert ended.status == 2
    assert "b.yaml: prompts.template: " in ended.err
    assert not (jobs.folder / "outputs").exists()


def test_plan_shows_what_the_run_was_made_of(jobs: CommandLine) -> None:
    assert jobs("run", "a.yaml", "b.yaml").status == 0
    shown = jobs("plan", "c.yaml").err
    assert "reads                  outputs/b.simulated: 3 done\n" in shown
    assert "which was made of outputs/a.simulated: 3 done\n" in shown


def test_a_fresh_chain_is_checked_as_far_as_it_goes_and_what_waits_is_reported(jobs: CommandLine) -> None:
    told = jobs("check", "c.yaml", "b.yaml", "a.yaml", "--json")
    assert told.status == 0, told.err
    assert [(job["file"], job["items"], job["waits_for"]) for job in told.json["jobs"]] == [
        ("c.yaml", 0, "outputs/b.simulated"),
        ("b.yaml", 0, "outputs/a.simulated"),
        ("a.yaml", 3, None),
    ]
    assert "b.yaml: no errors so far; its rows are those of outputs/a.simulated, which has no run yet" in told.err
    alone = jobs("check", "b.yaml")
    assert (alone.status, "there is no run in outputs/a.simulated" in alone.err) == (2, True)
    assert jobs("run", "a.yaml").status == 0
    assert "b.yaml: no errors, 3 items" in jobs("check", "b.yaml").err


@pytest.mark.parametrize("files", [("a.yaml", "b.yaml"), ("b.yaml",)])
def test_what_can_be_checked_without_the_run_is_checked(jobs: CommandLine, files: tuple[str, ...]) -> None:
    (jobs.folder / "b.yaml").write_text(JOB.format(name="b", prompts='{run: outputs/a, template: "{{ text"}'))
    told = jobs("check", *files, "--json")
    assert told.status == 2
    assert "prompts.template" in [mistake["key"] for mistake in told.json["mistakes"]]
    write(jobs.folder, "b", '{run: outputs/a, template: "{{ text }}"}')
    with (jobs.folder / "b.yaml").open("a") as file:
        file.write("checks: [{python: 'gone.py:good'}, {judge: {use: gone.yaml, at_least: 0.5}}]\n")
    told = jobs("check", "a.yaml", "b.yaml", "--json")
    assert {mistake["problem"] for mistake in told.json["mistakes"]} == {
        "the file gone.py cannot be read: No such file or directory",
        "there is no such file",
    }


def test_check_names_what_run_would_refuse_of_jobs_beside_each_other(jobs: CommandLine) -> None:
    write(jobs.folder, "a", "{run: outputs/c, template: x}")
    told = jobs("check", "a.yaml", "b.yaml", "c.yaml")
    assert (told.status, "a.yaml -> c.yaml -> b.yaml -> a.yaml" in told.err) == (2, True)
    write(jobs.folder, "d", "[one]\noutput: {dir: outputs/b}")
    told = jobs("check", "b.yaml", "d.yaml")
    assert (told.status, "is also the directory of b.yaml" in told.err) == (2, True)
