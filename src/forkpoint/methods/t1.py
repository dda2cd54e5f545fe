"""T1."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain
from forkpoint.credit.anchors import anchored_advantage
from forkpoint.credit.regularise import entropy_bonus


def t1(*, entropy_coefficient: float, kl: float = 2e-4) -> Chain:
    """Leave-one-out advantage, an entropy bonus, and a KL in the reward that is compared with the siblings'.

        A_i = (R_i - kl K_i) - mean_{j≠i} (R_j - kl K_j),   L = -mean_i Σ_t r A_i - α Σ_t H_t

    K is the summed log-ratio of the sampling policy to a reference.

    Reduces to: RLOO without a clip with `entropy_coefficient=0, kl=0`.

    Confidence: inspired — from a digest; its entropy coefficient and the decay of its moving reference are not known.

    Deviations: the paper's reference is a moving average of the policy; here it is the recipe's reference model.

    Args:
        entropy_coefficient: α, in loss per nat.
        kl: >= 0, in reward per nat.

    Source: arXiv 2501.11651.
    """
    return chain(
        anchored_advantage(kl=kl),
        aggregate(denominator="constant", constant=1.0),
        entropy_bonus(coefficient=entropy_coefficient),
    )
