"""Hard and mastered problems, and halves of a group, by hand and by published vectors."""

from __future__ import annotations

import math

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import chain, credit_of, group_advantage
from forkpoint.credit.difficulty import (
    between_halves,
    halves_advantage,
    hardness_scale,
    mastery_advantage,
    upper_half,
)


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("right", "expected"),
    [(2, (1.7320508, -0.5773503)), (4, (1, -1)), (6, (2 / 3, -2)), (7, (0.5714286, -4)), (8, (0, 0)), (0, (0, 0))],
)
def test_published_vectors_of_mastery(right, expected):
    rollouts = rollouts_of([[-1.0]] * 8, groups=[0] * 8, reward=[1.0] * right + [0.0] * (8 - right))
    got = credit_of(chain(mastery_advantage()), rollouts).advantage_BT[:, 0]
    same(got, [expected[0]] * right + [expected[1]] * (8 - right))


def test_a_length_punishment_among_right_answers_has_no_weight():
    rollouts = rollouts_of([[-1.0]] * 2, groups=[0] * 2, reward=[1.0, 0.5])
    assert (credit_of(chain(mastery_advantage()), rollouts).advantage_BT == 0).all()


def test_hardness_uses_the_judged_answers():
    """Right: 1 of 2 judged, factor 1.256; an unjudged third answer is not counted as wrong."""
    rollouts = rollouts_of([[-1.0]] * 3, groups=[0] * 3, reward=[1.0, -1.0, 0.0], judged=[True, True, False])
    got = credit_of(chain(group_advantage(std=False), hardness_scale()), rollouts).advantage_BT[:, 0]
    same(got, [1.256, -1.256, 0])


ORDER = torch.arange(5)


def test_the_upper_half_of_an_odd_group_has_one_more():
    metric = torch.tensor([0.5, 0.1, 0.4, 0.2, 0.3])
    one = torch.zeros(5, dtype=torch.int64)
    assert upper_half(metric, one, one == 0, ORDER).tolist() == [True, False, True, False, True]


def test_ties_are_broken_by_the_order_and_what_was_not_judged_is_in_no_half():
    metric = torch.tensor([0.5, 0.5, 0.5, 0.5, 9.0])
    one, judged = torch.zeros(5, dtype=torch.int64), torch.tensor([True, True, True, True, False])
    assert upper_half(metric, one, judged, ORDER).tolist() == [False, False, True, True, False]
    assert upper_half(metric, one, judged, ORDER.flip(0)).tolist() == [True, True, False, False, False]


def test_between_halves():
    """Lower half 0 1, upper 1 0 1: means 1/2 and 2/3. λ 1/4, α 0.9."""
    reward = torch.tensor([0.0, 1, 1, 0, 1], dtype=torch.float64)
    upper = torch.tensor([False, False, True, True, True])
    one = torch.zeros(5, dtype=torch.int64)
    got = between_halves(reward, upper, one, one == 0, inter=0.25, tilt=0.9)
    low, high = 1 / 2, 2 / 3
    lower = [0.25 * (r - 0.9 * high) + 0.75 * (r - low) for r in (0, 1)]
    above = [0.25 * (0.9 * r - low) + 0.75 * (r - high) for r in (1, 0, 1)]
    same(got, lower + above)


def test_a_lone_answer_teaches_nothing():
    rollouts = rollouts_of([[-1.0], [-1.0]], groups=[0, 1], reward=[1.0, 1.0])
    assert (credit_of(chain(halves_advantage(tilt=0.5)), rollouts).advantage_BT == 0).all()


def test_halves_by_length():
    """Lengths 1 3: the longer is the upper half."""
    rollouts = rollouts_of([[-1.0], [-1.0] * 3], groups=[0, 0], reward=[1.0, 0.0])
    got = credit_of(chain(halves_advantage(metric="length", tilt=0.5)), rollouts).advantage_BT[:, 0]
    same(got, [1 - 0.5 * 0, 0.5 * 0 - 1])
    swapped = rollouts_of([[-1.0], [-1.0] * 3], groups=[0, 0], reward=[0.0, 1.0])
    got = credit_of(chain(halves_advantage(metric="length", tilt=0.5)), swapped).advantage_BT[:, 0]
    same(got, [0 - 0.5 * 1, 0.5 * 1 - 0])
    assert math.isfinite(float(got.sum()))
