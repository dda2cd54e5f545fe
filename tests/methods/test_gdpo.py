"""GDPO: parts of the reward are normalised by themselves."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from forkpoint.credit import credit_of
from forkpoint.errors import InputError
from forkpoint.methods.gdpo import gdpo
from forkpoint.methods.grpo import grpo
from method_kit import PPO, SLOPE, case, check, row
from shares import SEQUENCE, learned, reduces

ROWS = {"gdpo": row("gdpo"), "gdpo groups": row("gdpo", batch=False), "gdpo centred": row("gdpo", std=False)}


def two_parts(rollouts, forward):
    answer, form = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, 0, 0, 2], [0.0, 1, 1, 1]))
    return dataclasses.replace(rollouts, reward_parts={"answer": answer, "form": form}, reward_B=answer + form), forward


# Group 0: answer 1 0 and form 0 1 are ±X and ∓X; group 1: answer 0 2 is ∓Y, form 1 1 is 0.
X, Y = 0.5 / (math.sqrt(0.5) + 1e-4), 1 / (math.sqrt(2) + 1e-4)
# form weighs 1/2: sums X/2 -X/2 | -Y Y with mean 0 and variance (X²/2 + 2 Y²) / 3.
D = math.sqrt((X**2 / 2 + 2 * Y**2) / 3) + 1e-4
A = [X / 2 / D, -X / 2 / D, -Y / D, Y / D]
# Equal weights: group 0 cancels.
EVEN = [0.0, 0.0, -Y, Y]
CASES = {
    "gdpo": case(
        lambda: gdpo(weights={"form": 0.5}), A, learned(A, PPO, SEQUENCE), learned(A, SLOPE, SEQUENCE), change=two_parts
    ),
    "gdpo groups": case(
        lambda: gdpo(batch=False),
        EVEN,
        learned(EVEN, PPO, SEQUENCE),
        learned(EVEN, SLOPE, SEQUENCE),
        change=two_parts,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_one_part_without_the_batch_is_grpo_up_to_what_is_added_to_the_deviation():
    reduces(gdpo(batch=False, std=False), grpo(std=False))
    reduces(gdpo(batch=False), grpo(), atol=1e-3)


def test_an_unknown_part_is_named(capsys):
    from core_batches import random_rollouts

    rollouts, _ = two_parts(*random_rollouts(0, lengths=[1] * 4, groups=[0, 0, 1, 1]))
    with pytest.raises(InputError, match=r"weighs .formm.*did you mean .form."):
        credit_of(gdpo(weights={"formm": 1.0}), rollouts)
    with pytest.raises(InputError, match="weight of 'form'"):
        gdpo(weights={"form": float("nan")})


def test_an_answer_with_a_part_that_is_not_a_number_takes_no_part():
    from core_batches import random_rollouts

    rollouts, _ = two_parts(*random_rollouts(0, lengths=[1] * 4, groups=[0, 0, 0, 0]))
    parts = {**rollouts.reward_parts, "form": torch.tensor([0.0, 1, 1, float("nan")], dtype=torch.float64)}
    credit = credit_of(gdpo(), dataclasses.replace(rollouts, reward_parts=parts))
    assert credit.keep_BT[:, 0].tolist() == [True, True, True, False]
    assert credit.advantage_BT.isfinite().all()
