"""`compare --html`: groups of several runs beside each other, flips first, word by word."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import batchrunner
from batchrunner.core.errors import JobMistakesError
from batchrunner.page.comparison_file import require_place, write_comparison
from batchrunner.report.comparing import CompareOptions, open_runs
from tests.page.conftest import ran
from tools.browser import opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

JOB = """
name: NAME
provider: simulator
models: [sim/one, sim/two]
system: SYSTEM
prompts: {file: prompts.txt}
output: {report: false}
checks: [{contains: [o]}]
"""


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Monday passes the even questions, Tuesday those that can be divided by 3; the second model nothing."""
    (tmp_path / "prompts.txt").write_text("".join(f"Question {n} about tides.\n" for n in range(12)), "utf-8")
    folders = []
    for name, divisor in (("monday", 2), ("tuesday", 3)):
        folder = ran(tmp_path, JOB.replace("NAME", name).replace("SYSTEM", f"On {name}."))
        path = folder / "scores.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            number = (line["index"] - 1) // 2
            line["pass"] = line["model"] == "sim/one" and number % divisor == 0
            line["scores"]["contains"]["verdict"] = "pass" if line["pass"] else "fail"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(folder)
    return folders


def test_the_page_opens_with_the_flips_and_counts_what_the_table_counts(
    browser: "Browser", runs: list[Path], tmp_path: Path
) -> None:
    page = tmp_path / "comparison.html"
    options = CompareOptions(by="run")
    for _ in range(2):  # the second one replaces the first
        write_comparison(page, open_runs(runs), options)
    comparison, _ = batchrunner.compare([str(folder) for folder in runs], options)
    with opened(browser, page) as seen:
        seen.page.wait_for_selector(".pair-column .badge")
        seen.until(lambda: seen.count(".figures thead th") == 3)
        seen.view("#compare?columns=0,1")  # the second answers are those of the other model
        seen.page.wait_for_selector(".pair-column .badge")
        seen.until(lambda: "6 of 12 (50.0 %)" in seen.text(".figures"))
        assert "4 of 12 (33.3 %)" in seen.text(".figures")
        assert "2 won, 4 lost" in seen.text(".figures")
        first = seen.text(".pair-title")
        assert int(first.split()[1]) in {2, 3, 4, 8, 9, 10}
        seen.until(lambda: seen.count(".pair ins") > 0)
        assert (seen.complaints, seen.requests) == ([], [])
    assert (len(comparison.pairs[0].won), len(comparison.pairs[0].lost)) == (2, 4)


def test_it_replaces_pages_only_and_nothing_of_a_run(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("<html>mine")
    os.mkfifo(tmp_path / "pipe.html")
    before = (runs[0] / "results.jsonl").read_bytes()
    for place, words in (
        (tmp_path / "mine.html", "is no page of a run; nothing is overwritten"),
        (runs[0] / "results.jsonl", "inside a run's directory"),
        (tmp_path / "missing/a.html", "no such directory"),
        (tmp_path, "is no page of a run"),
        (tmp_path / "pipe.html", "is no page of a run"),
    ):
        with pytest.raises(JobMistakesError, match=words):
            write_comparison(place, open_runs(runs), CompareOptions())
    assert (runs[0] / "results.jsonl").read_bytes() == before
    require_place(tmp_path / "new.html")
