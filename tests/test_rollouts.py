"""The values that flow between rooms."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core_batches import random_rollouts
from forkpoint.rollouts import Credit, Forward, Penalty, Verdict, blank_credit


def test_select_keeps_rows_together_and_cuts_padding():
    rollouts, _ = random_rollouts()  # lengths 5 2 3 1 6 4 2 3
    rollouts = dataclasses.replace(
        rollouts,
        prompt_length_B=torch.arange(8) % 2 + 1,
        judged_B=torch.arange(8) % 3 > 0,
        reward_parts={"answer": torch.arange(8.0)},
        text=tuple("abcdefgh"),
        verdicts=(Verdict.RIGHT, *[Verdict.WRONG] * 7),
        version=3,
    )
    part = rollouts.select(torch.tensor([6, 2, 0]))
    assert part.ids_BT.shape == (3, 5)
    assert part.prompt_BS.shape == (3, 1)
    assert part.mask_BT.sum(1).tolist() == [2, 3, 5]
    for name in ("ids_BT", "logp_BT", "entropy_BT", "ref_logp_BT", "mask_BT"):
        assert torch.equal(getattr(part, name), getattr(rollouts, name)[[6, 2, 0], :5]), name
    for name in ("group_B", "sample_B", "reward_B", "judged_B", "prompt_length_B"):
        assert torch.equal(getattr(part, name), getattr(rollouts, name)[[6, 2, 0]]), name
    assert part.reward_parts["answer"].tolist() == [6.0, 2.0, 0.0]
    assert part.text == ("g", "c", "a")
    assert part.verdicts == (Verdict.WRONG, Verdict.WRONG, Verdict.RIGHT)
    assert (part.prompts, part.max_tokens, part.version) == (rollouts.prompts, rollouts.max_tokens, 3)


def test_select_nothing():
    rollouts, _ = random_rollouts()
    part = rollouts.select(torch.zeros(0, dtype=torch.int64))
    assert part.rows == 0
    assert part.ids_BT.shape[0] == part.prompt_BS.shape[0] == part.logp_BT.shape[0] == 0
    assert part.finish == ()


def test_select_without_trim_keeps_the_width():
    rollouts, _ = random_rollouts()
    part = rollouts.select(torch.tensor([3, 1]), trim=False)  # 1 and 2 of 6 positions
    assert torch.equal(part.ids_BT, rollouts.ids_BT[[3, 1]])
    assert torch.equal(part.mask_BT, rollouts.mask_BT[[3, 1]])
    assert torch.equal(part.prompt_BS, rollouts.prompt_BS[[3, 1]])
    assert torch.equal(part.ref_logp_BT, rollouts.ref_logp_BT[[3, 1]])


def test_select_leaves_absent_values_absent():
    rollouts, _ = random_rollouts()
    bare = dataclasses.replace(rollouts, reward_B=None, ref_logp_BT=None)
    part = bare.select(torch.tensor([1]))
    assert part.reward_B is None
    assert part.judged_B is None
    assert part.ref_logp_BT is None
    assert part.verdicts == ()


def test_forward_detach_and_select():
    logp_BT = torch.randn(3, 2, requires_grad=True)
    forward = Forward(logp_BT=logp_BT, entropy_BT=logp_BT * 2)
    assert not forward.detach().logp_BT.requires_grad
    assert not forward.detach().entropy_BT.requires_grad
    part = forward.select(torch.tensor([2]))
    assert torch.equal(part.logp_BT, logp_BT[[2]])
    assert torch.equal(part.entropy_BT, 2 * logp_BT[[2]])


def test_credit_select_takes_every_per_token_value():
    rollouts, _ = random_rollouts()
    grid_BT = torch.arange(48.0).reshape(8, 6)
    penalty = Penalty(coefficient_BT=grid_BT + 1, target_logp_BT=grid_BT + 2, form="k2")
    credit = Credit(
        advantage_BT=grid_BT, weight_BT=grid_BT + 3, keep_BT=rollouts.mask_BT, low_BT=grid_BT + 4,
        penalties=(penalty,), ratio="stop", dual_clip=2.0, denominator="constant", constant=9.0,
    )  # fmt: skip
    rows = torch.tensor([7, 1])
    part = credit.select(rows)
    assert torch.equal(part.advantage_BT, grid_BT[rows])
    assert torch.equal(part.weight_BT, grid_BT[rows] + 3)
    assert torch.equal(part.keep_BT, rollouts.mask_BT[rows])
    assert torch.equal(part.low_BT, grid_BT[rows] + 4)
    assert part.high_BT is None
    assert torch.equal(part.penalties[0].coefficient_BT, grid_BT[rows] + 1)
    assert torch.equal(part.penalties[0].target_logp_BT, grid_BT[rows] + 2)
    assert (part.ratio, part.dual_clip, part.denominator, part.constant, part.penalties[0].form) == (
        "stop", 2.0, "constant", 9.0, "k2",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recorded", "credited"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_blank_credit(recorded, credited):
    rollouts, _ = random_rollouts(dtype=recorded)
    credit = blank_credit(rollouts)
    assert credit.advantage_BT.dtype == credit.weight_BT.dtype == credited
    assert (credit.advantage_BT == 0).all()
    assert (credit.weight_BT == 1).all()
    assert torch.equal(credit.keep_BT, rollouts.mask_BT)
    credit.keep_BT[:] = False
    assert rollouts.mask_BT.any(), "the credit's mask is a copy"
