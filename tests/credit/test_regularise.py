"""The entropy bonus."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import chain, entropy_bonus
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward, blank_credit

ROLLOUTS = rollouts_of([[-1.0, -1.0, -1.0]], groups=[0])


def bonus(coefficient, weight, coefficients, entropy=(0.5, 2.0, 8.0)):
    entropy_BT = torch.tensor([entropy], dtype=torch.float64, requires_grad=True)
    forward = Forward(logp_BT=ROLLOUTS.logp_BT, entropy_BT=entropy_BT)
    credit = dataclasses.replace(blank_credit(ROLLOUTS), weight_BT=torch.tensor([weight], dtype=torch.float64))
    (regularise,) = chain(entropy_bonus(coefficient=coefficient)).regularisers
    value = regularise(forward, ROLLOUTS, credit, torch.tensor([coefficients], dtype=torch.float64))
    return float(value.detach()), torch.autograd.grad(value, entropy_BT)[0].tolist()[0]


def test_by_hand():
    """-3 (0.1 * 0.5 + 0.2 * 2 + 0.3 * 8); a weight scales the policy term and only zero removes the token."""
    value, slope = bonus(3.0, [1.0, 0.25, 1.0], [0.1, 0.2, 0.3])
    assert value == pytest.approx(-3 * 2.85, abs=1e-12)
    assert slope == pytest.approx([-0.3, -0.6, -0.9], abs=1e-12)


def test_a_negative_coefficient_pushes_entropy_down():
    assert bonus(-1.0, [1.0, 1.0, 1.0], [0.5, 0.5, 0.0])[0] == pytest.approx(1.25, abs=1e-12)


def test_silenced_and_dropped_tokens_get_no_bonus_even_when_not_finite():
    value, slope = bonus(1.0, [1.0, 0.0, 1.0], [0.5, 0.5, 0.0], entropy=(0.5, float("nan"), float("inf")))
    assert value == pytest.approx(-0.25, abs=1e-12)
    assert slope == [-0.5, 0.0, 0.0]


def test_coefficient_zero_is_no_term():
    link = entropy_bonus(coefficient=0)
    assert link.regularise is None
    assert link.needs == frozenset()
    assert entropy_bonus(coefficient=0.1).needs == {"entropy_gradient"}


@pytest.mark.parametrize("coefficient", ["0.1", None, True])
def test_bad_coefficient(coefficient):
    with pytest.raises(InputError, match="must be a number"):
        entropy_bonus(coefficient=coefficient)
