"""MCPO: mastered problems keep counting."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip
from forkpoint.credit.anchors import mastered_hinge
from forkpoint.credit.difficulty import mastery_advantage


def mcpo(*, coefficient: float = 1.0, threshold: float = 0.01, clip_low: float = 0.2, clip_high: float = 0.28) -> Chain:
    """Problems that most answers get right keep their weight, and those all get right are held where they are.

        A_i = (R_i - μ_g) / (σ_g s(p)),   s(p) = 1 for p <= 1/2,  2 sqrt(p (1 - p)) above
        L = L_clip + coefficient mean hinge(log π - log π_old)      on problems with p = 1

    p is the group's share of right answers. A problem's total weight is sqrt(p (1 - p)) up to p = 1/2 and 1/2 beyond,
    so a lone failure among n answers has A = -n / 2. The hinge costs nothing up to `threshold` nats.

    Reduces to: `grpo` with the population's deviation and clip-higher where no problem has p > 1/2.

    Confidence: inspired — formula and numbers from an account of the paper.

    Deviations: the paper samples without dynamic sampling, so that mastered problems stay in the batch: set
    `train.dynamic_sampling = false`.

    Args:
        coefficient: >= 0, of the hinge.
        threshold: >= 0, nats.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2604.16972.
    """
    return chain(
        mastery_advantage(),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="sequence"),
        *((mastered_hinge(coefficient=coefficient, threshold=threshold),) if coefficient > 0 else ()),
    )
