"""Agentic entropy-balanced policy optimisation."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, group_advantage
from forkpoint.credit.bounds import scaled_bound
from forkpoint.credit.shape import entropy_scale
from forkpoint.scope import Scope


def agentic_aepo(
    *, strength: float = 0.2, scope: Scope = "mini", clip_low: float = 0.2, clip_high: float = 0.28
) -> Chain:
    """Advantages that grow with entropy, and an upper bound beyond which the gradient is scaled, not lost.

        A_t ← A_t (1 + strength z_t),   z_t = (H_t - μ_H) / σ_H
        upper bound = (1 + high) r / sg(r)

    The paper's other half, how many rollouts to start and where to branch them, belongs to sampling.

    Reduces to: `dapo` with `strength=0`, as long as no ratio of a good answer passes its upper bound.

    Confidence: inspired — formula and strength from a fork; the official folder was not found, and its clips are not
    known: these are DAPO's.

    Deviations: the fork skips the advantage part without a word when its entropy coefficient is 0, and takes z over
    the micro-batch, `scope="micro"`.

    Args:
        strength: >= 0; above 0.5 a token of low entropy may change the sign of its advantage.
        scope: over which tokens μ_H and σ_H of the current policy are taken.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2510.14545.
    """
    return chain(
        group_advantage(),
        clip(low=clip_low, high=clip_high),
        scaled_bound(),
        entropy_scale(strength=strength, scope=scope),
        aggregate(denominator="token"),
    )
