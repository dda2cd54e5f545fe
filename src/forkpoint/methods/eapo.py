"""EAPO: credit by polarity and entropy."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.shape import polarity_entropy
from forkpoint.methods.dapo import dapo
from forkpoint.scope import Scope


def eapo(
    *,
    alpha: float = 0.2,
    phi: float = 2.0,
    scope: Scope = "rollout",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO in which uncertain tokens get a larger advantage, whatever its sign, and certain ones a smaller.

        A_t ← A_t + alpha sign(A_t) clip((H_t - μ_H) / σ_H, -|A_t| / phi, |A_t| / phi)

    The sign is kept, as alpha / phi < 1.

    Reduces to: `dapo` with `alpha=0`, and where all entropies of the scope are equal.

    Confidence: inspired — formula and numbers from an account of the paper; whether μ_H and σ_H are of the answer or
    the batch, and which policy's entropy is read, is not said there.

    Args:
        alpha: in [0, phi], strength.
        phi: > 0.
        scope: over which tokens μ_H and σ_H are taken.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2604.11056.
    """
    return chain(dapo(clip_low=clip_low, clip_high=clip_high), polarity_entropy(alpha=alpha, phi=phi, scope=scope))
