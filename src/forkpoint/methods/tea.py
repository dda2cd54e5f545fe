"""TEA."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, aggregate, chain, clip, dual_clip, group_advantage
from forkpoint.credit.entropy_terms import covariance_bonus
from forkpoint.scope import Scope


def tea(
    *,
    coefficient: float = 0.05,
    temperature: float = 1.0,
    cap: float = 100.0,
    tokens: Literal["thinking", "all"] = "thinking",
    scope: Scope = "mini",
) -> Chain:
    """An entropy bonus on the thinking tokens whose log-prob and advantage are large together.

        L = L_pg - coefficient Σ_t w_t H_t,   w = softmax(Cov / temperature) capped at cap / N, summing to 1

    Reduces to: GRPO under the token denominator with wide clips with `coefficient=0`.

    Confidence: inspired — formula and numbers from a third party's code, not checked with the paper.

    Deviations: taken literally the source multiplies the sum by the number of tokens.

    Args:
        coefficient: >= 0, in loss per nat.
        temperature: > 0.
        cap: >= 1, largest weight in units of the mean.
        tokens: those of the thinking phase, which `columns.thinking` closes, or all.
        scope: over which tokens weights sum to 1.

    Source: arXiv 2508.03178 (Light-IF); clips 1 and 1, dual clip 10 of its training command.
    """
    return chain(
        group_advantage(),
        clip(low=1.0, high=1.0),
        dual_clip(c=10.0),
        aggregate(denominator="token"),
        covariance_bonus(coefficient=coefficient, temperature=temperature, cap=cap, tokens=tokens, scope=scope),
    )
