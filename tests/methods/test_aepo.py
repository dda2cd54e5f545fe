"""AEPO: extra rows at another temperature, and which temperature comes next."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from forkpoint.credit import init, run
from forkpoint.errors import InputError
from forkpoint.methods.aepo import aepo
from forkpoint.methods.grpo import grpo
from forkpoint.rollouts import blank_credit
from method_kit import A0, PPO, SLOPE, batch, case, check, row
from shares import SEQUENCE, learned, reduces

ROWS = {
    "aepo": row("aepo", level_teaches=True),
    "aepo entropy": row("aepo", measure="entropy", alpha=0.5, level_teaches=True),
}


def marked(*rows):
    def change(rollouts, forward):
        explore = torch.zeros_like(rollouts.group_B, dtype=torch.bool)
        explore[list(rows)] = True
        return dataclasses.replace(rollouts, extra={"explore": explore}), forward

    return change


# Answer 3 is an extra row and right: alpha. Its sibling is alone then.
A = [A0, -A0, 0.0, 0.7]
CASES = {
    "aepo": case(lambda: aepo(alpha=0.7), A, learned(A, PPO, SEQUENCE), learned(A, SLOPE, SEQUENCE), change=marked(3)),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_without_extra_rows_it_is_grpo():
    reduces(aepo(), grpo(), change=marked())


def after(chain, rollouts):
    return run(chain, blank_credit(rollouts), rollouts, init(chain), when="rollout")[1][-1]


def test_the_next_temperature_follows_the_entropy():
    """-log π_old of answers 0 to 2: 1 2 | 0.5 | 1.5 0.3 0.7, mean 1; answer 3 is not the policy's own."""
    rollouts, _ = marked(3)(*batch())
    for target, temperature in ((1.0, 1.2), (0.99, 0.8)):
        state = after(aepo(target=target), rollouts)
        assert state["temperature"] == temperature
        assert state["entropy"] == pytest.approx(1.0, abs=1e-12)
        assert state["metrics"] == {"control/entropy": state["entropy"], "control/temperature": temperature}
    # Entropies 0.3 0.9 | 0.5 | 0.8 0.2 0.05.
    assert after(aepo(measure="entropy"), rollouts)["entropy"] == pytest.approx(2.75 / 6, abs=1e-12)


def test_before_the_first_batch_it_is_hot_and_an_empty_one_changes_nothing():
    chain = aepo(high=1.5)
    assert init(chain)[-1] == {"temperature": 1.5, "entropy": None}
    rollouts, _ = batch()
    state = {"temperature": 0.8, "entropy": 2.0}
    empty = dataclasses.replace(rollouts, mask_BT=torch.zeros_like(rollouts.mask_BT), extra={})
    assert chain.links[-1].update(blank_credit(empty), empty, state=state)[1] == state


@pytest.mark.parametrize("arguments", [{"high": 0.0}, {"low": -1.0}, {"target": -0.1}, {"measure": "mean"}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        aepo(**arguments)
