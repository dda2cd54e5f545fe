"""GMTS: selection by gradient magnitude."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.select import top_gradient
from forkpoint.methods.dapo import dapo
from forkpoint.scope import Scope


def gmts(
    *,
    share: float = 0.2,
    length: Literal["bound", "exact"] = "bound",
    source: Literal["current", "behaviour"] = "current",
    scope: Scope = "mini",
    denominator: Literal["selected", "all"] = "selected",
    keep: Literal["top", "bottom", "random"] = "top",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO in which only the tokens with the largest policy gradient learn.

        keep_t = [|A_t| ‖∇_z log π(y_t)‖ among the top `share`],   ‖∇_z log π‖² = 1 - 2 π_y + Σ_k π_k² >= (1 - π_y)²

    Entropy ranks tokens within an answer much as this does; across answers the advantage decides too.

    Reduces to: DAPO at `share=1`.

    Confidence: inspired — the abstract names gradient magnitude, the answer's reward signal and 20 %; that the
    gradient is the one by the logits is ours.

    Args:
        share: in (0, 1], the fraction of tokens that learns.
        length: `bound` takes 1 - π; `exact` needs `collision`.
        source: log-prob of the `current` or of the `behaviour` policy.
        scope: over which tokens the share is taken.
        denominator: `selected` or `all`; see `top_entropy`.
        keep: `top`, or the controls `bottom` and `random`.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: OpenReview JGvOicAo3g (no arXiv id found); the share is that of arXiv 2506.01939.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high),
        top_gradient(share=share, length=length, source=source, scope=scope, denominator=denominator, keep=keep),
    )
