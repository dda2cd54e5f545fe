"""DPPO with binary divergences."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.offpolicy import divergence_mask
from forkpoint.methods.cispo import cispo


def dppo(
    *, measure: Literal["variation", "kl"] = "variation", low: float = 0.2, high: float = 0.28, cap: float = 20.0
) -> Chain:
    """A trust region on probabilities instead of ratios: rare tokens are not the first to be cut.

        L = -(1 / Σ_i |y_i|) Σ sg(min(r, cap)) m A log π,   m_t = 0 where D_t > bound and the push would widen D_t

    D is |π - π_old| of the token, or the KL of "this token or any other".

    Reduces to: `cispo` with infinite bounds.

    Confidence: inspired — the loss as verl implements it for this paper, matched on saved tensors; verl takes its
    thresholds from PPO's clip, whose numbers these are.

    Args:
        measure: `variation` or `kl`.
        low: >= 0, the most where A <= 0: in probability, or in nats.
        high: >= 0, the most where A > 0.
        cap: > 0, the largest importance weight.

    Source: arXiv 2602.04879, its sec. 5.4 for the cap; verl 0.9.1 `dppo_tv` and `dppo_kl`.
    """
    return chain(cispo(cap=cap), divergence_mask(measure=measure, low=low, high=high))
