"""SRaR: a verdict on every step."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from core_batches import forward_of, learn, rollouts_of
from forkpoint.methods.dapo import dapo
from forkpoint.methods.srar import srar
from method_kit import A0, A1, HIGHER, SLOPE, case, check, row
from shares import TOKEN, learned, reduces

ROWS = {"srar": row("srar", level_teaches=True)}
NAN = math.nan


def judged(rollouts, forward):
    """Step 0: 0.8 -1 | 0.4 0.4; step 1, which only answer 2 has: 0.8."""
    reward = torch.tensor([[0.8, 0.8, NAN], [-1, NAN, NAN], [0.4, 0.4, 0.8], [0.4, 0.4, NAN]], dtype=torch.float64)
    extra = {"step": rollouts.extra["step"], "step_reward": reward}
    return dataclasses.replace(rollouts, extra=extra), forward


def judged_as_a_whole(rollouts, forward):
    """Also answers 2 and 3: -1 and 1, deviation sqrt 2; answer 0 alone in its group."""
    rollouts, forward = judged(rollouts, forward)
    whole = torch.tensor([5.0, NAN, -1, 1], dtype=torch.float64)
    return dataclasses.replace(rollouts, extra={**rollouts.extra, "answer_reward": whole}), forward


# Group 0: mean -0.1, distance 0.9, deviation 1.8 / sqrt 2. Group 1: equal verdicts, and a lone one: 0.
Z = 0.9 / (1.8 / math.sqrt(2) + 1e-6)
W = 1 / (math.sqrt(2) + 1e-6)
A, WHOLE = [A0 + Z, -A0 - Z, -A1, A1], [A0 + Z, -A0 - Z, -A1 - W, A1 + W]
CASES = {
    "srar": case(srar, A, learned(A, HIGHER, TOKEN), learned(A, SLOPE, TOKEN), change=judged),
    "srar whole": case(
        srar, WHOLE, learned(WHOLE, HIGHER, TOKEN), learned(WHOLE, SLOPE, TOKEN), change=judged_as_a_whole
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_without_strength_it_is_dapo():
    reduces(srar(coefficient=0.0), dapo(dual=10.0))


@pytest.mark.parametrize(("dual", "factor"), [(10.0, 10.0), (3.0, 3.0), (None, math.exp(3))])
def test_the_dual_clip_bounds_what_a_bad_answer_costs(dual, factor):
    """A = ±1/√2 and r = exp(3) on the bad answer: its loss is at most dual |A|; the good one's is 1 |A|."""
    rollouts = rollouts_of([[-1.0], [-4.0]], groups=[0, 0], reward=[1.0, 0.0])
    extra = {"step": torch.zeros(2, 1, dtype=torch.int64), "step_reward": torch.full((2, 1), NAN)}
    forward = forward_of(rollouts, torch.tensor([[0.0], [3.0]], dtype=torch.float64))
    got = learn(srar(dual=dual), dataclasses.replace(rollouts, extra=extra), forward)
    assert got.value == pytest.approx((factor - 1) * A0 / 2, abs=1e-12)
    assert srar().describe() == srar(dual=10.0).describe()
