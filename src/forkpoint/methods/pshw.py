"""Policy-specific hardness weighting (Confucius3-Math)."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, group_advantage
from forkpoint.credit.difficulty import hardness_scale


def pshw(*, alpha: float = -0.256, offset: float = 1.256, clip_low: float = 0.2, clip_high: float = 0.28) -> Chain:
    """Problems that the policy finds harder count more, and every answer is summed over its tokens.

        A_i = (R_i - μ_g) (alpha m + offset),   m = 2 p - 1,   L = -mean_i Σ_t min(r A, clip(r) A)

    p is the group's share of right answers: the factor falls from 1.512 where none is right to 1 where all are.

    Reduces to: Dr. GRPO's advantage with `alpha=0, offset=1`, summed over tokens.

    Confidence: verified — the report was read.

    Deviations: the report's rewards are +1 and -1; with 0 and 1 every advantage is half as large.

    Args:
        alpha: slope of the factor.
        offset: the factor at p = 1/2.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2506.18330 sec. 6, PSHW.
    """
    return chain(
        group_advantage(std=False),
        hardness_scale(alpha=alpha, offset=offset),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="constant", constant=1.0),
    )
