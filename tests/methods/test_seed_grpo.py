"""SEED-GRPO: less force where answers differ in meaning."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from forkpoint.errors import InputError
from forkpoint.methods.grpo import dr_grpo
from forkpoint.methods.seed_grpo import seed_grpo
from method_kit import PPO, SLOPE, case, check, row
from shares import CONSTANT, learned, reduces

ROWS = {
    "seed_grpo": row("seed_grpo"),
    "seed_grpo exponential": row("seed_grpo", shape="exponential", alpha=1.0),
    "seed_grpo focal": row("seed_grpo", shape="focal", gamma=2.0, alpha=0.5),
    "seed_grpo probability": row("seed_grpo", estimator="probability", alpha=0.1, bfloat16=0.05),
}


def first_differs(rollouts, forward):
    """Group 0: two different answers, SE / ln 2 = 1. Group 1: one answer twice, 0."""
    return dataclasses.replace(rollouts, extra={"cluster": torch.tensor([3, 4, 7, 7])}), forward


def cut(factor):
    return [0.5 * factor, -0.5 * factor, -1.0, 1.0]


# Answers have log-probs -3 -0.5 | -2.5 -2; ln p of the clusters is theirs in group 0, ln(e^-2.5 + e^-2) in group 1.
SE0 = (3 + 0.5) / 2 / math.log(2)
SE1 = -math.log(math.exp(-2.5) + math.exp(-2)) / math.log(2)
LITERAL = [0.5 * (1 - 0.1 * SE0), -0.5 * (1 - 0.1 * SE0), -(1 - 0.1 * SE1), 1 - 0.1 * SE1]


def one(make, A):
    return case(make, A, learned(A, PPO, CONSTANT), learned(A, SLOPE, CONSTANT), change=first_differs)


CASES = {
    "seed_grpo": one(seed_grpo, cut(0.98)),
    "seed_grpo exponential": one(lambda: seed_grpo(shape="exponential", alpha=0.3), cut(math.exp(-0.3))),
    "seed_grpo focal": one(lambda: seed_grpo(shape="focal", gamma=2.0, alpha=0.3), cut(0.49)),
    "seed_grpo probability": one(lambda: seed_grpo(estimator="probability", alpha=0.1), LITERAL),
    "seed_grpo never turns a sign": one(lambda: seed_grpo(alpha=5.0), cut(0.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_without_strength_it_is_dr_grpo():
    reduces(seed_grpo(alpha=0.0), dr_grpo())


def test_focal_needs_its_exponent():
    with pytest.raises(InputError, match="needs gamma"):
        seed_grpo(shape="focal")
