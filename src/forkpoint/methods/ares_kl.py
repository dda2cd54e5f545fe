"""The KL by difficulty of ARES."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.anchors import difficulty_kl
from forkpoint.methods.dapo import dapo


def ares_kl(
    *, coefficient: float = 0.01, target: float = 0.01, clip_low: float = 0.2, clip_high: float = 0.3, dual: float = 3.0
) -> Chain:
    """DAPO with a KL to the reference whose strength follows a target, apart for easy, medium and hard problems.

        L = L_DAPO + coefficient β_b k3,   log β_b moves with KL_b / target - 1

    Reduces to: DAPO with a dual clip with `coefficient=0`.

    Confidence: verified — code read; the paper's own text was not.

    Deviations: the code relaxes the KL of wrong answers to easy problems whose entropy reward says so; that part needs
    the entropy reward and is left out. Its averages are taken over a micro-batch.

    Args:
        coefficient: >= 0, in loss per nat.
        target: > 0, KL in nats a token.
        clip_low: in [0, 1].
        clip_high: >= 0.
        dual: > 1, dual-clip constant.

    Source: arXiv 2510.08457.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high, dual=dual), difficulty_kl(coefficient=coefficient, target=target)
    )
