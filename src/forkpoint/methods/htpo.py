"""HTPO."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.groups import token_groups
from forkpoint.methods.dapo import dapo


def htpo(
    *,
    share: float = 0.2,
    easy: float = 0.6,
    lowest: float = 0.006,
    highest: float = 0.02,
    preset: Literal["figure", "released"] = "figure",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual: float = 10.0,
) -> Chain:
    """DAPO with an objective of its own for tokens by difficulty, verdict and entropy.

        hard, right, high H:  J, above the upper bound  (1 + high) sg(1/π) π A
        wrong, high H:        J, below the lower bound  (1 - low) sg(1/π) π A
        hard, right, low H:   J, 0 for the lowest `lowest` of these tokens
        easy, right, high H:  J, 0 for the highest `highest` of these tokens
        all others:           J = min(r A, clip(r, 1 - low, 1 + high) A)

    Exploring tokens keep their gradient beyond the clip, tokens that are certain already on hard problems, or
    still wander on easy ones, are left out. See `forkpoint.credit.groups.token_groups`.

    Reduces to: DAPO with a dual clip where no ratio leaves the bounds, `lowest=0` and `highest=0`.

    Confidence: verified — code and figure of the authors' repository were read; where they differ in sign the
    figure holds.

    Deviations: the released code adds the two kept gradients, and A/r for hard, right, high tokens below the lower
    bound, to the loss with a positive sign, so that they push away from what was rewarded; `preset="released"`
    does so too. Verdicts decide what is right there as here; without verdicts a reward above 0 does.

    Args:
        share: in (0, 1], of an answer's tokens that are high.
        easy: in [0, 1], pass rate from which a group is easy.
        lowest: in [0, 1], of the low tokens of hard, right answers; strictly below the boundary.
        highest: in [0, 1], of the high tokens of easy, right answers.
        preset: `figure` or `released`.
        clip_low: in [0, 1].
        clip_high: >= 0.
        dual: dual-clip constant > 1.

    Source: arXiv 2605.08283; figure, `core_algos.py` and `train.sh` of its repository.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high, dual=dual),
        token_groups(share=share, easy=easy, lowest=lowest, highest=highest, preset=preset),
    )
