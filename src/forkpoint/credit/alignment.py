"""Agreement of hidden states right before the answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit._reading import right_answers
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.rollouts import Credit, EntropyTerm, Forward, Rollouts
from forkpoint.scope import Batching, segment_sum, segments


def disagreement(state_BH: Tensor, counts_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for every group, one minus the mean cosine of its states' pairs, and its derivative by every state.

        L_g = 1 - 2 / (n (n - 1)) Σ_{i<j} cos(h_i, h_j)

    Args:
        state_BH: float (B, H).
        counts_B: bool (B,), states that take part.
        group_B: int64 (B,), numbers 0..g-1 without gaps.

    Returns:
        (float (groups,), float (B, H)); both 0 for a group with fewer than two states.

    Source: arXiv 2606.03234 (loss family).

    >>> h = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> disagreement(h, torch.tensor([True, True]), torch.tensor([0, 0]))[0]
    tensor([1.])
    """
    length_B1 = state_BH.norm(dim=1, keepdim=True)
    counts_B = counts_B & (length_B1.squeeze(1) > 0)
    unit_BH = torch.where(counts_B[:, None], state_BH / length_B1.clamp(min=1e-30), 0.0)
    number_S = segment_sum(counts_B.to(state_BH.dtype), group_B)
    sum_SH = unit_BH.new_zeros(number_S.numel(), unit_BH.shape[1]).index_add(0, group_B, unit_BH)
    pairs_S = number_S * (number_S - 1)
    some_S = number_S > 1
    value_S = torch.where(some_S, 1 - ((sum_SH**2).sum(1) - number_S) / pairs_S.clamp(min=1), 0.0)
    pull_BH = -2 * sum_SH[group_B] / pairs_S.clamp(min=1)[group_B][:, None]
    along_B1 = (pull_BH * unit_BH).sum(1, keepdim=True)
    slope_BH = (pull_BH - along_B1 * unit_BH) / length_B1.clamp(min=1e-30)
    return value_S, torch.where((counts_B & some_S[group_B])[:, None], slope_BH, 0.0)


def hidden_alignment(*, coefficient: float) -> Link:
    """Link: right answers to one problem shall be in the same state right before they state it.

        loss += coefficient mean_g L_g,   L_g = 1 - mean_{i<j} cos(h_i, h_j)

    over the right answers of each group that have an anchor; groups with fewer than two do not count.
    `coefficient=0` changes nothing.

    Args:
        coefficient: >= 0; the source's value is not known.

    Source: arXiv 2606.03234.
    """
    check_number("hidden_alignment", "coefficient", coefficient, low=0)
    arguments = {"coefficient": coefficient}
    if coefficient == 0:
        return Link(name="hidden_alignment", stage="regulariser", arguments=arguments, when="update", adds=False)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        hidden_BTH, anchor_B = forward.extra["hidden"], rollouts.extra["anchor"]
        B, T = rollouts.mask_BT.shape
        if B == 0 or T == 0:
            return credit, state
        at_B = anchor_B.clamp(min=0, max=T - 1)
        row_B = torch.arange(B, device=at_B.device)
        counts_B = right_answers(rollouts)[0] & (anchor_B >= 0) & credit.keep_BT[row_B, at_B]
        group_B = segments("group", group_B=rollouts.group_B, batching=batching)
        value_S, slope_BH = disagreement(hidden_BTH[row_B, at_B].to(credit.advantage_BT.dtype), counts_B, group_B)
        mini_B = segments("mini", group_B=rollouts.group_B, batching=batching)
        number_S = segment_sum(counts_B.to(torch.int64), group_B)
        mini_of_S = torch.zeros_like(number_S).scatter(0, group_B, mini_B)
        groups_S = segment_sum((number_S > 1).to(value_S.dtype), mini_of_S).clamp(min=1)
        scale_B = coefficient / groups_S[mini_B]
        slope_BTH = torch.zeros_like(hidden_BTH, dtype=slope_BH.dtype)
        slope_BTH[row_B, at_B] = slope_BH * scale_B[:, None]
        offset_BT = torch.zeros_like(credit.advantage_BT)
        # A state's derivative is orthogonal to it, so slope · h is 0 and the offset is the whole value.
        offset_BT[row_B, at_B] = torch.where(counts_B, scale_B * (value_S / number_S.clamp(min=1))[group_B], 0.0)
        term = EntropyTerm(slope_BT=slope_BTH, offset_BT=offset_BT, of="hidden")
        return dataclasses.replace(credit, entropy_terms=(*credit.entropy_terms, term)), state

    return Link(
        name="hidden_alignment",
        stage="regulariser",
        arguments=arguments,
        update=update,
        when="update",
        scope="mini",
        needs=frozenset({"forward", "forward_hidden", "anchor", "reward"}),
    )
