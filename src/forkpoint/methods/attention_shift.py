"""Weights that move from focused to diffuse attention."""

from __future__ import annotations

from forkpoint.credit import Chain, chain, scheduled
from forkpoint.credit.attention import attention_weight
from forkpoint.credit.checks import check_number
from forkpoint.methods.dapo import dapo


def attention_shift(*, start: float, end: float, steps: float, clip_low: float = 0.2, clip_high: float = 0.28) -> Chain:
    """DAPO whose weights move from tokens that look at little to tokens that look back widely.

        w_t = exp(κ u_t) / mean exp(κ u),   κ from `start` to `end` in a line over `steps` rollout batches

    with u_t the attention entropy of a middle layer over the log of the context's length.

    Reduces to: DAPO at `start=end=0`.

    Confidence: inspired — signal, direction and softness are the abstract's; weight function, schedule, layer and
    averaging over heads are not known.

    Args:
        start: κ in the first batch; negative favours focused attention (anchors).
        end: κ after `steps` batches; positive favours diffuse attention (explorers).
        steps: > 0 rollout batches.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2605.07660.
    """
    check_number("attention_shift", "start", start)
    check_number("attention_shift", "end", end)
    check_number("attention_shift", "steps", steps, low=0, open_low=True)

    def strength(batches: int) -> float:
        return start + (end - start) * min(batches / steps, 1.0)

    return chain(dapo(clip_low=clip_low, clip_high=clip_high), scheduled(attention_weight, strength=strength))
