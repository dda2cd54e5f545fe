"""pass@k: the chance that at least one of k answers to a problem is right."""

from __future__ import annotations

import math
from collections.abc import Iterable


def pass_at_k(n: int, c: int, k: int) -> float:
    r"""Return the unbiased estimate of pass@k from n answers of which c are right.

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i=n-c+1}^{n} (1 - k / i)

    Args:
        n: Answers to the problem, at least 1.
        c: How many of them are right, in [0, n].
        k: How many answers a user would draw, in [1, n].

    Returns:
        A probability in [0, 1].

    Raises:
        ValueError: Where k is above n (the estimate does not exist) or a count is out of range.

    Source: Chen et al. 2021, arXiv 2107.03374, section 2.1.

    >>> pass_at_k(5, 2, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.4, 0.5, 1.0)
    """
    if not 0 <= c <= n:
        raise ValueError(f"pass@k needs 0 <= right answers <= answers, not {c} of {n}")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} answers: k must be in [1, {n}]")
    if k == 1:
        return c / n
    # With fewer than k wrong answers one factor, i = k, is zero.
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def mean_pass_at_k(counts: Iterable[tuple[int, int]], k: int) -> float:
    """Return the mean of pass@k over problems, NaN for none.

    Args:
        counts: `(n, c)` of every problem.
        k: As in `pass_at_k`; no problem may have fewer answers.

    Raises:
        ValueError: Where a problem has fewer than k answers.

    >>> mean_pass_at_k([(2, 2), (2, 0)], k=2)
    0.5
    """
    values = [pass_at_k(n, c, k) for n, c in counts]
    return math.fsum(values) / len(values) if values else math.nan
