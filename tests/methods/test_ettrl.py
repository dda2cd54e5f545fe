"""ETTRL: answers surer than their siblings."""

from __future__ import annotations

import dataclasses

import pytest

from forkpoint.errors import InputError
from forkpoint.methods.ettrl import ettrl
from forkpoint.methods.grpo import grpo
from method_kit import A0, A1, PPO, SLOPE, case, check, row
from shares import SEQUENCE, learned, reduces

ROWS = {"ettrl": row("ettrl"), "ettrl bound": row("ettrl", form="bound", bound=0.6)}

# Mean entropies 0.6 0.5, mean 0.55 | 0.35 0.4, mean 0.375.
A = [A0 * (2 - 0.6 / 0.55), -A0 * (2 - 0.5 / 0.55), -A1 * (2 - 0.35 / 0.375), A1 * (2 - 0.4 / 0.375)]
CUT = [0.5, -0.5, -0.5, 0.5]
CASES = {
    "ettrl": case(ettrl, A, learned(A, PPO, SEQUENCE), learned(A, SLOPE, SEQUENCE)),
    "ettrl bound": case(
        lambda: ettrl(form="bound", bound=0.5), CUT, learned(CUT, PPO, SEQUENCE), learned(CUT, SLOPE, SEQUENCE)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_equal_entropies_and_an_infinite_bound_are_grpo():
    def level(rollouts, forward):
        return dataclasses.replace(rollouts, entropy_BT=rollouts.mask_BT * 0.7), forward

    reduces(ettrl(), grpo(), change=level)
    reduces(ettrl(form="bound", bound=float("inf")), grpo())


def test_the_bound_belongs_to_its_form():
    with pytest.raises(InputError, match="needs bound"):
        ettrl(form="bound")
    with pytest.raises(InputError, match="only with form"):
        ettrl(bound=1.0)
    with pytest.raises(InputError, match="unknown form"):
        ettrl(form="clip")
