"""How far selection by entropy agrees with selection by other quantities of a token.

The paper asks none of its readers' first question: would surprisal, or the size of the gradient, have picked
the same tokens? The scores are here with their equations, and rank correlation and Jaccard index between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import Interval, ratio_band
from forkpoint.analyze.measures.flat import (
    Floats,
    Ints,
    all_equal,
    check_share,
    descending,
    sums_by,
    tokens,
    top_each,
    top_pooled,
    within_responses,
)
from forkpoint.errors import InputError


def surprisal(logp: ArrayLike) -> Floats:
    """Return -log p of the sampled token, nats; its mean over draws is the entropy.

    >>> surprisal([-2.0]).tolist()
    [2.0]
    """
    return -np.asarray(logp, dtype=np.float64)


def advantage_mass(logp: ArrayLike, advantage: ArrayLike) -> Floats:
    """Return |A| (1 - p) of the sampled token.

    It is half the L1 norm of the gradient of A log p with respect to the logits, and bounds its L2 norm from both
    sides (`gradient_norm`).

    Source: the proxy of arXiv 2605.21467 (DelTA) and of the critique in arXiv 2505.12929.

    >>> advantage_mass(np.log([0.25]), [-2.0]).tolist()
    [1.5]
    """
    return np.abs(np.asarray(advantage, dtype=np.float64)) * -np.expm1(np.asarray(logp, dtype=np.float64))


def collision(logp_NV: ArrayLike) -> Floats:
    """Return Σ_v p_v², the chance that two draws from the distribution agree; 1 where it is certain.

    >>> collision(np.log([[0.5, 0.5], [0.9, 0.1]])).round(2).tolist()
    [0.5, 0.82]
    """
    return np.exp(2 * np.asarray(logp_NV, dtype=np.float64)).sum(-1)


def gradient_norm(
    logp: ArrayLike, collision_N: ArrayLike, advantage: ArrayLike = 1.0, *, temperature: float = 1.0
) -> Floats:
    r"""Return the L2 norm of the policy gradient at the head's logits, exactly, from two numbers of p.

    With p = softmax(z / T), y the sampled token and e_y its one-hot vector:

        ∂(A log p_y)/∂z = A (e_y - p) / T
        ‖·‖² = A² [(1 - p_y)² + Σ_{v≠y} p_v²] / T² = A² [1 - 2 p_y + Σ_v p_v²] / T²

    so that  |A| (1 - p_y) <= T ‖·‖ <= √2 |A| (1 - p_y):  the lower end for a remainder spread over many tokens,
    the upper one for a single rival. It is the gradient of one token on policy (ratio 1), before the head's
    weights.

    Args:
        logp: (N,) log-prob of the sampled tokens at this temperature.
        collision_N: (N,) Σ_v p_v² of the same distributions (`collision`).
        advantage: (N,) or one number.
        temperature: T > 0.

    Returns:
        float64 (N,); rounding below 0 counts as 0.

    >>> gradient_norm(np.log([0.5, 0.25]), [0.5, 0.25], [1.0, -2.0]).round(6).tolist()
    [0.707107, 1.732051]
    """
    if not temperature > 0:
        raise InputError(f"temperature is {temperature} and must be > 0 for a gradient to exist")
    p_N = np.exp(np.asarray(logp, dtype=np.float64))
    square = 1.0 - 2.0 * p_N + np.asarray(collision_N, dtype=np.float64)
    return np.abs(np.asarray(advantage, dtype=np.float64)) * np.sqrt(np.maximum(square, 0.0)) / temperature


def attention_entropy(weights_NHK: ArrayLike, *, normalised: bool = True) -> Floats:
    """Return the entropy of what a position attends to, mean over heads.

        h = -Σ_k a_k ln a_k,  divided by ln(number of keys with weight) where `normalised`

    Args:
        weights_NHK: (N, heads, keys), rows sum to 1; keys that cannot be seen are 0.
        normalised: divide by the logarithm of the number of keys a position sees, so that long contexts compare.

    Returns:
        float64 (N,), nats, or in [0, 1] where normalised; 0 for a position that sees one key.

    Source: arXiv 2605.07660 (one middle layer; which layer and how heads are joined is not confirmed).

    >>> attention_entropy([[[0.5, 0.5, 0.0]]]).tolist(), attention_entropy([[[1.0, 0.0, 0.0]]]).tolist()
    ([1.0], [0.0])
    """
    a_NHK = np.asarray(weights_NHK, dtype=np.float64)
    logs = np.log(np.where(a_NHK > 0, a_NHK, 1.0))
    h_NH = -(a_NHK * logs).sum(-1)
    if normalised:
        keys_N1 = (a_NHK > 0).any(1).sum(-1)[:, None]
        h_NH = np.divide(h_NH, np.log(np.maximum(keys_N1, 2)))
    return h_NH.mean(1) + 0.0


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two scores pick the same tokens."""

    first: str
    second: str
    correlation: float
    """Spearman's, over all tokens pooled."""
    correlation_each: Interval
    """Spearman's within a response, mean over responses in which both scores vary."""
    jaccard: Interval
    """|A ∩ B| / |A ∪ B| of the two top-share sets of all tokens pooled."""
    jaccard_each: Interval
    """The same with the top taken in every response, sums over responses."""


@dataclass(frozen=True, kw_only=True)
class AgreementTable:
    """All pairs of scores."""

    names: tuple[str, ...]
    pairs: tuple[Agreement, ...]
    share: float
    chance: float
    """Jaccard index expected of two random sets of that size: s / (2 - s), s = k / N."""
    constant: tuple[str, ...]
    """Scores left out because all their values are equal."""
    tokens: int
    left_out: int


def agreement(
    scores: Mapping[str, ArrayLike],
    offsets: ArrayLike,
    *,
    share: float = 0.2,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
) -> AgreementTable:
    """Return rank correlation and Jaccard index between every two scores of the same tokens.

        ρ = Pearson's correlation of the ranks, equal values sharing their mean rank
        J = |A ∩ B| / |A ∪ B|,  A and B the max(1, ceil(share N)) tokens with the highest score

    Args:
        scores: name to (N,) values, such as entropy, surprisal, `advantage_mass`, `gradient_norm`.
        offsets: int (R + 1,).
        share: in (0, 1].
        cluster_R: problem of every response.
        level: coverage of the intervals.

    Returns:
        The table. A score whose values are all equal is named in `constant` and left out; a response with one
        token has no correlation.

    Raises:
        InputError: fewer than two scores that vary, or arrays that do not fit.

    Source: the controls that arXiv 2605.07660 and GMTS (OpenReview JGvOicAo3g) call for.

    >>> found = agreement({"entropy": [1.0, 2.0, 3.0], "surprisal": [1.0, 4.0, 9.0]}, [0, 3], share=0.4)
    >>> found.pairs[0].correlation, found.pairs[0].jaccard.value
    (1.0, 1.0)
    """
    check_share(share)
    data = tokens(offsets, **scores)
    constant = tuple(name for name, value_N in data.value.items() if all_equal(value_N))
    names = tuple(name for name in data.value if name not in constant)
    if len(names) < 2:
        raise InputError(
            f"agreement needs two scores that vary, and {len(names)} of {len(data.value)} do"
            + (f": all values of {', '.join(constant)} are equal" if constant else "")
        )
    where = (data.response_N, data.responses)
    size_R = np.maximum(sums_by(*where), 1.0)
    rank, rank_each, pooled, each = {}, {}, {}, {}
    for name in names:
        value_N = data.value[name]
        order_N = descending(value_N)
        rank[name] = _ranks(value_N, order_N, None)
        rank[name] -= rank[name].mean()
        order_N = within_responses(order_N, *where)
        rank_each[name] = _ranks(value_N, order_N, data.response_N)
        rank_each[name] -= (sums_by(*where, rank_each[name]) / size_R)[data.response_N]
        pooled[name] = top_pooled(value_N, share)
        each[name] = top_each(value_N, *where, share, order_N=order_N)

    def ratio(top_R: Floats, bottom_R: Floats) -> Interval:
        return ratio_band(top_R, bottom_R, cluster_R=cluster_R, level=level).at(0)

    def pair(a: str, b: str) -> Agreement:
        within_R = _correlation_each(rank_each[a], rank_each[b], *where)
        known_R = np.isfinite(within_R)
        first, second = (
            ratio(sums_by(*where, chosen[a] & chosen[b]), sums_by(*where, chosen[a] | chosen[b]))
            for chosen in (pooled, each)
        )
        return Agreement(
            first=a,
            second=b,
            correlation=_correlation(rank[a], rank[b]),
            correlation_each=ratio(np.where(known_R, within_R, 0.0), known_R.astype(np.float64)),
            jaccard=first,
            jaccard_each=second,
        )

    part = float(pooled[names[0]].sum()) / data.count
    return AgreementTable(
        names=names,
        pairs=tuple(pair(a, b) for a, b in itertools.combinations(names, 2)),
        share=share,
        chance=part / (2 - part),
        constant=constant,
        tokens=data.count,
        left_out=data.left_out,
    )


def _ranks(value_N: Floats, order_N: Ints, response_N: Ints | None) -> Floats:
    """Return the rank of every value, from the largest, equal values sharing their mean rank.

    With `response_N` a run of equal values ends where its response does. Ranks then count on over responses,
    which centring within each of them removes.
    """
    ordered = value_N[order_N]
    begins = np.ones(order_N.size, dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    if response_N is not None:
        begins[1:] |= response_N[1:] != response_N[:-1]  # responses ascend, so sorting keeps their places
    first = np.flatnonzero(begins)
    size = np.diff(np.append(first, order_N.size))
    rank_N = np.empty(order_N.size)
    rank_N[order_N] = np.repeat(first + (size - 1) / 2, size)
    return rank_N


def _correlation(x_N: Floats, y_N: Floats) -> float:
    """Return Pearson's correlation of centred values."""
    return float((x_N @ y_N) / np.sqrt((x_N @ x_N) * (y_N @ y_N)))


def _correlation_each(x_N: Floats, y_N: Floats, response_N: Ints, responses: int) -> Floats:
    """Return Pearson's correlation within every response of centred values, NaN where one does not vary."""
    xx, yy, xy = (sums_by(response_N, responses, product) for product in (x_N * x_N, y_N * y_N, x_N * y_N))
    spread = np.sqrt(xx * yy)
    # A response that does not vary leaves rounding of its large ranks, far below the 1/2 of one true difference.
    return np.divide(xy, spread, out=np.full(responses, np.nan), where=spread > 0.01)


def plot_agreement(found: AgreementTable, *, name: str = "agreement") -> str:
    """Draw the matrix of all scores: rank correlation above the diagonal, Jaccard index below it."""
    size = len(found.names)
    figure, (axes,) = drawing.panels(size=(max(5.7, 1.5 + 0.95 * size), max(3.2, 1.1 + 0.72 * size)))
    shade = np.full((size, size), np.nan)
    words = []
    for pair in found.pairs:
        i, j = found.names.index(pair.first), found.names.index(pair.second)
        shade[i, j], shade[j, i] = abs(pair.correlation), pair.jaccard.value
        for row, column, value in ((i, j, pair.correlation), (j, i, pair.jaccard.value)):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=10, color=drawing.INK)
        words.append(f"{pair.first} and {pair.second}: {pair.correlation:.2f} and {pair.jaccard.value:.2f}")
    for (row, column), value in np.ndenumerate(shade):
        if np.isfinite(value):  # one hue behind text of either scheme: strength by opacity
            square = drawing.box(column, row, alpha=0.08 + 0.42 * float(value))
            axes.add_patch(square)
    labels = [drawing.plain(label, 24) for label in found.names]
    axes.set_xticks(range(size), labels, rotation=20, ha="right", parse_math=False)
    axes.set_yticks(range(size), labels, parse_math=False)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    drawing.finish(axes, f"above: rank correlation; below: Jaccard of top {found.share:.0%}", "", grid=False)
    return drawing.to_svg(
        figure,
        name,
        f"Agreement of scores, rank correlation and Jaccard index. {'; '.join(words)}. Chance {found.chance:.2f}.",
    )
