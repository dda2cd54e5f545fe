"""The hinge-KL of MCPO."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.anchors import mastered_hinge
from forkpoint.methods.grpo import grpo


def mcpo_kl(
    *, coefficient: float = 1.0, threshold: float = 0.01, clip_low: float = 0.2, clip_high: float = 0.28
) -> Chain:
    """Answers to mastered problems, which have no advantage, are kept from drifting.

        L = L_GRPO + coefficient mean_t φ(log π - log π_old)   on groups whose answers are all right
        φ(d) = k3(d) - k3(±threshold) beyond the threshold, 0 within

    Mastered problems must stay in the batch: use it without dynamic sampling. It is one of the parts of MCPO.

    Reduces to: GRPO with clip-higher with `coefficient=0`.

    Confidence: inspired — from a detailed digest.

    Args:
        coefficient: >= 0, in loss per nat.
        threshold: >= 0, in nats.
        clip_low: in [0, 1].
        clip_high: >= 0; clip-higher is in the source, its width is DAPO's.

    Source: arXiv 2604.16972.
    """
    return chain(
        grpo(clip_low=clip_low, clip_high=clip_high), mastered_hinge(coefficient=coefficient, threshold=threshold)
    )
