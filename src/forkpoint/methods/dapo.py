"""DAPO."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, aggregate, chain, clip, dual_clip, group_advantage, kl


def dapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual: float | None = None,
    kl_coefficient: float = 0.0,
    kl_form: Literal["k1", "k2", "k3"] = "k3",
) -> Chain:
    """GRPO's advantage, clip-higher, and one mean over all tokens of the mini-batch.

        L = -(1 / Σ_i |o_i|) Σ_i Σ_t min(r A, clip(r, 1 - low, 1 + high) A)

    With equal clips and the sequence denominator it is GRPO. Dynamic sampling and the soft overlong
    punishment, DAPO's other two parts, are settings of the run: `train.dynamic_sampling` and
    `reward.overlong_buffer`.

    Reduces to: GRPO with equal clips and the sequence denominator.

    Confidence: verified — equations read.

    Args:
        clip_low: in [0, 1].
        clip_high: >= 0.
        dual: dual-clip constant > 1; None leaves it out, as the paper does (verl's recipe sets 10).
        kl_coefficient: β >= 0; the paper uses none.
        kl_form: form of the KL estimate.

    Source: arXiv 2503.14476 eqs. 8 to 10.
    """
    return chain(
        group_advantage(),
        clip(low=clip_low, high=clip_high),
        *((dual_clip(c=dual),) if dual is not None else ()),
        aggregate(denominator="token"),
        *((kl(coefficient=kl_coefficient, form=kl_form),) if kl_coefficient != 0 else ()),
    )
