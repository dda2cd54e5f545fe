"""Lite PPO: the deviation is that of the batch."""

from __future__ import annotations

import math

import pytest

from forkpoint.methods.dapo import dapo
from forkpoint.methods.grpo import grpo
from forkpoint.methods.lite_ppo import lite_ppo
from method_kit import PPO, SLOPE, case, check, row
from shares import TOKEN, learned, reduces

ROWS = {"lite_ppo": row("lite_ppo")}

# Rewards 1 0 0 2: mean 3/4, squares (1 + 9 + 9 + 25) / 16 = 11/4 over 3. Around the groups' means: ±1/2, ∓1.
S = math.sqrt(11 / 12) + 1e-6
A = [0.5 / S, -0.5 / S, -1 / S, 1 / S]
CASES = {"lite_ppo": case(lite_ppo, A, learned(A, PPO, TOKEN), learned(A, SLOPE, TOKEN))}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_one_problem_is_dapo_with_equal_clips():
    def one_problem(rollouts, forward):
        rows = (rollouts.group_B == 0).nonzero().squeeze(1)
        return rollouts.select(rows, trim=False), forward.select(rows)

    reduces(lite_ppo(), dapo(clip_high=0.2), change=one_problem)
    with pytest.raises(AssertionError):
        reduces(lite_ppo(), grpo(), change=one_problem)
