"""The tables of tests/README.md and the pages of docs/ tell the truth: every number, test and link is there."""

import ast
import asyncio
import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, get_args

import pytest

from batchrunner import api
from batchrunner.core import rate_limiter_tuning as tuning
from batchrunner.core.events import Event
from batchrunner.core.http import ResponseHead
from batchrunner.core.lifecycle import LIFECYCLE
from batchrunner.core.outcome import ProblemKind
from batchrunner.core.sign import Family
from batchrunner.providers.error_bodies import refusal

TESTS: Final = Path(__file__).parent
TABLES: Final = {"Invariant": ("## Invariants", 23), "Threat": ("## Threats", 16)}
_NAMES = re.compile(r"`(?:([\w/]+\.py)|(test_\w+))`")
_NUMBERS = re.compile(r"(?:invariant|threat)s?((?:[\s,]|\d|\band\b|\bto\b|\bbut\b)+)", re.IGNORECASE)


class Row(NamedTuple):
    """A row of a table: its number, the tests that say it with the files they stand in, and further tests."""

    kind: str
    number: int
    tests: tuple[tuple[str, str], ...]
    more: tuple[str, ...]


def rows() -> list[Row]:
    text = (TESTS / "README.md").read_text("utf-8")
    found: list[Row] = []
    for kind, (title, _) in TABLES.items():
        table = text.split(f"\n{title}", 1)[1].split("\n## ", 1)[0]
        for line in re.findall(r"^\| \d.*\|$", table, re.MULTILINE):
            _, number, _, tests, more, _ = line.split("|")
            found.append(Row(kind, int(number), tuple(_tests(tests)), tuple(re.findall(r"`(test_\w+)`", more))))
    return found


def _tests(cell: str) -> list[tuple[str, str]]:
    """(file, test) pairs: a file's name counts until the next one."""
    file, pairs = "", []
    for path, test in _NAMES.findall(cell):
        file = path or file
        if test:
            pairs.append((file, test))
    return pairs


@cache
def named_in(file: str) -> dict[str, str]:
    """The tests of a file and their docstrings."""
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return {
        node.name: ast.get_docstring(node) or ""
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@cache
def all_tests() -> frozenset[str]:
    files = [str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py")]
    return frozenset(name for file in files for name in named_in(file))


def numbers_in(text: str, kind: str) -> set[int]:
    """The numbers that follow the word: `Invariants 1 to 6, 9 and 11`, `1 to 20 but 7 and 17`."""
    found: set[int] = set()
    for words in (match for match in _NUMBERS.finditer(text) if match[0].lower().startswith(kind.lower())):
        kept, _, dropped = words[1].partition("but")
        found |= _spans(kept) - _spans(dropped)
    return found


def _spans(words: str) -> set[int]:
    spans = re.findall(r"(\d+)(?:\s+to\s+(\d+))?", words)
    return {number for first, last in spans for number in range(int(first), int(last or first) + 1)}


@pytest.mark.parametrize("kind", TABLES)
def test_every_number_stands_in_its_table_once(kind: str) -> None:
    assert [row.number for row in rows() if row.kind == kind] == list(range(1, TABLES[kind][1] + 1))


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.kind} {row.number}")
def test_every_test_of_a_row_exists_and_states_its_number(row: Row) -> None:
    assert row.tests
    for file, test in row.tests:
        assert file, f"{test} stands in no file"
        assert test in named_in(file), f"{file} has no {test}"
        assert row.number in numbers_in(named_in(file)[test], row.kind), f"{test} does not say {row.kind} {row.number}"
    assert set(row.more) <= all_tests()


def test_every_folder_of_tests_is_reported_of() -> None:
    text = (TESTS / "README.md").read_text("utf-8")
    folders = {path.parent.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py") if path.parent != TESTS}
    assert {folder for folder in folders if f"`{folder}/`" not in text} == set()


def test_numbers_are_read_as_they_are_written() -> None:
    assert numbers_in("Invariants 1 to 3, 5 and 7 to 9 but 8: x", "Invariant") == {1, 2, 3, 5, 7, 9}
    assert numbers_in("Threat 2, invariants 18 and 19.", "Invariant") == {18, 19}
    assert numbers_in("Threat 2, invariants 18 and 19.", "Threat") == {2}
    assert numbers_in("see section 5", "Threat") == set()


DOCS: Final = TESTS.parent / "docs"
PROVIDERS: Final = sorted(set(DOCS.glob("providers/*.md")) - {DOCS / "providers" / "README.md"})
FAMILIES: Final[dict[str, Family]] = {"modelscope.md": "modelscope", "anthropic.md": "anthropic"}
PAGES: Final = sorted([*DOCS.rglob("*.md"), *TESTS.parent.glob("*.md"), TESTS / "README.md"])


def pages_name(page: Path) -> str:
    return page.relative_to(TESTS.parent).as_posix()


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings get from GitHub: lower case, spaces as hyphens, other signs left out."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def links_of(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=pages_name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    dead = []
    for link in links_of(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=pages_name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text("utf-8")))
    assert named - all_tests() - {path.stem for path in TESTS.rglob("test_*.py")} == set()


@pytest.mark.parametrize("page", PROVIDERS, ids=pages_name)
def test_the_jobs_of_a_page_on_a_provider_pass_check(page: Path, tmp_path: Path) -> None:
    jobs = re.findall(r"^```yaml\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert jobs, "a page on a provider shows a job"
    for number, text in enumerate(jobs):
        file = tmp_path / f"job{number}.yaml"
        file.write_text(text, encoding="utf-8")
        assert asyncio.run(api.check(api.load_job(str(file)))).mistakes == (), text


@pytest.mark.parametrize("page", PROVIDERS, ids=pages_name)
def test_the_refusals_of_a_page_on_a_provider_have_the_class_that_it_states(page: Path) -> None:
    rows = re.findall(r"^\| (\d{3}) \| (?:`(.*)` )?\| `(\w+)` \|$", page.read_text("utf-8"), re.MULTILINE)
    assert rows, "a page on a provider shows what its refusals come to"
    for status, body, kind in rows:
        head = ResponseHead(status=int(status), headers={}, received_at=1_790_000_000.0)
        assert refusal(FAMILIES.get(page.name, "openai"), head, body.encode()).kind == kind, (status, body)


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, without the tables' heads."""
    section = (DOCS / page).read_text("utf-8").split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = {place for place, row in enumerate(cells) if set("".join(row)) <= set("-| ")}
    return [row for place, row in enumerate(cells) if place not in rules and place + 1 not in rules]


def code_in(cell: str) -> set[str]:
    return {word for code in re.findall(r"`([^`]+)`", cell) for word in code.split()}


def test_the_page_on_reliability_has_every_event_with_every_field() -> None:
    told = {frozenset(code_in(row[0])): code_in("".join(row[1:])) for row in rows_of("reliability.md", "### Events")}
    missing = {
        (kind.__struct_config__.tag, name)
        for kind in get_args(Event)
        for name in kind.__struct_encode_fields__
        if name not in told.get(frozenset({str(kind.__struct_config__.tag)}), set())
    }
    assert missing == set(), "docs/reliability.md, table of events: add the field to the row of its event"


def test_the_page_on_reliability_has_the_lifecycle_as_it_is() -> None:
    steps = set()
    for came_from, events, to, _ in (row for row in rows_of("reliability.md", "## The life cycle of an item")):
        ends = to.split(", ")
        for place, event in enumerate(re.findall(r"`(\w+)`", events)):
            steps.add((came_from, event, ends[min(place, len(ends) - 1)]))
    table = {
        (here.name.lower(), str(step.__struct_config__.tag), there.name.lower())
        for (here, step), there in LIFECYCLE.items()
    }
    assert steps == table


def test_the_page_on_limits_has_every_constant_of_the_limiter() -> None:
    told = {word for row in rows_of("limits.md", "## Constants") for word in code_in(row[0])}
    constants = {name for name in vars(tuning) if name.isupper()}
    assert constants - told == set(), "docs/limits.md, table of constants: add it with unit and reason"


@pytest.mark.parametrize("heading", ["## Constants", "### Polls and downloads of image tasks", "### Sizes"])
def test_the_page_on_limits_names_constants_that_are_there(heading: str) -> None:
    for row in rows_of("limits.md", heading):
        words = code_in(row[0])
        files = [word for word in words if "/" in word] or ["core/rate_limiter_tuning.py"]
        sources = "\n".join((DOCS.parent / "batchrunner" / file).read_text("utf-8") for file in files)
        for name in filter(str.isupper, words):
            assert re.search(rf"^{name}\b[^=\n]*= ", sources, re.MULTILINE), f"{name} is not in {files}"


def test_the_page_on_providers_has_every_class_of_problems() -> None:
    told = {word for row in rows_of("providers/README.md", "## Classes of problems") for word in code_in(row[0])}
    assert {kind.value for kind in ProblemKind} ^ told == set()


def test_code_cites_pages_that_are_there_and_no_others() -> None:
    files = [*(TESTS.parent / "batchrunner").rglob("*.py"), *TESTS.rglob("*.py")]
    absent = {
        f"{path.relative_to(TESTS.parent)}: {found}"
        for path in files
        for text in [path.read_text("utf-8")]
        for found in [
            *re.findall(r"\b(?:PROTOCOL|RELIABILITY|DESIGN)(?:\.md)? (?:section )?\d", text),
            *(
                f"{page}#{anchor}"
                for page, anchor in re.findall(r"docs/([\w/-]+\.md)(?:#([\w-]+))?", text)
                if not (DOCS / page).exists() or (anchor and anchor not in anchors_of(DOCS / page))
            ),
        ]
    }
    assert absent == set()
