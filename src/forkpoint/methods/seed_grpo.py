"""SEED-GRPO."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.diversity import semantic_caution
from forkpoint.methods.grpo import dr_grpo


def seed_grpo(
    *,
    alpha: float = 0.02,
    shape: Literal["linear", "exponential", "focal"] = "linear",
    gamma: float | None = None,
    estimator: Literal["count", "probability"] = "count",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Chain:
    """Dr. GRPO with less force on problems whose answers differ in meaning.

        A_i = (R_i - μ_g) f(alpha SE / ln n),   SE = -(1/K) Σ_k ln p(C_k),   f(x) = 1 - x

    over the K clusters of equal final answers among the n answers to a problem.

    Reduces to: `dr_grpo` with `alpha=0`, and where every group has one cluster.

    Confidence: inspired — the paper names three shapes of f and prints none; f(x) = 1 - x is the natural reading.

    Deviations: p(C_k) is counted. The paper sums the probabilities of whole answers, which for answers of more than
    some tens of tokens puts SE far above ln n; `estimator="probability"` is that, with f kept at or above 0.

    Args:
        alpha: >= 0.
        shape: `linear` 1 - x, `exponential` exp(-x) or `focal` (1 - x)^gamma.
        gamma: > 0, needed by `focal`.
        estimator: of p(C_k): `count` or `probability`.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2505.12346 sec. 3.2, defaults sec. 4.1.
    """
    return chain(
        dr_grpo(clip_low=clip_low, clip_high=clip_high),
        semantic_caution(alpha=alpha, shape=shape, gamma=gamma, estimator=estimator),
    )
