"""HölderPO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, group_advantage, scheduled
from forkpoint.credit.ratio import mean_ratio
from forkpoint.credit.schedules import linear


def holder(
    *, start: float = 2.0, stop: float = -2.0, steps: int = 500, clip_low: float = 0.2, clip_high: float = 0.2
) -> Chain:
    """One importance ratio an answer, a mean whose order moves from the largest ratios to the smallest.

        M_p = (1/n Σ_t r_t^p)^(1/p),   L = -mean_i min(M_p A, clip(M_p, 1 - low, 1 + high) A)

    with p moving linearly from `start` to `stop` over `steps` rollout batches.

    Reduces to: GSPO with `start=stop=0`; at p = 1 one clip decision on the arithmetic mean of GRPO's ratios.

    Confidence: verified — paper and code read.

    Deviations: the ALFWorld runs go from 1 to -1; the code offers other schedules, which `scheduled` has as well.

    Args:
        start: p before the first step.
        stop: p from step `steps` on.
        steps: >= 1, in rollout batches.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2605.12058 v2.
    """
    moving = start != stop
    return chain(
        group_advantage(),
        scheduled(mean_ratio, order=linear(start, stop, steps)) if moving else mean_ratio(order=start),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="sequence"),
    )
