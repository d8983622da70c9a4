"""What `compare` prints for people: a table of groups, a line for each pair, and the flips."""

from collections.abc import Sequence
from typing import Final

from batchrunner.evaluation.comparison import Comparison, GroupResult, PairResult
from batchrunner.evaluation.statistics import Interval

_SMALLEST_P: Final = 0.001
_SAME: Final = 1e-9


def comparison_words(
    comparison: Comparison, *, flips: Sequence[tuple[PairResult, Sequence[tuple[str, bool]]]], missed: Sequence[str]
) -> str:
    """All of it, as lines. `flips` are the (id, won) to show for each pair."""
    lines = [*_table(comparison.groups), *_check_lines(comparison.groups), *_repeat_lines(comparison.groups)]
    lines += [f"note: {note}" for note in comparison.notes]
    for pair, shown in flips:
        lines += ["", *_pair_lines(pair, shown)]
    if missed:
        lines += ["", *(f"threshold missed: {one}" for one in missed)]
    return "\n".join(lines)


def _table(groups: Sequence[GroupResult]) -> list[str]:
    head = ("", "passed", "rate", "95 %", "not answered", "cut off", "no verdict", "p50 s", "tokens out", "per pass")
    body = [
        (
            group.name,
            f"{group.passed:,} of {group.decided:,}",
            "–" if group.rate is None else f"{group.rate:.1%}",
            "–" if group.interval is None else _interval(group.interval),
            f"{group.not_answered:,}",
            f"{group.truncated:,}",
            f"{group.undecided:,}",
            "–" if group.seconds_p50 is None else f"{group.seconds_p50:.1f}",
            f"{group.output_tokens:,}",
            "–" if group.cost_per_pass is None else f"{group.cost_per_pass:.4g}",
        )
        for group in groups
    ]
    used = [
        place for place in range(len(head)) if place not in _OPTIONAL or any(row[place] not in _EMPTY for row in body)
    ]
    rows = [[row[place] for place in used] for row in (head, *body)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(used))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


_EMPTY: Final = frozenset({"0", "–"})
_OPTIONAL: Final = frozenset({4, 5, 6, 7, 8, 9})
"""Columns that are left out where they say nothing."""


def _check_lines(groups: Sequence[GroupResult]) -> list[str]:
    """What each check said, where there are several, or one that broke."""
    told = [(group.name, check) for group in groups for check in group.checks]
    if not any(check.errors for _, check in told) and len({check.name for _, check in told}) <= 1:
        return []
    lines = [""]
    for name, check in told:
        decided = check.passed + check.failed
        share = f" ({check.passed / decided:.1%})" if decided else ""
        graded = check.mean is not None and 0 < check.mean < 1 and abs(check.mean - check.passed / decided) > _SAME
        beside = [f"mean {check.mean:.2f}"] if graded else []
        beside += [f"{check.errors:,} errors"] if check.errors else []
        beside += [f"{check.none:,} not concerned"] if check.none else []
        lines.append(f"{name}: {check.name} {', '.join((f'{check.passed:,} of {decided:,}{share}', *beside))}")
    return lines


def _repeat_lines(groups: Sequence[GroupResult]) -> list[str]:
    return [
        f"{group.name}: pass@1 {one.pass_at_1:.1%}, pass@{one.k} {one.pass_at_k:.1%}, "
        f"every time in {one.k} {one.pass_every_time:.1%} ({one.prompts:,} prompts)"
        for group in groups
        if (one := group.repeats) is not None
    ]


def _pair_lines(pair: PairResult, shown: Sequence[tuple[str, bool]]) -> list[str]:
    if pair.difference is None:
        return [f"{pair.other} − {pair.base}: no question has a verdict in both; new {pair.new:,}, gone {pair.gone:,}"]
    interval = "" if pair.interval is None else f" {_points(pair.interval)}"
    p = f"p < {_SMALLEST_P}" if pair.p_adjusted < _SMALLEST_P else f"p = {pair.p_adjusted:.3f}"
    verdict = "tied" if pair.tied else "better" if pair.difference > 0 else "worse"
    flips = f"{len(pair.won):,} won, {len(pair.lost):,} lost"
    lines = [
        f"{pair.other} − {pair.base}: {100 * pair.difference:+.1f} points{interval}, {p}: {verdict}",
        f"  {pair.pairs:,} questions: {flips}, both right {pair.both_right:,}, both wrong {pair.both_wrong:,}",
    ]
    beside = [f"{number:,} {what}" for number, what in ((pair.new, "new"), (pair.gone, "gone")) if number]
    if pair.changed:
        beside.append(f"{pair.changed:,} whose prompt differs")
    if beside:
        lines.append(f"  besides: {', '.join(beside)}")
    if pair.tied and pair.detectable:
        lines.append(f"  so many questions usually show a difference of {100 * pair.detectable:.1f} points or more")
    lines += [f"  {'won ' if won else 'lost'} {name}" for name, won in shown]
    return lines


def _interval(interval: Interval) -> str:
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _points(interval: Interval) -> str:
    return f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"
