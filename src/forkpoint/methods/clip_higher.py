"""Clip-higher."""

from __future__ import annotations

from forkpoint.credit import Chain
from forkpoint.methods.grpo import grpo


def clip_higher(*, clip_low: float = 0.2, clip_high: float = 0.28) -> Chain:
    """GRPO whose upper bound is wider than its lower one, so that improbable tokens can rise.

        L = -mean_i mean_t min(r A, clip(r, 1 - low, 1 + high) A),   high > low

    Reduces to: GRPO with `clip_high` equal to `clip_low`; DAPO's policy term under the token denominator.

    Confidence: verified — equations read.

    Args:
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2503.14476 eq. 10.
    """
    return grpo(clip_low=clip_low, clip_high=clip_high)
