"""LUSPO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain
from forkpoint.methods.gspo import gspo


def luspo(*, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Chain:
    """GSPO in which an answer counts by its length, so that long answers are not held back.

        L = -mean_i |y_i| min(s A, clip(s, 1 - low, 1 + high) A),   s_i = (π(y_i) / π_old(y_i))^(1/|y_i|)

    Reduces to: `gspo` times the length, for answers of equal length.

    Confidence: inspired — the loss as TRL implements it for this paper and as its abstract says; the clips of its runs
    are not known, these are GSPO's.

    Args:
        clip_low: in [0, 1]; length normalisation makes ratios near 1, so bounds are narrow.
        clip_high: >= 0.

    Source: arXiv 2602.05261; TRL 1.16 `loss_type="luspo"`.
    """
    return chain(gspo(clip_low=clip_low, clip_high=clip_high), aggregate(denominator="constant", constant=1.0))
