"""The asymmetric clip of HAPO."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.bounds import entropy_clip
from forkpoint.methods.dapo import dapo
from forkpoint.scope import Scope


def hapo_clip(
    *,
    alpha: float = 1.0,
    quantile: float = 0.8,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    scope: Scope = "mini",
    released_sign: bool = False,
) -> Chain:
    """DAPO whose lower bound widens for certain tokens and whose upper bound widens for uncertain ones.

        ε_l,t = ε_l (1 - alpha h_t) where h_t <= 0,   ε_h,t = ε_h (1 + alpha h_t) where h_t > 0

    h is the token's place around a quantile of the entropies, in [-1, 1]. It is one of the parts of HAPO.

    Reduces to: DAPO with `alpha=0`.

    Confidence: verified — paper's prose and code read.

    Deviations: the released code divides by the signed minimum, so that h is never negative: `released_sign=True`. It
    takes the quantile over a micro-batch.

    Args:
        alpha: in [0, 1].
        quantile: in [0, 1].
        clip_low: in [0, 1].
        clip_high: >= 0; the paper's script has 0.2.
        scope: over which tokens quantile and extremes are taken.
        released_sign: keep the sign of the released code.

    Source: arXiv 2509.16591, the asymmetric clip among eqs. 5 to 13.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high),
        entropy_clip(alpha=alpha, quantile=quantile, scope=scope, released_sign=released_sign),
    )
