"""The sign-flip test by counting every pattern of signs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from forkpoint.evaluate.signflip import sign_flip


def counted(difference):
    d = np.abs([x for x in difference if x])
    sums = np.abs(np.array(list(itertools.product([-1, 1], repeat=len(d)))) @ d)
    seen = abs(sum(difference))
    return float((sums > seen + 1e-9).mean() + (np.abs(sums - seen) <= 1e-9).mean() / 2)


def test_every_pattern_is_counted():
    rng = np.random.default_rng(0)
    for k in (1, 3, 4, 64):
        d = rng.integers(-k, k + 1, 12) / k
        assert sign_flip(d) == pytest.approx(counted(d), abs=1e-12)
    for _ in range(5):
        d = rng.normal(0.2, 0.4, 11)
        assert sign_flip(d) == pytest.approx(counted(d), abs=2e-3)


def test_equal_sizes_are_mcnemar():
    assert sign_flip([0.3] * 7 + [-0.3] + [0.0] * 5) == pytest.approx(10 / 256, abs=1e-12)
    assert sign_flip([1.0] * 5) == 2 / 64
    assert sign_flip([1.0] * 4 + [0.0] * 20) == 2 / 32


def test_no_difference_is_no_surprise():
    assert sign_flip([]) == sign_flip([0.0] * 9) == 1.0
    assert sign_flip([1.0, -1.0]) == sign_flip([0.3, -0.1, -0.2]) == 1.0, "as McNemar's for an even split"


def test_sizes_beyond_whole_numbers_of_the_machine():
    d = np.array([3.0, 2.0, 2.0, 1.0, -1.0])
    assert sign_flip(1e19 * d) == pytest.approx(sign_flip(d), abs=1e-9)
    assert sign_flip(1e90 * d) == pytest.approx(sign_flip(d), abs=1e-9)


def test_many_differences_make_it_student():
    d = np.random.default_rng(1).normal(0.05, 0.4, 200)
    assert sign_flip(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=0.02)
    assert sign_flip(1000 * d) == pytest.approx(sign_flip(d), abs=1e-9), "scores have any scale"


def test_one_large_difference_does_not_hide_the_others():
    # Ten small ones agree; the large one is as likely to be of either sign.
    d = [0.9] + [0.02] * 10
    assert stats.ttest_1samp(d, 0).pvalue > 0.15
    assert sign_flip(d) == pytest.approx(2 * 0.5 / 2**11, abs=1e-9)


def test_its_size_is_its_level():
    rng = np.random.default_rng(2)
    d = np.rint(8 * rng.standard_t(1.5, (3000, 15))).clip(-400, 400) / 8
    assert (np.array([sign_flip(row) for row in d]) < 0.05).mean() == pytest.approx(0.05, abs=0.012)
