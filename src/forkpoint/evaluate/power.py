"""What an evaluation can resolve: where its variance comes from, and which difference it would find."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from forkpoint.errors import InputError
from forkpoint.evaluate.intervals import standard_error


@dataclass(frozen=True, kw_only=True)
class VarianceSplit:
    """Variance of the value of an answer, split by where it comes from."""

    between: float
    """Of the true values of problems; more problems help against it, more answers do not. NaN below two problems."""
    within: float
    """Of answers to one problem, the mean over problems. NaN where no problem has two answers."""
    problems: int
    samples: float
    """Answers a problem: the harmonic mean where they differ."""

    @property
    def share_between(self) -> float:
        """Share of the squared error that endless answers to the same problems would leave."""
        total = self.between + self.within / self.samples
        return self.between / total if total > 0 else math.nan


def variance_split(problems: Sequence[Hashable], values: Sequence[float]) -> VarianceSplit:
    r"""Split the variance of answers into that between problems and that within them.

        within = mean_p s²_p,   between = max(0, var_p(m_p) - mean_p s²_p / k_p)

    Args:
        problems: The problem of every answer.
        values: Their values; NaN means not judged and is left out.

    Returns:
        With one answer a problem `within` is NaN and `between` the variance of the values, which holds both.

    Raises:
        InputError: Where lengths differ.

    Source: Miller 2024, arXiv 2411.00640, section 3.1; the method of moments of a one-way layout.

    >>> split = variance_split(list("aabbccdd"), [1, 1, 0, 0, 1, 1, 1, 0])
    >>> round(split.between, 4), split.within, split.problems, split.samples
    (0.1667, 0.125, 4, 2.0)
    """
    if len(problems) != len(values):
        raise InputError(f"{len(problems)} problem ids do not match {len(values)} values: give one id a value")
    groups: dict[Hashable, list[float]] = {}
    for problem, value in zip(problems, values, strict=True):
        if not math.isnan(value):
            groups.setdefault(problem, []).append(float(value))
    counts = np.array([len(group) for group in groups.values()], np.float64)
    means = np.array([math.fsum(group) / len(group) for group in groups.values()])
    spread = np.array([np.var(group, ddof=1) if len(group) > 1 else np.nan for group in groups.values()])
    within = float(np.nanmean(spread)) if (counts > 1).any() else math.nan
    noise = within * float((1 / counts).mean()) if not math.isnan(within) else 0.0
    between = max(0.0, float(standard_error(means)) ** 2 * len(means) - noise) if len(means) > 1 else math.nan
    samples = float(1 / (1 / counts).mean()) if len(counts) else math.nan
    return VarianceSplit(between=between, within=within, problems=len(counts), samples=samples)


def planned_error(split: VarianceSplit, *, problems: int, samples: float) -> float:
    r"""Return the standard error that another number of problems and answers would give.

        error = sqrt((between + within / k) / P)

    Args:
        split: Of a pilot evaluation.
        problems: P >= 1.
        samples: k > 0 answers to each.

    Raises:
        InputError: Where a count is not positive, or answers are to change and the pilot has one a problem.

    >>> split = VarianceSplit(between=0.16, within=0.08, problems=30, samples=8)
    >>> round(planned_error(split, problems=100, samples=2), 4)
    0.0447
    """
    if problems < 1 or samples <= 0:
        raise InputError(f"{problems} problems with {samples} answers cannot be planned: both are positive")
    if math.isnan(split.within) and samples != split.samples:
        raise InputError("one answer a problem does not tell how answers vary: sample at least two to plan for others")
    within = 0.0 if math.isnan(split.within) else split.within
    return math.sqrt((split.between + within / samples) / problems)


def detectable_difference(error: float, *, problems: int, level: float = 0.95, power: float = 0.8) -> float:
    r"""Return the smallest true difference that a two-sided test at this error would find with this power.

        (t_{1 - (1 - level)/2} + t_power) error,   P - 1 degrees of freedom

    Args:
        error: Standard error of the difference.
        problems: P; fewer than two detect nothing, NaN.
        level: One minus the size of the test.
        power: Chance to find it.

    Source: Miller 2024, arXiv 2411.00640, section 5, with t in place of the normal quantile.

    >>> round(detectable_difference(0.05, problems=30), 3)
    0.145
    """
    from scipy.stats import t

    if problems < 2:
        return math.nan
    if not (0 < level < 1 and 0 < power < 1):
        raise InputError(f"level {level} and power {power} must be between 0 and 1")
    return float(t.ppf(0.5 + level / 2, problems - 1) + t.ppf(power, problems - 1)) * error


def resolution(detectable: float, *, problems: int, points: float = 5.0) -> str:
    """Return in plain words what an evaluation can tell apart.

    Args:
        detectable: From `detectable_difference`, as a share.
        problems: Of the evaluation.
        points: Percentage points that a reader would care for.

    >>> resolution(0.145, problems=30)
    'These 30 problems cannot resolve 5 points: a true difference below 14.5 points would more often than one time in \
five go unseen.'
    >>> resolution(0.021, problems=1319)
    'These 1319 problems can resolve 5 points: a true difference of 2.1 points is found four times in five.'
    """
    these = f"These {problems} problems" if problems != 1 else "This one problem"
    if math.isnan(detectable):
        return f"{these} cannot resolve any difference: an error needs at least two."
    if 100 * detectable > points:
        return (
            f"{these} cannot resolve {points:g} points: a true difference below {100 * detectable:.1f} points would "
            "more often than one time in five go unseen."
        )
    return (
        f"{these} can resolve {points:g} points: a true difference of {100 * detectable:.1f} points is found four "
        "times in five."
    )


def advice(split: VarianceSplit) -> str:
    """Return whether more problems or more answers would narrow the interval.

    >>> advice(VarianceSplit(between=0.16, within=0.08, problems=30, samples=8))
    'Of the squared error 94 % comes from which problems were drawn: more problems help, more answers hardly.'
    """
    share = split.share_between
    if math.isnan(split.within):
        return "One answer a problem does not tell whether more answers or more problems would help."
    if math.isnan(share):
        return "All answers have the same value, so nothing tells what would narrow the interval."
    said = f"Of the squared error {100 * share:.0f} % comes from which problems were drawn: "
    if share > 0.8:
        return said + "more problems help, more answers hardly."
    return said + ("more answers help as well as more problems." if share > 0.2 else "more answers help most.")
