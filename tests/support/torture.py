"""Sizes and figures of the tests that try to break the program: usual in `make test`, long in `make torture`.

A test takes its size from `at_size` and tells the `tried` fixture what it did; the sums are printed at the end.
"""

import os
from collections import defaultdict
from collections.abc import Callable

import pytest

TORTURE = bool(os.environ.get("BATCHRUNNER_TORTURE"))
_TRIED = "tried"
Tried = Callable[..., None]


def at_size(usual: int, torture: int) -> int:
    """`usual` in `make test`, `torture` in `make torture`."""
    return torture if TORTURE else usual


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Tried:
    """Call it with what was tried ("seeds: nights that end badly"), how many, and how many items were lost."""

    def record(what: str, count: int, *, lost: int = 0) -> None:
        record_property(_TRIED, [what, count, lost])

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sums over all tests that passed or failed, with the seconds that they took."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            told = [entry for name, entry in report.user_properties if name == _TRIED]
            for what, count, lost in told:
                sums[what][0] += count
                sums[what][1] += lost
                sums[what][2] += report.duration / len(told)
    if not sums:
        return
    terminalreporter.section("what was tried")
    terminalreporter.line(f"{'':52} {'tried':>10} {'lost':>6} {'seconds':>9} {'a second':>10}")
    for what, (count, lost, seconds) in sorted(sums.items()):
        each = count / max(seconds, 0.001)
        terminalreporter.line(f"{what:52} {count:10,.0f} {lost:6,.0f} {seconds:9.1f} {each:10,.1f}")
