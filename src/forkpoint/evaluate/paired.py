"""Two evaluations of the same problems: is the difference real?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forkpoint.errors import InputError
from forkpoint.evaluate.intervals import check_level, differences_of, standard_error
from forkpoint.evaluate.share_intervals import differences
from forkpoint.evaluate.signflip import MOST, sign_flip
from forkpoint.evaluate.stats import Estimate, mean_estimate, problem_means


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Discordant problems of two evaluations, and how surprising their split is if neither is better."""

    won: int
    """Problems that only the first has right."""
    lost: int
    """Problems that only the second has right."""
    exact: float
    """Two-sided exact p value. Never above its level, and far below it for few discordant problems."""
    mid: float
    """Mid-p value: the exact one less half the probability of what was seen; its size is nearer to the level."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """The difference a - b on shared problems."""

    difference: Estimate
    """Mean over shared problems, with its interval."""
    p_value: float
    """Two-sided, see `paired_test`; exact sign test where all differences are the same and t has no error to divide
    by. NaN for fewer than two shared problems."""
    mcnemar: McNemar | None
    """Where every problem is all right or all wrong in both, None elsewhere."""
    better: int
    """Shared problems on which a is ahead."""
    worse: int
    """Shared problems on which b is ahead."""
    correlation: float
    """Of the two values over the shared problems, NaN where one of them does not vary."""
    unpaired_error: float
    """What the error would be if the problems were not shared: what pairing saves."""


def paired_test(
    problems_a: Sequence[Hashable],
    values_a: Sequence[float],
    problems_b: Sequence[Hashable],
    values_b: Sequence[float],
    *,
    level: float = 0.95,
) -> PairedTest:
    r"""Compare two evaluations on the problems they share.

        d_p = m_p(a) - m_p(b);  value = mean_p d_p;  error = std(d, ddof=1) / sqrt(P)

    Pairing removes the spread between easy and hard problems, which both evaluations share.

    The p value is that of the paired t test or, with up to 64 problems that differ, the mid-p value of the sign-flip
    test where that is smaller. Both ask how large the mean is against the sizes of the differences. Student's quantile
    is out of reach where one or two of these are much larger than the others; the sign-flip test is exact there. In
    simulation (benchmarks/interval_coverage.py) the size is near 5 % but for a handful of problems that differ, where
    it is smaller. McNemar's exact test is reported beside it where it exists.

    The interval of shares is `share_intervals.differences`: Student's, moved out for problems that were not drawn. It
    is Bonett and Price's where all differ by the same, for which Student's would claim certainty. Of other scores it is
    Student's. If neither system is better, problems gain as often as they lose; the test may assume that and the
    interval may not, so it can reach over 0 where the test rejects 0, and the other way round. It is then cut at 0, or
    extended to it: p is below 1 - level exactly where 0 is not inside.

    Args:
        problems_a: The problem of every answer of a.
        values_a: Their values; NaN means not judged.
        problems_b: The problem of every answer of b.
        values_b: Their values.
        level: Coverage of the interval, in (0, 1).

    Returns:
        The test; `difference.samples` counts the answers of both on shared problems.

    Raises:
        InputError: Where no problem is shared, lengths differ, or `level` is out of range.

    Source: Miller 2024, arXiv 2411.00640, section 4; McNemar 1947.

    >>> found = paired_test(range(9), [1] * 8 + [0], range(9), [0] * 7 + [1] * 2)
    >>> found.mcnemar.won, found.mcnemar.lost, found.mcnemar.exact
    (7, 1, 0.0703125)
    """
    check_level(level)
    means_a, counts_a = problem_means(problems_a, values_a)
    means_b, counts_b = problem_means(problems_b, values_b)
    shared = [problem for problem in means_a if problem in means_b]
    if not shared:
        raise InputError("the two evaluations have no judged problem in common: compare runs on the same problem set")
    a_P, b_P = (np.array([means[p] for p in shared]) for means in (means_a, means_b))
    return paired_arrays(a_P, b_P, samples=sum(counts_a[p] + counts_b[p] for p in shared), level=level)


def paired_arrays(a_P: ArrayLike, b_P: ArrayLike, *, samples: int = 0, level: float = 0.95) -> PairedTest:
    """Compare two values of the same problems, such as two pass@k; see `paired_test`.

    Args:
        a_P: float (P,).
        b_P: float (P,) of the same problems in the same order.
        samples: Answers they come from, for the record.
        level: Coverage of the interval.

    Raises:
        InputError: Where lengths differ, a value is not finite, or `level` is out of range.
    """
    a, b = np.asarray(a_P, np.float64), np.asarray(b_P, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"values of {a.shape} and {b.shape} cannot be paired: give one value a shared problem")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("a value is not finite: leave out problems that one of the two has not judged")
    difference = differences_of(a, b)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    shares = bool(((a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)).all())
    found = mean_estimate(difference, samples=samples, level=level, interval="student")
    p_value = math.nan if found.problems < 2 else _p_value(difference, found)
    if found.problems > 1:
        wide = _moved_out(a, b, found, level) if shares else found
        found = _agreeing(wide, rejected=p_value < 1 - level)
    binary = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    varies = found.problems > 1 and a.std() > 0 and b.std() > 0
    return PairedTest(
        difference=found,
        p_value=p_value,
        mcnemar=mcnemar(better, worse) if binary and len(a) else None,
        better=better,
        worse=worse,
        correlation=float(np.corrcoef(a, b)[0, 1]) if varies else math.nan,
        unpaired_error=math.hypot(*map(float, map(standard_error, (a, b)))) if found.problems > 1 else math.nan,
    )


def mcnemar(won: int, lost: int) -> McNemar:
    r"""Return the exact test of an even split of discordant problems.

        exact = P(|X - d/2| >= |won - d/2|),   mid = exact - P(X = won),   X ~ Bin(won + lost, 1/2)

    Both are 1 for an even split.

    Args:
        won: Problems that only the first has right.
        lost: Problems that only the second has right.

    Source: McNemar 1947; mid-p: Fagerland, Lydersen and Laake 2013.

    >>> found = mcnemar(209, 152)
    >>> round(found.exact, 5), round(found.mid, 5)
    (0.00315, 0.00269)
    """
    from scipy.stats import binom, binomtest

    if won < 0 or lost < 0:
        raise InputError(f"problems cannot be won {won} and lost {lost} times: both counts are 0 or more")
    total = won + lost
    if total == 0:
        return McNemar(won=0, lost=0, exact=1.0, mid=1.0)
    exact = float(binomtest(won, total).pvalue)
    mid = 1.0 if won == lost else exact - float(binom.pmf(won, total, 0.5))
    return McNemar(won=won, lost=lost, exact=exact, mid=mid)


def paired_bootstrap(a_P: ArrayLike, b_P: ArrayLike, *, level: float = 0.95, seed: int = 0) -> Estimate:
    """Return the mean difference with the BCa interval of drawing shared problems with replacement.

    Args:
        a_P: float (P,).
        b_P: float (P,) of the same problems in the same order.
        level: Coverage of the interval.
        seed: Of the draws.

    Source: Efron 1987. Too narrow for fewer than about 50 problems: `paired_test` is not.
    """
    difference = np.asarray(a_P, np.float64) - np.asarray(b_P, np.float64)
    return mean_estimate(difference, samples=0, level=level, interval="bootstrap", seed=seed)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    r"""Return p values corrected for their number, so that the chance of any false alarm keeps its level.

        adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Args:
        p_values: float (m,), one a benchmark or a pair; NaN is left out and stays NaN.

    Source: Holm 1979.

    >>> holm([0.01, 0.04, 0.03, float("nan")]).round(3).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p_values, np.float64)
    if ((p < 0) | (p > 1)).any():
        raise InputError("a p value lies outside [0, 1]: give probabilities, NaN for a test that could not be made")
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    factor = len(order) - np.arange(len(order))
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factor * p[order]))
    return adjusted


def _p_value(difference_P: NDArray[np.float64], found: Estimate) -> float:
    from scipy.stats import t

    better, worse = int((difference_P > 0).sum()), int((difference_P < 0).sum())
    if not found.error > 0:
        return mcnemar(better, worse).exact
    student = float(2 * t.sf(abs(found.value) / found.error, found.problems - 1))
    return min(student, sign_flip(difference_P) if better + worse <= MOST else 1.0)


def _moved_out(a_P: NDArray[np.float64], b_P: NDArray[np.float64], found: Estimate, level: float) -> Estimate:
    """Return a difference of shares with the interval that allows for problems that were not drawn."""
    if not found.error > 0:
        low, high = _with_one_each_way(a_P - b_P, level)
        return replace(found, low=max(low, -1.0), high=min(high, 1.0))
    low, high = map(float, differences(a_P, b_P, level))
    return replace(found, low=low, high=high)


def _agreeing(found: Estimate, *, rejected: bool) -> Estimate:
    """Return the estimate with 0 inside its interval exactly where the test does not reject it."""
    if not rejected:
        return replace(found, low=min(found.low, 0.0), high=max(found.high, 0.0))
    return replace(found, low=max(found.low, 0.0)) if found.value > 0 else replace(found, high=min(found.high, 0.0))


def _with_one_each_way(difference_P: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return an interval for differences that are all the same, with one more problem won and one more lost.

    Source: Bonett and Price 2012, who add these two to every paired comparison of shares.
    """
    from scipy.stats import norm

    more = np.append(difference_P, [1.0, -1.0])
    half = float(norm.ppf(0.5 + level / 2) * more.std() / math.sqrt(len(more)))
    # The two pull the middle towards 0, at a low level beyond the end.
    mean, value = float(more.mean()), float(difference_P.mean())
    return min(mean - half, value), max(mean + half, value)
