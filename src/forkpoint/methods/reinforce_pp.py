"""REINFORCE++."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, aggregate, batch_advantage, chain, clip, kl


def reinforce_pp(
    *,
    baseline: Literal["none", "group"] = "none",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coefficient: float = 0.0,
) -> Chain:
    """Returns whitened over the whole rollout batch, PPO's clip, one mean over tokens.

        G_t = R - β Σ_{s≥t} k1_s,   A = (G - μ_batch) / σ_batch

    With `baseline="group"` it is the variant for several answers a prompt: the group's mean is subtracted
    first, and the KL moves from the return into the loss as k2.

    Reduces to: REINFORCE with a whitened return where nothing is clipped.

    Confidence: verified — equations read.

    Args:
        baseline: `none` or `group`.
        clip_low: in [0, 1].
        clip_high: >= 0.
        kl_coefficient: β >= 0; needs a reference model when > 0.

    Source: arXiv 2501.03262 eqs. 4 to 6, and sec. 3.2 for the baseline form.
    """
    in_return = kl_coefficient if baseline == "none" else 0.0
    in_loss = kl_coefficient if baseline == "group" else 0.0
    return chain(
        batch_advantage(baseline=baseline, kl=in_return),
        clip(low=clip_low, high=clip_high),
        aggregate(denominator="token"),
        *((kl(coefficient=in_loss, form="k2"),) if in_loss != 0 else ()),
    )
