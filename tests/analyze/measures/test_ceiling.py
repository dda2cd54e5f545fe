from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import linregress
from scipy.stats import t as student

from forkpoint.analyze.measures.ceiling import fit_law
from forkpoint.errors import InputError

NAN = float("nan")


def test_a_law_without_noise_is_found_exactly():
    entropy = np.linspace(0.1, 1.2, 9)
    law = fit_law(entropy, 0.9 - 0.15 * np.exp(entropy))
    assert (law.a.value, law.b.value, law.ceiling.value) == pytest.approx((0.15, 0.9, 0.75), abs=1e-12)
    assert law.r_squared == pytest.approx(1.0)
    assert law.ceiling.high - law.ceiling.low < 1e-12
    assert law.autocorrelation == 0.0


def test_intervals_equal_scipy_where_steps_are_independent():
    entropy = np.log([1.0, 2.0, 3.0, 4.0, 5.0])
    reward = np.array([0.8, 0.72, 0.5, 0.42, 0.2])
    law, plain = fit_law(entropy, reward), linregress(np.exp(entropy), reward)
    residual = reward - plain.intercept - plain.slope * np.exp(entropy)
    assert (residual[1:] * residual[:-1]).sum() < 0  # so nothing is widened
    factor = student.ppf(0.975, 3)
    assert law.autocorrelation == 0.0
    assert law.a.value == pytest.approx(-plain.slope)
    assert law.a.high - law.a.value == pytest.approx(factor * plain.stderr)
    assert law.b.high - law.b.value == pytest.approx(factor * plain.intercept_stderr)
    # x = 1..5: mean 3, spread 10; at x = 1 the error is s sqrt(1/5 + 4/10).
    s = math.sqrt((residual**2).sum() / 3)
    assert law.ceiling.high - law.ceiling.value == pytest.approx(factor * s * math.sqrt(0.6))


def test_correlated_steps_widen_the_interval():
    entropy = np.log(np.linspace(1.0, 4.0, 40))
    smooth = 0.02 * np.sin(np.arange(40) / 1.2)
    law = fit_law(entropy, 0.8 - 0.1 * np.exp(entropy) + smooth)
    x = np.exp(entropy)
    plain = linregress(x, 0.8 - 0.1 * x + smooth)
    residual = 0.8 - 0.1 * x + smooth - plain.intercept - plain.slope * x
    rho = (residual[1:] * residual[:-1]).sum() / (residual**2).sum()
    assert law.autocorrelation == pytest.approx(rho)
    assert 0.5 < rho < 0.8
    widen = (1 + rho) / (1 - rho)
    half = student.ppf(0.975, 40 / widen - 2) * plain.stderr * math.sqrt(widen)
    assert law.a.high - law.a.value == pytest.approx(half)
    slow = fit_law(entropy, 0.8 - 0.1 * x + 0.02 * np.sin(np.arange(40) / 4))
    assert slow.autocorrelation > 0.9
    assert math.isnan(slow.ceiling.low)  # fewer than three independent points remain


def test_the_interval_covers_the_ceiling_as_often_as_it_says():
    rng = np.random.default_rng(8)
    entropy = np.linspace(0.2, 1.0, 20)
    hits = 0
    for _ in range(400):
        law = fit_law(entropy, 0.9 - 0.2 * np.exp(entropy) + rng.normal(0, 0.03, 20), level=0.9)
        hits += law.ceiling.low <= 0.7 <= law.ceiling.high
    assert 0.86 < hits / 400 < 0.98  # widening for chance autocorrelation errs on the wide side


def test_the_law_at_its_limits():
    two = fit_law([0.0, math.log(2)], [0.5, 0.25])
    assert two.ceiling.value == pytest.approx(0.5)
    assert math.isnan(two.ceiling.low)
    flat = fit_law([0.1, 0.2, 0.3], [0.4, 0.4, 0.4])
    assert flat.a.value == 0.0
    assert math.isnan(flat.r_squared)
    assert fit_law([0.1, NAN, 0.2, 0.3], [0.4, 0.4, NAN, 0.1]).left_out == 2


@pytest.mark.parametrize(
    ("entropy", "reward", "says"),
    [
        ([], [], "there are 0"),
        ([0.1], [0.2], "there are 1"),
        ([0.1, NAN], [0.2, 0.3], "there are 1"),
        ([0.1, 0.1], [0.2, 0.3], "all entropies are equal"),
        ([0.1, 0.2], [0.2], "2 entropies do not match 1"),
        ([0.1, 1e4], [0.2, 0.3], "too large"),
    ],
)
def test_points_that_carry_no_law(entropy, reward, says):
    with pytest.raises(InputError, match=says):
        fit_law(entropy, reward)
    with pytest.raises(InputError, match="level"):
        fit_law([0.1, 0.2], [0.3, 0.4], level=95)
