"""CANON."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, aggregate, chain, clip
from forkpoint.credit.difficulty import halves_advantage


def canon(
    *,
    metric: Literal["entropy", "length"] = "entropy",
    inter: float | Literal["reward"] = 1.0,
    tilt: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    constant: float | None = None,
) -> Chain:
    """The group is split in halves by a metric; an answer is compared with the other half, its own, or both.

        upper half:  A = λ (α R - μ_lower) + (1 - λ) (R - μ_upper)
        lower half:  A = λ (R - α μ_upper) + (1 - λ) (R - μ_lower)

    and L = -mean_i (1 / constant) Σ_t min(r A, clip(r) A). Of an odd group the upper half has one more.

    Reduces to: for two answers a problem, `rloo`'s advantage with `inter=1, tilt=1`; for equal means of both halves,
    Dr. GRPO's advantage.

    Confidence: verified — the released code was read.

    Deviations: a group of one answer teaches nothing, where the code takes its reward as advantage. Of the code's
    annealed variants `inter="reward"` is the released default.

    Args:
        metric: `entropy`, the mean recorded entropy of an answer, or `length`.
        inter: λ in [0, 1], or `reward`: the mean reward of the batch, cut to [0, 1].
        tilt: α > 0; below 1 the upper half is discounted.
        clip_low: in [0, 1].
        clip_high: >= 0.
        constant: the divisor in tokens; None takes the longest answer the decoder allows (8192 in the code).

    Source: arXiv 2509.23962 eqs. 5 and 8.
    """
    return chain(
        halves_advantage(metric=metric, inter=inter, tilt=tilt),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="constant", constant=constant),
    )
