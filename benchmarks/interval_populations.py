"""Kinds of benchmark that `interval_coverage.py` draws from: how the chance of a right answer spreads over problems.

None of them was looked at while the intervals and the test were chosen; those were Beta distributions of other shapes,
one logit-normal and two two-point distributions of other places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special, stats

Floats = NDArray[np.float64]
Part = tuple[float, str, float, float]
"""Share of the problems, kind, and its two parameters: `beta` a, b; `logit` mean, deviation; `point` p, unused."""
Population = Sequence[Part]

POPULATIONS: Mapping[str, Population] = {
    "middling: Beta(2, 2)": [(1.0, "beta", 2.0, 2.0)],
    "spread: Beta(0.5, 0.5)": [(1.0, "beta", 0.5, 0.5)],
    "harder: Beta(1, 4)": [(1.0, "beta", 1.0, 4.0)],
    "hard: Beta(0.2, 1.3)": [(1.0, "beta", 0.2, 1.3)],
    "easier: Beta(6, 1.5)": [(1.0, "beta", 6.0, 1.5)],
    "alike: Beta(12, 12)": [(1.0, "beta", 12.0, 12.0)],
    "easy: Beta(0.8, 0.1)": [(1.0, "beta", 0.8, 0.1)],
    "middling: logit N(0, 1.5)": [(1.0, "logit", 0.0, 1.5)],
    "hard: logit N(-2.5, 1.5)": [(1.0, "logit", -2.5, 1.5)],
    "easy: logit N(2, 2.5)": [(1.0, "logit", 2.0, 2.5)],
    "two kinds: 0.2, 0.7": [(0.5, "point", 0.2, 0.0), (0.5, "point", 0.7, 0.0)],
    "two kinds: 4 of 5 at 0.02, else 0.9": [(0.8, "point", 0.02, 0.0), (0.2, "point", 0.9, 0.0)],
    "two kinds: 9 of 10 at 0.97, else 0.3": [(0.9, "point", 0.97, 0.0), (0.1, "point", 0.3, 0.0)],
    "hopeless 30 %, open 30 %, solved 40 %": [
        (0.3, "point", 0.0, 0.0), (0.3, "beta", 1.0, 1.0), (0.4, "point", 1.0, 0.0),
    ],
}  # fmt: skip


def right_answers(population: Population, k: int) -> Floats:
    """Return the chance of 0 to k right answers to a problem, (k + 1,).

    >>> right_answers([(1.0, "beta", 1.0, 1.0)], 3).round(12).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    right, chance = np.arange(k + 1), np.zeros(k + 1)
    for share, kind, first, second in population:
        if kind == "beta":
            chance += share * stats.betabinom.pmf(right, k, first, second)
        elif kind == "point":
            chance += share * stats.binom.pmf(right, k, first)
        else:
            node, weight = np.polynomial.hermite_e.hermegauss(120)
            p = special.expit(first + second * node)[:, None]
            chance += share * (weight / weight.sum() @ stats.binom.pmf(right, k, p))
    return chance / chance.sum()


def draw(population: Population, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Return the chance of a right answer to every problem drawn."""
    part = rng.choice(len(population), size=shape, p=[share for share, *_ in population])
    found = np.empty(shape)
    for place, (_, kind, first, second) in enumerate(population):
        here = part == place
        size = int(here.sum())
        if kind == "beta":
            found[here] = rng.beta(first, second, size)
        else:
            found[here] = first if kind == "point" else special.expit(first + second * rng.standard_normal(size))
    return found


def central_share(chance: Floats, value: Floats, problems: int, steps: int = 1024) -> float:
    """Return how often the mean over problems lies in its central range: at most 2.5 % outside on either side.

    95 % where the mean can take many values; more where few values, often one at an end, have much of the chance. An
    interval that misses at most 2.5 % on either side then covers more than 95 % as well, whatever it is computed from.

    Args:
        chance: Of every value of a problem, (V,).
        value: In [0, 1], (V,), counted in `steps` steps.
        problems: How many are drawn.
        steps: Of the grid.

    >>> round(central_share(np.array([0.1, 0.9]), np.array([0.0, 1.0]), 20), 4)
    0.9887
    """
    one = np.bincount(np.rint(value * steps).astype(int), chance, steps + 1)
    size = problems * steps + 1
    length = fft.next_fast_len(size, real=True)
    total = np.clip(fft.irfft(fft.rfft(one, length) ** problems, length)[:size], 0.0, None)
    total = total[total > 1e-13] / total.sum()
    outside = [np.cumsum(side) for side in (total, total[::-1])]
    return float(1 - sum(side[side <= 0.025].max(initial=0.0) for side in outside))
