"""The parity gate of `engine_vs_trl.py`: loss, gradient and selection against TRL on one recorded batch."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from engine_workers import PROMPTS, UPDATES, recipe, shown, trl_trainer


def parity(model: Path) -> dict[str, Any]:
    """Return how far loss, gradient and selection of `preset = "trl"` are from TRL's on one recorded batch.

    The weights are moved after sampling, so that ratios differ from 1 and some are clipped. Both get the same
    advantages, since TRL adds 1e-4 to the deviation of a group and the default here is 1e-6.
    """
    import torch

    from forkpoint.credit.link import init, run
    from forkpoint.loss import coefficients, policy_loss
    from forkpoint.rollouts import blank_credit
    from forkpoint.scope import Batching
    from forkpoint.train.policy import forward_rows
    from forkpoint.train.recipe import credit_chain

    chosen = recipe(model, 0, 1, "forkpoint-trl-preset")
    rollouts, policy = _recorded(chosen)
    chain = credit_chain(chosen)
    blank = blank_credit(rollouts)
    rewarded, states = run(chain, blank, rollouts, init(chain), when="rollout")
    zero_B = torch.zeros(rollouts.rows, dtype=torch.int64)
    batching = Batching(mini_B=zero_B, micro_B=zero_B)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(model, [prompt.text for prompt in rollouts.prompts], folder, turn=0, updates=1)
    trainer.model.load_state_dict(policy.model.state_dict())
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    policy.model.train()
    forward = forward_rows(policy.model, rollouts, head=policy.head, packed=policy.packed)
    credit, _ = run(chain, rewarded, rollouts, states, when="update", forward=forward.detach(), batching=batching)
    ours = policy_loss(chain, forward, rollouts, credit, coefficients(credit, rollouts, batching))
    ours.value.backward()
    counted: list[int] = []
    select = trainer.get_high_entropy_mask
    trainer.get_high_entropy_mask = shown(select, lambda mask: counted.append(int(mask.sum())))
    theirs = trainer._compute_loss(trainer.model, _trl_inputs(rollouts, credit, trainer.args.steps_per_generation))
    theirs.backward()
    pairs = list(zip(policy.model.parameters(), trainer.model.parameters(), strict=True))
    off = torch.stack([(a.grad - b.grad).norm() for a, b in pairs]).norm()
    size = torch.stack([b.grad.norm() for _, b in pairs]).norm()
    return {
        "loss": float(theirs),
        "loss_error": abs(float(ours.value) - float(theirs)),
        "gradient_error": float(off / size),
        "counted": int(ours.sums["counted"]),
        "counted_trl": counted[0],
        "tokens": int(rollouts.mask_BT.sum()),
        "clipped": int(ours.sums["clipped_low"] + ours.sums["clipped_high"]),
    }


def _recorded(chosen: Any) -> tuple[Any, Any]:
    """Return 64 judged answers of the untrained model, and that model with its weights moved a little."""
    import torch

    from forkpoint.train.collect import collect
    from forkpoint.train.loop import _collect_settings, _training_sampling
    from forkpoint.train.setup import encode, load_policy, make_task

    policy = load_policy(chosen)
    batch = collect(
        policy.model,
        policy.tokenizer,
        make_task(chosen),
        lambda prompts: encode(chosen, policy, prompts),
        _training_sampling(chosen, policy),
        dataclasses.replace(_collect_settings(chosen, policy), prompts=PROMPTS // UPDATES),
        step=1,
        position=0,
        version=0,
    ).rollouts
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    return batch, policy


def _trl_inputs(rollouts: Any, credit: Any, minis: int) -> dict[str, Any]:
    """Return the batch as TRL lays it out: prompts padded on the left, one advantage an answer."""
    import torch

    prompt_ids = torch.zeros_like(rollouts.prompt_BS)
    prompt_mask = torch.zeros_like(rollouts.prompt_BS)
    for row, length in enumerate(rollouts.prompt_length_B.tolist()):
        prompt_ids[row, -length:] = rollouts.prompt_BS[row, :length]
        prompt_mask[row, -length:] = 1
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": rollouts.ids_BT,
        "completion_mask": rollouts.mask_BT.long(),
        "advantages": credit.advantage_BT[:, 0],
        "old_per_token_logps": rollouts.logp_BT,
        # TRL divides the tokens of a generation batch by its mini-batches; this is one mini-batch of it.
        "num_items_in_batch": rollouts.mask_BT.sum() * minis,
    }
