"""EDAS: how mistakes differ decides how much they are punished."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from forkpoint.errors import InputError
from forkpoint.methods.dapo import dapo
from forkpoint.methods.edas import edas
from method_kit import HIGHER, SLOPE, case, check, row
from shares import TOKEN, learned, reduces

ROWS = {"edas": row("edas"), "edas alike": row("edas", alpha=0.0, beta=1.0)}


def one_problem(classes):
    def change(rollouts, forward):
        zero = torch.zeros_like(rollouts.group_B)
        extra = {"error_class": torch.tensor(classes)}
        return dataclasses.replace(rollouts, group_B=zero, sample_B=torch.arange(4), extra=extra), forward

    return change


# One problem with rewards 1 0 0 2: mean 3/4, σ = sqrt(11/12); answers 1 and 2 are wrong, S = 3/4 / σ.
S = math.sqrt(11 / 12) + 1e-6
PLAIN = [0.25 / S, -0.75 / S, -0.75 / S, 1.25 / S]
# One kind of mistake: Δ = -0.2 S on both, less than half of |A|.
ALIKE = [0.25 / S, -0.9 / S, -0.9 / S, 1.25 / S]
CASES = {
    "edas": case(
        edas, ALIKE, learned(ALIKE, HIGHER, TOKEN), learned(ALIKE, SLOPE, TOKEN), change=one_problem([9, 4, 4, 4])
    ),
    # Two kinds, one each: I = H = ln 2, no change.
    "edas apart": case(
        edas, PLAIN, learned(PLAIN, HIGHER, TOKEN), learned(PLAIN, SLOPE, TOKEN), change=one_problem([9, 4, 5, 4])
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_without_strength_it_is_dapo():
    reduces(edas(alpha=0.0, beta=0.0), dapo())


@pytest.mark.parametrize("arguments", [{"alpha": -1.0}, {"beta": float("nan")}, {"cap": 1.0}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InputError, match=f"error_diversity {next(iter(arguments))}"):
        edas(**arguments)
