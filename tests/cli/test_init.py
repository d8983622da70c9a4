"""`init`: a job that checks as it stands, the schema beside it, and what a file of prompts seems to hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchrunner.spec.schema import MODELINE, TEMPLATES, schema_text
from tests.support.command_line import CommandLine

SCHEMA = "batchrunner.schema.json"


def job(batchrunner: CommandLine, folder: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((batchrunner.folder / folder / "job.yaml").read_text())
    return loaded


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_checks_and_runs_as_it_stands(batchrunner: CommandLine, template: str) -> None:
    made = batchrunner("init", "new", "--template", template, "--json")
    assert made.json["schema"] == f"new/{SCHEMA}"
    assert (batchrunner.folder / "new" / SCHEMA).read_text() == schema_text()
    assert (batchrunner.folder / "new" / "job.yaml").read_text().startswith(MODELINE)
    assert batchrunner("check", "new/job.yaml").status == 0
    assert batchrunner("run", "new/job.yaml", "--simulate", "--limit", "2").status == 0


def test_the_templates_are_listed_and_an_unknown_one_is_a_mistake(batchrunner: CommandLine) -> None:
    assert [line.split()[0] for line in batchrunner("init", "--list").out.splitlines()] == list(TEMPLATES)
    assert batchrunner("init", "--list", "--json").json == {"templates": TEMPLATES}
    ran = batchrunner("init", "--template", "poem")
    assert (ran.status, "one of chat, images, embeddings, evaluate, dataset, judge, pipeline" in ran.err) == (2, True)


def test_no_schema_means_none(batchrunner: CommandLine) -> None:
    assert batchrunner("init", "--no-schema", "--json").json["schema"] is None
    assert [path.name for path in batchrunner.folder.iterdir()] == ["job.yaml"]
    assert "$schema" not in (batchrunner.folder / "job.yaml").read_text()


def test_a_schema_of_ours_is_renewed_and_one_of_somebody_else_stays(batchrunner: CommandLine) -> None:
    path = batchrunner.folder / SCHEMA
    path.write_text(schema_text().replace("Requests in flight", "Older words"))
    assert batchrunner("init").status == 0
    assert path.read_text() == schema_text()
    (batchrunner.folder / "job.yaml").unlink()
    path.write_text("{}")
    ran = batchrunner("init", "--json")
    assert (ran.json["schema"], path.read_text()) == (None, "{}")


def test_check_states_when_the_schema_for_editors_is_of_another_version(batchrunner: CommandLine) -> None:
    assert batchrunner("init").status == 0
    assert "for editors" not in batchrunner("check", "job.yaml").err
    path = batchrunner.folder / SCHEMA
    schema = json.loads(path.read_text())
    schema["$comment"] = "batchrunner 0.0.9"
    path.write_text(json.dumps(schema))
    assert "for editors is of batchrunner 0.0.9; renew it" in batchrunner("check", "job.yaml").err
    for text in ("{", "[]", '{"title": "another"}'):
        path.write_text(text)
        assert "for editors" not in batchrunner("check", "job.yaml").err
    path.unlink()
    assert "for editors" not in batchrunner("check", "job.yaml").err


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("p.csv", "id,question\n1,Why?\n2,How?\n", {"template": "{{ question }}", "id": "{{ id }}"}),
        ("p.csv", "id,question\n1,Why?\n1,How?\n", {"template": "{{ question }}"}),
        (
            "p.csv",
            "Nr;Sub Category;Frage\n1;x;Was ist das?\n2;x;Warum?\n",
            {"template": "{{ Frage }}", "id": "{{ Nr }}"},
        ),
        ("p.csv", "a b,c\nlong text here,1\n", {"template": "{{ a_b }}"}),
        ("p.tsv", "uid\tPrompt\nq1\tWhy?\n", {"template": "{{ Prompt }}", "id": "{{ uid }}"}),
        (
            "p.jsonl",
            '{"key": "a", "text": "x"}\n{"key": "b", "text": "y"}\n',
            {"template": "{{ text }}", "id": "{{ key }}"},
        ),
        ("p.txt", "one\ntwo\n", {}),
        ("new\nline\x85\x1b.txt", "one\ntwo\n", {}),
        ("lines.csv", '"a\nprompt: text"\none\n', {"template": "{{ a_prompt__text }}"}),
    ],
)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_file_of_prompts_becomes_the_source_with_its_columns(
    batchrunner: CommandLine, template: str, name: str, text: str, prompts: dict[str, str]
) -> None:
    (batchrunner.folder / name).write_text(text)
    assert batchrunner("init", "jobs", "--from", name, "--template", template).status == 0
    made = job(batchrunner, "jobs")
    delimiter = {"delimiter": ";"} if ";" in text else {}
    assert made["prompts"] == {"file": f"../{name}", **prompts, **delimiter}
    assert "matrix" not in made
    ran = batchrunner("check", "jobs/job.yaml")
    assert ran.status == 0, ran.err


def test_a_folder_and_a_batch_file_need_no_template(batchrunner: CommandLine) -> None:
    folder = batchrunner.folder / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    request = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    }
    (batchrunner.folder / "batch.jsonl").write_text(json.dumps(request) + "\n")
    for number, source in enumerate(("texts", "batch.jsonl")):
        assert batchrunner("init", f"new{number}", "--from", source).status == 0
        assert job(batchrunner, f"new{number}")["prompts"] == {"file": f"../{source}"}


@pytest.mark.parametrize(
    ("name", "text"), [("none.csv", None), ("empty.csv", ""), ("p.docx", "x"), ("head.csv", "a,b\n")]
)
def test_a_file_that_is_no_source_is_a_mistake_and_nothing_is_written(
    batchrunner: CommandLine, name: str, text: str | None
) -> None:
    if text is not None:
        (batchrunner.folder / name).write_text(text)
    assert batchrunner("init", "new", "--from", name).status == 2
    assert not Path(batchrunner.folder / "new").exists()


def test_a_judge_lies_beside_its_job_and_works_with_the_command_that_is_named(batchrunner: CommandLine) -> None:
    made = batchrunner("init", "new", "--template", "judge", "--json").json
    assert (batchrunner.folder / "new" / "helpful.yaml").is_file()
    assert made["next_command"].endswith("run new/job.yaml --simulate")
    told = batchrunner("run", "new/job.yaml", "--simulate", "--json")
    assert told.status == 0, told.err
    assert any(note.startswith("judge helpful: 4 of 4 done") for note in told.json["notes"])


def test_a_pipeline_is_two_jobs_that_run_with_the_command_that_is_named(batchrunner: CommandLine) -> None:
    made = batchrunner("init", "new", "--template", "pipeline", "--json").json
    _, _, command = made["next_command"].partition(" run ")
    assert command == "new/job.yaml new/critique.yaml --simulate"
    ran = batchrunner("run", *command.split(), "--json")
    assert [(job["job"], job["items"]["done"]) for job in ran.json["jobs"]] == [("questions", 3), ("critique", 3)]
    (batchrunner.folder / "new" / "job.yaml").unlink()
    again = batchrunner("init", "new", "--template", "pipeline")
    assert (again.status, "critique.yaml: already exists" in again.err) == (2, True)
    assert not (batchrunner.folder / "new" / "job.yaml").exists()
