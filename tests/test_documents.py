"""What README.md, the other pages at the top and docs/ say is so: names, options, examples, and what commands print."""

import ast
import asyncio
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import typer.main
import yaml

from batchrunner import api
from batchrunner.cli import main as command_line
from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import Source
from batchrunner.core.places import is_remote
from batchrunner.prompts import check_items
from batchrunner.spec.schema import MODELINE, schema_text
from tests.support.documents import (
    PAGES,
    ROOT,
    TOP,
    USING,
    VARIES,
    Block,
    Reader,
    alike,
    blocks,
    name_of,
    prose,
    same,
    sessions,
)
from tools import job_file_page

DOCS: Final = ROOT / "docs"
PROGRAM: Final = ROOT / "batchrunner"
WITH_CONSOLES: Final = [page for page in (ROOT / "README.md", *USING) if blocks(page, "console")]
OF_A_RECIPE: Final = {"providers/openai_completions.py", "prompts/sources/named_lines.py", "exporters/ids.py"}
"""Files that a reader of CONTRIBUTING.md makes."""
NOT_HERE: Final = {"report.html", "send-mail.sh"}


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 250


def shape(line: str) -> tuple[str, int, frozenset[str]] | None:
    """What is the same in every language: a heading's level, points of a list, a row's cells and the code in it."""
    begin = re.match(r"#+ |- |\| ?|<!--", line)
    return (begin[0], line.count(" | "), frozenset(re.findall(r"`[^`]+`", line))) if begin else None


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)]+)\)", prose(page))
    return [link for link in found if link not in ("README.md", "README.zh.md")]


def test_the_chinese_readme_has_the_same_code_sections_tables_and_links() -> None:
    here, there = ROOT / "README.md", ROOT / "README.zh.md"
    assert [(block.language, block.code) for block in blocks(there)] == [
        (block.language, block.code) for block in blocks(here)
    ]
    assert [shape(line) for line in prose(there).splitlines() if shape(line)] == [
        shape(line) for line in prose(here).splitlines() if shape(line)
    ]
    assert links(there) == links(here)


# --- examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WITH_CONSOLES, ids=name_of)
def test_a_terminal_shows_what_a_page_shows(page: Path, tmp_path: Path) -> None:
    """Console blocks are typed in order, in a folder with the example jobs; then the page's Python is run."""
    reader = Reader(folder=tmp_path)
    reader.prepare()
    for block in blocks(page, "yaml", "console"):
        if block.saved_as:
            reader.save(block)
        for command, expected in sessions(block) if block.language == "console" else ():
            if command.startswith("make "):
                assert command.split()[1] in targets(), command
                continue
            shown = reader.type(command)
            agree = alike if VARIES in block.before and shown else same
            if "timeout -s KILL" not in command:
                assert agree(shown, expected), "\n".join([command, *shown])
    if page == ROOT / "README.md":
        _the_row_is_as_shown(blocks(page, "json")[0], tmp_path / "outputs" / "first.simulated" / "results.jsonl")


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def _the_row_is_as_shown(block: Block, results: Path) -> None:
    shown = json.loads(block.code)
    (row,) = [row for row in map(json.loads, results.read_text("utf-8").splitlines()) if row["id"] == shown["id"]]
    assert list(row) == list(shown)
    for field in row.keys() - {"started_at", "seconds", "key", "output"}:
        assert row[field] == shown[field], field
    assert list(row["output"]) == list(shown["output"])
    for field, value in shown["output"].items():
        begin = value.partition("…")[0] if isinstance(value, str) else value
        assert row["output"][field] == value or str(row["output"][field]).startswith(str(begin)), field


@pytest.mark.parametrize("page", [DOCS / "python.md", DOCS / "outputs.md"], ids=name_of)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Where a block needs a library that is not there, only what is above it in the block is run."""
    reader = Reader(folder=tmp_path)
    reader.prepare()
    reader.type("batchrunner run jobs/demo-chat.yaml --quiet --limit 3")
    for block in blocks(page, "python"):
        tree = ast.parse(block.code)
        wanted = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        if any(importlib.util.find_spec(name) is None for name in wanted):
            continue
        done = subprocess.run(
            [sys.executable, "-c", block.code], cwd=tmp_path, env=reader.environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("page", [page for page in (*TOP, *USING) if blocks(page, "yaml")], ids=name_of)
def test_the_jobs_of_a_page_pass_check(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs" / "data", tmp_path / "data")
    for number, block in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"job{number}.yaml"
        file.write_text(block.code, encoding="utf-8")
        job = api.load_job(str(file))
        if isinstance(job.prompts, Source) and is_remote(job.prompts.path):
            continue  # it is loaded without a mistake, and nobody's bucket is asked
        # what it reads is made by another job
        is_later = job.reuse or (isinstance(job.prompts, Source) and job.prompts.run)
        mistakes = asyncio.run(check_items(job)) if is_later else asyncio.run(api.check(job)).mistakes
        assert mistakes == (), block.code


# --- the command line ---------------------------------------------------------------------------------------------


@cache
def options() -> dict[str, set[str]]:
    """The options of each command."""
    group: Any = typer.main.get_command(command_line.build())
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        | {"--help", "-h"}
        for name, command in group.commands.items()
    }


def commands_of(page: Path) -> list[list[str]]:
    """Every `batchrunner …` in blocks of shell and in the text, as words."""
    lines = [line for block in blocks(page, "sh", "console") for line in block.code.splitlines()]
    lines += re.findall(r"`(batchrunner [^`]+)`", prose(page))
    return [
        shlex.split(found[1], comments=True)
        for line in lines
        for found in [re.match(r"(?:\$ )?(?:\.venv/bin/)?batchrunner ([a-z].*)", line)]
        if found
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_of_a_page_exists(page: Path) -> None:
    for command, *words in commands_of(page):
        assert command in options(), command
        given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
        assert given <= options()[command], (command, words)
    if page in (*USING, ROOT / "README.md"):
        loose = set(re.findall(r"`(--[a-z-]+)[^`]*`", prose(page)))
        assert loose <= {"--version", *(option for of_one in options().values() for option in of_one)}


def first_cells(page: Path, heading: str) -> list[str]:
    """The first cells of the table below a heading, without its head."""
    section = page.read_text("utf-8").split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    return [line.split(" | ")[0].strip("| ") for line in section.splitlines() if line.startswith("| ")][1:]


def test_the_page_of_commands_has_them_all_and_every_exit_status() -> None:
    page = DOCS / "commands.md"
    table = page.read_text("utf-8").split("\n## ", 1)[0]
    assert re.findall(r"^\| `batchrunner (\w+)", table, re.MULTILINE) == list(options())
    assert [int(cell) for cell in first_cells(page, "## Exit statuses")] == [int(status) for status in ExitStatus]


JOB: Final = "provider: simulator\nmodel: m\nprompts: [a]\n"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("json")
    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    reader = Reader(folder=folder)
    reader.type("batchrunner run job.yaml --quiet")
    return reader


@pytest.mark.parametrize(
    ("heading", "command"),
    [
        ("### run and status", "run job.yaml"),
        ("### run and status", "status outputs/job.simulated"),
        ("### check", "check job.yaml"),
        ("### plan", "plan job.yaml"),
        ("### rehearse", "rehearse job.yaml"),
        ("### verify", "verify outputs/job.simulated"),
        ("### export", "export outputs/job.simulated --to csv"),
        ("### report", "report outputs/job.simulated"),
    ],
)
def test_the_page_of_commands_has_every_field_of_their_json(reader: Reader, heading: str, command: str) -> None:
    printed = json.loads(reader.type(f"batchrunner {command} --json")[-1])
    told = [name for cell in first_cells(DOCS / "commands.md", heading) for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(told) == sorted(printed)
    whole = (DOCS / "commands.md").read_text("utf-8").split(heading, 1)[1].split("\n#", 1)[0]
    for part in ("items", "sends", "usage", "checked"):
        if heading in ("### run and status", "### verify") and part in printed:
            assert {name for name in printed[part] if f"`{name}`" not in whole} == set()


# --- names ----------------------------------------------------------------------------------------------------------


def exists(name: str, page: Path) -> bool:
    roots = (ROOT, PROGRAM, ROOT / "tests", DOCS, page.parent)
    return (
        any((root / name).exists() for root in roots) or any(PROGRAM.rglob(name)) or any((ROOT / "tests").rglob(name))
    )


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != DOCS / "adr"], ids=name_of)
def test_every_file_and_folder_that_a_page_names_exists(page: Path) -> None:
    """Decisions are left out: they say what was so when they were made."""
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|toml))`", prose(page)))
    if page in TOP:
        named |= set(re.findall(r"`((?:[\w.-]+/)+)`", prose(page)))
        named |= set(re.findall(r"(?<=[ ►])([a-z_]+(?:/[a-z_]+)*(?:\.py|/))(?=[ )])", "\n".join(drawn(page))))
    absent = {name for name in named - OF_A_RECIPE if not exists(name, page)}
    assert absent == set()


def drawn(page: Path) -> list[str]:
    return [f" {line} " for block in blocks(page, "text") for line in block.code.splitlines()]


@cache
def defined() -> set[str]:
    """Names of classes, functions, constants and aliases of the program."""
    names: set[str] = set()
    for path in PROGRAM.rglob("*.py"):
        names |= set(re.findall(r"^\s*(?:class|def|async def) (\w+)", path.read_text("utf-8"), re.MULTILINE))
        names |= set(re.findall(r"^(\w+)(?:: [^=]+)? = ", path.read_text("utf-8"), re.MULTILINE))
    return names


@pytest.mark.parametrize("page", [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_every_class_and_table_that_a_page_on_the_code_names_exists(page: Path) -> None:
    named = set(re.findall(r"`(_?[A-Z]\w*[a-z]\w*|_?[A-Z][A-Z_]+)`", prose(page)))
    of_tests = (ROOT / "tests" / "providers" / "test_every_cut.py").read_text("utf-8")
    assert {name for name in named - defined() if name not in of_tests} == set()


def test_the_modules_that_a_contributor_copies_are_typed_and_lint_clean(tmp_path: Path) -> None:
    for number, block in enumerate(blocks(ROOT / "CONTRIBUTING.md", "python")):
        (tmp_path / f"copied_{number}.py").write_text(block.code)
    for check in (["mypy"], ["ruff", "check", "--ignore", "INP001"]):
        command = [sys.executable, "-m", *check, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_page_on_the_architecture_has_every_package() -> None:
    text = "\n".join(drawn(ROOT / "ARCHITECTURE.md"))
    packages = {path.parent.name for path in PROGRAM.glob("*/__init__.py")}
    assert {name for name in packages if f" {name}/ " not in text} == set()


def test_the_list_of_decisions_is_complete() -> None:
    index = (DOCS / "adr" / "README.md").read_text("utf-8")
    for path in sorted((DOCS / "adr").glob("0*.md")):
        heading = re.match(r"# (\d{4}): (.+)", path.read_text("utf-8"))
        assert heading, f"{path.name}: its first line is `# {path.name[:4]}: the decision`"
        number, title = heading.groups()
        row = f"| [{number}]({path.name}) | {title} |"
        assert row in index, f"docs/adr/README.md: add {row}"


def test_the_glossary_is_in_order() -> None:
    words = [line.split(" | ")[0].strip("| ") for line in (DOCS / "glossary.md").read_text("utf-8").splitlines()]
    words = [word for word in words if re.fullmatch(r"[a-z ]+", word)][1:]  # without the table's head
    assert words == sorted(words)


def test_the_site_builds_and_a_dead_link_is_an_error(tmp_path: Path) -> None:
    """What `make docs` does. mkdocs lives in an environment of its own, so that nothing else depends on it."""
    if not (ROOT / ".venv-docs" / "bin" / "python").exists():
        pytest.skip("mkdocs is not there: `make docs` installs it into .venv-docs")
    for name in (
        "docs",
        "jobs",
        "examples",
        "tools",
        "tests/README.md",
        "mkdocs.yml",
        "LICENSE",
        *(path.name for path in ROOT.glob("*.md")),
    ):
        source, copy = ROOT / name, tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    assert _site(tmp_path) == (0, "")
    assert (tmp_path / ".site" / "docs" / "job-file.html").exists()
    with (tmp_path / "docs" / "python.md").open("a") as page:
        page.write("[a](nowhere.md) [b](commands.md#nothing) [c](../jobs/none.yaml)\n")
    status, warnings = _site(tmp_path)
    assert (status, warnings.count("WARNING")) == (1, 3), warnings


def _site(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [ROOT / ".venv-docs" / "bin" / "python", "-m", "mkdocs", "build", "--strict"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("INFO")]
    return done.returncode, "\n".join(lines)


# --- the job file ---------------------------------------------------------------------------------------------------


def test_the_page_on_the_job_file_is_the_one_that_the_schema_makes() -> None:
    assert job_file_page.PAGE.read_text("utf-8") == job_file_page.page(), "run `make pages`"


def test_the_example_jobs_name_a_schema_for_editors_that_is_todays() -> None:
    assert job_file_page.SCHEMA.read_text("utf-8") == schema_text(), "run `make pages`"
    assert {path.read_text("utf-8").splitlines(keepends=True)[0] for path in (ROOT / "jobs").glob("*.yaml")} == {
        MODELINE
    }


BESIDE: Final[dict[str, dict[str, Any]]] = {
    "cache": {"provider": "anthropic"},
    "kind": {"provider": "modelscope"},
    "images": {"prompts": [{"prompt": "a", "vars": {"photo": "data/pictures/boat.png"}}]},
    "provider.api_version": {"provider": {"preset": "openai", "base_url": "https://a.openai.azure.com/openai"}},
    "provider.auth": {"provider": {"preset": "openai", "base_url": "https://a.openai.azure.com/openai"}},
    "provider.proxy_auth_env": {"provider": {"preset": "openai", "proxy": "http://proxy:3128"}},
    "provider.balance": {"provider": {"preset": "modelscope"}},
    "provider.points_per_day": {"provider": {"preset": "modelscope"}},
    "provider.points_per_call": {"provider": {"preset": "modelscope"}, "model": "Qwen/Qwen-Image"},
    "limits.inputs_per_request": {"kind": "embedding", "limits": {}},
    "budget.money": {"budget": {"prices": {"m": {"input": 1}}}},
    "budget.currency": {"budget": {"prices": {"m": {"input": 1}}}},
    "budget.prices.{}.picture": {"provider": "modelscope", "kind": "image"},
    "budget.prices.{}.batch": {"budget": {"prices": {"m": {"input": 1}}}},
    "budget.prices.{}.cache_read": {"budget": {"prices": {"m": {"input": 1}}}},
    "budget.prices.{}.cache_write": {"budget": {"prices": {"m": {"input": 1}}}},
    "budget.prices": {"model": "Qwen/Qwen3-8B"},
    "budget.points": {"provider": {"preset": "modelscope"}},
    **{f"checks.[].{option}": {"checks": [{"any": "a"}]} for option in ("counts", "ignore_case", "name", "of", "when")},
    **{f"checks.[].{option}": {"checks": [{"number": 1}]} for option in ("take", "decimal")},
    "prompts.run": {"prompts": {}},
    "prompts.unfinished": {"prompts": {"run": "outputs/questions"}},
    "prompts.count": {"prompts": {"draw": {"topic": ["a"]}, "template": "{{ topic }}"}},
    "notify.on": {"notify": {"command": "./send-mail.sh"}},
    "provider.task": {"provider": {"dialect": "task"}, "kind": "image"},
    "provider.body_file": {"provider": {"dialect": "task", "task": "comfyui"}, "kind": "image"},
    "output.max_mb": {"provider": {"dialect": "task", "task": "luma"}, "kind": "media"},
}
"""What an example needs beside it to be a part of a sound job."""
PLACES: Final[dict[str, dict[str, Any]]] = {
    "provider": {"provider": {"preset": "openai"}},
    "models": {"models": {"first": "m", "then": "n"}},
    "prompts": {"prompts": {"file": "data/questions.csv", "template": "{{ question }}"}},
    "prompts.[]": {"prompts": [{"prompt": "A {{ animal }}", "vars": {"animal": "dog"}}]},
    "prompts.sample": {"prompts": {"file": "data/questions.csv", "sample": {"n": 1}}},
    "prompts.group": {"prompts": {"file": "data/questions.csv", "group": {"by": "subject", "size": 1}}},
    "prompts.draw.{}": {"prompts": {"count": 3, "draw": {"m": {"file": "data/questions.csv"}}}},
    "messages.[]": {"messages": [{"role": "user", "content": "{{ prompt }}"}]},
    "budget.prices.{}": {"budget": {"prices": {"m": {}}}},
    "window.[]": {"window": [{"days": "mon"}]},
    "checks.[]": {"checks": [{}]},
    **{f"checks.[].{kind}": {"checks": [{kind: {}}]} for kind in ("json", "length", "within", "picture")},
    "checks.[].judge": {"checks": [{"judge": {"use": "judge.yaml"}}]},
}


def job_with(path: str, example: str) -> dict[str, Any]:
    """A small job with the example at its place."""
    part, _, key = path.rpartition(".")
    job: dict[str, Any] = yaml.safe_load(JOB)
    job |= deepcopy(PLACES.get(part, {part: {}} if part else {}) | BESIDE.get(path, {}))
    if key == "models" or part == "models":
        del job["model"]
    place: Any = job
    for step in filter(None, part.split(".")):
        place = place[0] if step == "[]" else place["m"] if step == "{}" else place[step]
    place |= yaml.safe_load(example)
    return job


@pytest.mark.parametrize("path", sorted(job_file_page.EXAMPLES))
def test_an_example_of_a_key_is_a_part_of_a_valid_job(path: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs" / "data", tmp_path / "data")
    (tmp_path / "our-ca.pem").write_text("")
    (tmp_path / "graph.json").write_text('{"6": {"inputs": {"text": "{{ prompt }}"}}}')
    text = yaml.safe_dump(job_with(path, job_file_page.EXAMPLES[path]))
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    api.load_job(str(tmp_path / "job.yaml"))


def test_nothing_on_the_page_of_the_job_file_is_about_a_key_that_is_not_there() -> None:
    """The page itself fails for a key without an example; these are the other way round."""
    keys = {
        ".".join((*part, key)) for part, model in job_file_page.PARTS.items() for key in job_file_page.keys_of(model)
    }
    assert set(job_file_page.EXAMPLES) == keys
    assert set(job_file_page.DEFAULTS) <= keys
    assert set(job_file_page.NOTES) <= keys
