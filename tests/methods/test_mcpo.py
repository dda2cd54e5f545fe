"""MCPO: mastered problems keep counting."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from forkpoint.credit import aggregate, chain, clip
from forkpoint.credit.contrast import contrast_advantage
from forkpoint.methods.mcpo import mcpo
from method_kit import HIGHER, NEW, OLD, SLOPE, case, check, row
from shares import SEQUENCE, learned, reduces

ROWS = {"mcpo": row("mcpo"), "mcpo free": row("mcpo", coefficient=0.0)}


def one_problem(rollouts, forward):
    """Three right answers and a wrong one, the third."""
    reward_B = torch.tensor([1.0, 1, 0, 1], dtype=torch.float64)
    zero_B = torch.zeros_like(rollouts.group_B)
    return dataclasses.replace(rollouts, group_B=zero_B, sample_B=torch.arange(4), reward_B=reward_B), forward


def mastered(rollouts, forward):
    """Both answers to problem 1 are right."""
    return dataclasses.replace(rollouts, reward_B=torch.tensor([1.0, 0, 2, 2], dtype=torch.float64)), forward


def hinge(d):
    """k3(d) - k3(±0.01) beyond 0.01 nats, and its derivative exp(d) - 1."""
    k3 = lambda x: math.exp(x) - x - 1  # noqa: E731
    return (k3(d) - k3(math.copysign(0.01, d)), math.exp(d) - 1) if abs(d) > 0.01 else (0.0, 0.0)


# p = 1/2: one deviation of the population each. p = 3/4: s = 2 sqrt(3/16), A = 1/4 / (3/8) and -3/4 / (3/8).
A, MOST = [1.0, -1.0, -1.0, 1.0], [2 / 3, 2 / 3, -2.0, 2 / 3]
RIGHT, RIGHT_SLOPE = [HIGHER[0], [-0.5], *HIGHER[2:]], [SLOPE[0], [-0.5], *SLOPE[2:]]
HELD = [[hinge(n - o) for n, o in zip(*answers, strict=True)] for answers in zip(NEW[2:], OLD[2:], strict=True)]
HALF = [1.0, -1.0, 0.0, 0.0]
CASES = {
    "mcpo": case(mcpo, A, learned(A, HIGHER, SEQUENCE), learned(A, SLOPE, SEQUENCE)),
    "mcpo most": case(
        mcpo, MOST, learned(MOST, RIGHT, SEQUENCE), learned(MOST, RIGHT_SLOPE, SEQUENCE), change=one_problem
    ),
    "mcpo mastered": case(
        mcpo,
        HALF,
        [
            *learned(HALF, HIGHER, SEQUENCE)[:2],
            *([s * x[0] for x in h] for s, h in zip((1 / 12, 1 / 8), HELD, strict=True)),
        ],
        [
            *learned(HALF, SLOPE, SEQUENCE)[:2],
            *([s * x[1] for x in h] for s, h in zip((1 / 12, 1 / 8), HELD, strict=True)),
        ],
        change=mastered,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_where_half_or_fewer_are_right_it_is_grpo_with_the_populations_deviation():
    def hard(rollouts, forward):
        reward_B = torch.tensor([1.0, 0, 0, 1, 0, 0, 1, 0], dtype=torch.float64)
        return dataclasses.replace(rollouts, reward_B=reward_B), forward

    parent = chain(contrast_advantage(cap=math.inf), clip(low=0.2, high=0.28), aggregate(denominator="sequence"))
    reduces(mcpo(), parent, change=hard)
