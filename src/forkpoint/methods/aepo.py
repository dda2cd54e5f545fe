"""Arbitrary entropy policy optimisation."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, aggregate, chain, clip
from forkpoint.credit.control import explored_advantage, temperature_control


def aepo(
    *,
    target: float = 0.5,
    alpha: float = 1.0,
    high: float = 1.2,
    low: float = 0.8,
    measure: Literal["entropy", "surprisal"] = "surprisal",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Chain:
    """GRPO, and REINFORCE on extra rows sampled hotter or cooler so that the entropy moves to a target.

        ∇J = ∇J_GRPO + alpha E_{y ~ π^T}[∇log π(y) 1[right]],   T = high if H <= target else low

    The rows that `explore` marks are the extra ones; their recorded log-probs are those at temperature 1. The chain
    says in its state and log at which temperature to sample the next ones: the trainer does, `columns.explore_share` of
    the problems again.

    Reduces to: `grpo` where no row is marked.

    Confidence: verified — the released code was read; the weight of the extra rows there follows from their number.

    Deviations: the code samples a quarter of the problems again, keeps extra rows whose group advantage is above
    0.05, sets them to 1 and overwrites up to 60 rows of the batch with them, half as many above the target, and
    fails where none is kept. Here extra rows stand beside the others, wrong ones have advantage 0, and none is fine.

    Args:
        target: H* >= 0 in nats; the paper's headline runs use 0.75.
        alpha: >= 0, advantage of a right extra row.
        high: > 0, temperature that raises the entropy.
        low: > 0, temperature that lowers it.
        measure: `surprisal`, the mean of -log π_old as in the code, or `entropy`.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2510.08141 and its code.
    """
    return chain(
        explored_advantage(alpha=alpha),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="sequence"),
        temperature_control(target=target, high=high, low=low, measure=measure),
    )
