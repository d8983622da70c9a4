"""Judges in real processes: what is asked, what is not asked twice, what is told, and verdicts by an own script."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.judging import in_flight, ledger_records
from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines_so_far
from tests.support.waiting import wait_until

OUT = "outputs/a.simulated"
JUDGE = f"{OUT}/judge/helpful"
JOB = """
name: a
provider: simulator
models: [sim/one, sim/two]
prompts: {file: questions.jsonl, template: "{{ question }}"}
checks:
  - judge: {use: judges/helpful.yaml, at_least: 0.5}
"""
JUDGE_JOB = """
name: helpful
provider: simulator
model: sim/judge
prompts:
  run: outputs/a
  template: "Question: {{ prompt }}\\nAnswer: {{ text }}\\nHow helpful is it, from 0 to 1?"
schema:
  type: object
  properties: {score: {type: number, minimum: 0, maximum: 1}, reason: {type: string}}
  required: [score, reason]
  additionalProperties: false
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder: Path, *, job: str = JOB, judge: str = JUDGE_JOB, questions: int = 10) -> None:
    (folder / "judges").mkdir(exist_ok=True)
    (folder / "a.yaml").write_text(job)
    (folder / "judges" / "helpful.yaml").write_text(judge)
    rows = [{"question": f"Tom has {n} apples and {{{{ 7 * {n} }}}} pears. How many?"} for n in range(questions)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def verdicts(batchrunner: CommandLine, name: str = "helpful") -> dict[str, Any]:
    return {line["id"]: line["scores"][name] for line in lines(batchrunner.folder / OUT / "scores.jsonl")}


def asked(batchrunner: CommandLine) -> int:
    told: int = batchrunner("status", JUDGE, "--json").json["sends"]["total"]
    return told


@pytest.fixture
def judged(batchrunner: CommandLine) -> CommandLine:
    write(batchrunner.folder)
    assert batchrunner("run", "a.yaml", "--quiet").status == 0
    return batchrunner


def test_a_verdict_is_whether_the_judges_score_is_at_least_the_jobs_threshold(judged: CommandLine) -> None:
    said = {row["id"]: row["output"]["parsed"] for row in lines(judged.folder / JUDGE / "results.jsonl")}
    found = verdicts(judged)
    assert len(found) == len(said) == 20
    for name, one in found.items():
        assert one["value"] == said[name]["score"]
        assert one["verdict"] == ("pass" if said[name]["score"] >= 0.5 else "fail")
        assert one["reason"] == said[name]["reason"]
    assert {one["verdict"] for one in found.values()} == {"pass", "fail"}, "the judge tells them apart"


def test_answers_reach_the_judge_as_they_are_and_are_no_templates(judged: CommandLine) -> None:
    prompts = [row["prompt"] for row in lines(judged.folder / JUDGE / "results.jsonl")]
    answers = {row["id"]: row["output"]["text"] for row in lines(judged.folder / OUT / "results.jsonl")}
    assert all("{{ 7 * " in prompt for prompt in prompts)
    assert {
        row["id"]: row["prompt"].split("Answer: ")[1] for row in lines(judged.folder / JUDGE / "results.jsonl")
    } == {name: f"{text}\nHow helpful is it, from 0 to 1?" for name, text in answers.items()}


def test_only_answers_that_are_new_or_changed_are_judged_again(judged: CommandLine) -> None:
    assert judged("run", "a.yaml", "--json").status == 0
    assert asked(judged) == 20
    rows = lines(judged.folder / "questions.jsonl")
    rows[3]["question"] = "Another question altogether?"
    (judged.folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert judged("run", "a.yaml", "--quiet").status == 0
    assert asked(judged) == 22, "two models answered one changed question"
    assert "error" not in {one["verdict"] for one in verdicts(judged).values()}


def test_score_takes_the_judges_answers_for_nothing_and_changes_no_row(judged: CommandLine) -> None:
    before = verdicts(judged)
    digest = hashlib.sha256((judged.folder / OUT / "results.jsonl").read_bytes()).hexdigest()
    write(judged.folder, job=JOB.replace("0.5", "0.0"))
    told = judged("score", OUT, "--checks", "a.yaml", "--json")
    assert (told.status, told.json["passed"], told.json["failed"]) == (0, 20, 0)
    assert asked(judged) == 20
    assert hashlib.sha256((judged.folder / OUT / "results.jsonl").read_bytes()).hexdigest() == digest
    assert [one["value"] for one in verdicts(judged).values()] == [one["value"] for one in before.values()]


def test_another_rubric_makes_verdicts_unknown_until_it_is_asked(judged: CommandLine) -> None:
    write(judged.folder, judge=JUDGE_JOB.replace("How helpful", "How polite"))
    told = judged("score", OUT, "--json")
    assert (told.json["passed"], told.json["failed"], told.json["undecided"]) == (0, 0, 20)
    assert {one["reason"] for one in verdicts(judged).values()} == {"the judge has not answered yet"}
    assert judged("run", "a.yaml", "--quiet").status == 0
    assert asked(judged) == 40


def test_equal_answers_are_judged_once(batchrunner: CommandLine) -> None:
    write(batchrunner.folder, judge=JUDGE_JOB.replace("Question: {{ prompt }}\\nAnswer: {{ text }}", "{{ model }}"))
    told = batchrunner("run", "a.yaml", "--json")
    assert told.status == 0
    assert asked(batchrunner) == 2
    assert len(verdicts(batchrunner)) == 20
    assert "error" not in {one["verdict"] for one in verdicts(batchrunner).values()}


def test_without_the_judge_verdicts_are_errors_and_a_later_run_asks(batchrunner: CommandLine) -> None:
    write(batchrunner.folder)
    told = batchrunner("run", "a.yaml", "--no-judge", "--json")
    assert told.status == 0
    assert not (batchrunner.folder / OUT / "judge").exists()
    assert {one["verdict"] for one in verdicts(batchrunner).values()} == {"error"}
    stands = batchrunner("status", OUT, "--json").json
    assert "judge helpful: has not begun" in stands["notes"]
    assert stands["next_command"].endswith("run a.yaml")
    assert batchrunner("run", "a.yaml", "--json").json["sends"]["total"] == 20
    assert asked(batchrunner) == 20


def test_an_unfinished_judge_ends_with_3_and_nothing_that_it_was_not_asked_is_wrong(batchrunner: CommandLine) -> None:
    write(batchrunner.folder, judge=f"{JUDGE_JOB}\nbudget: {{calls: 5}}\nlimits: {{concurrency: 1}}")
    told = batchrunner("run", "a.yaml", "--json")
    assert told.status == 3
    assert told.json["items"]["done"] == 20
    assert told.json["next_command"].endswith("run a.yaml")
    kinds = [one["verdict"] for one in verdicts(batchrunner).values()]
    assert kinds.count("error") == 15
    stands = batchrunner("status", OUT, "--json").json
    assert stands["state"] == "paused"
    assert any(note.startswith("judge helpful: 5 of 20 done") for note in stands["notes"])
    write(batchrunner.folder)
    assert batchrunner("run", "a.yaml", "--json").status == 0
    assert asked(batchrunner) == 20


def test_a_judge_on_a_dead_quota_calls_nothing_wrong(batchrunner: CommandLine) -> None:
    write(batchrunner.folder, judge=JUDGE_JOB.replace("sim/judge", '"sim/judge#quota-model:0"') + "\non_quota: stop")
    told = batchrunner("run", "a.yaml", "--json")
    assert told.status == 3, told.err
    assert {one["verdict"] for one in verdicts(batchrunner).values()} == {"error"}
    assert any("checks: 0 of 0 passed, 20 without a verdict" in note for note in told.json["notes"])


def test_a_score_outside_of_its_range_is_an_error_and_no_verdict(batchrunner: CommandLine) -> None:
    write(batchrunner.folder, judge=JUDGE_JOB.replace("minimum: 0, maximum: 1", "minimum: 2, maximum: 9"))
    assert batchrunner("run", "a.yaml", "--quiet").status == 0
    found = verdicts(batchrunner).values()
    assert {one["verdict"] for one in found} == {"error"}
    assert all("not a number from 0 to 1" in one["reason"] for one in found)


def test_answers_for_which_the_check_does_not_hold_are_not_paid_for(batchrunner: CommandLine) -> None:
    write(batchrunner.folder, job=f"{JOB}    when: \"{{{{ model == 'sim/one' }}}}\"\n")
    assert batchrunner("run", "a.yaml", "--quiet").status == 0
    assert asked(batchrunner) == 10
    assert sorted(one["verdict"] for one in verdicts(batchrunner).values()).count("none") == 10


def test_a_check_that_does_not_apply_and_a_judge_that_does_not_want_it_both_leave_an_answer_unpaid(
    batchrunner: CommandLine,
) -> None:
    judge = JUDGE_JOB.replace("  run: outputs/a\n", '  run: outputs/a\n  where: "{{ index > 4 }}"\n')
    write(batchrunner.folder, job=f"{JOB}    when: \"{{{{ model == 'sim/one' }}}}\"\n", judge=judge)
    assert batchrunner("run", "a.yaml", "--quiet").status == 0
    assert asked(batchrunner) == 8, "of the ten answers of one model, two are too early"
    kinds = [one["verdict"] for one in verdicts(batchrunner).values()]
    assert kinds.count("none") == 12


def test_a_judge_with_no_answer_to_judge_is_no_mistake(batchrunner: CommandLine) -> None:
    late = "    when: \"{{ 'Tom has 29 ' in question }}\"\n"  # none of the answers that `check` tries
    write(batchrunner.folder, job=JOB + late, questions=30)
    assert batchrunner("check", "a.yaml").status == 0
    assert batchrunner("run", "a.yaml", "--quiet").status == 0
    assert asked(batchrunner) == 2
    write(batchrunner.folder, job=JOB + late.replace("29", "99"), questions=30)
    told = batchrunner("run", "a.yaml", "--json")
    assert told.status == 0
    assert "judge helpful: there is no answer that it is asked about" in told.json["notes"]
    assert {one["verdict"] for one in verdicts(batchrunner).values()} == {"none"}
    assert batchrunner("plan", "a.yaml", "--json").json["judges"][0]["to_send"] == 0
    assert asked(batchrunner) == 2


@pytest.mark.parametrize("pair", [False, True])
def test_where_no_item_has_an_answer_a_run_with_a_judge_ends_as_one_without(
    batchrunner: CommandLine, *, pair: bool
) -> None:
    job, judge = (PAIR_JOB, PAIR_JUDGE) if pair else (JOB, JUDGE_JOB)
    failing = job.replace("sim/one", '"sim/one#content-filter"').replace("sim/two", '"sim/two#content-filter"')
    write(batchrunner.folder, job=failing, judge=judge)
    assert batchrunner("run", "a.yaml", "--quiet").status == 1
    assert batchrunner("status", OUT, "--json").json["state"] == "failed"
    assert batchrunner("score", OUT).status == 0
    assert batchrunner("plan", "a.yaml").status == 0


PAIR_JOB = JOB.replace("at_least: 0.5", "pair: [sim/one, sim/two]")
PAIR_JUDGE = """
name: better
provider: simulator
model: sim/judge
prompts:
  run: outputs/a
  template: "Question: {{ prompt }}\\nFirst: {{ first }}\\nSecond: {{ second }}\\nWhich is better?"
schema:
  type: object
  properties: {winner: {enum: [first, second, tie]}, reason: {type: string}}
  required: [winner, reason]
  additionalProperties: false
"""


def test_a_pair_is_asked_in_both_orders_and_a_win_counts_only_if_it_survives_the_swap(
    batchrunner: CommandLine,
) -> None:
    write(batchrunner.folder, job=PAIR_JOB, judge=PAIR_JUDGE, questions=40)
    told = batchrunner("run", "a.yaml", "--json")
    assert told.status == 0, told.err
    assert asked(batchrunner) == 80, "forty prompts in two orders"
    answers = {
        (row["prompt_id"], row["model"]): row["output"]["text"]
        for row in lines(batchrunner.folder / OUT / "results.jsonl")
    }
    won: dict[str, list[str]] = {}
    for row in lines(batchrunner.folder / JUDGE / "results.jsonl"):
        prompt, order = row["from"]["id"].split("~")
        shown = ["sim/one", "sim/two"] if order == "ab" else ["sim/two", "sim/one"]
        first, second = (answers[prompt, model] for model in shown)
        assert row["prompt"].endswith(f"First: {first}\nSecond: {second}\nWhich is better?")
        winner = row["output"]["parsed"]["winner"]
        won.setdefault(prompt, []).append({"first": shown[0], "second": shown[1], "tie": "tie"}[winner])
    swapped = sum(len(set(both)) > 1 for both in won.values())
    assert 0 < swapped < 40, "the simulated judge decides by chance"
    for line in lines(batchrunner.folder / OUT / "scores.jsonl"):
        both = set(won[line["prompt_id"]])
        expected = "none" if len(both) > 1 or both == {"tie"} else "pass" if both == {line["model"]} else "fail"
        assert line["scores"]["helpful"]["verdict"] == expected
    note = f"position bias: the choice changed with the order in {swapped} of 40 pairs"
    assert any(note in one for one in told.json["notes"])
    compared = batchrunner("compare", OUT, "--json").json
    assert any(note in one for one in compared["notes"])
    wins = {group["name"]: group["checks"][-1] for group in compared["groups"]}
    for model, other in (("sim/one", "sim/two"), ("sim/two", "sim/one")):
        counted = sum(set(both) == {model} for both in won.values())
        assert (wins[model]["name"], wins[model]["passed"], wins[other]["failed"]) == ("helpful", counted, counted)
    again = batchrunner("run", "a.yaml", "--json")
    assert again.status == 0
    assert sum(note in one for one in again.json["notes"]) == 1, "said once, although it was known before"
    assert asked(batchrunner) == 80


def test_pairs_of_a_matrix_are_compared_within_each_combination(batchrunner: CommandLine) -> None:
    matrix = PAIR_JOB + 'matrix: {style: [brief, long], temperature: [0, 1]}\nreplicas: 2\nsystem: "Be {{ style }}."\n'
    write(batchrunner.folder, job=matrix, judge=PAIR_JUDGE, questions=3)
    assert batchrunner("run", "a.yaml", "--quiet").status == 0
    answers: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in lines(batchrunner.folder / OUT / "results.jsonl"):
        place = row["prompt"], row["system"], row["params"]["temperature"], row.get("replica")
        answers.setdefault(place, {})[row["model"]] = row["output"]["text"]
    expected = {
        f"Question: {place[0]}\nFirst: {first}\nSecond: {second}\nWhich is better?"
        for place, said in answers.items()
        for first, second in ((said["sim/one"], said["sim/two"]), (said["sim/two"], said["sim/one"]))
    }
    assert {row["prompt"] for row in lines(batchrunner.folder / JUDGE / "results.jsonl")} == expected
    kinds = {one["verdict"] for one in verdicts(batchrunner).values()}
    assert kinds <= {"pass", "fail", "none"}


MISTAKES = [
    ({"job": JOB.replace("helpful.yaml", "none.yaml")}, "judges/none.yaml"),
    ({"job": JOB.replace("0.5", "7")}, "a.yaml:7: checks[0].judge.at_least"),
    (
        {"job": JOB.replace("judge: {use", "not: {judge: {use").replace("0.5}", "0.5}}")},
        "a.yaml:7: checks[0].not.judge: is not a known key",
    ),
    ({"judge": JUDGE_JOB.split("schema:", maxsplit=1)[0]}, "judges/helpful.yaml: schema: a judge needs a schema"),
    ({"job": PAIR_JOB}, "schema: a judge answers with a `winner`"),
    ({"job": PAIR_JOB.replace("sim/two]}", "sim/too]}"), "judge": PAIR_JUDGE}, "`sim/too` is not a model of the job"),
    ({"judge": JUDGE_JOB.replace("score", "grade")}, "schema: a judge answers with a `score`"),
    ({"judge": JUDGE_JOB.replace("{{ text }}", "{{ answr }}")}, "`answr`"),
    ({"judge": JUDGE_JOB.replace("{{ text }}", "{{ text")}, "judges/helpful.yaml"),
    ({"judge": JUDGE_JOB.replace("run: outputs/a", "file: ../questions.jsonl")}, "prompts: a judge reads a run"),
    ({"judge": JUDGE_JOB + "checks: [{judge: {use: helpful.yaml}}]"}, "checks: a judge has no judges of its own"),
    ({"judge": JUDGE_JOB.replace("model: sim/judge", "modle: sim/judge")}, "judges/helpful.yaml"),
    (
        {"judge": JUDGE_JOB.replace("model: sim/judge", "models: {first: sim/judge, then: sim/other}")},
        "models: a judge has no fallback",
    ),
]


def test_mistakes_of_a_judge_are_found_before_anything_is_paid(batchrunner: CommandLine) -> None:
    for texts, words in MISTAKES:
        write(batchrunner.folder, job=texts.get("job", JOB), judge=texts.get("judge", JUDGE_JOB))
        told = batchrunner("check", "a.yaml")
        assert told.status == 2, words
        assert words in told.err
    ran = batchrunner("run", "a.yaml")
    assert ran.status == 2
    assert not (batchrunner.folder / OUT).exists()


def test_a_judge_whose_key_is_not_set_is_a_mistake_before_anything_is_paid(batchrunner: CommandLine) -> None:
    real = 'provider: {base_url: "http://127.0.0.1:9/v1"}'
    write(
        batchrunner.folder,
        job=JOB.replace("provider: simulator", real),
        judge=JUDGE_JOB.replace("provider: simulator", "provider: openai"),
    )
    told = batchrunner("run", "a.yaml")
    assert told.status == 2
    assert "judge helpful: " in told.err
    assert "OPENAI_API_KEY" in told.err
    assert "--no-judge" in told.err
    assert not (batchrunner.folder / "outputs").exists()


def test_simulate_simulates_the_judge_as_well(batchrunner: CommandLine) -> None:
    real = 'provider: {base_url: "http://127.0.0.1:9/v1"}'
    write(
        batchrunner.folder,
        job=JOB.replace("provider: simulator", real),
        judge=JUDGE_JOB.replace("provider: simulator", "provider: openai").replace("sim/judge", "gpt-5-mini"),
    )
    assert batchrunner("run", "a.yaml", "--simulate", "--quiet").status == 0
    assert asked(batchrunner) == 20


def test_the_plan_shows_the_judges_requests_and_their_cost(batchrunner: CommandLine) -> None:
    priced = "budget: {currency: USD, prices: {sim/judge: {input: 1000, output: 1000}}}"
    write(batchrunner.folder, judge=f"{JUDGE_JOB}\nparams: {{max_tokens: 100}}\n{priced}")
    before = batchrunner("plan", "a.yaml", "--json").json["judges"][0]
    assert (before["name"], before["to_send"], before["later"]) == ("helpful", 0, 20)
    assert before["cost"]["most"] - before["cost"]["least"] == pytest.approx(20 * 100 * 1000 / 1e6)
    assert batchrunner("run", "a.yaml", "--no-judge", "--quiet").status == 0
    there = batchrunner("plan", "a.yaml", "--json").json["judges"][0]
    assert (there["to_send"], there["later"]) == (20, 0)
    assert "judge helpful" in batchrunner("plan", "a.yaml").err


def test_verify_looks_into_the_judges_folder(judged: CommandLine) -> None:
    assert judged("verify", OUT).status == 0
    path = judged.folder / JUDGE / "results.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    told = judged("verify", OUT)
    assert told.status == 4
    assert "judge helpful: " in told.err


def test_a_run_holds_its_lock_while_its_judge_works_and_reports_where_to_control_it(batchrunner: CommandLine) -> None:
    slow = "\nlimits: {requests_per_minute: 60, concurrency: 1}"  # longer than any machine takes for the commands
    write(batchrunner.folder, judge=JUDGE_JOB + slow, questions=300)
    process = batchrunner.start("run", "a.yaml", "--quiet")
    path = batchrunner.folder / JUDGE / "results.jsonl"
    wait_until(lambda: json_lines_so_far(path), "an answer of the judge", process=process)
    before = (batchrunner.folder / OUT / "scores.jsonl").read_bytes()
    for command in (("score", OUT), ("verify", OUT), ("run", "a.yaml")):
        told = batchrunner(*command)
        assert told.status == 4, command
        assert f"already running (pid {process.pid}" in told.err
    assert (batchrunner.folder / OUT / "scores.jsonl").read_bytes() == before
    assert batchrunner("status", OUT, "--json").json["state"] == "running"
    for action in ("pause", "stop"):
        told = batchrunner(action, OUT)
        assert (told.status, "its judge helpful works now; tell" in told.err) == (2, True), told.err
    assert batchrunner("stop", JUDGE).status == 0
    process.communicate()
    assert process.returncode == 143
    assert batchrunner("score", OUT).status == 0
    write(batchrunner.folder, questions=300)
    assert batchrunner("run", "a.yaml", "--quiet").status == 0, "the pause that was refused is not in force"
    assert batchrunner("status", JUDGE, "--json").json["sends"]["total"] == 600


@pytest.mark.parametrize("how", ["without run.json", "without its ledger", "a file"])
def test_a_judges_folder_that_is_damaged_is_damage_and_one_that_never_worked_is_none(
    judged: CommandLine, how: str
) -> None:
    judge = judged.folder / JUDGE
    (judge.parent / "polite").mkdir()
    assert judged("verify", OUT).status == 0
    if how == "a file":
        shutil.rmtree(judge.parent)
        judge.parent.touch()
    elif how == "without run.json":
        (judge / "run.json").unlink()
    else:
        (judge / "run.json").unlink()
        shutil.rmtree(judge / "ledger")
    told = judged("verify", OUT)
    assert told.status == (0 if how == "without run.json" else 4), "run.json is made anew from the ledger"
    assert how == "without run.json" or "is no run" in told.err
    assert judged("status", OUT).status == 0


def test_a_judge_of_1000_answers_that_is_killed_asks_twice_only_what_was_in_flight_and_reports_it(
    batchrunner: CommandLine,
) -> None:
    slow = "\nlimits: {requests_per_minute: 6000, concurrency: 8}"
    write(batchrunner.folder, judge=JUDGE_JOB + slow, questions=500)
    assert batchrunner("run", "a.yaml", "--no-judge", "--quiet").status == 0
    path = batchrunner.folder / JUDGE / "results.jsonl"
    cut_off = Counter[str]()
    for least in (100, 500):
        process = batchrunner.start("run", "a.yaml", "--quiet")
        wait_until(lambda least=least: len(json_lines_so_far(path)) >= least, f"{least} rows", process=process)  # type: ignore[misc]
        process.kill()
        process.communicate()
        killed = in_flight(batchrunner.folder / JUDGE)
        assert killed.total() <= 2 * 8, "8 with the server, and answers of the same turn that were being written"
        cut_off += killed
    told = batchrunner("run", "a.yaml", "--json")
    assert told.status == 0
    stands = batchrunner("status", JUDGE, "--json").json
    assert stands["items"]["done"] == len(lines(path)) == 1000
    twice = stands["sends"]["total"] - 1000
    assert twice == stands["sends"]["possible_duplicates"] <= cut_off.total()
    intents = Counter(one["k"] for one in ledger_records(batchrunner.folder / JUDGE) if one["e"] == "intent")
    assert all(times <= 1 + cut_off[key] for key, times in intents.items())
    assert intents.total() == stands["sends"]["total"]
    assert not twice or any("may have been billed without a usable answer" in note for note in told.json["notes"])
    assert told.json["sends"]["total"] == 1000
    assert "error" not in {one["verdict"] for one in verdicts(batchrunner).values()}
