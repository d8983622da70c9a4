"""`check` lists every mistake, whichever room finds it; a cap is told."""

import json
from pathlib import Path

import pytest

from batchrunner.cli.main import main
from batchrunner.cli.output import MOST_SHOWN


def checked(capsys: pytest.CaptureFixture[str], *jobs: Path) -> tuple[list[dict[str, object]], str]:
    assert main(("check", *map(str, jobs), "--json")) == 2
    shown = capsys.readouterr()
    return json.loads(shown.out)["mistakes"], shown.err


def job(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_mistakes_of_keys_templates_rows_and_pictures_are_listed_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "p": "none.png"}\nno json\n')
    first = job(
        tmp_path,
        "a.yaml",
        "provider: simulator\nmodel: m\nlimits: {concurency: 3}\nreplicas: many\nbreaker: 2\noutput: {each: '/x'}\n"
        "prompts: {file: rows.jsonl, template: '{{ q }}', id: '{{ broken'}\nimages: ['{{ p }}']\n",
    )
    second = job(tmp_path, "b.yaml", "provider: simulator\nmodel: m\nprompts: [a, '{{ x }} and {{ y }}', '{{ }}']\n")
    third = job(tmp_path, "c.yaml", "provider: simulator\nmodel: [\n")
    found, _ = checked(capsys, first, second, third)
    where = [(Path(str(mistake.get("file"))).name, mistake.get("line"), mistake.get("key")) for mistake in found]
    keys = {key for _, _, key in where}
    assert ("a.yaml", 3, "limits.concurency") in where
    assert ("a.yaml", 4, "replicas") in where
    assert {"prompts.id", "output.each", "prompts[2].prompt"} <= keys
    assert ("rows.jsonl", 1, "images[0]") in where
    assert ("rows.jsonl", 2, None) in where
    assert {mistake["problem"] for mistake in found if "the template uses" in str(mistake["problem"])} == {
        "the template uses `x`, which is unknown here",
        "the template uses `y`, which is unknown here",
    }
    assert "c.yaml" in {name for name, _, _ in where}


@pytest.mark.parametrize("broken", ["matrix: 3", "messages: 5", "model: [x]", "kind: picture", "params: []"])
def test_a_broken_key_that_prompts_depend_on_makes_up_no_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    key = broken.partition(":")[0]
    lines = {
        "model": "model: m", "matrix": "matrix: {style: [a, b]}", "prompts": "prompts: ['{{ style }}']",
        "provider": "provider: simulator",
    }  # fmt: skip
    lines[key] = broken
    found, _ = checked(capsys, job(tmp_path, "a.yaml", "\n".join(lines.values())))
    assert {str(mistake["key"]) for mistake in found} == {key}


def test_more_mistakes_than_a_person_is_shown_are_counted_and_json_has_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text("no json\n" * (MOST_SHOWN + 55))
    text = "provider: simulator\nmodel: m\nprompts: {file: rows.jsonl}\n"
    found, words = checked(capsys, job(tmp_path, "a.yaml", text))
    assert len(found) == MOST_SHOWN + 55
    assert len(words.splitlines()) == MOST_SHOWN + 1
    assert f"and 55 more errors, {MOST_SHOWN + 55} in all" in words.splitlines()[-1]


FILES = {
    "fine.py": "def good(row):\n    return True\nnumber = 3\n",
    "broken.py": "def good(row)\n    return True\n",
    "needy.py": "import no_such_library\n",
    "ends.py": "import os\nos._exit(3)\n",
}


@pytest.mark.parametrize(
    ("check", "key", "problem"),
    [
        ('python: "gone.py:good"', "python", "the file gone.py cannot be read: No such file or directory"),
        ('python: "folder.py:good"', "python", "the file folder.py cannot be read: Is a directory"),
        ('not: {python: "fine.py:bad"}', "not.python", "there is no function `bad`"),
        ('python: "fine.py:number"', "python", "there is no function `number`"),
        ('python: "broken.py:good"', "python", "broken.py: SyntaxError: expected ':' (broken.py, line 1)"),
        ('python: "needy.py:good"', "python", "needy.py: ModuleNotFoundError: No module named 'no_such_library'"),
        ('python: "ends.py:good"', "python", "ends.py: the process that makes the check ended: exit status 3"),
        ('equals: "{{ half"', "equals", "not a valid template"),
        ('{number: "42", when: "{{ 1 +"}', "when", "not a valid template"),
    ],
)
def test_a_check_that_could_never_be_made_is_a_mistake_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], check: str, key: str, problem: str
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "folder.py").mkdir()
    path = job(
        tmp_path,
        "a.yaml",
        f"provider: simulator\nmodel: m\nprompts: [a]\nchecks:\n- contains: a\n- python: 'fine.py:good'\n- {check}\n",
    )
    (found,), _ = checked(capsys, path)
    assert (found["file"], found["line"], found["key"]) == (str(path), 7, f"checks[2].{key}")
    assert problem in str(found["problem"])


def test_a_name_in_a_check_that_no_item_has_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job(
        tmp_path,
        "a.yaml",
        "provider: simulator\nmodel: m\nprompts: [{prompt: a, vars: {answer: b}}]\n"
        "checks: [{equals: '{{ answer }}'}, {equals: '{{ anwser }}', when: '{{ model == prompt_id }}'}]\n",
    )
    assert main(("check", str(path), "--json")) == 0
    (found,) = json.loads(capsys.readouterr().out)["jobs"]
    assert [note for note in found["notes"] if note.startswith("checks[")] == [
        "checks[1]: its template uses `anwser`, which is no field of a row and no column of the first 1 item"
    ]
