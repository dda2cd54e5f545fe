"""HAPO: where an entropy stands, the token average, and what moves."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import forward_of, rollouts_of
from forkpoint.credit import chain, clip, credit_of, group_advantage
from forkpoint.credit.redistribute import entropy_position, redistribution, token_group_normalised

NAN = math.nan


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def position(values, *, mask=None, segment=None, **arguments):
    value = torch.tensor(values, dtype=torch.float64)
    mask = torch.ones_like(value, dtype=torch.bool) if mask is None else torch.tensor(mask) > 0
    segment = torch.zeros(len(values), dtype=torch.int64) if segment is None else torch.tensor(segment)
    return entropy_position(value, mask, segment, **arguments)


def test_the_two_sides_are_scaled_by_themselves():
    """ln: 0 1 3 around 1: -1, 0, 2 -> -1, 0, 1."""
    same(position([[1.0, math.e, math.e**3]], quantile=0.5), [[-1, 0, 1]])


def test_the_quantile_decides_the_middle():
    """ln: 0 1 2 3 4; the 0.8-quantile is 3.2."""
    got = position([[math.exp(x) for x in range(5)]], quantile=0.8)
    same(got, [[-1, -2.2 / 3.2, -1.2 / 3.2, -0.2 / 3.2, 1]])


def test_the_released_sign_is_never_negative():
    value = [[math.exp(x) for x in range(5)]]
    plain, released = position(value), position(value, released_sign=True)
    assert (released >= 0).all()
    same(released, plain.abs())


def test_segments_padding_and_empty_sides():
    value = [[1.0, NAN, NAN], [1.0, math.e, math.e**3], [0.0, 0.0, 0.0]]
    got = position(value, mask=[[1, 0, 0], [1, 1, 1], [1, 1, 1]], segment=[0, 1, 2], quantile=0.5)
    same(got, [[0, 0, 0], [-1, 0, 1], [0, 0, 0]])


def normalised(reward, lengths, **arguments):
    n, T = len(reward), max(lengths)
    keep = torch.arange(T) < torch.tensor(lengths)[:, None]
    one = torch.zeros(n, dtype=torch.int64)
    judged = torch.tensor([not math.isnan(r) for r in reward])
    return token_group_normalised(torch.tensor(reward, dtype=torch.float64), keep, one, judged, eps=0.0, **arguments)


def test_token_average():
    """R 1 on 1 token, 0 on 3, 4 on 2: mean 9/6, squares 1/4 + 3 * 9/4 + 2 * 25/4 = 19.5, over 5."""
    s = math.sqrt(3.9)
    same(normalised([1.0, 0, 4], [1, 3, 2]), [-0.5 / s, -1.5 / s, 2.5 / s])
    same(normalised([1.0, NAN, 4], [1, 3, 2]), [-2 / math.sqrt(3), 0, 1 / math.sqrt(3)])


def test_a_group_with_a_far_answer_takes_grpos_advantage():
    """R 1 on 1 token, 0 on 99: A of the first is 0.99 / 0.1 = 9.9; GRPO's is ±1/√2."""
    assert float(normalised([1.0, 0.0], [1, 99], limit=math.inf)[0]) == pytest.approx(9.9, abs=1e-9)
    same(normalised([1.0, 0.0], [1, 99]), [math.sqrt(0.5), -math.sqrt(0.5)])


def test_answers_without_tokens_and_equal_rewards():
    same(normalised([1.0, 5.0, 1.0], [2, 0, 3]), [0, 0, 0])
    same(normalised([0.1, 0.1, 0.1], [2, 4, 3]), [0, 0, 0])


@pytest.mark.parametrize(
    ("ratio", "moves"),
    [(0.85, [True, False]), (0.95, [False, True]), (1.1, [False, True]), (1.2, [True, False])],
)
def test_who_moves(ratio, moves):
    """Bounds 0.8 and 1.28: at rest between 0.9 and 1.14. The uncertain token moves outside, the certain one inside."""
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 0], reward=[1.0, 0.0], entropy=[[2.0, 0.5], [1.0]])
    whole = chain(group_advantage(std=False), clip(low=0.2, high=0.28), redistribution(beta=0.5, quantile=0.5))
    got = credit_of(whole, rollouts, forward=forward_of(rollouts, math.log(ratio))).advantage_BT
    expected = [0.75 if moves[0] else 0.5, 0.25 if moves[1] else 0.5]
    same(got, [expected, [-0.5, 0.0]])


def test_open_bounds_are_always_at_rest():
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 0], reward=[1.0, 0.0], entropy=[[2.0, 0.5], [1.0]])
    whole = chain(group_advantage(std=False), redistribution(quantile=0.5))
    got = credit_of(whole, rollouts, forward=forward_of(rollouts, 3.0)).advantage_BT
    same(got, [[0.5, 0.0], [-0.5, 0.0]])


def test_log_ratios_on_padding_do_not_matter():
    rollouts = rollouts_of([[-1.0, -1.0], [-1.0]], groups=[0, 0], reward=[1.0, 0.0], entropy=[[2.0, 0.5], [1.0]])
    whole = chain(group_advantage(), clip(), redistribution())
    clean = forward_of(rollouts, 0.1)
    dirty = dataclasses.replace(clean, logp_BT=torch.where(rollouts.mask_BT, clean.logp_BT, NAN))
    same(*(credit_of(whole, rollouts, forward=f).advantage_BT for f in (dirty, clean)))
