"""Adaptive entropy control."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.entropy_terms import adaptive_entropy_bonus
from forkpoint.methods.dapo import dapo


def adaptive_entropy(
    *,
    target: float = 0.2,
    delta: float = 0.005,
    start: float = 0.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    gate: Literal["current", "previous"] = "current",
) -> Chain:
    """An entropy bonus that grows while entropy is at most a target and rests above it.

        L = L_pg - c 1[H̄ <= target] H̄,   c ← c + delta where H̄ <= target, else c - delta, in [0, 1]

    Reduces to: the policy term alone with `start=0, delta=0`; an entropy bonus of `start` with an infinite target and
    `delta=0`.

    Confidence: verified — TRL's code read, which follows the paper.

    Deviations: TRL lets the previous update's entropy decide, `gate="previous"`.

    Args:
        target: >= 0, in nats.
        delta: >= 0, step of the coefficient an update.
        start: >= 0, coefficient before the first update.
        clip_low: in [0, 1].
        clip_high: >= 0.
        gate: whose entropy decides about the bonus of an update.

    Source: arXiv 2505.22312.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high),
        adaptive_entropy_bonus(target=target, delta=delta, start=start, gate=gate),
    )
