"""Exemptions, scaled bounds, entropy terms and forms of the loss, and that credit's rows are cut with them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import random_rollouts, rollouts_of
from forkpoint.credit import clip, credit_of, dual_clip, masked
from forkpoint.credit.bounds import scaled_bound
from forkpoint.credit.link import Chain
from forkpoint.errors import InputError
from forkpoint.loss import entropy_loss, log_power_mean, penalty_loss, surrogate
from forkpoint.rollouts import Credit, EntropyTerm, Penalty, Verdict, blank_credit, right

RATIO = [0.5, 1.0, 4.0]
"""Below, within and above bounds of 0.8 and 1.2."""


def one_row(advantage, **fields):
    """Value and slope by log π of three tokens of the ratios above, as multiples of the ratio's own."""
    rollouts = rollouts_of([[-1.0] * 3], groups=[0])
    logp_BT = (rollouts.logp_BT + torch.tensor([RATIO], dtype=torch.float64).log()).requires_grad_()
    one = torch.ones_like(rollouts.logp_BT)
    credit = dataclasses.replace(
        blank_credit(rollouts), advantage_BT=advantage * one, low_BT=0.8 * one, high_BT=1.2 * one, **fields
    )
    loss_BT = surrogate(logp_BT, rollouts, credit)
    loss_BT.sum().backward()
    return loss_BT.detach()[0].tolist(), logp_BT.grad[0].tolist()


ALL = torch.ones(1, 3, dtype=torch.bool)
NAMED = {
    "plain, good": (1.0, {}, [-0.5, -1.0, -1.2], [-0.5, -1.0, 0.0]),
    "plain, bad": (-1.0, {}, [0.8, 1.0, 4.0], [0.0, 1.0, 4.0]),
    "scaled high, good": (1.0, {"scaled_high_BT": ALL}, [-0.5, -1.0, -1.2], [-0.5, -1.0, -1.2]),
    "scaled high, bad": (-1.0, {"scaled_high_BT": ALL}, [0.8, 1.0, 4.0], [0.0, 1.0, 4.0]),
    "scaled low, bad": (-1.0, {"scaled_low_BT": ALL}, [0.8, 1.0, 4.0], [0.8, 1.0, 4.0]),
    "unclipped, good": (1.0, {"unclipped_BT": ALL}, [-0.5, -1.0, -4.0], [-0.5, -1.0, -4.0]),
    "unclipped, bad": (-1.0, {"unclipped_BT": ALL, "dual_clip": 3.0}, [0.5, 1.0, 4.0], [0.5, 1.0, 4.0]),
    "dual clip, bad": (-1.0, {"dual_clip": 3.0}, [0.8, 1.0, 3.0], [0.0, 1.0, 0.0]),
}


@pytest.mark.parametrize("name", NAMED)
def test_value_and_slope_beyond_the_bounds(name):
    advantage, fields, value, slope = NAMED[name]
    got = one_row(advantage, **fields)
    assert got == (pytest.approx(value, abs=1e-12), pytest.approx(slope, abs=1e-12))


def test_bounds_inside_a_mean_act_on_the_side_of_the_advantage():
    """log r clipped to log 1.2 from above where A > 0, to log 0.8 from below where A < 0; their mean."""
    for advantage, inside, free in ((1.0, [0.5, 1.0, 1.2], [1, 1, 0]), (-1.0, [0.8, 1.0, 4.0], [0, 1, 1])):
        mean = math.prod(inside) ** (1 / 3)
        value, slope = one_row(advantage, ratio="mean", order=0.0, inner_bounds=True)
        assert value == pytest.approx([-advantage * mean] * 3, abs=1e-12)
        assert slope == pytest.approx([-advantage * mean * f for f in free], abs=1e-12)


def test_a_row_without_tokens_has_a_mean_of_one_and_no_gradient():
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True, True, False]])
    for order in (-2.0, 0.0, 1.0):
        got = log_power_mean(x, mask, order)
        assert not got.any()
        (gradient,) = torch.autograd.grad(got[:, 0].sum(), x)
        assert gradient.tolist() == [[0.0] * 3, [0.5, 0.5, 0.0]]


@pytest.mark.parametrize(("form", "value"), [("k1+", -0.3), ("k3+", math.exp(0.3) - 1.3)])
def test_straight_through_has_the_value_of_the_form_and_the_slope_of_k2(form, value):
    logp = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    penalty = Penalty(coefficient_BT=torch.full_like(logp, 2.0), target_logp_BT=logp.detach() + 0.3, form=form)
    got = penalty_loss(penalty, logp, torch.ones(1, 1, dtype=torch.bool))
    assert got.item() == pytest.approx(2 * value, abs=1e-12)
    got.sum().backward()
    assert logp.grad.item() == pytest.approx(-2 * 0.3, abs=1e-12)


def test_entropy_terms_read_what_they_name_and_nothing_where_the_slope_is_zero():
    rollouts, forward = random_rollouts(1)
    slope = torch.zeros_like(rollouts.logp_BT)
    slope[0, 1] = 2.0
    entropy = torch.full_like(forward.entropy_BT, torch.nan)
    entropy[0, 1] = 0.5
    forward = dataclasses.replace(forward, entropy_BT=entropy, extra={"other": torch.full_like(slope, 3.0)})
    terms = (
        EntropyTerm(slope_BT=slope, offset_BT=slope * 0 + 0.25 * (slope != 0)),
        EntropyTerm(slope_BT=slope, offset_BT=slope * 0, of="other"),
    )
    credit = dataclasses.replace(blank_credit(rollouts), entropy_terms=terms)
    assert entropy_loss(forward, credit).item() == pytest.approx(2 * 0.5 + 0.25 + 2 * 3.0, abs=1e-12)


def test_rows_of_credit_are_cut_with_everything_in_it():
    rollouts, forward = random_rollouts(2)
    B, T = rollouts.mask_BT.shape
    number = torch.arange(B * T, dtype=torch.float64).reshape(B, T)
    flags = number % 2 == 0
    credit = Credit(
        advantage_BT=number, weight_BT=number, keep_BT=flags, low_BT=number, high_BT=number, scaled_low_BT=flags,
        scaled_high_BT=flags, unclipped_BT=flags, ratio="mean", order=2.0, inner_bounds=True, dual_clip=3.0,
        penalties=(Penalty(coefficient_BT=number, target_logp_BT=number, form="hinge", threshold=0.1),),
        entropy_terms=(EntropyTerm(slope_BT=number, offset_BT=number, of="other"),),
    )  # fmt: skip
    rows = torch.tensor([5, 1])
    cut = credit.select(rows)
    for name, value in vars(credit).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(cut, name), value[rows]), name
    assert (cut.ratio, cut.order, cut.inner_bounds, cut.dual_clip) == ("mean", 2.0, True, 3.0)
    assert cut.penalties[0].threshold == 0.1
    assert torch.equal(cut.penalties[0].coefficient_BT, number[rows])
    assert torch.equal(cut.entropy_terms[0].offset_BT, number[rows])
    some = rollouts.select(rows)
    assert torch.equal(some.extra["cluster"], rollouts.extra["cluster"][rows])
    assert torch.equal(some.extra["hidden"], rollouts.extra["hidden"][rows, : some.ids_BT.shape[1]])
    assert torch.equal(forward.select(rows).extra["hidden"], forward.extra["hidden"][rows])


def test_masked_keeps_scaled_bounds_to_their_place_and_refuses_whole_batch_kinds():
    rollouts, forward = random_rollouts(3)

    def first(r, c):
        return torch.arange(r.rows)[:, None] == 0

    links = (clip(), masked(scaled_bound(low=True), first))
    credit = credit_of(Chain(links=links), rollouts, forward=forward)
    for flag in (credit.scaled_low_BT, credit.scaled_high_BT):
        assert bool(flag[0].all())
        assert not flag[1:].any()
    with pytest.raises(InputError, match="property of the whole batch"):
        credit_of(Chain(links=(masked(dual_clip(), first),)), rollouts)


def test_right_is_the_verdict_or_a_reward_above_zero():
    rollouts = rollouts_of([[-1.0]] * 4, groups=[0] * 4, reward=[1.0, 0.0, -1.0, 2.0], judged=[True, True, True, False])
    assert right(rollouts).tolist() == [True, False, False, False]
    verdicts = (Verdict.WRONG, Verdict.RIGHT, Verdict.UNJUDGED, Verdict.RIGHT)
    assert right(dataclasses.replace(rollouts, verdicts=verdicts)).tolist() == [False, True, False, True]
    with pytest.raises(InputError, match="verify the rollouts first"):
        right(dataclasses.replace(rollouts, reward_B=None))
