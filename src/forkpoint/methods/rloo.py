"""RLOO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, leave_one_out_advantage


def rloo(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Chain:
    """Leave-one-out advantage, PPO's clip, every answer summed over its tokens.

        A_i = R_i - mean_{j≠i} R_j,   L = -mean_i Σ_t min(r A, clip(r) A)

    In the paper the data are on-policy and nothing is clipped; with one update a batch the clip is inert and
    the gradient is the paper's. The paper treats an answer as one action: its loss is a sum over tokens
    (constant denominator 1).

    Reduces to: REINFORCE with a leave-one-out baseline where nothing is clipped.

    Confidence: verified — equations read.

    Args:
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2402.14740 sec. 2.2.
    """
    return chain(
        leave_one_out_advantage(),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="constant", constant=1.0),
    )
