"""SHEAR: weights by transport between spans of hidden states."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.hidden import span_distance_weight
from forkpoint.methods.grpo import grpo


def shear(
    *,
    epsilon: float,
    width: int = 100,
    stride: int = 25,
    iterations: int = 50,
    source: Literal["current", "behaviour"] = "current",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Chain:
    """GRPO in which tokens weigh by how far their surroundings lie from every answer of the other outcome.

        w_t = max_{k ∋ t} d_k,   d_k = min_{o opposite} W_ε(span_k, span_o) / n̄

    with spans of last-layer hidden states, W_ε the entropic transport cost and n̄ the mean length of a hidden state
    in the group.

    Reduces to: GRPO in a group whose answers are all right or all wrong, where there is nothing to learn anyway.

    Confidence: inspired — spans, distance, normalisation and maximum are those of a formalisation of the paper;
    its ε and number of iterations are not known.

    Deviations: ε is in units of n̄, so that it means the same for every model. The last span of an answer may be
    shorter than the width, so that every token is in one. Hidden states are the current policy's in every update; with
    one update a batch they are those of the policy that sampled.

    Args:
        epsilon: > 0, strength of the entropic term in units of n̄.
        width: >= 1 tokens a span.
        stride: in [1, width], tokens from one span to the next.
        iterations: >= 1, the most of Sinkhorn, which stops where one more changes nothing beyond rounding.
        source: hidden states of the `current` policy, or of the `behaviour` policy, which cost a pass more.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2604.23318.
    """
    return chain(
        grpo(clip_low=clip_low, clip_high=clip_high),
        span_distance_weight(epsilon=epsilon, width=width, stride=stride, iterations=iterations, source=source),
    )
