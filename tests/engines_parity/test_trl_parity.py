"""The loss against TRL 1.16 itself: the same tensors through `GRPOTrainer._compute_loss` and through ours.

Values, gradients by log-prob and per-token losses must agree to 1e-6 (float64 on both sides).
"""

from __future__ import annotations

import pytest
import torch
from trl_cases import BY_PASS, CASES
from trl_oracle import (
    FOURTHS,
    PASSES,
    WHOLE,
    advantages_of,
    batch,
    given_inputs,
    sampled_elsewhere,
    scored,
    their_loss,
    with_their_eps,
)

from core_batches import learn
from forkpoint.credit import credit_of
from forkpoint.loss import token_losses

# TRL sets options that transformers 5 is about to rename, and torch warns of a CPU without pinned memory:
# neither concerns the loss.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def inputs_of(trainer, method, rollouts):
    """TRL's own scoring where it computes more than advantages, else the advantages of our first link."""
    if trainer.use_vllm:
        return scored(trainer, rollouts)
    return given_inputs(rollouts, advantages_of(method, rollouts))


@pytest.mark.parametrize(
    ("name", "passes"),
    # TRL takes the bonus's mean entropy over each pass, ours over the mini-batch: one pass is comparable.
    [(name, passes) for name in CASES for passes in PASSES if name != "entropy bonus" or passes == "1 pass"],
)
def test_loss_and_gradient_are_trl_s(oracle, name, passes):
    micros = PASSES[passes]
    make, arguments = CASES[name]
    method = with_their_eps(make())
    trainer = oracle(passes=len(micros), **arguments)
    for seed, levels in ((0, None), (1, None), (2, 3), (3, 1)):
        rollouts, forward = batch(seed, levels)
        rollouts = sampled_elsewhere(rollouts)
        value, by_logp, by_entropy = their_loss(trainer, inputs_of(trainer, method, rollouts), forward, micros)
        ours = learn(method, rollouts, forward, [micros])
        assert ours.value == pytest.approx(value, abs=1e-6)
        torch.testing.assert_close(ours.logp_gradient_BT, by_logp, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.entropy_gradient_BT, by_entropy, rtol=0, atol=1e-6)
        assert by_logp.abs().max() > 1e-3


WHOLE_ANSWERS = {
    name for name, (_, arguments) in CASES.items()
    if arguments.get("importance_sampling_level") or {"off_policy_mask_threshold", "vespo"} & {*arguments, name[:5]}
}  # fmt: skip
"""Cases in which TRL takes a mean or a sum over an answer: its loss cannot be asked for one token alone."""


def divisor(loss_type, tokens, rows):
    """By what TRL divides the sum of the losses of `tokens` tokens of one answer among `rows`."""
    return {
        "grpo": rows * tokens, "sapo": rows * tokens, "bnpo": tokens, "dr_grpo": rows * 7, "luspo": rows,
    }.get(loss_type, 1)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CASES if name != "entropy bonus"])
def test_every_token_s_loss_is_trl_s(oracle, name):
    """TRL's loss with one token, or one answer, in its loss mask is a multiple of that part's own loss."""
    make, arguments = CASES[name]
    method = with_their_eps(make())
    trainer = oracle(**arguments)
    rollouts, forward = batch(4, levels=4)
    rollouts = sampled_elsewhere(rollouts)
    credit = credit_of(method, rollouts, forward=forward)
    ours_BT = token_losses(forward.logp_BT, rollouts, credit)
    whole = trainer.get_high_entropy_mask
    selected_BT = whole(forward.entropy_BT, rollouts.mask_BT.long(), 1 - trainer.top_entropy_quantile)
    trainer.get_high_entropy_mask = lambda *_: selected_BT  # the selection is over all tokens, not over the one
    inputs = inputs_of(trainer, method, rollouts)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (forward.logp_BT, forward.entropy_BT, None)
    row_B = torch.arange(rollouts.rows)[:, None]
    parts = (
        [rollouts.mask_BT & (row_B == i) for i in range(rollouts.rows)]
        if name in WHOLE_ANSWERS
        else list(torch.nn.functional.one_hot(rollouts.mask_BT.flatten().nonzero()[:, 0], rollouts.mask_BT.numel()))
    )
    largest = 0.0
    for part in parts:
        part_BT = part.reshape(rollouts.mask_BT.shape).long()
        loss = trainer._compute_loss(
            trainer.model, {**inputs, "tool_mask": part_BT, "num_items_in_batch": torch.tensor(1)}
        )
        theirs = float(loss.detach()) * divisor(arguments["loss_type"], int(part_BT.sum()), rollouts.rows)
        assert float((ours_BT * part_BT).sum()) == pytest.approx(theirs, abs=1e-6)
        largest = max(largest, abs(theirs))
    assert largest > 0.1


@pytest.mark.parametrize("name", CASES)
def test_what_depends_on_trl_s_passes_and_what_does_not(oracle, name):
    """With one pass of eight answers and with four of two: the mean or quantile of a pass is part of the method."""
    make, arguments = CASES[name]
    method = with_their_eps(make())
    rollouts, forward = batch(6)
    rollouts = sampled_elsewhere(rollouts)
    theirs = []
    for micros in (WHOLE, FOURTHS):
        trainer = oracle(passes=len(micros), **arguments)
        theirs.append(their_loss(trainer, inputs_of(trainer, method, rollouts), forward, micros)[1:])
    moved = max(float((one - four).abs().max()) for one, four in zip(*theirs, strict=True))
    assert (moved > 1e-3) == (name in BY_PASS)
    if any(x.scope == "micro" or x.arguments.get("denominator") == "micro-token" for x in method.links):
        assert name in BY_PASS, "ours follows TRL's passes only where TRL depends on them"
        return
    ours = [learn(method, rollouts, forward, [micros]) for micros in (WHOLE, FOURTHS)]
    torch.testing.assert_close(ours[0].logp_gradient_BT, ours[1].logp_gradient_BT, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours[0].entropy_gradient_BT, ours[1].entropy_gradient_BT, rtol=0, atol=1e-12)
