"""EPO."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.corridor import entropy_corridor, entropy_corridor_released
from forkpoint.methods.grpo import grpo


def epo(
    *,
    gamma: float,
    steps: float,
    coefficient: float = 0.001,
    alpha: float = 0.05,
    low: float = 0.0,
    high: float = 2.0,
    unit: Literal["answer", "turn"] = "answer",
) -> Chain:
    """An entropy bonus, and a charge on tokens outside a corridor around the mean entropy of earlier steps.

        L = L_pg - λ (L_H - β_k L_smooth),   β_k = 1 + exp(-gamma k / k_mid)
        L_smooth = alpha mean([low H̄ - H_t]₊ + [H_t - high H̄]₊),   H̄ the mean of earlier steps

    Reduces to: GRPO with `coefficient=0`; GRPO with an entropy bonus under the sequence denominator with `alpha=0`.

    Confidence: verified — equations read; `gamma` is not printed.

    Deviations: `low` and `high` are those of the released runs; the paper's mean over turns is that of an answer of one
    turn unless `unit="turn"`. `epo_released` is the code.

    Args:
        gamma: >= 0, decay of β.
        steps: >= 1, rollout batches of the whole run.
        coefficient: λ >= 0, in loss per nat.
        alpha: >= 0; 0.05 for ScienceWorld, 0.1 for ALFWorld.
        low: >= 0, lower edge in units of H̄.
        high: >= `low`, upper edge.
        unit: what is averaged first, `answer` or `turn`.

    Source: arXiv 2509.22576 eqs. 3 to 6.
    """
    return chain(
        grpo(),
        entropy_corridor(gamma=gamma, steps=steps, coefficient=coefficient, alpha=alpha, low=low, high=high, unit=unit),
    )


def epo_released(
    *, coefficient: float = 0.001, alpha: float = 0.05, low: float = 0.0, high: float = 2.0, scale: float = 1.0
) -> Chain:
    """EPO as its code has it: the charge is a constant without gradient.

        L = L_pg - λ (mean_t H_t - scale mean_t alpha 1[H_t outside (low H̄, high H̄)])

    Reduces to: GRPO with an entropy bonus in its gradient; GRPO with `coefficient=0`.

    Confidence: verified — code read.

    Deviations: the code keeps one history a turn and charges from half the turns on; here there is one history.

    Args:
        coefficient: λ >= 0, in loss per nat.
        alpha: >= 0, the constant.
        low: >= 0, lower edge in units of H̄.
        high: >= `low`, upper edge.
        scale: >= 0.

    Source: arXiv 2509.22576, released code.
    """
    return chain(
        grpo(),
        entropy_corridor_released(coefficient=coefficient, alpha=alpha, low=low, high=high, scale=scale),
    )
