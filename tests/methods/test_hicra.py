"""HICRA: planning tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from forkpoint.methods.grpo import grpo
from forkpoint.methods.hicra import hicra
from method_kit import HIGHER, SLOPE, case, check, row
from shares import SEQUENCE, learned, reduces

ROWS = {"hicra": row("hicra")}

# Planning tokens are those at position 1: A + 0.2 |A| there.
A = [[0.5, 0.6], [-0.5], [-1.0, -0.8, -1.0], [1.0, 1.2]]
CASES = {"hicra": case(hicra, A, learned(A, HIGHER, SEQUENCE), learned(A, SLOPE, SEQUENCE))}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_without_strength_or_planning_it_is_grpo_without_deviation():
    parent = grpo(std=False, clip_high=0.28)
    reduces(hicra(alpha=0.0), parent)

    def none(rollouts, forward):
        return dataclasses.replace(rollouts, extra={"planning": torch.zeros_like(rollouts.mask_BT)}), forward

    reduces(hicra(), parent, change=none)
