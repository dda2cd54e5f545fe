"""Where entropy and gradient sit: four quadrants of advantage sign and entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import Band, ratio_band
from forkpoint.analyze.measures.flat import check_share, table_by, tokens, top_pooled

QUADRANTS = ("positive, high", "positive, low", "negative, high", "negative, low")
"""Sign of the advantage, and entropy in the top share or not."""


@dataclass(frozen=True, kw_only=True)
class Quadrants:
    """Shares of tokens, entropy and gradient in the four quadrants; each sums to 1 with `neutral`."""

    tokens: Band
    """Share of tokens in `QUADRANTS`, (4,)."""
    entropy: Band
    """Share of the sum of entropies, (4,)."""
    gradient: Band
    """Share of the sum of gradient sizes, (4,)."""
    neutral: tuple[float, float, float]
    """The same three shares of tokens with advantage 0, whose gradient is 0."""
    share: float
    cut: float
    """Smallest entropy of a high token, nats."""
    count: int
    left_out: int


def quadrants(
    entropy: ArrayLike,
    advantage: ArrayLike,
    gradient: ArrayLike,
    offsets: ArrayLike,
    *,
    share: float = 0.2,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
) -> Quadrants:
    """Return how tokens, entropy and gradient divide over advantage sign and entropy.

        part_q = Σ_{t in q} m_t / Σ_t m_t  for m = 1, H and g;  high: the max(1, ceil(share N)) highest entropies

    Args:
        entropy: (N,) nats.
        advantage: (N,) of every token.
        gradient: (N,) size of every token's gradient: `agreement.gradient_norm`, or `agreement.advantage_mass`
            where only log-probs are known.
        offsets: int (R + 1,).
        share: in (0, 1].
        cluster_R: problem of every response.
        level: coverage of the bands.

    Returns:
        The data. A mass that is 0 everywhere (no advantage, no entropy) has NaN shares; all-equal entropies make
        the earliest tokens the high ones.

    Raises:
        InputError: arrays that do not fit, or no token with all three numbers.

    Source: the four quadrants of arXiv 2604.11056 (EAPO).

    >>> found = quadrants([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, -1.0, -1.0], [3.0, 1.0, 0.0, 0.0], [0, 2, 4], share=0.5)
    >>> found.entropy.value.tolist(), found.gradient.value.tolist()
    ([0.5, 0.0, 0.5, 0.0], [0.75, 0.25, 0.0, 0.0])
    """
    check_share(share)
    data = tokens(offsets, entropy=entropy, advantage=advantage, gradient=gradient)
    value_N, sign_N = data.value["entropy"], np.sign(data.value["advantage"])
    high_N = top_pooled(value_N, share)
    quadrant_N = np.where(sign_N > 0, 0, 2) + ~high_N
    quadrant_N[sign_N == 0] = 4
    bands = []
    for mass_N in (None, value_N, np.abs(data.value["gradient"])):
        sums_RQ = table_by(data.response_N, data.responses, quadrant_N, 5, mass_N)
        bands.append(ratio_band(sums_RQ, sums_RQ.sum(1, keepdims=True), cluster_R=cluster_R, level=level))
    parts = [Band(value=b.value[:4], low=b.low[:4], high=b.high[:4]) for b in bands]
    return Quadrants(
        tokens=parts[0],
        entropy=parts[1],
        gradient=parts[2],
        neutral=(float(bands[0].value[4]), float(bands[1].value[4]), float(bands[2].value[4])),
        share=share,
        cut=float(value_N[high_N].min()),
        count=data.count,
        left_out=data.left_out,
    )


def plot_quadrants(found: Quadrants, *, name: str = "quadrants", lower_bound: bool = False) -> str:
    """Draw the three masses over the four quadrants with intervals."""
    figure, (axes,) = drawing.panels()
    place = np.arange(4.0)
    entropy = "entropy (lower bound)" if lower_bound else "entropy"
    for series, (label, band) in enumerate(
        (("tokens", found.tokens), (entropy, found.entropy), ("gradient", found.gradient))
    ):
        drawing.points(axes, place + 0.2 * (series - 1), band.value, band.low, band.high, series, label)
    axes.set_xticks(place, [text.replace(", ", "\n") for text in QUADRANTS])
    axes.set_ylim(bottom=0.0)
    drawing.percent(axes)
    drawing.finish(axes, f"sign of the advantage; entropy in the top {found.share:.0%} or not", "share")
    drawing.legend(figure, axes, 3)
    words = "; ".join(
        f"{quadrant}: {t:.1%} of tokens, {h:.1%} of entropy, {g:.1%} of gradient"
        for quadrant, t, h, g in zip(
            QUADRANTS, found.tokens.value, found.entropy.value, found.gradient.value, strict=True
        )
    )
    return drawing.to_svg(figure, name, f"Tokens, entropy and gradient by advantage sign and entropy. {words}.")
