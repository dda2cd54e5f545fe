"""Advantages against numbers worked out by hand, in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import batch_advantage, chain, credit_of, group_advantage, leave_one_out_advantage
from forkpoint.credit.advantage import batch_whitened, group_normalised, leave_one_out

NAN = float("nan")


def vector(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


GROUP = torch.tensor([5, 5, 2, 2, 2, 5])
REWARD = vector(1, 0, 4, 1, 1, 5)
JUDGED = torch.ones(6, dtype=torch.bool)


def test_group_normalised():
    """Group 5: 1, 0, 5, mean 2, squares 1 + 4 + 9 = 14, σ = sqrt(7). Group 2: 4, 1, 1, mean 2, σ = sqrt 3."""
    s, u = math.sqrt(7) + 0.5, math.sqrt(3) + 0.5
    same(
        group_normalised(REWARD, GROUP, JUDGED, eps=0.5),
        [-1 / s, -2 / s, 2 / u, -1 / u, -1 / u, 3 / s],
    )
    same(group_normalised(REWARD, GROUP, JUDGED, std=False), [-1, -2, 2, -1, -1, 3])


def test_what_was_not_judged_takes_no_part():
    """Without answer 5 group 5 is 1, 0: mean 1/2, σ = sqrt(1/2). Rewards of unjudged answers are not read."""
    judged = torch.tensor([True, True, True, False, True, False])
    reward = vector(1, 0, 4, NAN, 1, float("inf"))
    s, u = math.sqrt(0.5), math.sqrt(4.5)
    same(group_normalised(reward, GROUP, judged, eps=0.0), [0.5 / s, -0.5 / s, 1.5 / u, 0, -1.5 / u, 0])
    same(leave_one_out(reward, GROUP, judged), [1, -1, 3, 0, -3, 0])


@pytest.mark.parametrize("std", [True, False])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7, 1.3, 10.1, -1e6 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_teach_exactly_nothing(reward, dtype, std):
    """The rounding of a mean must not become an advantage: six times 10.1 in float32 would give 0.47."""
    for n in range(1, 17):
        rewards = torch.full((n,), reward, dtype=dtype)
        groups, judged = torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.bool)
        assert (group_normalised(rewards, groups, judged, std=std) == 0).all(), n
        assert (leave_one_out(rewards, groups, judged) == 0).all(), n


def test_a_small_but_real_difference_counts():
    got = group_normalised(vector(0.5, 0.5, 0.5001), torch.zeros(3, dtype=torch.int64), JUDGED[:3], eps=0.0)
    same(got, vector(-1, -1, 2) / math.sqrt(3))


def test_no_answers_at_all():
    empty, none = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    assert group_normalised(vector(), empty, none).shape == (0,)
    assert leave_one_out(vector(), empty, none).shape == (0,)


def test_leave_one_out():
    """Group 5: 1 - (0 + 5)/2, 0 - (1 + 5)/2, 5 - 1/2; group 2: 4 - 1, 1 - 5/2, 1 - 5/2."""
    same(leave_one_out(REWARD, GROUP, JUDGED), [-1.5, -3, 3, -1.5, -1.5, 4.5])


def test_leave_one_out_of_one_is_zero():
    same(leave_one_out(vector(3.0, 1.0), torch.tensor([0, 1]), JUDGED[:2]), [0, 0])


def test_batch_whitened():
    """1, 3 and 5 count: mean 3, unbiased variance 4; with eps 5 the divisor is 3."""
    value = torch.tensor([[1.0, NAN], [3.0, 5.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False], [True, True]])
    same(batch_whitened(value, mask, eps=5.0), [[-2 / 3, 0], [0, 2 / 3]])


def test_batch_whitened_of_one_or_none():
    value = torch.tensor([[7.0, 2.0]], dtype=torch.float64)
    same(batch_whitened(value, torch.tensor([[True, False]])), [[0, 0]])
    same(batch_whitened(value, torch.tensor([[False, False]])), [[0, 0]])


def hand(judged=None):
    return rollouts_of([[-1.0, -2.0], [-0.5], []], groups=[0, 0, 0], reward=[1.0, 0.0, 0.5], judged=judged)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (group_advantage(std=False), [0.5, -0.5]),
        (group_advantage(eps=1.0), [1 / 3, -1 / 3]),  # σ = 1/2
        (leave_one_out_advantage(), [0.75, -0.75]),
    ],
)
def test_links_give_every_token_of_an_answer_its_advantage(link, expected):
    credit = credit_of(chain(link), hand())
    same(credit.advantage_BT, [[expected[0]] * 2, [expected[1], 0.0], [0.0, 0.0]])
    assert torch.equal(credit.keep_BT, hand().mask_BT)


@pytest.mark.parametrize(
    "link",
    [group_advantage(), leave_one_out_advantage(), batch_advantage(), batch_advantage(baseline="group")],
)
def test_links_take_unjudged_answers_out_of_the_denominator(link):
    credit = credit_of(chain(link), hand(judged=[True, False, True]))
    assert credit.keep_BT.tolist() == [[True, True], [False, False], [False, False]]
    assert (credit.advantage_BT[1] == 0).all()


def test_batch_advantage_discounts_nothing_and_charges_the_kl_from_here_on():
    """R = 1, kl 2, k1 = 0.1, 0.3: returns 1 - 0.8 and 1 - 0.6; R = 0, k1 = -0.2: return 0.4. Mean 1/3."""
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 1], reward=[1.0, 0.0], ref=[[-1.1, -1.3], [-0.8]])
    credit = credit_of(chain(batch_advantage(kl=2.0, eps=0.0)), rollouts)
    centred = vector(0.2, 0.4, 0.4) - 1 / 3
    expected = centred / math.sqrt(float((centred**2).sum()) / 2)
    same(credit.advantage_BT, [[float(expected[0]), float(expected[1])], [float(expected[2]), 0.0]])


def test_batch_advantage_ignores_the_reference_on_padding():
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 1], reward=[1.0, 0.0], ref=[[-1.1, -1.3], [-0.8]])
    dirty = dataclasses.replace(rollouts, ref_logp_BT=torch.where(rollouts.mask_BT, rollouts.ref_logp_BT, NAN))
    link = chain(batch_advantage(kl=2.0))
    assert torch.equal(credit_of(link, dirty).advantage_BT, credit_of(link, rollouts).advantage_BT)


@pytest.mark.parametrize("link", [group_advantage(), leave_one_out_advantage(), batch_advantage(baseline="group")])
def test_rewards_recorded_in_bfloat16_are_counted_in_full(link):
    """300 answers to one problem are more than bfloat16 can count."""
    rollouts = rollouts_of([[-1.0]] * 300, groups=[0] * 300, reward=[1.0, 0.0, 0.25] * 100)
    narrow = dataclasses.replace(rollouts, reward_B=rollouts.reward_B.bfloat16())
    got, expected = (credit_of(chain(link), r).advantage_BT for r in (narrow, rollouts))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
