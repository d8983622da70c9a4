"""Every figure is the one that scipy and statsmodels find."""

import math
import random

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.special import comb
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

import batchrunner
from batchrunner.evaluation import statistics
from tests.support.growth import calls_within

TABLES = 200


def test_a_wilson_interval_is_that_of_statsmodels() -> None:
    for seed in range(TABLES):
        chance = random.Random(seed)
        count = chance.randint(1, 2_000)
        passed = chance.randint(0, count)
        expected = proportion_confint(passed, count, method="wilson")
        assert statistics.wilson(passed, count) == pytest.approx(expected, abs=1e-9)


def test_nothing_counted_states_nothing() -> None:
    assert statistics.wilson(0, 0) == (0.0, 1.0)
    assert math.isnan(statistics.clustered_mean([]).mean)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("count", [20, 50, 200])
def test_a_wilson_interval_covers_the_truth_92_times_of_100(share: float, count: int) -> None:
    covers = [low <= share <= high for low, high in (statistics.wilson(k, count) for k in range(count + 1))]
    weights = stats.binom.pmf(range(count + 1), count, share)
    assert float(weights[covers].sum()) >= 0.92


def test_exact_mcnemar_is_that_of_statsmodels() -> None:
    for seed in range(TABLES):
        chance = random.Random(seed)
        won, lost = chance.randint(0, 300), chance.randint(0, 300)
        expected = reference_mcnemar([[0, won], [lost, 0]], exact=True).pvalue if won + lost else 1.0
        assert statistics.mcnemar(won, lost) == pytest.approx(expected, abs=1e-9)


def test_exact_mcnemar_of_tens_of_thousands_of_flips_makes_no_coefficient_from_scratch() -> None:
    """Each of them takes milliseconds with `math.comb`; all together, minutes."""
    with calls_within(10, of=batchrunner):
        p_value = statistics.mcnemar(15_000, 15_100)
    assert p_value == pytest.approx(stats.binomtest(15_000, 30_100).pvalue, abs=1e-9)


def test_a_clustered_mean_is_a_regression_on_a_constant_with_clusters() -> None:
    for seed in range(TABLES):
        chance = random.Random(seed)
        pairs = [(cluster, float(chance.random() < 0.6)) for cluster in range(30) for _ in range(chance.randint(1, 6))]
        found = statistics.clustered_mean(pairs)
        clusters, values = (np.array(column) for column in zip(*pairs, strict=True))
        fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
        assert found.mean == pytest.approx(fit.params[0], abs=1e-9)
        assert found.se == pytest.approx(fit.bse[0], abs=1e-9)
        assert found.interval == pytest.approx(tuple(fit.conf_int()[0]), abs=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 399, 1_318, 100_000])
def test_t_is_that_of_scipy(freedom: int) -> None:
    assert statistics.t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-9)


def test_holm_is_that_of_statsmodels() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        p_values = [chance.random() ** 3 for _ in range(chance.randint(1, 12))]
        assert statistics.holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-9)


@pytest.mark.parametrize(("passed", "count", "k"), [(0, 5, 2), (5, 5, 5), (3, 10, 4), (7, 8, 1), (1, 4, 4)])
def test_passes_of_k_are_draws_without_replacement(passed: int, count: int, k: int) -> None:
    none = stats.hypergeom.pmf(0, count, passed, k)
    assert statistics.pass_at_k(passed, count, k) == pytest.approx(1 - none, abs=1e-12)
    assert statistics.pass_every_time(passed, count, k) == pytest.approx(comb(passed, k) / comb(count, k), abs=1e-12)


def test_more_answers_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="from 1 to 3"):
        statistics.pass_at_k(1, 3, 4)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_a_percentile_is_that_of_numpy(share: float) -> None:
    values = sorted(random.Random(7).random() for _ in range(37))
    assert statistics.percentile(values, share) == pytest.approx(np.quantile(values, share))
