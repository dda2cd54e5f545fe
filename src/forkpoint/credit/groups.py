"""Objectives by group of tokens: how hard the problem, whether the answer is right, how uncertain the token."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import check_finite, weighted
from forkpoint.credit._reading import pass_rate, right_answers
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.rollouts import Credit, Forward, Rollouts

PRESETS = ("figure", "released")


def row_extremes(value_BT: Tensor, mask_BT: Tensor, share: float, *, largest: bool = True) -> Tensor:
    """Return the k-th largest (or smallest) masked value of every row, k = max(1, floor(share n)).

    Args:
        value_BT: float (B, T), finite where masked.
        mask_BT: bool (B, T); n is a row's number of masked positions.
        share: in [0, 1].
        largest: whether to count from the largest value or from the smallest.

    Returns:
        float (B, 1); +inf (or -inf) where a row has no masked position, so that no comparison holds.

    Source: the boundaries of the released code of arXiv 2605.08283 (HTPO).

    >>> v = torch.tensor([[3.0, 1.0, 2.0, 9.0]])
    >>> row_extremes(v, v < 5, 0.67), row_extremes(v, v < 5, 0.1, largest=False)
    (tensor([[2.]]), tensor([[1.]]))
    """
    end = torch.inf if largest else -torch.inf
    if value_BT.shape[1] == 0:
        return value_BT.new_full((value_BT.shape[0], 1), end)
    count_B1 = mask_BT.sum(1, keepdim=True)
    # share * n of decimal shares lands a little below whole numbers: 0.29 * 100 is 28.999999999999996.
    place_B1 = ((share * count_B1.double() * 1e9).round() / 1e9).floor().to(torch.int64).clamp(min=1)
    ordered_BT = torch.where(mask_BT, value_BT, -end).sort(dim=1, descending=largest).values
    found_B1 = ordered_BT.gather(1, (torch.minimum(place_B1, count_B1) - 1).clamp(min=0))
    return torch.where(count_B1 > 0, found_B1, end)


def token_groups(
    *,
    share: float = 0.2,
    easy: float = 0.6,
    lowest: float = 0.006,
    highest: float = 0.02,
    preset: Literal["figure", "released"] = "figure",
) -> Link:
    """Link: an objective of its own for tokens by difficulty, verdict and entropy.

    With J the clipped surrogate, P = π/sg(π), bounds [l, h] from the links before, "high" the tokens of the
    highest entropy in their own answer and "hard" the groups whose pass rate is below `easy`:

        hard, right, high:  J, but above the upper bound  h P A          (the gradient stays)
        wrong, high:        J, but below the lower bound  l P A          (the gradient stays)
        hard, right, low:   J, 0 for the tokens of the lowest entropy
        easy, right, high:  J, 0 for the tokens of the highest entropy
        all others:         J

    Silenced tokens stay in the denominator. Put it after the link that sets the bounds; with open bounds and
    `lowest=highest=0` it changes nothing.

    Args:
        share: in (0, 1], of an answer's tokens that are high; max(1, floor(share n)), ties with the last one
            included.
        easy: in [0, 1], pass rate from which a group is easy.
        lowest: in [0, 1], of the low tokens: those strictly below the max(1, floor(lowest n))-th smallest are
            silenced.
        highest: in [0, 1], of the high tokens: those at or above the max(1, floor(highest n))-th largest are
            silenced; 0 silences none.
        preset: `figure` is the objective above. `released` is the code: both kept gradients and, for hard, right,
            high tokens below the lower bound, A/r · P enter the loss with a positive sign, that is they push the
            wrong way.

    Returns:
        A link of the update stage that reads the current policy.

    Raises:
        InputError: an argument outside its range, or an entropy or log-prob that is not finite.

    Source: arXiv 2605.08283 (HTPO), figure of its repository; boundaries from its code.
    """
    check_number("token_groups", "share", share, low=0, high=1, open_low=True)
    for name, value in (("easy", easy), ("lowest", lowest), ("highest", highest)):
        check_number("token_groups", name, value, low=0, high=1)
    check_choice("token_groups", "preset", preset, PRESETS)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        check_finite(forward.entropy_BT, credit.keep_BT, "current")
        entropy_BT = torch.where(credit.keep_BT, forward.entropy_BT, 0.0)
        right_B, judged_B = right_answers(rollouts)
        right_B1, wrong_B1 = right_B[:, None], (judged_B & ~right_B)[:, None]
        hard_B1 = pass_rate(rollouts, torch.float64)[:, None] < easy
        high_BT = credit.keep_BT & (entropy_BT >= row_extremes(entropy_BT, credit.keep_BT, share))
        low_BT = credit.keep_BT & ~high_BT
        silenced_BT = hard_B1 & right_B1 & low_BT
        silenced_BT &= entropy_BT < row_extremes(entropy_BT, low_BT, lowest, largest=False)
        if highest > 0:
            top_BT = high_BT & (entropy_BT >= row_extremes(entropy_BT, high_BT, highest))
            silenced_BT |= ~hard_B1 & right_B1 & top_BT
        up_BT, down_BT = hard_B1 & right_B1 & high_BT, wrong_B1 & high_BT
        scaled = dataclasses.replace(
            weighted(credit, torch.where(silenced_BT, 0.0, 1.0)),
            scaled_high_BT=up_BT if credit.scaled_high_BT is None else up_BT | credit.scaled_high_BT,
            scaled_low_BT=down_BT if credit.scaled_low_BT is None else down_BT | credit.scaled_low_BT,
        )
        return scaled if preset == "figure" else _as_released(scaled, rollouts, forward, up_BT, down_BT), state

    return Link(
        name="token_groups",
        stage="clip",
        arguments={
            "share": share, "easy": easy, "lowest": lowest, "highest": highest, "preset": preset,
        },
        update=update,
        when="update",
        scope="group",
        needs=frozenset({"forward", "reward"}),
        adds=False,
    )  # fmt: skip


def _as_released(credit: Credit, rollouts: Rollouts, forward: Forward, up_BT: Tensor, down_BT: Tensor) -> Credit:
    """Turn the sign of what lies beyond a bound, and weigh A/r where the paper has r A, as the released code does."""
    counted_BT = credit.keep_BT
    check_finite(forward.logp_BT, counted_BT, "current", of="log-prob")
    ratio_BT = torch.where(counted_BT, forward.logp_BT - rollouts.logp_BT, 0.0).clamp(-20, 20).exp()
    above_BT = up_BT & (ratio_BT > (torch.inf if credit.high_BT is None else credit.high_BT))
    floor_BT = torch.zeros_like(ratio_BT) if credit.low_BT is None else credit.low_BT
    below_BT = ratio_BT < floor_BT
    factor_BT = torch.where(above_BT | (down_BT & below_BT), -1.0, 1.0)
    factor_BT = torch.where(up_BT & below_BT, -1 / ratio_BT**2, factor_BT)
    return weighted(credit, factor_BT)
