"""ETTRL's reshaping of the advantage by entropy."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.checks import check_choice
from forkpoint.credit.shape import advantage_bound, steadiness_scale
from forkpoint.errors import InputError
from forkpoint.methods.grpo import grpo


def ettrl(
    *,
    form: Literal["residual", "bound"] = "residual",
    bound: float | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Chain:
    """GRPO in which answers surer than their siblings learn more and unsure ones less.

        residual:  A_i ← A_i Y_i,   Y_i = max(0, 2 - h_i / mean_g h)
        bound:     A_i ← clip(A_i, -bound, bound)

    h_i is the mean entropy of answer i. The paper's tree search and majority labels belong to sampling and reward.

    Reduces to: `grpo` where all answers of a group have one mean entropy; `form="bound"` with an infinite bound.

    Confidence: inspired — formula from an account of the paper; the bound is not given there and has no default.

    Deviations: Y is kept at or above 0, so that an answer of more than twice the typical entropy does not learn the
    opposite.

    Args:
        form: `residual`, the paper's main form, or `bound`.
        bound: > 0, needed by `form="bound"`.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2508.11356 (entropy-based advantage reshaping).
    """
    check_choice("ettrl", "form", form, ("residual", "bound"))
    if form == "bound" and bound is None:
        raise InputError("ettrl with form 'bound' needs bound, the largest advantage: the paper's value is not known")
    if form == "residual" and bound is not None:
        raise InputError("ettrl reads bound only with form 'bound': leave it out, or set form = 'bound'")
    shaped = advantage_bound(bound=bound) if bound is not None else steadiness_scale()
    return chain(grpo(clip_low=clip_low, clip_high=clip_high), shaped)
