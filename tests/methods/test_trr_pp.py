"""TRR++: statistics of each kind of row."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from forkpoint.methods.reinforce_pp import reinforce_pp
from forkpoint.methods.trr_pp import trr_pp
from method_kit import HIGHER, SLOPE, case, check, row
from shares import TOKEN, learned, reduces

ROWS = {"trr_pp": row("trr_pp"), "trr_pp plain": row("trr_pp", dual=None)}

# Kinds are 0 1 | 0 1. Kind 0: tokens 1 1 0 0 0, mean 2/5, variance (2 * 9 + 3 * 4) / 25 / 4 = 3/10.
# Kind 1: tokens 0 2 2, mean 4/3, variance (16 + 2 * 4) / 9 / 2 = 4/3.
K0, K1 = math.sqrt(0.3 + 1e-8), math.sqrt(4 / 3 + 1e-8)
A = [0.6 / K0, -4 / 3 / K1, -0.4 / K0, 2 / 3 / K1]
CASES = {"trr_pp": case(trr_pp, A, learned(A, HIGHER, TOKEN), learned(A, SLOPE, TOKEN))}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_one_kind_is_reinforce_pp():
    def one_kind(rollouts, forward):
        return dataclasses.replace(rollouts, extra={"kind": torch.zeros_like(rollouts.group_B)}), forward

    reduces(trr_pp(clip_high=0.2, dual=None), reinforce_pp(), change=one_kind)
