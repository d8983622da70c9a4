"""The page's modules by themselves, in the same browser: word differences and the rows that show."""

import random
from typing import TYPE_CHECKING, Any

import pytest

from batchrunner.page.report_file import _EXPORT, _resource

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def call(browser: "Browser") -> Any:
    """Call a function of a module: `call("diff", "wordDiff", "a", "b")`."""
    page = browser.new_page()

    def run(module: str, function: str, *arguments: object) -> Any:
        code = _EXPORT.sub("", _resource(f"js/{module}.js"))
        return page.evaluate(f"arguments_ => {{ {code}\nreturn {function}(...arguments_); }}", list(arguments))

    return run


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("", "", []),
        ("same", "same", [["same", "same"]]),
        ("", "new", [["new", "new"]]),
        ("old", "", [["gone", "old"]]),
        ("the red cat", "the blue cat", [["same", "the "], ["gone", "red"], ["new", "blue"], ["same", " cat"]]),
        ("a b c d", "a x y d", [["same", "a "], ["gone", "b c"], ["new", "x y"], ["same", " d"]]),
        ("it is 23.", "it is 21.", [["same", "it is "], ["gone", "23"], ["new", "21"], ["same", "."]]),
        ("中文 好", "中文 坏", [["same", "中文 "], ["gone", "好"], ["new", "坏"]]),
    ],
)
def test_words_that_differ_are_distinguished_from_those_that_do_not(
    call: Any, before: str, after: str, parts: list[list[str]]
) -> None:
    assert call("diff", "wordDiff", before, after) == parts


def test_both_texts_can_be_read_from_their_difference(call: Any) -> None:
    seeded = random.Random(7)
    for _ in range(60):
        before, after = ("".join(seeded.choices("ab c\n.", k=seeded.randrange(60))) for _ in range(2))
        parts = call("diff", "wordDiff", before, after)
        assert "".join(text for kind, text in parts if kind != "new") == before
        assert "".join(text for kind, text in parts if kind != "gone") == after


def test_texts_that_differ_everywhere_cost_a_bounded_time(call: Any) -> None:
    before, after = (" ".join(f"{name}{n}" for n in range(20_000)) for name in "ab")
    kinds = {kind for kind, _ in call("diff", "wordDiff", before, after)}
    assert kinds == {"gone", "new"}


def visible(call: Any, **given: float) -> dict[str, float]:
    found: dict[str, float] = call("window", "visibleRows", {"viewport": 600, "height": 100, "count": 50, **given})
    return found


def test_rows_that_show_cover_the_view_wherever_it_is(call: Any) -> None:
    for top in (0, 1, 99, 100, 2350, 4399, 4400):
        found = visible(call, top=top, over=0)
        assert found["first"] * 100 <= top
        assert min(50, found["last"]) * 100 >= min(5000, top + 600)
        assert found["offset"] == found["first"] * 100


def test_a_list_that_no_browser_could_hold_is_squeezed_and_still_reaches_both_ends(call: Any) -> None:
    at = {"count": 1_000_000, "highest": 1_000_000, "over": 0}
    assert visible(call, top=0, **at)["first"] == 0
    end = visible(call, top=1_000_000 - 600, **at)
    assert end["last"] == 1_000_000
    assert end["total"] == 1_000_000
    middle = call("window", "positionOf", {"row": 500_000, "viewport": 600, "height": 100, **at})
    shown = visible(call, top=middle, **at)
    assert shown["first"] <= 500_000 < shown["last"]
    assert abs(shown["offset"] + (500_000 - shown["first"]) * 100 - middle) < 600


def test_an_empty_list_shows_nothing(call: Any) -> None:
    found = visible(call, top=0, count=0)
    assert (found["first"], found["last"]) == (0, 0)
