"""The gradient-keeping clip of agentic AEPO."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.bounds import scaled_bound
from forkpoint.methods.dapo import dapo


def scaled_clip(*, clip_low: float = 0.2, clip_high: float = 0.28) -> Chain:
    """DAPO whose tokens beyond the upper bound keep a gradient, scaled by the bound.

        min(r A, clamp(r, 1 - low, (1 + high) r / sg(r)) A)

    The loss has DAPO's value everywhere. It is one of the parts of agentic AEPO.

    Reduces to: DAPO where no ratio exceeds 1 + high.

    Confidence: inspired — formula from a digest and a fork, which agree; the official folder was not at hand. The bound
    acts on all tokens, as there.

    Args:
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2510.14545.
    """
    return chain(dapo(clip_low=clip_low, clip_high=clip_high), scaled_bound())
