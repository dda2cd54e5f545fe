"""Several training seeds of one method: the seed as a random effect beside the problem."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forkpoint.errors import InputError
from forkpoint.evaluate.intervals import ROUNDING, check_level, differences_of, standard_error
from forkpoint.evaluate.share_intervals import shares
from forkpoint.evaluate.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class SeedEffect:
    """An accuracy over seeds and problems, and what each contributes to its error."""

    estimate: Estimate
    """Mean over both; the interval covers other seeds and other problems. `problems` and `samples` are P and S."""
    seed: float
    """Standard deviation of the true means of seeds, 0 where the data show none, NaN for one seed."""
    problem: float
    """Standard deviation of the true values of problems."""
    degrees: float
    """Degrees of freedom of the interval (Satterthwaite)."""


def seed_effect(values_SP: ArrayLike, *, level: float = 0.95) -> SeedEffect:
    r"""Return the mean over training seeds and problems, both drawn at random, crossed.

        y_sp = mu + a_s + b_p + e_sp
        var(mean) = (MS_s + MS_p - MS_e) / (S P),   at least MS_p / (S P)

    Seeds see the same problems, so neither the spread of the seeds' means nor that of the problems' means holds all
    of the error. With one seed it is the clustered error of that run, which says nothing of other seeds.

    Args:
        values_SP: float (S, P): value of problem p for training seed s. P >= 2, no NaN.
        level: Coverage of the interval, in (0, 1).

    Returns:
        The estimate and the standard deviations of both effects.

    Raises:
        InputError: For fewer than two problems, NaN, or another shape.

    Source: two-way random effects without replication, Searle, Casella and McCulloch 1992, chapter 4.

    >>> found = seed_effect([[1.0, 0.0, 1.0, 0.0], [1.0, 0.5, 1.0, 0.5]])
    >>> found.estimate.value, round(found.seed, 3)
    (0.625, 0.144)
    """
    from scipy.stats import t

    check_level(level)
    y = _checked(values_SP)
    seeds, problems = y.shape
    mean_squares = _mean_squares(y)
    by_seed, by_problem, rest = mean_squares
    terms, degrees = [(by_problem, problems - 1)], float(problems - 1)
    if seeds > 1 and by_seed > rest:
        terms += [(by_seed, seeds - 1), (-rest, (seeds - 1) * (problems - 1))]
        total = sum(square for square, _ in terms)
        degrees = total**2 / sum(square**2 / freedom for square, freedom in terms)
    error = math.sqrt(max(0.0, sum(square for square, _ in terms)) / y.size)
    value, half = float(y.mean()), float(t.ppf(0.5 + level / 2, degrees)) * error
    low, high = value - half, value + half
    if _are_shares(y):
        # Where nothing varies, what is not known of other problems is still not known.
        low, high = map(float, shares(y.mean(axis=0), level)) if error == 0 else (max(low, 0.0), min(high, 1.0))
    return SeedEffect(
        estimate=Estimate(value=value, low=low, high=high, error=error, problems=problems, samples=seeds),
        seed=seed_deviation(y),
        problem=math.sqrt(max(0.0, by_problem - rest) / seeds) if seeds > 1 else math.nan,
        degrees=degrees,
    )


def seed_deviation(values_SP: ArrayLike) -> float:
    """Return the standard deviation of the true means of training seeds, `sqrt(max(0, MS_s - MS_e) / P)`.

    NaN for one seed. The draw of problems does not enter: all seeds see the same ones.
    """
    y = _checked(values_SP)
    if len(y) < 2:
        return math.nan
    by_seed, _, rest = _mean_squares(y)
    return math.sqrt(max(0.0, by_seed - rest) / y.shape[1])


def seeds_difference(a_SP: ArrayLike, b_SP: ArrayLike, *, level: float = 0.95) -> tuple[Estimate, float]:
    r"""Return the difference of two methods with several training seeds each, and its two-sided p value.

        error² = var_p(mean_s a_sp - mean_s b_sp) / P + sd_a² / S_a + sd_b² / S_b

    Problems are paired, seeds are not. The interval is Student's with Welch and Satterthwaite's degrees of freedom.
    A method with one seed adds no seed term: the interval then does not cover what its other seeds would give.

    Args:
        a_SP: float (S_a, P).
        b_SP: float (S_b, P) of the same problems in the same order.
        level: Coverage of the interval.

    Returns:
        The estimate, whose `samples` is the number of seeds of both, and p, NaN where nothing varies.

    Raises:
        InputError: Where the numbers of problems differ, are below two, or a value is NaN.

    >>> found, p = seeds_difference([[1, 1, 0], [1, 1, 1]], [[0, 1, 0], [0, 0, 0]])
    >>> round(found.value, 3), round(p, 3)
    (0.667, 0.057)
    """
    from scipy.stats import t

    check_level(level)
    a, b = _checked(a_SP), _checked(b_SP)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"{a.shape[1]} and {b.shape[1]} problems cannot be paired: give the shared ones, in one order")
    problems = a.shape[1]
    difference = differences_of(a.mean(axis=0), b.mean(axis=0))
    terms = [(float(standard_error(difference)) ** 2, problems - 1)]
    terms += [(seed_deviation(y) ** 2 / len(y), len(y) - 1) for y in (a, b) if len(y) > 1]
    squared = sum(term for term, _ in terms)
    degrees = squared**2 / sum(term**2 / freedom for term, freedom in terms) if squared > 0 else problems - 1
    value, error = float(difference.mean()), math.sqrt(squared)
    half = float(t.ppf(0.5 + level / 2, degrees)) * error
    low, high = value - half, value + half
    if _are_shares(a) and _are_shares(b):
        low, high = max(low, -1.0), min(high, 1.0)
    found = Estimate(value=value, low=low, high=high, error=error, problems=problems, samples=len(a) + len(b))
    return found, float(2 * t.sf(abs(value) / error, degrees)) if error > 0 else math.nan


def _checked(values_SP: ArrayLike) -> NDArray[np.float64]:
    y = np.asarray(values_SP, np.float64)
    if y.ndim != 2 or y.shape[0] < 1 or y.shape[1] < 2:
        raise InputError(f"values of shape {y.shape}: seeds need one row each, with a column for two problems or more")
    if not np.isfinite(y).all():
        raise InputError("a value is not finite: seeds are compared on problems that all of them have judged")
    return y


def _are_shares(y: NDArray[np.float64]) -> bool:
    return bool(((y >= 0) & (y <= 1)).all())


def _mean_squares(y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean squares of seeds, of problems and of the rest; 0 for rounding, and for what one seed hides."""
    seeds, problems = y.shape
    grand = y.mean()
    row, column = y.mean(axis=1) - grand, y.mean(axis=0) - grand
    rest = y - grand - row[:, None] - column
    least = y.size * (ROUNDING * max(1.0, float(np.abs(y).max()))) ** 2

    def mean_square(total: float, freedom: int) -> float:
        return total / freedom if freedom and total > least else 0.0

    return (
        mean_square(float(problems * (row**2).sum()), seeds - 1),
        mean_square(float(seeds * (column**2).sum()), problems - 1),
        mean_square(float((rest**2).sum()), (seeds - 1) * (problems - 1)),
    )
