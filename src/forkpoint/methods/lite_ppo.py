"""Lite PPO: the batch's deviation in place of the group's."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip
from forkpoint.credit.normalise import batch_scaled_advantage


def lite_ppo(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Chain:
    """Rewards relative to the group's mean, in units of the batch's deviation; one mean over all tokens.

        A_i = (R_i - μ_g) / σ_batch,   L = -(1 / Σ_i |o_i|) Σ_i Σ_t min(r A, clip(r, 1 - low, 1 + high) A)

    A problem that nearly all answers solve, or nearly none, no longer gets a large advantage from its small σ_g.

    Reduces to: `dapo` with equal clips where all groups have the batch's deviation; Dr. GRPO's advantage up to one
    factor for the whole batch.

    Confidence: verified — group mean and batch deviation as TRL implements them for this paper; its clips are not.

    Deviations: 1e-6 is added to the deviation; TRL adds 1e-4.

    Args:
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2508.08221 (normalisation); TRL 1.16 `scale_rewards="batch"`.
    """
    return chain(batch_scaled_advantage(), clip(low=clip_low, high=clip_high), aggregate(denominator="token"))
