"""What `make bench` writes beside its figures; nothing is measured here."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmarks' modules, which are no package, by name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    class Modules:
        def __getattr__(self, name: str) -> Any:
            return __import__(name)

    yield Modules()
    for name in [name for name, module in sys.modules.items() if str(FOLDER) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def test_a_note_stands_in_the_page_only_beside_a_figure_that_misses_its_goal(bench: Any) -> None:
    figure = bench.bench_report.Figure
    figures = [
        figure(name="slow", title="A slow row", values=[0.5], least=0.9),
        figure(name="quick", title="A quick row", values=[1.0], least=0.9),
        figure(name="large", title="A large row", values=[30.0], least=20.0, less_is_better=True),
    ]
    note = {"floor": "the floor of {}", "profile": "the profile of {}"}
    why = {name: {part: words.format(name) for part, words in note.items()} for name in ("slow", "quick", "large")}
    page = bench.bench_report.document(figures, why)
    assert "### A slow row" in page
    assert "the floor of slow" in page
    assert "the profile of large" in page
    assert "the floor of quick" not in page
    said = bench.bench_report.document(figures, {"quick": {"title": "Said in any case", "text": "that it is quick"}})
    assert said.endswith("## Said in any case\n\nthat it is quick\n")


def test_every_note_of_the_benchmarks_names_a_row_that_there_is(bench: Any) -> None:
    found = bench.bench_report.notes()
    assert {name.split(":", 1)[0] for name in found} <= bench.bench_rows.ROWS.keys()


def test_a_note_of_another_shape_is_refused(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.yaml"
    path.write_text("chat: it is slow\n")
    with pytest.raises(ValueError, match="chat: expected `floor`"):
        bench.bench_report.notes(path)


def test_what_one_item_costs_is_the_difference_of_two_sizes(bench: Any) -> None:
    each = bench.calls.per_item({"py a": 10, "c  b": 4}, {"py a": 30, "c  new": 5}, 10)
    assert each == {"py a": 2.0, "c  b": -0.4, "c  new": 0.5}


def test_measured_processes_keep_what_they_compile(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    found = bench.bench_runs.environment({"KEY": "value"})
    assert "PYTHONDONTWRITEBYTECODE" not in found
    assert found["KEY"] == "value"
