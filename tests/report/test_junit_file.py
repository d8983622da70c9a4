"""`compare --junit`: a file that Jenkins' schema takes, that another program counts alike, in no other file's place."""

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import junitparser
import pytest

import batchrunner
from batchrunner.core.errors import JobMistakesError
from batchrunner.report.comparing import CompareOptions, open_runs
from batchrunner.report.comparison_words import comparison_words
from batchrunner.report.junit_file import require_place, write_junit
from tests.support.scored_run import row, scores_of, write_run

_TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?")
_COUNT = re.compile(r"\d+")
_ANY = re.compile(r".*", re.DOTALL)
SCHEMA: dict[str, tuple[set[str], dict[str, re.Pattern[str]], set[str]]] = {
    # element: (children, attributes with their form, attributes that must be there)
    "testsuites": (
        {"testsuite"},
        {"name": _ANY, "time": _TIME, "tests": _COUNT, "failures": _COUNT, "errors": _COUNT},
        set(),
    ),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {
            **dict.fromkeys(("name", "group", "timestamp", "hostname", "id", "package", "file", "url"), _ANY),
            **dict.fromkeys(("tests", "failures", "errors", "skipped"), _COUNT),
            "time": _TIME,
        },
        {"name", "tests", "failures", "errors"},
    ),
    "properties": ({"property"}, {}, set()),
    "property": (set(), {"name": _ANY, "value": _ANY}, {"name", "value"}),
    "testcase": (
        {"skipped", "error", "failure", "rerunFailure", "rerunError", "system-out", "system-err"},
        {"name": _ANY, "classname": _ANY, "group": _ANY, "time": _TIME},
        {"name"},
    ),
    **dict.fromkeys(("skipped", "error", "failure"), (set[str](), {"type": _ANY, "message": _ANY}, set[str]())),
    **dict.fromkeys(("system-out", "system-err"), (set[str](), dict[str, re.Pattern[str]](), set[str]())),
}
"""The rules of Jenkins' `junit-10.xsd` for what such a file can have."""
_WITH_CHILDREN = {"testsuites", "testsuite", "properties", "testcase", "property"}


def faults(element: ET.Element) -> list[str]:
    children, attributes, required = SCHEMA[element.tag]
    found = [f"{element.tag} lacks {name}" for name in required - element.attrib.keys()]
    for name, value in element.attrib.items():
        if name not in attributes or not attributes[name].fullmatch(value):
            found.append(f"{element.tag}: {name}={value}")
    if element.tag == "properties" and not len(element):
        found.append("properties without a property")
    if element.tag in _WITH_CHILDREN and (element.text or "").strip():
        found.append(f"{element.tag} has text")
    for child in element:
        found += faults(child) if child.tag in children else [f"{child.tag} in {element.tag}"]
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    odd = 'says "<b>" & \x00\x1b ]]> \u2028'
    rows = [
        row(0, model="a", params={"temperature": 0, "seed": 1}),
        row(1, model="a", params={"temperature": 1, "seed": 1}, seconds=12345.6789),
        row(2, model="a", params={"temperature": 1, "seed": 1}, id=odd, seconds=None),
        row(3, model="b"),
        row(4, model="b", output={"text": "cut", "truncated": True}),
        row(5, model="b", text=None),
        row(6, model="b"),
    ]
    verdicts: list[tuple[str | None, str | None]] = [
        ("pass", None),
        ("fail", f"7 instead of 8 {odd}"),
        ("error", "no reference"),
        (None, None),
        ("pass", None),
    ]
    scores = [scores_of(one, said, reason=why) for one, (said, why) in zip(rows, verdicts, strict=False)]
    return write_run(tmp_path / "outputs/it", rows, scores)


def written(run: Path, **options: Any) -> Path:
    path = run.parent.parent / "scores.xml"
    write_junit(path, open_runs([run]), CompareOptions(**options))
    return path


@pytest.mark.parametrize("by", [None, "run", "temperature"])
def test_the_file_keeps_to_the_schema_of_jenkins(run: Path, by: str | None) -> None:
    assert faults(ET.parse(written(run, by=by)).getroot()) == []


def test_the_rules_of_the_schema_find_what_is_wrong() -> None:
    wrong = '<testsuite name="a" tests="1" errors="0"><testcase name="x" time="1s"><properties/></testcase></testsuite>'
    found = faults(ET.fromstring(wrong))
    assert found == ["testsuite lacks failures", "testcase: time=1s", "properties in testcase"]


def test_junitparser_counts_what_the_file_states(run: Path) -> None:
    path = written(run)
    read = junitparser.JUnitXml.fromfile(str(path))
    root = ET.parse(path).getroot()
    said = [tuple(int(suite.get(name, "")) for name in ("tests", "failures", "errors", "skipped")) for suite in root]
    assert said == [(3, 1, 1, 0), (4, 0, 1, 3)]
    for suite, counts in zip(read, said, strict=True):
        suite.update_statistics()  # type: ignore[no-untyped-call] # junitparser has types in part
        assert (suite.tests, suite.failures, suite.errors, suite.skipped) == counts
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("7", "1", "2")


def test_what_cases_share_stands_at_the_suite_and_the_rest_in_their_output(run: Path) -> None:
    first = junitparser.JUnitXml.fromfile(str(written(run)))
    suite = next(iter(first))
    properties = list(suite.properties())  # type: ignore[no-untyped-call] # as above
    assert {one.name: one.value for one in properties} == {"model": "a", "seed": "1"}
    assert [case.system_out for case in suite] == ["temperature: 0", "temperature: 1", "temperature: 1"]


def test_each_kind_of_answer_has_its_reason(run: Path) -> None:
    cases = ET.parse(written(run)).getroot().iter("testcase")
    reasons = [(child.tag, child.get("message")) for case in cases for child in case if child.tag != "system-out"]
    assert [(tag, (words or "")[:24]) for tag, words in reasons] == [
        ("failure", "number: 7 instead of 8 s"),
        ("error", "number: no reference"),
        ("skipped", "no check applies"),
        ("skipped", "the answer was cut off"),
        ("error", "not answered: timeout: N"),
        ("skipped", "the answer has no scores;"[:24]),
    ]


@pytest.mark.parametrize("name", ["results.jsonl", "run.json", "scores.jsonl", "new.xml", "ledger/000001.jsonl"])
def test_nothing_in_a_runs_directory_is_ever_replaced(run: Path, name: str) -> None:
    (run / "ledger").mkdir()
    place = run / name
    before = place.read_bytes() if place.exists() else None
    with pytest.raises(JobMistakesError, match="inside a run's directory"):
        write_junit(place, open_runs([run]), CompareOptions())
    assert (place.read_bytes() if place.exists() else None) == before


@pytest.mark.parametrize("content", ["prompts: [a]\n", "{}\n", "<html><testsuite></html>", "<testsuiteX/>", " "])
def test_a_file_that_is_no_junit_file_is_left_alone(tmp_path: Path, content: str) -> None:
    place = tmp_path / "mine"
    place.write_text(content)
    with pytest.raises(JobMistakesError, match="is no JUnit file; nothing is overwritten"):
        require_place(place)


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "pipe"  # as /dev/null: renaming a file over it would remove it from the machine
    os.mkfifo(place)
    (tmp_path / "link.xml").symlink_to(place)
    for path in (place, tmp_path / "link.xml"):
        with pytest.raises(JobMistakesError, match="is no JUnit file; nothing is overwritten"):
            require_place(path)


def test_a_link_to_a_file_of_a_run_is_that_file(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link.xml").symlink_to(run / "results.jsonl")
    with pytest.raises(JobMistakesError, match="inside a run's directory"):
        require_place(tmp_path / "link.xml")


@pytest.mark.parametrize(
    "content",
    ["<testsuites/>", '<?xml version="1.0"?>\n<!-- by another -->\n<testsuite name="x">', "\ufeff<testsuites >", ""],
)
def test_an_earlier_junit_file_is_replaced_whoever_wrote_it(run: Path, content: str) -> None:
    (run.parent.parent / "scores.xml").write_text(content)
    assert junitparser.JUnitXml.fromfile(str(written(run)))


def test_a_place_that_cannot_be_is_reported(tmp_path: Path) -> None:
    with pytest.raises(JobMistakesError, match="no such directory"):
        require_place(tmp_path / "missing/scores.xml")
    with pytest.raises(JobMistakesError, match="is a directory"):
        require_place(tmp_path)


def test_answers_without_scores_are_reported_beside_the_comparison(run: Path) -> None:
    comparison, _ = batchrunner.compare([str(run)])
    assert comparison.notes[0] == "1 answers of b have no scores; `batchrunner score DIR` makes them"
    assert f"note: {comparison.notes[0]}" in comparison_words(comparison, flips=(), missed=())
