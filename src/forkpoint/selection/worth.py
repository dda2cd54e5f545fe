"""What more answers to a problem, or the problem itself, are worth to a run."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from forkpoint.errors import InputError


def marginal_gain(hits: int, probes: int, more: int) -> float:
    """Return the chance that the answer after `more` further ones is the first right one among the further ones.

        E[p (1 - p)^l] = α/(α + β) Π_{j<l} (β + j)/(α + β + j + 1),   α = 1 + hits,  β = 1 + probes - hits

    for a pass rate p with a uniform prior.

    Args:
        hits: in [0, probes], right answers among the probes.
        probes: >= 0, answers taken so far.
        more: l >= 0, further answers before this one.

    Source: arXiv 2605.07114 (HORA).

    >>> round(marginal_gain(2, 4, 1), 6)
    0.214286
    """
    if not 0 <= hits <= probes or more < 0:
        raise InputError(f"{hits} right of {probes} answers and {more} more: need 0 <= right <= answers and more >= 0")
    right, wrong = 1 + hits, 1 + probes - hits
    return right / (right + wrong) * math.prod((wrong + j) / (right + wrong + j + 1) for j in range(more))


def gain(hits: int, probes: int, more: int) -> float:
    """Return the chance that at least one of `more` further answers is right.

        U(l) = 1 - E[(1 - p)^l] = 1 - Π_{j<l} (β + j)/(α + β + j)

    U(l + 1) - U(l) is `marginal_gain` at l, and falls with l.

    >>> round(gain(0, 4, 4), 6)
    0.444444
    """
    marginal_gain(hits, probes, more)  # refuses what is out of range
    right, wrong = 1 + hits, 1 + probes - hits
    return 1 - math.prod((wrong + j) / (right + wrong + j) for j in range(more))


def allocate(hits: Sequence[int], probes: int, budget: int, *, discount_probes: bool = False) -> list[int]:
    """Return how many further answers each problem gets, so that the summed `gain` is largest.

    The gain is concave, so taking the largest marginal gain again and again is best. As the paper counts, the probes
    do not discount: the first further answers go to easy problems. With `discount_probes` the l-th further answer
    counts as the (probes + l)-th, and they go to hard ones. Of equal problems the first comes first.

    Args:
        hits: right answers among the probes of every problem.
        probes: answers taken of every problem.
        budget: >= 0, further answers in all.
        discount_probes: let the exponent start at the probes.

    Source: arXiv 2605.07114 (HORA); the discount is a third party's proposal.

    >>> allocate([0, 4], probes=4, budget=3)
    [2, 1]
    """
    if budget < 0:
        raise InputError(f"the budget is {budget} answers and must be >= 0")
    start = probes if discount_probes else 0
    given = [0] * len(hits)
    heap = [(-marginal_gain(right, probes, start), i) for i, right in enumerate(hits)]
    heapq.heapify(heap)
    for _ in range(budget if hits else 0):
        _, i = heap[0]
        given[i] += 1
        heapq.heapreplace(heap, (-marginal_gain(hits[i], probes, start + given[i]), i))
    return given


def uncertainty_value(pass_rate: float, entropy: float = 1.0) -> float:
    """Return how much a problem is worth: most where half of its answers are right and their forks are uncertain.

        c = (1 - 2 |p - 1/2|) H,   H the mean over answers of the mean entropy of their top 20 % tokens

    Args:
        pass_rate: p in [0, 1].
        entropy: H >= 0, in nats.

    Source: arXiv 2604.17928 (HEAL).

    >>> uncertainty_value(0.25), uncertainty_value(1.0)
    (0.5, 0.0)
    """
    if not 0 <= pass_rate <= 1 or not entropy >= 0:
        raise InputError(f"pass rate {pass_rate} and entropy {entropy}: need a rate in [0, 1] and an entropy >= 0")
    return (1 - 2 * abs(pass_rate - 0.5)) * entropy
