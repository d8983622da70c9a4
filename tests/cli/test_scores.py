"""`score` and `compare` in real processes: verdicts, exit statuses, files, and nothing sent."""

import csv
import hashlib
import json
import re
import signal
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.waiting import PATIENCE_S, wait_until

OUT = "outputs/sums.simulated"
JOB = """
name: sums
provider: simulator
models: [sim/one, sim/two]
prompts:
  file: sums.jsonl
  template: "What is {{ question }}? Say the sum in words."
checks:
  - contains: {words}
  - python: "mine.py:polite"
    counts: false
  - number: "{{{{ answer }}}}"
    counts: false
    when: "{{{{ kind == 'hard' }}}}"
"""
MINE = """
def polite(row):
    print("a line that is no verdict")
    return {"score": 0.5, "reason": row["id"]}
"""


@pytest.fixture
def ran(batchrunner: CommandLine) -> CommandLine:
    rows = [{"question": f"{n} + {n}", "answer": str(2 * n), "kind": "hard" if n % 2 else "easy"} for n in range(8)]
    (batchrunner.folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (batchrunner.folder / "mine.py").write_text(MINE)
    write_job(batchrunner, '["e"]')
    assert batchrunner("run", "sums.yaml", "--quiet").status == 0
    return batchrunner


def write_job(batchrunner: CommandLine, words: str) -> None:
    text = JOB.replace("{words}", words).replace("{{{{", "{{").replace("}}}}", "}}")
    (batchrunner.folder / "sums.yaml").write_text(text)


def scores(batchrunner: CommandLine) -> list[dict[str, Any]]:
    text = (batchrunner.folder / OUT / "scores.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_with_checks_ends_with_a_line_of_scores_for_each_answer(ran: CommandLine) -> None:
    lines = (ran.folder / OUT / "results.jsonl").read_text().splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["index"])
    found = scores(ran)
    assert [(one["id"], one["index"], one["key"]) for one in found] == [(r["id"], r["index"], r["key"]) for r in rows]
    for one, row in zip(found, rows, strict=True):
        assert one["pass"] is ("e" in row["output"]["text"])
        assert one["scores"]["python"] == {"verdict": "fail", "value": 0.5, "reason": row["id"]}
        assert one["scores"]["number"]["verdict"] in (["none"] if row["vars"]["kind"] == "easy" else ["pass", "fail"])


def test_an_edited_check_costs_no_request_and_changes_no_row(ran: CommandLine) -> None:
    folder = ran.folder / OUT
    before = {path.name: digest(path) for path in folder.rglob("*") if path.is_file() and path.name != "scores.jsonl"}
    write_job(ran, '["this stands in no answer"]')
    told = ran("score", OUT, "--checks", "sums.yaml", "--json")
    assert told.status == 0
    assert (told.json["rows"], told.json["passed"], told.json["failed"], told.json["not_answered"]) == (16, 0, 16, 0)
    assert {one["pass"] for one in scores(ran)} == {False}
    after = {path.name: digest(path) for path in folder.rglob("*") if path.is_file() and path.name != "scores.jsonl"}
    assert after == before
    assert ran("verify", OUT).status == 0


def test_running_again_with_an_edited_check_sends_nothing_and_scores_again(ran: CommandLine) -> None:
    write_job(ran, '["this stands in no answer"]')
    again = ran("run", "sums.yaml", "--json")
    assert again.status == 0
    assert again.json["sends"]["total"] == 16
    assert any(note.startswith("checks: 0 of 16 passed (0.0%)") for note in again.json["notes"])
    assert {one["pass"] for one in scores(ran)} == {False}


def test_score_without_a_file_takes_the_checks_of_the_last_run(ran: CommandLine) -> None:
    (ran.folder / OUT / "scores.jsonl").unlink()
    told = ran("score", OUT)
    assert told.status == 0
    assert "(does not count)" in told.err
    assert len(scores(ran)) == 16


def test_a_check_that_breaks_is_an_error_and_no_wrong_answer(ran: CommandLine) -> None:
    (ran.folder / "mine.py").write_text("def polite(row):\n    raise KeyError('colour')\n")
    (ran.folder / "c.yaml").write_text('checks: [{python: "mine.py:polite"}, {contains: e, counts: false}]')
    told = ran("score", OUT, "--checks", "c.yaml")
    assert told.status == 0
    assert "check `python` broke for 16 answers, which count for nothing: KeyError: 'colour'" in told.err
    assert {one["pass"] for one in scores(ran)} == {None}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("checks: [{contian: e}]", "c.yaml:1: checks[0].contian: is not a known key"),
        ("checks:\n- {number: '1', regex: x}", "c.yaml:2: checks[0]: has several kinds: regex, number"),
        ("checks:\n- {name: x}", "c.yaml:2: checks[0]: has no kind of check"),
        ("checks:\n- {regex: '('}", "c.yaml:2: checks[0].regex: is not a regular expression"),
        ("checks:\n- {any: a, name: x}\n- {any: b, name: x}", 'c.yaml:3: checks[1].name: is "x" again'),
        ("checks:\n- {number: 7, within: far}", 'c.yaml:2: checks[0].within: "far" is not a tolerance'),
        ("checks:\n- {within: {}}", "c.yaml:2: checks[0].within: says no limit"),
        ("checks:\n- {python: mine}", 'c.yaml:2: checks[0].python: "mine" is not the place of a function'),
        ("checks:\n- {json: total}", 'c.yaml:2: checks[0].json: "total" is not a path'),
        ("checks:\n- {not: {any: a}, any: b}", "c.yaml:2: checks[0]: has both `not` and `any`"),
        ("checks:\n- {any: a, take: first}", "c.yaml:2: checks[0].take: does nothing beside `any`"),
        ("checks:\n- {contains: []}", "c.yaml:2: checks[0].contains"),
        ("checks:\n- {number: '{{ x'}", "checks[0].number"),
        ("prompts: [a]", "c.yaml:1: has no `checks`"),
    ],
)
def test_a_mistake_in_a_check_is_named_with_its_line_and_nothing_is_written(
    ran: CommandLine, text: str, words: str
) -> None:
    before = digest(ran.folder / OUT / "scores.jsonl")
    (ran.folder / "c.yaml").write_text(text)
    told = ran("score", OUT, "--checks", "c.yaml")
    assert (told.status, digest(ran.folder / OUT / "scores.jsonl")) == (2, before)
    assert words in told.err


def test_what_is_unfinished_or_not_scored_is_reported_by_status_and_compare(batchrunner: CommandLine) -> None:
    rows = [{"question": f"{n} + {n}", "answer": str(2 * n), "kind": "easy"} for n in range(4)]
    (batchrunner.folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (batchrunner.folder / "mine.py").write_text(MINE)
    write_job(batchrunner, '["e"]')
    assert batchrunner("run", "sums.yaml", "--quiet", "--limit", "6").status in (0, 3)
    assert "checks: 6 of 6 passed (100.0%)" in batchrunner("status", OUT, "--json").json["notes"]
    note = "2 of 8 items of sums.simulated have no answer yet and are not in it"
    assert batchrunner("compare", OUT, "--json").json["notes"] == [note]
    path = batchrunner.folder / OUT / "scores.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    assert "checks: 5 of 5 passed (100.0%), 1 not scored yet" in batchrunner("status", OUT, "--json").json["notes"]


def whole_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def test_answers_are_scored_as_they_come_and_a_kill_leaves_what_every_reader_and_the_next_run_take(
    batchrunner: CommandLine,
) -> None:
    rows = [{"question": f"{n} + {n}", "answer": str(2 * n), "kind": "easy"} for n in range(300)]
    (batchrunner.folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (batchrunner.folder / "mine.py").write_text(MINE)
    write_job(batchrunner, '["e"]')
    slowly = ("--set", "limits.requests_per_minute=120", "--set", "limits.concurrency=4")
    process = batchrunner.start("run", "sums.yaml", "--quiet", *slowly)
    path = batchrunner.folder / OUT / "scores.jsonl"
    wait_until(lambda: len(whole_lines(path)) >= 5, "five scores", process=process)
    stands = batchrunner("status", OUT, "--json").json
    assert process.poll() is None
    assert stands["state"] == "running"
    assert any(re.match(r"checks: (\d+) of \1 passed", note) for note in stands["notes"])
    process.kill()
    process.communicate()
    live = whole_lines(path)
    with path.open("ab") as file:
        file.write(live[0][: len(live[0]) // 2])  # what a kill in a write leaves
    for command in (
        ("status", OUT),
        ("compare", OUT),
        ("report", OUT),
        ("export", OUT, "--to", "jsonl", "--where", "pass"),
        ("plan", "sums.yaml", "--where", "{{ pass }}"),
    ):
        told = batchrunner(*command)
        assert told.status == 0, (command, told.err)
    assert batchrunner("run", "sums.yaml", "--quiet").status == 0
    ended = path.read_bytes()
    assert [json.loads(line)["index"] for line in whole_lines(path)] == list(range(1, 601)), "whole, in the job's order"
    assert set(live) <= set(whole_lines(path))
    assert batchrunner("score", OUT).status == 0
    assert path.read_bytes() == ended


def test_a_row_without_a_reference_is_an_error_and_neither_right_nor_wrong(batchrunner: CommandLine) -> None:
    references: list[Any] = ["", " ", None, "e"]
    rows = [{"n": number, "right": right} for number, right in enumerate(references)]
    (batchrunner.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (batchrunner.folder / "sums.yaml").write_text(
        "provider: simulator\nmodel: sim/one\nprompts: {file: rows.jsonl, template: 'Say {{ n }}'}\nchecks:\n"
        "- {equals: '{{ right }}'}\n- {number: '{{ right }}'}\n- {regex: '(e)', equals: '{{ right }}'}\n"
    )
    assert batchrunner("run", "sums.yaml", "--quiet").status == 0
    *without, last = ({name: one["verdict"] for name, one in line["scores"].items()} for line in scores(batchrunner))
    assert without == 3 * [{"equals": "error", "number": "error", "regex": "error"}]
    assert last == {"equals": "fail", "number": "error", "regex": "pass"}


def test_templates_of_checks_have_the_names_of_conditions_and_literal_braces_are_named(
    batchrunner: CommandLine,
) -> None:
    job = batchrunner.job("sums", "prompts: [one, two]\nchecks:\n- {contains: '{{ prompt }}', name: braces}\n")
    with (batchrunner.folder / job).open("a") as file:
        file.write("- {regex: ., when: \"{{ not truncated and text and model == 'sim-model' }}\"}\n")
    told = batchrunner("check", job)
    assert (told.status, "checks[0].contains: the braces are taken literally" in told.err) == (0, True), told.err
    assert batchrunner("run", job, "--quiet").status == 0
    assert {line["scores"]["regex"]["verdict"] for line in scores(batchrunner)} == {"pass"}


def test_what_is_not_scored_yet_is_neither_right_nor_wrong_to_any_condition(ran: CommandLine) -> None:
    path = ran.folder / OUT / "scores.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:10]))  # as after a kill
    (ran.folder / "next.yaml").write_text(
        "provider: simulator\nmodel: sim/next\nprompts:\n  run: outputs/sums\n  where: 'not pass'\n"
        "  template: 'Better: {{ text }}'\n"
    )
    for command in (("plan", "next.yaml"), ("plan", "sums.yaml", "--where", "not pass")):
        told = ran(*command)
        assert "6 that are not scored yet" in told.err or "6 answers without scores left out" in told.err
    exported = ran("export", OUT, "--to", "jsonl", "--where", "not pass", "--json").json
    assert exported["rows"] == 0
    assert exported["left_out"]["not scored yet (`batchrunner score` scores them)"] == 6


def test_a_run_that_is_interrupted_does_not_stay_to_score_and_reports_what_is_not_scored(
    batchrunner: CommandLine,
) -> None:
    (batchrunner.folder / "mine.py").write_text("import time\ndef slow(row):\n    time.sleep(5)\n    return True\n")
    job = batchrunner.job("sums", "prompts: [one]\nreplicas: 1000\nlimits: {requests_per_minute: 1200}\n")
    with (batchrunner.folder / job).open("a") as file:
        file.write('checks: [{python: "mine.py:slow"}]\n')
    process = batchrunner.start("run", job, "--json")
    rows = batchrunner.folder / OUT / "results.jsonl"
    wait_until(lambda: len(whole_lines(rows)) >= 30, "thirty rows", process=process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)  # to score thirty answers takes 150 s
    assert (process.returncode, err.count("Traceback")) == (130, 0), err
    assert any("not scored yet" in note for note in json.loads(out)["notes"])


def test_a_run_whose_scores_cannot_be_written_loses_nothing_and_reports_it(batchrunner: CommandLine) -> None:
    job = batchrunner.job("sums", "prompts: [one, two]\nchecks: [{contains: e}]")
    assert batchrunner("run", job, "--quiet", "--limit", "1").status == 0
    path = batchrunner.folder / OUT / "scores.jsonl"
    path.unlink()
    path.mkdir()
    told = batchrunner("run", job, "--json")
    assert (told.status, told.json["items"]["done"]) == (0, 2)
    assert any(note.startswith("no scores were written: ") for note in told.json["notes"])


def test_compare_shows_each_model_and_the_pair(ran: CommandLine) -> None:
    told = ran("compare", OUT)
    assert told.status == 0
    assert "sim/one" in told.err
    assert "sim/two − sim/one:" in told.err
    shown = ran("compare", OUT, "--json").json
    assert [group["name"] for group in shown["groups"]] == ["sim/one", "sim/two"]
    assert [pair["pairs"] for pair in shown["pairs"]] == [8]


def test_a_run_compared_with_a_copy_of_itself_differs_in_nothing(ran: CommandLine) -> None:
    other = ran.folder / "outputs/copy.simulated"
    other.mkdir()
    for name in ("run.json", "results.jsonl", "scores.jsonl"):
        (other / name).write_bytes((ran.folder / OUT / name).read_bytes())
    shown = ran("compare", OUT, str(other), "--by", "run", "--json").json
    (pair,) = shown["pairs"]
    assert (pair["won"], pair["lost"], pair["difference"], pair["p"], pair["tied"]) == ([], [], 0.0, 1.0, True)


def test_a_run_that_is_named_twice_is_compared_with_itself(ran: CommandLine) -> None:
    once = ran("compare", OUT, "--by", "run", "--json").json
    twice = ran("compare", OUT, OUT, "--by", "run", "--json").json
    (pair,) = twice["pairs"]
    assert (pair["won"], pair["lost"], pair["difference"], pair["tied"]) == ([], [], 0.0, True)
    assert [group["passed"] for group in twice["groups"]] == 2 * [once["groups"][0]["passed"]]


def test_scores_by_other_checks_than_the_jobs_are_compared_and_reported_as_such(ran: CommandLine) -> None:
    assert ran("compare", OUT, "--json").json["notes"] == []
    (ran.folder / "c.yaml").write_text("checks: [{contains: a}]")
    assert ran("score", OUT, "--checks", "c.yaml").status == 0
    (note,) = ran("compare", OUT, "--json").json["notes"]
    assert note.startswith("sums.simulated is scored by other checks than those of the job that ran there last")
    write_job(ran, '["e"]')
    (ran.folder / "sums.yaml").write_text((ran.folder / "sums.yaml").read_text().split("checks:", maxsplit=1)[0])
    assert ran("run", "sums.yaml", "--quiet").status == 0
    (note,) = ran("compare", OUT, "--json").json["notes"]
    assert note == "sums.simulated is scored by checks that the job which ran there last does not have"
    write_job(ran, '["e"]')
    other = ran("run", "sums.yaml", "--out", "other", "--json").json["dir"]
    notes = ran("compare", OUT, other, "--json").json["notes"]
    assert "the runs are scored by different checks, so their rates may be of different things" in notes


def test_a_missed_threshold_is_exit_status_1_and_states_which(ran: CommandLine) -> None:
    assert ran("compare", OUT, "--fail-under", "0%").status == 0
    told = ran("compare", OUT, "--check", "python", "--fail-under", "0.9")
    assert told.status == 1
    assert "threshold missed: sim/one: 0.0% is below 90.0%" in told.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fail-under", "90"), "90 is not a share from 0 to 1"),
        (("--by", "colour"), "no row has a parameter or variable `colour`"),
        (("--pair-by", "colour"), "no row has a parameter or variable `colour`"),
        (("--cluster", "colour"), "no row has a parameter or variable `colour`"),
        (("--base", "sim/three"), "there is no group `sim/three`"),
        (("--check", "colour"), "there is no check `colour`"),
    ],
)
def test_what_cannot_be_compared_is_a_mistake_with_the_way_on(
    ran: CommandLine, arguments: tuple[str, ...], words: str
) -> None:
    told = ran("compare", OUT, *arguments)
    assert told.status == 2
    assert words in told.err


@pytest.mark.parametrize("value", ["1e308", "1" + "0" * 400, '"much"', "[1]"])
def test_numbers_that_were_edited_by_hand_never_end_a_comparison(ran: CommandLine, value: str) -> None:
    path = ran.folder / OUT / "scores.jsonl"
    path.write_text(path.read_text().replace('"value": 0.5', f'"value": {value}'))
    rows = ran.folder / OUT / "results.jsonl"
    rows.write_text(re.sub(r'"(seconds|output_tokens)":\s*[0-9.]+', rf'"\1":{value}', rows.read_text()))
    told = ran("compare", OUT, "--json")
    assert told.status == 0, told.err
    of_one = told.json["groups"][0]
    assert (of_one["items"], of_one["decided"]) == (8, 8)
    mean = next(check["mean"] for check in of_one["checks"] if check["name"] == "python")
    assert mean == (1e308 if value == "1e308" else None)


def test_a_run_without_scores_states_how_to_get_them(ran: CommandLine) -> None:
    (ran.folder / OUT / "scores.jsonl").unlink()
    told = ran("compare", OUT)
    assert told.status == 2
    assert "batchrunner score" in told.err


def test_junit_counts_what_the_table_counts_and_replaces_nothing_that_was_paid_for(ran: CommandLine) -> None:
    told = ran("compare", OUT, "--junit", "scores.xml", "--html", "groups.html")
    assert (told.status, told.err.splitlines()[-2:]) == (0, ["JUnit: scores.xml", "page: groups.html"])
    suites = ET.parse(ran.folder / "scores.xml").getroot().findall("testsuite")
    assert [(suite.get("name"), suite.get("tests")) for suite in suites] == [("sim/one", "8"), ("sim/two", "8")]
    before = digest(ran.folder / OUT / "results.jsonl")
    told = ran("compare", OUT, "--junit", f"{OUT}/results.jsonl")
    assert (told.status, digest(ran.folder / OUT / "results.jsonl")) == (2, before)
    assert "choose another place with --junit" in told.err


def test_an_export_has_the_verdicts_of_every_row(ran: CommandLine) -> None:
    exported = ran("export", OUT, "--to", "jsonl", "--out", "rows.jsonl")
    assert exported.status == 0
    rows = [json.loads(line) for line in (ran.folder / "rows.jsonl").read_text().splitlines()]
    found = scores(ran)
    assert [row["pass"] for row in rows] == [one["pass"] for one in found]
    assert [row["verdict"] for row in rows] == [
        {name: score["verdict"] for name, score in one["scores"].items()} for one in found
    ]
    assert ran("export", OUT, "--to", "csv", "--out", "rows.csv").status == 0
    with (ran.folder / "rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["score.python"] for row in table] == ["0.5"] * 16
    assert [row["verdict.python"] for row in table] == ["fail"] * 16
    for number, (where, wanted) in enumerate((("pass", True), ("not pass", False))):
        assert ran("export", OUT, "--to", "jsonl", "--out", f"{number}.jsonl", "--where", where).status == 0
        lines = (ran.folder / f"{number}.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [one["id"] for one in found if one["pass"] is wanted]
    (ran.folder / OUT / "scores.jsonl").unlink()
    told = ran("export", OUT, "--to", "jsonl", "--out", "none.jsonl", "--where", "not pass")
    assert told.status == 2
    assert "--where: there are no scores" in told.err


def test_a_page_from_before_is_reported_to_have_the_verdicts_of_before(ran: CommandLine) -> None:
    assert "renews it" not in ran("score", OUT).err, "these verdicts are on the page"
    (ran.folder / "other.yaml").write_text("checks: [{contains: x, name: number}]")
    told = ran("score", OUT, "--checks", "other.yaml")
    assert f"`batchrunner report {OUT}` renews it" in told.err
    (ran.folder / OUT / "report.html").unlink()
    assert "renews it" not in ran("score", OUT).err
