"""EMPG: certain steps, and steps that lead to certain ones."""

from __future__ import annotations

import math

import pytest

from forkpoint.methods.dapo import dapo
from forkpoint.methods.empg import empg
from method_kit import GROUP, HIGHER, SLOPE, case, check, row
from shares import TOKEN, learned, reduces

ROWS = {"empg": row("empg", level_teaches=True), "empg plain": row("empg", zeta=0.0, centre=False)}

# Steps are pairs of positions: mean entropies 0.6 | 0.5 | 0.5 then 0.05 | 0.4, from 0.05 to 0.6.
H = [(h - 0.05) / (0.55 + 1e-8) for h in (0.6, 0.5, 0.5, 0.05, 0.4)]
G = [math.exp(-h) / (sum(math.exp(-x) for x in H) / 5) for h in H]
STEPS = [GROUP[0] * G[0], GROUP[1] * G[1], GROUP[2] * G[2], GROUP[2] * G[3], GROUP[3] * G[4]]
STEPS[2] += 0.05  # the next step has h = 0: zeta exp(0)
M = sum(STEPS) / 5
A = [[STEPS[0] - M] * 2, [STEPS[1] - M], [STEPS[2] - M, STEPS[2] - M, STEPS[3] - M], [STEPS[4] - M] * 2]
CASES = {"empg": case(empg, A, learned(A, HIGHER, TOKEN), learned(A, SLOPE, TOKEN))}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_the_case_turns_no_sign():
    assert [[x > 0 for x in answer] for answer in A] == [[True] * 2, [False], [False] * 3, [True] * 2]


def test_without_strength_it_is_dapo():
    reduces(empg(k=0.0, zeta=0.0, centre=False), dapo())
