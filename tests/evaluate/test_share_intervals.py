"""Intervals of a mean of shares: against exact distributions, by counting, and by what they must hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from forkpoint.errors import InputError
from forkpoint.evaluate.intervals import student, wilson
from forkpoint.evaluate.share_intervals import binomial, differences, dirichlet, shares

Z = 1.959963984540054


def ends(found):
    return tuple(map(float, found))


@pytest.mark.parametrize(("right", "trials"), [(0, 30), (1, 20), (9, 30), (30, 30), (3, 100)])
def test_binomial_is_the_wider_of_wilson_and_mid_p(right, trials):
    low, high = ends(binomial(right, trials))
    plain = ends(wilson(right / trials, trials, Z))
    # By the definition: where the mid-p of the count is 2.5 %, on a grid of shares.
    grid = np.linspace(0, 1, 200_001)
    at = stats.binom.pmf(right, trials, grid) / 2
    above, below = stats.binom.sf(right, trials, grid) + at, stats.binom.cdf(right - 1, trials, grid) + at
    inside = grid[(above >= 0.025) & (below >= 0.025)]
    assert low == pytest.approx(min(plain[0], inside[0]), abs=1e-5)
    assert high == pytest.approx(max(plain[1], inside[-1]), abs=1e-5)


@pytest.mark.parametrize(("trials", "least"), [(20, 0.9285), (30, 0.93), (100, 0.93)])
def test_binomial_covers_every_share(trials, least):
    share = np.linspace(0.0005, 0.9995, 1999)
    right = np.arange(trials + 1)
    low, high = binomial(right, trials)
    chance = stats.binom.pmf(right, trials, share[:, None])

    def covered(low, high):
        return (chance * ((low <= share[:, None]) & (share[:, None] <= high))).sum(axis=1).min()

    assert covered(low, high) >= least
    assert covered(*wilson(right / trials, trials, Z)) < 0.9, "Wilson's alone is not enough"


@pytest.mark.parametrize(("right", "size"), [(1, 20), (10, 20), (3, 100), (250, 500)])
def test_dirichlet_of_zeros_and_ones_is_that_of_jeffreys(right, size):
    expected = stats.beta.ppf([0.025, 0.975], right + 0.5, size - right + 0.5)
    assert ends(dirichlet([1.0] * right + [0.0] * (size - right))) == pytest.approx(tuple(expected), rel=0.008)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_dirichlet_is_the_quantile_of_randomly_weighted_means(level):
    rng = np.random.default_rng(0)
    for values in (rng.beta(0.3, 2.0, 25), rng.beta(40, 200, 25), np.repeat([0.0, 0.5, 1.0], [18, 3, 4])):
        weight = rng.dirichlet([0.5, *np.ones(25), 0.5], 100_000)
        means = weight @ np.concatenate([[0.0], values, [1.0]])
        low, high = ends(dirichlet(values, level))
        assert (means < low).mean() == pytest.approx((1 - level) / 2, abs=0.06 * (1 - level) / 2 + 0.003)
        assert (means > high).mean() == pytest.approx((1 - level) / 2, abs=0.06 * (1 - level) / 2 + 0.003)


def test_many_problems_make_it_student():
    values = np.random.default_rng(1).beta(2, 3, 20_000)
    assert np.subtract(shares(values), student(values)) == pytest.approx(0, abs=4e-5)


def test_a_problem_that_was_not_drawn_is_allowed_for():
    # One problem in ten is worth 0.95, and one sample of twenty in eight holds none of them.
    values = np.full(20, 0.05) + np.random.default_rng(2).normal(0, 0.01, 20)
    assert ends(student(values))[1] < 0.06
    assert ends(shares(values))[1] > 0.14


def pair(difference, middle=0.5):
    """Return two systems with these differences, around a middle level."""
    d = np.asarray(difference)
    return middle + d / 2, middle - d / 2


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_differences_are_weighted_means_with_one_problem_more(level):
    rng = np.random.default_rng(5)
    for a, b in (pair(rng.normal(0.02, 0.05, 25), 0.3), (np.repeat([1.0, 0.0], 12), rng.beta(0.3, 2, 24))):
        size = len(a)
        weight = rng.dirichlet(np.repeat([1.0, 1 / (4 * size)], [size, 4 * size]), 100_000)
        means = weight @ np.concatenate([a - b, 1 - b, -b, a, a - 1])
        plain, quantile = ends(student(a - b, level)), np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
        low, high = ends(differences(a, b, level))
        assert low == pytest.approx(min(quantile[0], plain[0]), abs=0.004)
        assert high == pytest.approx(max(quantile[1], plain[1]), abs=0.004)


def test_room_for_a_difference_is_what_the_levels_leave():
    d = np.random.default_rng(6).normal(0.0, 0.01, 20)
    narrow, wide = (np.subtract(*ends(differences(*pair(d, middle)))[::-1]) for middle in (0.5, 0.02))
    assert 3 * np.subtract(*student(d)[::-1]) < narrow < 0.8 * wide


def test_differences_hold_rare_gains():
    # One problem in ten gains 0.7 and the others nothing but noise; Student's interval believes the sample.
    rng = np.random.default_rng(6)
    before = rng.random((1000, 20)) * 0.1 + 0.05
    after = before + np.where(rng.random((1000, 20)) < 0.1, 0.7, 0.0) + rng.normal(0, 0.015, (1000, 20))

    def covered(found):
        return ((found[0] <= 0.07) & (found[1] >= 0.07)).mean()

    assert covered(student(after - before)) < 0.88
    assert covered(differences(after, before)) > 0.9


def test_differences_are_students_where_these_are_spread_or_many():
    d = np.random.default_rng(7).choice([-1.0, 0.0, 1.0], 40)
    assert differences(d.clip(0), (-d).clip(0)) == student(d)
    many = np.random.default_rng(8).normal(0.01, 0.2, 20_000).clip(-1, 1)
    assert np.subtract(differences(*pair(many)), student(many)) == pytest.approx(0, abs=4e-5)


def test_differences_mirror():
    rng = np.random.default_rng(9)
    a, b = rng.random((3, 40)), rng.random((3, 40))
    low, high = differences(a, b)
    for other_low, other_high in (differences(b, a), differences(1 - a, 1 - b)):
        assert low == pytest.approx(-other_high, abs=1e-9)
        assert high == pytest.approx(-other_low, abs=1e-9)
    assert low.shape == (3,)
    assert differences(a[1], b[1])[0] == pytest.approx(low[1], abs=1e-12)


def test_differences_stay_within_what_shares_can_differ_by():
    low, high = ends(differences([1.0, 1.0, 1.0, 0.9], [0.0, 0.1, 0.0, 0.0]))
    assert 0.5 < low < 0.9 < high <= 1.0


def test_differences_are_those_of_shares():
    with pytest.raises(InputError, match=r"outside \[0, 1\]"):
        differences([1.2, 0.0], [0.0, 0.0])
    with pytest.raises(InputError, match=r"outside \[0, 1\]"):
        differences([1.0, 0.0], [float("nan"), 0.0])


def test_weights_stand_for_repeated_values():
    value, count = np.array([0.0, 0.25, 1.0]), np.array([5, 7, 3])
    repeated = ends(shares(np.repeat(value, count)))
    assert ends(shares(value, weights=count)) == pytest.approx(repeated, abs=1e-12)
    # A value that nobody has does not count, even one between 0 and 1.
    assert ends(shares(value, weights=[5, 0, 3])) == ends(binomial(3, 8))


def test_both_sides_are_mirrors():
    values = np.random.default_rng(3).beta(0.4, 1.5, (2, 30))
    low, high = shares(values)
    other_low, other_high = shares(1 - values)
    assert low == pytest.approx(1 - other_high, abs=1e-9)
    assert high == pytest.approx(1 - other_low, abs=1e-9)


def test_ends_are_reached_where_nothing_speaks_against_them():
    low, high = shares([[1e-9] * 30, [1 - 1e-9] * 30, [1.0] * 30, [0.5] * 30])
    assert low.tolist()[0] == 0.0 < high[0]
    assert high.tolist()[1:3] == [1.0, 1.0]
    assert 0.4 < low[3] < 0.5 < high[3] < 0.6


def test_leading_axes_are_separate_evaluations():
    values = np.random.default_rng(4).random((2, 3, 25))
    values[0, 1] = values[0, 1].round()
    low, high = shares(values)
    assert low.shape == high.shape == (2, 3)
    for place in ((0, 1), (1, 2)):
        assert (low[place], high[place]) == pytest.approx(ends(shares(values[place])), abs=1e-12)
    assert (low[0, 1], high[0, 1]) == ends(binomial(values[0, 1].sum(), 25))


def test_higher_levels_hold_lower_ones():
    values = [0.2, 0.3, 0.9, 0.4] * 5
    found = [ends(shares(values, level)) for level in (0.05, 0.5, 0.9, 0.999, 0.999999)]
    for (low, high), (wider_low, wider_high) in itertools.pairwise(found):
        assert wider_low < low < high < wider_high


@pytest.mark.parametrize("level", [0, 1, 95, -0.1])
@pytest.mark.parametrize(
    "method",
    [shares, dirichlet, lambda v, level: differences(v, v, level), lambda values, level: binomial(1, 2, level)],
)
def test_levels_out_of_range_are_named(method, level):
    with pytest.raises(InputError, match=f"not {level}"):
        method([0.1, 0.2], level)
