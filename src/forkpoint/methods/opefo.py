"""OPEFO: balanced entropy flow."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.weight import balance_entropy_flow
from forkpoint.methods.dapo import dapo
from forkpoint.scope import Scope


def opefo(
    *,
    flow: Literal["one-term", "exact"] = "one-term",
    strength: float | None = None,
    limit: float = 1.0,
    scope: Scope = "mini",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO in which tokens that raise entropy and tokens that lower it are weighted to cancel.

        w_t = 1 + λ where Δ_t > 0,  1 - λ where Δ_t < 0
        λ = (Σ_{Δ<0} |Δ| - Σ_{Δ>0} Δ) / Σ |Δ|
        Δ_t = -A {π (log π + H) - Σ_k π_k² (log π_k + H)},  one-term: without the sum

    Meant for one update a rollout batch: set `train.mini_prompts` to `train.prompts`. Then r = 1 and no token is
    clipped.

    Reduces to: DAPO at `strength=0` or `limit=0`.

    Confidence: inspired — the weights are those of a digest of the paper; Δ is derived here, since the paper's
    prefactor is not known. λ does not depend on a common factor of all Δ.

    Deviations: the one-term Δ can have the wrong sign; `flow="exact"` needs `sampled_flow`.

    Args:
        flow: `one-term` or `exact`.
        strength: a fixed λ in [-1, 1]; None solves for it. The paper's static comparison has 0.001.
        limit: in [0, 1], the largest |λ|; 1 lets one side be silenced where the other is empty.
        scope: over which tokens the flow is balanced.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2605.11491.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high),
        balance_entropy_flow(flow=flow, strength=strength, limit=limit, scope=scope),
    )
