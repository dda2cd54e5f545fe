"""Normalisation over batches, parts and kinds, against numbers worked out by hand in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import chain, credit_of, group_advantage
from forkpoint.credit.contrast import contrast_advantage
from forkpoint.credit.control import explored_advantage
from forkpoint.credit.difficulty import halves_advantage, mastery_advantage
from forkpoint.credit.normalise import (
    batch_scaled,
    batch_scaled_advantage,
    kind_advantage,
    kind_whitened,
    parts_advantage,
    parts_normalised,
)
from forkpoint.credit.redistribute import token_group_advantage
from forkpoint.errors import InputError

NAN, INF = math.nan, math.inf
GROUP = torch.tensor([0, 0, 1, 1, 1])
JUDGED = torch.ones(5, dtype=torch.bool)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_batch_scaled():
    """1 3 | 0 0 6: means 2 and 2; batch mean 2, squares 1 + 1 + 4 + 4 + 16 = 26, over 4; eps 1."""
    s = math.sqrt(6.5) + 1
    same(batch_scaled(vector(1, 3, 0, 0, 6), GROUP, JUDGED, eps=1.0), [-1 / s, 1 / s, -2 / s, -2 / s, 4 / s])


def test_batch_scaled_leaves_out_what_was_not_judged():
    """1 3 | 0 . 6: means 2 and 3; batch mean 2.5, squares 2.25 + 0.25 + 6.25 + 12.25 = 21, over 3: 7."""
    judged = torch.tensor([True, True, True, False, True])
    s = math.sqrt(7)
    same(batch_scaled(vector(1, 3, 0, NAN, 6), GROUP, judged, eps=0.0), [-1 / s, 1 / s, -3 / s, 0, 3 / s])


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_equal_rewards_and_no_answers_give_zero(eps):
    same(batch_scaled(vector(*[0.1] * 5), GROUP, JUDGED, eps=eps), [0] * 5)
    same(batch_scaled(vector(), GROUP[:0], JUDGED[:0], eps=eps), [])
    parts = {"a": vector(*[0.1] * 5), "b": vector(*[10.1] * 5)}
    same(parts_normalised(parts, GROUP, JUDGED, eps=eps), [0] * 5)


def test_parts_normalised():
    """a: 0 2 | 0 0 3 is ∓1/√2 | -1/√3 -1/√3 2/√3; b: 1 1 | 1 0 0 is 0 0 | 2/√3 -1/√3 -1/√3; b weighs 2."""
    parts = {"a": vector(0, 2, 0, 0, 3), "b": vector(1, 1, 1, 0, 0)}
    r2, r3 = math.sqrt(0.5), 1 / math.sqrt(3)
    sums = [-r2, r2, 3 * r3, -3 * r3, 0.0]
    same(parts_normalised(parts, GROUP, JUDGED, weights={"b": 2.0}, batch=False, eps=0.0), sums)
    spread = math.sqrt(sum(x * x for x in sums) / 4)
    expected = [x / spread for x in sums]
    same(parts_normalised(parts, GROUP, JUDGED, weights={"b": 2.0}, eps=0.0), expected)


def test_kind_whitened():
    """Kind 7: R 1 on 3 tokens, 0 on 1: mean 3/4, variance (3/16 + 9/16) / 3 = 1/4. Kind 2: one answer."""
    keep = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]) > 0
    same(kind_whitened(vector(1, 0, 5), keep, torch.tensor([7, 7, 2]), eps=0.0), [0.5, -1.5, 0])


def test_kind_whitened_of_equal_values_and_of_an_answer_without_tokens():
    keep = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]) > 0
    same(kind_whitened(vector(0.1, 0.1, NAN), keep, torch.tensor([7, 7, 7]), eps=0.0), [0, 0, 0])


EVERY = pytest.mark.parametrize(
    "link",
    [
        batch_scaled_advantage(),
        parts_advantage(),
        parts_advantage(batch=False),
        kind_advantage(),
        mastery_advantage(),
        halves_advantage(),
        halves_advantage(metric="length", inter="reward"),
        token_group_advantage(),
        contrast_advantage(),
        explored_advantage(),
        group_advantage(),
    ],
    ids=lambda link: f"{link.name} {list(link.arguments.values())}",
)


def batch(reward, **others):
    rollouts = rollouts_of([[-1.0, -2.0], [-0.5], [-1.0], [-2.0, -1.0]], groups=[0, 0, 0, 0], reward=reward, **others)
    zero = torch.zeros(4, dtype=torch.int64)
    return dataclasses.replace(rollouts, extra={"kind": zero, "explore": zero > 0})


@EVERY
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("judged", [None, [True] * 4])
def test_a_reward_that_is_not_finite_is_as_if_never_sampled(link, bad, judged):
    got = credit_of(chain(link), batch([1.0, 0.0, bad, 0.5], judged=judged))
    rest = torch.tensor([0, 1, 3])
    expected = credit_of(chain(link), batch([1.0, 0.0, 0.0, 0.5]).select(rest, trim=False))
    same(got.advantage_BT[rest], expected.advantage_BT)
    assert (got.advantage_BT[2] == 0).all()
    assert not got.keep_BT[2].any()
    assert got.keep_BT[rest].equal(expected.keep_BT)
    assert (expected.advantage_BT != 0).any()


@EVERY
def test_equal_rewards_teach_exactly_nothing(link):
    for reward in (0.1, 10.1, -1e6 / 3):
        assert (credit_of(chain(link), batch([reward] * 4)).advantage_BT == 0).all()


def test_unknown_parts_and_weights_are_named():
    with pytest.raises(InputError, match="weight of 'a' is inf"):
        parts_advantage(weights={"a": INF})
    with pytest.raises(InputError, match="eps is -1"):
        batch_scaled_advantage(eps=-1)
