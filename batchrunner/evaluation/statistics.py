"""The statistics behind `compare`: intervals, paired tests and repeats. Pure functions over plain numbers.

Rates are shares from 0 to 1. An interval is (low, high) and covers 95 %. Nothing here is estimated by simulation.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, NamedTuple

Z95: Final = 1.959963984540054
"""The normal distribution's two-sided 95 % quantile."""
_DETECTED_SE: Final = 2.8015852181
"""Standard errors between 0 and a difference that is found in 80 % of experiments at the 5 % level: 1.96 + 0.84."""
_HALVINGS: Final = 200
_CONVERGED: Final = 1e-16

Interval = tuple[float, float]


class Estimate(NamedTuple):
    """A mean with its standard error and 95 % interval; `se` is None where there are too few values to tell."""

    mean: float
    se: float | None
    interval: Interval | None
    values: int
    clusters: int


def wilson(passed: float, count: int) -> Interval:
    """Wilson's score interval of `passed` in `count`; (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    rate = passed / count
    square = Z95 * Z95 / count
    centre = (rate + square / 2) / (1 + square)
    half = Z95 / (1 + square) * math.sqrt(rate * (1 - rate) / count + square / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_mean(values: Iterable[tuple[Hashable, float]]) -> Estimate:
    """The mean of (cluster, value) pairs, with the cluster-robust standard error and t with G - 1 degrees of freedom.

    Values of one cluster (the repeats of one prompt) may depend on each other. With a value a cluster this is the
    ordinary standard error of a mean.
    """
    by_cluster: dict[Hashable, list[float]] = defaultdict(list)
    for cluster, value in values:
        by_cluster[cluster].append(value)
    count = sum(map(len, by_cluster.values()))
    clusters = len(by_cluster)
    if not count:
        return Estimate(mean=math.nan, se=None, interval=None, values=0, clusters=0)
    mean = math.fsum(value for group in by_cluster.values() for value in group) / count
    if clusters == 1:
        return Estimate(mean=mean, se=None, interval=None, values=count, clusters=1)
    squares = math.fsum(math.fsum(value - mean for value in group) ** 2 for group in by_cluster.values())
    se = math.sqrt(squares * clusters / (clusters - 1)) / count
    half = t_quantile(0.975, clusters - 1) * se
    return Estimate(mean=mean, se=se, interval=(mean - half, mean + half), values=count, clusters=clusters)


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p of so many flips in either direction, if both were equally likely."""
    flips = won + lost
    if flips == 0:
        return 1.0
    ways = tail = 1
    for few in range(min(won, lost)):
        ways = ways * (flips - few) // (few + 1)  # the next binomial coefficient; each from scratch takes minutes
        tail += ways
    return min(1.0, float(2 * tail / 2**flips))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for being several, by Holm's step-down method, in the same order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def pass_at_k(passed: int, count: int, k: int) -> float:
    """The chance that at least one of `k` answers passes, estimated without bias from `passed` of `count`."""
    _require_k(count, k)
    return 1.0 - math.comb(count - passed, k) / math.comb(count, k)


def pass_every_time(passed: int, count: int, k: int) -> float:
    """The chance that all of `k` answers pass, estimated without bias from `passed` of `count`."""
    _require_k(count, k)
    return math.comb(passed, k) / math.comb(count, k)


def detectable_difference(se: float) -> float:
    """The smallest true difference that such a standard error lets one find in 80 % of experiments."""
    return _DETECTED_SE * se


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which `share` of the values lie, between neighbours linearly; None without values."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def t_quantile(share: float, freedom: int) -> float:
    """Student's t below which `share` (above 0.5) of the distribution lies, with so many degrees of freedom."""
    low, high = 0.0, 2.0
    while t_below(high, freedom) < share:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_below(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def t_below(value: float, freedom: int) -> float:
    """The share of Student's t distribution below a value of at least 0."""
    return 1.0 - _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + value * value)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (modified Lentz)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    for step in range(10_000):
        half, odd = divmod(step, 2)
        if step == 0:
            term = 1.0
        elif odd:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        denominator = 1.0 / (1.0 + term * denominator or tiny)
        numerator = 1.0 + term / numerator or tiny
        fraction *= numerator * denominator
        if abs(numerator * denominator - 1.0) < _CONVERGED:
            break
    return front * (fraction - 1.0)


def _require_k(count: int, k: int) -> None:
    if not 1 <= k <= count:
        raise ValueError(f"k must be from 1 to {count}, not {k}")
