"""`run` on a part of a job, in real processes: what is sent, what stays, what is told, and that it continues."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines, json_lines_so_far
from tests.support.waiting import wait_until

A = "outputs/a.simulated"
B = "outputs/b.simulated"
JOB = """
name: {name}
provider: simulator
models: [{models}]
prompts:
  file: questions.jsonl
  template: "{template}{{{{ question }}}}"
checks:
  - regex: "#### .*[02468]$"
"""
WRONG = "{{ not pass and model == 'sim/two' }}"


def write(batchrunner: CommandLine, name: str, *, models: str = "sim/one, sim/two", template: str = "") -> None:
    (batchrunner.folder / f"{name}.yaml").write_text(JOB.format(name=name, models=models, template=template))


def rows(folder: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return json_lines(folder / name)


def wrong(folder: Path, model: str = "sim/two") -> list[dict[str, Any]]:
    """The rows of a model that did not pass: by a script of its own, from the two files."""
    passed = {score["id"]: score["pass"] for score in rows(folder, "scores.jsonl")}
    return [row for row in rows(folder) if row["model"] == model and not passed[row["id"]]]


@pytest.fixture
def ran(batchrunner: CommandLine) -> CommandLine:
    """Questions as in GSM8K; the simulator says any number, and even ones count as right."""
    questions = [
        {"question": f"Tom has {n} apples and buys {n % 3} more. How many?", "answer": str(n + n % 3)}
        for n in range(1, 31)
    ]
    (batchrunner.folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    write(batchrunner, "a")
    assert batchrunner("run", "a.yaml", "--quiet").status == 0
    assert 0 < len(wrong(batchrunner.folder / A)) < 30, "some answers are right, and some are not"
    return batchrunner


def test_the_wrong_answers_of_one_model_are_asked_again_with_another_prompt_and_compared(ran: CommandLine) -> None:
    write(ran, "b", models="sim/two", template="Think step by step. ")
    expected = wrong(ran.folder / A)
    part = ("--where", WRONG, "--from", A)

    planned = ran("plan", "b.yaml", *part, "--json").json
    assert (planned["to_send"], planned["items"]["total"]) == (len(expected), 30)

    told = ran("run", "b.yaml", *part, "--json")
    assert told.status == 0, "what was asked for is done; the rest of the job does not count"
    assert told.json["part"]["done"] == told.json["part"]["total"] == len(expected)
    assert told.json["sends"]["total"] == len(expected)
    assert told.json["next_command"] is None
    assert sorted(row["vars"]["question"] for row in rows(ran.folder / B)) == sorted(
        row["vars"]["question"] for row in expected
    )
    assert "the part of the job that was asked for is done" in told.err

    again = ran("run", "b.yaml", *part, "--json")
    assert again.json["sends"]["total"] == len(expected), "nothing is paid twice"

    compared = ran("compare", A, B, "--by", "run", "--json").json
    pair = compared["pairs"][0]
    new_right = [score for score in rows(ran.folder / B, "scores.jsonl") if score["pass"]]
    assert (len(pair["won"]), len(pair["lost"])) == (len(new_right), 0)


def test_a_part_of_the_jobs_own_directory_leaves_all_other_rows_where_they_are(ran: CommandLine) -> None:
    folder = ran.folder / A
    before, expected = rows(folder), wrong(folder)
    write(ran, "a", template="Think step by step. ")

    told = ran("run", "a.yaml", "--where", WRONG, "--json")
    assert told.status == 0
    assert told.json["sends"]["total"] == 60 + len(expected)

    after = {row["key"]: row for row in rows(folder)}
    gone = {row["key"] for row in expected}
    assert {row["key"] for row in before} - after.keys() == gone
    assert {row["key"] for row in rows(folder, "superseded.jsonl")} == gone
    assert len(after) == 60
    assert [row for row in rows(folder) if row["key"] in {one["key"] for one in before}] == [
        row for row in before if row["key"] not in gone
    ], "and they are unchanged, in their order"
    assert ran("verify", A).status == 0
    status = ran("status", A, "--json").json
    assert status["message"].startswith("the last run was about")
    assert status["next_command"] is None, "the command of the part would do nothing more"

    whole = ran("run", "a.yaml", "--json")  # the rest of the job, with its new prompt
    assert whole.json["sends"]["total"] == 120
    assert len(rows(folder)) == 60
    assert len(rows(folder, "superseded.jsonl")) == 60


def test_a_part_that_was_killed_continues_with_the_same_command_and_pays_nothing_twice(ran: CommandLine) -> None:
    write(ran, "a", template="Think step by step. ")
    expected = wrong(ran.folder / A)
    part = ("--where", WRONG)
    process = ran.start(
        "run", "a.yaml", *part, "--set", "limits.requests_per_minute=40", "--set", "limits.concurrency=1"
    )
    results = ran.folder / A / "results.jsonl"
    wait_until(lambda: len(json_lines_so_far(results)) >= 62, "two rows of the part", process=process)
    process.kill()
    process.communicate()

    told = ran("run", "a.yaml", *part, "--json")
    assert told.status == 0
    assert told.json["part"]["done"] == len(expected)
    assert told.json["sends"]["total"] - 60 - len(expected) == told.json["sends"]["possible_duplicates"] <= 4
    assert len(rows(ran.folder / A)) == 60


def test_the_command_that_continues_an_unfinished_part_is_for_the_part(ran: CommandLine) -> None:
    write(ran, "b", models="sim/two")
    told = ran("run", "b.yaml", "--where", WRONG, "--from", A, "--set", "budget.calls=2", "--json")
    assert told.status == 3, "items of the part are left"
    assert told.json["part"]["done"] == 2
    assert "--where" in told.json["next_command"]
    assert told.json["next_command"].endswith(f"--from {A}")
    assert f"--from {A}" in ran("status", B, "--json").json["next_command"]


def test_an_unfinished_part_is_no_damage_and_each_id_is_read_once_with_its_later_answer(
    batchrunner: CommandLine,
) -> None:
    job = """
name: {name}
provider: simulator
model: sim/one
prompts: {{{source}, id: "{{{{ id }}}}", template: "{template}"}}
"""
    questions = "".join(json.dumps({"id": f"q{n}", "question": f"What is {n}?"}) + "\n" for n in range(9))
    (batchrunner.folder / "questions.jsonl").write_text(questions)

    def write_job(name: str, source: str, template: str) -> None:
        (batchrunner.folder / f"{name}.yaml").write_text(job.format(name=name, source=source, template=template))

    write_job("a", "file: questions.jsonl", "{{ question }}")
    assert batchrunner("run", "a.yaml", "--quiet").status == 0
    write_job("a", "file: questions.jsonl", "Think: {{ question }}")
    limits = ("--set", "limits.requests_per_minute=40", "--set", "limits.concurrency=1")
    process = batchrunner.start("run", "a.yaml", *(f"--only=q{n}" for n in range(7)), *limits)
    folder = batchrunner.folder / A
    wait_until(lambda: len(json_lines_so_far(folder / "results.jsonl")) >= 9 + 2, "two rows", process=process)
    process.kill()
    process.communicate()
    repeated = len(json_lines_so_far(folder / "results.jsonl")) - 9
    assert repeated >= 2, "these items have the earlier answer and the present one"

    checked = batchrunner("verify", A)
    assert checked.status == 0, "every row is as it was written"

    exported = batchrunner("export", A, "--to", "jsonl", "--json").json
    read = rows(folder, "export/a.jsonl")
    assert [row["id"] for row in read] == [f"q{n}" for n in range(9)]
    assert [row["prompt"].startswith("Think") for row in read] == [True] * repeated + [False] * (9 - repeated)
    assert exported["left_out"] == {"earlier answers to items that have a later one": repeated}

    write_job("c", "run: outputs/a, unfinished: take", "Rate: {{ prompt }} {{ text }}")
    assert batchrunner("plan", "c.yaml", "--json").json["items"]["total"] == 9


def test_ids_choose_items_and_prompts_and_an_id_of_nothing_is_a_mistake_with_the_nearest(ran: CommandLine) -> None:
    first, second, *_ = rows(ran.folder / A)
    write(ran, "b")
    (ran.folder / "ids.txt").write_text(f"{second['prompt_id']}\n\n")
    told = ran("run", "b.yaml", "--only", first["id"], "--only", "@ids.txt", "--json")
    assert {row["id"] for row in rows(ran.folder / B)} == {
        first["id"],
        *(row["id"] for row in rows(ran.folder / A) if row["prompt_id"] == second["prompt_id"]),
    }
    assert told.status == 0
    unknown = ran("run", "b.yaml", "--only", f"{first['id']}s")
    assert unknown.status == 2
    assert f"no item or prompt has the id `{first['id']}s`; did you mean `{first['id']}`?" in unknown.err
    assert ran("status", B, "--json").json["sends"]["total"] == told.json["sends"]["total"]


def test_marks_of_the_page_choose_the_items_that_have_them(ran: CommandLine) -> None:
    one, two, three, four, *_ = rows(ran.folder / A)
    marks = [
        {"id": one["id"], "key": one["key"], "mark": "5", "note": None},
        {"id": two["id"], "key": two["key"], "mark": "1", "note": "why?"},
        {"id": three["id"], "key": three["key"], "mark": "4", "note": None},
        {"id": four["id"], "key": four["key"], "mark": None, "note": "a note is not a mark"},
    ]
    (ran.folder / "marks.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    write(ran, "b", template="Again: ")
    part = ("--marks", "marks.jsonl", "--from", A)
    assert ran("plan", "b.yaml", *part, "--json").json["to_send"] == 3
    assert ran("run", "b.yaml", *part, "--mark", "4,5", "--json").json["part"]["total"] == 2
    assert {row["vars"]["question"] for row in rows(ran.folder / B)} == {
        one["vars"]["question"],
        three["vars"]["question"],
    }


def test_limit_takes_the_first_items_of_the_part(ran: CommandLine) -> None:
    write(ran, "b", models="sim/two")
    first = min(wrong(ran.folder / A), key=lambda row: row["index"])
    told = ran("run", "b.yaml", "--where", WRONG, "--from", A, "--limit", "1", "--json")
    assert told.json["part"]["total"] == 1
    assert [row["vars"] for row in rows(ran.folder / B)] == [first["vars"]]


MISTAKES = [
    (("--where", "passed"), "the template uses `passed`, which is unknown"),
    (("--where", "{{ pass"), "--where: "),
    (("--state", "wrong"), "`wrong` is not a state; expected one of done, failed, held, pending"),
    (("--mark", "4"), "--mark: chooses among the marks of a file, and no file is given"),
    (("--marks", "none.jsonl"), "none.jsonl: --marks: cannot be read: No such file or directory"),
    (("--marks", "questions.jsonl"), "questions.jsonl:1: --marks: is not a mark"),
    (("--from", A), "--from: names a run, but nothing chooses among its rows"),
    (("--state", "pending", "--from", A), "items that are pending have no row to look at"),
    (("--only", "@none.txt"), "none.txt: --only: the file of ids cannot be read"),
    (("--where", "pass", "--from", "outputs/c"), "outputs/c"),
    (("b.yaml", "--state", "done"), "the options that choose a part of a job are for one job"),
]


def test_options_that_choose_nothing_sensible_are_mistakes_and_nothing_is_sent(ran: CommandLine) -> None:
    write(ran, "b")
    for options, words in MISTAKES:
        told = ran("run", "a.yaml", *options)
        assert told.status in {2, 4}, options
        assert words in told.err
    stands = ran("status", A, "--json").json
    assert (stands["sends"]["total"], stands["state"]) == (60, "done"), "a slip leaves the run as it was"


@pytest.mark.parametrize(
    "options",
    [
        ("--where", "{{ nope.x }}"),
        ("--where", "{{ pass"),
        ("--from", "outputs/nowhere", "--state", "failed"),
        ("--only", "nobody"),
        ("--marks", "nowhere.json", "--mark", "4"),
    ],
)
def test_a_part_chosen_wrongly_leaves_an_unfinished_run_and_the_command_that_continues_it(
    ran: CommandLine, options: tuple[str, ...]
) -> None:
    write(ran, "b", models="sim/two")
    ran("run", "b.yaml", *options)
    folder = ran.folder / B
    if folder.exists():  # of a first run
        assert ran("status", B, "--json").json["next_command"] is None
        assert "next:" not in ran("status", B).out + ran("status", B).err
    assert ran("run", "b.yaml", "--set", "budget.calls=2").status == 3
    before = (folder / "run.json").read_bytes()
    told = ran("run", "b.yaml", *options)
    assert told.status in {2, 4}
    assert (folder / "run.json").read_bytes() == before
    next_command = ran("status", B, "--json").json["next_command"]
    assert next_command.endswith("run b.yaml --set budget.calls=2")


def test_rows_of_another_job_are_a_mistake_and_not_an_empty_part(ran: CommandLine) -> None:
    (ran.folder / "c.yaml").write_text("name: c\nprovider: simulator\nmodel: sim/z\nprompts: [Name a colour.]\n")
    told = ran("run", "c.yaml", "--state", "done", "--from", A)
    assert told.status == 2
    assert "belongs to an item of this job" in told.err
    assert "Traceback" not in told.err


def test_a_part_that_nothing_fits_sends_nothing_and_ends_well(ran: CommandLine) -> None:
    told = ran("run", "a.yaml", "--where", "model == 'sim/three'", "--json")
    assert told.status == 0
    assert (told.json["part"]["total"], told.json["sends"]["total"]) == (0, 60)
