"""Credit of steps, against numbers worked out by hand in float64."""

from __future__ import annotations

import math

import pytest
import torch

from core_batches import rollouts_of
from forkpoint.credit import chain, credit_of, group_advantage
from forkpoint.credit.steps import step_advantage, step_modulated, step_modulation, step_normalised
from forkpoint.errors import InputError

NAN = math.nan


def table(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


STEP = table([[0, 0, 1, -1], [3, 3, 3, 5]], torch.int64)
KEEP = table([[1, 1, 1, 1], [1, 1, 1, 0]], torch.bool)
ENTROPY = table([[0.0, 2.0, 3.0, 9.0], [1.0, 2.0, 3.0, NAN]])
ADVANTAGE = table([[1.0] * 4, [-1.0] * 3 + [0.0]])


def test_step_modulated():
    """Steps: mean entropy 1, 3, 2, so h 0, 1, 1/2. Token 3 of answer 0 is in none; step 5 is padding."""
    got = step_modulated(ADVANTAGE, ENTROPY, STEP, KEEP, k=2.0, k_next=3.0, zeta=0.1, centre=False)
    h = [0.0, 2 / (2 + 1e-8), 1 / (2 + 1e-8)]
    g = [math.exp(-2 * x) for x in h]
    mean = sum(g) / 3
    first, second, other = g[0] / mean + 0.1 * math.exp(-3 * h[1]), g[1] / mean, -g[2] / mean
    same(got, [[first, first, second, 1.0], [other] * 3 + [0.0]])
    centred = step_modulated(ADVANTAGE, ENTROPY, STEP, KEEP, k=2.0, k_next=3.0, zeta=0.1)
    shift = (first + second + other) / 3
    same(centred, [[first - shift, first - shift, second - shift, 1.0], [other - shift] * 3 + [0.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_entropies_modulate_nothing(dtype):
    """The means of three and of two times 0.1 differ by rounding."""
    level = torch.full_like(ENTROPY, 0.1, dtype=dtype)
    got = step_modulated(ADVANTAGE.to(dtype), level, STEP, KEEP, zeta=0.0, centre=False)
    assert got.equal(ADVANTAGE.to(dtype))


def test_no_step_at_all_changes_nothing():
    for keep, step in ((torch.zeros_like(KEEP), STEP), (KEEP, torch.full_like(STEP, -1))):
        same(step_modulated(ADVANTAGE, ENTROPY, step, keep), ADVANTAGE)
        same(step_normalised(ENTROPY, step, keep, torch.tensor([0, 0])), torch.zeros_like(ENTROPY))


def test_step_normalised():
    """Step 0: 1 2 6, mean 3, deviation √7; step 1: two equal verdicts; step 2: one. Group 1 by itself."""
    reward = table([[1.0, 5.0, 7.0], [2.0, 2.0, NAN], [6.0, 5.0, NAN], [4.0, NAN, NAN]])
    step = table([[0, 1, 2], [0, 0, 1], [0, 1, -1], [0, 1, 2]], torch.int64)
    got = step_normalised(reward, step, torch.ones(4, 3) > 0, torch.tensor([8, 8, 8, 2]), eps=0.0)
    s = math.sqrt(7)
    same(got, [[-2 / s, 0, 0], [-1 / s, -1 / s, 0], [3 / s, 0, 0], [0, 0, 0]])


def test_a_score_is_at_most_that_of_a_lone_answer():
    """(m - 1) / √m of m answers."""
    reward = table([[0.0]] * 4 + [[1.0]])
    got = step_normalised(reward, torch.zeros(5, 1).long(), torch.ones(5, 1) > 0, torch.zeros(5).long(), eps=0.0)
    assert float(got.max()) == pytest.approx(4 / math.sqrt(5), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_verdicts_that_round_are_equal(dtype):
    reward = table([[0.1]] * 6, dtype)
    got = step_normalised(reward, torch.zeros(6, 1).long(), torch.ones(6, 1) > 0, torch.zeros(6).long(), eps=0.0)
    assert (got == 0).all()


def test_needs_are_named():
    rollouts = rollouts_of([[-1.0], [-1.0]], groups=[0, 0], reward=[1.0, 0.0])
    for link, need in ((step_modulation(), "step"), (step_advantage(), "step")):
        with pytest.raises(InputError, match=f"{link.name}' needs '{need}'"):
            credit_of(chain(group_advantage(), link), rollouts)
    with pytest.raises(InputError, match="step_modulation zeta"):
        step_modulation(zeta=-1.0)
