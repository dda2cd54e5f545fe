"""Dual clip."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit import dual_clip as bound
from forkpoint.methods.grpo import grpo


def dual_clip(*, c: float = 3.0, clip_low: float = 0.2, clip_high: float = 0.2) -> Chain:
    """GRPO in which a bad answer that has become much more probable cannot pull without limit.

        L = -max(min(r A, clip(r) A), c A)   where A < 0

    Reduces to: GRPO with `c=inf`.

    Confidence: verified — equation and verl's code read.

    Deviations: the paper is on PPO; the default 3 is verl's, whose recipes mostly set 10. TRL's `delta` is c,
    as long as it lies above 1 + clip_high.

    Args:
        c: > 1.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 1912.09729 eq. 5.
    """
    return chain(grpo(clip_low=clip_low, clip_high=clip_high), bound(c=c))
