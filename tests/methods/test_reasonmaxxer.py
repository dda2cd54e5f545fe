"""ReasonMaxxer: decision tokens learn, the others are held."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import learn, random_rollouts
from forkpoint.methods.reasonmaxxer import reasonmaxxer
from method_kit import NEW, RATIO, case, check, row

ROWS = {
    "reasonmaxxer": row("reasonmaxxer", threshold=0.4),
    "reasonmaxxer free": row("reasonmaxxer", threshold=0.4, kl=0.0),
    "reasonmaxxer none": row("reasonmaxxer", teaches=True, threshold=5.0),
}

# Entropies above 0.4: 0.9 | 0.5 | 0.8 | 0.7, one token an answer. A = ±1 in units of the population's deviation.
WEIGHT = [[0, 2], [1], [3, 0, 0], [0, 2]]


def hold(r):
    """0.2 k3 of a held token before its share; its derivative by log π is 0.2 (r - 1)."""
    return 0.2 * (r - 1 - math.log(r))


# An answer is 1/4 of the loss; its one decision token all of the first mean, each held token its part of the second.
LOSS = [
    [hold(RATIO[0][0]) / 4, -NEW[0][1] / 4],
    [NEW[1][0] / 4],
    [NEW[2][0] / 4, hold(RATIO[2][1]) / 8, hold(RATIO[2][2]) / 8],
    [hold(RATIO[3][0]) / 4, -NEW[3][1] / 4],
]
GRADIENT = [
    [0.2 * 0.5 / 4, -1 / 4],
    [1 / 4],
    [1 / 4, 0.2 * -0.3 / 8, 0.0],
    [0.2 * 0.3 / 4, -1 / 4],
]
CASES = {
    "reasonmaxxer": case(lambda: reasonmaxxer(threshold=0.4), [1.0, -1.0, -1.0, 1.0], LOSS, GRADIENT, weight=WEIGHT),
    "reasonmaxxer capped": case(
        lambda: reasonmaxxer(threshold=0.4, kl=0.0, cap=0.5),
        [0.5, -0.5, -0.5, 0.5],
        [[0, -NEW[0][1] / 8], [NEW[1][0] / 8], [NEW[2][0] / 8, 0, 0], [0, -NEW[3][1] / 8]],
        [[0, -1 / 8], [1 / 8], [1 / 8, 0, 0], [0, -1 / 8]],
        weight=WEIGHT,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_ratios_do_not_enter_and_right_answers_alone_are_cross_entropy():
    """Old log-probs may be anything: the loss of a decision token is -A log π."""
    rollouts, forward = random_rollouts(3)
    chain = reasonmaxxer(threshold=0.0, kl=0.0)
    older = dataclasses.replace(rollouts, logp_BT=rollouts.logp_BT - 3)
    got, expected = learn(chain, rollouts, forward), learn(chain, older, forward)
    torch.testing.assert_close(got.logp_gradient_BT, expected.logp_gradient_BT, rtol=0, atol=1e-12)
    assert (got.logp_gradient_BT != 0).any()
