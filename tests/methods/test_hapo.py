"""HAPO: token average, bounds that open, advantage that moves."""

from __future__ import annotations

import math

import pytest

from forkpoint.credit import aggregate, chain, clip, dual_clip
from forkpoint.credit.redistribute import token_group_advantage
from forkpoint.methods.hapo import hapo
from method_kit import ENTROPY, RATIO, case, check, row
from shares import reduces

ROWS = {
    "hapo": row("hapo"),
    "hapo micro": row("hapo", scope="micro", micro=True),
    "hapo released": row("hapo", released_sign=True),
    "hapo half": row("hapo", alpha=0.5, beta=0.5, dual=None),
}

# Token averages. Group 0: tokens 1 1 0, mean 2/3, variance (2/9 + 4/9) / 2 = 1/3. Group 1: 0 0 0 2 2, mean 4/5,
# variance (3 * 16 + 2 * 36) / 25 / 4 = 6/5.
S0, S1 = math.sqrt(1 / 3) + 1e-6, math.sqrt(6 / 5) + 1e-6
A = [1 / 3 / S0, -2 / 3 / S0, -0.8 / S1, 1.2 / S1]
# ln H around its median (0.3 and 0.5 are the 4th and 5th of 8): d / max d above, d / |min d| below.
MIDDLE = (math.log(0.3) + math.log(0.5)) / 2
D = [[math.log(h) - MIDDLE for h in answer] for answer in ENTROPY]
TOP, BOTTOM = math.log(0.9) - MIDDLE, MIDDLE - math.log(0.05)
H = [[d / TOP if d > 0 else d / BOTTOM for d in answer] for answer in D]


def bounds(h):
    return (1 - 0.2 * (1 - min(h, 0)), 1 + 0.28 * (1 + max(h, 0)))


def moved(a, h, r):
    low, high = bounds(h)
    rests = (1 + low) / 2 < r < (1 + high) / 2
    return a * (1 + h) if rests != (h > 0) else a


def worked(a, h, r):
    """(advantage, loss, slope) of a token, before its share of the loss."""
    low, high = bounds(h)
    a = moved(a, h, r)
    clipped = min(r, high) if a > 0 else max(r, low)
    return a, -a * clipped, -a * r if clipped == r else 0.0


TABLE = [[worked(a, h, r) for h, r in zip(hs, rs, strict=True)] for a, hs, rs in zip(A, H, RATIO, strict=True)]
CASES = {
    "hapo": case(
        lambda: hapo(quantile=0.5),
        [[x[0] for x in answer] for answer in TABLE],
        [[x[1] / 8 for x in answer] for answer in TABLE],
        [[x[2] / 8 for x in answer] for answer in TABLE],
    )
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_the_case_meets_every_branch():
    """Both kinds of token, at rest and moving; a bound that opened decides: 1.3 is clipped, 1.15 is not."""
    low, high = bounds(H[0][1])
    assert (round(low, 3), round(high, 3)) == (0.8, 1.56)
    kinds = {(h > 0, (1 + bounds(h)[0]) / 2 < r < (1 + bounds(h)[1]) / 2)
             for hs, rs in zip(H, RATIO, strict=True) for h, r in zip(hs, rs, strict=True)}  # fmt: skip
    assert len(kinds) == 4


def test_without_strength_it_is_the_token_average_under_dapos_loss():
    parent = chain(token_group_advantage(), clip(low=0.2, high=0.28), dual_clip(c=10.0), aggregate(denominator="token"))
    reduces(hapo(alpha=0.0, beta=0.0), parent)
