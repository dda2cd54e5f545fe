"""Policy-specific hardness weighting."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from forkpoint.credit import aggregate, chain, clip, group_advantage
from forkpoint.methods.pshw import pshw
from method_kit import HIGHER, SLOPE, case, check, row
from shares import SUM, learned, reduces

ROWS = {"pshw": row("pshw")}


def one_problem(rollouts, forward):
    return dataclasses.replace(
        rollouts,
        group_B=torch.zeros_like(rollouts.group_B),
        sample_B=torch.arange(4),
        reward_B=torch.tensor([1.0, -1, -1, -1], dtype=torch.float64),
    ), forward


# One right answer of two: m = 0, factor 1.256. Rewards ±1, one of four right: mean -1/2, m = -1/2, factor 1.384.
A = [0.5 * 1.256, -0.5 * 1.256, -1.256, 1.256]
HARD = [1.5 * 1.384, -0.5 * 1.384, -0.5 * 1.384, -0.5 * 1.384]
# The last answer is wrong here: ratios 1.3 and 1.15 above no lower bound, so nothing is clipped.
LAST = [*HIGHER[:3], [1.3, 1.15]]
LAST_SLOPE = [*SLOPE[:3], [1.3, 1.15]]
CASES = {
    "pshw": case(pshw, A, learned(A, HIGHER, SUM), learned(A, SLOPE, SUM)),
    "pshw hard": case(pshw, HARD, learned(HARD, LAST, SUM), learned(HARD, LAST_SLOPE, SUM), change=one_problem),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_a_flat_factor_is_the_summed_centred_advantage():
    parent = chain(
        group_advantage(std=False), clip(low=0.2, high=0.28), aggregate(denominator="constant", constant=1.0)
    )
    reduces(pshw(alpha=0.0, offset=1.0), parent)
