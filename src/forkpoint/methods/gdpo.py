"""GDPO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip
from forkpoint.credit.normalise import parts_advantage


def gdpo(
    *,
    weights: dict[str, float] | None = None,
    std: bool = True,
    batch: bool = True,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Chain:
    """Every part of the reward is normalised in its group by itself, then the sum over the batch.

        s_i = Σ_k w_k (r_ik - μ_gk) / σ_gk,   A_i = (s_i - mean s) / std s

    Rewards 1 + 0 and 0 + 1 differ here where their sums are alike.

    Reduces to: `grpo` for a reward of one part with `batch=False`, up to the 1e-4 that is added to deviations.

    Confidence: verified — the advantage as TRL implements it for this paper; the clips of the paper's runs are not.

    Deviations: answers that were not judged take no part, where TRL counts a missing part as 0.

    Args:
        weights: of the parts by name (`answer`, `overlong`, …); a part not named weighs 1.
        std: divide every part by its group's deviation.
        batch: normalise the sum over the rollout batch.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2601.05242 (decoupled normalisation); TRL 1.16 `multi_objective_aggregation`.
    """
    return chain(
        parts_advantage(weights=weights, std=std, batch=batch),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="sequence"),
    )
