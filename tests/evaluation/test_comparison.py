"""Groups of scored answers beside each other: pairs only what belongs together, and hides nothing."""

import random
from collections.abc import Sequence

import pytest

from batchrunner.core.checks import Verdict
from batchrunner.core.values import replace
from batchrunner.evaluation.comparison import (
    CheckTotals,
    Comparison,
    ScoredItem,
    State,
    compare_groups,
    missed_thresholds,
)
from batchrunner.evaluation.statistics import mcnemar, wilson
from batchrunner.report.comparison_words import comparison_words


def undecided(
    pair: str,
    *,
    verdict: bool | None = None,
    group: str = "",
    replica: int = 0,
    prompt: int = 0,
    state: State = "answered",
) -> ScoredItem:
    return ScoredItem(
        id=f"{pair}{group}", pair=pair, cluster=pair, prompt=prompt, replica=replica, verdict=verdict, state=state
    )


def yes(pair: str, *, prompt: int = 0) -> ScoredItem:
    return replace(undecided(pair, prompt=prompt), verdict=True)


def no(pair: str) -> ScoredItem:
    return replace(undecided(pair), verdict=False)


def compared(first: Sequence[bool | None], second: Sequence[bool | None]) -> Comparison:
    return compare_groups(
        {
            "a": [undecided(f"q{n}", verdict=verdict, group="-a") for n, verdict in enumerate(first)],
            "b": [undecided(f"q{n}", verdict=verdict, group="-b") for n, verdict in enumerate(second)],
        }
    )


def test_the_same_answers_twice_differ_in_nothing() -> None:
    verdicts = [True, False, True, None]
    pair = compared(verdicts, verdicts).pairs[0]
    assert (pair.difference, pair.interval, pair.p, pair.tied) == (0.0, (0.0, 0.0), 1.0, True)
    assert (pair.won, pair.lost, pair.both_right, pair.both_wrong) == ((), (), 2, 1)


@pytest.mark.parametrize(("questions", "is_tied"), [(2, True), (5, True), (6, False), (40, False)])
def test_a_few_answers_that_all_differ_alike_are_tied(questions: int, is_tied: bool) -> None:  # noqa: FBT001 - a case
    pair = compared([False] * questions, [True] * questions).pairs[0]
    assert (pair.difference, pair.tied) == (1.0, is_tied)


def test_flips_are_named_by_both_ids_and_tested_exactly() -> None:
    pair = compared([True, False, True, True], [False, True, True, False]).pairs[0]
    assert pair.won == (("q1-a", "q1-b"),)
    assert pair.lost == (("q0-a", "q0-b"), ("q3-a", "q3-b"))
    assert pair.p == mcnemar(1, 2)
    assert pair.difference == -0.25


def test_a_rate_is_of_verdicts_and_the_rest_stands_beside_it() -> None:
    items = [
        yes("1"),
        no("2"),
        undecided("3", state="truncated"),
        undecided("4", state="failed"),
        undecided("5"),
    ]
    group = compare_groups({"a": items}).groups[0]
    assert (group.passed, group.decided, group.rate, group.interval) == (1, 2, 0.5, wilson(1, 2))
    assert (group.truncated, group.not_answered, group.undecided, group.items) == (1, 1, 1, 5)


def test_each_check_and_judge_is_counted_by_itself_and_its_errors_are_reported() -> None:
    said: list[tuple[tuple[str, Verdict, float | None], ...]] = [
        (("number", "pass", 1.0), ("helpful", "pass", 0.9)),
        (("number", "fail", 0.0), ("helpful", "fail", 0.4)),
        (("number", "none", None), ("helpful", "error", None)),
    ]
    items = [replace(undecided(f"q{n}"), checks=checks) for n, checks in enumerate(said)]
    comparison = compare_groups({"a": items})
    assert comparison.groups[0].checks == (
        CheckTotals(name="number", passed=1, failed=1, none=1, mean=0.5),
        CheckTotals(name="helpful", passed=1, failed=1, errors=1, mean=0.65),
    )
    words = comparison_words(comparison, flips=(), missed=())
    assert "a: number 1 of 2 (50.0%), 1 not concerned" in words
    assert "a: helpful 1 of 2 (50.0%), mean 0.65, 1 errors" in words


def test_what_has_no_partner_is_counted_and_not_compared() -> None:
    groups = {"a": [yes("1"), yes("2")], "b": [yes("2"), no("3"), no("4")]}
    pair = compare_groups(groups).pairs[0]
    assert (pair.pairs, pair.gone, pair.new) == (1, 1, 2)


def test_several_answers_of_a_group_to_a_question_are_paired_by_their_variant_and_none_vanishes() -> None:
    def group(name: str, verdicts: dict[str, bool]) -> list[ScoredItem]:
        items = [undecided("q", verdict=verdict, group=f"-{name}-{variant}") for variant, verdict in verdicts.items()]
        return [replace(item, variant=variant) for item, variant in zip(items, verdicts, strict=True)]

    groups = {
        "a": group("a", {"t=0": True, "t=1": False, "t=2": True}),
        "b": group("b", {"t=1": True, "t=0": True, "t=3": False, "t=4": True}),
    }
    pair = compare_groups(groups).pairs[0]
    assert (pair.pairs, pair.gone, pair.new) == (3, 0, 1)
    assert (pair.won, pair.lost) == ((("q-a-t=1", "q-b-t=1"),), (("q-a-t=2", "q-b-t=3"),))
    assert [one.items for one in compare_groups(groups).groups] == [3, 4]


def test_answers_with_equal_prompts_and_parameters_are_paired_in_their_order() -> None:
    groups = {
        "a": [replace(undecided("q", group=f"-a{n}"), verdict=n < 2) for n in range(3)],
        "b": [replace(undecided("q", group=f"-b{n}"), verdict=n < 1) for n in range(3)],
    }
    pair = compare_groups(groups).pairs[0]
    assert (pair.pairs, pair.lost) == (3, (("q-a1", "q-b1"),))


def test_answers_with_different_parameters_are_no_repeats() -> None:
    items = [replace(yes("q"), variant=variant) for variant in "ab"]
    assert compare_groups({"a": items}).groups[0].repeats is None


def test_a_pair_whose_prompt_differs_is_marked() -> None:
    groups = {"a": [yes("1", prompt=1)], "b": [yes("1", prompt=2)]}
    assert compare_groups(groups).pairs[0].changed == 1


def test_repeats_are_reported_and_widen_the_interval() -> None:
    chance = random.Random(1)
    items = [
        undecided(f"q{n}", verdict=right, replica=r)
        for n in range(40)
        for right in [chance.random() < 0.5]
        for r in range(4)
    ]
    group = compare_groups({"a": items}).groups[0]
    assert group.repeats is not None
    assert (group.repeats.k, group.repeats.prompts) == (4, 40)
    assert group.repeats.pass_at_1 == group.repeats.pass_at_k == group.repeats.pass_every_time == group.rate
    assert group.interval is not None
    naive = wilson(group.passed, group.decided)
    assert group.interval[1] - group.interval[0] > 1.5 * (naive[1] - naive[0])


@pytest.mark.parametrize("right", [True, False])
def test_repeats_that_all_come_out_alike_are_not_certain(*, right: bool) -> None:
    items = [undecided(f"q{n}", verdict=right, replica=r) for n in range(10) for r in range(4)]
    group = compare_groups({"a": items}).groups[0]
    assert group.interval == wilson(10 * right, 10)


@pytest.mark.parametrize("prompts", [2, 3, 7])
def test_repeats_that_pass_equally_often_everywhere_are_not_certain(prompts: int) -> None:
    items = [undecided(f"q{n}", verdict=r == 0, replica=r) for n in range(prompts) for r in range(3)]
    group = compare_groups({"a": items}).groups[0]
    assert group.interval == pytest.approx(wilson(prompts / 3, prompts)), "a third of each, but for rounding"


def test_with_a_base_only_the_others_are_compared_with_it() -> None:
    groups = {name: [yes("1")] for name in "abc"}
    assert [(pair.base, pair.other) for pair in compare_groups(groups, base="b").pairs] == [("b", "a"), ("b", "c")]
    assert len(compare_groups(groups).pairs) == 3


def test_several_pairs_are_held_to_a_stricter_level() -> None:
    verdicts = [True] * 12
    other = [False] * 6 + [True] * 6
    groups = {
        name: [undecided(f"q{n}", verdict=verdict) for n, verdict in enumerate(found)]
        for name, found in (("a", verdicts), ("b", other), ("c", verdicts))
    }
    first = compare_groups(groups).pairs[0]
    assert first.p_adjusted == pytest.approx(3 * first.p)


def test_thresholds_are_shares_and_state_what_missed_them() -> None:
    comparison = compared([True, True, True, True], [True, True, False, False])
    assert missed_thresholds(comparison, fail_under=0.5, max_drop=0.5, per_prompt=None) == []
    missed = missed_thresholds(comparison, fail_under=0.9, max_drop=0.1, per_prompt=0.5)
    assert [one.split(":")[0] for one in missed] == ["b", "b", "b is 50.0% below a, more than 10.0%"]


def test_a_group_without_a_verdict_misses_every_threshold() -> None:
    comparison = compare_groups({"a": [yes("1")], "b": [undecided("1")]})
    assert missed_thresholds(comparison, fail_under=0.0, max_drop=None, per_prompt=None) == ["b: no rate is below 0.0%"]
    assert missed_thresholds(comparison, fail_under=None, max_drop=1.0, per_prompt=0.0) == [
        "b: no prompt has a verdict; each is to pass at least 0.0% of the time",
        "b: no question has a verdict in it and in a, so nothing shows that it is at most 100.0% below",
    ]
