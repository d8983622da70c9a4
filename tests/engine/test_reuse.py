"""`reuse:`: answers that another run has are taken over instead of being sent, never silently, and nothing is paid."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import JobMistakesError, StoreBrokenError, WrongDirectoryError
from batchrunner.core.status import Report
from batchrunner.engine import reuse
from batchrunner.engine.recorder import Recorder
from tests.support.engine import RunHarness, World, chat, image
from tests.support.json_lines import json_lines

Tree = dict[str, Any]
QUESTIONS = [f"Why is {number} a number?" for number in range(6)]


class TwoRuns:
    """A run, and another job in a folder beside it that takes its answers."""

    def __init__(self, folder: Path) -> None:
        (folder / "second").mkdir()
        self.first, self.second = RunHarness(folder), RunHarness(folder / "second")
        self.reuse = f"reuse: [{json.dumps(str(folder / 'out'))}]\n"

    def ask(self, *prompts: str, more: str = "", **options: Any) -> Report:
        """The first run."""
        return self.first.run(chat(*prompts, more=more), **options)

    def ask_again(self, *prompts: str, more: str = "", **options: Any) -> Report:
        """The second run, or its continuation."""
        return self.second.run(chat(*prompts, more=self.reuse + more), **options)

    def plan(self) -> Any:
        """Of the second job as it was last written."""
        job = api.load_job(str(self.second.folder / "job.yaml"), simulate=True, out=str(self.second.out))
        return asyncio.run(api.plan(job))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoRuns:
    """The other run is named as it is: the twin's ending is looked at in a test of its own."""
    monkeypatch.setattr("batchrunner.spec.resolve.SIMULATED_ENDING", "")
    return TwoRuns(tmp_path)


def is_intact(runs: TwoRuns) -> bool:
    return api.verify(str(runs.second.out)).sound


def test_what_the_other_run_has_is_taken_and_only_the_rest_is_sent(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:4])
    status = runs.ask_again(*QUESTIONS).status
    assert (status.items.done, status.reused, status.sends.total, runs.second.stats.sends) == (6, 4, 2, 2)
    assert "answers taken from other runs: 4 (nothing was sent for them)" in runs.second.said
    before = {row["prompt"]: row for row in runs.first.rows()}
    rows = runs.second.rows()
    assert [row["prompt"] for row in rows] == QUESTIONS
    for row in rows[:4]:
        was = before[row["prompt"]]
        assert row["output"] == was["output"]
        assert row["reused"] == {"run": str(runs.first.out), "id": was["id"]}
        assert (row["attempts"], row["ambiguous"]) == (0, 0)
    assert all("reused" not in row for row in rows[4:])
    assert is_intact(runs)


def test_a_row_has_the_present_label_of_its_item(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:2])
    job: Tree = {"name": "job", "provider": "simulator", "model": "sim/chat", "reuse": [str(runs.first.out)]}
    job["prompts"] = [{"prompt": QUESTIONS[1], "id": "new-name", "vars": {"topic": "sums"}}]
    runs.second.run(json.dumps(job))
    (row,) = runs.second.rows()
    assert (row["id"], row["index"], row["vars"]) == ("new-name", 1, {"topic": "sums"})
    assert row["reused"]["id"] == runs.first.rows()[1]["id"] != "new-name"


def test_another_request_is_no_match(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS)
    assert runs.ask_again(*QUESTIONS, more="params: {temperature: 0.5}").status.reused == 0
    assert runs.second.stats.sends == 6


def test_plan_states_how_many_answers_would_be_taken_and_status_how_many_were(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:4])
    runs.ask_again(*QUESTIONS, limit=1)
    planned = runs.plan()
    assert (planned.items.done, planned.reused, planned.to_send) == (1, 3, 2)
    assert api.status(str(runs.second.out)).reused == 1


def test_nothing_of_it_counts_against_a_budget_or_as_usage(runs: TwoRuns) -> None:
    budget = "budget: {calls: 1, money: 100, prices: {sim/chat: {call: 1}}}"
    runs.ask(*QUESTIONS[:5])
    status = runs.ask_again(*QUESTIONS, more=budget).status
    assert (status.state, {line.unit: line.spent for line in status.budget}) == ("done", {"calls": 1, "money": 1})
    assert status.usage.input_tokens == runs.second.rows()[5]["usage"]["input_tokens"]


def test_a_second_run_takes_and_sends_nothing_more_although_the_other_is_there(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS)
    runs.ask_again(*QUESTIONS)
    again = runs.ask_again(*QUESTIONS).status
    assert (again.items.done, again.reused, runs.second.stats.sends) == (6, 6, 0)
    assert len(runs.second.rows()) == 6
    assert api.status(str(runs.second.out)).reused == 6, "the checkpoint has the number, too"


def test_items_that_are_identical_share_the_row_that_was_taken(runs: TwoRuns) -> None:
    runs.ask(QUESTIONS[0])
    status = runs.ask_again(QUESTIONS[0], QUESTIONS[0], QUESTIONS[1]).status
    assert (status.items.done, runs.second.stats.sends) == (3, 1)
    assert [("shared_with" in row, "reused" in row) for row in runs.second.rows()] == [
        (False, True),
        (True, True),
        (False, False),
    ]


def test_a_part_of_a_job_takes_its_own_answers_only(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS)
    assert runs.ask_again(*QUESTIONS, limit=2).status.items.done == 2
    assert runs.second.stats.sends == 0


def test_failed_items_are_taken_once_they_are_asked_for_again(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:2])
    runs.second.world = World(scenario="bad-model-id")
    mine = chat(*QUESTIONS[:2])
    assert runs.second.run(mine).status.items.failed == 2
    assert runs.ask_again(*QUESTIONS[:2]).status.items.failed == 2, "a failure stays one until somebody asks"
    status = runs.ask_again(*QUESTIONS[:2], retry_failed=True).status
    assert (status.items.done, status.items.failed, status.reused) == (2, 0, 2)
    assert is_intact(runs)


def test_held_items_are_taken_and_their_doubt_stays_counted(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:2])
    runs.second.world = World(scenario="reset-before-headers:1")
    hold = "on_ambiguous: hold"
    assert runs.second.run(chat(*QUESTIONS[:2], more=hold)).status.items.held == 2
    status = runs.ask_again(*QUESTIONS[:2], more=hold).status
    assert (status.items.done, status.items.held, status.sends.possible_duplicates) == (2, 0, 2)
    assert is_intact(runs)


def test_answers_that_make_way_for_others_are_taken_from_superseded_rows(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:2])
    runs.ask(*QUESTIONS[2:4])
    assert len(json_lines(runs.first.out / "superseded.jsonl")) == 2
    assert runs.ask_again(*QUESTIONS[:4]).status.reused == 4


def test_a_missing_run_is_a_mistake_before_anything_is_sent(runs: TwoRuns) -> None:
    with pytest.raises(JobMistakesError, match=r"reuse: there is no run in .*out, so nothing can be taken from it"):
        runs.ask_again("one")
    assert runs.second.stats.sends == 0


def test_the_own_folder_is_a_mistake(runs: TwoRuns) -> None:
    runs.reuse = f"reuse: [{json.dumps(str(runs.second.out))}]\n"
    with pytest.raises(JobMistakesError, match="is the results folder of this job itself"):
        runs.ask_again("one")


def test_answers_of_a_simulated_run_never_reach_a_real_one(runs: TwoRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.ask("one")
    path = runs.second.folder / "job.yaml"
    path.write_text(chat("one", more=f"{runs.reuse}").replace("provider: simulator", "provider: openai"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody-at-all")
    with pytest.raises(WrongDirectoryError, match="is a simulated run, whose answers a real job does not take"):
        api.run_sync(api.load_job(str(path), out=str(runs.second.out)))


def test_a_simulated_job_takes_from_the_simulated_twin(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(chat("one", more="reuse: [outputs/first]"))
    job = api.load_job(str(tmp_path / "job.yaml"), simulate=True)
    (found,) = job.reuse
    assert found[1] == "outputs/first.simulated"
    assert Path(found[0]).resolve() == tmp_path / "outputs" / "first.simulated"


def test_lines_that_are_no_rows_are_reported_and_the_others_are_taken(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:3])
    path = runs.first.out / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{half\n" + lines[2] + lines[1][:40])
    assert runs.ask_again(*QUESTIONS[:3]).status.reused == 2
    assert any("1 line cannot be read as rows; passed over" in line for line in runs.second.said)
    assert runs.second.stats.sends == 1


def test_a_run_that_lost_its_ledger_or_its_run_file_still_gives_its_rows(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS)
    (runs.first.out / "run.json").unlink()
    assert runs.ask_again(*QUESTIONS[:2]).status.reused == 2
    runs.ask(*QUESTIONS)
    shutil.rmtree(runs.first.out / "ledger")
    assert runs.ask_again(*QUESTIONS).status.reused == 6


def test_rows_that_reached_the_disk_before_a_crash_are_adopted_as_taken(
    runs: TwoRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.ask(*QUESTIONS)

    async def killed(*_: object) -> None:
        raise StoreBrokenError("the machine lost its power")

    with monkeypatch.context() as patch:
        patch.setattr("batchrunner.engine.recorder.Recorder.reused", killed)
        assert runs.ask_again(*QUESTIONS).exit_status == 4
    status = runs.ask_again(*QUESTIONS).status
    assert (status.items.done, status.reused, status.sends.total, runs.second.stats.sends) == (6, 6, 0, 0)
    assert status.usage.input_tokens is None
    assert is_intact(runs)


def test_a_run_is_stopped_between_two_portions_and_goes_on(runs: TwoRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_AT_ONCE", 2)
    runs.ask(*QUESTIONS)
    taking = reuse._take

    async def once(runner: Any, *given: Any) -> None:
        runner.shutdown.pause("asked to stop")
        await taking(runner, *given)

    with monkeypatch.context() as patch:
        patch.setattr(reuse, "_take", once)
        stopped = runs.ask_again(*QUESTIONS)
    assert stopped.status.reused == 2
    assert runs.ask_again(*QUESTIONS).status.reused == 6
    assert runs.second.stats.sends == 0


def test_the_ledger_is_lost_and_rows_that_were_taken_are_still_no_sends(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:4])
    runs.ask_again(*QUESTIONS)
    shutil.rmtree(runs.second.out / "ledger")
    status = runs.ask_again(*QUESTIONS, adopt_rows=True).status
    assert (status.items.done, status.reused, runs.second.stats.sends) == (6, 4, 2)


def test_salvage_keeps_that_answers_were_taken(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:4])
    runs.ask_again(*QUESTIONS)
    copy = runs.second.folder / "copy"
    api.verify(str(runs.second.out), salvage=str(copy))
    assert api.status(str(copy)).reused == 4
    assert api.verify(str(copy)).sound


def test_a_rehearsal_does_not_send_what_would_be_taken(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:4])
    (runs.second.folder / "job.yaml").write_text(chat(*QUESTIONS, more=runs.reuse))
    job = api.load_job(str(runs.second.folder / "job.yaml"), simulate=True, out=str(runs.second.out))
    assert api.rehearse(job, seed=1).calls == 2


def test_answer_files_of_their_own_are_written_under_this_job_s_names(runs: TwoRuns) -> None:
    runs.ask(QUESTIONS[0], more="output: {each: 'old/{{ id }}.txt'}")
    runs.ask_again(QUESTIONS[0], more="output: {each: 'new/{{ id }}.md'}")
    (row,) = runs.second.rows()
    assert row["output"]["path"].startswith("new/")
    assert (runs.second.out / row["output"]["path"]).read_text() == row["output"]["text"]
    runs.reuse, again = f"reuse: [{json.dumps(str(runs.second.out))}]\n", RunHarness(runs.second.folder / "third")
    again.folder.mkdir()
    again.run(chat(QUESTIONS[0], more=runs.reuse))
    (row,) = again.rows()
    assert "path" not in row["output"], "a job without such files names none"
    assert row["reused"]["run"] == str(runs.second.out)


NEXT = "models: {first: 'sim/a#content-filter', then: sim/chat, on: [content_filter]}"


def in_turn(*prompts: str, more: str = "") -> str:
    """A job whose first model answers nothing."""
    return chat(*prompts, more=more).replace('model: "sim/chat"', NEXT)


@pytest.mark.parametrize("answered", [1, 3, 6])
def test_a_next_model_s_answer_is_taken_when_its_turn_comes(runs: TwoRuns, answered: int) -> None:
    runs.ask(*QUESTIONS[:answered])
    status = runs.second.run(in_turn(*QUESTIONS, more=runs.reuse)).status
    assert (status.items.done, status.reused, status.sends.total) == (6, answered, 12 - answered)
    rows = sorted(runs.second.rows(), key=lambda row: int(row["index"]))
    assert [("reused" in row, row["fallback_of"]) for row in rows] == [
        (number < answered, row["prompt_id"]) for number, row in enumerate(rows)
    ]
    assert f"answers of next models taken from other runs: {answered} (nothing was sent for them)" in runs.second.said
    assert is_intact(runs)
    assert runs.second.run(in_turn(*QUESTIONS, more=runs.reuse)).status.sends.total == 12 - answered


@pytest.mark.parametrize("place", ["engine.recorder.Recorder.reused", "stores.reused_rows.ReusedRows.take"])
def test_a_death_between_the_hand_over_and_the_taken_row_costs_nothing(
    runs: TwoRuns, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    runs.ask(*QUESTIONS)

    async def killed(*_: object) -> None:
        raise StoreBrokenError("the machine lost its power")

    with monkeypatch.context() as patch:
        patch.setattr(f"batchrunner.{place}", killed)
        assert runs.second.run(in_turn(*QUESTIONS, more=runs.reuse)).exit_status == 4
    status = runs.second.run(in_turn(*QUESTIONS, more=runs.reuse)).status
    assert (status.items.done, status.reused) == (6, 6)
    assert {event["model"] for event in runs.second.events("intent")} == {"sim/a#content-filter"}
    assert is_intact(runs)


def test_the_source_does_not_bring_what_is_taken_at_the_hand_over(
    runs: TwoRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next model's part of the source is read while an item is handed over: both come to the same one."""
    many = [f"Is {number} prime?" for number in range(60)]
    limit = "limits: {concurrency: 1}"
    runs.second.world = World(scenario="content-filter")
    assert runs.second.run(in_turn(*many, more=limit), limit=10).status.items.failed == 10
    runs.ask(*many[10:])
    monkeypatch.setattr("batchrunner.engine.work_queue.READ_AHEAD", 2)
    recording = Recorder.replaced

    async def slowly(self: Recorder, *given: Any, **more: Any) -> None:
        await recording(self, *given, **more)
        await asyncio.sleep(10.0)

    monkeypatch.setattr(Recorder, "replaced", slowly)
    runs.second.world = World()
    status = runs.second.run(in_turn(*many, more=f"{runs.reuse}{limit}"), retry_failed=True).status
    assert (status.items.done, status.reused) == (60, 50)
    assert len([event for event in runs.second.events("intent") if event["model"] == "sim/chat"]) == 20
    assert is_intact(runs)


PICTURES = ["a cat", "a dog", "a boat"]


def test_a_next_model_s_picture_that_cannot_be_taken_is_made_again(runs: TwoRuns) -> None:
    runs.first.run(image(*PICTURES))
    (runs.first.out / runs.first.rows()[1]["output"]["images"][0]["path"]).unlink()
    models = "models: {first: 'sim/a#quota-model:0', then: Qwen/Qwen-Image, on: [quota]}"
    status = runs.second.run(image(*PICTURES, more=runs.reuse).replace('model: "Qwen/Qwen-Image"', models)).status
    assert (status.items.done, status.reused) == (3, 2)
    assert len([event for event in runs.second.events("intent") if event["model"] == "Qwen/Qwen-Image"]) == 1
    assert any("1 of the answers cannot be taken" in line for line in runs.second.said)
    assert is_intact(runs)


def test_pictures_are_copied_and_stay_when_the_other_run_is_removed(runs: TwoRuns) -> None:
    runs.first.run(image(*PICTURES))
    status = runs.second.run(image(*PICTURES, more=runs.reuse)).status
    assert (status.items.done, status.reused, runs.second.stats.sends) == (3, 3, 0)
    shutil.rmtree(runs.first.out)
    assert all((runs.second.out / row["output"]["images"][0]["path"]).stat().st_size for row in runs.second.rows())
    assert is_intact(runs)


@pytest.mark.parametrize("damage", ["gone", "changed", "cut", "link"])
def test_a_picture_that_is_not_what_its_row_states_is_made_again_and_reported(runs: TwoRuns, damage: str) -> None:
    runs.first.run(image(*PICTURES))
    picture = runs.first.out / runs.first.rows()[1]["output"]["images"][0]["path"]
    data = picture.read_bytes()
    picture.unlink()
    if damage == "changed":
        picture.write_bytes(data[:-1] + b"x")
    elif damage == "cut":
        picture.write_bytes(data[:-5])
    elif damage == "link":
        picture.symlink_to("/dev/zero")
    status = runs.second.run(image(*PICTURES, more=runs.reuse)).status
    assert (status.items.done, status.reused, runs.second.stats.sends) == (3, 2, 1)
    assert any("1 of the answers cannot be taken and will be sent" in line for line in runs.second.said)
    assert is_intact(runs)
    assert not list(runs.second.out.glob("images/*.tmp*"))


def test_a_row_whose_path_leads_elsewhere_takes_nothing_from_there(runs: TwoRuns) -> None:
    runs.first.run(image("a cat"))
    secret = runs.first.folder / "secret.png"
    secret.write_bytes((runs.first.out / runs.first.rows()[0]["output"]["images"][0]["path"]).read_bytes())
    rows = runs.first.rows()
    rows[0]["output"]["images"][0]["path"] = "../secret.png"
    (runs.first.out / "results.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert runs.second.run(image("a cat", more=runs.reuse)).status.reused == 0


@pytest.mark.parametrize("damage", ["gone", "cut", "link"])
def test_plan_and_rehearsal_count_what_cannot_be_taken_as_sent_and_report_it(runs: TwoRuns, damage: str) -> None:
    runs.first.run(image(*PICTURES))
    for row in runs.first.rows()[:2]:
        picture = runs.first.out / row["output"]["images"][0]["path"]
        data = picture.read_bytes()
        picture.unlink()
        if damage == "cut":
            picture.write_bytes(data[:-5])
        elif damage == "link":
            picture.symlink_to("/dev/zero")
    (runs.second.folder / "job.yaml").write_text(image(*PICTURES, more=runs.reuse))
    planned = runs.plan()
    assert (planned.reused, planned.to_send) == (1, 2)
    (note,) = (note for note in planned.notes if "cannot be taken" in note)
    assert note.startswith("reuse: 2 of the answers cannot be taken and would be sent: ")
    job = api.load_job(str(runs.second.folder / "job.yaml"), simulate=True, out=str(runs.second.out))
    assert api.rehearse(job, seed=1).calls == 2


def test_pictures_that_cannot_be_taken_are_reported_in_one_line(runs: TwoRuns) -> None:
    runs.first.run(image(*PICTURES))
    shutil.rmtree(runs.first.out / "images")
    assert runs.second.run(image(*PICTURES, more=runs.reuse)).status.reused == 0
    (line,) = (line for line in runs.second.said if "cannot be taken" in line)
    assert line.startswith(f"3 of the answers cannot be taken and will be sent: {runs.first.out}: ")
    assert ", such as images/" in line


def test_a_job_with_nothing_left_to_send_needs_the_other_folder_no_more(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:4])
    runs.ask_again(*QUESTIONS)
    shutil.rmtree(runs.first.out)
    again = runs.ask_again(*QUESTIONS)
    assert (again.exit_status, again.status.reused, runs.second.stats.sends) == (0, 4, 2)
    assert any("nothing is left to be sent" in note for note in runs.plan().notes)
    assert runs.ask_again(*QUESTIONS, retry_failed=True).exit_status == 0, "nothing has failed"
    with pytest.raises(JobMistakesError, match="there is no run in"):
        runs.ask_again(*QUESTIONS, "One more?")
    with pytest.raises(JobMistakesError, match="there is no run in"):
        runs.plan()
    assert runs.second.stats.sends == 2


def test_failed_items_are_not_asked_again_while_the_other_folder_is_missing(runs: TwoRuns) -> None:
    runs.ask(QUESTIONS[0])
    runs.second.world = World(scenario="bad-model-id")
    assert runs.ask_again(*QUESTIONS[1:3]).status.items.failed == 2
    shutil.rmtree(runs.first.out)
    assert runs.ask_again(*QUESTIONS[1:3]).exit_status == 1
    with pytest.raises(JobMistakesError, match="there is no run in"):
        runs.ask_again(*QUESTIONS[1:3], retry_failed=True)


def test_a_ledger_that_is_read_without_its_checkpoint_knows_what_was_taken(runs: TwoRuns) -> None:
    runs.ask(*QUESTIONS[:4])
    runs.ask_again(*QUESTIONS)
    for path in (runs.second.out / "ledger").glob("*.checkpoint"):
        path.unlink()
    status = api.status(str(runs.second.out))
    assert (status.items.done, status.reused) == (6, 4)
