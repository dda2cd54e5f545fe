"""Selection by level: a token learns where a signal lies inside fixed or running bounds."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import (
    DENOMINATORS,
    SOURCES,
    check_finite,
    choose,
    current_or_recorded,
    segment_quantile,
)
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.entropy.signals import relative_surprisal, window_entropy
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Rollouts


def surprisal_band(
    *,
    low: float,
    high: float,
    source: Literal["current", "behaviour"] = "behaviour",
    denominator: Literal["selected", "all"] = "selected",
) -> Link:
    """Link: only tokens whose surprisal lies in a band around its expectation learn.

        keep_t = [low <= s_t <= high],   s_t = -log π(y_t) / H_t

    The lower bound leaves out tokens that were all but certain, the upper one those of the tail. With `low=0` and
    `high=inf` every token learns and the link changes nothing.

    Args:
        low: >= 0, in units of the entropy; 1 is a token as surprising as expected.
        high: >= low; infinite leaves the band open.
        source: log-prob and entropy of the `current` or of the `behaviour` policy.
        denominator: `selected` drops the other tokens from the loss's denominator, `all` silences them and leaves
            them in it.

    Raises:
        InputError: bounds that are no band, or a log-prob or an entropy that is not finite.

    Source: the idea of arXiv 2606.31575; see `forkpoint.entropy.signals.relative_surprisal`.
    """
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
            raise InputError(f"surprisal_band {name} is {value!r} and must be a number >= 0")
    if low > high:
        raise InputError(f"surprisal_band has low {low} above high {high}: no token can lie between them")
    check_choice("surprisal_band", "source", source, SOURCES)
    check_choice("surprisal_band", "denominator", denominator, DENOMINATORS)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, state: State, **_: Any
    ) -> tuple[Credit, State]:
        if low == 0 and high == math.inf:
            return credit, state
        entropy_BT = current_or_recorded(credit, rollouts, forward if source == "current" else None, source=source)
        logp_BT = forward.logp_BT if source == "current" and forward is not None else rollouts.logp_BT
        check_finite(logp_BT, credit.keep_BT, source, of="log-prob")
        surprise_BT = relative_surprisal(logp_BT, entropy_BT)
        return choose(credit, (surprise_BT >= low) & (surprise_BT <= high), denominator), state

    return Link(
        name="surprisal_band",
        stage="selection",
        arguments={"low": low, "high": high, "source": source, "denominator": denominator},
        update=update,
        when="update" if source == "current" else "rollout",
        needs=frozenset({"forward"} if source == "current" else {"entropy"}),
        drops=denominator == "selected",
        adds=False,
    )


def window_threshold(
    *,
    width: int = 4,
    percentile: float = 0.95,
    decay: float = 0.99,
    start: float | None = None,
    denominator: Literal["selected", "all"] = "selected",
) -> Link:
    """Link: only tokens that open a stretch of high entropy learn, by a threshold that follows the run.

        keep_t = [W_t >= θ],   θ' = decay θ + (1 - decay) median_i (percentile of W over answer i)

    with W_t the mean entropy of the next `width` tokens. The threshold of earlier batches decides about this one,
    which then moves it. A token whose window does not fit into its answer is not kept. Answers of which no token
    counts take no part in the median; a batch without any leaves the threshold as it is. With `start` at or below
    0 and `decay=1` every token with a window learns.

    Args:
        width: >= 1 tokens.
        percentile: in [0, 1], of the windows of one answer.
        decay: in [0, 1]; 1 never moves the threshold, 0 is the last batch's.
        start: the first threshold in nats; None takes the first batch's own.
        denominator: `selected` drops the other tokens from the loss's denominator, `all` silences them and leaves
            them in it.

    Source: the threshold of the released code of arXiv 2510.08457 (ARES), which starts it at -1.

    Raises:
        InputError: an argument outside its range, or an entropy that is not finite.
    """
    window_entropy(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool), width=width)  # checks the width
    check_number("window_threshold", "percentile", percentile, low=0, high=1)
    check_number("window_threshold", "decay", decay, low=0, high=1)
    if start is not None:
        check_number("window_threshold", "start", start)
    check_choice("window_threshold", "denominator", denominator, DENOMINATORS)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        entropy_BT = current_or_recorded(credit, rollouts, None)
        window_BT = window_entropy(entropy_BT, rollouts.mask_BT, width=width)
        candidates_BT = credit.keep_BT & ~window_BT.isnan()
        here = typical_peak(window_BT, candidates_BT, percentile)
        threshold = here if state["threshold"] is None else state["threshold"]
        if threshold is None or here is None:  # nothing here has a window
            return choose(credit, candidates_BT, denominator), state
        moved = decay * threshold + (1 - decay) * here
        return choose(credit, candidates_BT & (window_BT >= threshold), denominator), {"threshold": moved}

    return Link(
        name="window_threshold",
        stage="selection",
        arguments={
            "width": width, "percentile": percentile, "decay": decay, "start": start, "denominator": denominator,
        },
        update=update,
        scope="rollout",
        needs=frozenset({"entropy"}),
        drops=denominator == "selected",
        adds=False,
        init=lambda: {"threshold": start},
    )  # fmt: skip


def typical_peak(value_BT: Tensor, mask_BT: Tensor, percentile: float) -> float | None:
    """Return the median over answers of a percentile over each answer's tokens; None where no token is masked in.

    >>> v = torch.tensor([[1.0, 3.0], [7.0, 0.0], [9.0, 9.0]])
    >>> typical_peak(v, torch.tensor([[True, True], [True, False], [False, False]]), 0.5)
    4.5
    """
    value_BT = value_BT.to(torch.promote_types(value_BT.dtype, torch.float32))
    rows_B = torch.arange(value_BT.shape[0], device=value_BT.device)
    peak_B = segment_quantile(value_BT, mask_BT, percentile, rows_B)
    found_B1 = ~peak_B[:, None].isnan()
    if not found_B1.any():
        return None
    return float(segment_quantile(peak_B[:, None], found_B1, 0.5, torch.zeros_like(rows_B))[0])
