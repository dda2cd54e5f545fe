"""HICRA."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.shape import planning_push
from forkpoint.methods.grpo import grpo


def hicra(*, alpha: float = 0.2, clip_low: float = 0.2, clip_high: float = 0.28) -> Chain:
    """GRPO without deviation and with clip-higher, and more advantage on planning tokens.

        A_t = R - μ_g + alpha |R - μ_g| 1[t is a planning token]

    Right answers reward their planning more, wrong ones punish it less.

    Reduces to: `grpo` with `std=False` for `alpha=0`, or where no token is a planning token.

    Confidence: verified — equations read; what a planning span is has to be said (`columns.planning`).

    Deviations: the paper finds planning spans by clustering the n-grams (n = 3 to 5) of right answers and keeping
    the fifth of clusters found in most of them; its clustering settings were not read.

    Args:
        alpha: >= 0.
        clip_low: in [0, 1].
        clip_high: >= 0; the paper raises the upper clip, here to DAPO's value.

    Source: arXiv 2509.03646 sec. 3.
    """
    return chain(grpo(clip_low=clip_low, clip_high=clip_high, std=False), planning_push(alpha=alpha))
