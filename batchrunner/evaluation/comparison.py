"""Compares groups of scored answers: rates with intervals, paired differences, flips, repeats. Pure.

Answers are paired by prompt and repeat; what has no partner is counted and never compared. A rate is of answers with a
verdict: what was not answered, cut off, or could not be checked stands beside it.
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from math import fsum
from typing import Final, Literal, TypeAlias

from batchrunner.core.checks import Verdict
from batchrunner.core.values import dataclass, field, replace
from batchrunner.evaluation.statistics import (
    Estimate,
    Interval,
    clustered_mean,
    detectable_difference,
    holm,
    mcnemar,
    pass_at_k,
    pass_every_time,
    percentile,
    wilson,
)

State: TypeAlias = Literal["answered", "truncated", "failed"]
_ROUNDED: Final = 1e-9
"""A standard error below it is 0, but for rounding."""
_SIGNIFICANT_P: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredItem:
    """One item of a group, as far as comparisons need it."""

    id: str
    pair: Hashable
    """Equal for the answers to one question, whatever their group."""
    cluster: Hashable
    """Answers that may depend on each other have the same: usually `pair`."""
    prompt: int
    """Hash of the question as sent: a pair whose questions differ is called so."""
    replica: int
    verdict: bool | None
    checks: tuple[tuple[str, Verdict, float | None], ...] = ()
    """(name, verdict, value) of each check, for an item that was scored."""
    variant: Hashable = None
    """What tells the answers of one group to one question apart, repeats aside: model, parameters and variables."""
    state: State = "answered"
    seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """What several answers to each prompt say."""

    k: int
    """Answers that every counted prompt has."""
    prompts: int
    pass_at_1: float
    pass_at_k: float
    pass_every_time: float


@dataclass(slots=True, kw_only=True)
class CheckTotals:
    """What one check, or one judge, said of a group's answers."""

    name: str
    passed: int = 0
    failed: int = 0
    errors: int = 0
    """The check broke, or the judge gave no verdict: counts for nothing."""
    none: int = 0
    mean: float | None = None
    """Of the values of the answers that pass or fail, where these have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """One group: a model, a parameter's value, or a run."""

    name: str
    items: int
    passed: int
    decided: int
    """Answers with a verdict; the rate is of these."""
    rate: float | None
    interval: Interval | None
    se: float | None
    """Cluster-robust standard error of the rate."""
    undecided: int
    truncated: int
    not_answered: int
    checks: tuple[CheckTotals, ...]
    repeats: Repeats | None
    seconds_p50: float | None
    seconds_p95: float | None
    input_tokens: int
    output_tokens: int
    cost: float | None
    cost_per_pass: float | None
    worst_prompt: tuple[str, float] | None
    """(id, share of passes) of the prompt that passes least often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """The second group against the first, over the questions that both have a verdict for."""

    base: str
    other: str
    pairs: int
    difference: float | None
    """Rate of `other` less rate of `base`."""
    interval: Interval | None
    p: float
    """Exact McNemar, two-sided."""
    p_adjusted: float
    """By Holm, over all pairs of groups."""
    tied: bool
    """These answers do not tell the two apart: the interval has 0 in it, or too few differ, and all alike."""
    detectable: float | None
    """The smallest true difference that so many questions usually show."""
    won: tuple[tuple[str, str], ...]
    """(id in `base`, id in `other`) of questions that only `other` passes."""
    lost: tuple[tuple[str, str], ...]
    """The same of those that only `base` passes."""
    both_wrong: int
    both_right: int
    new: int
    """Answers of `other` without a partner."""
    gone: int
    """Answers of `base` without a partner."""
    changed: int
    """Pairs whose question is not the same text: compared, and said to be so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All groups, in order, and every pair of them."""

    groups: tuple[GroupResult, ...]
    pairs: tuple[PairResult, ...] = field(default=())
    notes: tuple[str, ...] = ()
    """For people: answers that were not scored, and the position bias of judges."""


def compare_groups(groups: Mapping[str, Sequence[ScoredItem]], *, base: str | None = None) -> Comparison:
    """Compare groups of items.

    Args:
        groups: items by group name, in order.
        base: compare the others with this one only; default: every pair, earlier ones as base.
    """
    names = list(combinations(groups, 2)) if base is None else [(base, other) for other in groups if other != base]
    found = [_pair(first, second, groups) for first, second in names]
    adjusted = holm([pair.p for pair in found])
    pairs = tuple(replace(pair, p_adjusted=p) for pair, p in zip(found, adjusted, strict=True))
    return Comparison(groups=tuple(_group(name, items) for name, items in groups.items()), pairs=pairs)


def _group(name: str, items: Sequence[ScoredItem]) -> GroupResult:
    decided = [item for item in items if item.verdict is not None]
    passed = sum(item.verdict is True for item in decided)
    estimate = clustered_mean((item.cluster, float(item.verdict is True)) for item in decided)
    seconds = sorted(item.seconds for item in items if item.seconds is not None)
    costs = [item.cost for item in items if item.cost is not None]
    cost = sum(costs) if costs else None
    states = [item.state for item in items]
    truncated, not_answered = states.count("truncated"), states.count("failed")
    return GroupResult(
        name=name,
        items=len(items),
        passed=passed,
        decided=len(decided),
        rate=estimate.mean if decided else None,
        interval=_interval(estimate, passed) if decided else None,
        se=estimate.se,
        undecided=len(items) - len(decided) - truncated - not_answered,
        truncated=truncated,
        not_answered=not_answered,
        checks=_checks(items),
        repeats=_repeats(decided),
        seconds_p50=percentile(seconds, 0.5),
        seconds_p95=percentile(seconds, 0.95),
        input_tokens=sum(item.input_tokens or 0 for item in items),
        output_tokens=sum(item.output_tokens or 0 for item in items),
        cost=cost,
        cost_per_pass=cost / passed if cost is not None and passed else None,
        worst_prompt=_worst(decided),
    )


def _checks(items: Sequence[ScoredItem]) -> tuple[CheckTotals, ...]:
    found: dict[str, CheckTotals] = {}
    values: dict[str, list[float]] = defaultdict(list)
    for item in items:
        for name, verdict, value in item.checks:
            one = found.setdefault(name, CheckTotals(name=name))
            match verdict:
                case "pass":
                    one.passed += 1
                case "fail":
                    one.failed += 1
                case "error":
                    one.errors += 1
                case "none":
                    one.none += 1
            if value is not None and verdict in ("pass", "fail"):
                values[name].append(value)
    for name, listed in values.items():
        found[name].mean = fsum(value / len(listed) for value in listed)  # the sum may be larger than a float
    return tuple(found.values())


def _interval(estimate: Estimate, passed: int) -> Interval | None:
    """Wilson's for independent answers; for several of one cluster, the one that takes this into account.

    Where the clusters do not differ at all, as when everything passes, an error of 0 would claim certainty: then
    Wilson's, with a cluster as one answer.
    """
    if estimate.clusters == estimate.values:
        return wilson(passed, estimate.values)
    if estimate.se is None or estimate.se < _ROUNDED or estimate.interval is None:
        return wilson(estimate.mean * estimate.clusters, estimate.clusters)
    low, high = estimate.interval
    return max(0.0, low), min(1.0, high)


def _by_pair(items: Iterable[ScoredItem]) -> dict[Hashable, list[ScoredItem]]:
    found: dict[Hashable, list[ScoredItem]] = defaultdict(list)
    for item in items:
        found[item.pair].append(item)
    return found


def _repeats(decided: Sequence[ScoredItem]) -> Repeats | None:
    by_request: dict[Hashable, list[ScoredItem]] = defaultdict(list)
    for item in decided:
        by_request[item.pair, item.variant].append(item)
    counts = [(sum(item.verdict is True for item in group), len(group)) for group in by_request.values()]
    k = min((count for _, count in counts), default=0)
    if k < 2:  # noqa: PLR2004 - one answer is no repeat
        return None
    return Repeats(
        k=k,
        prompts=len(counts),
        pass_at_1=sum(passed / count for passed, count in counts) / len(counts),
        pass_at_k=sum(pass_at_k(passed, count, k) for passed, count in counts) / len(counts),
        pass_every_time=sum(pass_every_time(passed, count, k) for passed, count in counts) / len(counts),
    )


def _worst(decided: Sequence[ScoredItem]) -> tuple[str, float] | None:
    shares = [
        (sum(item.verdict is True for item in group) / len(group), group[0].id) for group in _by_pair(decided).values()
    ]
    if not shares:
        return None
    share, name = min(shares)
    return name, share


def _pair(base: str, other: str, groups: Mapping[str, Sequence[ScoredItem]]) -> PairResult:
    common, gone, new = _partners(groups[base], groups[other])
    decided = [(one, two) for one, two in common if one.verdict is not None and two.verdict is not None]
    won = tuple((one.id, two.id) for one, two in decided if two.verdict and not one.verdict)
    lost = tuple((one.id, two.id) for one, two in decided if one.verdict and not two.verdict)
    estimate = clustered_mean(
        (one.cluster, float(bool(two.verdict)) - float(bool(one.verdict))) for one, two in decided
    )
    p = mcnemar(len(won), len(lost))
    low, high = estimate.interval or (0.0, 0.0)
    # where all answers differ alike, the interval has no width, however few they are; the p value knows how many
    is_few = high - low < _ROUNDED and p > _SIGNIFICANT_P
    return PairResult(
        base=base,
        other=other,
        pairs=len(decided),
        difference=estimate.mean if decided else None,
        interval=estimate.interval,
        p=p,
        p_adjusted=p,
        tied=is_few or low <= 0 <= high,
        detectable=None if estimate.se is None else detectable_difference(estimate.se),
        won=won,
        lost=lost,
        both_wrong=sum(not one.verdict and not two.verdict for one, two in decided),
        both_right=sum(bool(one.verdict and two.verdict) for one, two in decided),
        new=new,
        gone=gone,
        changed=sum(one.prompt != two.prompt for one, two in common),
    )


def _partners(
    base: Sequence[ScoredItem], other: Sequence[ScoredItem]
) -> tuple[list[tuple[ScoredItem, ScoredItem]], int, int]:
    """The pairs, in the order of `base`, and how many answers of `base` and of `other` have no partner.

    Where a group has several answers to a question, those of the same variant belong together, and what is left is
    paired in its order: each answer is in one pair or counted as without one.
    """
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for same_variant in (True, False):
        waiting: dict[Hashable, deque[int]] = defaultdict(deque)
        for place, item in enumerate(other):
            if place not in taken:
                waiting[item.pair, item.replica, same_variant and item.variant].append(place)
        for place, item in enumerate(base):
            found = waiting.get((item.pair, item.replica, same_variant and item.variant))
            if found and place not in partner:
                partner[place] = found.popleft()
                taken.add(partner[place])
    common = [(item, other[partner[place]]) for place, item in enumerate(base) if place in partner]
    return common, len(base) - len(common), len(other) - len(common)


def missed_thresholds(
    comparison: Comparison, *, fail_under: float | None, max_drop: float | None, per_prompt: float | None
) -> list[str]:
    """Which thresholds (shares from 0 to 1) are missed, in words; the exit status is 1 where there is one."""
    missed: list[str] = []
    for group in comparison.groups:
        if fail_under is not None and (group.rate is None or group.rate < fail_under):
            shown = "no rate" if group.rate is None else f"{group.rate:.1%}"
            missed.append(f"{group.name}: {shown} is below {fail_under:.1%}")
        if per_prompt is not None and group.worst_prompt is None:
            missed.append(
                f"{group.name}: no prompt has a verdict; each is to pass at least {per_prompt:.1%} of the time"
            )
        elif per_prompt is not None and group.worst_prompt is not None and group.worst_prompt[1] < per_prompt:
            name, share = group.worst_prompt
            missed.append(f"{group.name}: the prompt {name} passes {share:.1%} of the time, below {per_prompt:.1%}")
    for pair in comparison.pairs:
        if max_drop is not None and pair.difference is None:
            what = f"so nothing shows that it is at most {max_drop:.1%} below"
            missed.append(f"{pair.other}: no question has a verdict in it and in {pair.base}, {what}")
        elif max_drop is not None and pair.difference is not None and -pair.difference > max_drop:
            missed.append(f"{pair.other} is {-pair.difference:.1%} below {pair.base}, more than {max_drop:.1%}")
    return missed
