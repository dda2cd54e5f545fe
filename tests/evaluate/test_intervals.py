"""Intervals by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from forkpoint.errors import InputError
from forkpoint.evaluate.intervals import bootstrap, clustered_wilson, standard_error, student, wilson

Z = 1.959963984540054
WIDER = 2.0226909200367604 * math.sqrt(40 / 39)


@pytest.mark.parametrize(("right", "size"), [(0, 30), (9, 30), (30, 30), (1, 2), (400, 1319)])
def test_wilson_is_that_of_scipy(right, size):
    expected = stats.binomtest(right, size).proportion_ci(0.95, method="wilson")
    assert tuple(map(float, wilson(right / size, size, Z))) == pytest.approx((expected.low, expected.high), abs=1e-12)
    values = [1.0] * right + [0.0] * (size - right)
    assert tuple(map(float, clustered_wilson(values))) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_clustered_wilson_by_hand():
    # Shares 0.2, 0.4, 0.6: m = 0.4, s² = 0.04, m (1 - m) = 0.24, of which one problem has all.
    error_squared = (0.04 + 0.24 / 3) / 4
    trials, quantile = 0.24 / error_squared, 4.302652729911275
    centre = (0.4 + quantile**2 / (2 * trials)) / (1 + quantile**2 / trials)
    half = quantile * math.sqrt(0.24 / trials + quantile**2 / (4 * trials**2)) / (1 + quantile**2 / trials)
    assert tuple(map(float, clustered_wilson([0.2, 0.4, 0.6]))) == pytest.approx(
        (centre - half, centre + half), abs=1e-9
    )


def test_many_problems_make_it_student():
    values = np.random.default_rng(0).beta(2, 3, 20_000)
    assert np.subtract(clustered_wilson(values), student(values)) == pytest.approx(0, abs=1e-5)


def test_nothing_is_certain():
    ends = np.array(
        [np.subtract(*clustered_wilson(v)[::-1]) for v in ([0.5] * 30, [0.25] * 30, [1.0] * 30, [0.0] * 30)]
    )
    assert (ends > 0.01).all()


def test_leading_axes_are_separate_evaluations():
    values = np.random.default_rng(1).random((2, 3, 25))
    for method in (clustered_wilson, student, bootstrap):
        low, high = method(values)
        assert low.shape == high.shape == (2, 3)
        one = method(values[1, 2])
        assert (float(low[1, 2]), float(high[1, 2])) == pytest.approx(tuple(map(float, one)), abs=1e-12)


def test_student_is_that_of_scipy():
    values = [0.1, 0.4, 0.35, 0.8]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert tuple(map(float, student(values, 0.9))) == pytest.approx(tuple(expected), abs=1e-12)
    assert float(standard_error(values)) == pytest.approx(stats.sem(values), abs=1e-15)


def test_bootstrap_is_bias_corrected_accelerated_and_expanded():
    values = np.random.default_rng(2).exponential(size=40)
    low, high = map(float, bootstrap(values))
    # By the definition: percentiles at Phi(z0 + (z0 + z) / (1 - a (z0 + z))), a = sum d³ / (6 (sum d²)^1.5), where z is
    # Student's quantile times sqrt(40 / 39).
    rng = np.random.default_rng(3)
    means = np.sort(values[rng.integers(0, 40, (40_000, 40))].mean(1))
    d = values - values.mean()
    a, z0 = (d**3).sum() / (6 * (d**2).sum() ** 1.5), stats.norm.ppf((means < values.mean()).mean())
    q = [stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))) for z in (-WIDER, WIDER)]
    assert (low, high) == pytest.approx(tuple(np.quantile(means, q)), abs=0.012)
    assert high - values.mean() > 1.15 * (values.mean() - low), "it follows the skew"


def test_bootstrap_of_what_does_not_vary_is_the_value():
    low, high = bootstrap([[0.5, 0.5, 0.5], [0.0, 0.5, 1.0]])
    assert low[0] == high[0] == 0.5
    assert low[1] < 0.5 < high[1]


def test_bootstrap_is_the_same_every_time():
    values = np.random.default_rng(4).random(12)
    assert bootstrap(values)[0] == bootstrap(values)[0]
    assert bootstrap(values)[0] != bootstrap(values, seed=1)[0]


@pytest.mark.parametrize("level", [0, 1, 95, -0.1])
@pytest.mark.parametrize("method", [clustered_wilson, student, bootstrap])
def test_levels_out_of_range_are_named(method, level):
    with pytest.raises(InputError, match=f"not {level}"):
        method([0.1, 0.2], level)
