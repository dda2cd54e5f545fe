"""The paired test for few differences: every pattern of their signs is counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forkpoint.evaluate.intervals import ROUNDING

MOST = 64
"""Differences up to which `paired` asks for this test; with more Student's test says the same."""
_CELLS = 1 << 16
"""Steps of the grid on which sums are counted where the differences are not multiples of one fraction."""
_LARGEST_DENOMINATOR = 256


def sign_flip(difference_P: ArrayLike) -> float:
    r"""Return the two-sided mid-p value of the sign-flip test.

        p = P(|S| > |s|) + P(|S| = |s|) / 2,   S = sum_p +-d_p with fair independent signs,   s = sum_p d_p

    If neither system is better, a problem's difference is as likely as its opposite. The sizes of the differences are
    taken as given, so problems without one do not enter. The test is exact but for the half of a tie, which keeps its
    size near its level; where all differences have one size it is the mid-p value of McNemar's test. With fewer than
    five differences nothing is below 5 %. Where gains and losses cancel it is 1. Sums are counted by convolution:
    exactly where the differences are multiples of one fraction, as those of k answers are, and on a grid of 65,536
    steps elsewhere.

    Args:
        difference_P: float (P,), finite.

    Returns:
        In (0, 1]; 1 where nothing differs.

    Source: Fisher 1935 (randomisation test); mid-p: Lancaster 1961.

    >>> sign_flip([1, 1, 1, 1, 1, 1, 1, -1, 0, 0]) == 10 / 256
    True
    """
    d = np.asarray(difference_P, np.float64)
    d = d[d != 0]
    if not len(d) or abs(d.sum()) <= ROUNDING * np.abs(d).sum():
        return 1.0
    sizes = _steps(np.abs(d))
    chance = _sums(sizes)
    total = len(chance) - 1
    # S = 2 X - total, where X is the sum of the sizes whose sign is +.
    distance = np.abs(2 * np.arange(total + 1) - total)
    seen = abs(2 * int(sizes[d > 0].sum()) - total)
    return float(chance[distance > seen].sum() + chance[distance == seen].sum() / 2)


def _steps(size_D: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the sizes as whole multiples of one unit, rounded where they have none in common."""
    denominators = np.arange(1, _LARGEST_DENOMINATOR + 1)[:, None]
    multiples = size_D * denominators
    whole = (np.abs(multiples - np.rint(multiples)) < 1e-9 * denominators).all(axis=1)
    exact = np.rint(multiples[whole.argmax()])
    if whole.any() and exact.sum() <= _CELLS:
        return exact.astype(np.int64)
    return np.maximum(np.rint(size_D * (_CELLS / size_D.sum())), 1).astype(np.int64)


def _sums(sizes_D: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the chance of every sum from 0 to the total, each size taken or left with even chances."""
    chance = np.zeros(int(sizes_D.sum()) + 1)
    chance[0], top = 1.0, 0
    for size in np.sort(sizes_D).tolist():
        half = chance[: top + 1] / 2
        chance[: top + 1] = half
        chance[size : top + size + 1] += half
        top += size
    return chance
