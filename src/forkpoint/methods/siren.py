"""SIREN."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, group_advantage
from forkpoint.credit.entropy_terms import peak_entropy_anchor


def siren(
    *,
    coefficient: float = 0.005,
    quantile: float = 0.8,
    nucleus: bool = True,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """The entropy of every answer's forks is held where it was at the start.

        L = L_pg + coefficient (H̄ - H̄_first)²,   H̄ = mean_i mean_t {H_t: H_t > the answer's quantile}

    H is the entropy of the nucleus of mass 0.8, renormalised, with gradient; which words belong to it is held fixed.

    Reduces to: Dr. GRPO with clip-higher with `coefficient=0`.

    Confidence: verified — code read; the paper's own text was not.

    Deviations: the released anchor is what was logged over the whole first step, here it is the first update's; the
    nucleus is the fewest words with the mass, the released one leaves out the word that crosses it and can be empty;
    the release looks at the 10 000 most likely words only.

    Args:
        coefficient: >= 0, in loss per squared nat.
        quantile: in [0, 1), within every answer.
        nucleus: take H over the nucleus, which costs a second product with the lm-head; false takes the whole
            distribution.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2509.25133.
    """
    return chain(
        group_advantage(std=False),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="constant"),
        peak_entropy_anchor(coefficient=coefficient, quantile=quantile, nucleus=nucleus),
    )
