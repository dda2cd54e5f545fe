"""Lp-Reg."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, group_advantage
from forkpoint.credit.anchors import low_probability
from forkpoint.scope import Scope


def lp_reg(
    *,
    share: float = 0.01,
    coefficient: float = 1.0,
    clip_low: float = 1.0,
    clip_high: float = 9.0,
    scope: Scope = "mini",
) -> Chain:
    """Improbable tokens of bad answers that are no noise are held where they are instead of pushed down.

        L_t = -r A + coefficient k3(log q - log π)   where A < 0, π_t is among the lowest share, and π_t < q_t

    q is the sampling policy filtered by min-p (0.02 of the largest probability, `columns.min_p`) and renormalised;
    its log-prob, the column `proxy_logp`, costs one more pass over the answers.

    Reduces to: DAPO with the bounds given with `share=0`.

    Confidence: verified — code read; the paper's own text was not.

    Deviations: the released code takes the share over a micro-batch.

    Args:
        share: in [0, 1], of the tokens with negative advantage; 0.01 on-policy (14B), 0.005 off-policy (32B).
        coefficient: >= 0, in loss per nat.
        clip_low: in [0, 1].
        clip_high: >= 0.
        scope: over which tokens the share is taken.

    Source: arXiv 2510.03222.
    """
    return chain(
        group_advantage(),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="token"),
        low_probability(share=share, coefficient=coefficient, scope=scope),
    )
