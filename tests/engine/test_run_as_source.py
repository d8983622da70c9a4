"""A run as the source of another job: what is sent, what is refused, and what the rows say of where they come from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import (
    JobMistakesError,
    UpstreamUnfinishedError,
    WrongDirectoryError,
)
from batchrunner.core.status import Report
from batchrunner.report.upstream_run import look_upstream
from tests.support.engine import RunHarness, chat
from tests.support.json_lines import json_lines

Tree = dict[str, Any]


class Project:
    """A folder with a job of questions and a job that reads its run, both on the simulator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "second").mkdir()
        self.first, self.second = RunHarness(folder), RunHarness(folder / "second")
        self.upstream = folder / "out"

    def ask(self, *questions: str, more: str = "", **options: Any) -> Report:
        """The first run, or its continuation."""
        return self.first.run(chat(*questions, more=more), **options)

    def judge(self, **source: Any) -> Report:
        """The second run, or its continuation."""
        return self.second.run(self.job(**source))

    def job(self, **source: Any) -> str:
        """The second job."""
        prompts = {"run": str(self.upstream), "template": "Rate this: {{ text }}", **source}
        return json.dumps({"name": "job", "provider": "simulator", "model": "sim/judge", "prompts": prompts})

    def rows(self) -> list[Tree]:
        """Of the second run."""
        return self.second.rows()

    def edit(self, change: Callable[[list[Tree]], list[Tree]]) -> None:
        """The upstream rows by hand."""
        path = self.upstream / "results.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in change(json_lines(path))))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The upstream folder is named as it is: the twin's ending is looked at in a test of its own."""
    monkeypatch.setattr("batchrunner.spec.resolve.SIMULATED_ENDING", "")
    return Project(tmp_path)


def questions(number: int) -> list[str]:
    return [f"Why is {place} a number?" for place in range(1, number + 1)]


def test_a_hundred_answers_make_a_hundred_judgements_and_ten_more_answers_ten_more(project: Project) -> None:
    project.ask(*questions(100))
    assert project.judge().exit_status == 0
    assert len(project.rows()) == project.second.stats.sends == 100
    project.ask(*questions(110))
    assert project.judge().exit_status == 0
    assert len(project.rows()) == project.second.stats.sends == 110


def test_a_row_states_which_item_it_was_made_of_and_has_its_id(project: Project) -> None:
    project.ask("one", "two")
    project.judge()
    upstream = json_lines(project.upstream / "results.jsonl")
    assert [row["id"] for row in project.rows()] == [row["id"] for row in upstream]
    assert [row["from"] for row in project.rows()] == [{"run": "../out", "id": row["id"]} for row in upstream]
    assert [row["prompt"] for row in project.rows()] == [f"Rate this: {row['output']['text']}" for row in upstream]


def test_rows_come_in_the_order_of_the_job_whatever_their_order_on_the_disk(project: Project) -> None:
    project.ask(*questions(5))
    ids = [row["id"] for row in json_lines(project.upstream / "results.jsonl")]
    project.edit(lambda rows: [*rows[3:], *rows[:3], rows[0]])
    project.judge()
    assert [row["id"] for row in project.rows()] == ids


def test_a_run_with_items_left_is_refused_with_their_number_unless_it_is_taken(project: Project) -> None:
    project.ask(*questions(5), limit=2)
    with pytest.raises(UpstreamUnfinishedError, match="has 3 items left") as refused:
        project.judge()
    assert int(refused.value.exit_status) == 3
    assert not project.second.out.exists()
    assert project.judge(unfinished="take").status.items.done == 2
    project.ask(*questions(5))
    assert project.judge(unfinished="take").status.items.done == project.second.stats.sends == 5


def test_lost_rows_of_a_run_are_to_be_restored_and_are_not_merely_items_left(project: Project) -> None:
    project.ask(*questions(5))
    project.edit(lambda rows: rows[1:])
    words = "1 finished item has lost a row or picture from the directory; restore it, or pay again with"
    with pytest.raises(UpstreamUnfinishedError, match=words):
        project.judge()
    project.judge(unfinished="take")
    assert len(project.rows()) == 4
    path = project.folder / "taking.yaml"
    path.write_text(project.job(unfinished="take"))
    assert any(words in note for note in look_upstream(api.load_job(str(path))).notes)


def test_a_missing_run_is_a_mistake_with_the_line_of_the_key(project: Project) -> None:
    with pytest.raises(JobMistakesError, match=r"job.yaml:1: prompts.run: there is no run in "):
        project.judge()


def test_a_job_does_not_read_itself(project: Project) -> None:
    project.ask("one")
    (project.folder / "again").symlink_to(project.second.out)
    project.judge()
    with pytest.raises(JobMistakesError, match="is the results folder of this job itself"):
        project.judge(run=str(project.folder / "again"))


def test_a_simulated_run_never_feeds_a_real_job(project: Project) -> None:
    project.ask("one")
    path = project.folder / "real.yaml"
    path.write_text(project.job().replace('"simulator"', '{"base_url": "http://127.0.0.1:9/v1"}'))
    with pytest.raises(WrongDirectoryError, match="is a simulated run, which a real job does not read") as refused:
        api.run_sync(api.load_job(str(path)))
    assert int(refused.value.exit_status) == 4


def test_a_simulated_job_reads_the_simulated_twin_and_names_both_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text('{"provider": "simulator", "model": "m", "prompts": {"run": "outputs/first", "template": "x"}}')
    with pytest.raises(JobMistakesError) as found:
        api.run_sync(api.load_job(str(path)))
    assert f"{tmp_path}/outputs/first.simulated" in str(found.value)
    assert f"the simulated run of {tmp_path}/outputs/first;" in str(found.value)


def test_only_rows_for_which_where_holds_are_asked_for(project: Project) -> None:
    project.ask("one", "two", "three", more='checks: [{regex: "“two”", name: is-two}]')
    project.judge(where="not pass")
    assert [row["id"].split("-")[0] for row in project.rows()] == ["one", "three"]
    assert project.judge(where="{{ verdict['is-two'] == 'pass' }}").status.items.total == 1


def test_where_over_scores_of_a_run_without_scores_is_a_mistake(project: Project) -> None:
    project.ask("one")
    with pytest.raises(JobMistakesError, match=r"has no scores.jsonl"):
        project.judge(where="pass")


def test_a_row_that_where_breaks_on_is_named_by_its_id(project: Project) -> None:
    project.ask("one", "two")
    ids = [row["id"] for row in json_lines(project.upstream / "results.jsonl")]
    with pytest.raises(JobMistakesError, match=f"item `{ids[0]}`: prompts.where: .*ZeroDivisionError"):
        project.judge(where="{{ 1 // (index - 1) }}")
    skipping = project.judge(where="{{ 1 // (index - 1) }}", on_bad_row="skip")
    assert skipping.status.items.total == 1


def test_damaged_lines_are_named_or_skipped(project: Project) -> None:
    project.ask("one", "two")
    path = project.upstream / "results.jsonl"
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(JobMistakesError, match=r"results.jsonl: byte \d+: the line is not a row of a run"):
        project.judge()
    assert project.judge(on_bad_row="skip").status.items.total == 2


def test_a_sample_keeps_its_rows_when_the_seed_stays_and_rows_are_put_in_another_order(project: Project) -> None:
    project.ask(*questions(40))
    project.judge(sample={"n": 10, "seed": 3})
    chosen = {row["id"] for row in project.rows()}
    assert len(chosen) == 10
    project.edit(lambda rows: [row | {"index": 100 - row["index"]} for row in rows])
    project.judge(sample={"n": 10, "seed": 3})
    assert {row["id"] for row in project.rows()} == chosen
    assert project.second.stats.sends == 10
    project.judge(sample={"n": 10, "seed": 4})
    assert {row["id"] for row in project.rows()} != chosen


def test_an_item_that_is_renamed_upstream_costs_nothing_and_its_row_reports_it(project: Project) -> None:
    project.ask("one")
    project.judge()
    project.edit(lambda rows: [row | {"id": "renamed"} for row in rows])
    project.judge()
    assert [(row["id"], row["from"]["id"]) for row in project.rows()] == [("renamed", "renamed")]
    assert project.second.stats.sends == 1


def test_a_resumed_run_notices_rows_that_changed_by_hand(project: Project) -> None:
    project.ask("one", "two")
    project.judge()
    project.edit(lambda rows: [rows[0] | {"output": rows[0]["output"] | {"text": "Another."}}, *rows[1:]])
    assert project.judge().status.items.done == 2
    assert project.second.stats.sends == 3


def test_a_plan_shows_the_runs_that_it_is_made_of(project: Project) -> None:
    project.ask("one", "two")
    project.judge()
    third = project.folder / "third.yaml"
    third.write_text(project.job(run=str(project.second.out)).replace('"job"', '"third"'))
    found = api.on_a_fast_loop(api.plan(api.load_job(str(third), simulate=True)))
    assert [(one.dir, one.done, one.left) for one in found.upstream] == [
        (str(project.second.out), 2, 0),
        (str(project.upstream), 2, 0),
    ]
