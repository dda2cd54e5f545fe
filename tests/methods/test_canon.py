"""CANON: halves of a group by a metric."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from forkpoint.credit import aggregate, chain, clip, leave_one_out_advantage
from forkpoint.errors import InputError
from forkpoint.methods.canon import canon
from method_kit import HIGHER, SLOPE, case, check, row
from shares import CONSTANT, learned, reduces

ROWS = {
    "canon": row("canon"),
    "canon length": row("canon", metric="length"),
    "canon intra": row("canon", inter=0.25),
    "canon reward": row("canon", inter="reward"),
    "canon tilted": row("canon", tilt=0.9, level_teaches=True),
}


def one(make, A):
    return case(make, A, learned(A, HIGHER, CONSTANT), learned(A, SLOPE, CONSTANT))


# Mean entropies 0.6 0.5 | 0.35 0.4: the upper halves are answers 0 and 3, each alone in its half.
CASES = {
    "canon": one(canon, [1.0, -1.0, -2.0, 2.0]),
    # Upper: 1/4 (0.9 R - 0) + 3/4 (R - R); lower: 1/4 (0 - 0.9 R_upper).
    "canon tilted": one(lambda: canon(inter=0.25, tilt=0.9), [0.225, -0.225, -0.45, 0.45]),
    # Mean reward 3/4 is the weight of the other half; the own half of one answer says nothing.
    "canon reward": one(lambda: canon(inter="reward"), [0.75, -0.75, -1.5, 1.5]),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_two_answers_a_problem_are_compared_with_each_other():
    def pairs(rollouts, forward):
        group_B = torch.arange(8) // 2
        prompts = tuple(dataclasses.replace(rollouts.prompts[0], id=str(p)) for p in range(4))
        return dataclasses.replace(rollouts, group_B=group_B, sample_B=torch.arange(8) % 2, prompts=prompts), forward

    rloo = chain(leave_one_out_advantage(), clip(low=0.2, high=0.28), aggregate(denominator="constant"))
    reduces(canon(), rloo, change=pairs)


@pytest.mark.parametrize("arguments", [{"inter": 1.5}, {"inter": "mean"}, {"metric": "depth"}, {"tilt": 0.0}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        canon(**arguments)
