"""Decision tokens and the tokens held, with denominators worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from core_batches import learn, rollouts_of
from forkpoint.credit import aggregate, chain, credit_of, stop_ratio
from forkpoint.credit.contrast import contrast_advantage, decision_tokens, hold_others
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def batch():
    return rollouts_of([[-1.0, -1.0, -1.0], [-1.0]], groups=[0, 0], reward=[3.0, 1.0], entropy=[[2.0, 0.1, 1.0], [0.5]])


def test_population_deviation_and_cap():
    """3 1: mean 2, deviation 1. Of nine zeros and a one: 0.9 / 0.3 = 3, cut to 2.5."""
    same(credit_of(chain(contrast_advantage()), batch()).advantage_BT[:, 0], [1, -1])
    lone = rollouts_of([[-1.0]] * 10, groups=[0] * 10, reward=[1.0] + [0.0] * 9)
    same(credit_of(chain(contrast_advantage()), lone).advantage_BT[:, 0], [2.5] + [-1 / 3] * 9)


def test_shares_of_an_answer_and_of_a_mini_batch():
    """H > 1: one of three tokens, none of one; 4 tokens in the mini-batch."""
    for scope, decides, held in (("sequence", 3, [1.5, 1.5, 1]), ("mini", 4, [4 / 3] * 3)):
        credit = credit_of(
            chain(
                decision_tokens(threshold=1.0, scope=scope), hold_others(threshold=1.0, coefficient=0.5, scope=scope)
            ),
            batch(),
        )
        same(credit.weight_BT, [[decides, 0, 0], [0, 0, 0]])
        same(credit.penalties[0].coefficient_BT, [[0, held[0] / 2, held[1] / 2], [held[2] / 2, 0, 0]])


def test_the_loss_of_a_mini_batch_is_two_means():
    """Mean over D = 1 token of -A log π, 0.5 times the mean over 3 of r - 1 - ln r, r = 2, 1, 1/2."""
    rollouts = batch()
    moved = torch.tensor([[math.log(3), math.log(2), 0.0], [-math.log(2), 0, 0]], dtype=torch.float64)
    whole = chain(
        contrast_advantage(), stop_ratio(cap=1.0, floor=1.0), aggregate(denominator="token"),
        decision_tokens(threshold=1.0, scope="mini"), hold_others(threshold=1.0, coefficient=0.5, scope="mini"),
    )  # fmt: skip
    got = learn(whole, rollouts, Forward(logp_BT=rollouts.logp_BT + moved, entropy_BT=rollouts.entropy_BT))
    held = (2 - 1 - math.log(2)) + 0.0 + (0.5 - 1 + math.log(2))
    assert got.value == pytest.approx(-(-1 + math.log(3)) + 0.5 * held / 3, abs=1e-12)
    same(got.logp_gradient_BT, [[-1, 0.5 / 3, 0], [-0.25 / 3, 0, 0]])


def test_without_strength_nothing_is_held():
    assert credit_of(chain(hold_others(coefficient=0.0)), batch()).penalties == ()


@pytest.mark.parametrize("arguments", [{"threshold": -1.0}, {"scope": "group"}, {"threshold": math.nan}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))}"):
        decision_tokens(**arguments)
