"""GSPO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, group_advantage, sequence_ratio


def gspo(*, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Chain:
    """One length-normalised importance ratio an answer, clipped as a whole.

        s_i = (π(y_i) / π_old(y_i))^(1/|y_i|),   L = -mean_i min(s A, clip(s, 1 - low, 1 + high) A)

    On the first update after sampling s = 1 and the gradient is GRPO's.

    Reduces to: GRPO's gradient on the first update after sampling; it is HölderPO of order 0.

    Confidence: verified — equations read.

    Args:
        clip_low: in [0, 1]; length normalisation makes ratios near 1, so bounds are narrow.
        clip_high: >= 0.

    Source: arXiv 2507.18071 eqs. 5 and 7.
    """
    return chain(
        group_advantage(),
        sequence_ratio(),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="sequence"),
    )
