"""Every function of the loss against numbers worked out by hand, in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import forward_of, padded, rollouts_of
from forkpoint.credit import chain, entropy_bonus
from forkpoint.errors import InputError
from forkpoint.loss import (
    LOG_RATIO_LIMIT,
    coefficients,
    importance_ratio,
    log_ratio,
    penalty_loss,
    policy_loss,
    surrogate,
    token_losses,
)
from forkpoint.rollouts import Credit, Forward, Penalty, blank_credit
from forkpoint.scope import Batching, one_batch

NAN = float("nan")
EMPTY = chain()


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def ratios(rows, **credit):
    """Return (logp with gradient, rollouts, credit) whose ratios π/π_old are the given numbers."""
    rollouts = rollouts_of([[-1.0 - 0.1 * t for t in range(len(row))] for row in rows], groups=[0] * len(rows))
    logp_BT = (rollouts.logp_BT + padded([[math.log(r) for r in row] for row in rows])).requires_grad_()
    blank = blank_credit(rollouts)
    return logp_BT, rollouts, dataclasses.replace(blank, **credit)


def full(credit: Credit, value: float) -> torch.Tensor:
    return torch.full_like(credit.advantage_BT, value)


def test_log_ratio_is_zero_on_padding_and_limited():
    rollouts = rollouts_of([[-1.0, -2.0], [-3.0]], groups=[0, 0])
    logp_BT = torch.tensor([[-0.5, -60.0], [50.0, NAN]], dtype=torch.float64)
    same(log_ratio(logp_BT, rollouts), [[0.5, -LOG_RATIO_LIMIT], [LOG_RATIO_LIMIT, 0.0]])


def test_importance_ratio_of_tokens():
    logp_BT, rollouts, credit = ratios([[1.5, 0.5], [2.0]])
    same(importance_ratio(logp_BT.detach(), rollouts, credit), [[1.5, 0.5], [2.0, 1.0]])


def test_importance_ratio_of_sequences_is_the_geometric_mean_over_real_tokens():
    """sqrt(1.5 * 0.5) and 2, whatever the padding holds; an empty answer has ratio 1."""
    logp_BT, rollouts, credit = ratios([[1.5, 0.5], [2.0], []], ratio="sequence")
    logp_BT = torch.where(rollouts.mask_BT, logp_BT.detach(), NAN)
    s = math.sqrt(0.75)
    same(importance_ratio(logp_BT, rollouts, credit), [[s, s], [2.0, 2.0], [1.0, 1.0]])


# One row a case: ratio, advantage, loss and slope by log π, with bounds 0.8 and 1.28.
PPO = [
    (1.1, 2.0, -2.2, -2.2),  # inside
    (1.5, 2.0, -2.56, 0.0),  # a good token pushed far enough: -1.28 A
    (0.5, 2.0, -1.0, -1.0),  # a good token that lost probability keeps its gradient
    (0.5, -2.0, 1.6, 0.0),  # a bad token pushed far enough: 0.8 |A|
    (1.5, -2.0, 3.0, 3.0),  # a bad token that gained probability keeps its gradient
    (1.1, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("r", "advantage", "loss", "slope"), PPO)
def test_surrogate(r, advantage, loss, slope):
    logp_BT, rollouts, credit = ratios([[r]])
    credit = dataclasses.replace(
        credit, advantage_BT=full(credit, advantage), low_BT=full(credit, 0.8), high_BT=full(credit, 1.28)
    )
    got = surrogate(logp_BT, rollouts, credit)
    same(got.detach(), [[loss]])
    same(torch.autograd.grad(got.sum(), logp_BT)[0], [[slope]])


@pytest.mark.parametrize(("low", "high", "r", "loss"), [(None, 1.28, 0.1, 0.2), (0.8, None, 0.1, 1.6)])
def test_an_open_bound_does_not_bind(low, high, r, loss):
    logp_BT, rollouts, credit = ratios([[r]])
    credit = dataclasses.replace(
        credit,
        advantage_BT=full(credit, -2.0),
        low_BT=None if low is None else full(credit, low),
        high_BT=None if high is None else full(credit, high),
    )
    same(surrogate(logp_BT, rollouts, credit).detach(), [[loss]])


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_ratio_on_its_bound_keeps_its_whole_gradient(advantage):
    """With both bounds at 1 and r = 1 nothing has moved yet: the gradient is REINFORCE's, -A."""
    logp_BT, rollouts, credit = ratios([[1.0]])
    one = full(credit, 1.0)
    credit = dataclasses.replace(credit, advantage_BT=advantage * one, low_BT=one, high_BT=one)
    (slope,) = torch.autograd.grad(surrogate(logp_BT, rollouts, credit).sum(), logp_BT)
    same(slope, [[-advantage]])


@pytest.mark.parametrize(
    ("r", "advantage", "loss", "slope"),
    [
        (5.0, -2.0, 6.0, 0.0),  # 5 |A| = 10 is more than 3 |A|
        (2.0, -2.0, 4.0, 4.0),  # below the cap
        (5.0, 2.0, -2.4, 0.0),  # good tokens know only the usual bound, 1.2
        (5.0, 0.0, 0.0, 0.0),
    ],
)
def test_dual_clip(r, advantage, loss, slope):
    logp_BT, rollouts, credit = ratios([[r]], dual_clip=3.0)
    credit = dataclasses.replace(
        credit, advantage_BT=full(credit, advantage), low_BT=full(credit, 0.8), high_BT=full(credit, 1.2)
    )
    got = surrogate(logp_BT, rollouts, credit)
    same(got.detach(), [[loss]])
    same(torch.autograd.grad(got.sum(), logp_BT)[0], [[slope]])


def test_stop_ratio_weighs_log_prob_and_is_not_differentiated():
    """min(r, 2) A log π: r = 5 and 0.5 with A = 3, log π_old = -1 and -1.1."""
    logp_BT, rollouts, credit = ratios([[5.0, 0.5]], ratio="stop")
    credit = dataclasses.replace(credit, advantage_BT=full(credit, 3.0), high_BT=full(credit, 2.0))
    got = surrogate(logp_BT, rollouts, credit)
    same(got.detach(), [[-2 * 3 * (math.log(5) - 1), -0.5 * 3 * (math.log(0.5) - 1.1)]])
    same(torch.autograd.grad(got.sum(), logp_BT)[0], [[-6.0, -1.5]])


def test_sequence_ratio_spreads_its_gradient_over_the_answer():
    """Two tokens of loss -s A each, s = sqrt(1.5 * 0.9); every log π moves s by s / 2."""
    logp_BT, rollouts, credit = ratios([[1.5, 0.9]], ratio="sequence")
    credit = dataclasses.replace(credit, advantage_BT=full(credit, 2.0))
    s = math.sqrt(1.35)
    got = surrogate(logp_BT, rollouts, credit)
    same(got.detach(), [[-2 * s, -2 * s]])
    same(torch.autograd.grad(got.sum(), logp_BT)[0], [[-2 * s, -2 * s]])


def test_ratios_too_far_apart_stay_finite_and_stop_learning():
    rollouts = rollouts_of([[-1000.0, -1.0]], groups=[0])
    credit = dataclasses.replace(blank_credit(rollouts), advantage_BT=torch.tensor([[-1.0, 1.0]]).double())
    logp_BT = torch.tensor([[-1.0, -1000.0]], dtype=torch.float64, requires_grad=True)
    got = surrogate(logp_BT, rollouts, credit)
    same(got.detach(), [[math.exp(20), -math.exp(-20)]])
    same(torch.autograd.grad(got.sum(), logp_BT)[0], [[0.0, 0.0]])


@pytest.mark.parametrize(
    ("form", "value", "slope"),
    [
        ("k1", -0.3, 1.0),
        ("k2", 0.045, -0.3),
        ("k3", math.exp(0.3) - 1.3, 1 - math.exp(0.3)),
        ("abs", 0.3, -1.0),
    ],
)
def test_penalty_forms(form, value, slope):
    """Δ = log π_ref - log π = -0.7 + 1 = 0.3; coefficient 2."""
    logp_BT = torch.tensor([[-1.0, NAN]], dtype=torch.float64, requires_grad=True)
    mask_BT = torch.tensor([[True, False]])
    penalty = Penalty(
        coefficient_BT=torch.full((1, 2), 2.0, dtype=torch.float64),
        target_logp_BT=torch.tensor([[-0.7, NAN]], dtype=torch.float64),
        form=form,
    )
    got = penalty_loss(penalty, logp_BT, mask_BT)
    same(got.detach(), [[2 * value, 0.0]])
    same(torch.autograd.grad(got.sum(), logp_BT)[0], [[2 * slope, 0.0]])


def test_penalties_vanish_where_the_policies_agree_and_survive_where_they_do_not():
    same_BT = torch.tensor([[-1.0]], dtype=torch.float64)
    far_BT = torch.tensor([[-800.0]], dtype=torch.float64)
    mask_BT = torch.tensor([[True]])
    for form in ("k1", "k2", "k3", "abs"):
        penalty = Penalty(coefficient_BT=torch.ones_like(same_BT), target_logp_BT=same_BT, form=form)
        assert penalty_loss(penalty, same_BT, mask_BT) == 0
        assert penalty_loss(penalty, far_BT, mask_BT).isfinite().all()


def test_weight_scales_the_surrogate_but_not_the_penalty_and_keep_silences_both():
    """A = 1, r = 1: surrogate -1; k2 at Δ = 1 is 1/2 with coefficient 3."""
    logp_BT, rollouts, credit = ratios([[1.0, 1.0, 1.0]])
    credit = dataclasses.replace(
        credit,
        advantage_BT=full(credit, 1.0),
        weight_BT=torch.tensor([[1.0, 0.25, 1.0]], dtype=torch.float64),
        keep_BT=torch.tensor([[True, True, False]]),
        penalties=(Penalty(coefficient_BT=full(credit, 3.0), target_logp_BT=logp_BT.detach() + 1, form="k2"),),
    )
    got = token_losses(logp_BT, rollouts, credit)
    same(got.detach(), [[0.5, 1.25, 0.0]])
    same(torch.autograd.grad(got.sum(), logp_BT)[0], [[-1.0 - 3.0, -0.25 - 3.0, 0.0]])


# Five answers in two mini-batches, {0, 1, 2} and {3, 4}; micro-batches {0}, {1, 2} and {3, 4}.
KEEP = [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]]
BATCHING = Batching(mini_B=torch.tensor([0, 0, 0, 1, 1]), micro_B=torch.tensor([0, 1, 1, 2, 2]))


@pytest.mark.parametrize(
    ("denominator", "per_row"),
    [
        # 3 counted tokens in the first mini-batch, 4 in the second.
        ("token", [1 / 3, 1 / 3, 0, 1 / 4, 1 / 4]),
        # Two answers of each mini-batch have counted tokens: 2, 1 | 3, 1 of them.
        ("sequence", [1 / 4, 1 / 2, 0, 1 / 6, 1 / 2]),
        # 1 / (2 answers * 7).
        ("constant", [1 / 14, 1 / 14, 0, 1 / 14, 1 / 14]),
        # Rows 1/3 and 2/3 of the first mini-batch, tokens 2 and 1; all rows of the second, 4 tokens.
        ("micro-token", [1 / 6, 2 / 3, 0, 1 / 4, 1 / 4]),
    ],
)
def test_coefficients(denominator, per_row):
    rollouts = rollouts_of([[-1.0] * 3] * 5, groups=range(5))
    credit = dataclasses.replace(
        blank_credit(rollouts),
        keep_BT=torch.tensor(KEEP) > 0,
        denominator=denominator,
        constant=7.0 if denominator == "constant" else None,
    )
    got = coefficients(credit, rollouts, BATCHING)
    same(got, torch.tensor(KEEP) * torch.tensor(per_row, dtype=torch.float64)[:, None])
    if denominator in ("token", "sequence"):
        same(got.sum(), 2.0)


@pytest.mark.parametrize("denominator", ["token", "sequence", "constant", "micro-token"])
def test_coefficients_of_nothing_are_zero(denominator):
    rollouts = rollouts_of([[-1.0] * 2, []], groups=[0, 1])
    nothing = torch.zeros_like(rollouts.mask_BT)
    credit = dataclasses.replace(blank_credit(rollouts), keep_BT=nothing, denominator=denominator, constant=3.0)
    got = coefficients(credit, rollouts, Batching(mini_B=torch.tensor([0, 1]), micro_B=torch.tensor([0, 1])))
    same(got, torch.zeros(2, 2))


def test_coefficients_refuse_what_they_cannot_do():
    rollouts = rollouts_of([[-1.0]], groups=[0])
    credit = dataclasses.replace(blank_credit(rollouts), denominator="constant")
    with pytest.raises(InputError, match="the constant denominator needs a number of tokens"):
        coefficients(credit, rollouts, one_batch(1))
    with pytest.raises(InputError, match="unknown denominator 'tokens': did you mean 'token'"):
        coefficients(dataclasses.replace(credit, denominator="tokens"), rollouts, one_batch(1))


def test_policy_loss_adds_coefficients_times_losses_and_regularisers():
    """-(0.25 * 1.5 - 0.5 * 0.5) with A = +1, -1, then minus 2 (0.25 * 0.3 + 0.5 * 0.7)."""
    logp_BT, rollouts, credit = ratios([[1.5, 0.5]])
    credit = dataclasses.replace(credit, advantage_BT=torch.tensor([[1.0, -1.0]], dtype=torch.float64))
    coefficient_BT = torch.tensor([[0.25, 0.5]], dtype=torch.float64)
    entropy_BT = torch.tensor([[0.3, 0.7]], dtype=torch.float64, requires_grad=True)
    forward = Forward(logp_BT=logp_BT, entropy_BT=entropy_BT)
    plain = policy_loss(EMPTY, forward, rollouts, credit, coefficient_BT)
    same(plain.value.detach(), -0.375 + 0.25)
    with_bonus = policy_loss(chain(entropy_bonus(coefficient=2.0)), forward, rollouts, credit, coefficient_BT)
    same(with_bonus.value.detach(), -0.125 - 2 * (0.075 + 0.35))
    by_logp, by_entropy = torch.autograd.grad(with_bonus.value, (logp_BT, entropy_BT))
    same(by_logp, [[-0.25 * 1.5, 0.5 * 0.5]])
    same(by_entropy, [[-0.5, -1.0]])


def test_measured_sums():
    """Answer 0, A > 0: r 1.5 (clipped), 0.5 (pushed the other way: not clipped), 1.5 silenced.

    Answer 1, A < 0: r 0.5 (clipped), 2 dropped. Answer 2, A < 0: r 1.5 (not clipped).
    """
    logp_BT, rollouts, credit = ratios([[1.5, 0.5, 1.5], [0.5, 2.0], [1.5]])
    credit = dataclasses.replace(
        credit,
        advantage_BT=padded([[1.0, 1.0, 1.0], [-1.0, -1.0], [-1.0]]),
        weight_BT=padded([[1.0, 1.0, 0.0], [1.0, 1.0], [1.0]]),
        keep_BT=padded([[1, 1, 1], [1, 0], [1]]) > 0,
        low_BT=full(credit, 0.8),
        high_BT=full(credit, 1.2),
    )
    forward = Forward(logp_BT=logp_BT, entropy_BT=logp_BT)
    got = policy_loss(EMPTY, forward, rollouts, credit, full(credit, 1.0)).sums
    k3 = sum(r - 1 - math.log(r) for r in (1.5, 0.5, 1.5, 0.5, 2.0, 1.5))
    assert got == {
        "counted": 4.0, "learned": 4.0, "clipped_low": 1.0, "clipped_high": 1.0, "tokens": 6.0,
        "scored": 6.0, "kl": pytest.approx(k3, abs=1e-12),
    }  # fmt: skip


def test_kl_is_measured_where_the_current_policy_was_asked():
    logp_BT, rollouts, credit = ratios([[1.5, 0.5, 1.5], [0.5, 2.0], [1.5]])
    scored_BT = padded([[1, 0, 1], [0, 0], [1]]) > 0
    forward = Forward(logp_BT=logp_BT, entropy_BT=logp_BT, scored_BT=scored_BT)
    got = policy_loss(EMPTY, forward, rollouts, credit, full(credit, 1.0)).sums
    assert (got["tokens"], got["scored"]) == (6.0, 3.0)
    assert got["kl"] == pytest.approx(3 * (1.5 - 1 - math.log(1.5)), abs=1e-12)


def test_unclipped_on_policy_gradient_is_reinforce():
    """r = 1, open bounds, coefficient c: the gradient by log π is -c A, for every kind of ratio."""
    rollouts = rollouts_of([[-1.0, -2.0], [-0.5]], groups=[0, 0])
    advantage_BT = padded([[0.7, 0.7], [-1.3]])
    coefficient_BT = padded([[0.1, 0.1], [0.3]])
    for kind in ("token", "sequence", "stop"):
        credit = dataclasses.replace(blank_credit(rollouts), advantage_BT=advantage_BT, ratio=kind)
        forward = forward_of(rollouts)
        logp_BT = forward.logp_BT.clone().requires_grad_()
        forward = Forward(logp_BT=logp_BT, entropy_BT=forward.entropy_BT)
        loss = policy_loss(EMPTY, forward, rollouts, credit, coefficient_BT)
        same(torch.autograd.grad(loss.value, logp_BT)[0], -coefficient_BT * advantage_BT)


def test_loss_of_no_rows():
    rollouts = rollouts_of([], groups=[])
    credit = blank_credit(rollouts)
    coefficient_BT = coefficients(credit, rollouts, one_batch(0))
    loss = policy_loss(EMPTY, forward_of(rollouts), rollouts, credit, coefficient_BT)
    assert float(loss.value) == 0
