"""What can be said of an entropy when only some log-probs of the distribution are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6
"""Mass that float32 log-probs cannot tell from none."""
EXCESS = 1e-3
"""By how much probabilities written with three digits may add up to more than 1."""


def entropy_lower_bound(
    logp_M: NDArray[np.floating[Any]], offsets_N: NDArray[np.int64], likely_M: NDArray[np.bool_]
) -> NDArray[np.float64]:
    r"""Return the smallest entropy that distributions with some known log-probs can have.

        H >= -Σ_known p ln p - m c ln c - s ln s,   r = 1 - Σ_known p,  m = floor(r / c),  s = r - m c

    c is the least probability among the known tokens that are the most likely ones: every unknown token has at most
    c. Of all ways to share r among tokens with at most c each, the least entropy has as many as possible at c,
    since -p ln p is concave; without a known most likely token c = 1 and the rest counts as one token. With every
    token known r = 0 and the bound is the entropy.

    Args:
        logp_M: natural log-probs of distinct tokens, those of a position side by side; -inf is a probability of 0.
        offsets_N: (N + 1,): position n has entries offsets_N[n] to offsets_N[n + 1].
        likely_M: which entries are the most likely tokens of their position: no unknown token is likelier than any.

    Returns:
        float64 (N,), nats, >= 0; NaN where nothing is known, a log-prob is NaN, or probabilities add up to more
        than 1 beyond what rounding of text does.

    Source: log-probs as servers return them; the bound is elementary.

    >>> half, every = np.log([0.5, 0.5]), np.array([True, True])
    >>> entropy_lower_bound(half, np.array([0, 1, 2]), every).round(4).tolist()
    [0.6931, 0.6931]
    >>> entropy_lower_bound(np.log([0.1]), np.array([0, 1]), every[:1]).round(4).tolist()  # ten tokens of 0.1
    [2.3026]
    """
    logp = np.asarray(logp_M, dtype=np.float64)
    # A probability above 1 is impossible however much it is above, and so is no number: both count as too much.
    p_M = np.exp(np.where(logp <= 1.0, logp, 1.0))
    count_N = np.diff(offsets_N)
    positions = len(count_N)
    where_M = np.repeat(np.arange(positions), count_N)
    mass_N = np.bincount(where_M, p_M, minlength=positions)
    known_N = np.bincount(where_M, _surprise(p_M), minlength=positions)
    most_N = np.ones(positions)
    np.minimum.at(most_N, where_M[likely_M], p_M[likely_M])
    rest_N = np.where(1.0 - mass_N > ROUNDING, 1.0 - mass_N, 0.0)
    whole_N = np.floor(np.divide(rest_N, most_N, out=np.zeros(positions), where=most_N > 0))
    left_N = np.clip(rest_N - whole_N * most_N, 0.0, most_N)
    bound_N = known_N + whole_N * _surprise(most_N) + _surprise(left_N)
    return np.where((count_N == 0) | (mass_N > 1.0 + EXCESS), np.nan, np.maximum(bound_N, 0.0))


def _surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -p ln p, 0 for p = 0."""
    return -p * np.log(np.where(p > 0, p, 1.0))
