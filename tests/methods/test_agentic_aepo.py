"""Agentic AEPO: entropy in the advantage, a bound that keeps the gradient."""

from __future__ import annotations

import statistics

import pytest

from forkpoint.methods.agentic_aepo import agentic_aepo
from forkpoint.methods.dapo import dapo
from method_kit import A0, A1, ENTROPY, HIGHER, SLOPE, case, check, row
from shares import TOKEN, learned, reduces

ROWS = {"agentic_aepo": row("agentic_aepo"), "agentic_aepo micro": row("agentic_aepo", scope="micro", micro=True)}

FLAT = [x for answer in ENTROPY for x in answer]
M, S = statistics.mean(FLAT), statistics.stdev(FLAT)
A = [[a * (1 + 0.2 * (h - M) / S) for h in hs] for a, hs in zip([A0, -A0, -A1, A1], ENTROPY, strict=True)]
# Beyond 1.28 the gradient is 1.28 A; below 0.8 it is lost as ever.
KEPT = [[-1.28, -0.9], SLOPE[1], SLOPE[2], [-1.28, -1.15]]
CASES = {"agentic_aepo": case(agentic_aepo, A, learned(A, HIGHER, TOKEN), learned(A, KEPT, TOKEN))}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_without_strength_and_below_the_bound_it_is_dapo():
    reduces(agentic_aepo(strength=0.0, clip_high=9.0), dapo(clip_high=9.0))
