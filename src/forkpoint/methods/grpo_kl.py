"""GRPO with a KL term, in every form."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain, kl
from forkpoint.methods.grpo import grpo


def grpo_kl(*, coefficient: float = 0.04, form: Literal["k1", "k2", "k3", "k1+", "k3+", "abs"] = "k3") -> Chain:
    """GRPO held near a reference model.

        L = L_GRPO + coefficient KL_form(π ‖ π_ref)

    With Δ = log π_ref - log π: k1 = -Δ, k2 = Δ²/2, k3 = exp(Δ) - Δ - 1; `k1+` and `k3+` are straight-through, the value
    of k1 or k3 with the gradient of k2. On samples of π only k2's gradient is that of the KL.

    Reduces to: GRPO with `coefficient=0`.

    Confidence: verified — equations and verl's code read.

    Deviations: verl clamps k3 to ±10; here Δ is clamped to ±20 alone, as verl does too.

    Args:
        coefficient: >= 0, in loss per nat.
        form: of the estimate.

    Source: arXiv 2402.03300 eqs. 3 and 4; straight-through forms as in verl.
    """
    return chain(grpo(), kl(coefficient=coefficient, form=form))
