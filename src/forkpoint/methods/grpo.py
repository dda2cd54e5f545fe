"""GRPO and Dr. GRPO."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, aggregate, chain, clip, group_advantage, kl
from forkpoint.credit.link import Link


def grpo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    std: bool = True,
    kl_coefficient: float = 0.0,
    kl_form: Literal["k1", "k2", "k3"] = "k3",
) -> Chain:
    """Group-relative advantage, PPO's clip, mean over answers of token means.

        A_i = (R_i - μ_g) / σ_g,   L = -mean_i mean_t min(r A, clip(r, 1 - low, 1 + high) A) + β KL

    `clip_high > clip_low` with the token denominator is DAPO; `std=False` with the constant denominator is
    Dr. GRPO; `kl_coefficient=0` needs no reference model.

    Reduces to: Dr. GRPO with `std=False` and the constant denominator.

    Confidence: verified — equations read.

    Deviations: the deviation is unbiased; verl adds 1e-6 to it as here, TRL 1e-4.

    Args:
        clip_low: in [0, 1].
        clip_high: >= 0.
        std: divide by the group's standard deviation.
        kl_coefficient: β >= 0, in loss per nat. The paper uses 0.04; later recipes use 0.
        kl_form: `k3` as in the paper, or `k1`, `k2`.

    Source: arXiv 2402.03300 eqs. 3 and 4.
    """
    return chain(
        group_advantage(std=std),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="sequence"),
        *_penalties(kl_coefficient, kl_form),
    )


def dr_grpo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    constant: float | None = None,
    kl_coefficient: float = 0.0,
    kl_form: Literal["k1", "k2", "k3"] = "k3",
) -> Chain:
    """GRPO without its two biases: no division by the group's deviation, none by the answer's length.

        A_i = R_i - μ_g,   L = -mean_i (1 / constant) Σ_t min(r A, clip(r) A)

    Reduces to: GRPO without its division by the deviation, under the constant denominator.

    Confidence: verified — equations read.

    Args:
        clip_low: in [0, 1].
        clip_high: >= 0.
        constant: the divisor in tokens; None takes the longest answer the decoder allows.
        kl_coefficient: β >= 0.
        kl_form: form of the KL estimate.

    Source: arXiv 2503.20783 sec. 3.2.
    """
    return chain(
        group_advantage(std=False),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="constant", constant=constant),
        *_penalties(kl_coefficient, kl_form),
    )


def _penalties(coefficient: float, form: Literal["k1", "k2", "k3"]) -> tuple[Link, ...]:
    return (kl(coefficient=coefficient, form=form),) if coefficient != 0 else ()
