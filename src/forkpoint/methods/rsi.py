"""RSI-S: a band of relative surprisal."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.band import surprisal_band
from forkpoint.methods.grpo import grpo


def rsi_selection(
    *,
    low: float,
    high: float,
    source: Literal["current", "behaviour"] = "behaviour",
    denominator: Literal["selected", "all"] = "selected",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Chain:
    """GRPO in which only tokens about as surprising as their position leads to expect learn.

        keep_t = [low <= -log π(y_t) / H_t <= high]

    The lower bound leaves out tokens that were all but certain, the upper one the unstable tail.

    Reduces to: GRPO at `low=0` and an infinite `high`.

    Confidence: inspired — the abstract says that an index couples surprisal and entropy and that a stable interval
    of it is kept; the quotient is ours and the interval the user's.

    Args:
        low: >= 0, in units of the entropy; 1 is as surprising as expected.
        high: >= low.
        source: log-prob and entropy of the `current` or of the `behaviour` policy.
        denominator: `selected` or `all`; see `top_entropy`.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2606.31575.
    """
    return chain(
        grpo(clip_low=clip_low, clip_high=clip_high),
        surprisal_band(low=low, high=high, source=source, denominator=denominator),
    )
